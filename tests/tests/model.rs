//! The model and the real programs agree about random packets.
//!
//! `XVR_MODEL_PACKETS` is how many each of them is sent (`cargo xtask soak`), `XVR_MODEL_SEED` the first
//! sequence's seed: a difference names the one that it was found with.

use router_common::account::Hook;
use router_tests::host::HostRouter;
use router_tests::kernel::{KernelRouter, in_new_namespace};
use router_tests::model::compare::agree;
use router_tests::needs;
use router_tests::scenario::Router;

/// Packets of one sequence: enough for flows to be in each other's way.
const LENGTH: usize = 2_000;
/// Of one in the kernel, where forgetting flows takes some time.
const KERNEL_LENGTH: usize = 5_000;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

fn packets(default: usize) -> usize {
    setting("XVR_MODEL_PACKETS").map_or(default, |packets| packets as usize)
}

/// Prints how far it is, each tenth of the way, where that takes a while.
fn progress(name: &'static str, packets: usize) -> impl FnMut(usize) {
    let mut next = packets / 10;
    move |sent| {
        if packets >= 1_000_000 && sent >= next {
            println!("{name}: {sent} of {packets} packets");
            next += packets / 10;
        }
    }
}

fn seed() -> u64 {
    setting("XVR_MODEL_SEED").unwrap_or(1)
}

/// One hook alone, or XDP in front of TC.
fn name(hook: Option<Hook>) -> &'static str {
    hook.map_or("xdp and tc", Hook::label)
}

fn on_the_host(hook: Option<Hook>) {
    let packets = packets(40_000);
    let mut router = hook.map_or_else(HostRouter::both_hooks, HostRouter::new);
    let account = agree(&mut router, seed(), packets, LENGTH, &mut progress(name(hook), packets));
    println!("{} on the host: {account}", name(hook));
    let forwarded = account.forwarded(router.hook());
    assert!(forwarded > packets as u64 / 4, "most packets do not meet a flow");
}

#[test]
fn the_walk_does_what_the_model_says_in_xdp() {
    on_the_host(Some(Hook::Xdp));
}

#[test]
fn the_walk_does_what_the_model_says_in_tc() {
    on_the_host(Some(Hook::Tc));
}

#[test]
fn the_walk_does_what_the_model_says_in_xdp_in_front_of_tc() {
    on_the_host(None);
}

fn in_the_kernel(hook: Option<Hook>) {
    if !needs::are_met(&["ip"]) {
        return;
    }
    let packets = packets(20_000);
    in_new_namespace(move || {
        let router = hook.map_or_else(KernelRouter::both_hooks, KernelRouter::new);
        let mut router = router.expect("the programs load");
        let account = agree(&mut router, seed(), packets, KERNEL_LENGTH, &mut progress(name(hook), packets));
        println!("{} in the kernel: {account}", name(hook));
    });
}

#[test]
fn the_xdp_program_does_what_the_model_says() {
    in_the_kernel(Some(Hook::Xdp));
}

#[test]
fn the_tc_program_does_what_the_model_says() {
    in_the_kernel(Some(Hook::Tc));
}

#[test]
fn the_xdp_program_in_front_of_the_tc_program_does_what_the_model_says() {
    in_the_kernel(None);
}
