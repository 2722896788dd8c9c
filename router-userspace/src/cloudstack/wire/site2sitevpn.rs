//! `site2sitevpn`: an IPsec tunnel from a VPC to somebody else's networks (`site_2_site_vpn.json`).

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{ENVELOPE, host_address, host_name, is_host, network4, networks4, not_a_host, secret};
use crate::cloudstack::object::{Entry, Object};
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::vpn::{IkeVersion, Peer};

const KEYS: [&str; 16] = [
    "local_public_ip",
    "local_guest_cidr",
    "local_public_gateway",
    "peer_gateway_ip",
    "peer_guest_cidr_list",
    "esp_policy",
    "ike_policy",
    "ipsec_psk",
    "ike_version",
    "ike_lifetime",
    "esp_lifetime",
    "create",
    "dpd",
    "passive",
    "encap",
    "split_connections",
];

/// A message of type `site2sitevpn`.
#[derive(Clone, Debug, PartialEq)]
pub struct Site2SiteVpn {
    /// Where it stands.
    pub place: Place,
    /// The other end, which is what the databag knows the tunnel by.
    pub peer: Peer,
    /// The tunnel; `None` (`create: false`) takes it down, whatever else the message says.
    pub tunnel: Option<Tunnel>,
    /// The message as it was written.
    pub(in crate::cloudstack) entry: Entry,
}

/// A tunnel.
#[derive(Clone, Debug, PartialEq)]
pub struct Tunnel {
    /// The router's end.
    pub local: Ipv4Addr,
    /// The VPC's networks.
    pub local_network: Ipv4Net,
    /// The gateway of the router's end.
    pub local_gateway: Option<Ipv4Addr>,
    /// Networks behind the other end; at least one.
    pub peer_networks: Vec<Ipv4Net>,
    /// What to offer for the tunnel's own traffic, best first.
    pub ike: Proposals,
    /// What to offer for the traffic in it, best first.
    pub esp: Proposals,
    /// What both ends know; not empty.
    pub psk: String,
    /// Version of IKE.
    pub version: IkeVersion,
    /// Seconds until keys are exchanged anew.
    pub ike_lifetime: u32,
    /// Seconds until the traffic's keys are.
    pub esp_lifetime: u32,
    /// Look whether the peer is still there.
    pub dpd: bool,
    /// Wait for the peer to begin.
    pub passive: bool,
    /// UDP encapsulation even where no NAT is between.
    pub encap: bool,
    /// A connection of its own for each of the peer's networks.
    pub split: bool,
}

/// A list of proposals.
pub type Proposals = Vec<Proposal>;

/// Algorithms that go together, in the words of CloudStack and of strongSwan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Encryption.
    pub cipher: &'static str,
    /// Integrity.
    pub hash: &'static str,
    /// Diffie-Hellman group; for ESP none is no perfect forward secrecy.
    pub group: Option<&'static str>,
}

const CIPHERS: [&str; 4] = ["3des", "aes128", "aes192", "aes256"];
const HASHES: [&str; 5] = ["md5", "sha1", "sha256", "sha384", "sha512"];
const GROUPS: [&str; 7] =
    ["modp1024", "modp1536", "modp2048", "modp3072", "modp4096", "modp6144", "modp8192"];

impl Site2SiteVpn {
    /// Reads a message or an entry of the `site2sitevpn` databag.
    pub(in crate::cloudstack) fn read(object: &Object) -> Result<Self, ConfigError> {
        let create = object.required("create", object.boolean("create")?)?;
        Ok(Self {
            place: object.place().into_owned(),
            peer: peer(object)?,
            tunnel: create.then(|| Tunnel::read(object)).transpose()?,
            entry: object.to_entry(),
        })
    }

    pub(in crate::cloudstack) fn warnings(message: &Object) -> Vec<ConfigError> {
        message.unknown_keys(|key| KEYS.contains(&key) || ENVELOPE.contains(&key))
    }
}

