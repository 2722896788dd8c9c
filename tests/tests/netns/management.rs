//! A router as the management server reaches it: by OpenSSH on the control network, with nothing but what
//! CloudStack's agent does.

use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_tests::lab::Lab;
use router_tests::management::Management;
use router_tests::needs;
use router_tests::netns::{run_bounded, wait_until};
use router_tests::router::Router;

const PROGRAMS: &[&str] = &["ssh", "scp", "ssh-keygen", "sshd", "ping", "nmap"];

/// The address of the isolated network's router on the control network.
const CONTROL: [u8; 4] = [169, 254, 100, 12];

/// A router of an isolated network that was booted, or nothing if this machine cannot have one.
macro_rules! booted_or_skip {
    ($lab:ident, $router:ident, $management:ident) => {
        if !needs::are_met(PROGRAMS) {
            return Ok(());
        }
        let $lab = Lab::isolated()?;
        #[allow(unused_mut, reason = "not every test restarts it")]
        let mut $router = Router::start(&$lab, "auto")?;
        let $management = Management::new(&$lab, CONTROL.into())?;
        $management.boot(&$router, &$management.boot_line("router_isolated")?)?;
    };
}

#[test]
fn it_says_which_release_it_is_once_it_is_booted_and_the_checksum_of_the_scripts_that_came() -> Result<()> {
    booted_or_skip!(lab, router, management);
    let release = fs::read_to_string(router.root().join("etc/cloudstack-release"))?;
    let release = release.trim_end();
    management.expect("get_template_version.sh", "", &format!("{release}&none\n"))?;
    management.copy_patch("md5sum")?;
    let said = management.call("get_template_version.sh", "null")?.ok()?.stdout;
    let signature = said.trim_end().rsplit_once('&').context("one ampersand")?.1.to_owned();
    ensure!(signature.len() == 32, "no MD5: {said}");
    ensure!(!router.root().join("var/cache/cloud/cloud-scripts.tgz").exists(), "the archive is still there");
    // From 4.22 on.
    management.copy_patch("sha512sum")?;
    let said = management.call("get_template_version.sh", "")?.ok()?.stdout;
    ensure!(said.trim_end().rsplit_once('&').is_some_and(|(_, word)| word.len() == 128), "{said}");
    Ok(())
}

#[test]
fn it_does_not_say_so_before_it_is_booted() -> Result<()> {
    if !needs::are_met(PROGRAMS) {
        return Ok(());
    }
    let lab = Lab::isolated()?;
    let router = Router::start(&lab, "auto")?;
    let management = Management::new(&lab, CONTROL.into())?;
    let script = router.root().join("opt/cloud/bin/get_template_version.sh");
    let mut asking = lab.router.command(&script).stdout(Stdio::piped()).spawn()?;
    std::thread::sleep(Duration::from_millis(500));
    ensure!(asking.try_wait()?.is_none(), "it answers before its boot");
    management.boot(&router, &management.boot_line("router_isolated")?)?;
    let mut said = String::new();
    asking.stdout.take().context("its output")?.read_to_string(&mut said)?;
    ensure!(asking.wait()?.success() && said.starts_with("Cloudstack Release "), "{said}");
    Ok(())
}

#[test]
fn a_live_patch_leaves_the_router_as_it_is() -> Result<()> {
    booted_or_skip!(lab, router, management);
    management.copy_patch("md5sum")?;
    let patch =
        run_bounded(management.ssh().arg("/var/cache/cloud/patch-sysvms.sh"), Duration::from_secs(60))?;
    let said = patch.ok()?.stdout;
    let signature = said.trim_end().strip_prefix("version:").context("it begins with the word version")?;
    ensure!(said == format!("version:{signature} \n") && signature.len() == 32, "{said:?}");
    let release = fs::read_to_string(router.root().join("etc/cloudstack-release"))?;
    management.expect("get_template_version.sh", "", &format!("{}&{signature}\n", release.trim_end()))
}

#[test]
fn messages_come_by_scp_and_update_config_and_their_retries_are_harmless() -> Result<()> {
    booted_or_skip!(lab, router, management);
    management.apply("cloudstack/ip_associations/isolated_add_extra_ips_same_vlan.json")?;
    management.apply("cloudstack/firewall_rules/egress_system_default_allow.json")?;
    lab.host("vm1").namespace.run("ping", &["-c", "1", "-W", "2", "198.51.100.9"])?;
    // The call alone again, whose file is gone, and another one whose file never came.
    let archived = fs::read_dir(router.root().join("var/cache/cloud/processed"))?;
    let names: Vec<String> =
        archived.flatten().filter_map(|file| file.file_name().into_string().ok()).collect();
    let name = names.iter().find_map(|name| name.strip_suffix(".gz")).context("an archived message")?;
    management.expect("update_config.py", name, "")?;
    let missing = management.call("update_config.py", "ip_associations.json.never")?;
    ensure!(missing.code() == 1 && missing.stderr.contains("ip_associations.json.never"), "{missing:?}");
    ensure!(router.plan()?.is_empty(), "something is left to do");
    Ok(())
}

