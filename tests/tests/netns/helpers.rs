//! Protocols that speak of addresses or open a second connection: FTP, TFTP, SIP. Through XVR by
//! each of its hooks; and through Linux, which proves the clients.

use anyhow::{Context, Result};
use router_tests::daemons::{Dnsmasq, FtpMode, Telephone, Vsftpd};
use router_tests::nat::{FORWARDING, Kind, Rule, STATIC_NAT};
use router_tests::{for_every_router, for_xvr};

/// All of FTP's.
const MODES: [FtpMode; 4] =
    [FtpMode::Passive, FtpMode::ExtendedPassive, FtpMode::Active, FtpMode::ExtendedActive];

/// What works by itself.
mod without_help {
    use super::*;

    for_every_router! {
        every_protocol_works_from_tier_to_tier;
        a_guest_gets_a_file_by_passive_ftp;
        telephones_ring_in_both_directions;
    }

    fn every_protocol_works_from_tier_to_tier(kind: Kind) -> Result<()> {
        kind.run(&["curl", "dnsmasq", "sha256sum", "sipp", "tftp", "vsftpd"], |lab, _| {
            let (web1, db1) = (lab.host("web1"), lab.host("db1"));
            let ftp = Vsftpd::start(db1)?;
            for mode in MODES {
                ftp.get(web1, db1.v4.into(), mode)?;
            }
            Dnsmasq::start(db1)?.tftp(web1, db1.v4.into())?;
            Telephone::start(db1)?.call(web1, db1.v4.into())
        })
    }

    fn a_guest_gets_a_file_by_passive_ftp(kind: Kind) -> Result<()> {
        kind.run(&["curl", "sha256sum", "vsftpd"], |lab, _| {
            let far = lab.host("far");
            let ftp = Vsftpd::start(far)?;
            for mode in [FtpMode::Passive, FtpMode::ExtendedPassive] {
                ftp.get(lab.host("web1"), far.v4.into(), mode)?;
            }
            Ok(())
        })
    }

    fn telephones_ring_in_both_directions(kind: Kind) -> Result<()> {
        kind.run(&["sipp"], |lab, router| {
            let (far, web1, web2) = (lab.host("far"), lab.host("web1"), lab.host("web2"));
            let (outside, inside) = (Telephone::start(far)?, Telephone::start(web2)?);
            router.add(&[Rule::forward("udp", 5060, web2.v4, 5060)])?;
            outside.call(web1, far.v4.into()).context("outward")?;
            // Not from far's own port 5060, where it is called.
            inside.call(lab.host("neighbour"), FORWARDING.into()).context("inward")
        })
    }
}

/// What needs a router that reads along. Linux would need modules for it.
mod with_help {
    use super::*;

    for_xvr! {
        a_guest_gets_a_file_by_active_ftp;
        somebody_outside_gets_a_file_by_passive_ftp;
        with_static_nat_ftp_works_in_both_directions;
        a_guest_gets_a_file_from_another_by_its_public_address;
        a_guest_gets_a_file_by_tftp;
    }

    fn a_guest_gets_a_file_by_active_ftp(kind: Kind) -> Result<()> {
        kind.run(&["curl", "sha256sum", "vsftpd"], |lab, _| {
            let far = lab.host("far");
            let ftp = Vsftpd::start(far)?;
            for mode in [FtpMode::Active, FtpMode::ExtendedActive] {
                ftp.get(lab.host("web1"), far.v4.into(), mode)?;
            }
            Ok(())
        })
    }

    fn somebody_outside_gets_a_file_by_passive_ftp(kind: Kind) -> Result<()> {
        kind.run(&["curl", "sha256sum", "vsftpd"], |lab, router| {
            let web1 = lab.host("web1");
            let ftp = Vsftpd::start(web1)?;
            router.add(&[Rule::forward("tcp", 21, web1.v4, 21)])?;
            for mode in [FtpMode::Passive, FtpMode::ExtendedPassive] {
                ftp.get(lab.host("far"), FORWARDING.into(), mode)?;
            }
            Ok(())
        })
    }

    fn with_static_nat_ftp_works_in_both_directions(kind: Kind) -> Result<()> {
        kind.run(&["curl", "sha256sum", "vsftpd"], |lab, router| {
            let (far, web2) = (lab.host("far"), lab.host("web2"));
            router.add(&[Rule::static_nat(web2.v4)])?;
            let (inside, outside) = (Vsftpd::start(web2)?, Vsftpd::start(far)?);
            for mode in MODES {
                inside.get(far, STATIC_NAT.into(), mode).context("inward")?;
                outside.get(web2, far.v4.into(), mode).context("outward")?;
            }
            Ok(())
        })
    }

    fn a_guest_gets_a_file_from_another_by_its_public_address(kind: Kind) -> Result<()> {
        kind.run(&["curl", "sha256sum", "vsftpd"], |lab, router| {
            let web1 = lab.host("web1");
            let ftp = Vsftpd::start(web1)?;
            router.add(&[Rule::forward("tcp", 21, web1.v4, 21)])?;
            for (guest, mode) in ["web2", "db1"].into_iter().flat_map(|guest| MODES.map(|mode| (guest, mode)))
            {
                ftp.get(lab.host(guest), FORWARDING.into(), mode).context(guest)?;
            }
            Ok(())
        })
    }

    fn a_guest_gets_a_file_by_tftp(kind: Kind) -> Result<()> {
        kind.run(&["dnsmasq", "sha256sum", "tftp"], |lab, _| {
            let far = lab.host("far");
            Dnsmasq::start(far)?.tftp(lab.host("web1"), far.v4.into())
        })
    }
}
