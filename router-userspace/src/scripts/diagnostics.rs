//! `diagnostics.py TOOL ARGUMENTS…`: ping, traceroute or arping from the router, for an administrator.

use std::ffi::OsString;
use std::time::Duration;

use super::words;
use crate::program;

/// CloudStack waits for a minute.
const TIME: Duration = Duration::from_secs(55);

/// Prints what the tool has written to its outputs and its exit status, with `&&` between them.
pub fn run(arguments: &[OsString]) -> u8 {
    let (stdout, stderr, code) = match command(&words(arguments)) {
        Err(refusal) => (String::new(), refusal, 1),
        Ok((tool, arguments)) => match program::run(tool, &arguments, TIME) {
            Ok(ran) => {
                let late =
                    ran.status.is_none().then(|| format!("{tool} took longer than {} s", TIME.as_secs()));
                let code = ran.code();
                (ran.stdout, ran.stderr + &late.unwrap_or_default(), code)
            }
            Err(error) => (String::new(), format!("{tool}: {error}"), 127),
        },
    };
    println!("{}&&\n{}&&\n{code}", stdout.trim(), stderr.trim());
    0
}

/// The tool to run and what to hand to it, as it is: there is no shell that could make something else of it.
fn command(words: &[String]) -> Result<(&'static str, Vec<String>), String> {
    let (name, given) = words.split_first().ok_or("usage: diagnostics.py TOOL ARGUMENTS")?;
    let (tool, family, option, value) = match name.as_str() {
        "ping" => ("ping", None, "-c", "4"),
        "ping6" => ("ping", Some("-6"), "-c", "4"),
        "arping" => ("arping", None, "-c", "4"),
        "traceroute" => ("traceroute", None, "-m", "20"),
        "traceroute6" => ("traceroute", Some("-6"), "-m", "20"),
        other => {
            return Err(format!("{other:?} is none of ping, ping6, traceroute, traceroute6, arping"));
        }
    };
    let mut arguments: Vec<String> = family.into_iter().map(str::to_owned).collect();
    if !given.iter().any(|word| word.starts_with(option)) {
        arguments.extend([option.to_owned(), value.to_owned()]);
    }
    arguments.extend_from_slice(given);
    Ok((tool, arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<(&'static str, String), String> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        command(&words).map(|(tool, arguments)| (tool, arguments.join(" ")))
    }

    #[test]
    fn a_tool_gets_an_end_unless_it_has_one() {
        assert_eq!(of("ping 8.8.8.8"), Ok(("ping", "-c 4 8.8.8.8".to_owned())));
        assert_eq!(of("ping -c 2 8.8.8.8"), Ok(("ping", "-c 2 8.8.8.8".to_owned())));
        assert_eq!(of("ping -c2 8.8.8.8"), Ok(("ping", "-c2 8.8.8.8".to_owned())));
        assert_eq!(of("ping6 2001:db8::1"), Ok(("ping", "-6 -c 4 2001:db8::1".to_owned())));
        assert_eq!(of("traceroute6 2001:db8::1"), Ok(("traceroute", "-6 -m 20 2001:db8::1".to_owned())));
        assert_eq!(of("traceroute -m 3 8.8.8.8"), Ok(("traceroute", "-m 3 8.8.8.8".to_owned())));
        assert_eq!(of("arping -I eth2 10.1.1.1"), Ok(("arping", "-c 4 -I eth2 10.1.1.1".to_owned())));
    }

    #[test]
    fn nothing_else_is_run() {
        for text in ["", "sh -c id", "/bin/ping 8.8.8.8", "ping;id", "PING 8.8.8.8"] {
            assert!(of(text).is_err(), "{text}");
        }
        assert_eq!(of("ping 8.8.8.8;id"), Ok(("ping", "-c 4 8.8.8.8;id".to_owned())));
    }
}
