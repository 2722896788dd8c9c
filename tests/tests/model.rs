//! The model and the real programs agree about random packets.
//!
//! `XVR_MODEL_PACKETS` is how many each of them is sent (`cargo xtask soak`), `XVR_MODEL_SEED` the first
//! sequence's seed: a difference names the one that it was found with.

use router_common::account::Hook;
use router_tests::host::HostRouter;
use router_tests::kernel::KernelRouter;
use router_tests::model::compare::agree;
use router_tests::needs;

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

fn on_the_host(hook: Hook) {
    let packets = packets(150_000);
    let account =
        agree(&mut HostRouter::new(hook), seed(), packets, LENGTH, &mut progress(hook.label(), packets));
    println!("on the host: {account}");
    assert!(account.forwarded(hook) > packets as u64 / 4, "most packets do not meet a flow");
}

#[test]
fn the_walk_does_what_the_model_says_in_xdp() {
    on_the_host(Hook::Xdp);
}

#[test]
fn the_walk_does_what_the_model_says_in_tc() {
    on_the_host(Hook::Tc);
}

fn in_the_kernel(hook: Hook) {
    if !needs::are_met(&["ip"]) {
        return;
    }
    let packets = packets(50_000);
    let thread = std::thread::spawn(move || {
        // SAFETY: changes the calling thread alone.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "a new network namespace");
        let mut router = KernelRouter::new(hook).expect("the programs load");
        let account =
            agree(&mut router, seed(), packets, KERNEL_LENGTH, &mut progress(hook.label(), packets));
        println!("in the kernel: {account}");
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn the_xdp_program_does_what_the_model_says() {
    in_the_kernel(Hook::Xdp);
}

#[test]
fn the_tc_program_does_what_the_model_says() {
    in_the_kernel(Hook::Tc);
}
