//! The scenarios' router in the kernel: the loaded programs over real maps, real routes and real
//! neighbours, run on single frames by `BPF_PROG_TEST_RUN`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use aya::programs::{SchedClassifier, TestRun, TestRunAttrs, TestRunOptions, Xdp};
use router_common::account::COUNTER_SLOTS;
use router_common::account::{Hook, Traffic};
use router_common::fragment::{Datagram, DatagramKey, Held, HeldKey};
use router_common::limit::Tally;
use router_common::nat::{Expected, ExternalKey};
use router_common::net::{Ipv4, Ipv6};
use router_common::port::{LocalKey, Port};
use router_common::verdict::{DeferReason, DropReason, FORWARDED};
use router_ebpf::fragment::HOLD_TIME;
use router_userspace::dataplane::{
    CounterRow, Dataplane, MAX_BINDINGS, Options, Outcome, Room, Timeouts, mount_bpffs,
};

use crate::host;
use router_userspace::compile::policy::ListEntry;
use router_userspace::compile::{TableSet, nat};
use router_userspace::model::policy::AccessList;

use crate::model::account::Account;
use crate::model::compare::Subject;
use crate::scenario::{self, ETHERNET, Nic, Router, Sent, host_mac};

/// One more than the scenarios' ports, whose first is 1.
const SLOTS: u32 = Nic::ALL.len() as u32 + 1;

/// Runs a test in a network namespace of its own.
///
/// # Panics
/// The test does, or there is no namespace.
pub fn in_new_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // SAFETY: changes the calling thread alone.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "a new network namespace");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Ends every flow and every binding.
///
/// # Errors
/// The tables cannot be written, or flows are left.
pub fn end_flows(dataplane: &mut Dataplane) -> Result<()> {
    // Longer than a tick of the clock that flows are stamped with.
    std::thread::sleep(Duration::from_millis(12));
    let none = Duration::ZERO;
    dataplane.expire(&Timeouts {
        tcp_opening: none,
        tcp_established: none,
        tcp_closing: none,
        udp_unanswered: none,
        udp: none,
        icmp: none,
        other: none,
        hold_down: none,
    })?;
    let (left, _) = dataplane.flow_entries()?;
    ensure!(left == 0, "{left} flow entries are left");
    Ok(())
}

/// The programs over a network namespace of their own.
pub struct KernelRouter {
    dataplane: Dataplane,
    hook: Hook,
    is_behind_xdp: bool,
    /// The program that stands for XDP.
    xdp: &'static str,
    ifindexes: BTreeMap<u8, u32>,
    pin_dir: PathBuf,
    /// For flow entries and bindings.
    room: Room,
    /// The counters as they were last read, by slot.
    counters: Vec<Vec<CounterRow>>,
    /// Frames were counted since then that nobody asked about.
    has_pushed: bool,
    /// What was counted before flows were last forgotten.
    before: Account,
}

impl KernelRouter {
    /// Loads the programs and builds the scenarios' router in the thread's network namespace,
    /// which has to be a new one.
    ///
    /// # Errors
    /// Not root, or the kernel refuses the programs.
    pub fn new(hook: Hook) -> Result<Self> {
        Self::with_room(hook, Room { flows: 4096, bindings: MAX_BINDINGS })
    }

