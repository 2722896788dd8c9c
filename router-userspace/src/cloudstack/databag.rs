//! The databags: everything CloudStack has said so far, as its own router remembers it.
//!
//! ```text
//! bag (file)            shape                          written by
//! cmdline.json          config → key → value           cmdline
//! firewallrules.json    rule's number → rule           firewallrules
//! forwardingrules.json  public address → list of rules forwardrules, staticnatrules
//! ips.json              ethN → list of addresses       cmdline, ips, guestnetwork
//! guestnetwork.json     ethN → list of one tier        guestnetwork
//! ipv6firewallrules.json  as firewallrules             ipv6firewallrules
//! networkacl.json       ethN → message                 networkacl
//! staticroutes.json     network → route                staticroutes
//! vmdata.json           guest's address → list of items  vmdata
//! vmpassword.json       guest's address → password, the last message's alone  vmpassword
//! ```
//!
//! Each file has its name under `id` as well. The entries are kept as they were written, unknown
//! keys included, so that another release finds what it knows; they are read by `wire` again.
//!
//! Invariants: a damaged bag is an error and never an empty one; a merge that fails leaves its
//! `Databags` as they were; a merge of what is already there changes nothing.

mod cmdline;
mod forwardingrules;
mod guestnetwork;
mod ips;
mod pieces;
mod policy;
mod staticroutes;
mod store;
mod vmdata;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use self::policy::PolicyBag;
pub(in crate::cloudstack) use self::policy::{Acls, Firewall};
pub use self::store::Files;
use self::vmdata::{VmDataBag, VmPasswordBag};

use super::command::Command;
use super::object::{Entry, Object, list};
use super::raw::Raw;
use super::wire::Family;
use crate::compile::Inventory;
use crate::error::ConfigError;
use crate::json::{Place, document};
use crate::model::Mac;

/// NIC or public address → entries.
type ByKey = BTreeMap<String, Vec<Entry>>;

/// Everything CloudStack has said so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Databags {
    /// `config` of the boot line; `None` before the first.
    pub(super) cmdline: Option<Entry>,
    /// By public address.
    pub(super) forwardingrules: ByKey,
    pub(super) guestnetwork: ByKey,
    pub(super) ips: ByKey,
    pub(super) firewallrules: Firewall,
    pub(super) ipv6firewallrules: Firewall,
    pub(super) networkacl: Acls,
    pub(super) staticroutes: BTreeMap<String, Entry>,
    pub(super) vmdata: VmDataBag,
    vmpassword: VmPasswordBag,
}

impl Databags {
    /// The databags with a command merged into them. `inventory` finds the NICs of commands that
    /// name them by MAC address.
    ///
    /// # Errors
    ///
    /// A NIC that is not there (see [`Command::absent_nics`]), an address that another kind of NIC
    /// holds, a type that this release does not apply.
    pub fn merge(&self, command: &Command, inventory: &Inventory) -> Result<Self, ConfigError> {
        let mut bags = self.clone();
        match command {
            Command::Unknown { .. } => return Ok(bags),
            Command::Unsupported { place, name } => {
                return Err(place.error(format_args!("type {name} is not supported by this release")));
            }
            _ => bags.follow_nics(inventory),
        }
        match command {
            Command::CmdLine(boot) => bags.merge_cmdline(boot, inventory)?,
            Command::Ips(ips) => bags.merge_ips(ips, inventory)?,
            Command::GuestNetwork(tier) => bags.merge_guestnetwork(tier, inventory)?,
            Command::StaticRoutes(routes) => bags.merge_staticroutes(routes),
            Command::ForwardRules(rules) => bags.merge_forwardrules(rules),
            Command::StaticNatRules(rules) => bags.merge_staticnatrules(rules),
            Command::FirewallRules(rules) => bags.merge_firewallrules(rules),
            Command::NetworkAcl(acl) => bags.merge_networkacl(acl, inventory)?,
            Command::VmData(data) => bags.merge_vmdata(data),
            Command::VmPassword(password) => bags.merge_vmpassword(password),
            Command::Unsupported { .. } | Command::Unknown { .. } => {}
        }
        Ok(bags)
    }

