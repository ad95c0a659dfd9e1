//! Where frames come from: the daemon's workers, and packet sockets; both follow what the daemon has now.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

use anyhow::{Context as _, bail};
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use vxdp_dataplane::worker::Way;

use super::tap::{Place, Tap};
use super::{Frame, hand_on};
use crate::api::status::{ContainerStatus, OverlayStatus, Status};
use crate::api::{Request, client};
use crate::capture::pcapng::{Interface, Record};
use crate::capture::{Direction, Wanted};
use crate::config::{Attach, Mode};
use crate::container;
use crate::engine::{DeviceReport, Kind};
use crate::netns::Netns;

/// Namespace, device, which way, what is said of its frames, and the filter: one socket for each.
type Key = (u64, String, Way, String, Option<String>);

/// All sources of one capture.
pub(super) struct Sources {
    socket: PathBuf,
    wanted: Wanted,
    frames: SyncSender<Frame>,
    taps: HashMap<Key, Tap>,
    /// Told to end. They may still wait to hand over a frame, to the thread that would wait for them.
    ending: Vec<Tap>,
    /// Reads what the workers see.
    workers: Option<JoinHandle<()>>,
    /// Devices that are captured.
    names: BTreeSet<String>,
    /// What was said already.
    told: BTreeSet<String>,
    lost: u64,
}

impl Sources {
    /// No sources yet.
    pub(super) fn new(socket: PathBuf, wanted: Wanted, frames: SyncSender<Frame>) -> Self {
        let (taps, ending, names, told) = Default::default();
        Self { socket, wanted, frames, taps, ending, workers: None, names, told, lost: 0 }
    }

    /// The devices that are captured.
    pub(super) fn names(&self) -> Vec<String> {
        self.names.iter().cloned().collect()
    }

    /// Opens what is missing and closes what is there no more.
    ///
    /// # Errors
    /// When the daemon does not answer, or has none of the wanted devices.
    pub(super) fn follow(&mut self) -> anyhow::Result<()> {
        let status: Status = client::ask(&self.socket, &Request::Status)?;
        self.check(&status)?;
        // The workers first: a frame of which they show nothing may be on their path already.
        if self.workers.as_ref().is_none_or(JoinHandle::is_finished) {
            let stream = client::capture(&self.socket, self.wanted.clone())?;
            let frames = self.frames.clone();
            let body = move || drop(read(stream, &frames));
            self.workers = Some(std::thread::Builder::new().name("workers".to_owned()).spawn(body)?);
        }
        self.warn(&status);
        let places = self.places(&status)?;
        let wanted: HashSet<_> = places.iter().map(key).collect();
        let stays = |(key, tap): &(Key, Tap)| !tap.has_ended() && wanted.contains(key);
        let (stay, gone): (Vec<_>, Vec<_>) = self.taps.drain().partition(stays);
        self.taps.extend(stay);
        self.ending.extend(gone.into_iter().map(|(_, tap)| tap).inspect(Tap::end));
        let ended = self.ending.extract_if(.., |tap| tap.has_ended());
        self.lost += ended.map(Tap::close).sum::<u64>();
        for place in places {
            let key = key(&place);
            self.names.insert(place.interface.device.clone());
            if self.taps.contains_key(&key) {
                continue;
            }
            match Tap::open(place, self.wanted.snap_length, self.frames.clone()) {
                Ok(tap) => drop(self.taps.insert(key, tap)),
                Err(error) => self.tell(format!("{error:#}")),
            }
        }
        Ok(())
    }

    /// Ends all; returns how many frames packet sockets lost. Nobody may wait for frames any more: who still
    /// hands one over would be waited for.
    pub(super) fn stop(self) -> u64 {
        // The workers' connection ends with this process.
        self.lost + self.taps.into_values().chain(self.ending).map(Tap::close).sum::<u64>()
    }

    fn tell(&mut self, what: String) {
        if self.told.insert(what.clone()) {
            eprintln!("vxdp: {what}");
        }
    }

    /// Says where frames pass unseen.
    fn warn(&mut self, status: &Status) {
        let devices = status.modes.engine.iter().flat_map(|engine| &engine.devices);
        let unseen = |device: &&DeviceReport| {
            status.modes.redirects_without_sockets(device) && self.wanted.includes(&device.device, device.vni)
        };
        let unseen: Vec<_> = devices.filter(unseen).map(|device| device.device.as_str()).collect();
        if !unseen.is_empty() {
            self.tell(format!(
                "{}: at XDP the in-kernel engine redirects frames before packet sockets see them; of what it carries, \
                 only what goes to containers is captured (`hook = \"tc\"`, or another mode, shows all)",
                unseen.join(", ")
            ));
        }
    }

    fn check(&self, status: &Status) -> anyhow::Result<()> {
        let ports = status.overlays.iter().flat_map(|overlay| &overlay.containers);
        let known: Vec<_> = std::iter::once(status.underlay.device.as_str())
            .chain(ports.map(|container| container.host_interface.as_str()))
            .collect();
        if let Some(unknown) = self.wanted.devices.iter().find(|name| !known.contains(&name.as_str())) {
            bail!("no device `{unknown}` is the daemon's; there are {}", known.join(", "));
        }
        let vnis: BTreeSet<_> = status.overlays.iter().map(|overlay| overlay.vni).collect();
        if let Some(unknown) = self.wanted.vni.filter(|vni| !vnis.contains(vni)) {
            let known: Vec<_> = vnis.iter().map(u32::to_string).collect();
            bail!("no overlay of the daemon's has VNI {unknown}; there are {}", known.join(", "));
        }
        Ok(())
    }

