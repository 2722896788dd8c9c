//! The router's own TCP on the ports that lead outside, which CloudStack bills beside the guests': its load balancer's.
//!
//! The packet programs do not see what the router itself sends. nftables counts it, over IPv4 as today's router does:
//!
//! ```text
//! table ip xvr-usage {
//!     counter out-02:00:00:00:00:01 { … }
//!     chain input { type filter hook input priority 0; policy accept; iif 5 meta l4proto tcp counter name in-… }
//!     chain output { type filter hook output priority 0; policy accept; oif 5 meta l4proto tcp counter name out-… }
//! }
//! ```
//!
//! Counters are objects, named after the NIC's MAC address, and stay when rules are written anew or the NIC goes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use router_common::account::Traffic;

use super::nftables::{NEW_TABLE, ask, base_chain, counted, family, forget_table, kind, table, transaction};
use crate::model::Mac;
use crate::raw_netlink::{ACK, CREATE, DUMP, Message, NESTED, find, nest};

/// What the router itself has sent and received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnTcp {
    /// Packets, and bytes of IP packets.
    pub sent: Traffic,
    /// The other way.
    pub received: Traffic,
}

impl OwnTcp {
    /// Nothing has passed.
    pub const NONE: Self = {
        let nothing = Traffic { packets: 0, bytes: 0 };
        Self { sent: nothing, received: nothing }
    };
}

/// NICs whose TCP is counted, in and out: MAC addresses by interface index.
pub fn observe() -> Result<BTreeMap<u32, Mac>> {
    let rules = Message::new(kind(GET_RULE), DUMP, &IPV4).with_text(RULE_TABLE, TABLE);
    let mut counted: [BTreeMap<u32, Mac>; 2] = Default::default();
    for rule in ask(rules).context("look for rules that count the router's own TCP")? {
        let chain = find(&rule, RULE_CHAIN).and_then(text);
        let of_rule = WAYS.iter().position(|way| Some(way.chain) == chain);
        if let (Some(way), Some((ifindex, mac))) = (of_rule, find(&rule, RULE_USERDATA).and_then(remark)) {
            counted[way].insert(ifindex, mac);
        }
    }
    let [input, output] = counted;
    // Half of it is none: it is written anew.
    Ok(input.into_iter().filter(|(ifindex, mac)| output.get(ifindex) == Some(mac)).collect())
}

/// Has the TCP of these NICs counted and of no others. Counts of those that there are go on.
pub fn set(nics: &BTreeMap<u32, Mac>) -> Result<()> {
    let there: BTreeSet<String> = objects()?.into_keys().collect();
    let mut messages = vec![table(NEW_TABLE, CREATE, &IPV4, TABLE)];
    for way in &WAYS {
        messages.push(way.chain());
        // All of the chain.
        let all = Message::new(kind(DELETE_RULE), ACK, &IPV4);
        messages.push(all.with_text(RULE_TABLE, TABLE).with_text(RULE_CHAIN, way.chain));
        for (ifindex, mac) in nics {
            let counter = way.counter(*mac);
            if !there.contains(&counter) {
                let new = Message::new(kind(NEW_OBJECT), CREATE | ACK, &IPV4);
                let new = new.with_text(OBJECT_TABLE, TABLE).with_text(OBJECT_NAME, &counter);
                messages.push(new.with(OBJECT_TYPE, &COUNTER.to_be_bytes()).with_nest(OBJECT_DATA, &[]));
            }
            messages.push(way.rule(*ifindex, *mac));
        }
    }
    transaction(messages).context("have the router's own TCP counted")
}

/// What was counted, by MAC address.
pub fn read() -> Result<BTreeMap<Mac, OwnTcp>> {
    let mut counted: BTreeMap<Mac, OwnTcp> = BTreeMap::new();
    let [input, output] = &WAYS;
    for (name, traffic) in objects()? {
        if let Some(mac) = input.mac(&name) {
            counted.entry(mac).or_insert(OwnTcp::NONE).received = traffic;
        } else if let Some(mac) = output.mac(&name) {
            counted.entry(mac).or_insert(OwnTcp::NONE).sent = traffic;
        }
    }
    Ok(counted)
}

/// Sets what was counted of a NIC to zero.
pub fn zero(mac: Mac) -> Result<()> {
    for way in &WAYS {
        let reset = Message::new(kind(GET_OBJECT_RESET), ACK, &IPV4)
            .with_text(OBJECT_TABLE, TABLE)
            .with_text(OBJECT_NAME, &way.counter(mac))
            .with(OBJECT_TYPE, &COUNTER.to_be_bytes());
        ask(reset).with_context(|| format!("set the router's own TCP of {mac} to zero"))?;
    }
    Ok(())
}

/// Counts no more, and forgets.
pub fn remove() -> Result<()> {
    forget_table(&IPV4, TABLE).context("have the router's own TCP not counted")
}

