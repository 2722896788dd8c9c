//! Builds the measuring programs and puts the object where `generator` includes it from.

fn main() {
    if let Err(error) = ebpf_build::build_script(&ebpf_build::BENCH) {
        println!("cargo::error={}", format!("{error:#}").replace('\n', "\ncargo::error="));
        std::process::exit(1);
    }
}
