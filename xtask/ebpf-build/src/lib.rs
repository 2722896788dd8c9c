//! Builds the BPF object with whichever suitable toolchain is there.
//!
//! The BPF target has no precompiled `core`, so a toolchain is suitable if its source is beside
//! it: rustup's nightly with `rust-src`, Debian's `rustc-web` with `rust-web-src`, or any other
//! with `lib/rustlib/src`. All toolchain details live here and nowhere else.
//!
//! | variable | effect |
//! |---|---|
//! | `ROUTER_BPF_TOOLCHAIN` | `system`, a rustup toolchain's name, or a sysroot: use that one |
//! | `BPF_LINKER` | the `bpf-linker` to use |
//! | `ROUTER_BPF_OBJECT` | a ready-made object to embed instead of building one; `BENCH_BPF_OBJECT` of the bench |
//! | `ROUTER_BPF_SKIP=1` | embed none: for checks and docs without a BPF toolchain |

mod object;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

const TARGET: &str = "bpfel-unknown-none";
/// What the kernels we serve understand: 6.1 has everything of v3, v4 came with 6.6.
const CPU: &str = "v3";
/// The linker's version that the project is tested with.
pub const LINKER_VERSION: &str = "0.13.0";

/// A compiler with the source of its `core`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// Where it comes from, for messages.
    pub name: String,
    /// Its `cargo`.
    pub cargo: PathBuf,
    /// Its `rustc`.
    pub rustc: PathBuf,
}

/// The toolchain to build BPF with: the one asked for by `ROUTER_BPF_TOOLCHAIN`, else the one in
/// use, else rustup's nightly, else Debian's; the first that has the source of `core`.
///
/// # Errors
/// None has; says what installs one.
pub fn toolchain() -> Result<Toolchain> {
    if let Some(wanted) = env::var("ROUTER_BPF_TOOLCHAIN").ok().filter(|wanted| !wanted.is_empty()) {
        let toolchain = named(&wanted).with_context(|| format!("ROUTER_BPF_TOOLCHAIN={wanted}"))?;
        ensure!(has_source(&toolchain), "ROUTER_BPF_TOOLCHAIN={wanted} has no source of `core` (rust-src)");
        return Ok(toolchain);
    }
    let in_use = Toolchain {
        name: "the toolchain in use".into(),
        cargo: env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from),
        rustc: env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from),
    };
    let candidates = [Some(in_use), rustup("nightly").ok(), system().ok()];
    candidates.into_iter().flatten().find(has_source).context(
        "no Rust toolchain here has the source of `core`, which the packet programs are built with. \
         One of these installs one:\n\
         \x20   rustup toolchain install nightly --component rust-src\n\
         \x20   apt-get install rustc-web cargo-web rust-web-src      (Debian 12)\n\
         or let `cargo xtask setup` do it",
    )
}

fn named(wanted: &str) -> Result<Toolchain> {
    if wanted == "system" {
        return system();
    }
    let sysroot = Path::new(wanted);
    if sysroot.is_absolute() {
        let bin = sysroot.join("bin");
        return Ok(Toolchain { name: wanted.into(), cargo: bin.join("cargo"), rustc: bin.join("rustc") });
    }
    rustup(wanted)
}

