//! What a list says of a flow's first packet: as the programs find it (`router_ebpf::policy`), over the same
//! blocks, without counting it.
//!
//! Down the trie by destination, from each place on the way down that by source, and from each on that way down the
//! one by protocol and port; what lies behind the first rule so far is left out.

use std::net::IpAddr;

use router_common::policy::{ANY_PROTOCOL, Block, NO_RULE, Pointer};

use super::record::{Dimension, Key, key};
use super::{Classifier, Memory};
use crate::model::policy::{Action, Question};

impl<M: Memory> Classifier<M> {
    /// What a list says; `None` if there is none of that number.
    pub fn judge(&self, number: u32, question: &Question) -> Option<Action> {
        let list = self.lists.get(&number)?.value;
        let memory = &self.store.memory;
        let asked = Asked::from(question);
        let (mut rank, mut allows) = (NO_RULE, list.default_allows != 0);
        let mut waiting = vec![Pointer(list.roots[usize::from(question.source.is_ipv6())])];
        while let Some(at) = waiting.pop() {
            // A pointer to where there is nothing was not written by us.
            if at.is_none() || at.index() >= memory.blocks() {
                continue;
            }
            let block = memory.block(at.index());
            if block.words[Block::RANK] >= rank {
                continue;
            }
            match at.kind() {
                Pointer::RULE if asked.is_about(&block) => {
                    (rank, allows) = (block.words[Block::RANK], block.words[Block::MATCH] & 1 != 0);
                }
                Pointer::RULE => waiting.push(Pointer(block.words[Block::NEXT])),
                kind => {
                    let slots = asked.keys[kind as usize].slots(at.level());
                    waiting.extend(slots.map(|slot| Pointer(block.words[slot])));
                }
            }
        }
        Some(if allows { Action::Allow } else { Action::Deny })
    }
}

/// A question as the tries have it.
struct Asked {
    /// By [`Pointer::kind`], whole.
    keys: [Key; 3],
    protocol: u32,
    port: u32,
}

impl From<&Question> for Asked {
    fn from(question: &Question) -> Self {
        let whole = |bits| Key { bits, length: 128 };
        let address = |address: IpAddr| match address {
            IpAddr::V4(address) => whole(u128::from(address.to_bits()) << 96),
            IpAddr::V6(address) => whole(address.to_bits()),
        };
        let (protocol, port) = (u32::from(question.protocol), u32::from(question.port));
        let place = whole(u128::from(protocol << 16 | port) << 104);
        Self { keys: [address(question.destination), address(question.source), place], protocol, port }
    }
}

impl Asked {
    /// Whether a rule is about it: on the way to it not all bits were compared.
    fn is_about(&self, rule: &Block) -> bool {
        let (protocol, ports) = (rule.words[Block::MATCH] >> 8 & 0xff, rule.words[Block::PORTS]);
        let port = self.port & rule.words[Block::PORT_MASK];
        let is_within = |dimension: Dimension| {
            let network = key(rule, dimension);
            network.common(self.keys[dimension as usize]) == network.length
        };
        (protocol == self.protocol || protocol == u32::from(ANY_PROTOCOL))
            && (ports >> 16..=ports & 0xffff).contains(&port)
            && is_within(Dimension::Destination)
            && is_within(Dimension::Source)
    }
}
