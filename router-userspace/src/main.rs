//! xvr
fn main() {}
