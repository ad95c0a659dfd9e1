//! `vxdp trace` tells the truth: what it says of a frame is what becomes of such a frame when it is sent.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etherparse::PacketBuilder;
use serde_json::Value;
use vxdp_lab::{
    Capture, Family, Host, Injector, Lab, Mode, Ping, Place, Segment, deploy, scenario, wait_until,
};

const C1: [u8; 6] = [0x02, 0x42, 0x0a, 0, 0, 2];
const C2: [u8; 6] = [0x02, 0x42, 0x0a, 0, 0, 3];

/// Where nobody was configured to be.
const STRANGER: [u8; 6] = [0x02, 0x42, 0x0a, 0, 0, 0x99];

/// Ethernet, IPv4 and UDP.
const INNER: usize = 14 + 20 + 8;

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn trace(host: &Host, src: [u8; 6], dst: [u8; 6]) -> Result<Value> {
    let (src, dst) = (text(src), text(dst));
    let words = ["trace", "--vni", "42", "--src", &src, "--dst", &dst, "--json"];
    Ok(serde_json::from_str(&host.vxdp(&words)?.success()?)?)
}

/// A datagram of an unusual length, by which it is known.
fn datagram(src: [u8; 6], dst: [u8; 6]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(src, dst)
        .ipv4([10, 0, 0, 2], [10, 0, 0, 99], 64)
        .udp(4000, 4000)
        .write(&mut frame, &[0x5a; 333])
        .expect("a vector takes everything");
    frame
}

/// What the programs have said of frames that entered by `veth2`.
fn verdicts(host: &Host) -> Result<HashMap<String, u64>> {
    let status = host.status()?;
    let devices = status["modes"]["engine"]["devices"].as_array().cloned().unwrap_or_default();
    let port = devices.iter().find(|device| device["device"] == "veth2");
    let counts = port.and_then(|port| port["verdicts"].as_array()).cloned().unwrap_or_default();
    let count = |count: &Value| Some((count["verdict"].as_str()?.to_owned(), count["frames"].as_u64()?));
    counts.iter().map(|found| count(found).context("no verdict")).collect()
}

/// Sends a frame from c1 to `dst`: it arrives at `device` of `place`, and where an engine flies its program says
/// what the trace foretold.
fn comes_true(host: &Host, told: &Value, dst: [u8; 6], place: &Place, device: &str) -> Result<()> {
    let engine = told["now"].as_str().context("no path")?;
    let foretold = told[engine].as_str().context("no fate")?;
    let verdict = match foretold.strip_prefix("passed to the kernel (") {
        Some(verdict) => verdict.trim_end_matches(')'),
        None => "redirected",
    };
    let (before, capture) = (verdicts(host)?, Capture::start(place, device)?);
    let frame = datagram(C1, dst);
    let container = Injector::open(&host.netns("c1"), "eth1")?;
    container.send(&frame)?;
    if engine != "kernel" {
        let said = |counts: &HashMap<String, u64>| counts.get(verdict).copied().unwrap_or_default();
        // Rows and routes that have just changed take a moment to get to the programs.
        wait_until(&format!("the program says {verdict}"), Duration::from_secs(5), || {
            container.send(&frame)?;
            Ok(said(&verdicts(host)?) > said(&before))
        })
        .with_context(|| format!("{before:?}, then {:?}; {told}", verdicts(host)))?;
    }
    let payload = &frame[INNER..];
    capture.wait_for("the datagram", |seen| {
        seen.bytes.windows(payload.len()).any(|window| window == payload).then_some(())
    })
}

