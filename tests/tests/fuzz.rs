//! What has to hold for every frame, with frames that nobody would send (`router_tests::fuzz`).
//!
//! `XVR_FUZZ_SECONDS` is for how long (`cargo xtask fuzz`), `XVR_FUZZ_SEED` from which seed on.

use std::time::Duration;

use router_common::account::Hook;
use router_tests::fuzz::{Budget, fuzz};
use router_tests::host::HostRouter;
use router_tests::kernel::{KernelRouter, in_new_namespace};
use router_tests::model::compare::Subject;
use router_tests::needs;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

fn everything_holds(name: &str, router: &mut dyn Subject, frames: usize) {
    let time = setting("XVR_FUZZ_SECONDS").map(Duration::from_secs);
    let budget = time.map_or(Budget::Frames(frames), Budget::Time);
    let seed = setting("XVR_FUZZ_SEED").unwrap_or(1);
    println!("{name}: {} frames from seed {seed} on", fuzz(router, seed, budget));
}

#[test]
fn the_walk_does_with_any_frame_what_it_may_in_tc() {
    everything_holds("tc on the host", &mut HostRouter::new(Hook::Tc), 50_000);
}

#[test]
fn the_walk_does_with_any_frame_what_it_may_in_xdp_in_front_of_tc() {
    everything_holds("xdp and tc on the host", &mut HostRouter::both_hooks(), 50_000);
}

#[test]
fn the_programs_do_with_any_frame_what_they_may() {
    if !needs::are_met(&["ip"]) {
        return;
    }
    in_new_namespace(|| {
        let mut router = KernelRouter::both_hooks().expect("the programs load");
        everything_holds("xdp and tc in the kernel", &mut router, 20_000);
    });
}
