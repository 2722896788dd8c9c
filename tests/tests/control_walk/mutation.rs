//! Every message with pieces of its JSON replaced: what holds for whatever arrives.

use std::fs;
use std::path::Path;

use router_userspace::cloudstack::{Command, Databags, Files, desired, notices, remarks, unserved};
use router_userspace::error::ConfigError;
use serde_json::{Map, Value, json};

use super::damage::Random;
use super::{ISOLATED_WITH_NAT, VPC, every_nic, fixtures, folder, isolated, merge_all, vpc};

/// Texts that some reader might take for something.
const TEXTS: [&str; 28] = [
    "",
    " ",
    "null",
    "None",
    "true",
    "id",
    "eth0",
    "eth2",
    "0",
    "-1",
    "65536",
    "4294967296",
    "0.0.0.0",
    "0.0.0.0/0",
    "255.255.255.255",
    "10.1.1.1",
    "10.10.1.1/33",
    "10.20.0.2",
    "::",
    "::1/129",
    "02:00:3c:91:00:04",
    "02:00:3C:91:00:04:05",
    "a,b",
    "\u{0}\n\t",
    "\u{feff}\u{202e}é😀",
    "../../etc/passwd",
    "1:2:3",
    "aes256-sha256;modp2048,",
];

/// JSON that `serde_json::Value` cannot hold: it stands for the text in the document.
const LITERALS: [(&str, &str); 9] = [
    ("@long", "184467440737095516161844674407370955161"),
    ("@large", "1.7976931348623157e308"),
    ("@larger", "1e999"),
    ("@digits", "0.1234567890123456789012345678901234567890"),
    ("@power", "4.35e-7"),
    ("@nought", "-0"),
    ("@surrogate", r#""\ud800""#),
    ("@pair", r#""\ud83d\ude00""#),
    ("@bare", "10.1.1.1"),
];

/// What a key that is there twice begins with.
const TWICE: &str = "@twice:";

#[test]
fn whatever_arrives_is_refused_by_place_or_kept_as_it_is_understood() {
    const ROUNDS: usize = 30;
    let mut random = Random(0x0123_4567_89ab_cdef);
    let shared = merge_all(&["cmd_line/dhcpsrvr_shared.json", "ip_aliases/create.json"], &every_nic());
    let starts = [
        (Databags::default(), every_nic()),
        (merge_all(&VPC, &vpc()), vpc()),
        (merge_all(&ISOLATED_WITH_NAT, &isolated()), isolated()),
        (shared, every_nic()),
    ];
    // One for each start, so that only what a message changes is written.
    let mut stores: Vec<Store> = (0..starts.len()).map(Store::new).collect();
    let (mut refused, mut accepted) = (0, 0);
    for (name, message) in every_message() {
        let original: Value = serde_json::from_slice(&message).expect("valid");
        for round in 0..ROUNDS {
            let bytes = mutated(&original, &mut random);
            let (bags, inventory) = &starts[round % starts.len()];
            let before = bags.clone();
            let after = Command::parse(&name, &bytes).and_then(|parsed| {
                let after = bags.merge(&parsed.command, inventory)?;
                // As with CloudStack's own router, a removed tier leaves an empty list, which the next removal takes.
                let is_removal = matches!(&parsed.command, Command::GuestNetwork(tier) if !tier.says.add);
                let again = after.merge(&parsed.command, inventory);
                assert!(is_removal || again.as_ref() == Ok(&after), "twice: {}", said(&name, &bytes));
                desired(&after)?;
                Ok(after)
            });
            assert_eq!(*bags, before, "{}", said(&name, &bytes));
            match after {
                Ok(after) => {
                    for sentence in notices(&after).expect("understood") {
                        assert_is_placed(&sentence, &name);
                    }
                    remarks(&after)
                        .expect("understood")
                        .iter()
                        .for_each(|said| assert_is_placed(said, &name));
                    unserved(&after, Some("")).iter().for_each(|said| assert_is_placed(said, &name));
                    accepted += 1;
                    // Each file is written to the disk, which takes its time.
                    if accepted % 4 == 0 {
                        stores[round % starts.len()].holds(&after, &said(&name, &bytes));
                    }
                }
                Err(error) => {
                    assert_is_placed(&error, &name);
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 1000 && accepted > 500, "{refused} refused, {accepted} accepted: too much of one kind");
}

/// `file#/json/pointer: what is wrong`, with the file of the message or of a databag.
fn assert_is_placed(error: &ConfigError, name: &str) {
    let ConfigError { file, path, message } = error;
    let is_bag = file.ends_with(".json") && !file.contains('/');
    assert!(file == name || is_bag, "{error}");
    assert!(path.is_empty() || path.starts_with('/'), "{error}");
    assert!(!message.is_empty(), "{error}");
    assert_eq!(error.to_string(), format!("{file}#{path}: {message}"));
}

/// The databags' folder, over and over.
struct Store {
    folder: std::path::PathBuf,
    files: Files,
}

impl Store {
    fn new(number: usize) -> Self {
        let name = format!("mutation-{}-{number}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        let files = Files::new(&folder);
        Self { folder, files }
    }

    fn holds(&mut self, bags: &Databags, said: &str) {
        self.files.save(bags).expect("saved");
        let loaded = Databags::load(&self.folder);
        assert_eq!(loaded.damage().next(), None, "{said}");
        assert!(loaded == *bags, "saved and loaded it is another: {said}");
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Every message of every type, also of those that are refused.
fn every_message() -> Vec<(String, Vec<u8>)> {
    let folders = fs::read_dir(folder("")).expect("fixtures are there");
    let names = folders.map(|file| file.expect("readable").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('_') && name != "aggregate").collect();
    names.sort();
    assert!(names.len() >= 19, "{names:?}");
    names.iter().flat_map(|name| fixtures(name)).collect()
}

fn said(name: &str, bytes: &[u8]) -> String {
    format!("{name}: {}", String::from_utf8_lossy(bytes))
}

fn mutated(original: &Value, random: &mut Random) -> Vec<u8> {
    let mut value = original.clone();
    for _ in 0..=random.below(2) {
        let count = nodes(&value);
        // The document itself is changed rarely.
        let at = if random.below(20) == 0 { 0 } else { random.below(count) };
        change(&mut value, at, random);
    }
    let mut text = value.to_string().replace(TWICE, "");
    for (word, literal) in LITERALS {
        text = text.replace(&format!("\"{word}\""), literal);
    }
    let mut bytes = text.into_bytes();
    match random.below(30) {
        0 => bytes.truncate(random.below(bytes.len())),
        1 => {
            let at = random.below(bytes.len());
            bytes.splice(at..at, [0xc3, 0x28]);
        }
        _ => {}
    }
    bytes
}

/// How many values there are in a value, itself included.
fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(nodes).sum(),
        Value::Object(map) => map.values().map(nodes).sum::<usize>(),
        _ => 0,
    }
}

/// Changes the value that is the `at`-th from here on. Gives how many were passed.
fn change(value: &mut Value, at: usize, random: &mut Random) -> usize {
    if at == 0 {
        *value = instead_of(value, random);
        return 1;
    }
    let mut passed = 1;
    let inner: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        _ => Vec::new(),
    };
    for inner in inner {
        let count = nodes(inner);
        if passed <= at && at < passed + count {
            change(inner, at - passed, random);
        }
        passed += count;
    }
    passed
}

fn instead_of(value: &Value, random: &mut Random) -> Value {
    match (random.below(10), value) {
        (0, _) => Value::Null,
        (1, _) => json!([value]),
        (2, _) => json!({ "of": value }),
        (3, _) => nested(value.clone(), [3, 60, 97, 98, 99, 100, 125, 126, 127, 200][random.below(10)]),
        (4, _) => json!(LITERALS[random.below(LITERALS.len())].0),
        (5, Value::Number(number)) => json!(number.to_string()),
        (5, Value::Bool(word)) => json!(word.to_string()),
        (5, Value::String(text)) => text.parse::<i64>().map_or_else(|_| json!([text]), Value::from),
        (_, Value::Array(items)) if !items.is_empty() => list_instead_of(items, random),
        (_, Value::Object(map)) if !map.is_empty() => object_instead_of(map, random),
        (6, _) => json!([true, false][random.below(2)]),
        (7, _) => json!([0, 1, 65_535, u64::MAX, 1 << 53][random.below(5)]),
        _ => json!(TEXTS[random.below(TEXTS.len())]),
    }
}

fn list_instead_of(items: &[Value], random: &mut Random) -> Value {
    let mut items = items.to_vec();
    let (one, other) = (random.below(items.len()), random.below(items.len()));
    match random.below(4) {
        0 => items.swap(one, other),
        1 => drop(items.remove(one)),
        2 => items.push(items[one].clone()),
        _ => items.clear(),
    }
    Value::Array(items)
}

fn object_instead_of(map: &Map<String, Value>, random: &mut Random) -> Value {
    let mut map = map.clone();
    let keys: Vec<String> = map.keys().cloned().collect();
    let (one, other) = (&keys[random.below(keys.len())], &keys[random.below(keys.len())]);
    let value = map[one].clone();
    match random.below(5) {
        0 => drop(map.remove(one)),
        1 => drop(map.insert(format!("{TWICE}{other}"), value)),
        2 => drop(map.insert(other.clone(), value)),
        3 => drop(map.insert("later".to_owned(), instead_of(&value, random))),
        _ => drop(map.insert(TEXTS[random.below(TEXTS.len())].to_owned(), value)),
    }
    Value::Object(map)
}

fn nested(mut value: Value, depth: usize) -> Value {
    for level in 0..depth {
        value = if level % 2 == 0 { json!([value]) } else { json!({ "of": value }) };
    }
    value
}
