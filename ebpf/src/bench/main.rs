//! The benchmarks' programs: a generator of frames, and a sink that counts and drops them.
//!
//! They are an object of their own, which the daemon does not carry.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "packet and map memory are raw pointers that the kernel's verifier checks")]

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, DevMap, PerCpuArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use vxdp_ebpf::bench::{Counted, FIRST_SOURCE_PORT, Generator, MEASURING_PORT, PERIOD_BITS, SEQUENCE_OFFSET};

/// The programs use helpers that the kernel offers to GPL-compatible licences only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[map]
static GENERATOR: Array<u64> = Array::with_max_entries(Generator::COUNT, 0);

#[map]
static DEVICE: DevMap = DevMap::with_max_entries(1, 0);

#[map]
static COUNTED: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counted::COUNT, 0);

const ETHERTYPE: usize = 12;
const VERSION_IHL: usize = 14;
const PROTOCOL: usize = 23;
const SOURCE_PORT: usize = 34;
const DESTINATION_PORT: usize = 36;

/// Never reached: the verifier refuses a program that could panic.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Numbers the frame, gives it to one of the flows, and sends it, if one is due. The UDP checksum is 0 in the
/// template and stays so. The kernel hands pages out again as they are, so each frame is written anew.
#[xdp]
pub(crate) fn vxdp_generate(ctx: XdpContext) -> u32 {
    if is_due() != Some(true) {
        return XDP_DROP;
    }
    let (Some(sent), Some(mask)) = (state(Generator::Sent), state(Generator::FlowMask)) else {
        return XDP_ABORTED;
    };
    // SAFETY: pointers into the map; one thread at a time runs the generator.
    let (number, mask) = unsafe { (*sent, *mask) };
    let port = FIRST_SOURCE_PORT.wrapping_add((number & mask) as u16).to_be();
    let written = put(&ctx, SOURCE_PORT, port).and_then(|()| put_sequence(&ctx, number));
    if written.is_none() {
        return XDP_ABORTED;
    }
    // SAFETY: as above.
    unsafe { *sent = number + 1 };
    DEVICE.redirect(0, 0).unwrap_or(XDP_ABORTED)
}

/// Whether it is time for one more frame; counts it then.
#[inline(always)]
fn is_due() -> Option<bool> {
    let (start, end, rate) = (state(Generator::Start)?, state(Generator::End)?, state(Generator::Rate)?);
    let (burst, debt) = (state(Generator::Burst)?, state(Generator::Debt)?);
    let (done, credit) = (state(Generator::Done)?, state(Generator::Credit)?);
    // SAFETY: the helper has no preconditions; pointers into the map, and one thread at a time runs this.
    unsafe {
        let now = bpf_ktime_get_ns();
        if *start == 0 {
            *start = now;
            *end += now;
        }
        if now >= *end {
            return Some(false);
        }
        if *rate == 0 {
            return Some(true);
        }
        if *credit == 0 {
            let should = ((now - *start) * *rate) >> PERIOD_BITS;
            if should < *done + *burst {
                return Some(false);
            }
            if should - *done > *debt {
                *done = should - *debt;
            }
            *credit = should - *done;
        }
        *credit -= 1;
        *done += 1;
    }
    Some(true)
}

#[inline(always)]
fn state(which: Generator) -> Option<*mut u64> {
    GENERATOR.get_ptr_mut(which as u32)
}

/// Counts measuring frames and drops them; passes everything else.
#[xdp]
pub(crate) fn vxdp_sink(ctx: XdpContext) -> u32 {
    if is_measuring(&ctx) != Some(true) {
        return XDP_PASS;
    }
    add(Counted::Frames, 1);
    add(Counted::Bytes, (ctx.data_end() - ctx.data()) as u64);
    XDP_DROP
}

#[inline(always)]
fn is_measuring(ctx: &XdpContext) -> Option<bool> {
    Some(
        get::<u16>(ctx, ETHERTYPE)? == 0x0800_u16.to_be()
            && get::<u8>(ctx, VERSION_IHL)? == 0x45
            && get::<u8>(ctx, PROTOCOL)? == 17
            && get::<u16>(ctx, DESTINATION_PORT)? == MEASURING_PORT.to_be(),
    )
}

/// The same for packets that never pass an XDP hook.
#[classifier]
pub(crate) fn vxdp_sink_tc(ctx: TcContext) -> i32 {
    // Unlike XDP's, a packet's linear part need not hold the headers: copied, they are there in any case.
    let is = |offset: usize, value: u8| ctx.load::<u8>(offset).is_ok_and(|byte| byte == value);
    let [port_high, port_low] = MEASURING_PORT.to_be_bytes();
    let is_measuring = is(ETHERTYPE, 0x08)
        && is(ETHERTYPE + 1, 0x00)
        && is(VERSION_IHL, 0x45)
        && is(PROTOCOL, 17)
        && is(DESTINATION_PORT, port_high)
        && is(DESTINATION_PORT + 1, port_low);
    if !is_measuring {
        return TC_ACT_UNSPEC;
    }
    add(Counted::Frames, 1);
    add(Counted::Bytes, u64::from(ctx.len()));
    TC_ACT_SHOT
}

#[inline(always)]
fn add(what: Counted, amount: u64) {
    if let Some(counter) = COUNTED.get_ptr_mut(what as u32) {
        // SAFETY: the pointer is into this CPU's own value, and an XDP program is not interrupted by another.
        unsafe { *counter += amount };
    }
}

/// Eight bytes in four words: the place is even, and no better.
type Number = [u16; 4];

#[inline(always)]
fn put_sequence(ctx: &XdpContext, number: u64) -> Option<()> {
    let words = [number as u16, (number >> 16) as u16, (number >> 32) as u16, (number >> 48) as u16];
    put::<Number>(ctx, SEQUENCE_OFFSET, words)
}

#[inline(always)]
fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    (start + size_of::<T>() <= ctx.data_end()).then_some(start as *mut T)
}

#[inline(always)]
fn get<T: Copy>(ctx: &XdpContext, offset: usize) -> Option<T> {
    // SAFETY: inside the frame by `at`, and `T` is an integer; the verifier checks the bounds.
    at::<T>(ctx, offset).map(|place| unsafe { *place })
}

#[inline(always)]
fn put<T>(ctx: &XdpContext, offset: usize, value: T) -> Option<()> {
    // SAFETY: as in `get`.
    at::<T>(ctx, offset).map(|place| unsafe { *place = value })
}
