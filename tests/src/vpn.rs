//! strongSwan at both ends of a tunnel: IKEv2 with a secret that both know. A guest's ESP is charon's own, by a
//! TUN device, since not every kernel has it; so it always goes in UDP. A site's is the kernel's where it can be.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use router_userspace::reconcile::kernel::Kernel;
use serde_json::{Value, json};

use crate::daemons::{Scratch, log, start};
use crate::lab::Host;
use crate::nat::SOURCE_NAT;
use crate::netns::{Process, run_bounded, wait_until};

/// What a test with these needs.
pub const PROGRAMS: [&str; 4] = ["charon-systemd", "swanctl", LIBIPSEC, "/dev/net/tun"];

/// What a test with sites needs.
pub fn programs_of_sites() -> &'static [&'static str] {
    if kernel_can() { &PROGRAMS[..2] } else { &PROGRAMS }
}

/// Whether tunnels to other sites are the kernel's on this machine. In the guest of `cargo xtask vm-test` they have to be.
///
/// # Panics
/// There, if they are not.
pub fn kernel_can() -> bool {
    let kernel = Kernel::look();
    let must = std::env::var_os("XVR_TEST_GUEST").is_some();
    assert!(!must || kernel.can_carry_tunnels(), "{kernel:?}");
    kernel.can_carry_tunnels()
}

/// The plugin that does ESP.
pub(crate) const LIBIPSEC: &str = "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so";

/// The address that is reached by the tunnel alone.
pub const INNER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

/// How long building a tunnel may take.
const TIME: Duration = Duration::from_secs(60);

/// The networks of the lab's VPC.
pub const VPC: &str = "10.10.0.0/16";

/// What both ends of every tunnel know.
pub const SECRET: &str = "of the lab";

/// An end of a site-to-site tunnel that is no router of ours.
#[derive(Clone, Debug)]
pub struct Site<'a> {
    /// Version of IKE; 0 for either.
    pub version: u8,
    /// What it takes for the tunnel's own traffic, in strongSwan's words.
    pub ike: &'a str,
    /// What it takes for the traffic in it.
    pub esp: &'a str,
    /// The other end.
    pub router: Ipv4Addr,
    /// Networks behind it.
    pub networks: &'a [&'a str],
    /// Each has a connection of its own.
    pub is_split: bool,
    /// It calls, and does not only wait.
    pub begins: bool,
}

/// The other end that [`message`] is about.
pub const SITE: Site<'static> = Site {
    version: 2,
    ike: "aes128-sha256-modp2048",
    esp: "aes128-sha256",
    router: SOURCE_NAT,
    networks: &["10.99.0.0/16"],
    is_split: false,
    begins: false,
};

/// CloudStack's message about the tunnel of a VPC to a site, with other values for some keys.
pub fn message(peer: Ipv4Addr, other: &Value) -> Value {
    let mut message = json!({
        "local_public_ip": SOURCE_NAT, "local_guest_cidr": VPC, "local_public_gateway": "203.0.113.1",
        "peer_gateway_ip": peer, "peer_guest_cidr_list": "10.99.0.0/16",
        "esp_policy": "aes128-sha256", "ike_policy": "aes128-sha256;modp2048", "ipsec_psk": SECRET,
        "ike_version": "ikev2", "ike_lifetime": 86400, "esp_lifetime": 3600, "create": true, "dpd": true,
        "passive": false, "encap": false, "split_connections": false,
        "type": "site2sitevpn", "delete_from_processed_cache": false,
    });
    for (key, value) in other.as_object().into_iter().flatten() {
        message[key] = value.clone();
    }
    message
}

/// charon, at one end.
#[derive(Debug)]
pub struct Charon {
    _server: Process,
    scratch: Scratch,
}

impl Charon {
    /// Starts the end that waits for guests, and has [`INNER`] behind it.
    pub fn wait_for_guests(host: &Host) -> Result<Self> {
        host.namespace.ip(&format!("address add {INNER}/32 dev lo\n"))?;
        let connection = format!(
            "version = 2\npools = guests\n{}children {{\ntunnel {{\nlocal_ts = {INNER}/32\nesp_proposals = {ESP}\n}}\n}}\n",
            ends("far", "guest")
        );
        Self::start(host, USER_SPACE, &connection, "pools {\nguests {\naddrs = 10.9.1.0/24\n}\n}\n")
    }

    /// Starts the end that calls.
    pub fn guest_of(host: &Host, server: Ipv4Addr) -> Result<Self> {
        let connection = format!(
            "version = 2\nremote_addrs = {server}\nvips = 0.0.0.0\n{}children {{\ntunnel {{\nremote_ts = {INNER}/32\n\
             esp_proposals = {ESP}\n}}\n}}\n",
            ends("guest", "far")
        );
        Self::start(host, USER_SPACE, &connection, "")
    }