    /// Where packet sockets are wanted.
    fn places(&mut self, status: &Status) -> anyhow::Result<Vec<Place>> {
        let mut places = Vec::new();
        let by_programs = |overlay: &OverlayStatus| {
            let is_it = |mode: &&crate::engine::pilot::OverlayMode| {
                (mode.vni, mode.port, mode.mode, mode.engine)
                    == (overlay.vni, overlay.port, Mode::Xdp, Kind::InKernel)
            };
            status.modes.overlays.iter().find(is_it).is_some()
        };
        let underlay = &status.underlay.device;
        if self.wanted.includes(underlay, None) {
            let ports: Vec<u16> = status.overlays.iter().map(|overlay| overlay.port).collect();
            let base = Place {
                netns: Netns::current().context("while opening the host's network namespace")?,
                device: underlay.clone(),
                direction: pcap::Direction::In,
                way: Way::Enters,
                interface: Interface { device: underlay.clone(), description: "underlay".to_owned() },
                comment: path(status.overlays.iter().any(by_programs)).to_owned(),
                filter: self.wanted.among_all_at_underlay(&ports),
            };
            places.extend(self.both_ways(base));
        }
        for overlay in &status.overlays {
            for container in overlay.containers.iter().filter(|container| container.attached) {
                if self.wanted.includes(&container.host_interface, Some(overlay.vni)) {
                    places.extend(self.at_port(overlay, container, by_programs(overlay)));
                }
            }
        }
        Ok(places)
    }

    fn at_port(
        &mut self,
        overlay: &OverlayStatus,
        container: &ContainerStatus,
        by_programs: bool,
    ) -> Vec<Place> {
        let Ok(netns) = Netns::named(&overlay.netns) else { return Vec::new() };
        let device = container.host_interface.clone();
        let description = format!("port in overlay {}", overlay.vni);
        let base = Place {
            netns,
            device: device.clone(),
            direction: pcap::Direction::In,
            way: Way::Enters,
            interface: Interface { device, description },
            comment: path(by_programs).to_owned(),
            filter: self.wanted.at_ports(),
        };
        let mut places = self.both_ways(base);
        if !by_programs {
            return places;
        }
        // What the programs send to a container passes no packet socket but its own; what the kernel sends is
        // there as well.
        let far = match container_end(&container.attach) {
            Ok(netns) => netns,
            Err(error) => {
                self.tell(format!("cannot see what {} gets: {error:#}", container.attach));
                return places;
            }
        };
        for place in places.iter_mut().filter(|place| place.way == Way::Leaves) {
            place.netns = far.clone();
            place.device.clone_from(&container.interface);
            place.direction = pcap::Direction::In;
            place.comment = format!("{} (seen at the container's {})", path(true), container.interface);
        }
        places
    }

    fn both_ways(&self, enters: Place) -> Vec<Place> {
        let (direction, way) = (pcap::Direction::Out, Way::Leaves);
        let leaves = Place { direction, way, ..enters.clone() };
        match self.wanted.direction {
            Direction::Both => vec![enters, leaves],
            Direction::Enters => vec![enters],
            Direction::Leaves => vec![leaves],
        }
    }
}

/// Another filter, and other words after a switch of engines, make another socket.
fn key(place: &Place) -> Key {
    let Place { netns, device, way, comment, filter, .. } = place;
    (netns.inode(), device.clone(), *way, comment.clone(), filter.clone())
}

/// Packet sockets cannot tell what the programs of the in-kernel engine carried.
fn path(by_programs: bool) -> &'static str {
    if by_programs { "path kernel or in-kernel engine" } else { "path kernel" }
}

/// The namespace of a container, from the words that `status` has for it.
fn container_end(attach: &str) -> anyhow::Result<Netns> {
    match attach.split_once(' ') {
        Some(("netns", name)) => Ok(Netns::named(name)?),
        Some(("pid", pid)) => Ok(Netns::of_pid(pid.parse()?)?),
        Some(("docker", name)) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(container::resolve(&Attach::Docker(name.to_owned())))?.netns)
        }
        _ => bail!("the daemon calls it `{attach}`; is it of another version than this program?"),
    }
}

/// Reads what the daemon writes until either side has enough.
fn read(stream: impl Read, frames: &SyncSender<Frame>) -> anyhow::Result<()> {
    let mut reader = PcapNgReader::new(stream)?;
    let mut interfaces = Vec::new();
    while let Some(block) = reader.next_block() {
        match block? {
            Block::InterfaceDescription(block) => {
                let mut interface = Interface { device: String::new(), description: String::new() };
                for option in block.options {
                    match option {
                        InterfaceDescriptionOption::IfName(name) => interface.device = name.into_owned(),
                        InterfaceDescriptionOption::IfDescription(text) => {
                            interface.description = text.into_owned();
                        }
                        _ => {}
                    }
                }
                interfaces.push(interface);
            }
            Block::EnhancedPacket(packet) => {
                let interface = interfaces.get(packet.interface_id as usize);
                let frame = Record::of_block(packet.into_owned());
                let (Some(interface), Some(frame)) = (interface, frame) else { continue };
                if !hand_on(frames, interface, frame) {
                    break;
                }
            }
            _ => {}
        }
    }
    Ok(())
}
