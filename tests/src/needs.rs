//! What a test needs of the machine, and what happens when it is not there.

use aya::util::KernelVersion;

use crate::clients;

/// May a test that makes namespaces and runs these programs do so? If not, prints why it is
/// skipped. With `XVR_TEST_ROOT=1` a skipped test is a failed one.
///
/// # Panics
/// With `XVR_TEST_ROOT=1`, instead of returning false.
pub fn are_met(programs: &[&str]) -> bool {
    // SAFETY: cannot fail and touches nothing.
    let root = unsafe { libc::geteuid() } == 0;
    let missing = clients::missing(programs);
    if root && missing.is_empty() {
        return true;
    }
    let reason =
        if root { format!("there is no {}", missing.join(", no ")) } else { "it needs root".to_owned() };
    let must_run = std::env::var_os("XVR_TEST_ROOT").is_some_and(|value| value == "1");
    assert!(!must_run, "cannot run this test: {reason}");
    eprintln!("SKIPPED: {reason}");
    false
}

/// Whether the kernel tells which NICs take XDP frames in several buffers, and sends such to them (6.3 and later).
pub fn sends_several_buffers() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 3, 0))
}
