//! What a list is looked through for a flow's first packet, in blocks of 64 bytes. They are counted on the host, by the
//! search that the programs have, so that they are the same on every machine and whatever else runs there.

use std::collections::HashMap;

use anyhow::Result;
use bench_programs::Tuple;
use router_common::net::{Ipv4, Ipv6};
use router_common::policy::{BLOCKS, RULE_COUNTS};
use router_ebpf::policy::{Case, permits};
use router_tests::world::World;
use router_userspace::classifier::{Classifier, OwnMemory};
use serde_json::json;

use crate::report::{Report, Series};
use crate::rules::{Family, RuleSet, Shape};

const LEGEND: &str = "\
blocks: of 64 bytes, that a flow's first packet looks at, each once: on average, and 95 % of the packets; rare: of these
those that fewer than one packet in 128 looks at, which some cache has lost by then; all: what the packets of the
row look at together, to be compared with a cache; list: what the list takes";

/// Its number.
const LIST: u32 = 1;

/// Counts for lists of these sizes and shapes.
///
/// # Errors
/// There is no room for a list.
pub fn run(report: &mut Report, sets: &[(Shape, Family)], sizes: &[usize]) -> Result<()> {
    report.say(LEGEND);
    for (shape, family) in sets {
        report.say(format!("\n{shape}, {family}"));
        report.say(format!(
            "  {:7}  {:>8} {:>6} {:>6} {:>9}  {:>8} {:>6} {:>6} {:>9}  {:>9}",
            "rules", "new flow", "95 %", "rare", "all", "spread", "95 %", "rare", "all", "list"
        ));
        for size in sizes {
            one_list(report, &RuleSet::new(*shape, *family, *size))?;
        }
    }
    report.say("");
    Ok(())
}

fn one_list(report: &mut Report, set: &RuleSet) -> Result<()> {
    let world = World::default();
    world.classifier.replace(Classifier::new(OwnMemory::new(BLOCKS, RULE_COUNTS), []));
    world.set_list(LIST, &set.list);
    let taken = world.classifier.borrow().blocks().0;
    let rules = set.list.rules.len();
    let mut line = format!("  {rules:7}");
    for (what, tuples) in [("new", set.few_tuples()), ("spread", set.tuples.clone())] {
        let looked = Looked::count(&world, set.family, &tuples);
        let about = json!({
            "suite": "policy", "shape": set.shape.to_string(), "family": set.family.to_string(),
            "subject": "xvr", "rules": rules, "looked at": what,
        });
        report.add(about, "blocks", &Series::from(vec![looked.mean]));
        let Looked { mean, most, rare, all } = looked;
        line += &format!("  {mean:>8.1} {most:>6.0} {rare:>6.1} {:>9}", kibibytes(all));
    }
    report.say(format!("{line}  {:>9}", kibibytes(taken as usize)));
    Ok(())
}

fn kibibytes(blocks: usize) -> String {
    format!("{} KiB", (blocks * 64).div_ceil(1024))
}

/// What packets look at.
struct Looked {
    /// How many blocks a packet, on average.
    mean: f64,
    /// As many or fewer for 95 of a hundred packets.
    most: f64,
    /// How many that few others look at, on average.
    rare: f64,
    /// How many all packets together.
    all: usize,
}

impl Looked {
    fn count(world: &World, family: Family, tuples: &[Tuple]) -> Self {
        let mut packets: HashMap<u32, usize> = HashMap::new();
        let mut each = Vec::with_capacity(tuples.len());
        for tuple in tuples {
            let mut blocks = look(world, family, tuple);
            blocks.sort_unstable();
            blocks.dedup();
            each.push(blocks.len() as f64);
            blocks.into_iter().for_each(|block| *packets.entry(block).or_default() += 1);
        }
        let count = tuples.len() as f64;
        let rare: usize = packets.values().filter(|packets| **packets * 128 < tuples.len()).sum();
        let mean = each.iter().sum::<f64>() / count;
        let most = Series::from(each).percentile(0.95);
        Self { mean, most, rare: rare as f64 / count, all: packets.len() }
    }
}

/// The blocks that are looked at for a packet, in their order.
fn look(world: &World, family: Family, tuple: &Tuple) -> Vec<u32> {
    let Tuple { source, destination, protocol, port, .. } = *tuple;
    let mut case = Case::EMPTY;
    // As if nobody had been there before.
    world.rulings.borrow_mut().clear();
    world.looked_at.replace(Some(vec![]));
    match family {
        Family::V4 => {
            case.ask::<Ipv4>((Ipv4([source[0]]), Ipv4([destination[0]])), protocol, port);
            permits::<Ipv4, _>(world, LIST, &mut case, 1, false);
        }
        Family::V6 => {
            case.ask::<Ipv6>((Ipv6(source), Ipv6(destination)), protocol, port);
            permits::<Ipv6, _>(world, LIST, &mut case, 1, false);
        }
    }
    world.looked_at.take().unwrap_or_default()
}