    /// The same with XDP in front of TC: the way of a frame by a port that has both.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn both_hooks() -> Result<Self> {
        let mut router = Self::new(Hook::Tc)?;
        router.is_behind_xdp = true;
        Ok(router)
    }

    /// The same by the XDP program for drivers that hand over frames in several buffers.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn multi_buffer() -> Result<Self> {
        let mut router = Self::new(Hook::Xdp)?;
        router.xdp = "xvr_xdp_frags";
        router.xdp()?.load()?;
        Ok(router)
    }

    fn xdp(&mut self) -> Result<&mut Xdp> {
        let program = self.dataplane.ebpf().program_mut(self.xdp);
        Ok(program.with_context(|| format!("no {}", self.xdp))?.try_into()?)
    }

    /// The same with room for so many flow entries and bindings.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_room(hook: Hook, room: Room) -> Result<Self> {
        // Several at once in a process may not share their tables.
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        mount_bpffs()?;
        let ifindexes = build_network()?;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let pin_dir = PathBuf::from(format!("/sys/fs/bpf/xvr-test-{}-{serial}", std::process::id()));
        let mut dataplane =
            Dataplane::open(&Options { pin_dir: pin_dir.clone(), room, max_ports: COUNTER_SLOTS })?;
        let tables = dataplane.tables();
        tables.set_flags(host::FLAGS)?;
        for nic in Nic::ALL {
            let ifindex = ifindexes[&(nic as u8)];
            tables.set_port(ifindex, &host::port(nic))?;
            for address in nic.addresses() {
                let (address, _) = address.split_once('/').context("an address with a length")?;
                tables.set_local(address.parse()?, ifindex)?;
            }
        }
        let mut wanted = TableSet::default();
        wanted.local4.extend(host::locals4(|nic| ifindexes[&(nic as u8)]));
        nat::tables(&scenario::nat_rules(), &mut wanted);
        for (key, entry) in &wanted.nat {
            tables.set_nat(key, entry)?;
        }
        let counters = vec![vec![]; SLOTS as usize];
        Ok(Self {
            dataplane,
            hook,
            is_behind_xdp: false,
            xdp: "xvr_xdp",
            ifindexes,
            pin_dir,
            room,
            counters,
            has_pushed: false,
            before: Account::default(),
        })
    }

    /// Forgets every flow, so that scenarios do not see each other's.
    ///
    /// # Errors
    /// The tables cannot be written.
    pub fn forget_flows(&mut self) -> Result<()> {
        end_flows(&mut self.dataplane)?;
        self.forget_expected()?;
        self.forget_fragments::<Ipv4>("4")?;
        self.forget_fragments::<Ipv6>("6")
    }

    /// Has flows from tier 1 judged by a list, which is written first, and no longer by the one before.
    ///
    /// # Errors
    /// The tables cannot be written.
    pub fn judge_tier1_by(&mut self, number: u32, list: &Arc<AccessList>) -> Result<()> {
        let key = self.ifindexes[&(Nic::Tier1 as u8)];
        let tables = self.dataplane.tables();
        tables.add_list(number, &ListEntry::of(list))?;
        tables.set_port(key, &Port { from_list: number, ..host::port(Nic::Tier1) })?;
        if number > 1 { tables.remove_list(number - 1) } else { Ok(()) }
    }

    /// A NIC's port as it is without lists, and its key.
    pub fn port(&self, nic: Nic) -> (u32, Port) {
        (self.ifindexes[&(nic as u8)], host::port(nic))
    }

    /// Somebody is expected, as if a helper had read so.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn expect(&self, external: &ExternalKey, whom: &Expected) -> Result<()> {
        self.expected()?.insert(external, whom, 0).context("write EXPECTED")
    }

    fn expected(&self) -> Result<HashMap<MapData, ExternalKey, Expected>> {
        let map = MapData::from_pin(self.pin_dir.join("EXPECTED")).context("open EXPECTED")?;
        Ok(HashMap::try_from(Map::LruHashMap(map))?)
    }

    /// Another hand on its policy, for another thread.
    ///
    /// # Errors
    /// The kernel refuses the programs, or the tables cannot be opened.
    pub fn second(&self) -> Result<Switcher> {
        let options = Options { pin_dir: self.pin_dir.clone(), room: self.room, max_ports: COUNTER_SLOTS };
        let tier1 = self.ifindexes[&(Nic::Tier1 as u8)];
        Ok(Switcher { dataplane: Dataplane::open(&options)?, tier1 })
    }

    /// Nobody is expected any longer.
    fn forget_expected(&self) -> Result<()> {
        let mut expected = self.expected()?;
        let keys = expected.keys().collect::<Result<Vec<_>, _>>()?;
        for key in keys {
            expected.remove(&key)?;
        }
        Ok(())
    }

    /// Datagrams under way, what waits for them, and how many of whom do.
    fn forget_fragments<A>(&mut self, family: &str) -> Result<()>
    where
        A: Copy + 'static,
        DatagramKey<A>: Pod,
        HeldKey<A>: Pod,
        LocalKey<A>: Pod,
    {
        self.empty::<DatagramKey<A>, Datagram>(&format!("DATAGRAMS{family}"))?;
        self.empty::<HeldKey<A>, Held>(&format!("HELD{family}"))?;
        self.empty::<LocalKey<A>, Tally>(&format!("HOLDERS{family}"))
    }

    fn empty<K: Pod, V: Pod>(&mut self, name: &str) -> Result<()> {
        let map = self.dataplane.ebpf().map_mut(name).with_context(|| format!("no map {name}"))?;
        let mut map: HashMap<_, K, V> = map.try_into()?;
        let keys = map.keys().collect::<Result<Vec<_>, _>>()?;
        keys.iter().try_for_each(|key| map.remove(key)).with_context(|| format!("empty {name}"))
    }

    /// Every counter, of all ports.
    fn total(&self) -> Account {
        let mut account = Account::default();
        for row in self.dataplane.counters(SLOTS).expect("the counters can be read") {
            account.add(row.hook, number(row.outcome), row.traffic.packets);
        }
        account
    }

    /// The loaded programs.
    pub const fn dataplane(&mut self) -> &mut Dataplane {
        &mut self.dataplane
    }

    fn run(&mut self, nic: Nic, frame: &[u8]) -> Result<Sent> {
        if std::mem::take(&mut self.has_pushed) {
            for slot in 0..SLOTS {
                self.counters[slot as usize] = self.dataplane.counters_of(slot..slot + 1)?;
            }
        }
        if self.is_behind_xdp {
            let out = self.run_program(Hook::Xdp, nic, frame)?;
            let outcome = self.counted(nic)?;
            if DeferReason::from_outcome(outcome).is_none() {
                return Ok(Sent { outcome, frame: out });
            }
            ensure!(out == frame, "XDP left a changed frame to TC");
        }
        let frame = self.run_program(self.hook, nic, frame)?;
        let outcome = self.counted(nic)?;
        Ok(Sent { outcome, frame })
    }

    /// A frame that comes in by a NIC, without asking what it was counted as; the frame afterwards.
    ///
    /// # Errors
    /// The program does not run.
    pub fn push(&mut self, nic: Nic, frame: &[u8]) -> Result<Vec<u8>> {
        self.has_pushed = true;
        self.run_program(self.hook, nic, frame)
    }

    fn run_program(&mut self, hook: Hook, nic: Nic, frame: &[u8]) -> Result<Vec<u8>> {
        let ifindex = self.ifindexes[&(nic as u8)];
        // A first fragment's buffer is used for those that waited for it.
        let mut out = vec![0; frame.len().max(size_of::<Held>()) + 256];
        let name = self.xdp;
        let mut options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
        options.attrs = TestRunAttrs::new();
        let result = match hook {
            Hook::Xdp => {
                // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
                let fields = [0, frame.len() as u32, 0, ifindex, 0, 0];
                let context: Vec<u8> = fields.iter().flat_map(|field| field.to_ne_bytes()).collect();
                options.ctx_in = Some(&context);
                let program = self.xdp()?;
                program.test_run(options).with_context(|| format!("run {name}"))?
            }
            Hook::Tc => {
                // struct __sk_buff: ifindex is its eleventh field.
                let mut context = vec![0; 192];
                context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
                options.ctx_in = Some(&context);
                let ebpf = self.dataplane.ebpf();
                let program: &mut SchedClassifier =
                    ebpf.program_mut("xvr_tc").context("no xvr_tc")?.try_into()?;
                program.test_run(options).context("run xvr_tc")?
            }
        };
        out.truncate(result.data_size_out as usize);
        Ok(out)
    }

    /// The one outcome that was counted once since the last time, by the NIC or by none. That no other
    /// has counted too is seen at the end ([`Subject::account`]): reading all takes long.
    fn counted(&mut self, nic: Nic) -> Result<u32> {
        for slot in [host::port(nic).slot, 0] {
            let now = self.dataplane.counters_of(slot..slot + 1)?;
            let before = std::mem::replace(&mut self.counters[slot as usize], now);
            if let Some(outcome) = counted(&before, &self.counters[slot as usize])? {
                return Ok(outcome);
            }
        }
        bail!("a frame was not counted")
    }
}

