//! What a worker runs its batches through: the tables as they are now, and its own counters.

use super::process;
use crate::table::Reader;
use crate::worker::Forward;
use crate::{DropReason, Local, Nanos, Slot};

/// Encapsulation and decapsulation by the tables that control publishes.
pub struct Tunnel {
    tables: Reader,
    local: Local,
}

impl Tunnel {
    /// One worker's tunnel.
    pub fn new(tables: Reader, local: Local) -> Self {
        Self { tables, local }
    }
}

impl Forward for Tunnel {
    fn process(&mut self, now: Nanos, batch: &mut [Slot<'_>]) {
        // On loan for this batch only: a worker that sleeps must not keep old tables alive.
        process(now, batch, &self.tables.load(), &mut self.local);
    }

    fn dropped(&mut self, reason: DropReason, frames: u64) {
        self.local.count_drops(reason, frames);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::table::{Change, Port, Publisher, Underlay};
    use crate::wire::MacAddr;
    use crate::{Ingress, OverlayId, PortId, Tables};

    #[test]
    fn every_batch_uses_the_tables_published_last() {
        let ours =
            Underlay { local: IpAddr::from([192, 168, 10, 21]), mac: MacAddr::new([2, 0, 0, 0, 0, 1]) };
        let mut publisher = Publisher::new(Tables::new(ours));
        let local = Local::new(0);
        let stats = local.stats();
        let mut tunnel = Tunnel::new(publisher.reader(), local);
        let mut turn = || {
            let mut data = [0; 100];
            tunnel.process(Nanos(1), &mut [Slot::new(Ingress::Port(PortId::new(0)), &mut data)]);
        };
        turn();
        assert_eq!(stats.drops(DropReason::UnknownPort), 1);
        let port = Port { overlay: OverlayId::new(0), mtu: 1450 };
        publisher.change(&[Change::Port(PortId::new(0), Some(port))]).expect("valid");
        turn();
        assert_eq!(stats.drops(DropReason::VxlanNoRemote), 1);
        tunnel.dropped(DropReason::FullRing, 3);
        assert_eq!((stats.drops(DropReason::FullRing), stats.all_drops()), (3, 5));
    }
}
