//! xl2tpd, and pppd for each of its sessions: remote access for people, within IPsec ([`charon`](super::charon)).
//!
//! ```text
//! etc/xl2tpd/xl2tpd.conf       addresses                 read when it starts: another one restarts it
//! etc/ppp/options.xl2tpd       how pppd speaks           likewise
//! etc/ppp/chap-secrets         users                     read by pppd when somebody comes
//! etc/ppp/xvr-up               notes who has come        called by pppd
//! run/xvr/sessions/pppN        who is behind a device
//! ```
//!
//! A session whose user is gone, or has another password, ends: `xvr end-sessions` looks, after each change and from
//! time to time. pppd knows its files by the system's paths, so where the router's root is another one it sees the
//! router's folder there ([`serve`]).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Error, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{Call, HEADER, Reload, Rendered, Service, process};
use crate::model::vpn::{RemoteAccess, User};
use crate::root::Root;

const XL2TPD: &str = "xl2tpd";

/// The server for these users.
pub fn render(remote: &RemoteAccess, users: &[User], root: &Root) -> Service {
    let files = Files::below(root);
    let own = |arguments: &str| Call {
        program: "/proc/self/exe",
        arguments: [arguments, "--root", &root.path().display().to_string()].map(str::to_owned).to_vec(),
    };
    let end = own("end-sessions");
    let file = |path: &PathBuf, content, mode| Rendered { path: path.clone(), content, mode };
    Service {
        files: vec![
            file(&files.server, server(remote, &files), 0o644),
            file(&files.options, options(remote, &files), 0o644),
            file(&files.secrets, secrets(users), 0o600),
            file(&files.up, up(root), 0o755),
        ],
        folders: vec![files.run.clone(), files.sessions.clone()],
        read_at_start: vec![files.server, files.options],
        reload: Reload::Call(end.clone()),
        load: Some(end.clone()),
        tend: Some(end),
        ..Service::new(XL2TPD, "/proc/self/exe", own("serve-l2tp").arguments)
    }
}

/// Where its files are.
struct Files {
    server: PathBuf,
    options: PathBuf,
    secrets: PathBuf,
    up: PathBuf,
    run: PathBuf,
    sessions: PathBuf,
}

/// pppd's folder, below a root.
const PPP: &str = "etc/ppp";

impl Files {
    fn below(root: &Root) -> Self {
        let ppp = root.path().join(PPP);
        Self {
            server: root.path().join("etc/xl2tpd/xl2tpd.conf"),
            options: ppp.join("options.xl2tpd"),
            secrets: ppp.join("chap-secrets"),
            up: ppp.join("xvr-up"),
            run: root.path().join("run/xl2tpd"),
            sessions: root.run().join("sessions"),
        }
    }
}

fn server(remote: &RemoteAccess, files: &Files) -> String {
    let RemoteAccess { server, local, clients: (first, last), .. } = remote;
    let header = HEADER.replacen('#', ";", 1);
    format!(
        "{header}[global]\nlisten-addr = {server}\nport = 1701\naccess control = no\n\n\
         [lns default]\nip range = {first}-{last}\nlocal ip = {local}\nrequire chap = yes\nrefuse pap = yes\n\
         require authentication = yes\nname = xvr\nlength bit = yes\npppoptfile = {}\n",
        files.options.display()
    )
}

/// As CloudStack's own router has it; but who calls has the address that it is given, and no other.
fn options(remote: &RemoteAccess, files: &Files) -> String {
    format!(
        "{HEADER}auth\nnoccp\nnoipv6\nidle 1800\nmtu 1410\nmru 1410\nnodefaultroute\nproxyarp\n\
         connect-delay 5000\nms-dns {}\nlcp-echo-interval 30\nlcp-echo-failure 4\nip-up-script {}\n",
        remote.local,
        files.up.display()
    )
}

