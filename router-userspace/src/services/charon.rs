//! strongSwan's charon: the tunnels of site-to-site VPNs.
//!
//! All tunnels are behind one device, [`DEVICE`], which is a port of the router: what is to go into a tunnel the
//! programs send there, and what comes out of one comes in by it, so that lists, flows and segment sizes are as on
//! every port. Where the kernel has ESP it is an XFRM interface of the kernel's; otherwise it is charon's own TUN device,
//! with ESP in user space.
//!
//! Whom people call ([`RemoteAccess`]) has the kernel's ESP or none, since L2TP is in transport mode.
//!
//! charon reads its tunnels when `xvr load-tunnels` has swanctl tell it: after each start and each change. A tunnel
//! that has not changed goes on. `xvr tend-tunnels` looks after them from time to time.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Call, HEADER, Rendered, Service};
use crate::model::vpn::{DEVICE, IkeVersion, Peer, RemoteAccess, Secret, Tunnel};
use crate::program::{self, Ran};
use crate::reconcile::kernel::Kernel;
use crate::reconcile::xfrm;
use crate::root::Root;

/// The daemon for these tunnels, and for whom people call; none for nothing.
pub fn render(
    tunnels: &[Tunnel],
    remote: Option<&RemoteAccess>,
    kernel: Kernel,
    root: &Root,
) -> Option<Service> {
    if tunnels.is_empty() && remote.is_none() {
        return None;
    }
    let esp = Esp::of(tunnels, kernel);
    let files = Files::below(root);
    let own = |command: &str| Call {
        program: "/proc/self/exe",
        arguments: [command, "--root", &root.path().display().to_string()].map(str::to_owned).to_vec(),
    };
    Some(Service {
        environment: vec![("STRONGSWAN_CONF", files.settings.display().to_string())],
        files: vec![
            Rendered { path: files.settings.clone(), content: settings(&files, esp), mode: 0o644 },
            Rendered { path: files.tunnels.clone(), content: connections(tunnels, remote, esp), mode: 0o600 },
        ],
        read_at_start: vec![files.settings.clone()],
        folders: files.socket.parent().map(PathBuf::from).into_iter().collect(),
        clear: Some(own("clear-tunnels")),
        load: Some(own("load-tunnels")),
        tend: Some(own("tend-tunnels")),
        about: Some(esp.about()),
        ..Service::new("charon", "charon-systemd", Vec::new())
    })
}

/// Who encrypts packets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Esp {
    /// The kernel, where it can.
    Kernel,
    /// charon itself, in tunnel mode alone.
    UserSpace,
}

impl Esp {
    /// One charon has one. Whom people call needs the kernel's, and is not there without it.
    const fn of(tunnels: &[Tunnel], kernel: Kernel) -> Self {
        if tunnels.is_empty() || kernel.can_carry_tunnels() { Self::Kernel } else { Self::UserSpace }
    }

    const fn about(self) -> &'static str {
        match self {
            Self::Kernel => "ESP is the kernel's",
            Self::UserSpace => "ESP is in user space",
        }
    }

    /// charon adds routes to its TUN device. Those to what the kernel encrypts are ours.
    const fn routes(self) -> &'static str {
        match self {
            Self::Kernel => "install_routes = no\n",
            Self::UserSpace => "",
        }
    }

    /// charon's plugins for it.
    const fn plugins(self) -> &'static str {
        match self {
            Self::Kernel => "kernel-netlink",
            Self::UserSpace => "kernel-libipsec kernel-netlink",
        }
    }
}

/// Where charon's files are.
struct Files {
    settings: PathBuf,
    tunnels: PathBuf,
    socket: PathBuf,
}

impl Files {
    fn below(root: &Root) -> Self {
        let below = |path: &str| root.path().join(path);
        Self {
            settings: below("etc/strongswan.conf"),
            tunnels: below("etc/swanctl/conf.d/xvr.conf"),
            socket: below("run/charon.vici"),
        }
    }

