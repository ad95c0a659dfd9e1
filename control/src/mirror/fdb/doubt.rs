//! What a reading of the kernel's tables did not find: gone, or passed over.

use super::{Fdb, Tunnel};

impl Fdb {
    /// Keeps in a table that was read what `used`, in whose place it comes, has beyond it, unless that was in doubt
    /// already; whether some of it was not.
    ///
    /// The kernel goes on with a dump by counting rows (`rtnl_fdb_dump`, net/core/rtnetlink.c): when one goes that
    /// was read already, another one is passed over. So a row goes on the word of two readings.
    pub fn keep_doubtful(&mut self, used: &Self) -> bool {
        let mut new = false;
        for (mac, kept) in used.entries.iter().filter(|(_, kept)| !kept.in_doubt) {
            let found = self.entries.get(mac).copied().unwrap_or_default();
            let bridge = kept.bridge.filter(|_| found.bridge.is_none());
            let tunnel = kept.tunnel != Tunnel::None && found.tunnel == Tunnel::None;
            if bridge.is_none() && !tunnel {
                continue;
            }
            new = true;
            self.update(*mac, |entry| {
                entry.bridge = entry.bridge.or(bridge);
                if tunnel {
                    (entry.tunnel, entry.tunnel_life) = (kept.tunnel, kept.tunnel_life);
                }
                entry.in_doubt = true;
            });
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::*;
    use crate::mirror::message::{BridgeRow, Life, Row, TunnelRow};
    use vxdp_dataplane::wire::{MacAddr, Vni};

    const VXLAN: u32 = 5;

    fn mac(last: u8) -> MacAddr {
        MacAddr::new([2, 0x42, 10, 0, 0, last])
    }

    fn bridge(last: u8, port: u32) -> Row {
        Row::Bridge(BridgeRow { bridge: 4, port, mac: mac(last), vlan: None, life: Life::Dynamic })
    }

    fn tunnel(last: u8) -> Row {
        let vtep = Some([192, 168, 10, 22].into());
        let (vni, port, via, life) = (None, None, None, Life::Permanent);
        Row::Tunnel(TunnelRow { device: VXLAN, mac: mac(last), vtep, vni, port, via, life })
    }

    /// A table with these MACs behind container ports.
    fn table(macs: &[u8]) -> Fdb {
        let mut fdb = Fdb::new(Vni::from_wire([0, 0, 42]), 4789, VXLAN);
        for last in macs {
            fdb.row(&bridge(*last, 6), true);
        }
        fdb
    }

    /// What is left of `used` after a reading that found `found`, and whether there are new doubts.
    fn read(used: &mut Fdb, found: &[u8]) -> (Vec<u8>, bool) {
        let mut fresh = table(found);
        let doubts = fresh.keep_doubtful(used);
        *used = fresh;
        assert_eq!(used.learned(), used.len());
        ((1..=3).filter(|last| used.knows(mac(*last))).collect(), doubts)
    }

    #[test]
    fn a_row_goes_when_two_readings_in_turn_have_not_found_it() {
        let mut used = table(&[1, 2, 3]);
        assert_eq!(read(&mut used, &[1, 2]), (vec![1, 2, 3], true));
        assert_eq!(read(&mut used, &[1, 2]), (vec![1, 2], false));
    }

    #[test]
    fn a_row_that_one_reading_passes_over_stays() {
        let mut used = table(&[1, 2, 3]);
        assert_eq!(read(&mut used, &[1, 2]), (vec![1, 2, 3], true));
        assert_eq!(read(&mut used, &[1, 3]), (vec![1, 2, 3], true));
        assert_eq!(read(&mut used, &[1, 2, 3]), (vec![1, 2, 3], false));
        assert_eq!(read(&mut used, &[2, 3]), (vec![1, 2, 3], true));
    }

    #[test]
    fn a_row_that_was_told_of_between_two_readings_is_in_doubt_anew() {
        let mut used = table(&[1, 2, 3]);
        read(&mut used, &[1, 2]);
        used.row(&bridge(3, 6), true);
        assert_eq!(read(&mut used, &[1, 2]), (vec![1, 2, 3], true));
    }

    #[test]
    fn of_a_mac_whose_one_row_is_missing_the_other_one_is_as_it_was_read() {
        let mut used = table(&[]);
        used.row(&bridge(3, VXLAN), true);
        used.row(&tunnel(3), true);
        let mut fresh = table(&[3]);
        assert!(fresh.keep_doubtful(&used));
        // It moved to a container port, and whether its VTEP's row is there yet does not matter for that.
        assert_eq!(fresh.target(mac(3)), Some(crate::mirror::fdb::Target::Port(6)));
        assert!(fresh.has_room_for(&tunnel(3), Limits { macs: 0, learned: 0 }));
    }
}