/// What has flows from tier 1 judged by one list after the other.
pub struct Switcher {
    dataplane: Dataplane,
    tier1: u32,
}

impl Switcher {
    /// Writes a list.
    ///
    /// # Errors
    /// The tables cannot be written.
    pub fn write(&mut self, number: u32, list: &Arc<AccessList>) -> Result<()> {
        self.dataplane.tables().add_list(number, &ListEntry::of(list))
    }

    /// Switches the port.
    ///
    /// # Errors
    /// The tables cannot be written.
    pub fn judge_tier1_by(&mut self, number: u32) -> Result<()> {
        let port = Port { from_list: number, ..host::port(Nic::Tier1) };
        self.dataplane.tables().set_port(self.tier1, &port)
    }

    /// Cuts flows that are denied; how many.
    ///
    /// # Errors
    /// The tables cannot be written.
    pub fn cut_denied(&mut self) -> Result<usize> {
        self.dataplane.cut_denied()
    }

    /// Removes a list.
    ///
    /// # Errors
    /// The tables cannot be written.
    pub fn forget(&mut self, number: u32) -> Result<()> {
        self.dataplane.tables().remove_list(number)
    }
}

/// The one outcome that was counted once between two readings, if any was.
fn counted(before: &[CounterRow], after: &[CounterRow]) -> Result<Option<u32>> {
    let packets = |rows: &[CounterRow], row: &CounterRow| {
        let same = |other: &&CounterRow| {
            (other.slot, other.hook, other.outcome) == (row.slot, row.hook, row.outcome)
        };
        rows.iter().find(same).map_or(0, |row| row.traffic.packets)
    };
    let new: Vec<_> = after.iter().filter(|row| row.traffic.packets != packets(before, row)).collect();
    match new[..] {
        [] => Ok(None),
        [row] if row.traffic.packets == packets(before, row) + 1 => Ok(Some(number(row.outcome))),
        _ => bail!("not one frame was counted once, but {new:?}"),
    }
}

