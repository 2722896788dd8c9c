//! haproxy: the load balancer, by CloudStack's own text.
//!
//! The text is written as it came, but for what cannot be as it is: paths of a router whose root is not `/`, and a
//! user or group that the system does not have. Health checks and tools read the file.
//!
//! A master looks after workers. On SIGUSR2 it begins anew with the files and the listening sockets that are there:
//! new connections go to a new worker, and the old one ends with its last connection. If it refuses the files, the
//! old worker goes on.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddrV4;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::unistd::{Group, User};

use super::{Call, Reload, Rendered, Service, supervisor};
use crate::model::Balancer;
use crate::root::Root;

/// How long haproxy may look at a configuration while a message waits.
const CHECK: Duration = Duration::from_secs(10);

/// The load balancer for what is desired.
pub fn render(balancer: &Balancer, root: &Root) -> Service {
    let path = root.path();
    let (config, certificates) = (path.join("etc/haproxy/haproxy.cfg"), path.join(CERTIFICATES));
    let arguments = ["-W", "-db", "-p", &text(&path.join("run/haproxy.pid")), "-f", &text(&config)];
    let mut files =
        vec![Rendered { path: config, content: adapt(balancer, root, &certificates), mode: 0o600 }];
    files.extend(certificate_files(balancer, &certificates));
    Service {
        files,
        folders: ["run/haproxy", "var/lib/haproxy"].map(|folder| path.join(folder)).to_vec(),
        sole: Some(certificates),
        check: Some(check_call()),
        reload: Reload::Signal(Signal::SIGUSR2),
        ..Service::new("haproxy", "haproxy", arguments.map(str::to_owned).to_vec())
    }
}

/// Whether haproxy takes a configuration, before anything is changed. Where there is no haproxy nobody knows.
///
/// # Errors
/// What it says about the configuration; files that cannot be written; it does not end.
pub async fn check(balancer: &Balancer, root: &Root) -> Result<()> {
    let folder = root.run().join("haproxy-check");
    let checked = check_in(balancer, root, &folder).await;
    fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    checked
}

