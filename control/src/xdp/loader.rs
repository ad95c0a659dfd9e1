//! The library's loader of BPF objects: one for the whole process.
//!
//! Its constructor reads the kernel's type information (some 20 MB in small pieces), before we can say that we do
//! not want it: our programs touch no kernel structure. Made for each loading, it cost a switch of modes more time
//! than the programs themselves, and left up to 20 MB behind in the heap of whichever thread had made it, because
//! what such a thread allocates last keeps everything below from going back to the system.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};

use aya::{Ebpf, EbpfError, EbpfLoader};
use vxdp_ebpf::{OBJECT, map, program};

use super::tables::Capacity;

static LOADER: LazyLock<Mutex<Loader>> = LazyLock::new(|| Mutex::new(Loader::new()));

struct Loader {
    library: EbpfLoader<'static>,
    /// Every port number that was asked for: the library borrows its value for as long as it lives.
    numbers: BTreeMap<u32, &'static u32>,
}

impl Loader {
    fn new() -> Self {
        let make = || {
            let mut library = EbpfLoader::new();
            library.btf(None);
            library
        };
        // On a thread of its own the pieces lie together, and go back to the system.
        let library = std::thread::scope(|scope| scope.spawn(make).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Self { library, numbers: BTreeMap::new() }
    }
}

/// Loads the embedded object, with none of its programs in the kernel yet, for the port with this number.
///
/// Its shared maps are those that are pinned at the paths that `place` gives for their names, or are made with
/// this `capacity` and pinned there.
pub(super) fn load(
    capacity: Capacity,
    port: u32,
    place: impl Fn(&str) -> PathBuf,
) -> Result<Ebpf, EbpfError> {
    let mut loader = LOADER.lock().unwrap_or_else(PoisonError::into_inner);
    let Loader { library, numbers } = &mut *loader;
    // Everything is said at each loading: the loader forgets nothing of an earlier one.
    library
        .map_max_entries(map::FDB, capacity.rows)
        .map_max_entries(map::VTEPS, capacity.vteps)
        .map_max_entries(map::PORTS, capacity.ports)
        .map_max_entries(map::PORT_FLOWS, capacity.ports)
        .map_max_entries(map::PORT_DEVICES, capacity.ports)
        .map_max_entries(map::OVERLAYS, capacity.overlays);
    for name in map::SHARED {
        library.map_pin_path(name, place(name));
    }
    let number = *numbers.entry(port).or_insert_with(|| Box::leak(Box::new(port)));
    library.override_global(program::PORT_NUMBER, number, true).load(OBJECT)
}