/// `name server password addresses`
fn secrets(users: &[User]) -> String {
    let mut text = String::from(HEADER);
    for User { name, password } in users {
        // Within quotes nothing but these has a meaning.
        let password = password.0.replace('\\', "\\\\").replace('"', "\\\"");
        let _ = writeln!(text, "{name} * \"{password}\" *");
    }
    text
}

/// What pppd calls: with the device first, and who is behind it in its environment.
fn up(root: &Root) -> String {
    let path = root.path();
    let xvr = path.join("usr/sbin/xvr");
    format!(
        "#!/bin/sh\n{HEADER}exec {} note-session --root {} \"$1\" \"$PEERNAME\" \"$PPID\"\n",
        xvr.display(),
        path.display()
    )
}

/// `xvr serve-l2tp`: becomes xl2tpd. Returns only if it cannot.
pub fn serve(root: &Root) -> Error {
    match become_server(root) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn become_server(root: &Root) -> Result<std::convert::Infallible> {
    let files = Files::below(root);
    if root.path() != Path::new("/") {
        show_own_folder(root).context("show pppd the router's folder")?;
    }
    let mut command = Command::new(XL2TPD);
    command.arg("-D").arg("-c").arg(&files.server).arg("-p").arg(files.run.join("xl2tpd.pid"));
    command.arg("-C").arg(files.run.join("l2tp-control")).arg("-s").arg(files.run.join("no-secrets"));
    Err(anyhow!(command.exec()).context(format!("start {XL2TPD}")))
}

/// Mounts the root's `etc/ppp` where pppd looks for it, for this process and those that it starts.
fn show_own_folder(root: &Root) -> Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).context("unshare mounts")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("keep mounts to itself")?;
    let (own, system) = (root.path().join(PPP), Path::new("/").join(PPP));
    mount(Some(&own), &system, none, MsFlags::MS_BIND, none)
        .with_context(|| format!("mount {} at {}", own.display(), system.display()))
}

/// Who is behind a device.
#[derive(Debug, Serialize, Deserialize)]
struct Session {
    user: String,
    /// Of what `chap-secrets` says of the user: with another password it is another one.
    secret: Option<String>,
    /// pppd, and when it was started.
    pid: i32,
    started: u64,
}

/// `xvr note-session`: somebody is behind a device, says pppd.
///
/// # Errors
/// It cannot be written down. Then pppd has ended, or is ended: nobody is there whom nobody could end.
pub fn note(root: &Root, device: &str, user: &str, pid: i32) -> Result<()> {
    let files = Files::below(root);
    let noted = write_note(&files, device, user, pid);
    if noted.is_err() {
        kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
    }
    noted
}

fn write_note(files: &Files, device: &str, user: &str, pid: i32) -> Result<()> {
    let started = process::started(pid).context("pppd has ended")?;
    let secret = known(files)?.remove(user);
    let session = Session { user: user.to_owned(), secret, pid, started };
    let note = files.sessions.join(device);
    fs::write(&note, serde_json::to_vec(&session)?).with_context(|| format!("write {}", note.display()))
}

/// What stands for each user's line of `chap-secrets`.
fn known(files: &Files) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(&files.secrets);
    let text = text.with_context(|| format!("read {}", files.secrets.display()))?;
    let lines = text.lines().filter_map(|line| Some((line.split_once(' ')?.0.to_owned(), line)));
    Ok(lines.map(|(name, line)| (name, blake3::hash(line.as_bytes()).to_string())).collect())
}

/// `xvr end-sessions`: ends sessions of users that are not there any more, and those that an xl2tpd has left behind.
///
/// # Errors
/// The files of users and sessions cannot be read.
pub fn end_sessions(root: &Root) -> Result<()> {
    let files = Files::below(root);
    let known = known(&files)?;
    for entry in fs::read_dir(&files.sessions)? {
        let note = entry?.path();
        // One that is just being written.
        let Ok(session) = serde_json::from_slice::<Session>(&fs::read(&note)?) else { continue };
        if process::started(session.pid) != Some(session.started) {
            remove(&note)?;
            continue;
        }
        let is_known = session.secret.is_some() && known.get(&session.user) == session.secret.as_ref();
        if !is_known || is_left(session.pid) {
            println!("the session of {} ends", session.user);
            kill(Pid::from_raw(session.pid), Signal::SIGTERM).ok();
        }
    }
    Ok(())
}

