//! `vr_cfg.sh -c FILE`: many files and scripts in one, as CloudStack sends them when a network starts.
//!
//! ```text
//! #comment
//! <version>          <file>                 <script>
//! 1.0                /absolute/path         /opt/cloud/bin/SCRIPT ARGUMENTS
//! </version>         content                </script>
//!                    </file>
//! ```
//!
//! All `update_config.py` of the file are one change: in force together or not at all, where CloudStack's own
//! router applies them one by one (and flushes the connection table in the end). The other scripts run behind
//! it, in order.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::update_config;
use crate::root::Root;
use crate::rpc::{Afterwards, InboxFile};

/// Where CloudStack puts files.
const INBOX: &str = "/var/cache/cloud";

/// Gives 1 where something is refused; then the standard error is what CloudStack's own router says, and the
/// standard output has the reason.
pub fn run(arguments: &[OsString]) -> u8 {
    let path = match arguments {
        [option, path] if option == "-c" => PathBuf::from(path),
        _ => {
            eprintln!("vr_cfg.sh: usage: vr_cfg.sh -c FILE");
            return 1;
        }
    };
    let root = Root::find(None);
    match read(&root, &path).and_then(|items| execute(&root, &items)) {
        Ok(None) => {}
        Ok(Some(Failure { line, reason })) => {
            println!("{reason}");
            eprintln!("VR config: execution failed: \"{line}\", check /var/log/cloud.log in VR for details ");
            return 1;
        }
        Err(error) => {
            eprintln!("vr_cfg.sh: {error:#}");
            return 1;
        }
    }
    if let Err(error) = put_away(&root, &path) {
        eprintln!("vr_cfg.sh: {} is in force, but stays where it is: {error:#}", path.display());
    }
    0
}

/// A part of the file that says something.
#[derive(Debug, PartialEq, Eq)]
enum Item {
    File { path: PathBuf, content: String },
    Script { line: String },
}

/// A script of the file that failed.
struct Failure {
    line: String,
    reason: String,
}

fn read(root: &Root, path: &Path) -> Result<Vec<Item>> {
    let path = below(root, path)?;
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    parse(&text).with_context(|| format!("{}#", path.display()))
}

/// Files are written as they are: today's router loses runs of blanks of them.
fn parse(text: &str) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let closing = match line.trim() {
            "<file>" => "</file>",
            "<script>" => "</script>",
            _ => continue,
        };
        let mut section = Vec::new();
        loop {
            match lines.next() {
                Some((_, line)) if line.trim() == closing => break,
                Some((_, line)) => section.push(line),
                None => bail!("line {}: no {closing} follows", number + 1),
            }
        }
        let Some((first, rest)) = section.split_first() else { bail!("line {}: nothing in it", number + 1) };
        items.push(match closing {
            "</file>" => Item::File { path: PathBuf::from(first.trim()), content: rest.join("\n") },
            _ => Item::Script { line: first.trim().to_owned() },
        });
    }
    Ok(items)
}

fn execute(root: &Root, items: &[Item]) -> Result<Option<Failure>> {
    let scripts: Vec<Script> = items.iter().filter_map(Item::script).collect();
    let (updates, others): (Vec<_>, Vec<_>) =
        scripts.into_iter().partition(|script| script.name == "update_config.py");
    let mut texts = HashMap::new();
    for item in items {
        if let Item::File { path, content } = item {
            texts.insert(below(root, path)?, content);
        }
    }
    if let Some(failure) = update(root, &updates, &texts)? {
        // As a file that is refused does, they stay.
        write(&texts)?;
        return Ok(Some(failure));
    }
    for Script { line, name, arguments } in others {
        let failed = match super::run(name, &arguments) {
            Some(0) => continue,
            Some(status) => format!("exit status {status}"),
            None => "there is no such script".to_owned(),
        };
        return Ok(Some(Failure { line: line.to_owned(), reason: failed }));
    }
    Ok(None)
}

