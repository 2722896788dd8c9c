//! `netusage.sh` and `vpc_netusage.sh`: bytes that a port which leads outside has passed, for CloudStack to bill.
//!
//! What is asked for comes as numbers with a colon behind each: guests' sent, guests' received, and the TCP that the
//! router itself has sent and received. CloudStack takes what is less than before for a restart.

use std::ffi::OsString;
use std::net::IpAddr;

use super::PATIENCE;
use crate::root::Root;
use crate::rpc::{self, Answer, Request};
use crate::show::{PortUsageView, UsageView};

/// `netusage.sh -g|-c|-r [-l ADDRESS] | -a DEVICE | -d DEVICE`: without an address, of the first public port.
pub fn run(arguments: &[OsString]) -> u8 {
    serve(
        "netusage.sh",
        "-g|-c|-r [-l ADDRESS] | -a DEVICE | -d DEVICE",
        arguments,
        &Switches { with_value: &["-l", "-a", "-d"], without: &["-c", "-i"] },
    )
}

/// `vpc_netusage.sh -l ADDRESS -g|-r | -c -v NETWORK | -n | -d`.
pub fn run_vpc(arguments: &[OsString]) -> u8 {
    serve(
        "vpc_netusage.sh",
        "-l ADDRESS -g|-r | -c -v NETWORK | -n | -d",
        arguments,
        &Switches { with_value: &["-l", "-v"], without: &["-c", "-n", "-d", "-i"] },
    )
}

/// What a script takes besides `-g` and `-r`.
struct Switches {
    with_value: &'static [&'static str],
    without: &'static [&'static str],
}

fn serve(name: &str, usage: &str, arguments: &[OsString], switches: &Switches) -> u8 {
    let said = match parse(arguments, switches) {
        Ok(wish) => answer(&wish),
        Err(problem) => Err(format!("{problem}\nusage: {name} {usage}")),
    };
    match said {
        Ok(text) => {
            print!("{text}");
            0
        }
        Err(problem) => {
            eprintln!("{name}: {problem}");
            1
        }
    }
}

/// What a script is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// Say what a port has passed.
    Get(Option<IpAddr>),
    /// Begin at zero.
    Zero(Option<IpAddr>),
    /// Counters are there as long as their ports are: nothing.
    Nothing,
    /// An address that is none, and so no port's.
    Nobodys,
}

fn parse(arguments: &[OsString], switches: &Switches) -> Result<Wish, String> {
    let (mut address, mut get, mut zero) = (None, false, false);
    let mut words = arguments.iter().map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        match word.as_ref() {
            "-g" => get = true,
            "-r" => zero = true,
            // What the management server writes where it has nothing to say.
            "null" | "" => {}
            known if switches.with_value.contains(&known) => {
                let value = words.next().ok_or_else(|| format!("{known} needs a value"))?;
                if known == "-l" {
                    address =
                        Some(value.into_owned()).filter(|value| !["null", ""].contains(&value.as_str()));
                }
            }
            known if switches.without.contains(&known) => {}
            other => return Err(format!("{other} is not understood")),
        }
    }
    let address = match address.map(|address| address.parse()) {
        Some(Err(_)) => return Ok(Wish::Nobodys),
        Some(Ok(address)) => Some(address),
        None => None,
    };
    Ok(match (get, zero) {
        (true, _) => Wish::Get(address),
        (false, true) => Wish::Zero(address),
        (false, false) => Wish::Nothing,
    })
}

fn answer(wish: &Wish) -> Result<String, String> {
    let (request, address) = match *wish {
        Wish::Get(address) => (Request::Usage, address),
        Wish::Zero(address) => (Request::ZeroUsage { address }, address),
        Wish::Nothing | Wish::Nobodys => return Ok(String::new()),
    };
    match rpc::call(&Root::find(None).socket(), &request, PATIENCE) {
        Ok(Answer::Usage(usage)) => Ok(port(&usage, address).map(line).unwrap_or_default()),
        Ok(Answer::Zeroed) => Ok(String::new()),
        Ok(Answer::Refused(reason)) => Err(reason),
        Ok(_) => Err("the daemon answered something else".to_owned()),
        Err(error) => Err(format!("{error:#}")),
    }
}