/// Whether the process that has started this one is gone.
fn is_left(pid: i32) -> bool {
    let parent = process::parent(pid);
    let name = parent.and_then(|parent| fs::read_to_string(format!("/proc/{parent}/comm")).ok());
    name.is_none_or(|name| name.trim_end() != XL2TPD)
}

fn remove(note: &Path) -> Result<()> {
    match fs::remove_file(note) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", note.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::vpn::Secret;

    fn remote() -> RemoteAccess {
        RemoteAccess {
            server: [203, 0, 113, 10].into(),
            psk: Secret("secret".to_owned()),
            local: [10, 1, 2, 1].into(),
            clients: ([10, 1, 2, 2].into(), [10, 1, 2, 8].into()),
            openings: Vec::new(),
        }
    }

    fn user(name: &str, password: &str) -> User {
        User { name: name.to_owned(), password: Secret(password.to_owned()) }
    }

    #[test]
    fn files_are_where_cloudstacks_own_router_has_them() {
        let service = render(&remote(), &[user("alice", "pw1")], &Root::new("/r"));
        let [server, options, secrets, up] = service.files.as_slice() else { panic!("four files") };
        assert_eq!(server.path, Path::new("/r/etc/xl2tpd/xl2tpd.conf"));
        for line in ["ip range = 10.1.2.2-10.1.2.8", "local ip = 10.1.2.1", "listen-addr = 203.0.113.10"] {
            assert!(server.content.lines().any(|found| found == line), "{line} in {}", server.content);
        }
        assert!(server.content.contains("pppoptfile = /r/etc/ppp/options.xl2tpd\n"));
        assert_eq!(options.path, Path::new("/r/etc/ppp/options.xl2tpd"));
        assert!(options.content.contains("ms-dns 10.1.2.1\n") && options.content.contains("mru 1410\n"));
        // Nobody chooses an address.
        assert!(!options.content.contains("ipcp-accept"));
        assert_eq!((secrets.path.as_path(), secrets.mode), (Path::new("/r/etc/ppp/chap-secrets"), 0o600));
        assert!(
            up.content
                .ends_with("exec /r/usr/sbin/xvr note-session --root /r \"$1\" \"$PEERNAME\" \"$PPID\"\n")
        );
        // Users come and go while it runs.
        assert!(!service.read_at_start.contains(&secrets.path));
    }

    #[test]
    fn a_password_stays_within_its_line_and_its_quotes() {
        let text = secrets(&[user("alice", "pw1"), user("bob", "a \"b\\c #d *")]);
        assert_eq!(text, format!("{HEADER}alice * \"pw1\" *\nbob * \"a \\\"b\\\\c #d *\" *\n"));
    }

    #[test]
    fn a_user_with_another_password_is_another_one() {
        let root = Root::new(std::env::temp_dir().join(format!("xvr-l2tp-{}", std::process::id())));
        let files = Files::below(&root);
        fs::create_dir_all(root.path().join(PPP)).expect("a folder");
        let known = |users: &[User]| {
            fs::write(&files.secrets, secrets(users)).expect("a file");
            super::known(&files).expect("users")
        };
        let (before, after) = (known(&[user("alice", "1"), user("bob", "2")]), known(&[user("alice", "3")]));
        assert!(before["alice"] != after["alice"] && !after.contains_key("bob"));
        assert_eq!(known(&[user("alice", "1")])["alice"], before["alice"]);
        fs::remove_dir_all(root.path()).expect("removed");
    }
}
