//! Load balancing as CloudStack asks for it: haproxy's configuration in its words, with what it opens beside it.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::Result;
use serde_json::{Value, json};

use crate::netns::Output;
use crate::router::Router;

/// A rule, with its servers.
#[derive(Clone, Debug)]
pub struct Pool {
    /// The public address and port.
    pub listener: SocketAddrV4,
    /// `roundrobin`, `leastconn` or `source`.
    pub algorithm: &'static str,
    /// Its servers.
    pub servers: Vec<SocketAddr>,
    /// What follows each server, with a blank before it.
    pub of_servers: &'static str,
    /// What follows `bind`, with a blank before it.
    pub of_bind: &'static str,
    /// Further lines.
    pub lines: Vec<String>,
}

impl Pool {
    /// One without anything further.
    pub fn new(listener: SocketAddrV4, algorithm: &'static str, servers: &[SocketAddr]) -> Self {
        Self {
            listener,
            algorithm,
            servers: servers.to_vec(),
            of_servers: "",
            of_bind: "",
            lines: Vec::new(),
        }
    }

    /// In mode http, as CloudStack has it for port 80 and for cookies.
    #[must_use]
    pub fn by_http(self) -> Self {
        self.line("mode http").line("option httpclose")
    }

    /// With another line.
    #[must_use]
    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    fn text(&self) -> Vec<String> {
        let name = format!("{}-{}", underscored(*self.listener.ip()), self.listener.port());
        let mut text = vec![
            format!("listen {name}"),
            format!("\tbind {}{}", self.listener, self.of_bind),
            format!("\tbalance {}", self.algorithm),
        ];
        text.extend(self.servers.iter().enumerate().map(|(number, server)| {
            let cookie = match (self.lines.iter().any(|line| line.starts_with("cookie")), server.ip()) {
                (true, std::net::IpAddr::V4(ip)) => format!(" cookie {}-{}", underscored(ip), server.port()),
                _ => String::new(),
            };
            format!("\tserver {name}_{number} {server} check{}{cookie}", self.of_servers)
        }));
        text.extend(self.lines.iter().map(|line| format!("\t{line}")));
        text.push("\t ".to_owned());
        text
    }
}

fn underscored(address: Ipv4Addr) -> String {
    address.to_string().replace('.', "_")
}

/// A page of statistics: where it is, and the networks that may see it.
pub type Page<'a> = (SocketAddrV4, &'a str);

/// The message for these rules. Without any there is CloudStack's dummy.
pub fn message(pools: &[Pool], page: Option<Page<'_>>) -> Value {
    let mut text: Vec<String> = [
        "global",
        "\tlog 127.0.0.1:3914   local0 warning",
        "\tmaxconn 4096",
        "\tmaxpipes 1024",
        "\tchroot /var/lib/haproxy",
        "\tuser haproxy",
        "\tgroup haproxy",
        "\tstats socket /run/haproxy/admin.sock",
        "\tdaemon",
        "\t ",
        "defaults",
        "\tlog     global",
        "\tmode    tcp",
        "\toption  dontlognull",
        "\tretries 3",
        "\toption redispatch",
        "\toption forwardfor",
        "\toption httpclose",
        "\ttimeout connect    5000",
        "\ttimeout client     50000",
        "\ttimeout server     50000",
    ]
    .map(str::to_owned)
    .to_vec();
    if let Some((at, _)) = page {
        text.push(format!(
            "\nlisten stats_on_guest\n\tbind {at}\n\tmode http\n\toption httpclose\n\tstats enable\n\
             \tstats uri     /admin?stats\n\tstats realm   Haproxy\\ Statistics\n\tstats auth    admin1:AdMiN123\n"
        ));
    }
    text.push("\t ".to_owned());
    if pools.is_empty() {
        text.extend(["\t ", "listen  vmops", "\tbind 0.0.0.0:9", "\toption transparent"].map(str::to_owned));
    }
    text.extend(pools.iter().flat_map(Pool::text));
    let opened: Vec<String> = pools.iter().map(|pool| format!("{}:", pool.listener)).collect();
    let pages = page.map_or_else(String::new, |(at, networks)| format!("{at}:{networks}:,"));
    json!({
        "rules": [{
            "configuration": text,
            "tmp_cfg_file_path": "/etc/haproxy/",
            "tmp_cfg_file_name": "haproxy.cfg.new.1769000000000",
            "ssl_certs": [],
            "add_rules": opened,
            "remove_rules": [],
            "stat_rules": [pages],
            "router_ip": "169.254.100.13",
        }],
        "type": "loadbalancer",
        "delete_from_processed_cache": false,
    })
}

/// Sends a message.
pub fn send(router: &Router<'_>, message: &Value) -> Result<Output> {
    router.update_config_with("load_balancer", message.to_string().as_bytes())
}
