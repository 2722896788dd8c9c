//! A guest: a kernel of Debian's 6.1, the one that CloudStack's system VM runs, in qemu without hardware
//! acceleration, over a first file system that is made for the occasion. Nothing of it is installed here.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cpio::Archive;
use crate::{build, run as run_command, setup, target_dir};

/// What the guest prints last when everything that it ran has succeeded.
const SUCCESS: &str = "vm-init: success";

/// What is in a guest, and what it does.
#[derive(Debug, Default)]
pub struct Guest {
    /// What it runs, one after the other: a program and its arguments a line.
    pub commands: Vec<String>,
    /// Programs, by their place there and here; libraries that they are linked to come along.
    pub programs: Vec<(PathBuf, PathBuf)>,
    /// Other files likewise.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// Kernel modules; those they depend on come along.
    pub modules: Vec<&'static str>,
    /// Arguments of qemu: what makes it slow or exact.
    pub machine: Vec<&'static str>,
    /// What the kernel is told besides.
    pub kernel_arguments: &'static str,
    /// The whole run may take this long.
    pub time_limit: Duration,
}

impl Guest {
    /// Programs of this machine, at the place that they have here.
    pub fn add_programs(&mut self, paths: &[&str]) {
        self.programs.extend(paths.iter().map(|path| (PathBuf::from(path), PathBuf::from(path))));
    }

    /// Boots it under a name, hands every line of its console to somebody, and judges by its last word.
    ///
    /// # Errors
    /// A part is missing; what it ran has failed, or it hung or crashed.
    pub fn boot(&self, name: &str, listener: impl FnMut(&str)) -> Result<()> {
        let kernel = kernel()?;
        let initrd = target_dir().join("vm").join(format!("{name}.initrd"));
        fs::write(&initrd, self.initial_file_system(&kernel)?)
            .with_context(|| format!("write {}", initrd.display()))?;
        self.run(&kernel.image, &initrd, listener)
    }

    fn initial_file_system(&self, kernel: &Kernel) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for folder in ["proc", "sys", "dev", "tmp", "run", "etc", "root", "bin", "var", "var/run", "etc/ppp"]
        {
            archive.folder(folder);
        }
        let init = build::programs().join("vm-init");
        archive.file("init", &read(&init)?);
        let lines: String = self.commands.iter().map(|command| format!("{command}\n")).collect();
        archive.file("etc/vm-init", lines.as_bytes());
        // Whom OpenSSH makes keys for, and as whom dnsmasq runs.
        let users = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
        archive.file("etc/passwd", users);
        archive.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n");
        let mut here = libraries(&init)?;
        for (_, program) in &self.programs {
            here.extend(libraries(program)?);
        }
        let libraries = here.iter().map(|path| (path, path));
        let files = self.programs.iter().chain(&self.files).map(|(there, here)| (there, here));
        for (there, here) in files.chain(libraries) {
            archive.file(there.strip_prefix("/").unwrap_or(there), &read(here)?);
        }
        for (order, module) in modules_in_order(&kernel.modules, &self.modules)?.iter().enumerate() {
            let name = module.file_name().context("a module without a name")?.to_string_lossy();
            archive.file(format!("modules/{order:03}-{name}"), &read(module)?);
        }
        Ok(archive.finish())
    }

    fn run(&self, kernel: &Path, initrd: &Path, mut listener: impl FnMut(&str)) -> Result<()> {
        let start = Instant::now();
        let mut guest = Command::new("qemu-system-x86_64")
            .args(&self.machine)
            .args(["-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"])
            .args(["-append", &format!("console=ttyS0 panic=-1 quiet {}", self.kernel_arguments)])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initrd)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("run qemu-system-x86_64 (package qemu-system-x86)")?;
        let console = BufReader::new(guest.stdout.take().context("the guest has no console")?);
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in console.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        let mut success = false;
        while let Ok(line) = lines.recv_timeout(self.time_limit.saturating_sub(start.elapsed())) {
            listener(&line);
            success |= line == SUCCESS;
        }
        // Ends by itself, unless the time is over.
        let _ = guest.kill();
        guest.wait()?;
        if !success {
            bail!(
                "something failed in the guest, or it hung or crashed (after {} s)",
                start.elapsed().as_secs()
            );
        }
        println!("the guest ran for {} s", start.elapsed().as_secs());
        Ok(())
    }
}

/// An unpacked kernel package.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

fn folder() -> PathBuf {
    target_dir().join("vm/linux-image-amd64")
}

fn kernel() -> Result<Kernel> {
    let boot = folder().join("boot");
    let image = fs::read_dir(&boot)?.filter_map(Result::ok).map(|entry| entry.path());
    let image = image.into_iter().find(|path| path.to_string_lossy().contains("vmlinuz-"));
    let image = image.with_context(|| format!("no kernel in {}", boot.display()))?;
    let version = image.to_string_lossy().rsplit_once("vmlinuz-").map(|(_, version)| version.to_owned());
    let modules = folder().join("lib/modules").join(version.context("the kernel has no version")?);
    Ok(Kernel { image, modules })
}

/// Downloads and unpacks the kernel below the target folder: nothing is installed.
pub fn fetch_kernel() -> Result<()> {
    if folder().join("lib/modules").exists() {
        return Ok(());
    }
    let downloads = target_dir().join("vm/download");
    fs::create_dir_all(&downloads)?;
    setup::apt(&["update"])?;
    let depends = Command::new("apt-cache").args(["depends", "linux-image-amd64"]).output()?;
    let text = String::from_utf8(depends.stdout)?;
    let package = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let package = package.into_iter().find(|name| name.starts_with("linux-image-"));
    let package = package.context("apt knows no linux-image-amd64")?;
    println!("downloading {package} for the guest");
    run_command(Command::new("apt-get").current_dir(&downloads).args(["download", "--quiet", package]))?;
    let archives = fs::read_dir(&downloads)?.filter_map(Result::ok).map(|entry| entry.path());
    let archive = archives.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "deb"));
    let archive = archive.context("apt-get has downloaded nothing")?;
    let unpacked = target_dir().join("vm/unpacking");
    run_command(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked))?;
    let versions = fs::read_dir(unpacked.join("lib/modules"))?.filter_map(Result::ok);
    for version in versions {
        run_command(Command::new("depmod").arg("-b").arg(&unpacked).arg(version.file_name()))?;
    }
    fs::rename(&unpacked, folder())?;
    fs::remove_dir_all(&downloads)?;
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// Shared libraries that a program is linked to, its loader included.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// The modules' files, each after those it depends on.
fn modules_in_order(folder: &Path, modules: &[&str]) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string(folder.join("modules.dep"))?;
    let mut order: Vec<PathBuf> = Vec::new();
    for module in modules {
        let file = format!("/{module}.ko");
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|path| path.ends_with(&file)));
        // Built into the kernel: nothing to load.
        let Some((path, dependencies)) = line.and_then(|line| line.split_once(':')) else { continue };
        // depmod writes the direct dependency first and what it rests on behind it.
        for path in dependencies.split_whitespace().rev().chain([path]) {
            let path = folder.join(path);
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    Ok(order)
}
