//! The capabilities that the daemon keeps; it gives up all others before it does anything.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

/// What the daemon needs, and for what.
///
/// CAP_BPF and CAP_PERFMON are not among them: CAP_SYS_ADMIN, which entering a namespace takes, stands in for
/// both (`capabilities(7)`).
pub const KEPT: [(Capability, &str); 6] = [
    (Capability::CAP_NET_ADMIN, "devices, addresses, rows, XDP programs"),
    (Capability::CAP_SYS_ADMIN, "entering and mounting namespaces, loading programs"),
    (Capability::CAP_NET_RAW, "AF_XDP sockets"),
    (Capability::CAP_IPC_LOCK, "memory shared with the kernel, without a limit"),
    (Capability::CAP_SYS_PTRACE, "the network namespaces of containers with other privileges"),
    (Capability::CAP_DAC_OVERRIDE, "configuration and sockets in directories of other users"),
];

/// Gives up every capability that is not in [`KEPT`], for this thread and those that it will start, and for
/// whatever they execute.
///
/// To be called before other threads are started. Those of [`KEPT`] that the process has not got stay
/// missing: who needs one says so.
///
/// # Errors
/// When the kernel refuses it.
pub fn give_up_the_rest() -> Result<(), CapsError> {
    let kept: CapsHashSet = KEPT.iter().map(|(capability, _)| *capability).collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    // What is beyond the bounding set does not come back by executing a program as root. Only this takes
    // CAP_SETPCAP, so it comes first; and without it nothing is lost, for the other sets shrink all the same.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::runtime::procfs_all_supported(None)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    let permitted = caps::read(None, CapSet::Permitted)?;
    let rest: CapsHashSet = permitted.intersection(&kept).copied().collect();
    // In this order: what is effective has to be permitted.
    caps::set(None, CapSet::Effective, &rest)?;
    caps::set(None, CapSet::Permitted, &rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operations_page_and_the_unit_name_the_capabilities() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let page = std::fs::read_to_string(root.join("docs/operations.md")).expect("the page");
        let unit = std::fs::read_to_string(root.join("packaging/vxdp@.service")).expect("the unit");
        let bounding = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        let kept = KEPT.map(|(capability, _)| capability.to_string());
        assert_eq!(bounding.expect("a bounding set").split(' ').collect::<Vec<_>>(), kept);
        for (capability, why) in KEPT {
            let row = format!("| `{capability}` | {why} |");
            assert!(page.contains(&row), "docs/operations.md has no row {row}");
        }
    }

    #[test]
    fn what_is_given_up_is_gone_and_nothing_else() {
        // Capabilities belong to threads, so this one ends with a thread of its own.
        let (before, after) = std::thread::spawn(|| {
            let before = caps::read(None, CapSet::Permitted).expect("the capabilities");
            give_up_the_rest().expect("giving up is always allowed");
            (before, caps::read(None, CapSet::Permitted).expect("the capabilities"))
        })
        .join()
        .expect("no panic");
        let kept = |capability: &Capability| KEPT.iter().any(|(kept, _)| kept == capability);
        assert_eq!(after, before.iter().filter(|c| kept(c)).copied().collect::<CapsHashSet>());
    }
}
