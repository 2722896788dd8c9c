//! The databags: everything CloudStack has said so far, as its own router remembers it.
//!
//! ```text
//! bag (file)            shape                          written by
//! bgppeers.json         PEER-NETWORK → peer            bgppeers
//! cmdline.json          config → key → value           cmdline
//! firewallrules.json    rule's number → rule           firewallrules
//! forwardingrules.json  public address → list of rules forwardrules, staticnatrules
//! guestnetwork.json     ethN → list of one tier        guestnetwork
//! ips.json              ethN → list of addresses       cmdline, ips, guestnetwork, ipaliases
//! ipv6firewallrules.json  as firewallrules             ipv6firewallrules
//! loadbalancer.json     config → list of one           loadbalancer
//! networkacl.json       ethN → message                 networkacl
//! remoteaccessvpn.json  public address → message       remoteaccessvpn
//! site2sitevpn.json     peer → message                 site2sitevpn
//! staticroutes.json     network → route                staticroutes
//!
//! dhcpentry.json        address → message              dhcpentry
//! monitorservice.json   key → value                    monitorservice
//! vpnuserlist.json      name → user                    vpnuserlist
//! vmdata.json           guest's address → list of items  vmdata
//! vmpassword.json       guest's address → password, the last message's alone  vmpassword
//! ```
//!
//! Forwarding rests on the first table; what they mean, they mean together. The others are each about
//! itself. But for `bgppeers`, each file has its name under `id` as well. The entries are kept as they
//! were written, unknown keys included, so that another release finds what it knows; they are read by
//! `wire` again.
//!
//! Invariants: a damaged bag is remembered as such and never taken for an empty one, merged into or
//! written; a merge that fails leaves its `Databags` as they were; a merge of what is already there
//! changes nothing.

mod bgppeers;
mod cmdline;
mod dhcpentry;
mod forwardingrules;
mod guestnetwork;
mod ipaliases;
mod ips;
mod loadbalancer;
mod monitorservice;
mod mtu;
mod pieces;
mod policy;
mod remoteaccessvpn;
mod site2sitevpn;
mod staticroutes;
mod store;
mod vmdata;
mod vpnuserlist;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::slice;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use self::ips::Addresses;
use self::policy::PolicyBag;
pub(in crate::cloudstack) use self::policy::{Acls, Firewall};
pub use self::store::Files;
use self::vmdata::{VmDataBag, VmPasswordBag};

use super::command::Command;
use super::object::{Entry, Object, list};
use super::raw::Raw;
use super::wire::Family;
use super::wire::bgppeers::BgpPeer;
use super::wire::dhcpentry::DhcpEntry;
use super::wire::loadbalancer::LoadBalancer;
use super::wire::monitorservice::MonitorService;
use super::wire::remoteaccessvpn::RemoteAccessVpn;
use super::wire::site2sitevpn::Site2SiteVpn;
use super::wire::vpnuserlist::VpnUser;
use crate::compile::{Index, Inventory};
use crate::error::ConfigError;
use crate::json::{Place, document};
use crate::model::Mac;

/// What a bag's file holds.
type Document<'a> = BTreeMap<Cow<'a, str>, Part<'a>>;

