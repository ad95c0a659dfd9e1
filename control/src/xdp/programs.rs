//! Creating the shared tables and loading the programs, one instance for each device.
//!
//! All instances share their tables. The loader library shares maps between two loadings by their names in
//! a BPF file system and in no other way, so the shared maps are pinned into a scratch directory for the
//! time of a loading, and nothing stays behind.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use aya::maps::{Map, MapData, PerCpuArray, XskMap};
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfError};
use vxdp_dataplane::PortId;
use vxdp_ebpf::{Verdict, map, program};

use super::bpffs::BpfFs;
use super::classifier::Classifier;
use super::devices::Devices;
use super::flows::{FlowCounters, Usage};
use super::instance::Instance;
use super::loader;
use super::tables::{Capacity, Heartbeats, TableError, Tables};

/// The programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel refused a map or the object.
    #[error("cannot load the XDP programs (they need Linux 5.11 and CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN)")]
    Object(#[source] EbpfError),
    /// The verifier refused a program.
    #[error("the kernel refused the XDP program {program}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The answer, with the verifier's words.
        source: ProgramError,
    },
    /// A map could not be passed on to the next program.
    #[error("cannot share the XDP tables through {}", path.display())]
    Share {
        /// Where it was tried.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A map could not be opened.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// The shared tables, and the means to load programs that use them.
#[derive(Debug)]
pub struct Programs {
    bpffs: BpfFs,
    capacity: Capacity,
    shared: Vec<(&'static str, MapData)>,
}

impl Programs {
    /// Creates the tables, empty, with the switch off.
    pub fn new(bpffs: BpfFs, capacity: Capacity) -> Result<Self, LoadError> {
        let mut programs = Self { bpffs, capacity, shared: Vec::new() };
        // Loaded for its maps only: no program of it goes to the kernel.
        let mut object = programs.object(u32::MAX)?;
        programs.shared.extend(map::SHARED.map(|name| (name, data(taken(&mut object, name)))));
        Ok(programs)
    }

    /// The tables.
    pub fn tables(&self) -> Result<Tables, LoadError> {
        Ok(Tables::open(|name| self.map(name))?)
    }

    /// What the in-kernel engine's programs count.
    pub fn flows(&self) -> Result<FlowCounters, LoadError> {
        Ok(FlowCounters::open(|name| self.map(name))?)
    }

    /// What the in-kernel engine's programs note.
    pub fn usage(&self) -> Result<Usage, LoadError> {
        Ok(Usage::open(|name| self.map(name))?)
    }

    /// What the in-kernel engine's XDP programs send to.
    pub fn devices(&self) -> Result<Devices, LoadError> {
        Ok(Devices::open(|name| self.map(name))?)
    }

    /// The signs of life.
    pub fn heartbeats(&self) -> Result<Heartbeats, LoadError> {
        Ok(Heartbeats::open(self.map(map::HEARTBEATS))?)
    }

    fn map(&self, name: &'static str) -> &MapData {
        let (_, map) = self.shared.iter().find(|(other, _)| *other == name).expect("`new` took every one");
        map
    }

    /// Loads an instance for the device that carries the tunnel.
    pub fn underlay(&self) -> Result<Instance, LoadError> {
        self.instance(program::UNDERLAY, u32::MAX)
    }

    /// Loads an instance for the device on the bridge of container port `port`.
    pub fn port(&self, port: PortId) -> Result<Instance, LoadError> {
        self.instance(program::PORT, port.get().into())
    }

    /// Loads the XDP program that decapsulates by itself on the device that carries the tunnel.
    pub fn xdp_underlay(&self) -> Result<Instance, LoadError> {
        self.instance(program::XDP_UNDERLAY, u32::MAX)
    }

    /// Loads the XDP program that encapsulates by itself on the device on the bridge of container port `port`.
    pub fn xdp_port(&self, port: PortId) -> Result<Instance, LoadError> {
        self.instance(program::XDP_PORT, port.get().into())
    }

    /// Loads the tc program that decapsulates on the device that carries the tunnel.
    pub fn tc_underlay(&self) -> Result<Classifier, LoadError> {
        self.classifier(program::TC_UNDERLAY, u32::MAX)
    }

    /// Loads the tc program that encapsulates on the device on the bridge of container port `port`.
    pub fn tc_port(&self, port: PortId) -> Result<Classifier, LoadError> {
        self.classifier(program::TC_PORT, port.get().into())
    }

    /// Loads the tc program for the uplink's end in the host's namespace.
    pub fn tc_depart(&self) -> Result<Classifier, LoadError> {
        self.classifier(program::TC_DEPART, u32::MAX)
    }

    /// Loads the tc program for the uplink's end in an overlay's namespace.
    pub fn tc_arrive(&self) -> Result<Classifier, LoadError> {
        self.classifier(program::TC_ARRIVE, u32::MAX)
    }

    fn instance(&self, program: &'static str, port: u32) -> Result<Instance, LoadError> {
        let mut object = self.object(port)?;
        let refused = |source| LoadError::Program { program, source };
        xdp(&mut object, program).and_then(Xdp::load).map_err(refused)?;
        let wrong = |table| move |source| TableError::Map { table, source };
        let sockets = XskMap::try_from(taken(&mut object, map::XSKS)).map_err(wrong(map::XSKS))?;
        let counters = Arc::new(VerdictCounters::of(&mut object)?);
        Ok(Instance::new(object, program, sockets, counters))
    }

    fn classifier(&self, program: &'static str, port: u32) -> Result<Classifier, LoadError> {
        let mut object = self.object(port)?;
        let refused = |source| LoadError::Program { program, source };
        tc(&mut object, program).and_then(SchedClassifier::load).map_err(refused)?;
        let counters = Arc::new(VerdictCounters::of(&mut object)?);
        Ok(Classifier::new(object, program, counters, self.bpffs.owner()))
    }

    /// The object over the shared maps, with none of its programs in the kernel yet.
    fn object(&self, port: u32) -> Result<Ebpf, LoadError> {
        let scratch =
            self.bpffs.scratch().map_err(|source| LoadError::Share { path: self.bpffs.link(""), source })?;
        for (name, map) in &self.shared {
            let path = scratch.file(name);
            map.pin(&path)
                .map_err(|error| LoadError::Share { path: path.clone(), source: io::Error::other(error) })?;
        }
        loader::load(self.capacity, port, |name| scratch.file(name)).map_err(LoadError::Object)
    }
}

/// The verdicts of one program instance: it counts, anybody reads.
pub struct VerdictCounters(PerCpuArray<MapData, u64>);

impl VerdictCounters {
    fn of(object: &mut Ebpf) -> Result<Self, TableError> {
        let wrong = |source| TableError::Map { table: map::COUNTERS, source };
        Ok(Self(PerCpuArray::try_from(taken(object, map::COUNTERS)).map_err(wrong)?))
    }

    /// How many frames had each verdict so far, in the order of [`Verdict::ALL`].
    pub fn read(&self) -> Result<Vec<(Verdict, u64)>, TableError> {
        let read = |verdict: Verdict| {
            let per_cpu = self.0.get(&(verdict as u32), 0);
            let per_cpu = per_cpu.map_err(|source| TableError::Map { table: map::COUNTERS, source })?;
            Ok((verdict, per_cpu.iter().sum()))
        };
        Verdict::ALL.iter().copied().map(read).collect()
    }
}

pub(super) fn xdp<'a>(object: &'a mut Ebpf, program: &str) -> Result<&'a mut Xdp, ProgramError> {
    object.program_mut(program).expect("the embedded object has it").try_into()
}

pub(super) fn tc<'a>(object: &'a mut Ebpf, program: &str) -> Result<&'a mut SchedClassifier, ProgramError> {
    object.program_mut(program).expect("the embedded object has it").try_into()
}

fn taken(object: &mut Ebpf, name: &str) -> Map {
    object.take_map(name).expect("the embedded object has it")
}

fn data(map: Map) -> MapData {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)
        | Map::DevMap(data) => data,
        _ => unreachable!("the embedded object shares no maps of other kinds"),
    }
}
