//! What strangers and other segments cannot do in xdp mode, by the fast path or around it.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use vxdp_lab::{
    Capture, Daemon, Family, Host, Injector, Lab, Mode, Ping, Place, Segment, VXLAN_PORT, config_of, deploy,
    deploy_each, wait_until,
};

const FAST: [Mode; 2] = [Mode::Xdp, Mode::InKernel];

const C1: [u8; 6] = [2, 0x42, 10, 0, 0, 2];
const C2: [u8; 6] = [2, 0x42, 10, 0, 0, 3];

/// Made-up source MACs: more than are mirrored (16,384); `VXDP_SPOOFED` asks for another number of them.
const SPOOFED: u32 = 100_000;

/// Memory that one daemon may need more for them: the mirrored ones' place in the mirror and in the tables, and
/// the slack of netlink buffers and of the allocator. All of them mirrored would be several times that by the
/// time there are a million.
const GROWTH: u64 = 32 << 20;

/// An Ethernet frame with a datagram that nobody waits for.
fn frame(source: [u8; 6], destination: [u8; 6]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder =
        PacketBuilder::ethernet2(source, destination).ipv4([10, 0, 0, 2], [10, 0, 0, 3], 64).udp(4000, 4000);
    builder.write(&mut frame, &[0x5a; 18]).expect("a vector takes everything");
    frame
}

/// What a VTEP at `source` would send to h2: `inner` in VNI 42.
fn encapsulated(lab: &Lab, source: Ipv4Addr, inner: &[u8]) -> Vec<u8> {
    let mac = |host: &Host| {
        let [a, b, c, d] = host.ipv4().octets();
        [2, 0, a, b, c, d]
    };
    let mut payload = vec![8, 0, 0, 0, 0, 0, 42, 0];
    payload.extend_from_slice(inner);
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(mac(lab.h1()), mac(lab.h2()))
        .ipv4(source.octets(), lab.h2().ipv4().octets(), 64)
        .udp(50_000, VXLAN_PORT);
    builder.write(&mut frame, &payload).expect("a vector takes everything");
    // Without an outer UDP checksum, as kernels send it: the in-kernel engine verifies none.
    frame[40..42].fill(0);
    frame
}

/// Frames with this verdict on the underlay of `host`, and those that its workers took out of tunnels.
fn judged(host: &Host, verdict: &str) -> Result<(u64, u64)> {
    let status = host.status()?;
    let engine = &status["modes"]["engine"];
    let verdicts = engine["devices"][0]["verdicts"].as_array().context("no verdicts")?;
    let count = verdicts.iter().find(|count| count["verdict"] == verdict);
    let frames = count.and_then(|count| count["frames"].as_u64()).unwrap_or(0);
    Ok((frames, engine["decap"]["frames"].as_u64().context("no decap")?))
}

/// Every MAC of the segments' containers is known on both hosts.
fn warm_up(lab: &Lab, segments: &[Segment], mode: Mode) -> Result<Vec<Daemon>> {
    let daemons = deploy(lab, Family::V4, segments, &[mode; 2])?;
    lab.hosts().iter().try_for_each(Host::wait_for_fast_path)?;
    for segment in segments {
        let ((c1, address1), (c2, address2)) = (segment.place(lab, 0)?, segment.place(lab, 1)?);
        Ping::new(address2).count(1).expect_all(&c1)?;
        Ping::new(address1).count(1).expect_all(&c2)?;
    }
    for host in lab.hosts() {
        wait_until("the containers' MACs are known", Duration::from_secs(5), || {
            Ok(host.status()?["modes"]["engine"]["locals"].as_u64() == Some(segments.len() as u64))
        })?;
    }
    Ok(daemons)
}

/// Sends `count` frames and waits until h2 carries as many of them in userspace; one in a hundred may take the
/// kernel's path, when a worker of a busy machine shows itself late.
fn sent_fast(lab: &Lab, from: &Place, count: u64) -> Result<()> {
    let injector = Injector::open(from, "eth1")?;
    let before = lab.h2().frames()?.xdp.decap;
    for number in 0..count {
        injector.send(&frame(C1, C2))?;
        if number % 64 == 63 {
            // No faster than the workers take them: the ring of a veth has 256 places.
            std::thread::yield_now();
        }
    }
    wait_until("h2 has carried the frames", Duration::from_secs(10), || {
        Ok(lab.h2().frames()?.xdp.decap - before >= count - count / 100)
    })
}

