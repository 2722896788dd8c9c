//! What the databags mean.
//!
//! The choices that CloudStack leaves open are written down in `docs/cloudstack.md`.

mod balancer;
mod bgp;
mod nat;
mod pair;
mod policy;
mod ports;
mod remote;
mod routes;
mod vpn;

use std::cmp::Ordering;
use std::net::Ipv4Addr;

use self::policy::PlacedPolicy;
use self::remote::Remote;
use self::vpn::Tunnels;
use super::databag::Databags;
use super::object::Object;
use super::wire::cmdline::{CmdLine, RouterKind};
use super::wire::guestnetwork::GuestNetwork;
use super::wire::ips::IpAssociation;
use super::wire::staticroutes::StaticRoute;
use super::wire::{forwardrules, staticnatrules};
use crate::error::ConfigError;
use crate::json::Place;
use crate::model::{DesiredState, Metadata, Port, PortForward, StaticNat};
use crate::parallel;

/// What the router should do. Without a boot line and anything else: nothing.
///
/// # Errors
///
/// A value of a databag that cannot be read or obeyed, with the databag's file name and the place
/// in it: an address on two ports, tiers that overlap, a port that would be two things at once, a
/// default gateway outside its network, anything that forwarding rests on before the boot line; a bag that
/// is damaged.
pub fn desired(bags: &Databags) -> Result<DesiredState, ConfigError> {
    understand(bags).map(|meaning| meaning.state)
}

/// What of the databags has no effect now, and why: for example a static route whose gateway no
/// port reaches. The places are those of the databags.
///
/// # Errors
///
/// As [`desired`].
pub fn notices(bags: &Databags) -> Result<Vec<ConfigError>, ConfigError> {
    understand(bags).map(|meaning| meaning.notices)
}

/// What of the databags is in force and may surprise all the same: rules that never decide because of
/// earlier ones, access lists of NICs that are not there. Nothing is wrong with any of them.
///
/// # Errors
///
/// As [`desired`].
pub fn remarks(bags: &Databags) -> Result<Vec<ConfigError>, ConfigError> {
    understand(bags).map(|meaning| meaning.policy.remarks(&meaning.state.policy))
}

/// Whether the boot line makes the router one of a pair, and whether it is a VPC's; `None` before the first.
///
/// # Errors
///
/// A boot line that cannot be read.
pub fn boot(bags: &Databags) -> Result<Option<Boot>, ConfigError> {
    let Some(config) = &bags.cmdline else { return Ok(None) };
    let config = Object::new(Place::document("cmdline.json").at("config"), config);
    let is_vpc = CmdLine::read(&config)?.kind == RouterKind::Vpc;
    Ok(Some(Boot { is_vpc, is_redundant: config.boolean("redundant_router")?.unwrap_or(false) }))
}

/// What the boot line says of the router as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// It is a VPC's.
    pub is_vpc: bool,
    /// There is a second one, and one of them serves.
    pub is_redundant: bool,
}

/// What guests are told about themselves.
pub fn metadata(bags: &Databags) -> Metadata {
    let guests = bags.vmdata.iter().map(|(address, data)| (*address, data.guest.clone()));
    Metadata { guests: guests.collect() }
}

/// What the databags mean, and what is to be said about that.
#[derive(Default)]
struct Meaning {
    state: DesiredState,
    notices: Vec<ConfigError>,
    /// Without the lists, which are the state's.
    policy: PlacedPolicy,
}

fn understand(bags: &Databags) -> Result<Meaning, ConfigError> {
    if let Some(damage) = bags.forwarding_damage() {
        return Err(damage.clone());
    }
    if bags.is_without_forwarding() {
        return Ok(Default::default());
    }
    let reading = Reading::of(bags)?;
    let ports = ports::ports(&reading)?;
    ports::check(&ports)?;
    let mut notices = Vec::new();
    let mut routes = routes::routes(&reading, &ports, &mut notices)?;
    let nat = nat::nat(&reading, &ports, &mut notices);
    let pair = pair::pair(&reading, &ports, &mut notices);
    let mut placed = policy::policy(bags, &reading, &ports, &mut notices);
    placed.policy.openings = balancer::openings(bags, &ports, &nat, &mut notices)?;
    placed.policy.openings.extend(bgp::openings(bags)?);
    let tunnels = Tunnels::of(bags, &reading, &ports, &mut notices)?;
    routes.extend(tunnels.routes());
    placed.policy.openings.extend(tunnels.openings());
    tunnels.admit(&mut placed);
    let remote = Remote::of(bags, &reading, &ports, &mut notices)?;
    if let Some(remote) = &remote {
        routes.extend(remote.routes());
        remote.admit(&ports, &mut placed);
    }
    let policy = std::mem::take(&mut placed.policy);
    let further: Vec<Port> = tunnels.port().into_iter().chain(remote.as_ref().map(Remote::port)).collect();
    let (tunnels, remote) = (tunnels.into_tunnels(), remote.map(Remote::into_server));
    let ports = ports.into_iter().map(|port| port.port).chain(further).collect();
    let state = DesiredState { ports, routes, nat, policy, pair, tunnels, remote };
    Ok(Meaning { state, notices, policy: placed })
}

