//! Scenarios of protocols that open other connections: FTP, TFTP.

use std::ops::Range;

use router_common::verdict::{DeferReason, DropReason, FORWARDED, PuntReason};

use super::{
    ACK, ETHERNET, FIN, Nic, PUBLIC, Router, SYN, Scenario, dropped, forwarded, from, host_mac, ip, punted,
    tcp, udp,
};
use crate::packet::{Read, checksum, read};

const SERVER: &str = "192.0.2.9";
const GUEST: &str = "10.1.1.50";
const STATIC: &str = "203.0.113.20";
const FORWARDS: &str = "203.0.113.21";

/// A request by TFTP, as it leaves.
fn request(r: &mut dyn Router, guest: &str, port: u16) -> Read {
    forwarded(r, Nic::Tier1, &from(Nic::Tier1, guest, SERVER, udp(port, 69)), Nic::Public)
}

const TCP: usize = ETHERNET + 20;

/// One way of a TCP connection: where its segments come in, and their ends.
#[derive(Clone, Copy)]
struct Way {
    from: Nic,
    to: Nic,
    ends: (&'static str, &'static str),
    ports: (u16, u16),
}

/// A segment: flags, sequence and acknowledgment number, options, and what it carries.
type Segment<'a> = (u8, (u32, u32), &'a [u8], &'a str);

impl Way {
    fn frame(self, (flags, (sequence, acknowledged), options, text): Segment<'_>) -> Vec<u8> {
        let mut frame = from(self.from, self.ends.0, self.ends.1, tcp(self.ports.0, self.ports.1, flags));
        frame.data = [options, text.as_bytes()].concat();
        let mut bytes = frame.bytes();
        bytes[TCP + 4..TCP + 8].copy_from_slice(&sequence.to_be_bytes());
        bytes[TCP + 8..TCP + 12].copy_from_slice(&acknowledged.to_be_bytes());
        bytes[TCP + 12] = (((20 + options.len()) / 4) << 4) as u8;
        bytes[TCP + 16..TCP + 18].fill(0);
        let length = ((bytes.len() - TCP) as u16).to_be_bytes();
        let pseudo = [&bytes[TCP - 8..TCP], &[0, 6], &length, &bytes[TCP..]].concat();
        let sum = checksum(&pseudo);
        bytes[TCP + 16..TCP + 18].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// Sends a segment, which has to be forwarded.
    fn send(self, r: &mut dyn Router, segment: Segment<'_>) -> Out {
        let sent = r.send(self.from, &self.frame(segment));
        assert_eq!(sent.outcome, FORWARDED, "{segment:?} was not forwarded");
        let out = read(&sent.frame);
        assert_eq!(out.macs, (host_mac(self.to), self.to.mac()));
        assert!(out.sums_hold, "checksums of {segment:?}");
        let length = usize::from(u16::from_be_bytes([sent.frame[16], sent.frame[17]]));
        assert_eq!(sent.frame.len(), ETHERNET + length, "length of {segment:?}");
        Out(sent.frame)
    }

    /// The way that answers go, once packets leave with these ends.
    fn back(self, external: &'static str) -> Self {
        let ports = (self.ports.1, self.ports.0);
        Self { from: self.to, to: self.from, ends: (self.ends.1, external), ports }
    }
}

/// A segment as it left.
struct Out(Vec<u8>);

impl Out {
    fn number(&self, range: Range<usize>) -> u32 {
        u32::from_be_bytes(self.0[range].try_into().expect("four bytes"))
    }

    /// Sequence and acknowledgment number.
    fn numbers(&self) -> (u32, u32) {
        (self.number(TCP + 4..TCP + 8), self.number(TCP + 8..TCP + 12))
    }

    fn options(&self) -> &[u8] {
        &self.0[TCP + 20..TCP + usize::from(self.0[TCP + 12] >> 4) * 4]
    }

