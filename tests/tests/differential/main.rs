//! The two modes against each other: the kernel is the reference, byte for byte.
//!
//! - `received` lists outer packets on the wire, right and wrong; `reception` notes what the container gets.
//! - `sent` lists frames of a container; `emission` notes what is on the wire, under each `policy`.
//!
//! Each row is played in both modes, and in xdp mode by both engines, the in-kernel one (which leaves IPv6
//! underlays to the kernel) at both hooks. A row also names the way that its frames take with the userspace engine,
//! and every counter that moved is compared with that: a frame that strays to the other path is a failure.

mod counters;
mod emission;
mod fence;
mod inner;
mod outer;
mod policy;
mod received;
mod reception;
mod row;
mod sent;
mod wire;

use anyhow::Result;
use vxdp_lab::{Family, Frame, Mode, Place};

/// What carries the frames of a run.
#[derive(Debug, Clone, Copy)]
struct Subject {
    name: &'static str,
    mode: Mode,
    /// What stands in the configuration's `[dataplane]`.
    dataplane: &'static str,
}

const KERNEL: Subject = Subject { name: "kernel mode", mode: Mode::Kernel, dataplane: "" };
const USERSPACE: Subject = Subject { name: "userspace", mode: Mode::Xdp, dataplane: "" };
const AT_TC: Subject = Subject { name: "inkernel at tc", mode: Mode::InKernel, dataplane: "hook = \"tc\"" };
const AT_XDP: Subject =
    Subject { name: "inkernel at XDP", mode: Mode::InKernel, dataplane: "hook = \"xdp\"" };

/// Both modes give the container the same, namely what the table says, and every frame took the way that the
/// table names.
fn same_verdicts(family: Family, subject: Subject) {
    let rows = received::rows();
    let run = |subject| reception::run(family, subject, &rows).unwrap_or_else(|error| panic!("{error:#}"));
    let mut complaints = Vec::new();
    for (kernel, xdp) in run(KERNEL).into_iter().zip(run(subject)) {
        let (expected, reference) = (kernel.expected, kernel.arrived);
        complaints.extend(difference(&kernel.name, "kernel mode", &expected, &reference));
        complaints.extend(difference(
            &xdp.name,
            "the fast path against kernel mode",
            &reference,
            &xdp.arrived,
        ));
        complaints.extend(xdp.strayed.map(|stray| format!("{}: {stray}", xdp.name)));
    }
    none(&complaints);
}

/// Both modes put the same packets onto the wire, but for what may differ, and the same frames back into the
/// container.
fn same_packets(family: Family, subject: Subject) {
    let rows = sent::rows(family);
    let run = |subject| emission::run(family, subject, &rows).unwrap_or_else(|error| panic!("{error:#}"));
    let mut complaints = Vec::new();
    for (kernel, xdp) in run(KERNEL).into_iter().zip(run(subject)) {
        complaints.extend(difference(&xdp.name, "on the wire", &kernel.left, &xdp.left));
        complaints.extend(difference(&xdp.name, "in the container", &kernel.returned, &xdp.returned));
        complaints.extend(kernel.faults.iter().map(|fault| format!("{}: kernel mode: {fault}", kernel.name)));
        complaints.extend(xdp.faults.iter().map(|fault| format!("{}: {}: {fault}", xdp.name, subject.name)));
    }
    none(&complaints);
}

fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "{} differences:\n{}", complaints.len(), complaints.join("\n"));
}

/// What a reader needs to see of two lists of frames that should be equal.
fn difference(name: &str, place: &str, wanted: &[Vec<u8>], found: &[Vec<u8>]) -> Option<String> {
    let hex = |frame: &[u8]| frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let line = |frame: &Vec<u8>| format!("\n    {} {}", vxdp_lab::describe(frame), hex(frame));
    let lines = |frames: &[Vec<u8>]| frames.iter().map(line).collect::<String>();
    (wanted != found).then(|| {
        let (wanted_lines, found_lines) = (lines(wanted), lines(found));
        format!(
            "{name}: {place}: wanted {} frames{wanted_lines}\n  found {}{found_lines}",
            wanted.len(),
            found.len()
        )
    })
}

/// Whether a container's frame is one that came in and that somebody in the test has sent.
fn is_arrival(frame: &Frame) -> bool {
    !frame.outgoing && !is_small_talk(&frame.bytes) && !fence::Fence::is(&frame.bytes)
}

/// Whether the frame is one of those that a bridge sends by itself: neighbour discovery, group reports.
fn is_small_talk(frame: &[u8]) -> bool {
    frame.starts_with(&[0x33, 0x33]) || frame.starts_with(&[0x01, 0, 0x5e, 0, 0, 0x16])
}

/// Keeps the bridge's netfilter from looking into IP packets, where it drops or trims what is not quite right.
/// It is on in every new namespace, and the fast path passes it by.
fn switch_bridge_netfilter_off(overlay: &Place) -> Result<()> {
    overlay.script("for file in /proc/sys/net/bridge/bridge-nf-call-*; do echo 0 > $file; done").map(drop)
}

#[test]
#[ignore = "needs root"]
fn equal_outer_packets_get_equal_verdicts_in_both_modes_over_ipv4() {
    same_verdicts(Family::V4, USERSPACE);
}

#[test]
#[ignore = "needs root"]
fn equal_outer_packets_get_equal_verdicts_in_both_modes_over_ipv6() {
    same_verdicts(Family::V6, USERSPACE);
}

#[test]
#[ignore = "needs root"]
fn equal_inner_frames_become_equal_outer_packets_in_both_modes_over_ipv4() {
    same_packets(Family::V4, USERSPACE);
}

#[test]
#[ignore = "needs root"]
fn equal_inner_frames_become_equal_outer_packets_in_both_modes_over_ipv6() {
    same_packets(Family::V6, USERSPACE);
}

#[test]
#[ignore = "needs root"]
fn equal_outer_packets_get_equal_verdicts_by_the_inkernel_engine_at_tc_over_ipv4() {
    same_verdicts(Family::V4, AT_TC);
}

#[test]
#[ignore = "needs root"]
fn equal_inner_frames_become_equal_outer_packets_by_the_inkernel_engine_at_tc_over_ipv4() {
    same_packets(Family::V4, AT_TC);
}

#[test]
#[ignore = "needs root"]
fn equal_outer_packets_get_equal_verdicts_by_the_inkernel_engine_at_xdp_over_ipv4() {
    same_verdicts(Family::V4, AT_XDP);
}

#[test]
#[ignore = "needs root"]
fn equal_inner_frames_become_equal_outer_packets_by_the_inkernel_engine_at_xdp_over_ipv4() {
    same_packets(Family::V4, AT_XDP);
}
