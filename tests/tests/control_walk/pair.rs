//! Two routers for one network: what they share.

use router_userspace::cloudstack::{Command, desired, notices};
use router_userspace::model::Pair;

use super::{VPC, bytes, every_nic, merge_all};

fn pair(names: &[&str]) -> Option<Pair> {
    desired(&merge_all(names, &every_nic())).expect("understood").pair
}

fn shared(pair: &Pair) -> Vec<String> {
    pair.shared.iter().map(|shared| format!("{} {}", shared.port, shared.address)).collect()
}

const VPC_PAIR: [&str; 2] = ["cmd_line/vpcrouter_redundant.json", "ip_associations/vpc_add_source_nat.json"];

#[test]
fn an_isolated_networks_routers_share_its_gateway() {
    let pair = pair(&["cmd_line/router_isolated_redundant.json"]).expect("a pair");
    assert_eq!(shared(&pair), ["eth0 10.1.1.1/24"]);
    // The MD5 sum of `203.0.113.15-1`, since the boot line has no password.
    assert_eq!((pair.password.as_str(), pair.interval.get()), ("df5deb9b", 1));
}

#[test]
fn a_vpcs_routers_share_the_gateways_of_its_tiers() {
    assert_eq!(shared(&pair(&VPC_PAIR).expect("a pair")), Vec::<String>::new());
    let tier = [VPC_PAIR[0], VPC_PAIR[1], "guest_network/vpc_tier_add_redundant.json"];
    let pair = pair(&tier).expect("a pair");
    assert_eq!(shared(&pair), ["eth2 10.10.1.1/24"]);
    assert_eq!(pair.password, "13006545");
    assert!(!format!("{pair:?}").contains("13006545"));
}

#[test]
fn a_gateway_that_is_somebody_elses_or_the_routers_own_is_not_shared() {
    assert_eq!(pair(&VPC), None, "a router that is alone");
    for tier in ["guest_network/vpc_tier_add_vr_not_gateway.json", "guest_network/vpc_tier_add.json"] {
        let names = [VPC_PAIR[0], VPC_PAIR[1], tier];
        assert_eq!(shared(&pair(&names).expect("a pair")), Vec::<String>::new(), "{tier}");
        let said = notices(&merge_all(&names, &every_nic())).expect("understood");
        let expected = "cmdline.json#/config/redundant_router: no guest network has a gateway that the routers \
            share: neither of them serves";
        assert_eq!(said.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected], "{tier}");
    }
}

#[test]
fn what_a_pair_cannot_be_is_refused_with_its_place_and_a_password_is_not_told() {
    let text = String::from_utf8(bytes("cmd_line/router_isolated_redundant.json")).expect("UTF-8");
    let with = |key: &str, value: &str| {
        let mut message: serde_json::Value = serde_json::from_str(&text).expect("valid");
        message["cmd_line"][key] = value.into();
        Command::parse("c.json", message.to_string().as_bytes())
    };
    let error = |key: &str, value: &str| with(key, value).unwrap_err().to_string();
    assert_eq!(
        error("advert_int", "0"),
        "c.json#/cmd_line/advert_int: \"0\" is no number of seconds from 1 to 255"
    );
    assert_eq!(error("guestcidrsize", "33"), "c.json#/cmd_line/guestcidrsize: prefix length exceeds 32");
    assert_eq!(error("guestgw", "224.0.0.1"), "c.json#/cmd_line/guestgw: 224.0.0.1 is no host's address");
    let said = error("router_password", "a}\nb");
    assert_eq!(
        said,
        "c.json#/cmd_line/router_password: its first eight characters are not all letters, digits, '-', '_' or '.'"
    );
    let taken = with("router_password", "12345678}").expect("what is behind the eighth does not count");
    assert!(!format!("{:?}", taken.warnings).contains("1234"));
}