    fn text(&self) -> &str {
        let begin = TCP + usize::from(self.0[TCP + 12] >> 4) * 4;
        std::str::from_utf8(&self.0[begin..]).expect("text")
    }
}

/// What a client sends, and a server's answers, after a handshake; numbers begin at 1000 and 7000.
fn connected(r: &mut dyn Router, there: Way, external: &'static str) -> (Way, Way) {
    let syn = there.send(r, (SYN, (999, 0), &[], ""));
    let mut back = there.back(external);
    back.ports.1 = read(&syn.0).ports.0;
    back.send(r, (SYN | ACK, (6999, 1000), &[], ""));
    there.send(r, (ACK, (1000, 7000), &[], ""));
    (there, back)
}

/// A guest that has connected to a server outside.
fn guest_connected(r: &mut dyn Router, guest: &'static str, port: u16) -> (Way, Way) {
    let there = Way { from: Nic::Tier1, to: Nic::Public, ends: (guest, SERVER), ports: (port, 21) };
    connected(r, there, PUBLIC)
}

/// Somebody outside that has connected to a guest's server, by a public address and port.
fn server_connected(r: &mut dyn Router, public: &'static str, port: u16, guest: &'static str) -> (Way, Way) {
    let there = Way { from: Nic::Public, to: Nic::Tier1, ends: (SERVER, public), ports: (6000, port) };
    let back = Way { from: Nic::Tier1, to: Nic::Public, ends: (guest, SERVER), ports: (21, 6000) };
    there.send(r, (SYN, (999, 0), &[], ""));
    back.send(r, (SYN | ACK, (6999, 1000), &[], ""));
    there.send(r, (ACK, (1000, 7000), &[], ""));
    (there, back)
}

/// The server opens a data connection to an external port: whose it is.
fn data_connection(r: &mut dyn Router, external: &str, port: u16) -> (std::net::IpAddr, u16) {
    let syn = from(Nic::Public, SERVER, external, tcp(20, port, SYN));
    let out = forwarded(r, Nic::Public, &syn, Nic::Tier1);
    (out.ends.1, out.ports.1)
}

/// In XDP.
pub const IN_XDP: &[Scenario] =
    &[("what a helper reads along with is left to TC, other flows are not", |r| {
        for payload in [udp(5000, 69), tcp(5000, 21, SYN), tcp(5000, 21, ACK)] {
            let frame = from(Nic::Tier1, GUEST, SERVER, payload).bytes();
            let sent = r.send(Nic::Tier1, &frame);
            assert_eq!((sent.outcome, sent.frame), (DeferReason::Helper.outcome(), frame));
        }
        forwarded(r, Nic::Tier1, &from(Nic::Tier1, GUEST, SERVER, tcp(21, 5000, SYN)), Nic::Public);
        // Nothing is translated, so nothing needs help.
        for payload in [udp(5000, 69), tcp(5000, 21, SYN)] {
            forwarded(r, Nic::Tier1, &from(Nic::Tier1, GUEST, "10.1.2.50", payload), Nic::Tier2);
        }
    })];

/// In TC.
pub const IN_TC: &[Scenario] = &[
    ("the answer to a TFTP request comes from another port", |r| {
        let out = request(r, GUEST, 5000);
        assert_eq!((out.ends.0, out.ports), (ip(PUBLIC), (5000, 69)));
        let data = from(Nic::Public, SERVER, PUBLIC, udp(40_001, 5000));
        let back = forwarded(r, Nic::Public, &data, Nic::Tier1);
        assert_eq!((back.ends.1, back.ports), (ip(GUEST), (40_001, 5000)));
        let more = from(Nic::Tier1, GUEST, SERVER, udp(5000, 40_001));
        let out = forwarded(r, Nic::Tier1, &more, Nic::Public);
        assert_eq!((out.ends.0, out.ports), (ip(PUBLIC), (5000, 40_001)));
    }),
    ("nobody but the server that was asked may answer a TFTP request, and to that port alone", |r| {
        request(r, GUEST, 5000);
        for (src, port) in [("192.0.2.10", 5000), (SERVER, 5001)] {
            let stranger = from(Nic::Public, src, PUBLIC, udp(40_001, port));
            punted(r, Nic::Public, &stranger.bytes(), PuntReason::ToRouter);
        }
        let forged = from(Nic::Public, SERVER, GUEST, udp(40_001, 5000));
        dropped(r, Nic::Public, &forged.bytes(), DropReason::NotPermitted);
    }),
    ("two guests with one source port get the answers to their own TFTP requests", |r| {
        for guest in [GUEST, "10.1.1.51"] {
            let out = request(r, guest, 5000);
            let data = from(Nic::Public, SERVER, PUBLIC, udp(40_001, out.ports.0));
            let back = forwarded(r, Nic::Public, &data, Nic::Tier1);
            assert_eq!((back.ends.1, back.ports.1), (ip(guest), 5000));
        }
    }),
    ("what a guest says about itself by FTP is true outside, and the server finds it", |r| {
        let (there, back) = guest_connected(r, GUEST, 5000);
        let out = there.send(r, (ACK, (1000, 7000), &[], "PORT 10,1,1,50,19,137\r\n"));
        assert_eq!((out.text(), out.numbers()), ("PORT 203,0,113,10,19,137\r\n", (1000, 7000)));
        for src in ["192.0.2.10", "203.0.113.77"] {
            let stranger = from(Nic::Public, src, PUBLIC, tcp(20, 5001, SYN));
            dropped(r, Nic::Public, &stranger.bytes(), DropReason::NotPermitted);
        }
        assert_eq!(data_connection(r, PUBLIC, 5001), (ip(GUEST), 5001));
        let answer = from(Nic::Tier1, GUEST, SERVER, tcp(5001, 20, SYN | ACK));
        let out = forwarded(r, Nic::Tier1, &answer, Nic::Public);
        assert_eq!((out.ends.0, out.ports), (ip(PUBLIC), (5001, 20)));
        // 23 bytes were sent, 26 have arrived.
        let ok = back.send(r, (ACK, (7000, 1026), &[], "200 PORT command successful.\r\n"));
        assert_eq!(ok.numbers(), (7000, 1023));
        let out = there.send(r, (ACK, (1023, 7030), &[], "RETR file\r\n"));
        assert_eq!((out.text(), out.numbers()), ("RETR file\r\n", (1026, 7030)));
        // The next line moves what follows once more.
        let out = there.send(r, (ACK, (1034, 7030), &[], "eprt |1|10.1.1.50|5002|\r\nRETR x\r\n"));
        assert_eq!((out.text(), out.numbers()), ("eprt |1|203.0.113.10|5002|\r\nRETR x\r\n", (1037, 7030)));
        assert_eq!(data_connection(r, PUBLIC, 5002), (ip(GUEST), 5002));
        assert_eq!(back.send(r, (ACK, (7030, 1037), &[], "")).numbers().1, 1034);
        assert_eq!(back.send(r, (ACK, (7030, 1073), &[], "")).numbers().1, 1067);
        assert_eq!(there.send(r, (ACK, (1067, 7030), &[], "")).numbers().0, 1073);
    }),
    ("a line that is sent again comes out the same, and is counted once", |r| {
        // The first guest takes the port that the second one names.
        let (there, _) = guest_connected(r, "10.1.1.51", 5000);
        there.send(r, (ACK, (1000, 7000), &[], "PORT 10,1,1,51,19,137\r\n"));
        let (there, back) = guest_connected(r, GUEST, 5010);
        let line = (ACK, (1000, 7000), [].as_slice(), "PORT 10,1,1,50,19,137\r\n");
        let first = there.send(r, line);
        assert_ne!(first.text(), "PORT 203,0,113,10,19,137\r\n", "somebody else's port");
        let grown = first.text().len() as u32 - 23;
        for _ in 0..3 {
            let again = there.send(r, line);
            assert_eq!((again.text(), again.numbers()), (first.text(), (1000, 7000)));
        }
        assert_eq!(there.send(r, (ACK, (1023, 7000), &[], "NOOP\r\n")).numbers().0, 1023 + grown);
        assert_eq!(back.send(r, (ACK, (7000, 1023 + grown), &[], "")).numbers().1, 1023);
        let port = first.text().trim_end().rsplit(',').take(2).map(|octet| octet.parse::<u16>().unwrap());
        let port = port.collect::<Vec<_>>();
        assert_eq!(data_connection(r, PUBLIC, port[1] << 8 | port[0]), (ip(GUEST), 5001));
        assert_eq!(data_connection(r, PUBLIC, 5001), (ip("10.1.1.51"), 5001));
    }),
    ("a line about somebody else, half a line and a long one are left alone", |r| {
        let (there, back) = guest_connected(r, GUEST, 5000);
        let long = format!("PORT 10,1,1,50,19,137\r\n{}\r\n", "x".repeat(110));
        for line in [
            "PORT 10,1,1,51,19,137\r\n",
            "PORT 203,0,113,10,19,137\r\n",
            "PORT 10,1,1,50,19,",
            "PORT 10,1,1,50,0,0\r\n",
            "PORT 10,1,1,50,3,255\r\n",
            "PORT 10,1,1,50,19,256\r\n",
            "PORT 10,1,1,50,19,137,1\r\n",
            "PORT 10,1,1,50,19\r\n",
            "PORT10,1,1,50,19,137\r\n",
            "EPRT |2|fd00:1::50|5001|\r\n",
            "EPRT |1|10.1.1.50|65536|\r\n",
            "EPRT |1|10.1.1.50|5001",
            "XPRT |1|10.1.1.50|5001|\r\n",
            "227 Entering Passive Mode (10,1,1,50,19,137)\r\n",
            "\r\n",
            &long,
        ] {
            let out = there.send(r, (ACK, (1000, 7000), &[], line));
            assert_eq!((out.text(), out.numbers()), (line, (1000, 7000)));
        }
        // The server speaks of itself, to which nothing is done here.
        let line = "227 Entering Passive Mode (192,0,2,9,19,137)\r\n";
        assert_eq!(back.send(r, (ACK, (7000, 1000), &[], line)).text(), line);
        let syn = from(Nic::Public, SERVER, PUBLIC, tcp(20, 5001, SYN));
        dropped(r, Nic::Public, &syn.bytes(), DropReason::NotPermitted);
    }),
    ("what is not forwarded is not changed by a helper, nor is anybody expected because of it", |r| {
        let (there, _) = guest_connected(r, GUEST, 5000);
        let line = "PORT 10,1,1,50,19,137\r\n";
        let mut frame = there.frame((ACK, (1000, 7000), &[], line));
        // TTL 1; what that changes is in the same 16-bit word.
        frame[ETHERNET + 8] = 1;
        let sum = u16::from_be_bytes([frame[ETHERNET + 10], frame[ETHERNET + 11]]) + (63 << 8);
        frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
        punted(r, Nic::Tier1, &frame, PuntReason::TtlExceeded);
        let syn = from(Nic::Public, SERVER, PUBLIC, tcp(20, 5001, SYN));
        dropped(r, Nic::Public, &syn.bytes(), DropReason::NotPermitted);
        there.send(r, (ACK, (1000, 7000), &[], line));
        let large = there.frame((ACK, (1023, 7000), &[], &"x".repeat(1461)));
        punted(r, Nic::Tier1, &large, PuntReason::TooBig);
        assert_eq!(there.send(r, (ACK, (1023, 7000), &[], &"x".repeat(1460))).numbers().0, 1026);
    }),
    ("a guest's FTP server behind a forwarded port is found where it says", |r| {
        let (there, back) = server_connected(r, FORWARDS, 2121, "10.1.1.51");
        let line = "227 Entering Passive Mode (010,001,001,051,019,137).\r\n";
        let out = back.send(r, (ACK, (7000, 1000), &[], line));
        assert_eq!(out.text(), "227 Entering Passive Mode (203,0,113,21,19,137).\r\n");
        assert_eq!(data_connection(r, FORWARDS, 5001), (ip("10.1.1.51"), 5001));
        // It has become shorter.
        assert_eq!(back.send(r, (ACK, (7054, 1000), &[], "150 here\r\n")).numbers(), (7050, 1000));
        assert_eq!(there.send(r, (ACK, (1000, 7060), &[], "")).numbers(), (1000, 7064));
        let line = "229 Entering Extended Passive Mode (|||5003|)\r\n";
        let out = back.send(r, (ACK, (7064, 1000), &[], line));
        assert_eq!((out.text(), out.numbers().0), (line, 7060));
        assert_eq!(data_connection(r, FORWARDS, 5003), (ip("10.1.1.51"), 5003));
        // 8080 is forwarded to another guest.
        let line = "229 Entering Extended Passive Mode (|||8080|)\r\n";
        let out = back.send(r, (ACK, (7111, 1000), &[], line));
        let port = out.text().split('|').nth(3).and_then(|port| port.parse().ok()).expect("a port");
        assert_ne!(port, 8080);
        assert_eq!(data_connection(r, FORWARDS, port), (ip("10.1.1.51"), 8080));
    }),
    ("with static NAT FTP changes the address and no port", |r| {
        let (_, back) = server_connected(r, STATIC, 21, "10.1.1.60");
        let out = back.send(r, (ACK, (7000, 1000), &[], "227 here (10,1,1,60,250,100)\r\n"));
        assert_eq!(out.text(), "227 here (203,0,113,20,250,100)\r\n");
        assert_eq!(data_connection(r, STATIC, 64_100), (ip("10.1.1.60"), 64_100));
        let line = "229 here (|||64101|)\r\n";
        assert_eq!(back.send(r, (ACK, (7030, 1000), &[], line)).text(), line);
        let there = Way { from: Nic::Tier1, to: Nic::Public, ends: ("10.1.1.60", SERVER), ports: (5000, 21) };
        let (there, _) = connected(r, there, STATIC);
        let out = there.send(r, (ACK, (1000, 7000), &[], "PORT 10,1,1,60,19,137\r\n"));
        assert_eq!(out.text(), "PORT 203,0,113,20,19,137\r\n");
        assert_eq!(data_connection(r, STATIC, 5001), (ip("10.1.1.60"), 5001));
    }),
    ("no selective acknowledgments are agreed upon where lines may change", |r| {
        let there = Way { from: Nic::Tier1, to: Nic::Public, ends: (GUEST, SERVER), ports: (5000, 21) };
        let timestamps = [8, 10, 0, 0, 0, 1, 0, 0, 0, 0];
        for (before, behind) in
            [(&[2, 4, 5, 180][..], &[1, 3, 3, 7][..]), (&[1, 3, 3, 7, 1], &[2, 4, 5, 180, 0])]
        {
            let options = [before, &[4, 2], &timestamps, behind].concat();
            let options = [&options[..], &[1, 1, 1][..(4 - options.len() % 4) % 4]].concat();
            let out = there.send(r, (SYN, (999, 0), &options, ""));
            let mut expected = options.clone();
            expected[before.len()..before.len() + 2].fill(1);
            assert_eq!(out.options(), expected);
            let mut back = there.back(PUBLIC);
            back.ports.1 = read(&out.0).ports.0;
            let out = back.send(r, (SYN | ACK, (6999, 1000), &options, ""));
            assert_eq!(out.options(), expected);
        }
        // Elsewhere they are.
        let other = Way { ports: (5000, 80), ..there };
        let options = [4, 2, 1, 1];
        assert_eq!(other.send(r, (SYN, (999, 0), &options, "")).options(), options);
    }),
    ("a new connection begins with numbers that have not moved, and nobody else makes them so", |r| {
        let (there, back) = guest_connected(r, GUEST, 5000);
        there.send(r, (ACK, (1000, 7000), &[], "PORT 10,1,1,50,19,137\r\n"));
        there.send(r, (SYN, (5000, 0), &[], ""));
        assert_eq!(there.send(r, (ACK, (1023, 7000), &[], "")).numbers().0, 1026);
        there.send(r, (FIN | ACK, (1023, 7000), &[], ""));
        back.send(r, (FIN | ACK, (7000, 1027), &[], ""));
        there.send(r, (SYN, (1999, 0), &[], ""));
        back.send(r, (SYN | ACK, (8999, 2000), &[], ""));
        assert_eq!(there.send(r, (ACK, (2000, 9000), &[], "")).numbers(), (2000, 9000));
    }),
    ("a guest's server is found by guests at its public address, too", |r| {
        let there = Way { from: Nic::Tier1, to: Nic::Tier1, ends: (GUEST, FORWARDS), ports: (6000, 2121) };
        let gateway = "10.1.1.1";
        let back = Way { from: Nic::Tier1, to: Nic::Tier1, ends: ("10.1.1.51", gateway), ports: (21, 6000) };
        there.send(r, (SYN, (999, 0), &[], ""));
        back.send(r, (SYN | ACK, (6999, 1000), &[], ""));
        there.send(r, (ACK, (1000, 7000), &[], ""));
        let out = back.send(r, (ACK, (7000, 1000), &[], "227 here (10,1,1,51,19,137)\r\n"));
        assert_eq!(out.text(), "227 here (203,0,113,21,19,137)\r\n");
        let data = from(Nic::Tier1, GUEST, FORWARDS, tcp(7000, 5001, SYN));
        let out = forwarded(r, Nic::Tier1, &data, Nic::Tier1);
        assert_eq!((out.ends.1, out.ports.1), (ip("10.1.1.51"), 5001));
        let out = there.send(r, (ACK, (1000, 7032), &[], "PORT 10,1,1,50,19,138\r\n"));
        assert_eq!((out.text(), out.numbers()), ("PORT 10,1,1,1,19,138\r\n", (1000, 7029)));
        let data = from(Nic::Tier1, "10.1.1.51", gateway, tcp(20, 5002, SYN));
        let out = forwarded(r, Nic::Tier1, &data, Nic::Tier1);
        assert_eq!((out.ends.1, out.ports.1), (ip(GUEST), 5002));
        // Both directions have moved.
        assert_eq!(there.send(r, (ACK, (1023, 7032), &[], "")).numbers(), (1022, 7029));
        assert_eq!(back.send(r, (ACK, (7029, 1022), &[], "")).numbers(), (7032, 1023));
    }),
];
