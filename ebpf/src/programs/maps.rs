//! The maps. Names are those of `vxdp_ebpf::map`; sizes marked "at load time" are replaced by the loader.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, DevMap, HashMap, PerCpuArray, RingBuf, XskMap};
use vxdp_ebpf::{
    COUNTED_VTEPS, FdbKey, Flows, HITS_BYTES, MAX_QUEUES, Overlay, OverlayKey, Port, Row, Settings,
    TUNNEL_PORT_WORDS, Verdict, Vtep,
};

#[map]
pub(super) static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

#[map]
pub(super) static HEARTBEATS: Array<u64> = Array::with_max_entries(MAX_QUEUES, 0);

#[map]
pub(super) static TUNNEL_PORTS: Array<u64> = Array::with_max_entries(TUNNEL_PORT_WORDS, 0);

/// Size at load time.
#[map]
pub(super) static OVERLAYS: HashMap<OverlayKey, Overlay> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Size at load time. Without preallocation an empty table costs its buckets only, and a removed row is
/// not reused while a program still reads it.
#[map]
pub(super) static FDB: HashMap<FdbKey, Row> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Size at load time.
#[map]
pub(super) static VTEPS: Array<Vtep> = Array::with_max_entries(1, 0);

/// Size at load time.
#[map]
pub(super) static PORTS: Array<Port> = Array::with_max_entries(1, 0);

#[map]
pub(super) static HITS: RingBuf = RingBuf::with_byte_size(HITS_BYTES, 0);

#[map]
pub(super) static VTEP_FLOWS: PerCpuArray<Flows> = PerCpuArray::with_max_entries(COUNTED_VTEPS, 0);

/// Size at load time, that of `PORTS`.
#[map]
pub(super) static PORT_FLOWS: PerCpuArray<Flows> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub(super) static IDENTS: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// What the XDP programs of the in-kernel engine send to. An entry is the device itself, not its index, so it
/// works from any namespace; the kernel takes out a device that goes.
#[map]
pub(super) static UNDERLAY_DEVICE: DevMap = DevMap::with_max_entries(1, 0);

/// Size at load time, that of `PORTS`.
#[map]
pub(super) static PORT_DEVICES: DevMap = DevMap::with_max_entries(1, 0);

/// One per instance, so that the slot is the queue's number.
#[map]
pub(super) static XSKS: XskMap = XskMap::with_max_entries(MAX_QUEUES, 0);

/// One per instance, so that each device has its own figures.
#[map]
pub(super) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Verdict::COUNT, 0);

/// Which entry of `PORTS` this instance of `vxdp_port` serves. A constant, because the only thing that a
/// program can see of its device is the ifindex, which two namespaces may both have given.
#[unsafe(no_mangle)]
pub(super) static PORT_NUMBER: Global<u32> = Global::new(u32::MAX);