    /// Runs swanctl with charon's own settings, if that has any of the router's.
    fn swanctl(&self, arguments: &[&str], limit: Duration) -> io::Result<Ran> {
        let uri = self.uri();
        let settings = self.settings.exists().then(|| format!("STRONGSWAN_CONF={}", self.settings.display()));
        let words = settings.as_deref().into_iter().chain(["swanctl"]).chain(arguments.iter().copied());
        program::run("env", &words.chain(["--uri", &uri]).collect::<Vec<_>>(), limit)
    }

    fn uri(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
}

fn settings(files: &Files, esp: Esp) -> String {
    // Whoever does not answer is given up after the two minutes that CloudStack's own router has for that: 30 s until
    // it is asked, and 4 s, growing by 1.8 four times, until the last answer is not waited for any more.
    format!(
        "{HEADER}charon-systemd {{\n\
         load = random nonce openssl aes sha1 sha2 md5 hmac kdf gmp socket-default {} resolve vici\n\
         retransmit_tries = 4\n\
         install_virtual_ip = no\n{}\
         plugins {{\nvici {{\nsocket = {}\n}}\n}}\n\
         filelog {{\nstderr {{\ndefault = 1\ntime_format = %FT%T\nflush_line = yes\n}}\n}}\n\
         journal {{\ndefault = -1\n}}\n}}\n\
         swanctl {{\nload = random openssl\n}}\n",
        esp.plugins(),
        esp.routes(),
        files.uri()
    )
}

fn connections(tunnels: &[Tunnel], remote: Option<&RemoteAccess>, esp: Esp) -> String {
    let mut text = String::from(HEADER);
    text += "connections {\n";
    for tunnel in tunnels {
        connection(tunnel, esp, &mut text);
    }
    if let Some(RemoteAccess { server, .. }) = remote {
        text += &people(*server);
    }
    text += "}\nsecrets {\n";
    if let Some(RemoteAccess { server, psk, .. }) = remote {
        let _ = writeln!(text, "ike-{PEOPLE} {{\nid-own = {server}\nsecret = {}\n}}", hexadecimal(psk));
    }
    for tunnel in tunnels {
        let owners = match &tunnel.peer {
            Peer::Address(address) => format!("id-peer = {address}\n"),
            // Whatever it says that it is.
            Peer::Name(_) => String::new(),
        };
        let (name, secret) = (section(&tunnel.peer), hexadecimal(&tunnel.psk));
        let _ = writeln!(text, "ike-{name} {{\nid-own = {}\n{owners}secret = {secret}\n}}", tunnel.identity);
    }
    text + "}\n"
}

/// In hexadecimal digits: whatever is in it, it ends no line and begins no section.
fn hexadecimal(secret: &Secret) -> String {
    secret.0.bytes().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

const PEOPLE: &str = "people";
const BARE: &str = "bare";

/// Whoever calls, from anywhere: L2TP in transport mode, by IKEv1, with strongSwan's own proposals, as with CloudStack's
/// own router. And L2TP is nowhere but in there: not when a client is gone without a word, either.
///
/// Two sections, of these names.
fn people(server: Ipv4Addr) -> String {
    format!(
        "{PEOPLE} {{\nversion = 1\nlocal_addrs = {server}\nproposals = default\nrekey_time = 0s\nkeyingtries = 3\n\
         unique = never\ndpd_delay = 30s\ndpd_timeout = 120s\n\
         local {{\nauth = psk\nid = {server}\n}}\nremote {{\nauth = psk\n}}\nchildren {{\nl2tp {{\nmode = transport\n\
         local_ts = dynamic[17/1701]\nremote_ts = dynamic[17]\nesp_proposals = default\nrekey_time = 0s\n\
         dpd_action = clear\nstart_action = none\n}}\n}}\n}}\n\
         {BARE} {{\nchildren {{\nl2tp {{\nmode = drop\nlocal_ts = {server}/32[17/1701]\nremote_ts = 0.0.0.0/0[17]\n\
         start_action = trap\n}}\n}}\n}}\n"
    )
}

/// The name of a tunnel's section, which has no dots. No peer's name has what is in their place.
fn section(peer: &Peer) -> String {
    format!("vpn-{}", peer.to_string().replace('.', "_"))
}

fn connection(tunnel: &Tunnel, esp: Esp, text: &mut String) {
    let Tunnel { peer, local, identity, ike_lifetime, .. } = tunnel;
    let _ = writeln!(text, "{} {{", section(peer));
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{key} = {value}");
    };
    line(
        "version",
        &match tunnel.version {
            IkeVersion::Any => 0,
            IkeVersion::V1 => 1,
            IkeVersion::V2 => 2,
        },
    );
    line("local_addrs", local);
    line("remote_addrs", peer);
    line("proposals", &tunnel.ike.join(","));
    // Anew before the time is over, and not later.
    line("rekey_time", &format_args!("{}s", most_of(*ike_lifetime)));
    line("over_time", &format_args!("{}s", ike_lifetime - most_of(*ike_lifetime)));
    // Who waits is called again; who calls does not give up.
    line("keyingtries", &0);
    line("unique", &"replace");
    line("encap", &yes(tunnel.encap));
    if tunnel.dpd {
        line("dpd_delay", &"30s");
        line("dpd_timeout", &"120s");
    }
    let _ = writeln!(text, "local {{\nauth = psk\nid = {identity}\n}}");
    let id = match peer {
        Peer::Address(address) => format!("id = {address}\n"),
        Peer::Name(_) => String::new(),
    };
    let _ = writeln!(text, "remote {{\nauth = psk\n{id}}}\nchildren {{");
    if tunnel.split {
        for (number, network) in (1..).zip(&tunnel.peer_networks) {
            child(tunnel, number, &network.to_string(), esp, text);
        }
    } else {
        let networks: Vec<String> = tunnel.peer_networks.iter().map(ToString::to_string).collect();
        child(tunnel, 1, &networks.join(","), esp, text);
    }
    *text += "}\n}\n";
}

fn child(tunnel: &Tunnel, number: usize, networks: &str, esp: Esp, text: &mut String) {
    let _ = writeln!(text, "net-{number} {{");
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{key} = {value}");
    };
    line("local_ts", &tunnel.local_network);
    line("remote_ts", &networks);
    line("esp_proposals", &tunnel.esp.join(","));
    if esp == Esp::Kernel {
        line(IN_BY, &INTERFACE);
        line("if_id_out", &INTERFACE);
    }
    line("life_time", &format_args!("{}s", tunnel.esp_lifetime));
    line("rekey_time", &format_args!("{}s", most_of(tunnel.esp_lifetime)));
    if tunnel.passive {
        line("start_action", &"none");
        line("dpd_action", &"clear");
    } else {
        // ESP in user space cannot wait for a packet.
        line("start_action", &"start");
        line("close_action", &"start");
        line("dpd_action", &"restart");
    }
    *text += "}\n";
}

