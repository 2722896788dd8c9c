//! Messages with pieces missing and pieces wrong.

use router_userspace::cloudstack::{Command, Databags, desired};

use super::{APPLIED, ISOLATED_WITH_NAT, VPC, every_nic, fixtures, isolated, merge_all, vpc};

#[test]
fn no_truncation_is_taken_for_a_message() {
    for (name, bytes) in APPLIED.iter().flat_map(|folder| fixtures(folder)) {
        for length in 0..bytes.len() {
            assert!(Command::parse(&name, &bytes[..length]).is_err(), "{name} cut at {length}");
        }
    }
}

/// Small and repeatable: the tests need variety, not randomness.
pub(super) struct Random(pub(super) u64);

impl Random {
    /// A number below `limit` (xorshift).
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (limit as u64)).expect("below a usize")
    }
}

#[test]
fn mutations_never_panic_and_never_change_the_databags_on_error() {
    const WORDS: [&str; 16] = [
        "null",
        "-1",
        "1e9",
        "[]",
        "{}",
        "true",
        "\"\"",
        "\"eth0\"",
        "99999999999999999999",
        "0.0.0.0",
        "255.255.255.255",
        "::",
        "\"control\"",
        "\"add\"",
        "\"\\ud800\"",
        "10.10.1.1",
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let messages: Vec<_> = APPLIED.iter().flat_map(|folder| fixtures(folder)).collect();
    let starts = [
        Databags::default(),
        merge_all(&VPC, &vpc()),
        merge_all(&["cmd_line/router_isolated.json"], &isolated()),
        merge_all(&ISOLATED_WITH_NAT, &isolated()),
    ];
    let (mut refused, mut merged) = (0, 0);
    for round in 0..6000 {
        let (name, message) = &messages[random.below(messages.len())];
        let mut message = message.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(message.len());
            match random.below(3) {
                0 => message[at] = u8::try_from(random.below(256)).expect("a byte"),
                1 => message.truncate(at.max(1)),
                _ => {
                    let end = (at + random.below(12)).min(message.len());
                    message.splice(at..end, WORDS[random.below(WORDS.len())].bytes());
                }
            }
        }
        let bags = &starts[round % starts.len()];
        let before = bags.clone();
        let inventory = [vpc(), isolated(), every_nic()][random.below(3)].clone();
        let after = Command::parse(name, &message).and_then(|parsed| bags.merge(&parsed.command, &inventory));
        assert_eq!(*bags, before);
        match after.and_then(|bags| desired(&bags)) {
            Ok(_) => merged += 1,
            Err(error) => {
                assert!(!error.message.is_empty() && !error.file.is_empty());
                refused += 1;
            }
        }
    }
    assert!(refused > 1000 && merged > 100, "{refused} refused, {merged} merged: too much of one kind");
}
