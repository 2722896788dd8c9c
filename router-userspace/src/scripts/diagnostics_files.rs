//! `get_diagnostics_files.py NAMES…` and `cleanup.sh PATH`: files and outputs for an administrator, in one archive.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::{failed, words};
use crate::calendar::Moment;
use crate::program;
use crate::root::Root;

/// How long each program may take.
const TIME: Duration = Duration::from_secs(30);

/// Bytes of a file that are taken: disks are small.
const LONGEST: u64 = 100 << 20;

/// Makes the archive, and prints its path and nothing else.
pub fn run(arguments: &[OsString]) -> u8 {
    match pack(&Root::find(None), &words(arguments)) {
        Ok(archive) => {
            println!("{}", archive.display());
            0
        }
        Err(error) => failed("get_diagnostics_files.py", format_args!("{error:#}")),
    }
}

/// Removes an archive that was fetched; whatever else the path may name is left alone.
pub fn clean_up(arguments: &[OsString]) -> u8 {
    let root = Root::find(None);
    for word in words(arguments) {
        let path = Path::new(&word);
        let name = path.file_name().and_then(OsStr::to_str).filter(|name| is_archive(name));
        let is_home =
            path.parent().is_some_and(|folder| folder == root.home() || folder == Path::new("/root"));
        let Some(name) = name.filter(|_| is_home) else {
            eprintln!("cleanup.sh: {word:?} is no archive of get_diagnostics_files.py, left alone");
            continue;
        };
        match fs::remove_file(root.home().join(name)) {
            Ok(()) => println!("Deleting diagnostics zip file {word}"),
            Err(error) => eprintln!("cleanup.sh: remove {word}: {error}"),
        }
    }
    0
}

/// `diagnostics_files_20260120-101500.zip`
fn is_archive(name: &str) -> bool {
    let stamp = name.strip_prefix("diagnostics_files_").and_then(|rest| rest.strip_suffix(".zip"));
    let is_stamp = |stamp: &str| {
        stamp.len() == 15
            && stamp
                .bytes()
                .enumerate()
                .all(|(at, byte)| if at == 8 { byte == b'-' } else { byte.is_ascii_digit() })
    };
    stamp.is_some_and(is_stamp)
}

fn pack(root: &Root, names: &[String]) -> Result<PathBuf> {
    let (path, file) = create(root)?;
    let packed = fill(root, names, file);
    if packed.is_err() {
        fs::remove_file(&path).with_context(|| format!("remove what there is of {}", path.display()))?;
    }
    packed.with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// A new file: of two archives in one second, the second one's name is of the next.
fn create(root: &Root) -> Result<(PathBuf, File)> {
    let home = root.home();
    fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
    let now = SystemTime::now();
    for second in 0..60 {
        let stamp = Moment::from(now + Duration::from_secs(second)).stamp();
        let path = home.join(format!("diagnostics_files_{stamp}.zip"));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("create {}", path.display())),
        }
    }
    bail!("{} has an archive of every second of this minute", home.display())
}

fn fill(root: &Root, names: &[String], file: File) -> Result<()> {
    let mut archive = Archive { zip: ZipWriter::new(file), members: Vec::new() };
    let mut info = String::new();
    for name in names {
        // What cannot be had is said so, and does not keep the others from coming.
        let said = match add(root, name, &mut archive)? {
            Ok(said) | Err(said) => said,
        };
        info += &format!("{name}: {said}\n");
    }
    archive.add("fileinfo.txt", &mut info.as_bytes())?;
    archive.zip.finish()?;
    Ok(())
}

struct Archive {
    zip: ZipWriter<File>,
    members: Vec<String>,
}

impl Archive {
    /// Adds a member; a second one of a name is left out. Returns its bytes.
    fn add(&mut self, member: &str, content: &mut impl Read) -> Result<u64> {
        if self.members.iter().any(|known| known == member) {
            return Ok(0);
        }
        self.members.push(member.to_owned());
        self.zip.start_file(member, SimpleFileOptions::default().unix_permissions(0o600).large_file(true))?;
        Ok(io::copy(content, &mut self.zip)?)
    }
}

