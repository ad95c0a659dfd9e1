//! Whether this process may change the network.

use std::io;

/// Capabilities that building an overlay needs, by their bit (`include/uapi/linux/capability.h`).
const NEEDED: [(&str, u32); 2] = [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21)];

/// Says which privileges are missing, and how to get them.
pub(super) fn missing() -> io::Result<Option<String>> {
    Ok(missing_from(&std::fs::read_to_string("/proc/thread-self/status")?))
}

fn missing_from(status: &str) -> Option<String> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    let missing = NEEDED.iter().filter(|(_, bit)| effective & (1 << bit) == 0);
    let missing: Vec<_> = missing.map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return None;
    }
    Some(format!("no privileges: {} missing; run as root, as in: sudo vxdp …", missing.join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing_from("Name:\tvxdp\nCapEff:\t000001ffffffffff\n"), None);
        let told = missing_from("CapEff:\t0000000000001000\n").expect("one is missing");
        assert!(told.contains("CAP_SYS_ADMIN") && !told.contains("CAP_NET_ADMIN"), "{told}");
        let told = missing_from("").expect("both are missing");
        assert!(told.contains("CAP_NET_ADMIN and CAP_SYS_ADMIN"), "{told}");
    }
}