/// What the kernel knows [`DEVICE`] by where that is an XFRM interface.
const INTERFACE: u32 = 1;
const IN_BY: &str = "if_id_in";

/// Nine tenths of a lifetime.
const fn most_of(seconds: u32) -> u32 {
    seconds - seconds / 10
}

const fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

/// `xvr load-tunnels`: tells charon which tunnels there are, and ends those that are no longer.
///
/// # Errors
/// charon does not answer, or does not take them.
pub fn load(root: &Root) -> Result<()> {
    let files = Files::below(root);
    wait_for(&files)?;
    provide_device(&read(&files)?)?;
    let tunnels = files.tunnels.display().to_string();
    swanctl(&files, &["--load-all", "--noprompt", "--file", &tunnels])?;
    tend(root)
}

/// `xvr tend-tunnels`: ends tunnels that are wanted no longer, and calls peers again that charon has given up:
/// it does so for good when a peer refuses it, or is away while the tunnel changes.
///
/// # Errors
/// charon does not answer.
pub fn tend(root: &Root) -> Result<()> {
    let files = Files::below(root);
    let text = read(&files)?;
    provide_device(&text)?;
    let wanted = wanted(&text);
    let mut there = there(&swanctl(&files, &LIST)?);
    // Who does not answer is not waited for.
    for tunnel in there.extract_if(.., |own| own.state == "DELETING" || own.is_unwanted(&wanted)) {
        swanctl(&files, &["--terminate", "--ike-id", &tunnel.id, "--force", "--timeout", "1"])?;
    }
    for (name, children) in &wanted {
        let mut tunnels = there.iter().filter(|own| own.name == *name).peekable();
        if tunnels.peek().is_some() && !tunnels.clone().any(|own| own.state == "ESTABLISHED" && !own.is_busy)
        {
            continue;
        }
        for child in children {
            if !tunnels.clone().any(|own| own.children.contains(child)) {
                // That it does not succeed at once is no error: charon goes on trying.
                let call = ["--initiate", "--ike", name, "--child", child, "--timeout", "1"];
                swanctl(&files, &call).ok();
            }
        }
    }
    Ok(())
}

