//! The measuring side: modes in turns, between a container here and one on the sink's host.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use vxdp_control::config::{Config, Container, Overlay, Remote};
use vxdp_lab::{Frames, Mode, Ping, wait_until};

use super::far::{Far, FarSink};
use super::here::{Here, ipv4, read};
use super::message::{Named, Request, Welcome};
use crate::echo;
use crate::figure::{Figure, Sample};
use crate::frame::Ends;
use crate::generator;
use crate::measure::latency::{self, Way};
use crate::measure::throughput;
use crate::measure::{Case, Measurement};
use crate::report::Machine;
use crate::report::progress::Progress;
use crate::rig::{Rig, Traffic, Trial};
use crate::session::{NoDropRates, Settings};
use crate::subject::{Kind, stray};
use crate::turns;
use crate::wire::Wire;

/// Until a mode must carry what the containers say.
const CARRIES: Duration = Duration::from_secs(20);

/// Two containers on two hosts.
#[derive(Debug)]
pub struct Pair {
    /// The sink's machine.
    pub machine: Machine,
    settings: Settings,
    subjects: Vec<turns::Named>,
    // The sink's side switches back when this one hangs up.
    far: Far,
    here: Here,
    ends: Ends,
    wire: Wire,
    no_drop: NoDropRates,
}

/// What between two hosts is measured.
const MEASUREMENTS: [Measurement; 2] = [Measurement::Throughput, Measurement::Latency];

/// Those of `wanted` that make sense between two hosts; all of these if nothing is named.
///
/// # Errors
/// When something else is wanted.
pub fn measurements(wanted: &[Measurement]) -> Result<Vec<Measurement>> {
    let other = wanted.iter().find(|measurement| !MEASUREMENTS.contains(measurement));
    if let Some(other) = other {
        let known = MEASUREMENTS.map(Measurement::as_str).join(", ");
        bail!("`{}` cannot be measured between two hosts, only {known}", other.as_str());
    }
    Ok(MEASUREMENTS.into_iter().filter(|it| wanted.is_empty() || wanted.contains(it)).collect())
}

impl Pair {
    /// Finds both ends, and sees that each of `kinds` can be had on both hosts.
    ///
    /// # Errors
    /// When a daemon, a container or the sink is not there, or a mode cannot be had; then both overlays are as they
    /// were.
    pub fn connect(file: &Path, port: u16, kinds: &[Kind], settings: Settings) -> Result<Self> {
        let config = read(file)?;
        let (overlay, container, remote, address) = ends(&config).with_context(|| {
            format!(
                "no overlay of {} has a container and a `remote` with an IPv4 address each",
                file.display()
            )
        })?;
        ensure!(
            !settings.generators.contains(&generator::Kind::Pktgen),
            "the generator `pktgen` is for the lab only: take `packet` or `live`"
        );
        let here = Here::find(&config, overlay, container)?;
        let (far, welcome): (Far, Welcome) =
            Far::connect(SocketAddr::new(remote.vtep, port), here.vni, address)?;
        ensure!(
            welcome.mac == remote.mac.octets(),
            "{address} has another MAC in the sink's file than in {}",
            file.display()
        );
        let ends =
            Ends { macs: [here.mac, welcome.mac], addresses: [here.address.octets(), address.octets()] };
        let (machine, wire) = (welcome.machine, Wire::build(settings.trial)?);
        let no_drop = NoDropRates::default();
        let mut pair = Self { machine, settings, subjects: Vec::new(), far, here, ends, wire, no_drop };
        for &kind in kinds {
            let regime = pair.look_at(kind).with_context(|| format!("mode {}", kind.as_str()))?;
            eprintln!("  {}: {regime}", kind.as_str());
            pair.subjects.push(turns::Named { kind, regime });
        }
        Ok(pair)
    }

    /// The wire on which the generator is calibrated.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Runs `measurement` in turns.
    ///
    /// # Errors
    /// When something of it cannot be measured.
    pub fn run(&mut self, measurement: Measurement, progress: &mut Progress) -> Result<Vec<Figure>> {
        let (settings, subjects) = (self.settings.clone(), self.subjects.clone());
        turns::run(measurement, &settings, &subjects, progress, |index, case| {
            let kind = subjects[index].kind;
            let mode = mode_of(kind)?;
            self.switch(mode)?;
            let before = self.here.carried()?;
            let mut samples = match case {
                Case::Traffic(traffic) => self.throughput(kind, *traffic)?,
                Case::RoundTrips(way) => self.latency(kind, *way)?,
                _ => bail!("not between two hosts"),
            };
            let stray = stray(mode, &before, &self.here.carried()?)?;
            for sample in samples.iter_mut().filter(|_| stray.is_some()) {
                sample.note = sample.note.take().or_else(|| stray.clone());
            }
            Ok(samples)
        })
    }

