//! What instructions are counted with: frames sent as they were recorded.

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_TX};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;
use bench_programs::{RECORDED, RECORDINGS, Recording, Reel};

#[map]
static REEL: Array<Reel> = Array::with_max_entries(1, 0);
#[map]
static FRAMES: Array<Recording> = Array::with_max_entries(RECORDINGS, 0);

/// Sends the next recorded frame.
#[xdp]
pub fn bench_replay(ctx: XdpContext) -> u32 {
    match replay(&ctx) {
        Some(()) => XDP_TX,
        None => XDP_ABORTED,
    }
}

#[inline(always)]
fn replay(ctx: &XdpContext) -> Option<()> {
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + RECORDED > end {
        return None;
    }
    let reel = REEL.get_ptr_mut(0)?;
    // SAFETY: a value of the map; frames are sent by one thread at a time.
    let number = unsafe {
        let number = (*reel).next;
        (*reel).next = if number + 1 == (*reel).frames { 0 } else { number + 1 };
        number
    };
    let recording = FRAMES.get(number)?;
    for (index, word) in recording.bytes.iter().enumerate() {
        // SAFETY: the bytes were looked at. The BPF machine has no alignment; and volatile, or it would be
        // one copy, byte by byte.
        unsafe { ((data + index * 8) as *mut u64).write_volatile(*word) };
    }
    Some(())
}