/// Every counter.
fn objects() -> Result<BTreeMap<String, Traffic>> {
    let all = Message::new(kind(GET_OBJECT), DUMP, &IPV4)
        .with_text(OBJECT_TABLE, TABLE)
        .with(OBJECT_TYPE, &COUNTER.to_be_bytes());
    let objects = ask(all).context("look for the counters of the router's own TCP")?;
    let read = |object: Vec<u8>| {
        let name = find(&object, OBJECT_NAME).and_then(text)?.to_owned();
        let (packets, bytes) = counted(find(&object, OBJECT_DATA)?)?;
        Some((name, Traffic { packets, bytes }))
    };
    Ok(objects.into_iter().filter_map(read).collect())
}

/// One of the two ways that TCP goes.
struct Way {
    chain: &'static str,
    /// Of the netfilter hook.
    hook: u32,
    /// What the kernel calls the interface.
    interface: u32,
    prefix: &'static str,
}

const WAYS: [Way; 2] = [
    Way { chain: "input", hook: 1, interface: META_IIF, prefix: "in-" },
    Way { chain: "output", hook: 3, interface: META_OIF, prefix: "out-" },
];

impl Way {
    fn chain(&self) -> Message {
        const ACCEPT: u32 = 1;
        base_chain(&IPV4, TABLE, self.chain, self.hook, ACCEPT)
    }

    fn counter(&self, mac: Mac) -> String {
        format!("{}{mac}", self.prefix)
    }

    fn mac(&self, counter: &str) -> Option<Mac> {
        counter.strip_prefix(self.prefix)?.parse().ok()
    }

    /// Counts the TCP of an interface.
    fn rule(&self, ifindex: u32, mac: Mac) -> Message {
        const TCP: u8 = 6;
        let is = |key: u32, value: &[u8]| {
            let load = nest(&[(META_REGISTER, &REGISTER), (META_KEY, &key.to_be_bytes())]);
            let value = nest(&[(DATA_VALUE, value)]);
            let equals = 0_u32.to_be_bytes();
            let compare =
                nest(&[(CMP_REGISTER, &REGISTER), (CMP_OPERATOR, &equals), (CMP_DATA | NESTED, &value)]);
            [expression("meta", &load), expression("cmp", &compare)].concat()
        };
        let mut name = self.counter(mac).into_bytes();
        name.push(0);
        let count = nest(&[(OBJREF_TYPE, &COUNTER.to_be_bytes()), (OBJREF_NAME, &name)]);
        let expressions = [
            is(self.interface, &ifindex.to_ne_bytes()),
            is(META_L4PROTO, &[TCP]),
            expression("objref", &count),
        ];
        Message::new(kind(NEW_RULE), CREATE | APPEND | ACK, &IPV4)
            .with_text(RULE_TABLE, TABLE)
            .with_text(RULE_CHAIN, self.chain)
            .with(RULE_EXPRESSIONS | NESTED, &expressions.concat())
            .with(RULE_USERDATA, &comment(ifindex, mac))
    }
}

fn expression(name: &str, data: &[u8]) -> Vec<u8> {
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    nest(&[(LIST_ELEMENT | NESTED, &nest(&[(EXPRESSION_NAME, &text), (EXPRESSION_DATA | NESTED, data)]))])
}

/// Which NIC a rule is about, as a comment that `nft` shows: type 0, length, text.
fn comment(ifindex: u32, mac: Mac) -> Vec<u8> {
    let text = format!("{ifindex} {mac}\0");
    [&[0, text.len() as u8], text.as_bytes()].concat()
}

/// The reverse of [`comment`].
fn remark(userdata: &[u8]) -> Option<(u32, Mac)> {
    let (ifindex, mac) = text(userdata.get(2..)?)?.split_once(' ')?;
    Some((ifindex.parse().ok()?, mac.parse().ok()?))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.strip_suffix(&[0])?).ok()
}

const TABLE: &str = "xvr-usage";
const IPV4: [u8; 4] = family(2);

// linux/netfilter/nf_tables.h
const APPEND: u16 = 0x800;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const NEW_OBJECT: u16 = 18;
const GET_OBJECT: u16 = 19;
const GET_OBJECT_RESET: u16 = 21;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const META_REGISTER: u16 = 1;
const META_KEY: u16 = 2;
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const META_L4PROTO: u32 = 16;
const CMP_REGISTER: u16 = 1;
const CMP_OPERATOR: u16 = 2;
const CMP_DATA: u16 = 3;
const DATA_VALUE: u16 = 1;
const REGISTER: [u8; 4] = 1_u32.to_be_bytes();
const OBJECT_TABLE: u16 = 1;
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
const OBJREF_TYPE: u16 = 1;
const OBJREF_NAME: u16 = 2;
/// A counter among the types of objects.
const COUNTER: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_says_which_nic_it_is_about() {
        let mac = Mac([2, 1, 0, 0, 0, 0x2b]);
        assert_eq!(remark(&comment(17, mac)), Some((17, mac)));
        assert_eq!(remark(&[]), None);
        assert_eq!(remark(b"\0\x06hello\0"), None);
        let [input, output] = &WAYS;
        assert_eq!(input.mac(&input.counter(mac)), Some(mac));
        assert_eq!(output.mac(&input.counter(mac)), None);
    }
}
