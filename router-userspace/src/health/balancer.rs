//! Whether load is balanced, as haproxy itself says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

use super::{Finding, Outcome, Surroundings};
use crate::model::health::ExpectedBalancer;
use crate::services::balancer::{ask, rule_name, socket};

/// haproxy runs wherever CloudStack has sent a configuration.
pub(super) fn service(surroundings: &Surroundings) -> Option<Finding> {
    let Surroundings { root, view } = surroundings;
    let is_wanted = root.path().join("etc/haproxy/haproxy.cfg").exists();
    if !is_wanted || !view.monitoring.services.contains("loadbalancing") {
        return None;
    }
    Some(match ask(&socket(root), "show info") {
        Ok(_) => Finding { outcome: Outcome::Success, message: "service is running".to_owned() },
        Err(error) => {
            Finding { outcome: Outcome::Failed, message: format!("haproxy does not answer: {error}") }
        }
    })
}

/// Rules that CloudStack expects, which its own router looks for in the file.
pub(super) fn rules(surroundings: &Surroundings) -> Option<Finding> {
    let expected = &surroundings.view.monitoring.balancers;
    if expected.is_empty() {
        return None;
    }
    let socket = socket(surroundings.root);
    let answers = ask(&socket, "show info").and_then(|info| Ok((info, ask(&socket, "show stat")?)));
    let (info, statistics) = match answers {
        Ok(answers) => answers,
        Err(error) => {
            let message = format!("haproxy does not answer: {error}");
            return Some(Finding { outcome: Outcome::Failed, message });
        }
    };
    let found = Found::read(&info, &statistics);
    let wrong: Vec<String> = expected.iter().filter_map(|expected| found.lack(expected)).collect();
    Some(match wrong.as_slice() {
        [] => {
            let message = format!("All {} load balancing rules are in force", expected.len());
            Finding { outcome: Outcome::Success, message }
        }
        wrong => Finding { outcome: Outcome::Failed, message: wrong.join("; ") },
    })
}

/// What haproxy does.
#[derive(Default)]
struct Found {
    max_connections: Option<u64>,
    rules: BTreeMap<String, Rule>,
}

#[derive(Default)]
struct Rule {
    algorithm: String,
    servers: BTreeSet<SocketAddrV4>,
}

impl Found {
    /// Of `show info`, lines of `name: value`, and `show stat`, CSV whose first line names the columns.
    fn read(info: &str, statistics: &str) -> Self {
        let max_connections =
            info.lines().find_map(|line| line.strip_prefix("Maxconn: ")?.trim().parse().ok());
        let mut found = Self { max_connections, ..Self::default() };
        let mut lines = statistics.lines();
        let names: Vec<&str> =
            lines.next().unwrap_or_default().trim_start_matches(['#', ' ']).split(',').collect();
        for line in lines {
            let cells: Vec<&str> = line.split(',').collect();
            let cell = |name: &str| {
                let column = names.iter().position(|known| *known == name)?;
                cells.get(column).copied()
            };
            let rule = found.rules.entry(cell("pxname").unwrap_or_default().to_owned()).or_default();
            match cell("svname") {
                Some("BACKEND") => rule.algorithm = cell("algo").unwrap_or_default().to_owned(),
                _ => {
                    rule.servers.extend(cell("addr").and_then(|address| address.parse::<SocketAddrV4>().ok()))
                }
            }
        }
        found
    }

    /// What is not as it is expected.
    fn lack(&self, expected: &ExpectedBalancer) -> Option<String> {
        let name = rule_name(expected.listener);
        let Some(rule) = self.rules.get(&name) else { return Some(format!("{name} is missing")) };
        if rule.algorithm != expected.algorithm {
            return Some(format!("{name} balances by {}, expected {}", rule.algorithm, expected.algorithm));
        }
        if rule.servers != expected.servers {
            let list = |servers: &BTreeSet<SocketAddrV4>| {
                servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            };
            let (has, expected) = (list(&rule.servers), list(&expected.servers));
            return Some(format!("{name} has the servers {has}, expected {expected}"));
        }
        match (self.max_connections, expected.max_connections) {
            (Some(found), Some(expected)) if found != expected => {
                Some(format!("{found} connections at most, expected {expected}"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_compared_with_what_haproxy_does() {
        let found = Found::read(
            "Name: HAProxy\nMaxconn: 4096\n",
            "# pxname,svname,status,addr,algo,\n\
             203_0_113_11-80,FRONTEND,OPEN,,,\n\
             203_0_113_11-80,203_0_113_11-80_0,UP,10.1.1.20:8080,,\n\
             203_0_113_11-80,203_0_113_11-80_1,DOWN,10.1.1.21:8080,,\n\
             203_0_113_11-80,BACKEND,UP,,roundrobin,\n",
        );
        let server = |last| SocketAddrV4::new([10, 1, 1, last].into(), 8080);
        let expected = ExpectedBalancer {
            listener: SocketAddrV4::new([203, 0, 113, 11].into(), 80),
            algorithm: "roundrobin".to_owned(),
            servers: [server(20), server(21)].into(),
            max_connections: Some(4096),
        };
        assert_eq!(found.lack(&expected), None);
        for (other, lack) in [
            (
                ExpectedBalancer {
                    listener: SocketAddrV4::new([203, 0, 113, 11].into(), 81),
                    ..expected.clone()
                },
                "203_0_113_11-81 is missing",
            ),
            (
                ExpectedBalancer { algorithm: "source".to_owned(), ..expected.clone() },
                "203_0_113_11-80 balances by roundrobin, expected source",
            ),
            (
                ExpectedBalancer { servers: [server(20)].into(), ..expected.clone() },
                "203_0_113_11-80 has the servers 10.1.1.20:8080 10.1.1.21:8080, expected 10.1.1.20:8080",
            ),
            (
                ExpectedBalancer { max_connections: Some(8192), ..expected.clone() },
                "4096 connections at most, expected 8192",
            ),
        ] {
            assert_eq!(found.lack(&other).as_deref(), Some(lack));
        }
    }
}