impl Tunnel {
    fn read(object: &Object) -> Result<Self, ConfigError> {
        let flag = |key: &str| Ok(object.boolean(key)?.unwrap_or(false));
        let peer_networks = networks4(object, "peer_guest_cidr_list")?;
        if peer_networks.is_empty() {
            return Err(object.error("peer_guest_cidr_list", "missing"));
        }
        let local_network = object.text("local_guest_cidr")?.filter(|text| !text.is_empty());
        let local_network = object.required("local_guest_cidr", local_network)?;
        Ok(Self {
            local: object.required("local_public_ip", host_address(object, "local_public_ip")?)?,
            local_network: network4(&local_network).ok_or_else(|| {
                object.error("local_guest_cidr", format_args!("{local_network:?} is no IPv4 network"))
            })?,
            local_gateway: host_address(object, "local_public_gateway")?,
            peer_networks,
            ike: proposals(object, "ike_policy")?,
            esp: proposals(object, "esp_policy")?,
            psk: object.required("ipsec_psk", secret(object, "ipsec_psk")?)?,
            version: version(object)?,
            ike_lifetime: lifetime(object, "ike_lifetime")?,
            esp_lifetime: lifetime(object, "esp_lifetime")?,
            dpd: flag("dpd")?,
            passive: flag("passive")?,
            encap: flag("encap")?,
            split: flag("split_connections")?,
        })
    }
}

/// `cipher-hash;group` with commas between them. IKE cannot do without a group.
fn proposals(object: &Object, key: &str) -> Result<Proposals, ConfigError> {
    let text = object.word(key)?.filter(|text| !text.is_empty());
    let text = object.required(key, text)?;
    let read = |word: &str| {
        let proposal = proposal(word.trim()).filter(|own| own.group.is_some() || key != "ike_policy");
        proposal.ok_or_else(|| object.error(key, format_args!("{word:?} is no policy of this kind")))
    };
    text.split(',').map(read).collect()
}

fn proposal(word: &str) -> Option<Proposal> {
    let known = |words: &'static [&str], own: &str| words.iter().copied().find(|word| *word == own);
    let (algorithms, group) = match word.split_once(';') {
        Some((algorithms, group)) => (algorithms, Some(known(&GROUPS, group)?)),
        None => (word, None),
    };
    let (cipher, hash) = algorithms.split_once('-')?;
    Some(Proposal { cipher: known(&CIPHERS, cipher)?, hash: known(&HASHES, hash)?, group })
}

fn peer(object: &Object) -> Result<Peer, ConfigError> {
    const KEY: &str = "peer_gateway_ip";
    let text = object.required(KEY, object.text(KEY)?.filter(|text| !text.is_empty()))?;
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        let is_possible = is_host(address.into());
        return is_possible
            .then_some(Peer::Address(address))
            .ok_or_else(|| not_a_host(object, KEY, address.into()));
    }
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    // A name of the DNS has a word in the end, or it would be an address that is none.
    let is_name = text.rsplit_once('.').is_some_and(|(_, last)| !last.is_empty() && !is_number(last));
    match host_name(object, KEY) {
        Ok(Some(name)) if is_name => Ok(Peer::Name(name)),
        _ => Err(object.error(KEY, format_args!("{text:?} is neither an IPv4 address nor a DNS name"))),
    }
}

/// `ike_version`; a missing one is either.
fn version(object: &Object) -> Result<IkeVersion, ConfigError> {
    match object.word("ike_version")?.as_deref() {
        None | Some("" | "ike") => Ok(IkeVersion::Any),
        Some("ikev1") => Ok(IkeVersion::V1),
        Some("ikev2") => Ok(IkeVersion::V2),
        Some(other) => {
            Err(object.error("ike_version", format_args!("{other:?} is none of ike, ikev1, ikev2")))
        }
    }
}

fn lifetime(object: &Object, key: &str) -> Result<u32, ConfigError> {
    let seconds: Option<u32> = object.parsed(key, "number of seconds")?;
    match object.required(key, seconds)? {
        0 => Err(object.error(key, "0 seconds are no lifetime")),
        seconds => Ok(seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proposals_are_cloudstacks_words() {
        let own = |cipher, hash, group| Some(Proposal { cipher, hash, group });
        assert_eq!(proposal("aes256-sha256;modp2048"), own("aes256", "sha256", Some("modp2048")));
        assert_eq!(proposal("3des-md5"), own("3des", "md5", None));
        for word in ["", "aes256", "aes256-", "des-md5", "aes256-sha256;", "aes256-sha256;modp1", "a-b;c;d"] {
            assert_eq!(proposal(word), None, "{word}");
        }
    }
}
