//! Several workers: a queue of every device each, and every frame accounted for.

use std::collections::{BTreeMap, HashMap};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use etherparse::PacketBuilder;
use serde_json::Value;
use vxdp_lab::{
    Family, Host, Injector, Lab, LabBuilder, Mode, Ping, Place, Segment, deploy, tcp_transfer, wait_until,
};

const XDP: [Mode; 2] = [Mode::Xdp; 2];

/// Flows, each from a UDP port of its own.
const FLOWS: u16 = 64;
/// Datagrams of each flow.
const EACH: u32 = 400;
/// Datagrams on their way at a time: a moderate rate whatever the machine is capable of.
const OUTSTANDING: u32 = 256;

/// Frames of the flood.
const FLOOD: u32 = 1_000_000;

fn two_workers(name: &str) -> LabBuilder {
    Lab::builder(name).queues(2).dataplane("workers = 2")
}

/// The scenario in xdp mode, where every MAC is known on both sides.
fn with_known_macs(lab: &Lab, steps: impl FnOnce(&Place, &Place) -> Result<()>) -> Result<()> {
    let segment = Segment::scenario();
    let _daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &XDP)?;
    let ((c1, address1), (c2, address2)) = (segment.place(lab, 0)?, segment.place(lab, 1)?);
    lab.hosts().iter().try_for_each(Host::wait_for_fast_path)?;
    Ping::new(address2).count(1).expect_all(&c1)?;
    Ping::new(address1).count(1).expect_all(&c2)?;
    for host in lab.hosts() {
        wait_until("the container's MAC is known", Duration::from_secs(5), || {
            Ok(engine(host)?["locals"].as_u64() > Some(0))
        })?;
    }
    steps(&c1, &c2)
}

fn engine(host: &Host) -> Result<Value> {
    Ok(host.status()?["modes"]["engine"].take())
}

/// What each worker carried in this direction.
fn by_worker(host: &Host, direction: &str) -> Result<Vec<u64>> {
    let queues = engine(host)?["queues"].take();
    let queues = queues.as_array().context("no queues")?;
    queues.iter().map(|queue| queue[direction]["frames"].as_u64().context("no frames")).collect()
}

/// Sends numbered datagrams of all flows, never more than [`OUTSTANDING`] ahead of the receiver.
fn send_flows(from: &Place, to: std::net::SocketAddr, received: &AtomicU32) -> Result<()> {
    from.enter(|| {
        let open = |_| -> Result<UdpSocket> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to)?;
            Ok(socket)
        };
        let flows = (0..FLOWS).map(open).collect::<Result<Vec<_>>>()?;
        let mut sent = 0;
        for number in 0..EACH {
            for flow in &flows {
                wait_until("the receiver keeps up", Duration::from_secs(10), || {
                    Ok(sent - received.load(Ordering::Relaxed) < OUTSTANDING)
                })?;
                flow.send(&number.to_be_bytes())?;
                sent += 1;
            }
        }
        Ok(())
    })
}

/// Receives all datagrams of all flows and wants each flow's in order, none missing, none twice.
fn receive_flows(socket: &UdpSocket, received: &AtomicU32) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut next = HashMap::new();
    let mut number = [0; 4];
    for count in 1..=u32::from(FLOWS) * EACH {
        let (_, flow) = socket.recv_from(&mut number).with_context(|| format!("datagram {count}"))?;
        let (number, next) = (u32::from_be_bytes(number), next.entry(flow).or_insert(0));
        ensure!(number == *next, "{flow}: datagram {number} came where {next} was due");
        *next += 1;
        received.store(count, Ordering::Relaxed);
    }
    ensure!(next.len() == usize::from(FLOWS), "{} flows came", next.len());
    Ok(())
}

fn flows_cross(from: &Place, to: &Place, address: &str) -> Result<()> {
    let socket = to.enter(|| Ok(UdpSocket::bind((address, 0))?))?;
    let (target, received) = (socket.local_addr()?, AtomicU32::new(0));
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive_flows(&socket, &received));
        let sent = send_flows(from, target, &received);
        let came = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        came.and(sent)
    })
}

#[test]
#[ignore = "needs root"]
fn sixty_four_flows_spread_over_two_workers_and_each_arrives_in_order() {
    two_workers("flows").run(|lab| {
        with_known_macs(lab, |c1, c2| {
            flows_cross(c1, c2, "10.0.0.3")?;
            flows_cross(c2, c1, "10.0.0.2")?;
            for (host, direction) in lab.hosts().iter().zip([["encap", "decap"], ["decap", "encap"]]) {
                for direction in direction {
                    let carried = by_worker(host, direction)?;
                    eprintln!("{} {direction}: {carried:?}", host.name());
                    // A fair coin that falls 64 times falls on each side at least 8 times.
                    let least = u64::from(EACH) * 8;
                    ensure!(
                        carried.len() == 2 && carried.iter().all(|frames| *frames >= least),
                        "{carried:?}"
                    );
                }
            }
            tcp_transfer(c1, c2, [10, 0, 0, 3], 4 << 20)?;
            tcp_transfer(c2, c1, [10, 0, 0, 2], 4 << 20)
        })
    });
}

