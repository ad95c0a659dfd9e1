//! The fuzz targets without a fuzzer: every kept input again, and random ones.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use vxdp_lab::fuzz::{TARGETS, run};

/// Where the inputs of a target are kept.
fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// Every file of a corpus goes through its target.
fn replay(target: &str) {
    let directory = corpus(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", directory.display());
    for file in &files {
        let input = fs::read(file).expect("a file");
        if let Err(panic) = std::panic::catch_unwind(|| run(target, &input)) {
            eprintln!("the input was {}", file.display());
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn the_kept_inputs_of_wire_find_nothing() {
    replay("wire");
}

#[test]
fn the_kept_inputs_of_process_find_nothing() {
    replay("process");
}

#[test]
fn the_kept_inputs_of_configuration_find_nothing() {
    replay("configuration");
}

#[test]
fn the_kept_inputs_of_mirror_find_nothing() {
    replay("mirror");
}

#[test]
fn the_kept_inputs_of_api_find_nothing() {
    replay("api");
}

#[test]
fn every_target_has_a_corpus_a_program_and_a_test() {
    let names = |directory: &str| {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(directory);
        let entries =
            fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
        let mut names: Vec<_> =
            entries.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
        names.sort();
        names
    };
    let mut targets = TARGETS.map(|(name, _)| name);
    targets.sort();
    assert_eq!(names("corpus"), targets);
    assert_eq!(names("targets"), targets);
    let tests = include_str!("fuzz.rs");
    assert!(targets.iter().all(|target| tests.contains(&format!("replay(\"{target}\")"))));
}

/// Part of a script of the `process` target: one frame as `World::frame` reads it.
fn scripted_frame() -> impl Strategy<Value = Vec<u8>> {
    let content = prop_oneof![
        2 => prop::collection::vec(any::<u8>(), 0..200),
        3 => (0usize..1400, any::<bool>(), 0u8..4).prop_map(|(length, v4, ecn)| packet(length, v4, ecn)),
    ];
    let edits = prop::collection::vec((0u16..160, any::<u8>()), 3);
    (any::<u8>(), content, edits).prop_map(|(kind, content, edits)| {
        let edits = edits.iter().take(usize::from(kind >> 6));
        let edits = edits.flat_map(|(at, byte)| [(at >> 8) as u8, *at as u8, *byte]);
        let length = (content.len() as u16).to_be_bytes();
        [kind].into_iter().chain(length).chain(content).chain(edits).collect()
    })
}

/// An IP packet with its EtherType, as it follows the addresses of an inner frame.
fn packet(length: usize, v4: bool, ecn: u8) -> Vec<u8> {
    let payload = vec![0x5a; length];
    let mut frame = Vec::new();
    let link = etherparse::PacketBuilder::ethernet2([0; 6], [0; 6]);
    if v4 {
        let built = link.ipv4([10, 0, 0, 2], [10, 0, 0, 3], 64).udp(1, 2).write(&mut frame, &payload);
        built.expect("a vector takes everything");
        // The checksum is wrong now, unless `ecn` is 0: such packets have to be carried as they are.
        frame[15] |= ecn;
    } else {
        let built = link.ipv6([1; 16], [2; 16], 64).tcp(1, 2, 3, 4).write(&mut frame, &payload);
        built.expect("a vector takes everything");
        frame[15] |= ecn << 4;
    }
    frame.split_off(12)
}

proptest! {
    // A failure prints its input, which then belongs into the corpus.
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_path_and_an_independent_judge_agree_on_random_and_mutated_frames(
        world in any::<[u8; 7]>(),
        frames in prop::collection::vec(scripted_frame(), 1..6),
    ) {
        run("process", &[&world[..], &frames.concat()].concat());
    }

    #[test]
    fn parsers_agree_on_random_and_mutated_frames(
        mut frame in (0usize..300, any::<bool>(), 0u8..4).prop_map(|(length, v4, ecn)| {
            [vec![2; 12], packet(length, v4, ecn)].concat()
        }),
        tags in prop::collection::vec(prop_oneof![Just([0x81, 0]), Just([0x88, 0xa8])], 0..8),
        edits in prop::collection::vec((12usize..90, any::<u8>()), 0..4),
        cut in 0usize..400,
    ) {
        for tag in tags {
            frame.splice(12..12, [tag[0], tag[1], 0, 7]);
        }
        for (at, byte) in edits {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.truncate(cut.max(12));
        run("wire", &frame);
    }

    #[test]
    fn random_netlink_messages_leave_tables_and_mirror_alike(
        messages in prop::collection::vec(message(), 0..20),
    ) {
        run("mirror", &messages.concat());
    }
}

/// A neighbour message whose fields and attributes are mostly of a kind that means something.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let attribute = |kind: u16, value: Vec<u8>| {
        let length = (value.len() as u16 + 4).to_ne_bytes();
        let padding = vec![0; value.len().next_multiple_of(4) - value.len()];
        [&length[..], &kind.to_ne_bytes(), &value, &padding].concat()
    };
    let mac = prop_oneof![
        6 => (0u8..12).prop_map(|last| vec![2, 0x42, 10, 0, 0, last]),
        1 => (0u8..4).prop_map(|last| vec![1, 0, 0x5e, 0, 0, last]),
        1 => prop::collection::vec(any::<u8>(), 0..9),
    ];
    let address = prop_oneof![
        6 => (20u8..25).prop_map(|last| vec![192, 168, 10, last]),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    let attributes = prop::collection::vec(
        prop_oneof![
            4 => mac.prop_map(move |mac| attribute(2, mac)),
            4 => address.prop_map(move |address| attribute(1, address)),
            3 => (0u32..4).prop_map(move |bridge| attribute(9, bridge.to_ne_bytes().to_vec())),
            1 => (1u16..16, prop::collection::vec(any::<u8>(), 0..9))
                .prop_map(move |(kind, value)| attribute(kind, value)),
        ],
        0..5,
    );
    let family = prop_oneof![4 => Just(7u8), 1 => Just(2u8), 1 => Just(10u8)];
    let state = prop_oneof![Just(0x80u16), Just(0x40), Just(2), Just(0xc0), any::<u16>()];
    let device = prop_oneof![Just(2u32), Just(5), Just(5), Just(6), 0u32..8];
    (any::<bool>(), family, device, state, attributes).prop_map(|(new, family, device, state, attributes)| {
        let mut body = vec![family, 0, 0, 0];
        body.extend(device.to_ne_bytes());
        body.extend(state.to_ne_bytes());
        body.extend([0, 0]);
        body.extend(attributes.concat());
        let kind: u16 = if new { 28 } else { 29 };
        let mut message = (body.len() as u32 + 16).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    })
}
