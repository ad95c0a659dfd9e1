//! What the kernel misses is answered: quickly, from the directory, and in the middle of a storm.

mod daemon;
mod kernel_host;
mod scenario;

use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use daemon::{Daemon, REMOTE, config, has_bridge_row, has_fdb, has_neighbour, has_remote, start, start_with};
use kernel_host::{on_a_host, run};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};
use rtnetlink::MulticastGroup;
use vxdp_control::api::status::Origin;
use vxdp_control::netns::Netns;
use vxdp_control::watch::{Notice, Watch};

/// After a second a container repeats its ARP request (`retrans_time_ms`): an answer later than that would cost
/// it a round. It takes milliseconds where the machine has nothing else to do.
const QUICK: Duration = Duration::from_secs(1);

/// Addresses in the storm.
const STORM: u32 = 100_000;

/// A raw socket on the container's `eth1`, and its address.
fn raw_socket() -> io::Result<(std::os::fd::OwnedFd, LinkAddr)> {
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None)?;
    let mut addresses = getifaddrs()?.filter(|entry| entry.interface_name == "eth1");
    let address = addresses.find_map(|entry| entry.address?.as_link_addr().copied());
    Ok((fd, address.ok_or(io::ErrorKind::NotFound)?))
}

/// Sends frames from the container to these MACs.
fn send(destinations: impl Iterator<Item = [u8; 6]> + Send) {
    let container = Netns::named("c1").expect("the container");
    let sent = container.run(|| {
        let (fd, eth1) = raw_socket()?;
        let mut frame = [0; 60];
        frame[6..12].copy_from_slice(&[2, 0x42, 10, 0, 0, 2]);
        // Local experimental (IEEE 802): nobody answers it.
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        for destination in destinations {
            frame[..6].copy_from_slice(&destination);
            while let Err(error) = sendto(fd.as_raw_fd(), &frame, &eth1, MsgFlags::empty()) {
                match error {
                    Errno::ENOBUFS => {}
                    // A test deleted the device.
                    Errno::ENETDOWN | Errno::ENXIO => return Ok(()),
                    error => return Err(error.into()),
                }
            }
        }
        Ok(())
    });
    sent.expect("frames are sent");
}

fn known() -> [u8; 6] {
    [2, 0x42, 10, 0, 0, 3]
}

fn stranger(number: u32) -> [u8; 6] {
    let [a, b, c, d] = number.to_be_bytes();
    [6, 0, a, b, c, d]
}

/// Has the container ask for an address.
fn ask_for(address: &str) {
    // Nobody answers the ping itself: only the ARP request matters.
    daemon::succeeds(&format!("ip netns exec c1 ping -c 1 -W 1 {address}"));
}

fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        _ => None,
    })
}

fn mac(message: &NeighbourMessage) -> Option<Vec<u8>> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => Some(bytes.clone()),
        _ => None,
    })
}

/// Time from the first question that `is_it` recognises to the first row that it recognises.
async fn time_to_answer(watch: &mut Watch, is_it: impl Fn(&NeighbourMessage) -> bool) -> Duration {
    let mut asked = None;
    loop {
        let notice = tokio::time::timeout(daemon::PATIENCE, watch.next()).await.expect("in time");
        let Notice::Messages(messages) = notice.expect("a notice") else { continue };
        for message in messages {
            match (message, asked) {
                (RouteNetlinkMessage::GetNeighbour(row), None) if is_it(&row) => asked = Some(Instant::now()),
                (RouteNetlinkMessage::NewNeighbour(row), Some(asked)) if is_it(&row) => {
                    return asked.elapsed();
                }
                _ => {}
            }
        }
    }
}

fn watch() -> Watch {
    let overlay = Netns::named("overlay").expect("the overlay");
    Watch::open(&overlay, &[MulticastGroup::Neigh]).expect("a watch")
}

#[test]
#[ignore = "needs root"]
fn an_l3miss_is_answered_with_the_neighbour_before_the_container_asks_again() {
    on_a_host(async |host| {
        let daemon = start(&host, "on-miss");
        assert!(!has_neighbour("10.0.0.3") && !has_fdb(REMOTE));
        let mut watch = watch();
        let pinging = tokio::task::spawn_blocking(|| ask_for("10.0.0.3"));
        let took = time_to_answer(&mut watch, |row| destination(row) == "10.0.0.3".parse().ok()).await;
        assert!(took < QUICK, "{took:?}\n{}", daemon.log());
        pinging.await.expect("no panic");
        daemon.wait_until("all rows are there", has_remote);
    });
}

