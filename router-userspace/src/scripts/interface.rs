//! `update_interface_config.sh IP PREFIXLEN MTU TIMEOUT`: another MTU for the NIC that has the address.

use std::ffi::OsString;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{PATIENCE, failed, words};
use crate::root::Root;
use crate::rpc::{self, Answer, Request};

const NAME: &str = "update_interface_config.sh";

/// Prints the NIC's name. The time that CloudStack gives is for its own router, which looks again and again; here the
/// MTU is in force when the daemon answers.
pub fn run(arguments: &[OsString]) -> u8 {
    let (address, mtu) = match parse(&words(arguments)) {
        Ok(request) => request,
        Err(message) => return failed(NAME, message),
    };
    match rpc::call(&Root::find(None).socket(), &Request::SetMtu { address, mtu }, PATIENCE) {
        Ok(Answer::Mtu(Some(nic))) => {
            println!("{nic}");
            0
        }
        Ok(Answer::Mtu(None)) => {
            println!("\nInterface with IP {} not found", address.addr());
            1
        }
        Ok(Answer::Refused(reason)) => failed(NAME, reason),
        Ok(_) => failed(NAME, "the daemon answered something else: is it another version?"),
        Err(error) => failed(NAME, format_args!("{error:#}")),
    }
}

fn parse(words: &[String]) -> Result<(IpNet, u16), String> {
    let [address, prefix, mtu] = match words {
        [address, prefix, mtu] | [address, prefix, mtu, _] => [address, prefix, mtu],
        _ => return Err("usage: update_interface_config.sh IP PREFIXLEN MTU TIMEOUT".to_owned()),
    };
    let ip: IpAddr = address.parse().map_err(|_| format!("{address:?} is no address"))?;
    let length = prefix.parse().map_err(|_| format!("{prefix:?} is no prefix length"))?;
    let address = IpNet::new(ip, length).map_err(|_| format!("{prefix:?} is no prefix length of {ip}"))?;
    // RFC 791: every link takes datagrams of 68 bytes; Linux refuses less.
    let mtu = mtu.parse().ok().filter(|mtu| *mtu >= 68).ok_or_else(|| format!("{mtu:?} is no MTU"))?;
    Ok((address, mtu))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_prefixes_and_mtus_are_checked() {
        let of = |text: &str| parse(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("203.0.113.30 24 1400 15"), Ok(("203.0.113.30/24".parse().unwrap(), 1400)));
        assert_eq!(of("203.0.113.30 24 1400"), of("203.0.113.30 24 1400 15"));
        assert_eq!(of("203.0.113 24 1400 15"), Err("\"203.0.113\" is no address".to_owned()));
        assert_eq!(
            of("203.0.113.30 33 1400 15"),
            Err("\"33\" is no prefix length of 203.0.113.30".to_owned())
        );
        assert_eq!(of("203.0.113.30 24 67 15"), Err("\"67\" is no MTU".to_owned()));
        assert_eq!(of("203.0.113.30 24 65536 15"), Err("\"65536\" is no MTU".to_owned()));
        assert!(of("203.0.113.30 24").is_err() && of("a b c d e").is_err());
    }
}