fn write(texts: &HashMap<PathBuf, &String>) -> Result<()> {
    for (path, text) in texts {
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Has the daemon put in force what scripts name. Texts go to it from here, by no files: thousands that are deleted at once
/// are what file systems are slow with. Those that no script names are written.
fn update(root: &Root, updates: &[Script], texts: &HashMap<PathBuf, &String>) -> Result<Option<Failure>> {
    let mut files: Vec<InboxFile> = Vec::new();
    for script in updates {
        match update_config::parse(&script.arguments) {
            Ok(file) => files.push(file),
            Err(reason) => return Ok(Some(Failure { line: script.line.to_owned(), reason })),
        }
    }
    let mut others = texts.clone();
    for file in &mut files {
        let path = root.inbox().join(&file.name);
        others.remove(&path);
        if let Some(text) = texts.get(&path) {
            file.text = Some((*text).clone());
            // What it is a part of is kept.
            file.afterwards = Afterwards::Delete;
        }
    }
    write(&others)?;
    let Some(last) = updates.last() else { return Ok(None) };
    let names: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
    let Err(refusal) = update_config::apply(files) else { return Ok(None) };
    let culprit = names.iter().position(|name| *name == refusal.name).and_then(|at| updates.get(at));
    let line = culprit.unwrap_or(last).line.to_owned();
    Ok(Some(Failure { line, reason: refusal.reason }))
}

/// A script's line, taken apart.
struct Script<'a> {
    line: &'a str,
    name: &'a str,
    arguments: Vec<OsString>,
}

impl Item {
    fn script(&self) -> Option<Script<'_>> {
        let Self::Script { line } = self else { return None };
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?.rsplit('/').next()?;
        // The word for no argument.
        let arguments = words.filter(|word| *word != "null").map(OsString::from).collect();
        Some(Script { line, name, arguments })
    }
}

/// Where a path of CloudStack's is. It is below its folder, whatever a file says.
fn below(root: &Root, path: &Path) -> Result<PathBuf> {
    let inside = path.strip_prefix(INBOX).or_else(|_| path.strip_prefix(root.inbox()));
    match inside {
        Ok(name) if name.components().all(|part| matches!(part, Component::Normal(_))) => {
            Ok(root.inbox().join(name))
        }
        _ => bail!("{} is not below {INBOX}", path.display()),
    }
}

fn put_away(root: &Root, path: &Path) -> Result<()> {
    let path = below(root, path)?;
    let name = path.file_name().context("a file has a name")?;
    fs::create_dir_all(root.processed()).context("create the folder")?;
    fs::rename(&path, root.processed().join(name)).context("move it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_taken_apart_and_the_rest_is_skipped() {
        let text = "#comment\n<version>\n1.0\n</version>\n<file>\n/var/cache/cloud/a.json.1\n\
                    {\"a\":  [\"*  b\"]}\n</file>\n<script>\n/opt/cloud/bin/update_config.py a.json.1\n</script>\n\
                    <script>\n/opt/cloud/bin/bumpup_priority.sh null\n</script>\n";
        let items = parse(text).expect("sound");
        let path = PathBuf::from("/var/cache/cloud/a.json.1");
        assert_eq!(items[0], Item::File { path, content: "{\"a\":  [\"*  b\"]}".to_owned() });
        let script = items[1].script().expect("a script");
        assert_eq!((script.name, script.arguments), ("update_config.py", vec![OsString::from("a.json.1")]));
        let script = items[2].script().expect("a script");
        assert_eq!((script.name, script.arguments), ("bumpup_priority.sh", vec![]));
        assert_eq!(items.len(), 3);
    }

    #[test]
    fn what_ends_too_early_is_an_error_with_its_line() {
        let error = parse("#\n<file>\n/var/cache/cloud/a\n{}\n").unwrap_err().to_string();
        assert_eq!(error, "line 2: no </file> follows");
        assert_eq!(parse("<script>\n</script>\n").unwrap_err().to_string(), "line 1: nothing in it");
    }

    #[test]
    fn files_are_below_cloudstacks_folder() {
        let root = Root::new("/r");
        let place = |path: &str| below(&root, Path::new(path)).ok();
        assert_eq!(place("/var/cache/cloud/a.json.1"), Some(PathBuf::from("/r/var/cache/cloud/a.json.1")));
        assert_eq!(place("/r/var/cache/cloud/a"), Some(PathBuf::from("/r/var/cache/cloud/a")));
        assert_eq!(place("/etc/passwd"), None);
        assert_eq!(place("/var/cache/cloud/../../../etc/passwd"), None);
    }
}