/// An outcome's place in a counter row.
const fn number(outcome: Outcome) -> u32 {
    match outcome {
        Outcome::Forwarded => FORWARDED,
        Outcome::Dropped(reason) => reason.outcome(),
        Outcome::Punted(reason) => reason.outcome(),
        Outcome::Deferred(reason) => reason.outcome(),
    }
}

impl Router for KernelRouter {
    fn hook(&self) -> Hook {
        self.hook
    }

    fn send(&mut self, nic: Nic, frame: &[u8]) -> Sent {
        let told = |error| panic!("{} bytes by {nic:?}, {frame:02x?}: {error:#}", frame.len());
        self.run(nic, frame).unwrap_or_else(told)
    }

    fn answers(&self, reason: DropReason, frame: &[u8]) -> bool {
        use DropReason::{FlowTableFull, GuestLimit, NextHopTableFull, NoFreePort, TooBig, TtlExceeded};
        let (dont_fragment, is_later) = (frame[20] & 0x40 != 0, [frame[20] & 0x1f, frame[21]] != [0, 0]);
        self.hook == Hook::Tc
            && !is_later
            && (matches!(reason, TtlExceeded | NoFreePort | GuestLimit | FlowTableFull | NextHopTableFull)
                || reason == TooBig && dont_fragment)
    }