/// The port that is asked about, if it is one that CloudStack counts for.
fn port(usage: &UsageView, address: Option<IpAddr>) -> Option<&PortUsageView> {
    let is_it = |port: &&PortUsageView| match address {
        Some(address) => port.addresses.contains(&address),
        None => port.role == "public",
    };
    usage.ports.iter().find(is_it).filter(|port| port.told)
}

fn line(port: &PortUsageView) -> String {
    let PortUsageView { sent, received, own_tcp_sent, own_tcp_received, .. } = port;
    let counters = [sent, received, own_tcp_sent, own_tcp_received];
    counters.map(|counter| format!("{}:", counter.bytes)).concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::Count;

    const ISOLATED: Switches = Switches { with_value: &["-l", "-a", "-d"], without: &["-c", "-i"] };
    const VPC: Switches = Switches { with_value: &["-l", "-v"], without: &["-c", "-n", "-d", "-i"] };

    fn wish(switches: &Switches, line: &str) -> Result<Wish, String> {
        parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>(), switches)
    }

    #[test]
    fn what_cloudstack_writes_is_understood() {
        let address: IpAddr = "203.0.113.31".parse().unwrap();
        for (line, expected) in [
            ("-g", Wish::Get(None)),
            ("-g null", Wish::Get(None)),
            ("-i -g", Wish::Get(None)),
            ("-g -l null", Wish::Get(None)),
            ("-g -l 203.0.113.31", Wish::Get(Some(address))),
            ("-l 203.0.113.31 -g", Wish::Get(Some(address))),
            ("-g -l nonsense", Wish::Nobodys),
            ("-r", Wish::Zero(None)),
            ("-c", Wish::Nothing),
            ("-a eth3", Wish::Nothing),
            ("-d eth3", Wish::Nothing),
        ] {
            assert_eq!(wish(&ISOLATED, line), Ok(expected), "netusage.sh {line}");
        }
        for (line, expected) in [
            ("-l 203.0.113.31 -g", Wish::Get(Some(address))),
            ("-l 203.0.113.31 -r", Wish::Zero(Some(address))),
            ("-c -l 203.0.113.31 -v 10.0.0.0/8", Wish::Nothing),
            ("-l 203.0.113.31 -n", Wish::Nothing),
            ("-l 203.0.113.31 -d", Wish::Nothing),
        ] {
            assert_eq!(wish(&VPC, line), Ok(expected), "vpc_netusage.sh {line}");
        }
        assert!(wish(&ISOLATED, "-x").is_err());
        assert!(wish(&ISOLATED, "-g -l").is_err());
    }

    #[test]
    fn counters_are_written_as_cloudstack_reads_them() {
        let count = |bytes| Count { packets: 1, bytes };
        let mut public = PortUsageView {
            port: "eth2".to_owned(),
            role: "public".to_owned(),
            addresses: vec!["203.0.113.31".parse().unwrap()],
            told: true,
            sent: count(10_234_567),
            received: count(9_988_776),
            own_tcp_sent: count(1200),
            own_tcp_received: count(3400),
        };
        assert_eq!(line(&public), "10234567:9988776:1200:3400:");
        let usage = |port: &PortUsageView| UsageView { ports: vec![port.clone()], accounts: vec![] };
        let found = |port: &PortUsageView, address: &str| {
            super::port(&usage(port), Some(address.parse().unwrap())).is_some()
        };
        assert!(found(&public, "203.0.113.31") && !found(&public, "203.0.113.32"));
        public.told = false;
        assert!(!found(&public, "203.0.113.31"));
    }
}