#[test]
fn ssh_is_open_on_the_control_network_alone_and_to_the_right_key_alone() -> Result<()> {
    booted_or_skip!(lab, router, management);
    management.apply("cloudstack/firewall_rules/egress_system_default_allow.json")?;
    for (station, address) in
        [("vm1", "10.1.1.1"), ("vm1", "169.254.100.12"), ("vm1", "203.0.113.10"), ("gateway", "203.0.113.10")]
    {
        let scan = lab.host(station).namespace.run("nmap", &["-Pn", "-n", "-p", "3922", address])?;
        ensure!(!scan.contains("3922/tcp open"), "{station} finds ssh at {address}:\n{scan}");
    }
    let host = &lab.host("host").namespace;
    let other = router.root().join("other-key");
    let mut keygen = host.command("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&other);
    run_bounded(&mut keygen, Duration::from_secs(20))?.ok()?;
    let mut ssh = host.command("ssh");
    ssh.args(["-q", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
    ssh.args(["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-p", "3922", "-i"]).arg(&other);
    let refused = run_bounded(ssh.args(["root@169.254.100.12", "true"]), Duration::from_secs(20))?;
    ensure!(refused.code() == 255, "another key is let in: {refused:?}");
    Ok(())
}

#[test]
fn ssh_comes_back_when_it_is_killed_and_a_session_outlives_the_daemon() -> Result<()> {
    booted_or_skip!(lab, router, management);
    let mut session = management.ssh().arg("sleep 2; echo here").stdout(Stdio::piped()).spawn()?;
    // It is there once the server has a child with its command.
    std::thread::sleep(Duration::from_millis(800));
    let before = sshd(&router)?;
    router.kill_daemon();
    router.start_daemon()?;
    let mut said = String::new();
    session.stdout.take().context("its output")?.read_to_string(&mut said)?;
    ensure!(session.wait()?.success() && said == "here\n", "the session ended: {said:?}");
    eventually("the server is found again", || Ok(sshd(&router)? == before))?;

    let pid = before.as_u64().context("it runs")?.to_string();
    lab.router.run("kill", &["-9", &pid])?;
    eventually("the server is back", || {
        let now = sshd(&router)?;
        Ok(now.is_u64() && now != before)
    })?;
    management.wait_for_ssh()?;
    management.call("get_template_version.sh", "")?.ok()?;
    let alerts = management.call("getRouterAlerts.sh", "1970-01-01 00:00:00")?.ok()?.stdout;
    ensure!(alerts.contains("[ALERT] [sshd] ") && alerts.contains("recovered"), "{alerts}");
    Ok(())
}

#[test]
fn a_new_boot_line_begins_anew_and_a_bad_one_changes_nothing() -> Result<()> {
    booted_or_skip!(lab, router, management);
    management.apply("cloudstack/ip_associations/isolated_add_extra_ips_same_vlan.json")?;
    let bags = || fs::read_to_string(router.root().join("etc/cloudstack/ips.json")).unwrap_or_default();
    let before = bags();
    ensure!(before.contains("203.0.113.11"), "{before}");
    let inbox = router.root().join("var/cache/cloud/cmdline");
    fs::write(&inbox, "type=router eth0ip=10.1.1.1")?;
    eventually("the refusal is logged", || Ok(router.log().contains("cmdline#/cmd_line/eth0mask: missing")))?;
    ensure!(bags() == before && inbox.exists(), "a bad boot line has changed something");

    fs::write(&inbox, management.boot_line("router_isolated")?)?;
    eventually("the boot line is taken", || Ok(!inbox.exists()))?;
    let after = bags();
    ensure!(after.contains("203.0.113.10") && !after.contains("203.0.113.11"), "{after}");
    management.call("get_template_version.sh", "")?.ok()?;
    ensure!(router.plan()?.is_empty(), "something is left to do");
    Ok(())
}

fn eventually(what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
    wait_until(what, Duration::from_secs(60), || holds().unwrap_or(false))
}

/// The process of the server, as `xvr status` has it.
fn sshd(router: &Router<'_>) -> Result<serde_json::Value> {
    let status = router.show("status")?;
    let services = status["services"].as_array().cloned().unwrap_or_default();
    let found = services.into_iter().find(|service| service["name"] == "sshd");
    Ok(found.map(|service| service["pid"].clone()).unwrap_or_default())
}
