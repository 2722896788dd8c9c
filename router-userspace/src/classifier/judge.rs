//! What a list says of a flow's first packet: as the programs find it (`router_ebpf::policy`), over the same
//! blocks, without counting it.
//!
//! Down the trie by destination, from each place on the way down that by source, and from each on that way down the
//! one by protocol and port; what lies behind the first rule so far is left out.

use std::net::IpAddr;

use router_common::policy::{Block, NO_RULE, Pointer};

use super::record::{Key, Record};
use super::store::is_rules;
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
            if !at.leads_before(rank) {
                continue;
            }
            let block = memory.block(at.index());
            if !is_rules(at.kind()) {
                let slots = asked.keys[at.kind() as usize].slots(Block::level(block.words[Block::PLACE]));
                waiting.extend(slots.map(|slot| Pointer(block.words[slot])));
                continue;
            }
            match Record::of(&block, at.kind()).find(|record| record.rank >= rank || asked.is_about(record)) {
                Some(first) if first.rank < rank => {
                    (rank, allows) = (first.rank, first.rank & Block::ALLOWS != 0);
                }
                Some(_) => {}
                None => waiting.push(Pointer(block.words[Block::NEXT])),
            }
        }
        Some(if allows { Action::Allow } else { Action::Deny })
    }
}

/// A question as the tries have it.
struct Asked {
    /// By [`Pointer::kind`], whole.
    keys: [Key; 3],
    protocol: u8,
    port: u16,
}

impl From<&Question> for Asked {
    fn from(question: &Question) -> Self {
        let whole = |bits| Key { bits, length: 128 };
        let address = |address: IpAddr| match address {
            IpAddr::V4(address) => whole(u128::from(address.to_bits()) << 96),
            IpAddr::V6(address) => whole(address.to_bits()),
        };
        let Question { source, destination, protocol, port } = *question;
        let place = whole((u128::from(protocol) << 16 | u128::from(port)) << 104);
        Self { keys: [address(destination), address(source), place], protocol, port }
    }
}

impl Asked {
    /// Whether a rule is about it: on the way to it not all bits were compared.
    fn is_about(&self, rule: &Record) -> bool {
        let [destination, source, _] = self.keys;
        rule.is_about(source, destination, self.protocol, self.port)
    }
}
