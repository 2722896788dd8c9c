//! `update_config.py`: one file of CloudStack's folder, put in force.

use std::ffi::OsString;

use super::PATIENCE;
use crate::root::Root;
use crate::rpc::{self, Afterwards, Answer, Request};

const NAME: &str = "update_config.py";

/// `update_config.py NAME [false]`: returns when the change is in force.
pub fn run(arguments: &[OsString]) -> u8 {
    let request = match parse(arguments) {
        Ok(request) => request,
        Err(usage) => {
            eprintln!("{NAME}: {usage}");
            return 1;
        }
    };
    match rpc::call(&Root::find(None).socket(), &request, PATIENCE) {
        Ok(Answer::Applied { applied, refused }) => {
            for warning in applied.iter().flat_map(|document| &document.warnings) {
                eprintln!("{NAME}: warning: {warning}");
            }
            match refused {
                None => 0,
                Some(reason) => {
                    eprintln!("{NAME}: {reason}");
                    1
                }
            }
        }
        Ok(Answer::Refused(reason)) => {
            eprintln!("{NAME}: {reason}");
            1
        }
        Ok(_) => {
            eprintln!("{NAME}: the daemon answered something else");
            1
        }
        Err(error) => {
            eprintln!("{NAME}: {error:#}");
            1
        }
    }
}

fn parse(arguments: &[OsString]) -> Result<Request, String> {
    let (name, afterwards) = match arguments {
        [name] => (name, Afterwards::Archive),
        [name, keep] if keep == "false" => (name, Afterwards::Delete),
        [name, _] => (name, Afterwards::Archive),
        _ => return Err("usage: update_config.py FILE [false]".to_owned()),
    };
    let name = name.to_str().ok_or("the file's name is not UTF-8")?.to_owned();
    Ok(Request::UpdateConfig { name, afterwards })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(arguments: &[&str]) -> Result<Request, String> {
        parse(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn update_config_takes_one_or_two_arguments() {
        let update = |afterwards| Ok(Request::UpdateConfig { name: "ips.json.1".to_owned(), afterwards });
        assert_eq!(request(&["ips.json.1"]), update(Afterwards::Archive));
        assert_eq!(request(&["ips.json.1", "false"]), update(Afterwards::Delete));
        assert_eq!(request(&["ips.json.1", "true"]), update(Afterwards::Archive));
        assert!(request(&[]).is_err());
        assert!(request(&["a", "false", "b"]).is_err());
    }
}