#[test]
#[ignore = "needs root"]
fn a_worker_runs_on_the_processor_that_the_configuration_names() {
    Lab::builder("cpus").dataplane("cpus = [0]").run(|lab| {
        with_known_macs(lab, |_, _| {
            let pid = lab.h1().status()?["pid"].as_u64().context("no pid")?;
            let allowed = lab.h1().script(&format!(
                "grep -l '^vxdp-0$' /proc/{pid}/task/*/comm | xargs dirname | xargs -I@ grep Cpus_allowed_list @/status"
            ))?;
            ensure!(allowed.trim() == "Cpus_allowed_list:\t0", "{allowed}");
            ensure!(engine(lab.h1())?["queues"][0]["cpu"] == 0, "status does not tell");
            Ok(())
        })
    });
}

#[test]
#[ignore = "needs root"]
fn more_workers_than_the_underlay_has_queues_are_refused_with_the_reason() {
    Lab::builder("few").dataplane("workers = 2").run(|lab| {
        lab.h1().container("c1")?;
        let config = vxdp_lab::config_of(lab, Family::V4, &[Segment::scenario()], 1);
        let config = lab.h1().write_config(&config)?;
        let Err(refused) = lab.h1().start_vxdp(&config, Mode::Xdp) else { bail!("it started") };
        let refused = format!("{refused:#}");
        ensure!(refused.contains("queue 1 of eth0") && refused.contains("fewer `workers`"), "{refused}");
        Ok(())
    });
}

/// A frame between the containers, of one of some hundred flows.
fn flood_frame(number: u32) -> Vec<u8> {
    let port = 10_000 + (number % 256) as u16;
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([0x02, 0x42, 0x0a, 0, 0, 2], [0x02, 0x42, 0x0a, 0, 0, 3])
        .ipv4([10, 0, 0, 2], [10, 0, 0, 3], 64)
        .udp(port, 9);
    builder.write(&mut frame, &number.to_be_bytes()).expect("a vector takes everything");
    frame
}

/// Everything that counts frames between the containers, under names such as `h1 veth2 redirected`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts(BTreeMap<String, u64>);

impl Counts {
    fn take(lab: &Lab, containers: [&Place; 2]) -> Result<Self> {
        let mut counts = Self::default();
        for host in lab.hosts() {
            counts.take_host(host)?;
        }
        let [c1, c2] = containers;
        let links = c1.json(["ip", "-json", "-statistics", "link", "show", "eth1"])?;
        counts.note(["c1", "sent"], &links[0]["stats64"]["tx"]["packets"]);
        // Not its device's frames: the kernel's own housekeeping is among those.
        counts.note(["c2", "received"], &datagrams_received(c2)?.into());
        Ok(counts)
    }

    fn take_host(&mut self, host: &Host) -> Result<()> {
        let (name, engine, kernel) = (host.name(), engine(host)?, host.frames()?.kernel);
        for device in engine["devices"].as_array().context("no devices")? {
            for (list, key) in [("verdicts", "verdict"), ("lost", "loss")] {
                for count in device[list].as_array().context("no list")? {
                    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    self.note([name, &word(&device["device"]), &word(&count[key])], &count["frames"]);
                }
            }
        }
        for drop in engine["drops"].as_array().context("no drops")? {
            self.note([name, "drop", drop["reason"].as_str().context("no reason")?], &drop["frames"]);
        }
        for direction in ["encap", "decap"] {
            self.note([name, direction], &engine[direction]["frames"]);
        }
        self.note([name, "kernel", "encap"], &kernel.encap.into());
        self.note([name, "kernel", "decap"], &kernel.decap.into());
        Ok(())
    }

    /// The same frames, counted by overlay, VTEP, port and worker: each sum, and the total that it must equal.
    fn sums(host: &Host) -> Result<Vec<(String, u64, u64)>> {
        let status = host.status()?;
        let engine = &status["modes"]["engine"];
        let mut sums = Vec::new();
        for (list, way) in ["overlays", "peers", "devices", "queues"]
            .into_iter()
            .flat_map(|list| [(list, "encap"), (list, "decap")])
        {
            for unit in ["frames", "bytes"] {
                let of =
                    |value: &Value| value[way][unit].as_u64().with_context(|| format!("no {way} {unit}"));
                let rows = engine[list].as_array().with_context(|| format!("no {list}"))?;
                let sum = rows.iter().map(of).sum::<Result<u64>>()?;
                let worker_less = list == "queues" && rows.is_empty();
                if !worker_less {
                    sums.push((format!("{} {way} {unit} by {list}", host.name()), sum, of(engine)?));
                }
            }
        }
        Ok(sums)
    }

    fn note<const N: usize>(&mut self, name: [&str; N], count: &Value) {
        self.0.insert(name.join(" "), count.as_u64().unwrap_or_default());
    }

    /// What was added since.
    fn since(mut self, before: &Self) -> Self {
        self.0.iter_mut().for_each(|(name, count)| *count -= before.count(name));
        self
    }

    fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// The sum of all whose names begin so.
    fn sum(&self, prefix: &str) -> u64 {
        self.0.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum()
    }

    /// Frames that the program of this device saw: each has one verdict.
    fn seen(&self, device: &str) -> u64 {
        self.sum(&format!("{device} ")) - self.lost_receiving(device) - self.lost_sending(device)
    }

    fn lost_receiving(&self, device: &str) -> u64 {
        self.count(&format!("{device} rx_ring_full")) + self.count(&format!("{device} rx_no_frame"))
    }

    fn lost_sending(&self, device: &str) -> u64 {
        self.count(&format!("{device} tx_refused")) + self.count(&format!("{device} tx_invalid"))
    }

    /// Frames that were counted as carried and found no way out.
    fn stranded(&self, host: &str) -> u64 {
        self.count(&format!("{host} drop FULL_RING")) + self.count(&format!("{host} drop DEV_READY"))
    }

    /// Adds up what became of the frames from c1 to c2, hop by hop: each hop and its two sides, which must be
    /// equal.
    fn hops(&self) -> Vec<(&'static str, u64, u64)> {
        let on_the_wire = self.count("h1 encap") - self.stranded("h1") - self.lost_sending("h1 eth0")
            + self.count("h1 kernel encap");
        let for_tunnels = self.seen("h2 eth0") - self.count("h2 eth0 not_ours");
        let carried = |host: &str, way: &str| {
            self.count(&format!("{host} {way}")) + self.sum(&format!("{host} drop ")) - self.stranded(host)
        };
        let redirected = |device: &str| self.count(&format!("{device} redirected"));
        vec![
            ("c1 to h1's program", self.count("c1 sent"), self.seen("h1 veth2")),
            (
                "h1's program to h1's workers",
                redirected("h1 veth2") - self.lost_receiving("h1 veth2"),
                carried("h1", "encap"),
            ),
            ("h1 to h2's program", on_the_wire, for_tunnels),
            (
                "h2's program to h2's workers",
                redirected("h2 eth0") - self.lost_receiving("h2 eth0"),
                carried("h2", "decap"),
            ),
            (
                "h2's program to h2's kernel",
                for_tunnels - redirected("h2 eth0"),
                self.count("h2 kernel decap"),
            ),
            (
                "h2 to c2",
                self.count("h2 decap") - self.stranded("h2") - self.lost_sending("h2 veth2")
                    + self.count("h2 kernel decap"),
                self.count("c2 received"),
            ),
        ]
    }
}

/// Datagrams that a place has received for ports where nobody listens: the flood's, and nothing else's.
fn datagrams_received(place: &Place) -> Result<u64> {
    let text = place.exec(["cat", "/proc/net/snmp"])?;
    let mut rows = text.lines().filter(|line| line.starts_with("Udp: ")).map(|line| line.split(' '));
    let (names, values) = (rows.next().context("no names")?, rows.next().context("no values")?);
    let (_, value) = names.zip(values).find(|(name, _)| *name == "NoPorts").context("no NoPorts")?;
    Ok(value.parse()?)
}

#[test]
#[ignore = "needs root"]
fn every_frame_of_a_flood_through_two_workers_is_in_exactly_one_counter() {
    two_workers("account").run(|lab| {
        with_known_macs(lab, |c1, c2| {
            // A frame that the kernel sends by itself between two of the counters would be in one of them only.
            let mut before = Counts::take(lab, [c1, c2])?;
            wait_until("nothing moves", Duration::from_secs(10), || {
                let last = std::mem::replace(&mut before, Counts::take(lab, [c1, c2])?);
                Ok(last == before)
            })?;
            std::thread::scope(|scope| {
                let halves = [0, 1].map(|half| {
                    scope.spawn(move || {
                        let injector = Injector::open(c1, "eth1")?;
                        (0..FLOOD / 2).try_for_each(|number| injector.send(&flood_frame(2 * number + half)))
                    })
                });
                halves.into_iter().try_for_each(|half| half.join().expect("no panic"))
            })?;
            let mut counts = Counts::default();
            // The kernel's counters of the sockets are read once a second.
            let settled = wait_until("the counters add up", Duration::from_secs(10), || {
                counts = Counts::take(lab, [c1, c2])?.since(&before);
                Ok(counts.hops().iter().all(|(_, left, right)| left == right))
            });
            eprintln!("{:?}", counts.0);
            settled.with_context(|| format!("{:#?}", counts.hops()))?;
            let sent = counts.count("c1 sent");
            ensure!(sent >= u64::from(FLOOD), "only {sent} frames were sent");
            for host in lab.hosts() {
                let sums = Counts::sums(host)?;
                ensure!(sums.iter().all(|(_, sum, total)| sum == total), "{sums:#?}");
            }
            for (host, way) in lab.hosts().iter().zip(["encap", "decap"]) {
                let carried = by_worker(host, way)?;
                ensure!(carried.iter().all(|frames| *frames > 0), "{}: {carried:?}", host.name());
            }
            Ok(())
        })
    });
}
