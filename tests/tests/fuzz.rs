//! What has to hold for every frame, with frames that nobody would send (`router_tests::fuzz`).
//!
//! `XVR_FUZZ_SECONDS` is for how long (`cargo xtask fuzz`), `XVR_FUZZ_SEED` from which seed on.

use std::time::Duration;

use router_common::account::{Hook, Traffic};
use router_tests::fuzz::{Budget, fuzz};
use router_tests::host::HostRouter;
use router_tests::kernel::{KernelRouter, in_new_namespace};
use router_tests::model::account::Account;
use router_tests::model::compare::{Subject, agree};
use router_tests::needs;
use router_tests::scenario::{Nic, Router, Sent};

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
fn the_express_lane_does_with_any_frame_what_the_steps_do() {
    let mut twins = Twins::new();
    everything_holds("xdp on the host, with and without the lane", &mut twins, 20_000);
    agree(&mut twins, setting("XVR_FUZZ_SEED").unwrap_or(1), 20_000, 1000, &mut |_| {});
    assert!(twins.by_lane > 1000, "{} packets took the lane", twins.by_lane);
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

/// Two routers, of which one has no express lane, that have to be of one mind about everything.
struct Twins {
    with: HostRouter,
    without: HostRouter,
    by_lane: u64,
}

impl Twins {
    fn new() -> Self {
        let mut twins =
            Self { with: HostRouter::new(Hook::Xdp), without: HostRouter::new(Hook::Xdp), by_lane: 0 };
        twins.forget();
        twins
    }
}

impl Router for Twins {
    fn hook(&self) -> Hook {
        Hook::Xdp
    }

    fn send(&mut self, nic: Nic, frame: &[u8]) -> Sent {
        let sent = self.with.send(nic, frame);
        assert_eq!(sent, self.without.send(nic, frame), "by the express lane, and by the steps");
        let [with, without] = [&self.with.world, &self.without.world];
        let by_lane = with.by_lane.take();
        if by_lane != 0 {
            assert_eq!(with.v4.flows, without.v4.flows);
            assert_eq!(with.v6.flows, without.v6.flows);
            assert_eq!(with.counters, without.counters);
            assert_eq!(with.usage, without.usage);
        }
        self.by_lane += by_lane;
        sent
    }
}

impl Subject for Twins {
    fn forget(&mut self) {
        self.with.forget();
        self.without.forget();
        self.without.world.has_lanes.set(false);
    }

    fn account(&mut self) -> Result<Account, String> {
        self.with.account()
    }

    fn usage(&mut self) -> Result<Traffic, String> {
        self.with.usage()
    }

    fn patience(&self) -> Duration {
        self.with.patience()
    }

    fn flow_entries(&mut self) -> Result<(usize, usize), String> {
        self.with.flow_entries()
    }
}