#[test]
#[ignore = "needs root"]
fn an_l2miss_is_answered_with_both_fdb_rows_before_a_second_has_passed() {
    on_a_host(async |host| {
        let daemon = start(&host, "on-miss");
        let mut watch = watch();
        send(std::iter::once(known()));
        let took = time_to_answer(&mut watch, |row| mac(row).is_some_and(|mac| mac == known())).await;
        assert!(took < QUICK, "{took:?}\n{}", daemon.log());
        daemon.wait_until("both rows are there", || has_fdb(REMOTE) && has_bridge_row(REMOTE));
        // Nobody asked for the address.
        assert!(!has_neighbour("10.0.0.3"));
        let of_remote = daemon.rows().into_iter().filter(|row| row.mac.as_deref() == Some(REMOTE));
        assert!(of_remote.clone().count() == 2 && of_remote.clone().all(|row| row.origin == Origin::OnMiss));
        let misses = daemon.status().misses;
        assert_eq!((misses.answered, misses.failed, misses.dropped), (1, 0, 0));
    });
}

#[test]
#[ignore = "needs root"]
fn neighbour_solicitations_are_answered_as_arp_is() {
    on_a_host(async |host| {
        run("ip netns add c1");
        let config = config(&host, "on-miss")
            .replace("\"10.0.0.2/24\"", "\"fd42::2/64\"")
            .replace("\"10.0.0.3\"", "\"fd42::3\"")
            .replace("\"10.0.0.1/24\"", "\"fd42::1/64\"");
        let daemon = start_with(&host, &config);
        let asked = || {
            daemon::succeeds("ip netns exec c1 ping -c 1 -W 1 fd42::3");
            has_neighbour("fd42::3")
        };
        // The container's address is tentative at first and asks for nobody.
        daemon.wait_until("the neighbour is there", asked);
    });
}

#[test]
#[ignore = "needs root"]
fn installed_rows_outlive_the_daemon_and_go_with_down() {
    on_a_host(async |host| {
        let mut daemon = start(&host, "on-miss");
        send(std::iter::once(known()));
        daemon.wait_until("both rows are there", || has_fdb(REMOTE) && has_bridge_row(REMOTE));
        daemon.signal(Signal::SIGKILL);
        daemon.end();
        let daemon = start_with(&host, &config(&host, "on-miss"));
        daemon.wait_settled();
        assert!(has_fdb(REMOTE) && has_bridge_row(REMOTE));
        assert!(daemon.log().contains("nothing was changed"), "{}", daemon.log());
        let of_remote = daemon.rows().into_iter().filter(|row| row.mac.as_deref() == Some(REMOTE));
        assert!(of_remote.into_iter().all(|row| row.origin == Origin::OnMiss));
    });
}

fn memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

#[test]
#[ignore = "needs root"]
fn a_storm_of_strangers_takes_no_memory_and_nobody_waits_for_it() {
    on_a_host(async |host| {
        let daemon = start(&host, "on-miss");
        let storm = std::thread::spawn(|| send((0..STORM).map(stranger)));
        daemon.wait_until("the storm has begun", || daemon.status().misses.unknown > 2000);
        let answered = daemon.wait_until("the known one is answered", || {
            send(std::iter::once(known()));
            has_fdb(REMOTE)
        });
        run("ip -n overlay link del veth2");
        let repaired = daemon.wait_until("the veth is back", || daemon::has_link("overlay", "veth2"));
        // Deleting the veth ended the container's `eth1`, and with it perhaps the storm.
        let _ = storm.join();
        assert!(
            answered < Duration::from_secs(2) && repaired < Duration::from_secs(2),
            "{answered:?} {repaired:?}"
        );

        let misses = || daemon.status().misses;
        let storm = |addresses: Range<u32>| {
            send(addresses.map(stranger));
            daemon.wait_until("all are judged or dropped", || {
                let seen = misses().asked;
                std::thread::sleep(Duration::from_millis(50));
                misses().asked == seen
            });
            memory(&daemon)
        };
        // What is bounded is full after the first of these, and stays as it is.
        let full = storm(0..STORM);
        let grown = storm(STORM..2 * STORM).saturating_sub(full);
        assert!(grown < 4096, "{grown} KiB more after {:?}", misses());
        assert!(misses().unknown > u64::from(STORM) / 4, "{:?}", misses());
        // What does the storm cost the changes? Nothing: they have a socket of their own.
        assert_eq!(daemon.status().reconcile.overflows, 0);
        assert!(daemon.log().lines().count() < 500, "{} lines", daemon.log().lines().count());
    });
}
