//! The scenarios against the loaded programs, in the running kernel.

use router_common::account::Hook;
use router_tests::kernel::KernelRouter;
use router_tests::needs;
use router_tests::scenario::scenarios;

/// Verified instructions that a program may cost, half as much again as it does on 6.1. The kernel's
/// limit is a million, but a start waits for them. A jump shows here before it hurts.
const BUDGET: u32 = 300_000;

/// Runs a test in a network namespace of its own.
fn in_new_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // SAFETY: changes the calling thread alone.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "a new network namespace");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn scenarios_hold(hook: Hook) {
    in_new_namespace(move || {
        let mut router = KernelRouter::new(hook).expect("the programs load");
        for (name, scenario) in scenarios(hook) {
            println!("{}: {name}", hook.label());
            router.forget_flows().expect("flows can be removed");
            scenario(&mut router);
        }
    });
}

#[test]
fn every_scenario_holds_in_the_xdp_program() {
    if needs::are_met(&["ip"]) {
        scenarios_hold(Hook::Xdp);
    }
}

#[test]
fn every_scenario_holds_in_the_tc_program() {
    if needs::are_met(&["ip"]) {
        scenarios_hold(Hook::Tc);
    }
}

#[test]
fn the_verifier_accepts_both_programs_within_the_budget() {
    if !needs::are_met(&["ip"]) {
        return;
    }
    in_new_namespace(|| {
        let mut router = KernelRouter::new(Hook::Xdp).expect("the programs load");
        for (name, instructions) in router.dataplane().verified_instructions().expect("the kernel tells") {
            println!("{name}: {instructions} verified instructions");
            assert!(instructions < BUDGET, "{name} costs the verifier {instructions} instructions");
        }
    });
}
