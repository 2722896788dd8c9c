//! The root: the folder that a router's files are below, `/` unless several share a machine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{settings, trunks};

/// Where a router's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    path: PathBuf,
}

impl Root {
    /// A given folder.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The given folder, else the environment's `XVR_ROOT`, else the one that the running binary
    /// is installed in, else `/`.
    pub fn find(given: Option<PathBuf>) -> Self {
        let from_environment = || env::var_os("XVR_ROOT").filter(|path| !path.is_empty()).map(PathBuf::from);
        let from_binary = || {
            let binary = fs::read_link("/proc/self/exe").ok()?;
            Some(binary.parent()?.parent()?.parent()?.to_owned()).filter(|root| root.join(BINARY) == binary)
        };
        Self::new(given.or_else(from_environment).or_else(from_binary).unwrap_or_else(|| PathBuf::from("/")))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The databags.
    pub fn databags(&self) -> PathBuf {
        self.path.join("etc/cloudstack")
    }

    /// What the operator writes.
    pub fn operator(&self) -> PathBuf {
        self.path.join("etc/xvr")
    }

    /// The operator's settings.
    pub fn settings(&self) -> PathBuf {
        self.operator().join(settings::NAME)
    }

    /// The operator's tagged ports.
    pub fn ports(&self) -> PathBuf {
        self.operator().join(trunks::NAME)
    }

    /// Where CloudStack puts its files.
    pub fn inbox(&self) -> PathBuf {
        self.path.join("var/cache/cloud")
    }

    /// Where files go that were applied.
    pub fn processed(&self) -> PathBuf {
        self.path.join("var/cache/cloud/processed")
    }

    /// Where CloudStack reads which release this is.
    pub fn release(&self) -> PathBuf {
        self.path.join("etc/cloudstack-release")
    }

    /// The checksum of CloudStack's scripts, which it compares with that of its own.
    pub fn signature(&self) -> PathBuf {
        self.inbox().join("cloud-scripts-signature")
    }

    /// The log that CloudStack's messages and tools speak of.
    pub fn log(&self) -> PathBuf {
        self.path.join("var/log/cloud.log")
    }

    /// Where CloudStack fetches results and archives from.
    pub fn home(&self) -> PathBuf {
        self.path.join("root")
    }

    /// What lives as long as the daemon.
    pub fn run(&self) -> PathBuf {
        self.path.join("run/xvr")
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.run().join("xvr.sock")
    }

    /// The installed binary.
    pub fn binary(&self) -> PathBuf {
        self.path.join(BINARY)
    }

    /// CloudStack's scripts.
    pub fn scripts(&self) -> PathBuf {
        self.path.join("opt/cloud/bin")
    }

    /// The service's unit file.
    pub fn unit(&self) -> PathBuf {
        self.path.join("etc/systemd/system/xvr.service")
    }
}

const BINARY: &str = "usr/sbin/xvr";
