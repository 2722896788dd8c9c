//! `get_haproxy_stats.sh IP PORT`: how busy a load balancer's servers are, for autoscaling.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::{failed, words};
use crate::root::Root;
use crate::services::balancer;

const NAME: &str = "get_haproxy_stats.sh";

/// Prints the current sessions of a server, on an average over those that are up; 0 where nobody knows.
pub fn run(arguments: &[OsString]) -> u8 {
    let words = words(arguments);
    let (Some(address), Some(port), 2) = (
        words.first().and_then(|word| word.parse::<Ipv4Addr>().ok()),
        words.get(1).and_then(|word| word.parse::<u16>().ok()),
        words.len(),
    ) else {
        print!("0");
        return failed(NAME, "usage: get_haproxy_stats.sh IP PORT");
    };
    let pool = balancer::rule_name(SocketAddrV4::new(address, port));
    let socket = balancer::socket(&Root::find(None));
    match balancer::ask(&socket, "show stat") {
        Ok(csv) => print!("{}", average(&csv, &pool).unwrap_or(0)),
        Err(error) => {
            eprintln!("{NAME}: ask haproxy at {}: {error}", socket.display());
            print!("0");
        }
    }
    0
}

/// The first line names the columns.
fn average(csv: &str, pool: &str) -> Option<u64> {
    let mut lines = csv.lines();
    let names: Vec<&str> = lines.next()?.trim_start_matches(['#', ' ']).split(',').collect();
    let column = |name| names.iter().position(|known| *known == name);
    let (proxy, server) = (column("pxname")?, column("svname")?);
    let (sessions, status) = (column("scur")?, column("status")?);
    let mut up = Vec::new();
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        let cell = |column: usize| cells.get(column).copied().unwrap_or_default();
        let is_server = cell(proxy) == pool && !["FRONTEND", "BACKEND"].contains(&cell(server));
        // A server that haproxy does not check is up to haproxy, too.
        if is_server && (cell(status).starts_with("UP") || cell(status) == "no check") {
            up.extend(cell(sessions).parse::<u64>().ok());
        }
    }
    up.iter().sum::<u64>().checked_div(up.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_averaged_over_servers_that_are_up() {
        let csv = "# pxname,svname,qcur,qmax,scur,smax,status,\n\
                   203_0_113_11-80,FRONTEND,0,0,40,0,OPEN,\n\
                   203_0_113_11-80,203_0_113_11-80_0,0,0,10,0,UP,\n\
                   203_0_113_11-80,203_0_113_11-80_1,0,0,15,0,UP 1/3,\n\
                   203_0_113_11-80,203_0_113_11-80_2,0,0,99,0,DOWN,\n\
                   203_0_113_11-80,BACKEND,0,0,25,0,UP,\n\
                   203_0_113_11-8080,203_0_113_11-8080_0,0,0,7,0,no check,\n";
        assert_eq!(average(csv, "203_0_113_11-80"), Some(12));
        assert_eq!(average(csv, "203_0_113_11-8080"), Some(7));
        assert_eq!(average(csv, "203_0_113_11-443"), None);
        assert_eq!(average("", "203_0_113_11-80"), None);
    }
}