fn system() -> Result<Toolchain> {
    let (cargo, rustc) = (PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc"));
    ensure!(cargo.exists() && rustc.exists(), "there is no /usr/bin/cargo with /usr/bin/rustc");
    Ok(Toolchain { name: "Debian's".into(), cargo, rustc })
}

fn rustup(name: &str) -> Result<Toolchain> {
    let which = |tool: &str| -> Result<PathBuf> {
        let output = Command::new("rustup").args(["which", "--toolchain", name, tool]).output()?;
        ensure!(output.status.success(), "rustup has no toolchain {name}");
        Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
    };
    Ok(Toolchain { name: format!("rustup's {name}"), cargo: which("cargo")?, rustc: which("rustc")? })
}

fn has_source(toolchain: &Toolchain) -> bool {
    let Ok(output) = Command::new(&toolchain.rustc).args(["--print", "sysroot"]).output() else {
        return false;
    };
    let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    !sysroot.is_empty() && Path::new(&sysroot).join("lib/rustlib/src/rust/library/Cargo.lock").exists()
}

/// The BPF linker: `BPF_LINKER`, else the first in the path or in cargo's own folder.
///
/// # Errors
/// There is none; says what installs it.
pub fn linker(toolchain: &Toolchain) -> Result<PathBuf> {
    if let Some(linker) = env::var_os("BPF_LINKER").map(PathBuf::from) {
        ensure!(linker.exists(), "BPF_LINKER={} does not exist", linker.display());
        return Ok(linker);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(cargo_bin());
    if let Some(linker) = folders.map(|folder| folder.join("bpf-linker")).find(|linker| linker.exists()) {
        return Ok(linker);
    }
    let llvm = llvm_version(toolchain).unwrap_or_else(|_| "<N>".into());
    bail!(
        "there is no bpf-linker. These install it:\n\
         \x20   apt-get install llvm-{llvm}-dev libpolly-{llvm}-dev zlib1g-dev libzstd-dev\n\
         \x20   LLVM_PREFIX=/usr/lib/llvm-{llvm} cargo install bpf-linker --version {LINKER_VERSION} --locked \
         --no-default-features --features llvm-{llvm}\n\
         or let `cargo xtask setup` do it"
    )
}

/// Where `cargo install` puts programs.
pub fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .map(|home| home.join("bin"))
}

/// The major version of the LLVM that a toolchain's compiler has inside: the linker must have
/// the same or a newer one.
///
/// # Errors
/// The compiler does not say.
pub fn llvm_version(toolchain: &Toolchain) -> Result<String> {
    let output = Command::new(&toolchain.rustc).arg("-vV").output()?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let version = line.context("rustc -vV names no LLVM version")?;
    Ok(version.split('.').next().unwrap_or(version).to_owned())
}

/// What a toolchain's code depends on: `rustc 1.96.0, LLVM 22`.
///
/// # Errors
/// The compiler does not say.
pub fn version(toolchain: &Toolchain) -> Result<String> {
    let output = Command::new(&toolchain.rustc).arg("-vV").output()?;
    let text = String::from_utf8(output.stdout)?;
    let release = text.lines().find_map(|line| line.strip_prefix("release: "));
    let release = release.context("rustc -vV names no release")?;
    Ok(format!("rustc {release}, LLVM {}", llvm_version(toolchain)?))
}

/// A BPF object that was built and looked over.
#[derive(Debug)]
pub struct Object {
    /// The ELF file.
    pub path: PathBuf,
    /// What the compiler said about our own crates without failing, line by line.
    pub warnings: Vec<String>,
}

/// Programs that become one object.
#[derive(Debug)]
pub struct Programs {
    /// The package, and the binary in it; its feature `bpf` is what makes it one.
    pub package: &'static str,
    /// The folders it is made of.
    pub folders: &'static [&'static str],
    /// Names a ready-made object, if it is set.
    pub object_variable: &'static str,
}

/// The router's.
pub const ROUTER: Programs = Programs {
    package: "router-ebpf",
    folders: &["router-ebpf", "router-common"],
    object_variable: "ROUTER_BPF_OBJECT",
};

/// Those that the router is measured with.
pub const BENCH: Programs = Programs {
    package: "bench-programs",
    folders: &["bench/programs", "router-common"],
    object_variable: "BENCH_BPF_OBJECT",
};

