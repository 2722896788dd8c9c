//! Leases that dnsmasq holds, and whose they may be.
//!
//! A lease is for good, so one of a guest that is gone would keep its address from the next for ever. While dnsmasq
//! runs, its leases are taken back by releasing them in the guest's name (`dhcp_release`, of dnsmasq's own tools); while
//! it does not, they are taken out of its file.
//!
//! ```text
//! expiry MAC   IPv4 name client-id|*
//! duid DUID                              the server's, before the first of IPv6
//! expiry IAID  IPv6 name DUID
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::Call;

/// Whose leases there may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leases {
    /// dnsmasq's file.
    pub file: PathBuf,
    /// IPv4: addresses and the MAC addresses that they are for, as text.
    pub reserved: BTreeSet<(String, String)>,
    /// IPv6: addresses. CloudStack makes them of MAC addresses, so they do not go from one guest to another.
    pub reserved6: BTreeSet<IpAddr>,
    /// On which interface each network is.
    pub interfaces: Vec<(IpNet, String)>,
}

impl Leases {
    /// What takes back those that nobody should have. Those in networks that are not served keep nothing from
    /// anybody, and go with the next start.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn strays(&self) -> Result<Vec<Call>> {
        let text = self.read()?;
        let server = text.lines().find_map(|line| line.strip_prefix("duid ")).unwrap_or_default();
        let strays = text.lines().filter_map(Lease::read).filter(|lease| self.is_stray(lease));
        Ok(strays.filter_map(|lease| Some(lease.release(self.interface(&lease)?, server))).collect())
    }

    /// Takes them out of the file. dnsmasq must not run: it would write its own again.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn forget_strays(&self) -> Result<()> {
        let text = self.read()?;
        let is_kept = |line: &&str| Lease::read(line).is_none_or(|lease| !self.is_stray(&lease));
        let kept: String = text.lines().filter(is_kept).map(|line| format!("{line}\n")).collect();
        if kept.lines().count() == text.lines().count() {
            return Ok(());
        }
        let beside = self.file.with_extension("leases.new");
        fs::write(&beside, kept)
            .and_then(|()| fs::rename(&beside, &self.file))
            .with_context(|| format!("replace {}", self.file.display()))
    }

    fn read(&self) -> Result<String> {
        match fs::read_to_string(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read.with_context(|| format!("read {}", self.file.display())),
        }
    }

    fn is_stray(&self, lease: &Lease<'_>) -> bool {
        match lease.address {
            IpAddr::V4(address) => !self.reserved.contains(&(address.to_string(), lease.owner.to_owned())),
            IpAddr::V6(_) => !self.reserved6.contains(&lease.address),
        }
    }

    fn interface(&self, lease: &Lease<'_>) -> Option<&str> {
        let found = self.interfaces.iter().find(|(network, _)| network.contains(&lease.address));
        found.map(|(_, interface)| interface.as_str())
    }
}

/// A line of the file.
struct Lease<'a> {
    /// The MAC address; the IAID for IPv6.
    owner: &'a str,
    address: IpAddr,
    /// The client's name for itself, `*` if it has none.
    client: &'a str,
}

impl<'a> Lease<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut words = line.split(' ').skip(1);
        let (owner, address, _name, client) = (words.next()?, words.next()?, words.next()?, words.next()?);
        Some(Self { owner, address: address.parse().ok()?, client })
    }

    fn release(&self, interface: &str, server: &str) -> Call {
        let address = self.address.to_string();
        let (program, arguments) = match self.address {
            IpAddr::V4(_) => {
                let client = Some(self.client).filter(|client| *client != "*");
                let words = [interface, &address, self.owner].into_iter().chain(client);
                ("dhcp_release", words.map(str::to_owned).collect())
            }
            IpAddr::V6(_) => {
                // A temporary address has a letter before its number.
                let iaid = self.owner.trim_start_matches('T');
                let pairs = [
                    ("--iface", interface),
                    ("--ip", &address),
                    ("--iaid", iaid),
                    ("--client-id", self.client),
                    ("--server-id", server),
                ];
                let words = pairs.iter().flat_map(|(key, value)| [*key, *value]);
                ("dhcp_release6", words.map(str::to_owned).collect())
            }
        };
        Call { program, arguments }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
0 02:00:00:00:00:11 10.1.1.20 web-1 01:02:00:00:00:00:11
0 02:00:00:00:00:12 10.1.1.21 web-2 *
0 02:00:00:00:00:13 10.9.9.9 elsewhere *
duid 00:01:00:01:32
1795962280 18 fd17:1::20 web-1 00:01:00:01:11
1795962280 19 fd17:1::21 web-2 00:01:00:01:12
";

    fn leases(name: &str) -> Leases {
        let file = std::env::temp_dir().join(format!("xvr-leases-{name}-{}", std::process::id()));
        fs::write(&file, FILE).expect("written");
        let net = |text: &str| text.parse().expect("a network");
        Leases {
            file,
            // The address of the first has gone to another guest.
            reserved: [("10.1.1.20", "02:00:00:00:00:99"), ("10.1.1.21", "02:00:00:00:00:12")]
                .map(|(address, mac)| (address.to_owned(), mac.to_owned()))
                .into(),
            reserved6: ["fd17:1::21".parse().expect("an address")].into(),
            interfaces: vec![
                (net("10.1.1.1/24"), "eth0".to_owned()),
                (net("fd17:1::1/64"), "eth0".to_owned()),
            ],
        }
    }

    #[test]
    fn leases_that_nobody_should_have_are_released_in_their_owners_names() {
        let leases = leases("release");
        let calls = leases.strays().expect("read");
        let lines: Vec<String> =
            calls.iter().map(|call| format!("{} {}", call.program, call.arguments.join(" "))).collect();
        assert_eq!(
            lines,
            [
                "dhcp_release eth0 10.1.1.20 02:00:00:00:00:11 01:02:00:00:00:00:11",
                "dhcp_release6 --iface eth0 --ip fd17:1::20 --iaid 18 --client-id 00:01:00:01:11 \
                 --server-id 00:01:00:01:32",
            ]
        );
        fs::remove_file(leases.file).expect("removed");
    }

    #[test]
    fn they_are_taken_out_of_the_file_and_all_else_stays() {
        let leases = leases("forget");
        leases.forget_strays().expect("written");
        let left = fs::read_to_string(&leases.file).expect("read");
        assert_eq!(
            left,
            "0 02:00:00:00:00:12 10.1.1.21 web-2 *\nduid 00:01:00:01:32\n\
             1795962280 19 fd17:1::21 web-2 00:01:00:01:12\n"
        );
        fs::remove_file(&leases.file).expect("removed");
        assert!(leases.strays().expect("no file is no lease").is_empty());
    }
}
