//! The FTP helper's maps. Its steps are functions of their own.

use router_common::flow::FlowKey;
use router_common::nat::Shift;
use router_common::net::{Be16, Ipv4};
use router_ebpf::ftp::{Desk, Line};

use super::{LINE, Maps, Own, SHIFTS, arrival, own};
use crate::apart::help;

/// Where a map of one entry has none, which cannot be.
const NO_FLOW: FlowKey<Ipv4> = FlowKey {
    src: Ipv4::UNSPECIFIED,
    dst: Ipv4::UNSPECIFIED,
    src_port: Be16::from_raw(0),
    dst_port: Be16::from_raw(0),
    router: 0,
    protocol: 0,
    pad: 0,
};

impl Desk for Maps {
    type Line = Own<Line>;

    #[inline(always)]
    fn arrived(&self) -> FlowKey<Ipv4> {
        match arrival::<Ipv4>() {
            Some(arrival) => arrival.key,
            None => NO_FLOW,
        }
    }

    #[inline(always)]
    fn line(&self) -> Option<Own<Line>> {
        own(&LINE)
    }

    #[inline(always)]
    fn shift(&self, key: &FlowKey<Ipv4>) -> Option<Shift> {
        // SAFETY: entries are replaced whole.
        unsafe { SHIFTS.get(key) }.copied()
    }

    #[inline(always)]
    fn set_shift(&self, key: &FlowKey<Ipv4>, shift: &Shift) {
        // Full it cannot be: what was used least makes room.
        let _ = SHIFTS.insert(key, shift, 0);
    }

    #[inline(always)]
    fn forget_shift(&self, key: &FlowKey<Ipv4>) {
        // ENOENT is what the caller wants.
        let _ = SHIFTS.remove(key);
    }

    #[inline(always)]
    fn step(&self, at: u32) -> bool {
        help::xvr_ftp_step(at) != 0
    }

    #[inline(always)]
    fn find(&self) -> bool {
        help::xvr_ftp_find() != 0
    }

    #[inline(always)]
    fn attempt(&self, attempt: u32) -> Option<Be16> {
        match help::xvr_ftp_attempt(attempt) {
            0 => None,
            port => Some(Be16::new(port as u16)),
        }
    }

    #[inline(always)]
    fn external_port(&self) -> Option<Be16> {
        match help::xvr_ftp_port() {
            0 => None,
            port => Some(Be16::new(port as u16)),
        }
    }

    #[inline(always)]
    fn piece(&self, index: u32) {
        help::xvr_ftp_piece(index);
    }

    #[inline(always)]
    fn keep(&self, at: u32) {
        help::xvr_ftp_keep(at);
    }

    #[inline(always)]
    fn compose(&self) {
        help::xvr_ftp_compose();
    }

    #[inline(always)]
    fn sum(&self) -> u16 {
        help::xvr_ftp_sum() as u16
    }

    #[inline(always)]
    fn option(&self, at: u32) -> u32 {
        help::xvr_ftp_option(at)
    }

    #[inline(always)]
    fn sack_permitted(&self) -> u32 {
        help::xvr_ftp_sack()
    }
}