fn read(files: &Files) -> Result<String> {
    fs::read_to_string(&files.tunnels).with_context(|| format!("read {}", files.tunnels.display()))
}

/// The device that the kernel's ESP is behind is ours to make, and to take away after the last tunnel.
fn provide_device(connections: &str) -> Result<()> {
    if connections.contains(&format!("\n{IN_BY} = ")) {
        xfrm::make(DEVICE, INTERFACE)
    } else if wanted(connections).is_empty() {
        xfrm::remove(DEVICE)
    } else {
        Ok(())
    }
}

/// `xvr clear-tunnels`: what charon has left in the kernel, should it have had no time to take that away itself.
///
/// # Errors
/// It cannot be taken away.
pub fn clear() -> Result<()> {
    xfrm::remove(DEVICE)?;
    xfrm::flush()
}

/// What is there of tunnels, in swanctl's raw form; `None` where no charon has the root's socket.
///
/// # Errors
/// swanctl cannot be started.
pub fn list(root: &Root, limit: Duration) -> io::Result<Option<Ran>> {
    let files = Files::below(root);
    if !files.socket.exists() {
        return Ok(None);
    }
    files.swanctl(&LIST, limit).map(Some)
}

/// What has swanctl list tunnels.
const LIST: [&str; 2] = ["--list-sas", "--raw"];

/// charon has just been started, it may be.
fn wait_for(files: &Files) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = UnixStream::connect(&files.socket) {
        if Instant::now() >= deadline {
            return Err(error).with_context(|| format!("ask charon at {}", files.socket.display()));
        }
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn swanctl(files: &Files, arguments: &[&str]) -> Result<String> {
    const TIME: Duration = Duration::from_secs(30);
    let ran = files.swanctl(arguments, TIME).context("run swanctl")?;
    // It looks for keys and certificates, of which there are none.
    let said = ran.stderr.lines().filter(|line| !line.starts_with("opening directory"));
    let said: Vec<&str> = said.collect();
    ensure!(ran.succeeded(), "swanctl {}: {}", arguments[0], said.join("; "));
    // It says so of a connection that is not taken, and succeeds.
    ensure!(
        !said.iter().any(|line| line.contains("failed")),
        "swanctl {}: {}",
        arguments[0],
        said.join("; ")
    );
    Ok(ran.stdout)
}

/// The connections of a file that [`connections`] has written, each with the children that are to be begun here.
fn wanted(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut name, mut child) = (String::new(), String::new());
    for line in text.lines() {
        match line.strip_suffix(" {") {
            Some(section) if section.starts_with("vpn-") => {
                name = section.to_owned();
                wanted.entry(name.clone()).or_default();
            }
            Some(section) if section.starts_with("net-") => child = section.to_owned(),
            Some(PEOPLE | BARE) => name.clear(),
            None if line.starts_with("start_action = ") && !line.ends_with(" none") && !name.is_empty() => {
                wanted.entry(name.clone()).or_default().push(child.clone());
            }
            _ => {}
        }
    }
    wanted
}

/// A tunnel that is there, or on its way.
#[derive(Debug, PartialEq, Eq)]
struct Established {
    name: String,
    id: String,
    state: String,
    /// Something is being negotiated.
    is_busy: bool,
    children: Vec<String>,
}

/// What charon calls an association whose other end has not said yet who it is.
const NOBODY_YET: &str = "(unnamed)";

