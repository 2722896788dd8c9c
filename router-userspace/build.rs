//! Builds the packet programs and puts the object where `dataplane` includes it from.

fn main() {
    if let Err(error) = ebpf_build::build_script(&ebpf_build::ROUTER) {
        println!("cargo::error={}", format!("{error:#}").replace('\n', "\ncargo::error="));
        std::process::exit(1);
    }
}