    /// Whether nothing was ever said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The bags as JSON documents, by name: what their files hold.
    pub fn documents(&self) -> BTreeMap<&'static str, Value> {
        let mut documents = self.short_documents();
        for (name, bag) in self.policy_bags() {
            let mut file = Vec::new();
            // What was read as JSON is written as JSON, and memory takes it.
            let written = bag.write(name, &mut file).is_ok();
            let document = written.then(|| serde_json::from_slice(&file).ok()).flatten();
            documents.insert(name, document.unwrap_or_default());
        }
        documents
    }

    /// The bags that may be long. They are shared and not copied.
    fn policy_bags(&self) -> [(&'static str, PolicyBag); 4] {
        [
            ("firewallrules", PolicyBag::Firewall(self.firewallrules.clone())),
            ("ipv6firewallrules", PolicyBag::Firewall(self.ipv6firewallrules.clone())),
            ("networkacl", PolicyBag::Acls(self.networkacl.clone())),
            ("vmdata", PolicyBag::Guests(self.vmdata.clone())),
        ]
    }

    /// The other bags.
    fn short_documents(&self) -> BTreeMap<&'static str, Value> {
        let lists = |bag: &ByKey| bag.iter().map(|(key, list)| (key.clone(), json!(list))).collect();
        let routes = self.staticroutes.iter().map(|(key, route)| (key.clone(), json!(route))).collect();
        let config = self.cmdline.iter().map(|config| ("config".to_owned(), json!(config))).collect();
        let bags: [(&'static str, Entry); 6] = [
            ("cmdline", config),
            ("forwardingrules", lists(&self.forwardingrules)),
            ("guestnetwork", lists(&self.guestnetwork)),
            ("ips", lists(&self.ips)),
            ("staticroutes", routes),
            ("vmpassword", self.vmpassword_document()),
        ];
        let with_id = |(name, mut bag): (&'static str, Entry)| {
            bag.insert("id".to_owned(), json!(name));
            (name, Value::Object(bag))
        };
        bags.into_iter().map(with_id).collect()
    }

    /// Reads the bag `name` from its document. `place` is where that stands.
    fn read_bag(&mut self, name: &str, place: Place, text: &str) -> Result<(), ConfigError> {
        match name {
            "firewallrules" => {
                self.firewallrules = policy::read_firewall(&Raw::read(place, text)?, Family::Ipv4)?;
                return Ok(());
            }
            "ipv6firewallrules" => {
                self.ipv6firewallrules = policy::read_firewall(&Raw::read(place, text)?, Family::Ipv6)?;
                return Ok(());
            }
            "networkacl" => {
                self.networkacl = policy::read_acls(&Raw::read(place, text)?)?;
                return Ok(());
            }
            _ => {}
        }
        let document = &document(&place.file, text.as_bytes())?;
        let bag = Object::from_value(place, document)?;
        match name {
            "cmdline" => self.cmdline = read_config(&bag)?,
            "forwardingrules" => self.forwardingrules = read_lists(&bag)?,
            "guestnetwork" => self.guestnetwork = read_lists(&bag)?,
            "ips" => self.ips = read_lists(&bag)?,
            "staticroutes" => self.staticroutes = read_routes(&bag)?,
            "vmdata" => self.vmdata = vmdata::read(&bag)?,
            "vmpassword" => self.vmpassword = vmdata::read_passwords(&bag)?,
            _ => return Err(bag.place().error("no databag has this name")),
        }
        Ok(())
    }

    /// Moves entries whose NIC has another name now. CloudStack numbers NICs anew at each start,
    /// and the kernel names them as they come, so the MAC address alone says which NIC is meant.
    fn follow_nics(&mut self, inventory: &Inventory) {
        let name_of = |entry: &Entry, key: &str| {
            let mac: Mac = entry.get(key)?.as_str()?.parse().ok()?;
            inventory.by_mac(mac).map(|nic| nic.name.clone())
        };
        let mut moved = BTreeMap::new();
        let tiers = std::mem::take(&mut self.guestnetwork);
        self.guestnetwork = regroup(tiers, |device, tier| {
            let name = name_of(tier, "mac_address")?;
            if name != device
                && let Some(address) = tier.get("router_guest_ip")
            {
                moved.insert((device.to_owned(), address.to_string()), name.clone());
            }
            Some(name)
        });
        let addresses = std::mem::take(&mut self.ips);
        self.ips = regroup(addresses, |device, entry| {
            let tier = (device.to_owned(), entry.get("public_ip")?.to_string());
            name_of(entry, "vif_mac_address").or_else(|| moved.get(&tier).cloned())
        });
        self.move_acls(inventory);
    }
}

/// Puts each entry under the device that `device_of` says, or leaves it where it is.
fn regroup(bag: ByKey, mut device_of: impl FnMut(&str, &Entry) -> Option<String>) -> ByKey {
    let mut grouped: ByKey = bag.keys().map(|device| (device.clone(), Vec::new())).collect();
    for (device, entries) in bag {
        for mut entry in entries {
            let now = device_of(&device, &entry).unwrap_or_else(|| device.clone());
            if now != device {
                entry.insert("device".to_owned(), json!(now));
            }
            grouped.entry(now).or_default().push(entry);
        }
    }
    grouped
}

fn read_config(bag: &Object) -> Result<Option<Entry>, ConfigError> {
    if let Some(unknown) = bag.unknown_keys(|key| ["id", "config"].contains(&key)).pop() {
        return Err(unknown);
    }
    Ok(bag.object("config")?.map(|config| config.to_entry()))
}

fn read_lists(bag: &Object) -> Result<ByKey, ConfigError> {
    let mut lists = ByKey::new();
    for (key, value) in bag.entries().filter(|(key, _)| *key != "id") {
        let entries = list(&bag.place().at(key), value)?;
        lists.insert(key.clone(), entries.iter().map(Object::to_entry).collect());
    }
    Ok(lists)
}

fn read_routes(bag: &Object) -> Result<BTreeMap<String, Entry>, ConfigError> {
    let routes = bag.entries().filter(|(key, _)| *key != "id");
    routes
        .map(|(network, value)| {
            let route = Object::from_value(bag.place().at(network), value)?;
            Ok((network.clone(), route.to_entry()))
        })
        .collect()
}

/// The name of the NIC that has a MAC address.
fn nic_name<'a>(place: &Place, mac: Mac, inventory: &'a Inventory) -> Result<&'a str, ConfigError> {
    let nic = inventory.by_mac(mac).map(|nic| nic.name.as_str());
    nic.ok_or_else(|| place.error(format_args!("no NIC has the address {mac}")))
}