/// What is under a key of such a file.
#[derive(PartialEq, Serialize)]
#[serde(untagged)]
enum Part<'a> {
    List(&'a [Entry]),
    Entry(&'a Entry),
    Value(&'a Value),
    Text(&'a str),
}

/// NIC or public address → entries.
type ByKey = BTreeMap<String, Vec<Entry>>;

/// Entries by what they are known by. Copies share them until one is changed.
type Keyed = Arc<BTreeMap<String, Entry>>;

/// The bags that forwarding rests on.
const FORWARDING: [&str; 12] = [
    "bgppeers",
    "cmdline",
    "firewallrules",
    "forwardingrules",
    "guestnetwork",
    "ips",
    "ipv6firewallrules",
    "loadbalancer",
    "networkacl",
    "remoteaccessvpn",
    "site2sitevpn",
    "staticroutes",
];

/// Everything CloudStack has said so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Databags {
    /// `config` of the boot line; `None` before the first.
    pub(super) cmdline: Option<Entry>,
    /// By public address.
    pub(super) forwardingrules: ByKey,
    pub(super) guestnetwork: ByKey,
    pub(super) ips: Addresses,
    pub(super) firewallrules: Firewall,
    pub(super) ipv6firewallrules: Firewall,
    pub(super) monitorservice: Entry,
    pub(super) networkacl: Acls,
    pub(super) staticroutes: BTreeMap<String, Entry>,
    pub(super) bgppeers: Keyed,
    pub(super) dhcpentry: Keyed,
    /// The one configuration; `None` before the first.
    pub(super) loadbalancer: Option<Arc<Entry>>,
    pub(super) remoteaccessvpn: Keyed,
    pub(super) site2sitevpn: Keyed,
    pub(super) vpnuserlist: Keyed,
    /// Why what is in a file is not known, by bag. The bag here is an empty one then, and stands for nothing.
    damage: BTreeMap<&'static str, ConfigError>,
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
    /// holds, a bag that is damaged: the command's own, or of a
    /// command about forwarding any that this rests on.
    pub fn merge(&self, command: &Command, inventory: &Inventory) -> Result<Self, ConfigError> {
        let nics = inventory.index();
        let mut bags = self.following(&nics, command.is_about_forwarding());
        bags.take(command, &nics)?;
        Ok(bags)
    }

    /// The same with several, one after the other. `at` becomes the name of the one that an error is about.
    ///
    /// # Errors
    ///
    /// As [`merge`](Self::merge).
    pub fn merge_all<'a>(
        &self,
        commands: &[(&'a str, Command)],
        inventory: &Inventory,
        at: &mut &'a str,
    ) -> Result<Self, ConfigError> {
        let nics = inventory.index();
        let is_about_forwarding = commands.iter().any(|(_, command)| command.is_about_forwarding());
        let mut bags = self.following(&nics, is_about_forwarding);
        for (name, command) in commands {
            *at = name;
            bags.take(command, &nics)?;
        }
        Ok(bags)
    }

    /// The same, with entries where their NICs are now if anything rests on that.
    fn following(&self, nics: &Index<'_>, is_about_forwarding: bool) -> Self {
        let mut bags = self.clone();
        if is_about_forwarding {
            bags.follow_nics(nics);
        }
        bags
    }

    fn take(&mut self, command: &Command, nics: &Index<'_>) -> Result<(), ConfigError> {
        if let Some(damage) = self.damage_for(command) {
            let ConfigError { file, path, message } = damage;
            return Err(ConfigError::new(
                file,
                path,
                format_args!("{message}: a damaged databag is not written to"),
            ));
        }
        match command {
            Command::CmdLine(boot) => self.merge_cmdline(boot, nics)?,
            Command::Ips(ips) => self.merge_ips(ips, nics)?,
            Command::GuestNetwork(tier) => self.merge_guestnetwork(tier, nics)?,
            Command::StaticRoutes(routes) => self.merge_staticroutes(routes),
            Command::ForwardRules(rules) => self.merge_forwardrules(rules),
            Command::StaticNatRules(rules) => self.merge_staticnatrules(rules),
            Command::FirewallRules(rules) => self.merge_firewallrules(rules),
            Command::NetworkAcl(acl) => self.merge_networkacl(acl, nics)?,
            Command::MonitorService(message) => self.merge_monitorservice(message),
            Command::IpAliases(aliases) => self.merge_ipaliases(aliases)?,
            Command::DhcpEntry(entry) => self.merge_dhcpentry(entry),
            Command::LoadBalancer(configuration) => self.merge_loadbalancer(configuration),
            Command::Site2SiteVpn(tunnel) => self.merge_site2sitevpn(tunnel),
            Command::RemoteAccessVpn(server) => self.merge_remoteaccessvpn(server),
            Command::VpnUserList(users) => self.merge_vpnuserlist(users),
            Command::BgpPeers(peers) => self.merge_bgppeers(peers),
            Command::VmData(data) => self.merge_vmdata(data),
            Command::VmPassword(password) => self.merge_vmpassword(password),
            Command::Unknown { .. } => {}
        }
        Ok(())
    }

    /// Whether there is a boot line, on which everything else rests.
    pub fn has_boot_line(&self) -> bool {
        self.cmdline.is_some()
    }

    /// What is damaged, with the full names of the files.
    pub fn damage(&self) -> impl Iterator<Item = &ConfigError> {
        self.damage.values()
    }

    /// What is damaged of that which forwarding rests on.
    pub fn forwarding_damage(&self) -> Option<&ConfigError> {
        FORWARDING.iter().find_map(|name| self.damage.get(name))
    }

    fn damage_for(&self, command: &Command) -> Option<&ConfigError> {
        if command.is_about_forwarding() {
            return self.forwarding_damage();
        }
        // Types that are about themselves have bags of their own name.
        self.damage.get(command.type_name())
    }

    /// Whether nothing was ever said that forwarding rests on.
    pub(super) fn is_without_forwarding(&self) -> bool {
        self.cmdline.is_none()
            && self.forwardingrules.is_empty()
            && self.guestnetwork.is_empty()
            && self.ips.is_empty()
            && self.firewallrules.is_empty()
            && self.ipv6firewallrules.is_empty()
            && self.networkacl.is_empty()
            && self.staticroutes.is_empty()
    }

    /// How much there is to serve of each bag that is about remote access: without the marks of what is gone, and
    /// without removals that CloudStack's own router may have stored.
    pub(super) fn to_serve(&self) -> [(&'static str, usize); 2] {
        let with = |bag: &Keyed, key| bag.values().filter(|entry| ips::is_true(entry, key)).count();
        [
            ("remoteaccessvpn", with(&self.remoteaccessvpn, "create")),
            ("vpnuserlist", with(&self.vpnuserlist, "add")),
        ]
    }

    /// Whether there is something of remote access to serve.
    pub fn wants_remote_access(&self) -> bool {
        self.to_serve().iter().any(|(_, count)| *count > 0)
    }

    /// The bags as JSON documents, by name: what their files hold.
    pub fn documents(&self) -> BTreeMap<&'static str, Value> {
        let short = self.short_documents();
        let mut documents: BTreeMap<_, _> =
            short.into_iter().map(|(name, document)| (name, json!(document))).collect();
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
    fn short_documents(&self) -> BTreeMap<&'static str, Document<'_>> {
        fn keyed(bag: &BTreeMap<String, Entry>) -> Document<'_> {
            bag.iter().map(|(key, entry)| (key.as_str().into(), Part::Entry(entry))).collect()
        }
        fn lists(bag: &ByKey) -> Document<'_> {
            bag.iter().map(|(key, list)| (key.as_str().into(), Part::List(list))).collect()
        }
        let config = |part| Document::from([("config".into(), part)]);
        let values = self.monitorservice.iter();
        let passwords = self.vmpassword.iter();
        let bags: [(&'static str, Document<'_>); 13] = [
            ("bgppeers", keyed(&self.bgppeers)),
            ("cmdline", self.cmdline.as_ref().map(|boot| config(Part::Entry(boot))).unwrap_or_default()),
            ("dhcpentry", keyed(&self.dhcpentry)),
            ("forwardingrules", lists(&self.forwardingrules)),
            ("guestnetwork", lists(&self.guestnetwork)),
            ("ips", lists(&self.ips)),
            (
                "monitorservice",
                values.map(|(key, value)| (key.as_str().into(), Part::Value(value))).collect(),
            ),
            (
                "loadbalancer",
                self.loadbalancer
                    .as_deref()
                    .map(|entry| config(Part::List(slice::from_ref(entry))))
                    .unwrap_or_default(),
            ),
            ("remoteaccessvpn", keyed(&self.remoteaccessvpn)),
            ("site2sitevpn", keyed(&self.site2sitevpn)),
            ("staticroutes", keyed(&self.staticroutes)),
            ("vpnuserlist", keyed(&self.vpnuserlist)),
            (
                "vmpassword",
                passwords.map(|(guest, own)| (guest.to_string().into(), Part::Text(own.reveal()))).collect(),
            ),
        ];
        let mut documents = BTreeMap::from(bags);
        for (name, bag) in documents.iter_mut().filter(|(name, _)| **name != "bgppeers") {
            bag.insert("id".into(), Part::Text(name));
        }
        documents
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
            "ips" => self.ips = read_lists(&bag)?.into(),
            "monitorservice" => {
                self.monitorservice = MonitorService::read(&bag)?.entry;
                self.monitorservice.remove("id");
            }
            "staticroutes" => self.staticroutes = read_routes(&bag)?,
            "bgppeers" => self.bgppeers = read_keyed(&bag, |peer| Ok(BgpPeer::read(peer)?.key()))?,
            "dhcpentry" => {
                self.dhcpentry = read_keyed(&bag, |entry| Ok(DhcpEntry::read(entry)?.address.to_string()))?;
            }
            "loadbalancer" => self.loadbalancer = read_balancer(&bag)?,
            "remoteaccessvpn" => {
                let key = |server: &Object| Ok(RemoteAccessVpn::read(server)?.server.to_string());
                self.remoteaccessvpn = read_keyed(&bag, key)?;
            }
            "site2sitevpn" => {
                self.site2sitevpn =
                    read_keyed(&bag, |tunnel| Ok(Site2SiteVpn::read(tunnel)?.peer.to_string()))?;
            }
            "vpnuserlist" => self.vpnuserlist = read_keyed(&bag, |user| Ok(VpnUser::read(user)?.name))?,
            "vmdata" => self.vmdata = vmdata::read(&bag)?,
            "vmpassword" => self.vmpassword = vmdata::read_passwords(&bag)?,
            _ => return Err(bag.place().error("no databag has this name")),
        }
        Ok(())
    }

    /// Moves entries whose NIC has another name now. CloudStack numbers NICs anew at each start,
    /// and the kernel names them as they come, so the MAC address alone says which NIC is meant.
    fn follow_nics(&mut self, nics: &Index<'_>) {
        let name_of = |entry: &Entry, key: &str| {
            let mac: Mac = entry.get(key)?.as_str()?.parse().ok()?;
            nics.by_mac(mac).map(|nic| nic.name.clone())
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
        let addresses = std::mem::take(&mut self.ips).into();
        let addresses = regroup(addresses, |device, entry| {
            let tier = (device.to_owned(), entry.get("public_ip")?.to_string());
            name_of(entry, "vif_mac_address").or_else(|| moved.get(&tier).cloned())
        });
        self.ips = addresses.into();
        self.move_acls(nics);
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

/// Entries that are what they say, each under what it is known by.
fn read_keyed(
    bag: &Object,
    key_of: impl Fn(&Object) -> Result<String, ConfigError>,
) -> Result<Keyed, ConfigError> {
    let entries = bag.entries().filter(|(key, _)| *key != "id");
    let read = entries.map(|(key, value)| {
        let object = Object::from_value(bag.place().at(key), value)?;
        let own = key_of(&object)?;
        if own != *key {
            return Err(object.place().error(format_args!("{own} in the place of {key}")));
        }
        Ok((own, object.to_entry()))
    });
    read.collect::<Result<_, _>>().map(Arc::new)
}

fn read_balancer(bag: &Object) -> Result<Option<Arc<Entry>>, ConfigError> {
    if let Some(unknown) = bag.unknown_keys(|key| ["id", "config"].contains(&key)).pop() {
        return Err(unknown);
    }
    if bag.items("config")?.is_none() {
        return Ok(None);
    }
    Ok(Some(Arc::new(LoadBalancer::stored(bag)?.entry)))
}

/// The name of the NIC that has a MAC address.
fn nic_name<'a>(place: &Place, mac: Mac, nics: &Index<'a>) -> Result<&'a str, ConfigError> {
    let nic = nics.by_mac(mac).map(|nic| nic.name.as_str());
    nic.ok_or_else(|| place.error(format_args!("no NIC has the address {mac}")))
}