/// Adds what a name means. The outer error is the archive's; the inner one says why there is nothing.
fn add(root: &Root, name: &str, archive: &mut Archive) -> Result<Result<String, String>> {
    let script = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let word = script.unwrap_or(name).to_ascii_lowercase();
    let binary = root.binary().display().to_string();
    let root_path = root.path().display().to_string();
    let show = |what| [binary.as_str(), "--root", &root_path, "show", what].map(str::to_owned).to_vec();
    let of = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let commands: Vec<Vec<String>> = match word.as_str() {
        // What is in iptables with CloudStack's own router is in the programs' tables here.
        "iptables" => {
            vec![
                of("iptables-save"),
                of("ip6tables-save"),
                of("nft list ruleset"),
                show("rules"),
                show("nat"),
            ]
        }
        "ipaddr" => vec![of("ip address")],
        "iprule" => vec![of("ip rule"), of("ip -6 rule")],
        "iproute" => vec![of("ip route show table all"), of("ip -6 route show table all")],
        _ => match script {
            Some(script) if is_plain(script) && script != "get_diagnostics_files.py" => {
                let path = root.scripts().join(script);
                if !path.exists() {
                    return Ok(Err("no such script".to_owned()));
                }
                vec![vec![path.display().to_string()]]
            }
            Some(_) => return Ok(Err("no script of this router".to_owned())),
            None => return add_file(root, name, archive),
        },
    };
    let text: String = commands.iter().map(|command| output(command)).collect();
    let bytes = archive.add(&format!("{}.txt", script.unwrap_or(&word)), &mut text.as_bytes())?;
    Ok(Ok(format!("output, {bytes} bytes")))
}

/// Whether a name has no folder in it.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}

fn output(command: &[String]) -> String {
    let line = command.join(" ");
    let Some((program, arguments)) = command.split_first() else { return String::new() };
    match program::run(program, arguments, TIME) {
        Ok(ran) => format!("# {line}: {}\n{}{}\n", ran.code(), ran.stdout, ran.stderr),
        Err(error) => format!("# {line}: {error}\n\n"),
    }
}

fn add_file(root: &Root, name: &str, archive: &mut Archive) -> Result<Result<String, String>> {
    let below: PathBuf = Path::new(name).components().filter(|part| *part != Component::RootDir).collect();
    if !name.starts_with('/') || below.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Ok(Err("neither an absolute path nor one of iptables, ipaddr, iprule, iproute".to_owned()));
    }
    let path = root.path().join(&below);
    // A pipe or a device would be waited for without end.
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Ok(Err("no file".to_owned())),
        Err(error) => return Ok(Err(format!("not found: {error}"))),
    }
    match File::open(&path) {
        Ok(file) => {
            let bytes = archive.add(&below.display().to_string(), &mut file.take(LONGEST))?;
            let cut = if bytes == LONGEST { ", and what is behind left out" } else { "" };
            Ok(Ok(format!("found, {bytes} bytes{cut}")))
        }
        Err(error) => Ok(Err(format!("cannot be read: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_known_by_their_names() {
        assert!(is_archive("diagnostics_files_20260120-101500.zip"));
        for name in [
            "diagnostics_files_20260120-101500.zip.gz",
            "diagnostics_files_.zip",
            "diagnostics_files_2026012a-101500.zip",
            "x.zip",
        ] {
            assert!(!is_archive(name), "{name}");
        }
    }

    #[test]
    fn two_archives_in_a_second_are_two_files() {
        let root = Root::new(std::env::temp_dir().join(format!("xvr-diagnostics-{}", std::process::id())));
        let (first, second) = (pack(&root, &[]).unwrap(), pack(&root, &[]).unwrap());
        assert!(
            first != second
                && [&first, &second]
                    .iter()
                    .all(|path| is_archive(path.file_name().unwrap().to_str().unwrap()))
        );
        fs::remove_dir_all(root.path()).unwrap();
    }
}
