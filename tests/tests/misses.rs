//! Rows that are written when the kernel misses them.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use etherparse::PacketBuilder;
use vxdp_lab::{
    Capture, Family, Host, Injector, Lab, Mode, Ping, Place, Segment, deploy, in_each_mode, wait_until,
};

/// Misses in the storm, each of another MAC.
const STORM: u32 = 100_000;

/// Memory that the daemon may need more afterwards: the bounded queue, the bounded hold-down and the
/// allocator's own slack. A hundred thousand remembered misses would be several times that.
const GROWTH: u64 = 4 << 20;

fn fdb(host: &Host) -> Result<String> {
    host.netns("overlay").exec(["bridge", "fdb", "show", "dev", "vxlan1"])
}

fn neighbours(host: &Host) -> Result<String> {
    host.netns("overlay").exec(["ip", "neighbour", "show", "dev", "vxlan1"])
}

/// Pings until an answer comes: the container repeats its ARP request after a second, and the kernel drops the
/// frames that it reports as missed.
fn reach(from: &Place, address: IpAddr) -> Result<()> {
    wait_until("the remote is reached", Duration::from_secs(15), || {
        Ok(Ping::new(address).count(1).run(from)?.received == 1)
    })
}

fn on_miss(lab: &Lab, modes: [Mode; 2]) -> Result<()> {
    let segment = Segment::scenario().remote_setting("install = \"on-miss\"");
    let _daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &modes)?;
    let (c1, _) = segment.place(lab, 0)?;
    let (_, address) = segment.place(lab, 1)?;
    for host in lab.hosts() {
        let rows = format!("{}{}", fdb(host)?, neighbours(host)?);
        ensure!(!rows.contains("02:42:0a:00:00:0"), "{} was provisioned at the start:\n{rows}", host.name());
    }
    let (place, device) = lab.wire();
    let wire = Capture::start(place, device)?;
    reach(&c1, address)?;
    ensure!(neighbours(lab.h1())?.contains("10.0.0.3 lladdr 02:42:0a:00:00:03"), "no ARP row on h1");
    ensure!(fdb(lab.h1())?.contains("02:42:0a:00:00:03 dst 192.168.10.22"), "no FDB row on h1");
    // Learned from the first request, or answered by the daemon: either way h2 knows the way back.
    ensure!(fdb(lab.h2())?.contains("02:42:0a:00:00:02 dst 192.168.10.21"), "no FDB row on h2");
    // Nobody has this address: asked for, and never answered.
    let unknown = Ping::new([10, 0, 0, 99]).count(2).run(&c1)?;
    ensure!(unknown.received == 0, "an address that nobody has answers");
    ensure!(!neighbours(lab.h1())?.contains("10.0.0.99 lladdr"), "an unknown address got a row");
    ensure!(wire.stop()?.len() >= 6, "the pings were not captured");
    lab.expect_fast_path(&modes, &c1, address)
}

#[test]
#[ignore = "needs root"]
fn a_remote_is_installed_when_the_kernel_misses_it() {
    in_each_mode("on-miss", on_miss);
}

fn missed_row_comes_back(lab: &Lab, modes: [Mode; 2]) -> Result<()> {
    let segment = Segment::scenario().setting("learning = false").remote_setting("install = \"on-miss\"");
    let _daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &modes)?;
    let (c1, _) = segment.place(lab, 0)?;
    let (_, address) = segment.place(lab, 1)?;
    reach(&c1, address)?;
    lab.expect_fast_path(&modes, &c1, address)?;
    // The container still knows the MAC, so only l2miss can bring the FDB row back.
    let overlay = lab.h1().netns("overlay");
    overlay.exec(["bridge", "fdb", "del", "02:42:0a:00:00:03", "dev", "vxlan1", "self"])?;
    reach(&c1, address)?;
    lab.expect_fast_path(&modes, &c1, address)
}

#[test]
#[ignore = "needs root"]
fn a_lost_row_of_an_on_miss_remote_is_written_again_by_l2miss_alone() {
    in_each_mode("l2miss", missed_row_comes_back);
}

/// A frame from the first container to a MAC and an address that nobody has.
fn stray(number: u32) -> Vec<u8> {
    let [_, a, b, c] = number.to_be_bytes();
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([0x02, 0x42, 0x0a, 0, 0, 2], [0x02, 0x66, 0, a, b, c])
        .ipv4([10, 0, 0, 2], [10, a, b, c], 64)
        .udp(1000, 1000);
    builder.write(&mut frame, &[0; 18]).expect("a vector takes everything");
    frame
}

fn storm(lab: &Lab, modes: [Mode; 2]) -> Result<()> {
    let segment = Segment::scenario().remote_setting("install = \"on-miss\"");
    let daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &modes)?;
    let (c1, _) = segment.place(lab, 0)?;
    let (_, address) = segment.place(lab, 1)?;
    let before = daemons[0].memory()?;
    let injector = Injector::open(&c1, "eth1")?;
    for number in 0..STORM / 2 {
        injector.send(&stray(number))?;
    }
    // In the middle of it a remote that we know is missed, and answered as always.
    reach(&c1, address)?;
    for number in STORM / 2..STORM {
        injector.send(&stray(number))?;
    }
    let growth = daemons[0].memory()?.saturating_sub(before);
    ensure!(growth < GROWTH, "{STORM} misses cost {growth} bytes");
    let rows = fdb(lab.h1())?;
    ensure!(!rows.contains("02:66:"), "rows for MACs that nobody has:\n{rows}");
    // And it still does its work.
    lab.h1().netns("overlay").exec(["bridge", "fdb", "del", "02:42:0a:00:00:03", "dev", "vxlan1", "self"])?;
    reach(&c1, address)?;
    lab.expect_fast_path(&modes, &c1, address)
}

#[test]
#[ignore = "needs root"]
fn a_storm_of_misses_for_unknown_addresses_neither_grows_memory_nor_starves_the_rest() {
    in_each_mode("storm", storm);
}