/// The databags, typed.
struct Reading {
    boot: CmdLine,
    /// By NIC, `eth2` before `eth10`.
    associations: Vec<(String, Vec<IpAssociation>)>,
    /// By NIC, `eth2` before `eth10`; wanted tiers only.
    tiers: Vec<(String, GuestNetwork)>,
    /// In the order of their networks' text; revoked ones left out.
    routes: Vec<StaticRoute>,
    /// By public address, in the order of its text; rules of one address in the bag's order.
    rules: Vec<(Place, Rule)>,
}

impl Reading {
    fn of(bags: &Databags) -> Result<Self, ConfigError> {
        let config = Place::document("cmdline.json").at("config");
        let Some(boot) = &bags.cmdline else {
            return Err(config.error("missing: there is no boot line yet, send cmd_line.json first"));
        };
        let boot = CmdLine::read(&Object::new(config, boot))?;

        let associations = parallel::map(&bags.ips.iter().collect::<Vec<_>>(), |(device, entries)| {
            let place = Place::document("ips.json").at(device);
            let entries = entries.iter().enumerate();
            let read = entries.map(|(at, entry)| IpAssociation::read(&Object::new(place.at(at), entry)));
            Ok(((*device).clone(), read.collect::<Result<_, _>>()?))
        });
        let mut associations: Vec<_> = associations.into_iter().collect::<Result<_, _>>()?;
        let tiers = parallel::map(&bags.guestnetwork.iter().collect::<Vec<_>>(), |(device, entries)| {
            let place = Place::document("guestnetwork.json").at(device);
            let entries = entries.iter().enumerate();
            let read = entries.map(|(at, entry)| GuestNetwork::read(&Object::new(place.at(at), entry)));
            let wanted: Vec<_> =
                read.filter(|tier| tier.as_ref().map_or(true, |tier| tier.add)).collect::<Result<_, _>>()?;
            // CloudStack's own router may have stored several; the newest is the last.
            Ok(wanted.into_iter().next_back().map(|tier| ((*device).clone(), tier)))
        });
        let mut tiers: Vec<_> = tiers.into_iter().filter_map(Result::transpose).collect::<Result<_, _>>()?;
        let place = Place::document("staticroutes.json");
        let routes = bags.staticroutes.iter();
        let routes = routes.map(|(key, entry)| StaticRoute::read(&Object::new(place.at(key), entry)));
        let mut routes: Vec<_> = routes.collect::<Result<_, _>>()?;

        associations.sort_by(|(a, _), (b, _)| by_number(a, b));
        tiers.sort_by(|(a, _), (b, _)| by_number(a, b));
        routes.retain(|route| !route.revoke);
        Ok(Self { boot, associations, tiers, routes, rules: rules(bags)? })
    }
}

/// A rule of the `forwardingrules` bag.
enum Rule {
    StaticNat(StaticNat),
    Forward(PortForward),
}

impl Rule {
    fn public(&self) -> Ipv4Addr {
        match self {
            Self::StaticNat(rule) => rule.public,
            Self::Forward(rule) => rule.public,
        }
    }

    fn internal(&self) -> Ipv4Addr {
        match self {
            Self::StaticNat(rule) => rule.internal,
            Self::Forward(rule) => rule.internal,
        }
    }
}

fn rules(bags: &Databags) -> Result<Vec<(Place, Rule)>, ConfigError> {
    let mut rules = Vec::new();
    for (address, entries) in &bags.forwardingrules {
        let list = Place::document("forwardingrules.json").at(address);
        for (index, entry) in entries.iter().enumerate() {
            let object = Object::new(list.at(index), entry);
            let rule = match object.required("type", object.text("type")?)?.as_str() {
                "staticnat" => Rule::StaticNat(staticnatrules::stored(&object)?),
                "forward" => Rule::Forward(forwardrules::stored(&object)?),
                other => {
                    let message = format_args!("{other:?} is none of staticnat, forward");
                    return Err(object.error("type", message));
                }
            };
            let public = rule.public();
            if public.to_string() != *address {
                return Err(object.error("public_ip", format_args!("{public} in the list of {address}")));
            }
            rules.push((object.place().into_owned(), rule));
        }
    }
    Ok(rules)
}

/// `eth2` before `eth10`, other names after them.
fn by_number(a: &str, b: &str) -> Ordering {
    let number = |name: &str| {
        name.strip_prefix("eth").and_then(|number| number.parse::<u32>().ok()).unwrap_or(u32::MAX)
    };
    number(a).cmp(&number(b)).then_with(|| a.cmp(b))
}