    /// The kernel's test run makes no socket buffer without a whole IP header.
    fn shortest(&self, header: usize) -> usize {
        match self.hook {
            Hook::Xdp => ETHERNET,
            Hook::Tc => ETHERNET + header,
        }
    }
}

impl Subject for KernelRouter {
    fn forget(&mut self) {
        // Bindings that were just used are kept, however short their time is.
        std::thread::sleep(Duration::from_millis(20));
        self.forget_flows().expect("flows can be removed");
        self.before = self.total();
        self.dataplane.zero_usage(|_| true).expect("accounts can begin anew");
    }

    fn account(&mut self) -> Result<Account, String> {
        let account = self.total().since(&self.before);
        if self.is_behind_xdp { account.in_the_end() } else { Ok(account) }
    }

    fn usage(&mut self) -> Result<Traffic, String> {
        let usage = self.dataplane.usage().map_err(|error| format!("{error:#}"))?;
        let both = usage.iter().flat_map(|record| [record.sent, record.received]);
        Ok(both.fold(Traffic { packets: 0, bytes: 0 }, |sum, more| Traffic {
            packets: sum.packets + more.packets,
            bytes: sum.bytes + more.bytes,
        }))
    }

    fn patience(&self) -> Duration {
        Duration::from_nanos(HOLD_TIME)
    }

    fn flow_entries(&mut self) -> Result<(usize, usize), String> {
        self.dataplane.flow_entries().map_err(|error| format!("{error:#}"))
    }
}

impl Drop for KernelRouter {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.pin_dir);
    }
}

/// NICs with the scenarios' addresses, routes and neighbours, by `ip -batch`.
fn build_network() -> Result<BTreeMap<u8, u32>> {
    let mut batch = String::from("link set lo up\n");
    for nic in Nic::ALL {
        let name = format!("n{}", nic as u8);
        let mac = colons(nic.mac());
        batch +=
            &format!("link add {name} mtu {} address {mac} type veth peer name p{}\n", nic.mtu(), nic as u8);
        batch += &format!("link set p{} up\nlink set {name} up\n", nic as u8);
        for address in nic.addresses() {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            batch += &format!("address add {address} dev {name}{nodad}\n");
        }
        for neighbour in nic.neighbours() {
            batch += &format!("neighbour add {neighbour} lladdr {} dev {name}\n", colons(host_mac(nic)));
        }
    }
    batch += "route add default via 203.0.113.1\nroute add default via 203.0.114.1 metric 104\nroute add blackhole 198.18.0.0/15\n";
    for (path, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/default/accept_dad", "0"),
    ] {
        std::fs::write(format!("/proc/sys/{path}"), value).with_context(|| format!("set {path}"))?;
    }
    let file = std::env::temp_dir().join(format!(
        "xvr-network-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::write(&file, batch)?;
    let output = Command::new("ip").arg("-batch").arg(&file).output().context("run ip (package iproute2)")?;
    std::fs::remove_file(&file)?;
    ensure!(output.status.success(), "ip -batch: {}", String::from_utf8_lossy(&output.stderr));
    Nic::ALL
        .into_iter()
        .map(|nic| {
            let name = std::ffi::CString::new(format!("n{}", nic as u8))?;
            // SAFETY: a string that ends with a zero.
            match unsafe { libc::if_nametoindex(name.as_ptr()) } {
                0 => bail!("{name:?} was not made"),
                ifindex => Ok((nic as u8, ifindex)),
            }
        })
        .collect()
}

fn colons(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}
