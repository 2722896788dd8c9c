//! `staticnatrules`: hosts with a public address for themselves (`staticnat_rules.json`).

use std::net::Ipv4Addr;

use serde_json::Value;

use super::{ENVELOPE, host_address};
use crate::cloudstack::object::{Entry, Object};
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::StaticNat;

/// Keys of a rule. `protocol` and ports stem from CloudStack's old "IP forwarding rules", whose
/// ports are the firewall's business; its own router does not look at them either.
const KEYS: [&str; 6] = [
    "revoke",
    "protocol",
    "source_ip_address",
    "source_port_range",
    "destination_ip_address",
    "should_apply_cross_network_snat",
];

/// A message of type `staticnatrules`.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticNatRules {
    /// The rules, in the message's order.
    pub rules: Vec<StaticNatRule>,
}

/// One rule of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticNatRule {
    /// Where it stands.
    pub place: Place,
    /// The public address.
    pub public: Ipv4Addr,
    /// Whose it shall be; `None` withdraws the rule, whosever it was.
    pub internal: Option<Ipv4Addr>,
    /// The rule as the databag is to hold it; `None` with `internal`.
    pub(in crate::cloudstack) entry: Option<Entry>,
}

impl StaticNatRules {
    pub(in crate::cloudstack) fn read(message: &Object) -> Result<Self, ConfigError> {
        let objects = message.required("rules", message.objects("rules")?)?;
        Ok(Self { rules: objects.iter().map(StaticNatRule::read).collect::<Result<_, _>>()? })
    }

    pub(in crate::cloudstack) fn warnings(message: &Object) -> Result<Vec<ConfigError>, ConfigError> {
        let mut warnings = message.unknown_keys(|key| key == "rules" || ENVELOPE.contains(&key));
        for object in message.objects("rules")?.unwrap_or_default() {
            warnings.extend(object.unknown_keys(|key| KEYS.contains(&key)));
        }
        Ok(warnings)
    }
}

impl StaticNatRule {
    fn read(object: &Object) -> Result<Self, ConfigError> {
        let public = object.required("source_ip_address", host_address(object, "source_ip_address")?)?;
        let place = object.place().into_owned();
        if object.required("revoke", object.boolean("revoke")?)? {
            return Ok(Self { place, public, internal: None, entry: None });
        }
        let key = "destination_ip_address";
        let internal = object.required(key, host_address(object, key)?)?;
        let entry = entry(object, StaticNat { public, internal });
        Ok(Self { place, public, internal: Some(internal), entry: Some(entry) })
    }
}

/// Reads an entry of the `forwardingrules` databag whose `type` is `staticnat`.
pub(in crate::cloudstack) fn stored(object: &Object) -> Result<StaticNat, ConfigError> {
    Ok(StaticNat {
        public: object.required("public_ip", host_address(object, "public_ip")?)?,
        internal: object.required("internal_ip", host_address(object, "internal_ip")?)?,
    })
}

/// The rule in the shape of the databag, with the keys that have no effect yet or are not known.
fn entry(object: &Object, rule: StaticNat) -> Entry {
    let mut entry = object.to_entry();
    entry.retain(|key, _| !KEYS.contains(&key.as_str()) || key == "should_apply_cross_network_snat");
    for (key, value) in [
        ("type", "staticnat".to_owned()),
        ("public_ip", rule.public.to_string()),
        ("internal_ip", rule.internal.to_string()),
    ] {
        entry.insert(key.to_owned(), Value::String(value));
    }
    entry
}