    fn look_at(&self, kind: Kind) -> Result<String> {
        self.switch(mode_of(kind)?)?;
        let there: String = self.far.ask(&Request::Regime(Named::of(kind)))?;
        Ok(format!("here {}; there {there}", self.here.regime(kind)?))
    }

    /// Switches both hosts, and waits until both carry what the containers say in that mode.
    fn switch(&self, mode: Mode) -> Result<()> {
        self.here.switch(mode)?;
        self.far.ask::<()>(&Request::Mode(mode))?;
        let [_, target] = self.ends.addresses;
        let ping = Ping::new(target).count(2).interval(Duration::from_millis(20));
        let encap =
            |frames: Frames| -> u64 { if mode.is_fast() { frames.xdp.encap } else { frames.kernel.encap } };
        let both = || anyhow::Ok([encap(self.here.carried()?), encap(self.far.ask(&Request::Carried)?)]);
        let what = format!("mode {} carries pings on both hosts", mode.as_str());
        wait_until(&what, CARRIES, || {
            let before = both()?;
            let answered = ping.run(&self.here.container)?.received;
            let after = both()?;
            Ok(answered == 2 && before.iter().zip(after).all(|(before, after)| after > *before))
        })
    }

    fn rig(&self, traffic: Traffic) -> Result<Rig> {
        let sink = Box::new(FarSink::open(&self.far)?);
        let from = (&self.here.container, self.here.device.as_str());
        Rig::towards(sink, from, Some(&self.here.entrance), &self.ends, traffic)
    }

    fn search(&mut self, kind: Kind, traffic: Traffic) -> Result<(f64, Trial)> {
        let (rate, overload) = self.settings.search_with(&mut self.rig(traffic)?)?;
        self.no_drop.note(kind, traffic, rate);
        Ok((rate, overload))
    }

    fn throughput(&mut self, kind: Kind, traffic: Traffic) -> Result<Vec<Sample>> {
        let (rate, overload) = self.search(kind, traffic)?;
        let bottleneck = self.wire.bottleneck(traffic, overload.received_rate())?;
        let note = bottleneck.or_else(|| throughput::remark(&overload, &self.settings));
        Ok(throughput::samples(rate, &overload, note))
    }

    fn latency(&mut self, kind: Kind, way: Way) -> Result<Vec<Sample>> {
        let traffic = latency::load(&self.settings);
        let rate = match way {
            Way::BackToBack | Way::Sparse => None,
            Way::HalfLoad => Some(self.no_drop_rate(kind, traffic)? * latency::HALF),
            Way::EqualLoad => Some(self.lowest_no_drop_rate(kind, traffic)? * latency::HALF),
        };
        let mut rig = rate.map(|_| self.rig(traffic)).transpose()?;
        let echo: SocketAddr = self.far.ask(&Request::Echo)?;
        let client = echo::client(&self.here.container, echo)?;
        let length = latency::length(&self.settings);
        let samples = latency::samples(&client, way, length, rig.as_mut().zip(rate));
        drop(rig);
        self.far.ask::<()>(&Request::Rest)?;
        samples
    }

    fn no_drop_rate(&mut self, kind: Kind, traffic: Traffic) -> Result<f64> {
        match self.no_drop.median(kind, traffic) {
            Some(rate) => Ok(rate),
            None => Ok(self.search(kind, traffic)?.0),
        }
    }

    /// Of all modes; leaves both hosts in that of `kind`.
    fn lowest_no_drop_rate(&mut self, kind: Kind, traffic: Traffic) -> Result<f64> {
        let mut lowest = f64::INFINITY;
        for other in self.subjects.iter().map(|subject| subject.kind).collect::<Vec<_>>() {
            if self.no_drop.median(other, traffic).is_none() {
                self.switch(mode_of(other)?)?;
            }
            lowest = lowest.min(self.no_drop_rate(other, traffic)?);
        }
        self.switch(mode_of(kind)?)?;
        Ok(lowest)
    }
}

/// The mode to which a running daemon can be switched.
fn mode_of(kind: Kind) -> Result<Mode> {
    ensure!(
        kind != Kind::InKernelXdp,
        "a running daemon cannot be switched to another hook: write `hook = \"xdp\"` into both files, and measure `inkernel`"
    );
    kind.mode().with_context(|| format!("`{}` is measured on the lab only", kind.as_str()))
}

/// The first overlay that has both ends, and the ends.
fn ends(config: &Config) -> Option<(&Overlay, &Container, &Remote, std::net::Ipv4Addr)> {
    config.overlays.iter().find_map(|overlay| {
        let container = overlay.containers.iter().find(|container| ipv4(container).is_some())?;
        let remotes = overlay.remotes.iter().map(|remote| (remote, remote.addresses.iter()));
        let (remote, address) = remotes.into_iter().find_map(|(remote, mut addresses)| {
            let address = addresses.find_map(|address| match address {
                std::net::IpAddr::V4(address) => Some(*address),
                std::net::IpAddr::V6(_) => None,
            })?;
            Some((remote, address))
        })?;
        Some((overlay, container, remote, address))
    })
}