/// With each host's container known to the other, in each mode.
fn in_modes(name: &str, family: Family, setting: &str, steps: impl Fn(&Lab, Mode) -> Result<()>) {
    for mode in Mode::ALL {
        scenario(name, |lab| {
            let segment =
                if setting.is_empty() { Segment::scenario() } else { Segment::scenario().setting(setting) };
            let _daemons = deploy(lab, family, std::slice::from_ref(&segment), &[mode, Mode::Kernel])?;
            if mode.is_fast() {
                lab.h1().wait_for_fast_path()?;
            }
            let ((c1, _), (_, address)) = (segment.place(lab, 0)?, segment.place(lab, 1)?);
            Ping::new(address).count(3).expect_all(&c1)?;
            steps(lab, mode).with_context(|| format!("{mode:?}"))
        });
    }
}

#[test]
#[ignore = "needs root"]
fn trace_tells_the_way_of_a_mac_that_is_also_behind_a_local_port() {
    in_modes("trace-twice", Family::V4, "", |lab, _| {
        let (h1, overlay) = (lab.h1(), lab.h1().netns("overlay"));
        let stranger = text(STRANGER);
        overlay.script(&format!(
            "ip link add other type veth peer name far; ip link set other master br0 up; ip link set far up
             bridge fdb add {stranger} dev vxlan1 dst 192.168.10.22 self static"
        ))?;
        // Only the tunnel's row: the bridge floods, and one of the copies takes the tunnel.
        let told = trace(h1, C1, STRANGER)?;
        ensure!(told["kernel"].to_string().contains("encapsulated and sent to VTEP 192.168.10.22"), "{told}");
        ensure!(told["userspace"].to_string().contains("(unknown_destination)"), "{told}");
        comes_true(h1, &told, STRANGER, lab.h2(), "eth0")?;
        // Both rows at the tunnel.
        overlay.script(&format!("bridge fdb replace {stranger} dev vxlan1 master static"))?;
        let told = trace(h1, C1, STRANGER)?;
        ensure!(told["inkernel"].to_string().contains("encapsulated"), "{told}");
        comes_true(h1, &told, STRANGER, lab.h2(), "eth0")?;
        // The bridge has it at home.
        overlay.script(&format!("bridge fdb replace {stranger} dev other master static"))?;
        let told = trace(h1, C1, STRANGER)?;
        ensure!(told["kernel"] == "br0 hands it to other, which is no container's", "{told}");
        ensure!(told["steps"].to_string().contains("but br0 does not send it there"), "{told}");
        comes_true(h1, &told, STRANGER, &overlay, "far")
    });
}

#[test]
#[ignore = "needs root"]
fn trace_tells_the_way_over_another_underlay_device() {
    in_modes("trace-other", Family::V4, "", |lab, _| {
        let h1 = lab.h1();
        h1.script(
            "ip link add second type veth peer name far; ip link set second up; ip link set far up
             ip address add 203.0.113.1/24 dev second; ip route add 192.168.10.22/32 via 203.0.113.2 dev second
             ip neigh replace 203.0.113.2 lladdr 02:00:00:00:07:07 dev second nud permanent",
        )?;
        let told = trace(h1, C1, C2)?;
        let steps = told["steps"].to_string();
        ensure!(steps.contains("192.168.10.22 by 203.0.113.2 on second"), "{told}");
        ensure!(told["kernel"] == "encapsulated and sent to VTEP 192.168.10.22 by second", "{told}");
        ensure!(told["inkernel"] == "passed to the kernel (unresolved_vtep)", "{told}");
        comes_true(h1, &told, C2, h1, "far")
    });
}

#[test]
#[ignore = "needs root"]
fn trace_tells_which_engine_computes_outer_checksums() {
    for (name, family) in [("trace-sum", Family::V4), ("trace-sum6", Family::V6)] {
        in_modes(name, family, "udp_checksum = true", |lab, _| {
            let told = trace(lab.h1(), C1, C2)?;
            ensure!(told["userspace"].to_string().contains("encapsulated"), "{told}");
            ensure!(told["inkernel"] == "passed to the kernel (outer_checksum)", "{told}");
            comes_true(lab.h1(), &told, C2, lab.h2(), "eth0")
        });
    }
}
