//! `update_config.py`: one file of CloudStack's folder, put in force.

use std::ffi::OsString;

use super::PATIENCE;
use crate::root::Root;
use crate::rpc::{self, Afterwards, Answer, InboxFile, Refusal, Request};

const NAME: &str = "update_config.py";

/// `update_config.py NAME [false]`: returns when the change is in force.
pub fn run(arguments: &[OsString]) -> u8 {
    let applied = parse(arguments).and_then(|file| apply(vec![file]).map_err(|refusal| refusal.reason));
    match applied {
        Ok(()) => 0,
        Err(reason) => {
            eprintln!("{NAME}: {reason}");
            1
        }
    }
}

/// Has the daemon apply files, all of them or none. One that ends meanwhile is waited for and asked again: it has
/// either taken a file and put it away, or not.
pub(super) fn apply(files: Vec<InboxFile>) -> Result<(), Refusal> {
    let name = files.last().map(|file| file.name.clone()).unwrap_or_default();
    let unheard = |reason| Refusal { name, reason };
    match rpc::call_again(&Root::find(None).socket(), &Request::UpdateConfig { files }, PATIENCE) {
        Ok(Answer::Applied { applied, refused }) => {
            for warning in applied.iter().flat_map(|document| &document.warnings) {
                eprintln!("{NAME}: warning: {warning}");
            }
            refused.map_or(Ok(()), Err)
        }
        Ok(Answer::Refused(reason)) => Err(unheard(reason)),
        Ok(_) => Err(unheard("the daemon answered something else".to_owned())),
        Err(error) => Err(unheard(format!("{error:#}"))),
    }
}

/// The arguments of `update_config.py`.
pub(super) fn parse(arguments: &[OsString]) -> Result<InboxFile, String> {
    let (name, afterwards) = match arguments {
        [name] => (name, Afterwards::Archive),
        [name, keep] if keep == "false" => (name, Afterwards::Delete),
        [name, _] => (name, Afterwards::Archive),
        _ => return Err("usage: update_config.py FILE [false]".to_owned()),
    };
    let name = name.to_str().ok_or("the file's name is not UTF-8")?.to_owned();
    Ok(InboxFile { name, afterwards, text: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(arguments: &[&str]) -> Result<InboxFile, String> {
        parse(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn update_config_takes_one_or_two_arguments() {
        let update = |afterwards| Ok(InboxFile { name: "ips.json.1".to_owned(), afterwards, text: None });
        assert_eq!(file(&["ips.json.1"]), update(Afterwards::Archive));
        assert_eq!(file(&["ips.json.1", "false"]), update(Afterwards::Delete));
        assert_eq!(file(&["ips.json.1", "true"]), update(Afterwards::Archive));
        assert!(file(&[]).is_err());
        assert!(file(&["a", "false", "b"]).is_err());
    }
}
