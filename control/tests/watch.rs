//! Notifications of a real kernel, more of them than a watch has room for.

mod namespace;

use std::fmt::Write;
use std::time::Duration;

use namespace::Host;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::neighbour::NeighbourAttribute;
use rtnetlink::MulticastGroup;
use tokio::time::timeout;
use vxdp_control::watch::{Notice, Watch};

/// Twice as many as fill the receive buffer.
const FLOOD: u32 = 40_000;
/// Longest wait for a notice; it takes microseconds, but a loaded machine must not fail the test.
const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
#[ignore = "needs root"]
async fn what_changes_after_an_overflow_was_reported_is_told() {
    let host = Host::new("flood");
    host.ip("link add vxlan1 type vxlan id 42 dstport 4789");
    let mut watch = Watch::open(&host.netns(), &[MulticastGroup::Neigh]).unwrap();
    let mut rows = String::new();
    for number in 0..FLOOD {
        let [_, a, b, c] = number.to_be_bytes();
        writeln!(rows, "fdb add 02:43:00:{a:02x}:{b:02x}:{c:02x} dev vxlan1 self dst 192.168.10.22").unwrap();
    }
    host.bridge_batch(&rows);
    let first = timeout(LIMIT, watch.next()).await.expect("a notice").unwrap();
    assert!(matches!(first, Notice::Overflow), "the flood went into the buffer: {first:?}");
    // Whoever was told dumps everything now, which takes a while, and rows go on changing.
    host.bridge("fdb add 02:44:00:00:00:01 dev vxlan1 self dst 192.168.10.22");
    let told = timeout(LIMIT, async {
        loop {
            match watch.next().await.unwrap() {
                Notice::Messages(messages) if messages.iter().any(is_the_last) => return,
                Notice::Messages(_) | Notice::Unread => {}
                Notice::Overflow => panic!("nothing was lost after the first word of it"),
            }
        }
    });
    told.await.expect("the row is told");
}

fn is_the_last(message: &Message) -> bool {
    let Message::NewNeighbour(row) = message else { return false };
    row.attributes.contains(&NeighbourAttribute::LinkLayerAddress(vec![2, 0x44, 0, 0, 0, 1]))
}