impl Established {
    /// It is no tunnel's, nor a caller's, nor may it become one.
    fn is_unwanted(&self, wanted: &BTreeMap<String, Vec<String>>) -> bool {
        self.name != PEOPLE && self.name != NOBODY_YET && !wanted.contains_key(&self.name)
    }
}

/// What `list-sas --raw` says:
/// `list-sa event {NAME {uniqueid=1 state=ESTABLISHED … child-sas {net-1-2 {name=net-1 state=INSTALLED …}}}}`.
fn there(said: &str) -> Vec<Established> {
    let one = |event: &str| {
        let (ike, children) = event.split_once("child-sas").unwrap_or((event, ""));
        let values = |text: &str, key: &str| -> Vec<String> {
            let words = text.split(['{', '}', ' ']).filter_map(|word| word.split_once('='));
            words.filter(|(own, _)| *own == key).map(|(_, value)| value.to_owned()).collect()
        };
        let first = |key: &str| values(ike, key).into_iter().next().unwrap_or_default();
        Some(Established {
            name: ike.trim_start().strip_prefix('{')?.split_once(' ')?.0.to_owned(),
            id: first("uniqueid"),
            state: first("state"),
            is_busy: event.contains("tasks-active") || event.contains("tasks-queued"),
            children: values(children, "name"),
        })
    };
    said.split("list-sa event").skip(1).filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const CAN: Kernel = Kernel { esp: true, xfrm_interfaces: true, ppp: true };

    fn tunnel() -> Tunnel {
        Tunnel {
            peer: Peer::Address([198, 51, 100, 201].into()),
            local: [203, 0, 113, 30].into(),
            identity: [203, 0, 113, 30].into(),
            local_network: "10.10.0.0/16".parse().expect("a network"),
            peer_networks: ["10.98.0.0/16", "10.97.0.0/16"].map(|net| net.parse().expect("a network")).into(),
            ike: vec!["aes256-sha256-modp2048".to_owned(), "3des-md5-modp1024".to_owned()],
            esp: vec!["aes128-sha1".to_owned()],
            psk: Secret("it's \"secret\" }".to_owned()),
            version: IkeVersion::V2,
            ike_lifetime: 86_400,
            esp_lifetime: 3600,
            dpd: true,
            passive: false,
            encap: false,
            split: false,
        }
    }

    fn rendered(tunnel: Tunnel) -> String {
        let service = render(&[tunnel], None, Kernel::default(), &Root::new("/r")).expect("a service");
        let [settings, tunnels] = service.files.as_slice() else { panic!("two files") };
        assert_eq!(settings.path, Path::new("/r/etc/strongswan.conf"));
        assert_eq!(tunnels.path, Path::new("/r/etc/swanctl/conf.d/xvr.conf"));
        assert_eq!(tunnels.mode, 0o600);
        assert!(settings.content.contains("kernel-libipsec"));
        tunnels.content.clone()
    }

    #[test]
    fn a_tunnel_is_a_connection_of_swanctl_and_its_secret_cannot_break_out() {
        let text = rendered(tunnel());
        for line in [
            "vpn-198_51_100_201 {",
            "version = 2",
            "remote_ts = 10.98.0.0/16,10.97.0.0/16",
            "proposals = aes256-sha256-modp2048,3des-md5-modp1024",
            "esp_proposals = aes128-sha1",
            "rekey_time = 77760s",
            "over_time = 8640s",
            "life_time = 3600s",
            "start_action = start",
            "dpd_delay = 30s",
            "secret = 0x69742773202273656372657422207d",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(!format!("{:?}", tunnel()).contains("secret\\\""));
        let children = vec!["net-1".to_owned()];
        assert_eq!(wanted(&text), BTreeMap::from([("vpn-198_51_100_201".to_owned(), children)]));
    }

    #[test]
    fn a_passive_end_waits_and_split_tunnels_have_a_connection_for_each_network() {
        let text = rendered(Tunnel { passive: true, split: true, dpd: false, ..tunnel() });
        assert_eq!(text.matches("start_action = none").count(), 2);
        assert!(!text.contains("close_action") && !text.contains("dpd_delay"));
        assert!(wanted(&text)["vpn-198_51_100_201"].is_empty());
        assert!(text.contains("net-2 {\nlocal_ts = 10.10.0.0/16\nremote_ts = 10.97.0.0/16\n"));
    }

    #[test]
    fn tunnels_that_are_there_are_told_with_their_state_and_children() {
        let said = "list-sa event {vpn-1_2_3_4 {uniqueid=1 version=2 state=ESTABLISHED child-sas {net-1-2 \
                    {name=net-1 uniqueid=2 state=INSTALLED} net-2-3 {name=net-2 uniqueid=3}}}}\n\
                    list-sa event {vpn-b_example_org {uniqueid=2 state=CONNECTING tasks-active=[IKE_INIT] \
                    child-sas {}}}\nlist-sas reply {}\n";
        let tunnel = |name: &str, id: &str, state: &str, is_busy, children: &[&str]| Established {
            name: name.to_owned(),
            id: id.to_owned(),
            state: state.to_owned(),
            is_busy,
            children: children.iter().map(|&child| child.to_owned()).collect(),
        };
        let first = tunnel("vpn-1_2_3_4", "1", "ESTABLISHED", false, &["net-1", "net-2"]);
        assert_eq!(there(said), [first, tunnel("vpn-b_example_org", "2", "CONNECTING", true, &[])]);
    }

    #[test]
    fn whom_people_call_has_the_kernels_esp_and_is_begun_by_nobody_here() {
        let remote = RemoteAccess {
            server: [203, 0, 113, 10].into(),
            psk: Secret("psk".to_owned()),
            local: [10, 1, 2, 1].into(),
            clients: ([10, 1, 2, 2].into(), [10, 1, 2, 8].into()),
            openings: Vec::new(),
        };
        let service = render(&[tunnel()], Some(&remote), CAN, &Root::new("/r")).expect("a service");
        let [settings, tunnels] = service.files.as_slice() else { panic!("two files") };
        assert!(!settings.content.contains("libipsec"), "{}", settings.content);
        // Another ESP is another charon.
        assert!(service.read_at_start.contains(&settings.path));
        for line in [
            "people {",
            "mode = transport",
            "local_ts = dynamic[17/1701]",
            "mode = drop",
            "secret = 0x70736b",
            "if_id_in = 1",
            "if_id_out = 1",
        ] {
            assert!(tunnels.content.lines().any(|found| found == line), "{line} in {}", tunnels.content);
        }
        let own = BTreeMap::from([("vpn-198_51_100_201".to_owned(), vec!["net-1".to_owned()])]);
        assert_eq!(wanted(&tunnels.content), own);
    }

    #[test]
    fn tunnels_are_the_kernels_where_it_has_all_that_they_need() {
        let settings = |kernel| {
            let service = render(&[tunnel()], None, kernel, &Root::new("/r")).expect("a service");
            (service.files[0].content.clone(), service.files[1].content.contains(IN_BY))
        };
        let (by_kernel, has_number) = settings(CAN);
        assert!(has_number && !by_kernel.contains("libipsec") && by_kernel.contains("install_routes = no"));
        for kernel in [Kernel { esp: false, ..CAN }, Kernel { xfrm_interfaces: false, ..CAN }] {
            let (by_charon, has_number) = settings(kernel);
            assert!(!has_number && by_charon.contains("libipsec") && !by_charon.contains("install_routes"));
        }
    }

    #[test]
    fn who_is_just_calling_is_not_cut_off() {
        let wanted = BTreeMap::from([("vpn-198_51_100_201".to_owned(), vec!["net-1".to_owned()])]);
        let said = ["people", "(unnamed)", "vpn-198_51_100_201", "vpn-198_51_100_9"]
            .map(|name| format!("list-sa event {{{name} {{uniqueid=1 state=CONNECTING child-sas {{}}}}}}\n"));
        let unwanted: Vec<bool> = there(&said.concat()).iter().map(|own| own.is_unwanted(&wanted)).collect();
        assert_eq!(unwanted, [false, false, false, true]);
    }

    #[test]
    fn without_tunnels_there_is_no_daemon() {
        assert_eq!(render(&[], None, CAN, &Root::new("/r")), None);
    }
}