#[test]
#[ignore = "needs root"]
fn frames_of_one_segment_never_reach_another_with_equal_macs_by_the_fast_path() {
    FAST.into_iter().for_each(segments_stay_apart);
}

fn segments_stay_apart(mode: Mode) {
    Lab::builder("apart").run(|lab| {
        let blue = Segment::new(43)
            .netns("overlay43")
            .member(1, "blue1", "02:42:0a:00:00:02", "10.0.0.2/24")
            .member(2, "blue2", "02:42:0a:00:00:03", "10.0.0.3/24");
        let segments = [Segment::scenario(), blue];
        let _daemons = warm_up(lab, &segments, mode)?;
        let [red2, blue2] = [segments[0].place(lab, 1)?.0, segments[1].place(lab, 1)?.0];
        for (near, far, other) in [(0, &red2, &blue2), (1, &blue2, &red2)] {
            let captures = [Capture::start(far, "eth1")?, Capture::start(other, "eth1")?];
            sent_fast(lab, &segments[near].place(lab, 0)?.0, 200)?;
            let mut seen = Vec::new();
            for capture in captures {
                let ours = |bytes: &[u8]| bytes.windows(18).any(|window| window == [0x5a; 18]);
                seen.push(capture.stop()?.iter().filter(|captured| ours(&captured.bytes)).count());
            }
            ensure!(
                seen[0] >= 198 && seen[1] == 0,
                "{seen:?} frames arrived, the latter in the other segment"
            );
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn a_vtep_that_the_fdb_does_not_name_gets_no_fast_path() {
    FAST.into_iter().for_each(strangers_take_the_kernels_way);
}

fn strangers_take_the_kernels_way(mode: Mode) {
    Lab::builder("stranger").run(|lab| {
        let _daemons = warm_up(lab, &[Segment::scenario()], mode)?;
        let wire = Injector::open(lab.h1(), "eth0")?;
        let stranger = Ipv4Addr::new(192, 168, 10, 99);
        // A known inner source from the wrong place, and one that nobody has: the kernel drops the first, by its
        // static row, and learns the second.
        for (source, verdict) in [(C1, "moved_source"), ([2, 0x77, 0, 0, 0, 1], "unknown_source")] {
            let (judged_before, decap_before) = judged(lab.h2(), verdict)?;
            wire.send(&encapsulated(lab, stranger, &frame(source, C2)))?;
            wait_until("the frame is judged", Duration::from_secs(5), || {
                Ok(judged(lab.h2(), verdict)?.0 == judged_before + 1)
            })?;
            let (_, decap) = judged(lab.h2(), verdict)?;
            ensure!(decap == decap_before, "userspace carried a stranger's frame");
        }
        // The same frame from the VTEP that the row names is carried.
        let (_, before) = judged(lab.h2(), "redirected")?;
        wire.send(&encapsulated(lab, lab.h1().ipv4(), &frame(C1, C2)))?;
        wait_until("the VTEP's own frame is carried", Duration::from_secs(5), || {
            Ok(judged(lab.h2(), "redirected")?.1 == before + 1)
        })
    });
}

#[test]
#[ignore = "needs root"]
fn a_container_that_comes_as_another_goes_gets_none_of_its_frames() {
    FAST.into_iter().for_each(nothing_is_inherited);
}

/// Everything happens while the daemon hears nothing, so that it learns of all of it at once.
fn nothing_is_inherited(mode: Mode) {
    Lab::builder("heir").run(|lab| {
        let member = |segment: Segment, number: usize| {
            let (host, mac) = (number.min(2), format!("02:43:0a:00:00:0{number}"));
            segment.member(host, &format!("blue{number}"), &mac, &format!("10.0.43.{number}/24"))
        };
        let segments = [Segment::scenario(), (1..5).fold(Segment::new(43), member)];
        // In one namespace, as one reading of it shows both.
        let config = |number| {
            let text = config_of(lab, Family::V4, &segments, number);
            let (red, blue) = text.split_at(text.rfind("\n[[overlay]]\n").expect("two overlays"));
            red.to_owned()
                + &blue.replace("br0", "br1").replace("vxlan1", "vxlan2").replace("\"veth", "\"blue")
        };
        let daemons = deploy_each(lab, &segments, &[mode; 2], config)?;
        lab.hosts().iter().try_for_each(Host::wait_for_fast_path)?;
        let ((c1, address1), (c2, address2)) = (segments[0].place(lab, 0)?, segments[0].place(lab, 1)?);
        Ping::new(address2).count(1).expect_all(&c1)?;
        Ping::new(address1).count(1).expect_all(&c2)?;
        sent_fast(lab, &c1, 200)?;

        let (host, overlay, pid) = (lab.h2(), lab.h2().netns("overlay"), daemons[1].pid());
        host.script(&format!("kill -STOP {pid}"))?;
        overlay.script("ip link del veth3")?;
        let mut captures = Vec::new();
        for number in 2..5 {
            let (device, blue) = (format!("blue{}", number + 1), segments[1].place(lab, number - 1)?.0);
            overlay.script(&format!(
                "ip link del {device}
                 ip link add {device} mtu 1450 type veth peer name eth1 mtu 1450 netns blue{number}
                 ip link set {device} master br1 up"
            ))?;
            blue.script(&format!("ip link set eth1 address 02:43:0a:00:00:0{number} up"))?;
            captures.push(Capture::start(&blue, "eth1")?);
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let injector = Injector::open(&c1, "eth1")?;
                while !done.load(Relaxed) {
                    injector.send(&frame(C1, C2))?;
                    std::thread::sleep(Duration::from_micros(100));
                }
                Ok::<_, anyhow::Error>(())
            });
            let served = host.script(&format!("kill -CONT {pid}")).and_then(|_| {
                wait_until("all four ports are served again", Duration::from_secs(10), || {
                    let status = host.status()?;
                    let devices = status["modes"]["engine"]["devices"].as_array().context("no devices")?;
                    Ok(devices.len() == 5 && devices.iter().all(|device| device["regime"].is_string()))
                })
            });
            done.store(true, Relaxed);
            served.and(sender.join().expect("the sender"))
        })?;
        for capture in captures {
            let frames = capture.stop()?;
            let red = frames.iter().filter(|frame| frame.bytes.starts_with(&C2)).count();
            ensure!(red == 0, "{red} frames of the other segment arrived, in {} mode", mode.as_str());
        }
        Ok(())
    });
}

/// The number of made-up MACs that the environment asks for.
fn spoofed() -> u32 {
    std::env::var("VXDP_SPOOFED").ok().and_then(|count| count.parse().ok()).unwrap_or(SPOOFED)
}

/// The kernel's dump of its rows takes a time that grows with the square of their number.
fn patience() -> Duration {
    let hundreds_of_thousands = (spoofed() / 100_000).max(1);
    Duration::from_secs(60) + Duration::from_secs(8) * hundreds_of_thousands.pow(2)
}

#[test]
#[ignore = "needs root"]
fn spoofed_macs_neither_grow_memory_without_bound_nor_slow_the_known_ones_down() {
    Lab::builder("spoof").run(|lab| {
        let segment = Segment::scenario();
        let daemons = warm_up(lab, std::slice::from_ref(&segment), Mode::Xdp)?;
        let (c1, address1) = segment.place(lab, 0)?;
        let (c2, address2) = segment.place(lab, 1)?;
        let before = daemons.iter().map(Daemon::memory).collect::<Result<Vec<_>>>()?;
        // From a container on h1, and by what its kernel makes of them from the underlay on h2.
        let injector = Injector::open(&c1, "eth1")?;
        for number in 0..spoofed() {
            let [_, a, b, c] = number.to_be_bytes();
            injector.send(&frame([2, 0x66, 0, a, b, c], C2))?;
            if number % 10_000 == 5_000 {
                Ping::new(address2).count(1).expect_all(&c1)?;
            }
        }
        for (host, way) in [(lab.h1(), "locals"), (lab.h2(), "remotes")] {
            let mut seen = [0; 2];
            wait_until("the learned MACs have reached their limit", patience(), || {
                let engine = host.status()?["modes"]["engine"].take();
                seen = [way, "refused"].map(|name| engine[name].as_u64().unwrap_or(0));
                Ok((16_384..16_400).contains(&seen[0]) && seen[1] > 0)
            })
            .with_context(|| format!("{}: {way}, refused: {seen:?}", host.name()))?;
        }
        for ((daemon, before), host) in daemons.iter().zip(before).zip(lab.hosts()) {
            let growth = daemon.memory()?.saturating_sub(before);
            eprintln!("{}: {} spoofed MACs cost {} MiB", host.name(), spoofed(), growth >> 20);
            ensure!(growth < GROWTH, "{}: {growth} bytes more", host.name());
        }
        // Known ones are as fast as ever.
        sent_fast(lab, &c1, 1000)?;
        Ping::new(address2).expect_all(&c1)?;
        Ping::new(address1).expect_all(&c2)
    });
}