async fn check_in(balancer: &Balancer, root: &Root, folder: &Path) -> Result<()> {
    // One that was left by a crash is another's.
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", folder.display()));
        }
        _ => {}
    }
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700).create(folder).with_context(|| format!("create {}", folder.display()))?;
    let config = folder.join("haproxy.cfg");
    let mut files = certificate_files(balancer, folder);
    files.push(Rendered { path: config.clone(), content: adapt(balancer, root, folder), mode: 0o600 });
    for file in files {
        fs::write(&file.path, file.content).with_context(|| format!("write {}", file.path.display()))?;
    }
    match supervisor::call(&check_call(), Some(&config), CHECK).await {
        Err(error) if is_missing(&error) => Ok(()),
        // Its lines are those of the text.
        Err(error) => Err(anyhow::anyhow!(format!("{error:#}").replace(&text(&config), "haproxy.cfg"))),
        Ok(()) => Ok(()),
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Where it answers questions.
pub fn socket(root: &Root) -> PathBuf {
    root.path().join("run/haproxy/admin.sock")
}

/// What it answers there.
///
/// # Errors
/// It does not, or not within ten seconds.
pub fn ask(socket: &Path, question: &str) -> io::Result<String> {
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(10));
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(PATIENCE)?;
    stream.set_write_timeout(PATIENCE)?;
    writeln!(stream, "{question}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What CloudStack calls the rule that listens there.
pub fn rule_name(listener: SocketAddrV4) -> String {
    format!("{}-{}", listener.ip().to_string().replace('.', "_"), listener.port())
}

fn check_call() -> Call {
    Call { program: "haproxy", arguments: vec!["-c".to_owned(), "-f".to_owned()] }
}

/// Where certificates are, below the root.
const CERTIFICATES: &str = "etc/cloudstack/ssl";

fn certificate_files(balancer: &Balancer, folder: &Path) -> Vec<Rendered> {
    let file = |certificate: &crate::model::balancer::Certificate| Rendered {
        path: folder.join(format!("{}.pem", certificate.name)),
        content: certificate.pem.clone(),
        mode: 0o600,
    };
    balancer.certificates.iter().map(file).collect()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// CloudStack's text for this root, with certificates in a folder. Line by line: each keeps its number.
fn adapt(balancer: &Balancer, root: &Root, certificates: &Path) -> String {
    let mut adapted = String::with_capacity(balancer.configuration.len());
    let mut is_global = false;
    for line in balancer.configuration.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with(|first: char| !first.is_whitespace()) {
            is_global = words == ["global"];
        }
        let line = match words.as_slice() {
            ["chroot", path] if is_global => line.replace(path, &below(root, path)),
            ["stats", "socket", path, ..] if is_global && path.starts_with('/') => {
                line.replacen(path, &below(root, path), 1)
            }
            ["user", name] if is_global && !is_user(name) => format!("#{line}"),
            ["group", name] if is_global && !is_group(name) => format!("#{line}"),
            ["bind", ..] => line.replace(&format!("/{CERTIFICATES}/"), &format!("{}/", text(certificates))),
            _ => line.to_owned(),
        };
        // Writing to a string does not fail.
        let _ = writeln!(adapted, "{line}");
    }
    adapted
}

fn below(root: &Root, path: &str) -> String {
    let below: PathBuf = root.path().join(path.trim_start_matches('/'));
    text(&below)
}

fn is_user(name: &str) -> bool {
    User::from_name(name).is_ok_and(|user| user.is_some())
}

fn is_group(name: &str) -> bool {
    Group::from_name(name).is_ok_and(|group| group.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::balancer::Certificate;

    const TEXT: &str = "global\n\tmaxconn 4096\n\tchroot /var/lib/haproxy\n\tuser nobody-has-this-name\n\tgroup root\n\
        \tstats socket /run/haproxy/admin.sock\n\tdaemon\n\t \ndefaults\n\tmode tcp\n\t \n\
        listen 203_0_113_11-443\n\tbind 203.0.113.11:443 ssl crt /etc/cloudstack/ssl/a.pem alpn h2,http/1.1\n";

    fn balancer() -> Balancer {
        let certificate = Certificate { name: "a".to_owned(), pem: "PEM\n".to_owned() };
        Balancer { configuration: TEXT.to_owned(), certificates: vec![certificate] }
    }

    #[test]
    fn a_root_is_put_before_paths_and_nothing_else_changes() {
        let service = render(&balancer(), &Root::new("/r"));
        let [config, certificate] = service.files.as_slice() else { panic!("two files") };
        assert_eq!(config.path, Path::new("/r/etc/haproxy/haproxy.cfg"));
        assert_eq!(
            (certificate.path.as_path(), certificate.mode),
            (Path::new("/r/etc/cloudstack/ssl/a.pem"), 0o600)
        );
        let changed: Vec<&str> = config
            .content
            .lines()
            .zip(TEXT.lines())
            .filter(|(new, old)| new != old)
            .map(|(new, _)| new)
            .collect();
        assert_eq!(
            changed,
            [
                "\tchroot /r/var/lib/haproxy",
                "#\tuser nobody-has-this-name",
                "\tstats socket /r/run/haproxy/admin.sock",
                "\tbind 203.0.113.11:443 ssl crt /r/etc/cloudstack/ssl/a.pem alpn h2,http/1.1",
            ]
        );
        assert_eq!(config.content.lines().count(), TEXT.lines().count());
    }

    #[test]
    fn at_the_system_s_own_root_the_text_is_as_it_came() {
        let text = TEXT.replace("nobody-has-this-name", "root");
        let balancer = Balancer { configuration: text.clone(), ..balancer() };
        assert_eq!(render(&balancer, &Root::new("/")).files[0].content, text);
    }
}