/// Builds an object of the workspace at `root` into `target_dir`.
///
/// # Errors
/// A part is missing, the build fails, or the object has a panic in it, which no verifier takes.
pub fn build(programs: &Programs, root: &Path, target_dir: &Path) -> Result<Object> {
    let package = programs.package;
    let toolchain = toolchain()?;
    let linker = linker(&toolchain)?;
    let flags = [
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
        "-Cdebuginfo=2".into(),
        format!("-Ctarget-cpu={CPU}"),
        "-Clink-arg=--btf".into(),
        format!("-Clinker={}", linker.display()),
    ];
    let mut command = Command::new(&toolchain.cargo);
    scrub(&mut command);
    command
        .current_dir(root)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", &toolchain.rustc)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .args(["build", "--locked", "--profile", "bpf", "-Zbuild-std=core", "--target", TARGET])
        .args(["--package", package, "--bin", package, "--features", "bpf"])
        .arg("--target-dir")
        .arg(target_dir);
    let output = command.output().with_context(|| format!("run {}", toolchain.cargo.display()))?;
    if !output.status.success() {
        bail!(
            "{} could not build the packet programs of {package}:\n{}",
            toolchain.name,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let object = target_dir.join(TARGET).join("bpf").join(package);
    let panics =
        object::panic_symbols(&fs::read(&object).with_context(|| format!("read {}", object.display()))?)?;
    ensure!(
        panics.is_empty(),
        "the packet programs can panic, which no verifier accepts: {}",
        panics.join(", ")
    );
    // Cargo repeats warnings of what it need not build again. Its own progress is indented.
    let text = String::from_utf8_lossy(&output.stderr);
    let lines = text.lines().skip_while(|line| !line.starts_with("warning:"));
    let warnings = lines.filter(|line| !is_progress(line)).map(str::to_owned).collect();
    Ok(Object { path: object, warnings })
}

/// Is this cargo's `   Compiling core v0.0.0` and the like?
fn is_progress(line: &str) -> bool {
    let first = line.split_whitespace().next().unwrap_or_default();
    line.starts_with(' ') && ["Compiling", "Finished", "Fresh", "Locking", "Downloaded"].contains(&first)
}

/// Takes out of the environment whatever the outer cargo, rustup or clippy would have the inner
/// cargo do.
fn scrub(command: &mut Command) {
    let kept = ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_HTTP_PROXY", "CARGO_HTTP_CAINFO"];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy().into_owned();
        let outer = ["CARGO", "RUSTC", "RUSTFLAGS", "RUSTDOC", "RUSTUP_TOOLCHAIN", "CLIPPY"];
        let registry = text.starts_with("CARGO_REGISTR") || text.starts_with("CARGO_SOURCE");
        if outer.iter().any(|prefix| text.starts_with(prefix)) && !kept.contains(&text.as_str()) && !registry
        {
            command.env_remove(&name);
        }
    }
    command.env_remove("MAKEFLAGS");
    // `cargo run` and cargo's build scripts point it at the outer compiler's libraries.
    command.env_remove("LD_LIBRARY_PATH");
}

/// The body of a `build.rs`: puts `<package>.o` into `OUT_DIR`.
///
/// # Errors
/// See [`build`].
pub fn build_script(programs: &Programs) -> Result<()> {
    for name in ["ROUTER_BPF_TOOLCHAIN", "BPF_LINKER", programs.object_variable, "ROUTER_BPF_SKIP"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set: not a build script")?);
    let manifest_dir =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?);
    let root = manifest_dir.parent().context("the package is not in a workspace")?.to_owned();
    let embedded = out_dir.join(format!("{}.o", programs.package));
    if env::var("ROUTER_BPF_SKIP").is_ok_and(|skip| skip == "1") {
        return fs::write(&embedded, []).with_context(|| format!("write {}", embedded.display()));
    }
    let object = match env::var_os(programs.object_variable).map(PathBuf::from) {
        Some(object) => {
            println!("cargo::rerun-if-changed={}", object.display());
            object
        }
        None => {
            for path in programs.folders.iter().chain(&["Cargo.toml", "Cargo.lock"]) {
                println!("cargo::rerun-if-changed={}", root.join(path).display());
            }
            let built = build(programs, &root, &bpf_target_dir(&out_dir)?)?;
            if !built.warnings.is_empty() {
                println!("cargo::warning=in the packet programs; `cargo xtask lint` shows it");
            }
            built.path
        }
    };
    fs::copy(&object, &embedded)
        .map(|_| ())
        .with_context(|| format!("copy {} to {}", object.display(), embedded.display()))
}

/// One folder for the object whatever the outer build is (debug, release, another target):
/// `<target>/bpf`, where `<target>` is the ancestor of `OUT_DIR` above the profile's folder.
fn bpf_target_dir(out_dir: &Path) -> Result<PathBuf> {
    // <target>[/<triple>]/<profile>/build/<package>-<hash>/out
    let mut folder = out_dir.ancestors().nth(4).context("OUT_DIR is not in a target folder")?;
    let triple: Option<OsString> = env::var_os("TARGET");
    if folder.file_name() == triple.as_deref() {
        folder = folder.parent().context("OUT_DIR is not in a target folder")?;
    }
    Ok(folder.join("bpf"))
}