    /// Starts an end of a site-to-site tunnel, with the kernel's ESP where there is one; `own` is the host's address.
    pub fn site(host: &Host, site: &Site) -> Result<Self> {
        let plugins = if kernel_can() { KERNEL } else { USER_SPACE };
        let Site { version, ike, esp, router, networks, is_split, begins } = site;
        let start = if *begins { "start_action = start\nclose_action = start\n" } else { "" };
        let child = |(number, network): (usize, &String)| {
            format!(
                "net{number} {{\nlocal_ts = {network}\nremote_ts = {VPC}\nesp_proposals = {esp}\n{start}}}\n"
            )
        };
        let groups = if *is_split {
            networks.iter().map(|&net| net.to_owned()).collect()
        } else {
            vec![networks.join(",")]
        };
        let children: String = groups.iter().enumerate().map(child).collect();
        let connection = format!(
            "version = {version}\nlocal_addrs = {own}\nremote_addrs = {router}\nproposals = {ike}\nkeyingtries = 0\n\
             unique = replace\nlocal {{\nauth = psk\nid = {own}\n}}\nremote {{\nauth = psk\nid = {router}\n}}\n\
             children {{\n{children}}}\n",
            own = host.v4,
        );
        Self::start(host, plugins, &connection, "")
    }

    /// Starts the end of somebody who calls a server of L2TP: it knows the lab's secret, and has the kernel's ESP.
    pub fn person(host: &Host, server: Ipv4Addr) -> Result<Self> {
        let connection = format!(
            "version = 1\nlocal_addrs = {own}\nremote_addrs = {server}\nproposals = aes128-sha1-modp2048\n\
             local {{\nauth = psk\nid = {own}\n}}\nremote {{\nauth = psk\nid = {server}\n}}\n\
             children {{\ntunnel {{\nmode = transport\nlocal_ts = dynamic[17/1701]\n\
             remote_ts = dynamic[17/1701]\nesp_proposals = aes128-sha1\n}}\n}}\n",
            own = host.v4,
        );
        Self::start(host, KERNEL, &connection, "")
    }

    fn start(host: &Host, esp: &str, connection: &str, further: &str) -> Result<Self> {
        let scratch = Scratch::new(host)?;
        let socket = scratch.file("vici");
        let configuration = format!(
            "charon-systemd {{\nload = random nonce openssl aes sha1 sha2 hmac kdf gmp socket-default \
             {esp} vici\nplugins {{\nvici {{\nsocket = unix://{}\n}}\n}}\n\
             filelog {{\nall {{\npath = stderr\nflush_line = yes\n}}\n}}\njournal {{\ndefault = -1\n}}\n}}\n\
             swanctl {{\nload = random\n}}\n",
            socket.display()
        );
        let configuration = scratch.write("strongswan.conf", &configuration)?;
        let secret = format!("secrets {{\nike {{\nsecret = \"{SECRET}\"\n}}\n}}\n");
        let connections = format!("connections {{\ntunnel {{\n{connection}}}\n}}\n{further}{secret}");
        let connections = scratch.write("swanctl.conf", &connections)?;
        let mut command = host.namespace.command("charon-systemd");
        let server = start(&scratch, command.env("STRONGSWAN_CONF", configuration))?;
        let charon = Self { _server: server, scratch };
        // It is there before anybody listens on it.
        let listens = || UnixStream::connect(&socket).is_ok();
        wait_until("charon listens", TIME, listens).with_context(|| log(&charon.scratch))?;
        charon.swanctl(&["--load-all", "--file", &connections.to_string_lossy()])?;
        Ok(charon)
    }

    /// Builds the tunnel; what charon said about it.
    pub fn call(&self) -> Result<String> {
        self.swanctl(&["--initiate", "--child", "tunnel", "--timeout", "50"])
    }

    /// Has a site begin to change its tunnel's keys, or those of what it carries, before it is time.
    pub fn change_keys(&self, kind: &str, name: &str) -> Result<()> {
        self.swanctl(&["--rekey", kind, name]).map(drop)
    }

    /// Where it takes questions.
    pub fn socket(&self) -> PathBuf {
        self.scratch.file("vici")
    }

    /// The tunnels there are.
    pub fn tunnels(&self) -> Result<String> {
        self.swanctl(&["--list-sas"])
    }

    fn swanctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("swanctl");
        command
            .args(arguments)
            .arg("--uri")
            .arg(format!("unix://{}", self.scratch.file("vici").display()))
            .env("STRONGSWAN_CONF", self.scratch.file("strongswan.conf"));
        let output = run_bounded(&mut command, TIME)?.ok().with_context(|| log(&self.scratch))?;
        Ok(output.stdout)
    }
}

/// charon's plugins for ESP of its own, and for the kernel's.
const USER_SPACE: &str = "kernel-libipsec kernel-netlink";
const KERNEL: &str = "kernel-netlink";

/// What both ends' daemons can do without further packages.
const ESP: &str = "aes128-sha256";

/// Who is who, and who believes whom.
fn ends(own: &str, other: &str) -> String {
    format!(
        "proposals = aes128-sha256-modp2048\nlocal {{\nauth = psk\nid = {own}\n}}\n\
         remote {{\nauth = psk\nid = {other}\n}}\n"
    )
}
