//! Both programs against every packet of `packets/`, run by the kernel (`BPF_PROG_TEST_RUN`).
#![expect(unsafe_code, reason = "an AF_XDP socket and a clock by system call")]

mod world;

use vxdp_ebpf::Verdict;
use world::{Packet, World, all, packets};

/// Actions for a frame that passes and for one that is redirected: of XDP (`XDP_PASS`, `XDP_REDIRECT`) and of tc
/// (`TC_ACT_UNSPEC`, `TC_ACT_REDIRECT`).
const XDP: [u32; 2] = [2, 4];
const TC: [u32; 2] = [u32::MAX, 7];

/// What is wrong with how the program treats the packets of its directory.
fn wrong(directory: &str) -> Vec<String> {
    wrong_with(directory, packets(directory))
}

/// What is wrong with how the program of `directory` treats `packets`.
fn wrong_with(directory: &str, packets: Vec<Packet>) -> Vec<String> {
    let mut wrong = Vec::new();
    for packet in packets {
        let world = World::new(directory, &packet.state);
        let (action, frame, _) = match world.run(&packet.frame, 1) {
            Ok(ran) => ran,
            Err(error) => {
                wrong.push(format!("{}: {error:?}", packet.name));
                continue;
            }
        };
        let counted = world.counted();
        if counted != [(packet.verdict.name(), 1)].into() {
            wrong.push(format!("{}: counted {counted:?}, expected {}", packet.name, packet.verdict.name()));
        }
        let actions = if directory.starts_with("tc_") { TC } else { XDP };
        let expected = actions[usize::from(packet.verdict == Verdict::Redirected)];
        if action != expected {
            wrong.push(format!("{}: action {action}, expected {expected}", packet.name));
        }
        if let Some(difference) = difference(&packet, &frame, world.room) {
            wrong.push(format!("{}: {difference}", packet.name));
        }
    }
    wrong
}

/// How the frame afterwards differs from what it should be.
fn difference(packet: &Packet, frame: &[u8], room: usize) -> Option<String> {
    if let Some(becomes) = &packet.becomes {
        return (frame != becomes).then(|| format!("became {frame:02x?}"));
    }
    let room = if packet.verdict == Verdict::Redirected { room } else { 0 };
    (frame.len() != room + packet.frame.len() || frame[room..] != packet.frame)
        .then(|| "the frame was changed".to_owned())
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
#[ignore = "needs root"]
fn the_tc_underlay_program_decapsulates_what_it_redirects_and_leaves_the_rest_untouched() {
    assert_eq!(wrong("tc_underlay"), [""; 0]);
}

#[test]
#[ignore = "needs root"]
fn the_tc_port_program_encapsulates_what_it_redirects_and_leaves_the_rest_untouched() {
    assert_eq!(wrong("tc_port"), [""; 0]);
}

/// The packets of a tc program but the bursts, of which XDP knows none.
fn without_bursts(directory: &str) -> Vec<Packet> {
    packets(directory).into_iter().filter(|packet| !packet.state.contains("burst")).collect()
}

#[test]
#[ignore = "needs root"]
fn the_xdp_programs_that_carry_frames_do_what_the_tc_programs_do() {
    assert_eq!(wrong_with("xdp_underlay", without_bursts("tc_underlay")), [""; 0]);
    assert_eq!(wrong_with("xdp_port", without_bursts("tc_port")), [""; 0]);
}

#[test]
#[ignore = "needs root"]
fn the_xdp_programs_that_carry_frames_leave_to_the_kernel_what_only_it_can_finish() {
    assert_eq!(wrong("xdp_underlay"), [""; 0]);
    assert_eq!(wrong("xdp_port"), [""; 0]);
}

#[test]
fn every_verdict_has_a_packet() {
    let packets: Vec<_> = all().collect();
    for verdict in Verdict::ALL {
        assert!(packets.iter().any(|packet| packet.verdict == *verdict), "{}", verdict.name());
    }
}

#[test]
fn a_packet_is_named_after_its_verdict() {
    for packet in all() {
        let name = packet.name.split_once('/').unwrap().1;
        assert!(name.starts_with(packet.verdict.name()), "{} expects {}", packet.name, packet.verdict.name());
    }
}

#[test]
fn what_the_tc_programs_redirect_says_what_it_becomes() {
    for packet in all().filter(|packet| packet.name.starts_with("tc_")) {
        assert_eq!(packet.becomes.is_some(), packet.verdict == Verdict::Redirected, "{}", packet.name);
    }
}
