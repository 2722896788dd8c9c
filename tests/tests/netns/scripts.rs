//! CloudStack's scripts as it calls them, by their installed names: what they print to the byte, their exit status, and
//! what they do to a running router with real neighbours.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_tests::daemons::{Haproxy, Scratch};
use router_tests::lab::Lab;
use router_tests::needs;
use router_tests::netns::{Output, run_bounded, wait_until};
use router_tests::router::{ISOLATED_COMMANDS, Router, VPC_COMMANDS, fixture};
use router_tests::servers::TcpEcho;
use router_tests::vpn::{self, Charon};
use serde_json::Value;

/// How long a test waits for what comes soon.
const SOON: Duration = Duration::from_secs(60);

/// What CloudStack's own router prints, to be printed by ours.
fn golden(name: &str) -> Result<String> {
    let path = fixture("cloudstack/_query_outputs").join(name);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// A script succeeds and prints exactly this.
fn prints(router: &Router<'_>, line: &[&str], expected: &str) -> Result<()> {
    let output = script(router, line)?;
    assert_eq!((output.code(), output.stdout.as_str()), (0, expected), "{line:?}: {}", output.stderr);
    Ok(())
}

fn script(router: &Router<'_>, line: &[&str]) -> Result<Output> {
    let (name, arguments) = line.split_first().context("a script has a name")?;
    router.script(name, arguments)
}

/// The router of an isolated network that has been told this, if this machine can have one.
fn isolated(
    programs: &[&str],
    further: &[&str],
    test: impl FnOnce(&Lab, &mut Router<'_>) -> Result<()>,
) -> Result<()> {
    if !needs::are_met(programs) {
        return Ok(());
    }
    let lab = Lab::isolated()?;
    let mut router = Router::start(&lab, "tc")?;
    router.apply(&ISOLATED_COMMANDS)?;
    router.apply(further)?;
    test(&lab, &mut router)
}

/// The same of a VPC's, of which nothing is known yet.
fn vpc(test: impl FnOnce(&Lab, &mut Router<'_>) -> Result<()>) -> Result<()> {
    if !needs::are_met(&[]) {
        return Ok(());
    }
    let lab = Lab::vpc()?;
    let mut router = Router::start(&lab, "tc")?;
    test(&lab, &mut router)
}

#[test]
fn a_router_without_a_second_one_is_primary_while_it_serves() -> Result<()> {
    isolated(&[], &[], |_, router| {
        let primary = golden("checkrouter_primary.stdout")?;
        prints(router, &["checkrouter.sh"], &primary)?;
        prints(router, &["checkrouter.sh", "null"], &primary)?;
        router.kill_daemon();
        prints(router, &["checkrouter.sh"], &golden("checkrouter_fault.stdout")?)
    })
}

#[test]
fn a_vpcs_router_is_unknown_until_it_has_a_tier() -> Result<()> {
    vpc(|lab, router| {
        let unknown = golden("checkrouter_unknown.stdout")?;
        prints(router, &["checkrouter.sh"], &unknown)?;
        router.apply(&VPC_COMMANDS[..2])?;
        prints(router, &["checkrouter.sh"], &unknown)?;
        router.apply(&VPC_COMMANDS[2..])?;
        prints(router, &["checkrouter.sh"], &golden("checkrouter_primary.stdout")?)?;
        // Unplugged tiers serve nobody.
        lab.router.ip("link del eth2\nlink del eth3\n")?;
        let is_unknown = || script(router, &["checkrouter.sh"]).is_ok_and(|output| output.stdout == unknown);
        wait_until("a router without tiers is unknown", SOON, is_unknown)
    })
}

/// What is between `&&`s: output, errors, exit status.
fn diagnose(router: &Router<'_>, line: &[&str]) -> Result<(String, String, i32)> {
    let output = router.script("diagnostics.py", line)?;
    ensure!(output.code() == 0, "{line:?}: {output:?}");
    let parts: Vec<&str> = output.stdout.split("&&\n").collect();
    let [said, complained, status] = parts[..] else { anyhow::bail!("{line:?}: {:?}", output.stdout) };
    Ok((said.to_owned(), complained.to_owned(), status.trim_end_matches('\n').parse()?))
}

#[test]
fn diagnostics_come_from_the_real_tools() -> Result<()> {
    isolated(&["ping", "traceroute", "arping"], &[], |_, router| {
        let golden = golden("diagnostics_ping.stdout")?;
        assert_eq!(golden.matches("&&\n").count(), 2);
        let (said, complained, status) = diagnose(router, &["ping", "203.0.113.1", "-i", "0.2"])?;
        assert_eq!((complained.as_str(), status), ("", 0));
        assert!(said.starts_with("PING 203.0.113.1 (203.0.113.1) 56(84) bytes of data.\n"), "{said}");
        assert!(said.contains("4 packets transmitted, 4 received"), "{said}");
        let (said, ..) = diagnose(router, &["ping", "-c", "1", "203.0.113.1"])?;
        assert!(said.contains("1 packets transmitted, 1 received"), "{said}");
        let (said, _, status) = diagnose(router, &["ping6", "-c", "1", "2001:db8:100::1"])?;
        assert!(status == 0 && said.contains("1 received"), "{said}");
        let (said, _, status) = diagnose(router, &["traceroute", "-n", "198.51.100.9"])?;
        assert!(
            status == 0 && said.starts_with("traceroute to 198.51.100.9") && said.contains("20 hops max"),
            "{said}"
        );
        assert!(said.contains(" 1  203.0.113.1 ") && said.contains(" 2  198.51.100.9 "), "{said}");
        let (said, _, status) = diagnose(router, &["traceroute6", "-n", "2001:db8:200::9"])?;
        assert!(status == 0 && said.contains("2001:db8:200::9"), "{said}");
        let (said, _, status) = diagnose(router, &["arping", "-c", "1", "-I", "eth2", "203.0.113.1"])?;
        assert!(status == 0 && said.contains("Received 1 response"), "{said}");
        // Nobody is there.
        let (said, _, status) = diagnose(router, &["ping", "-c", "1", "-W", "1", "203.0.113.77"])?;
        assert!(status == 1 && said.contains("0 received"), "{said}");
        Ok(())
    })
}

#[test]
fn diagnostics_run_nothing_else_and_no_shell() -> Result<()> {
    isolated(&["ping"], &[], |_, router| {
        for line in [&["sh", "-c", "id"][..], &["ping;id"], &["/usr/bin/ping", "203.0.113.1"], &["null"], &[]]
        {
            let (said, complained, status) = diagnose(router, line)?;
            assert!(said.is_empty() && !complained.is_empty() && status == 1, "{line:?}: {said}{complained}");
        }
        let trap = router.root().join("trap");
        let (_, complained, status) =
            diagnose(router, &["ping", "-c", "1", &format!("$(touch {})", trap.display())])?;
        assert!(status != 0 && !complained.is_empty(), "{complained}");
        assert!(!trap.exists(), "a shell has read the arguments");
        Ok(())
    })
}

#[test]
fn a_tool_that_is_not_there_is_said_so() -> Result<()> {
    isolated(&[], &[], |lab, router| {
        // Of the folders that are looked through, the router's mount namespace has none.
        let line = "for folder in /usr/local/sbin /usr/sbin /sbin /usr/bin /bin; do \
                    [ -L $folder ] || mount -t tmpfs none $folder; done; exec \"$0\" ping 203.0.113.1";
        let mut command = lab.router.command("/usr/bin/unshare");
        command.args(["--mount", "/bin/sh", "-c"]);
        let mounted = format!("PATH=$PATH; . {}", write_program(router, "hide", line)?.display());
        command
            .arg(mounted)
            .arg(router.root().join("opt/cloud/bin/diagnostics.py"))
            .env("PATH", "/nonexistent:/usr/bin:/bin");
        let output = run_bounded(&mut command, SOON)?;
        assert_eq!(output.stdout, "&&\nping: No such file or directory (os error 2)&&\n127\n", "{output:?}");
        Ok(())
    })
}

fn write_program(router: &Router<'_>, name: &str, text: &str) -> Result<PathBuf> {
    let path = router.root().join(name);
    fs::write(&path, text)?;
    Ok(path)
}

#[test]
fn files_and_outputs_come_in_an_archive_which_is_then_cleaned_up() -> Result<()> {
    isolated(&["unzip"], &[], |lab, router| {
        fs::write(router.root().join("etc/cloudstack-release"), "Cloudstack Release 4.20.0.0\n")?;
        let names = [
            "get_diagnostics_files.py",
            "iptables",
            "ipaddr",
            "iprule",
            "iproute",
            "/etc/cloudstack-release",
            "/etc/dnsmasq.conf",
            "../../etc/passwd",
            "/../../../etc/passwd",
            "[checkrouter.sh]",
            "[no_such.sh]",
            "[../xvr]",
        ];
        let output = script(router, &names)?.ok()?;
        let path = PathBuf::from(output.stdout.strip_suffix('\n').context("a line")?);
        assert_eq!(path.parent(), Some(router.root().join("root").as_path()));
        let name = path.file_name().and_then(|name| name.to_str()).context("a name")?;
        let digits = |text: &str| text.replace(|letter: char| letter.is_ascii_digit(), "0");
        let golden = golden("get_diagnostics_files.stdout")?;
        assert_eq!(digits(&format!("/root/{name}\n")), digits(&golden));
        let archive = path.display().to_string();
        let member = |member: &str| lab.router.run("unzip", &["-p", &archive, member]);
        let info = member("fileinfo.txt")?;
        for line in [
            "/etc/cloudstack-release: found, 28 bytes",
            "/etc/dnsmasq.conf: not found: No such file or directory (os error 2)",
            "../../etc/passwd: neither an absolute path nor one of iptables, ipaddr, iprule, iproute",
            "/../../../etc/passwd: neither an absolute path nor one of iptables, ipaddr, iprule, iproute",
            "[no_such.sh]: no such script",
            "[../xvr]: no script of this router",
        ] {
            assert!(info.lines().any(|said| said == line), "no {line:?} in {info}");
        }
        assert_eq!(member("etc/cloudstack-release")?, "Cloudstack Release 4.20.0.0\n");
        assert!(member("ipaddr.txt")?.contains("203.0.113.14/24"));
        assert!(member("iproute.txt")?.contains("default via 203.0.113.1"));
        assert!(member("iptables.txt")?.contains("show rules: 0\n"));
        assert!(member("checkrouter.sh.txt")?.contains("Status: PRIMARY\n"));
        assert!(member("passwd").is_err() && member("etc/passwd").is_err());

        let victim = router.root().join("root/diagnostics_files_of_mine.zip");
        fs::write(&victim, "")?;
        let database = router.root().join("etc/cloudstack/ips.json").display().to_string();
        let away = format!("{}/../etc/{name}", router.root().join("root").display());
        for path in [victim.display().to_string(), database.clone(), away, "null".to_owned()] {
            prints(router, &["cleanup.sh", &path], "")?;
        }
        assert!(victim.exists() && Path::new(&database).exists() && path.exists());
        let said = self::golden("cleanup_ok.stdout")?
            .replace("/root/diagnostics_files_20260120-101500.zip", &archive);
        prints(router, &["cleanup.sh", &archive], &said)?;
        assert!(!path.exists());
        prints(router, &["cleanup.sh", &archive], "")
    })
}

#[test]
fn a_file_system_is_writable_or_read_only() -> Result<()> {
    isolated(&["unshare", "mount"], &[], |lab, router| {
        prints(router, &["filesystem_writable_check.py"], &golden("filesystem_writable_check_ok.stdout")?)?;
        prints(
            router,
            &["filesystem_writable_check.py", "null"],
            &golden("filesystem_writable_check_ok.stdout")?,
        )?;
        let inbox = router.root().join("var/cache/cloud");
        let mut command = lab.router.command("unshare");
        command.args([
            "--mount",
            "sh",
            "-c",
            "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && exec \"$0\"",
        ]);
        command.arg(router.root().join("opt/cloud/bin/filesystem_writable_check.py")).arg(&inbox);
        let output = run_bounded(&mut command, SOON)?;
        let expected = golden("filesystem_writable_check_ro.exit1.stdout")?;
        assert_eq!((output.code(), output.stdout.as_str()), (1, expected.as_str()), "{}", output.stderr);
        let left: Vec<_> = fs::read_dir(inbox)?.flatten().filter(|entry| entry.path().is_file()).collect();
        assert!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

/// The MTU that the kernel has for a NIC.
fn mtu(lab: &Lab, device: &str) -> Result<u64> {
    let links: Value =
        serde_json::from_str(&lab.router.run("ip", &["-json", "link", "show", "dev", device])?)?;
    links[0]["mtu"].as_u64().context("a link has an MTU")
}

#[test]
fn an_mtu_is_changed_and_stays_changed() -> Result<()> {
    isolated(&[], &[], |lab, router| {
        let changed = golden("update_interface_config_ok.stdout")?;
        prints(router, &["update_interface_config.sh", "203.0.113.14", "24", "1400", "15"], &changed)?;
        prints(router, &["update_interface_config.sh", "10.1.1.1", "24", "1300", "15"], "eth0\n")?;
        assert_eq!((mtu(lab, "eth2")?, mtu(lab, "eth0")?), (1400, 1300));
        assert_eq!(router.plan()?, Vec::<String>::new());
        // The boot line's own MTU does not come back with it, nor does the one before the restart.
        router.apply(&ISOLATED_COMMANDS)?;
        lab.router.ip("link set eth2 mtu 1500\n")?;
        wait_until("eth2 has its MTU again", SOON, || mtu(lab, "eth2").is_ok_and(|mtu| mtu == 1400))?;
        router.kill_daemon();
        router.start_daemon()?;
        assert_eq!((mtu(lab, "eth2")?, mtu(lab, "eth0")?), (1400, 1300));

        let absent = script(router, &["update_interface_config.sh", "203.0.113.99", "24", "1400", "15"])?;
        let expected = golden("update_interface_config_not_found.exit1.stdout")?;
        assert_eq!((absent.code(), absent.stdout.as_str()), (1, expected.as_str()));
        let narrow = script(router, &["update_interface_config.sh", "203.0.113.14", "25", "1400", "15"])?;
        assert!(narrow.code() == 1 && narrow.stdout.contains("Interface with IP 203.0.113.14 not found"));
        for line in [
            &["update_interface_config.sh", "203.0.113.14", "24", "60", "15"][..],
            &["update_interface_config.sh", "203.0.113.14", "24", "null", "15"],
            &["update_interface_config.sh", "nobody", "24", "1400", "15"],
            &["update_interface_config.sh"],
        ] {
            let output = script(router, line)?;
            assert!(
                output.code() == 1 && output.stdout.is_empty() && !output.stderr.is_empty(),
                "{output:?}"
            );
        }
        assert_eq!(mtu(lab, "eth2")?, 1400);
        Ok(())
    })
}

#[test]
fn a_tiers_mtu_is_kept_in_both_of_its_databags() -> Result<()> {
    vpc(|lab, router| {
        router.apply(&VPC_COMMANDS)?;
        prints(router, &["update_interface_config.sh", "10.10.1.1", "24", "1400", "15"], "eth2\n")?;
        assert_eq!((mtu(lab, "eth2")?, mtu(lab, "eth3")?), (1400, 1500));
        let bag = |name: &str| -> Result<Value> {
            Ok(serde_json::from_str(&fs::read_to_string(router.root().join("etc/cloudstack").join(name))?)?)
        };
        assert_eq!(bag("guestnetwork.json")?["eth2"][0]["mtu"], 1400);
        assert_eq!(bag("ips.json")?["eth2"][0]["mtu"], "1400");
        assert_eq!(bag("guestnetwork.json")?["eth3"][0]["mtu"], 1500);
        Ok(())
    })
}

#[test]
fn scripts_that_have_little_to_do_end_as_expected() -> Result<()> {
    isolated(&[], &[], |_, router| {
        for line in [
            &["manage_service.sh", "stop", "keepalived"][..],
            &["manage_service.sh", "start", "keepalived"],
            &["bumpup_priority.sh"],
            &["bumpup_priority.sh", "null"],
            &["keystore-setup", "a", "b", "null"],
            &["keystore-cert-import", "a"],
            &["configure.py", "monitor_service.json"],
            &["configure.py"],
            &["cks_iso.sh", "false"],
            &["checkbatchs2svpn.sh"],
            &["checkbatchs2svpn.sh", "null"],
        ] {
            prints(router, line, "")?;
        }
        for line in [
            &["manage_service.sh", "stop", "sshd"][..],
            &["manage_service.sh", "null"],
            &["cks_iso.sh", "null"],
            &["cks_iso.sh", "maybe"],
            &["getRouterAlerts.sh", "null"],
            &["getRouterAlerts.sh", "1970-01-01"],
            &["getRouterMonitorResults.sh", "maybe"],
            &["checks2svpn.sh", "null"],
            &["get_haproxy_stats.sh", "203.0.113.11"],
        ] {
            let output = script(router, line)?;
            assert!(output.code() == 1 && !output.stderr.is_empty(), "{output:?}");
        }
        if !Path::new("/dev/cdrom").exists() {
            let output = script(router, &["cks_iso.sh", "true"])?;
            assert!(output.code() == 1 && output.stderr.contains("/dev/cdrom"), "{output:?}");
        }
        router.kill_daemon();
        let output = script(router, &["configure.py", "monitor_service.json"])?;
        assert!(output.code() == 1 && output.stderr.contains("the daemon is not running"), "{output:?}");
        Ok(())
    })
}

#[test]
fn a_site_to_site_vpn_is_connected_when_strongswan_says_so() -> Result<()> {
    isolated(&vpn::PROGRAMS, &[], |lab, router| {
        let not = "IPsec SA not found;Site-to-site VPN have not connected";
        let peers = ["198.51.100.9", "198.51.100.201"];
        let nobody = format!("{}:11:{not}&{}:11:{not}&", peers[0], peers[1]);
        prints(router, &["checkbatchs2svpn.sh", peers[0], peers[1], ""], &nobody)?;
        let (vm1, far) = (lab.host("vm1"), lab.host("far"));
        let (_server, gateway) = (Charon::wait_for_guests(far)?, Charon::guest_of(vm1, far.v4)?);
        // Which of the lab's strongSwans is asked is a matter of its socket.
        fs::create_dir_all(router.root().join("run"))?;
        symlink(gateway.socket(), router.root().join("run/charon.vici"))?;
        prints(router, &["checkbatchs2svpn.sh", peers[0], peers[1], ""], &nobody)?;
        gateway.call()?;
        let golden = golden("checkbatchs2svpn_two_peers.stdout")?;
        let expected = golden.replace("198.51.100.200", peers[0]);
        prints(router, &["checkbatchs2svpn.sh", peers[0], peers[1], ""], &expected)?;
        prints(
            router,
            &["checkbatchs2svpn.sh", "2001:db8::1", "null", peers[1]],
            &format!("{}:11:{not}&", peers[1]),
        )?;
        prints(router, &["checks2svpn.sh", peers[0]], "IPsec SA found;Site-to-site VPN have connected")?;
        let output = script(router, &["checks2svpn.sh", peers[1]])?;
        assert_eq!((output.code(), output.stdout.as_str()), (11, not));
        Ok(())
    })
}

#[test]
fn sessions_of_a_load_balancer_are_averaged_over_its_servers() -> Result<()> {
    isolated(&["haproxy"], &[], |lab, router| {
        prints(router, &["get_haproxy_stats.sh", "203.0.113.14", "80"], "0")?;
        let folder = router.root().join("run/haproxy");
        fs::create_dir_all(&folder)?;
        let gateway = lab.host("gateway");
        let echo = TcpEcho::start(gateway)?;
        let servers = [echo.at(gateway.v4), echo.at(gateway.v4), "203.0.113.1:9".parse()?];
        let socket = folder.join("admin.sock");
        let haproxy = Haproxy::start(&lab.router, Scratch::new(gateway)?, &socket, &servers)?;
        haproxy.wait_until_down(2)?;
        let connect = || (0..24).map(|_| TcpStream::connect("127.0.0.1:8000")).collect::<Result<Vec<_>, _>>();
        let _held = lab.router.inside(connect)??;
        let golden = golden("get_haproxy_stats.stdout")?;
        // The third server is down, and counts for nothing.
        let is_said = || {
            script(router, &["get_haproxy_stats.sh", "203.0.113.14", "80"])
                .is_ok_and(|output| output.stdout == golden)
        };
        wait_until("haproxy counts 12 sessions for each of two servers", SOON, is_said)?;
        prints(router, &["get_haproxy_stats.sh", "203.0.113.14", "443"], "0")
    })
}

#[test]
fn alerts_are_those_that_are_newer() -> Result<()> {
    isolated(&[], &[], |_, router| {
        let none = golden("getRouterAlerts_none.stdout")?;
        prints(router, &["getRouterAlerts.sh", "1970-01-01", "00:00:00"], &none)?;
        fs::create_dir_all(router.root().join("var/log"))?;
        let two = golden("getRouterAlerts_two.stdout")?;
        let lines = two.trim_end().replace("\\n", "\n");
        fs::write(router.root().join("var/log/routerServiceMonitor.log"), lines)?;
        prints(router, &["getRouterAlerts.sh", "1970-01-01", "00:00:00"], &two)?;
        let second = two.split_once("\\n").context("two lines")?.1;
        prints(router, &["getRouterAlerts.sh", "2026-01-20", "10:01:02"], second)?;
        prints(router, &["getRouterAlerts.sh", "2026-01-20", "10:05:10"], &none)
    })
}

/// What `getRouterMonitorResults.sh` prints, as the management server reads it: failing checks, and all results.
fn results(router: &Router<'_>, run: &str) -> Result<(Vec<String>, Value)> {
    let output = script(router, &["getRouterMonitorResults.sh", run])?.ok()?;
    let mut lines = output.stdout.lines();
    ensure!(lines.next() == Some("FAILING CHECKS:"), "{}", output.stdout);
    let names: Vec<&str> = lines.by_ref().take_while(|line| *line != "MONITOR RESULTS:").collect();
    let failing = names.iter().flat_map(|line| line.split(',')).map(str::to_owned).collect();
    let document: String = lines.collect();
    Ok((failing, serde_json::from_str(&document).with_context(|| document.clone())?))
}

/// The results of one kind: check → word of success.
fn words(results: &Value, kind: &str) -> Vec<(String, String)> {
    let checks = results[kind].as_object().into_iter().flatten().filter(|(name, _)| *name != "lastRun");
    checks
        .map(|(name, check)| (name.clone(), check["success"].as_str().unwrap_or_default().to_owned()))
        .collect()
}

fn pairs(words: &[(&str, &str)]) -> Vec<(String, String)> {
    words.iter().map(|(name, word)| ((*name).to_owned(), (*word).to_owned())).collect()
}

const ADDRESSES: &str = "cloudstack/ip_associations/isolated_add_extra_ips_same_vlan.json";
const MONITORING: &str = "cloudstack/monitor_service/on_start.json";

/// What the router says of its version, as the fixtures expect it.
fn write_version(router: &Router<'_>, signature: &str) -> Result<()> {
    let release = "Cloudstack Release 4.20.0.0 Fri Sep 27 01:02:15 PM UTC 2024\n";
    fs::write(router.root().join("etc/cloudstack-release"), release)?;
    fs::write(router.root().join("var/cache/cloud/cloud-scripts-signature"), signature)?;
    Ok(())
}

#[test]
fn before_any_run_there_are_no_results() -> Result<()> {
    isolated(&[], &[], |_, router| {
        let nothing = golden("getRouterMonitorResults_no_runs_yet.stdout")?;
        prints(router, &["getRouterMonitorResults.sh"], &nothing)?;
        prints(router, &["getRouterMonitorResults.sh", "null"], &nothing)?;
        // Nobody could say what to compare with; what was found before stands.
        router.kill_daemon();
        prints(router, &["getRouterMonitorResults.sh", "true"], &nothing)
    })
}

#[test]
fn saved_results_are_printed_as_cloudstacks_own_router_prints_them() -> Result<()> {
    isolated(&[], &[], |_, router| {
        for name in ["getRouterMonitorResults.stdout", "getRouterMonitorResults_4_22.stdout"] {
            let golden = golden(name)?;
            let lines: Vec<&str> = golden.lines().collect();
            let home = router.root().join("root");
            fs::write(home.join("basic_failing_health_checks"), lines[1])?;
            fs::write(home.join("basic_monitor_results.json"), lines[4])?;
            fs::write(home.join("advanced_failing_health_checks"), "")?;
            fs::write(home.join("advanced_monitor_results.json"), lines[6])?;
            prints(router, &["getRouterMonitorResults.sh", "false"], &golden)?;
        }
        Ok(())
    })
}

#[test]
fn health_checks_measure_in_the_words_of_the_management_servers_generation() -> Result<()> {
    isolated(&["dnsmasq", "ping"], &[ADDRESSES, MONITORING], |lab, router| {
        write_version(router, "14829be797d19c6d38e8c77efff9aeea\n")?;
        // No message has brought the guests, the balancing and the port forwarding that are expected.
        dnsmasq_runs(router)?;
        let (failing, found) = results(router, "true")?;
        assert_eq!(
            failing,
            ["dhcp_check.py", "dns_check.py", "haproxy_check.py", "iptables_check.py"],
            "{found}"
        );
        let said =
            "Missing dhcp entries: web-1 (02:00:3c:91:00:04,10.1.1.20), web-2 (02:00:3c:91:00:06,10.1.1.21)";
        assert_eq!(found["advanced"]["dhcp_check.py"]["message"], said);
        let said = "Missing dns entries: web-1 (10.1.1.20 web-1), web-2 (10.1.1.21 web-2)";
        assert_eq!(found["advanced"]["dns_check.py"]["message"], said);
        let advanced = [
            ("dhcp_check.py", "false"),
            ("dns_check.py", "false"),
            ("haproxy_check.py", "false"),
            ("iptables_check.py", "false"),
        ];
        assert_eq!(words(&found, "advanced"), pairs(&advanced), "{found}");
        let basic = [
            ("cpu_usage_check.py", "true"),
            ("dhcp.service", "true"),
            ("disk_space_check.py", "true"),
            ("gateways_check.py", "true"),
            ("memory_usage_check.py", "true"),
            ("router_version_check.py", "true"),
            ("ssh.service", "true"),
            ("webserver.service", "true"),
        ];
        assert_eq!(words(&found, "basic"), pairs(&basic), "{found}");
        let gateways = &found["basic"]["gateways_check.py"];
        assert_eq!(gateways["message"], "All 2 gateways are reachable via ping");
        assert!(
            gateways["lastUpdate"]
                .as_str()
                .is_some_and(|text| text.len() == 13 && text.parse::<u64>().is_ok())
        );
        assert!(gateways["lastRunDuration"].as_str().is_some_and(|text| text.parse::<f64>().is_ok()));

        router.apply(&[
            "cloudstack/forwarding_rules/isolated_tcp_single_add.json",
            "cloudstack/vm_dhcp_entry/default_nic_add.json",
            "cloudstack/vm_dhcp_entry/dualstack_add.json",
        ])?;
        wait_until("dnsmasq's files have the guests", SOON, || {
            let names = fs::read_to_string(router.root().join("etc/hosts"));
            names.is_ok_and(|names| {
                names.contains("10.1.1.20\tweb-1\n") && names.contains("10.1.1.21\tweb-2\n")
            })
        })?;
        let sha512 = "3bb12eda3c298db5de25597f54d924f2".repeat(4);
        write_version(router, &sha512)?;
        lab.host("gateway").namespace.ip("link set eth0 down\n")?;
        let (failing, found) = results(router, "true")?;
        let expected = ["gateways_check.py", "router_version_check.py", "haproxy_check.py"];
        assert_eq!(failing, expected, "{found}");
        assert_eq!(found["basic"]["gateways_check.py"]["success"], "FAILED");
        assert_eq!(
            found["basic"]["gateways_check.py"]["message"],
            "Unreachable gateways found: 203.0.113.1 "
        );
        assert_eq!(found["basic"]["cpu_usage_check.py"]["success"], "SUCCESS");
        let advanced = [
            ("dhcp_check.py", "SUCCESS"),
            ("dns_check.py", "SUCCESS"),
            ("haproxy_check.py", "FAILED"),
            ("iptables_check.py", "SUCCESS"),
        ];
        assert_eq!(words(&found, "advanced"), pairs(&advanced), "{found}");

        // Known, and waiting for its address: no reason to replace the router.
        router.apply(&["cloudstack/ip_associations/isolated_remove_ip.json"])?;
        let excluded = fs::read_to_string(fixture(
            "cloudstack/monitor_service/periodic_refresh_delete_after.json",
        ))?
        .replace(
            r#""excluded_health_checks":"""#,
            r#""excluded_health_checks":"gateways_check.py, router_version_check.py, haproxy_check.py""#,
        );
        router.update_config_with("monitor_service", excluded.as_bytes())?.ok()?;
        let (failing, found) = results(router, "true")?;
        assert_eq!(failing, Vec::<String>::new(), "{found}");
        assert_eq!(words(&found, "basic").len(), 6, "{found}");
        assert_eq!(found["advanced"]["iptables_check.py"]["success"], "WARNING", "{found}");

        // The operator knows better which management server it is.
        fs::write(router.root().join("etc/xvr/settings.json"), r#"{ "management_server": "4.21" }"#)?;
        router.xvr(&["reload"])?.ok()?;
        let (_, found) = results(router, "true")?;
        assert_eq!(found["advanced"]["iptables_check.py"]["success"], "true", "{found}");
        Ok(())
    })
}

fn dnsmasq_runs(router: &Router<'_>) -> Result<()> {
    wait_until("dnsmasq runs", SOON, || {
        router.show("status").is_ok_and(|status| {
            let services = status["services"].as_array().cloned().unwrap_or_default();
            services.iter().any(|service| service["name"] == "dnsmasq" && service["pid"].is_u64())
        })
    })
}

#[test]
fn health_checks_run_by_themselves_once_they_are_switched_on() -> Result<()> {
    isolated(&["dnsmasq", "ping"], &[], |_, router| {
        let home = router.root().join("root");
        let file = home.join("advanced_monitor_results.json");
        let off = fs::read_to_string(fixture(MONITORING))?
            .replace(r#""health_checks_enabled":true"#, r#""health_checks_enabled":false"#);
        router.update_config_with("monitor_service", off.as_bytes())?.ok()?;
        dnsmasq_runs(router)?;
        fs::remove_file(router.root().join("etc/cloudstack-release"))?;
        router.apply(&[MONITORING])?;
        wait_until("the daemon has run checks", SOON, || {
            file.exists() && home.join("basic_monitor_results.json").exists()
        })?;
        let (failing, found) = results(router, "false")?;
        assert_eq!(
            failing,
            ["dhcp_check.py", "dns_check.py", "haproxy_check.py", "iptables_check.py"],
            "{found}"
        );
        assert_eq!(found["basic"]["gateways_check.py"]["success"], "true", "{found}");
        // Nobody knows the versions: neither success nor failure.
        assert!(found["basic"]["router_version_check.py"].is_null(), "{found}");
        Ok(())
    })
}

#[test]
fn checks_that_run_already_are_not_run_beside_themselves() -> Result<()> {
    isolated(&["flock"], &[MONITORING], |lab, router| {
        let home = router.root().join("root");
        wait_until("the first run is over", SOON, || home.join("basic_monitor_results.json").exists())?;
        fs::remove_file(home.join("basic_monitor_results.json"))?;
        let lock = router.root().join("run/xvr/health-checks-basic.lock");
        let mut held = lab.router.command("flock");
        held.arg(&lock).arg(router.root().join("usr/sbin/xvr")).args(["health-checks", "basic", "--root"]);
        let output = run_bounded(held.arg(router.root()), SOON)?;
        assert_eq!((output.code(), output.stdout.as_str()), (0, ""), "{output:?}");
        assert!(!home.join("basic_monitor_results.json").exists(), "it has run all the same");
        run_bounded(&mut router.command(["health-checks", "basic"]), SOON)?.ok()?;
        assert!(home.join("basic_monitor_results.json").exists());
        Ok(())
    })
}

#[test]
fn a_bad_monitoring_message_changes_nothing() -> Result<()> {
    isolated(&[], &[MONITORING], |_, router| {
        let bag = router.root().join("etc/cloudstack/monitorservice.json");
        let before = fs::read_to_string(&bag)?;
        let bad = fs::read_to_string(fixture(MONITORING))?.replace("169.254.0.1 203", "169.254.0.1.1 203");
        let output = router.update_config_with("monitor_service", bad.as_bytes())?;
        assert_eq!(output.code(), 1);
        let says = r##"#/health_checks_config/gateways: "169.254.0.1.1" is no address"##;
        assert!(output.stderr.contains(says), "{}", output.stderr);
        assert_eq!(fs::read_to_string(&bag)?, before);
        Ok(())
    })
}

/// The installed names are those that this list of the management server's calls has.
#[test]
fn every_name_that_the_management_server_calls_is_installed() -> Result<()> {
    isolated(&[], &[], |_, router| {
        for name in [
            "bumpup_priority.sh",
            "checkbatchs2svpn.sh",
            "checks2svpn.sh",
            "checkrouter.sh",
            "cks_iso.sh",
            "cleanup.sh",
            "configure.py",
            "diagnostics.py",
            "filesystem_writable_check.py",
            "get_diagnostics_files.py",
            "get_haproxy_stats.sh",
            "getRouterAlerts.sh",
            "getRouterMonitorResults.sh",
            "keystore-cert-import",
            "keystore-setup",
            "manage_service.sh",
            "update_interface_config.sh",
        ] {
            let path = router.root().join("opt/cloud/bin").join(name);
            let output = run_bounded(Command::new("test").arg("-x").arg(&path), SOON)?;
            assert!(output.status.success(), "{name}");
        }
        Ok(())
    })
}
