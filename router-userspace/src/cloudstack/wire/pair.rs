//! The boot line's keys for a pair of routers.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU8;

use super::{host_address, host_address6, prefix_length};
use crate::cloudstack::object::Object;
use crate::error::ConfigError;

/// What the boot line of a redundant router says beside that it is one.
#[derive(Clone, PartialEq)]
pub struct PairKeys {
    /// Seconds between two advertisements; 1 where nothing is said.
    pub interval: NonZeroU8,
    /// The VPC's number.
    pub router_id: Option<String>,
    /// The first characters of the password, where there is one.
    pub password: Option<String>,
    /// An isolated network's gateway, which the routers share, and the length of its prefix.
    pub gateway: Option<(Ipv4Addr, Option<u8>)>,
    /// The same of IPv6.
    pub gateway6: Option<(Ipv6Addr, Option<u8>)>,
}

/// How many characters of a password VRRP knows (RFC 2338 §5.3.6.2, and `keepalived.conf(5)`).
pub const PASSWORD_LENGTH: usize = 8;

impl PairKeys {
    /// Nothing where the router is alone; its other keys are not looked at then.
    pub(in crate::cloudstack) fn read(object: &Object) -> Result<Option<Self>, ConfigError> {
        // The boot line says 1, the databag true.
        let word = object.word("redundant_router")?;
        if !matches!(word.as_deref(), Some("1" | "true")) {
            return Ok(None);
        }
        let length = prefix_length(object, "guestcidrsize")?;
        if length.is_some_and(|length| length > 32) {
            return Err(object.error("guestcidrsize", "prefix length exceeds 32"));
        }
        let length6 = prefix_length(object, "guestcidr6size")?;
        Ok(Some(Self {
            interval: object
                .parsed("advert_int", "number of seconds from 1 to 255")?
                .unwrap_or(NonZeroU8::MIN),
            router_id: object.text("router_id")?.filter(|id| !id.is_empty()),
            password: password(object)?,
            gateway: host_address(object, "guestgw")?.map(|gateway| (gateway, length)),
            gateway6: host_address6(object, "guestgw6")?.map(|gateway| (gateway, length6)),
        }))
    }
}

impl std::fmt::Debug for PairKeys {
    /// Not its password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PairKeys({:?}, {:?}, every {} s)", self.gateway, self.gateway6, self.interval)
    }
}

/// It goes into a configuration file: nothing that has a meaning there.
fn password(object: &Object) -> Result<Option<String>, ConfigError> {
    let Some(text) = object.text("router_password")?.filter(|text| !text.is_empty()) else { return Ok(None) };
    let first: String = text.chars().take(PASSWORD_LENGTH).collect();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if first.chars().all(is_plain) {
        return Ok(Some(first));
    }
    Err(object
        .error("router_password", "its first eight characters are not all letters, digits, '-', '_' or '.'"))
}
