//! Both programs against every packet of `packets/`, run by the kernel (`BPF_PROG_TEST_RUN`).
#![expect(unsafe_code, reason = "an AF_XDP socket and a clock by system call")]

mod world;

use vxdp_ebpf::Verdict;
use world::{World, packets};

const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

/// What is wrong with how the program treats the packets of one directory.
fn wrong(directory: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for packet in packets(directory) {
        let world = World::new(directory, &packet.state);
        let (action, frame, _) = world.run(&packet.frame, 1);
        let counted = world.counted();
        if counted != [(packet.verdict.name(), 1)].into() {
            wrong.push(format!("{}: counted {counted:?}, expected {}", packet.name, packet.verdict.name()));
        }
        let redirected = packet.verdict == Verdict::Redirected;
        let expected = if redirected { XDP_REDIRECT } else { XDP_PASS };
        if action != expected {
            wrong.push(format!("{}: action {action}, expected {expected}", packet.name));
        }
        let room = if redirected && directory == "port" { world.room } else { 0 };
        if frame.len() != room + packet.frame.len() || frame[room..] != packet.frame {
            wrong.push(format!("{}: the frame was changed", packet.name));
        }
    }
    wrong
}

#[test]
#[ignore = "needs root"]
fn the_underlay_program_gives_every_packet_its_verdict_and_leaves_it_untouched() {
    assert_eq!(wrong("underlay"), [""; 0]);
}

#[test]
#[ignore = "needs root"]
fn the_port_program_gives_every_packet_its_verdict_and_makes_room_in_redirected_ones_only() {
    assert_eq!(wrong("port"), [""; 0]);
}

#[test]
fn every_verdict_has_a_packet() {
    let packets: Vec<_> = ["underlay", "port"].into_iter().flat_map(packets).collect();
    for verdict in Verdict::ALL {
        assert!(packets.iter().any(|packet| packet.verdict == *verdict), "{}", verdict.name());
    }
}

#[test]
fn a_packet_is_named_after_its_verdict() {
    for packet in ["underlay", "port"].into_iter().flat_map(packets) {
        let name = packet.name.split_once('/').unwrap().1;
        assert!(name.starts_with(packet.verdict.name()), "{} expects {}", packet.name, packet.verdict.name());
    }
}
