//! How the frames of a UMEM are divided among its sockets.

use crate::BATCH;
use crate::port::frame::Lent;
use crate::port::open::RingSizes;

/// How many frames of the UMEM each socket may have lent to the kernel.
///
/// The sum of all shares and one batch is at most the size of the UMEM, so a socket whose frames do not
/// come back (a device that is down, a container that does not read) cannot starve the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// The underlay's share, for reception and for transmission each.
    pub underlay: Lent,
    /// Each port's share, for reception and for transmission each.
    pub port: Lent,
}

impl Shares {
    /// Fewest frames a port can work with: what one NAPI poll delivers without userspace in between.
    /// Less, and every burst loses frames; more, and fewer ports fit.
    pub const LEAST: usize = BATCH;

    /// Half of the frames for reception, half for transmission; of each half, half for the underlay and
    /// the rest for the ports, in equal parts. `None` when a part is less than [`Self::LEAST`].
    pub fn of(frames: usize, ports: usize, rings: &RingSizes) -> Option<Self> {
        let half = frames.checked_sub(BATCH)? / 2;
        let underlay = half / 2;
        let port = (half - underlay) / ports.max(1);
        let cut = |share: usize| Lent {
            rx: share.min(rings.fill as usize).min(rings.rx as usize),
            tx: share.min(rings.tx as usize).min(rings.completion as usize),
        };
        (underlay.min(port) >= Self::LEAST).then(|| Self { underlay: cut(underlay), port: cut(port) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::open::UmemSpec;

    #[test]
    fn the_shares_of_all_sockets_fit_the_umem() {
        for frames in [256, 320, 1000, 4096, 16384, 65536] {
            for ports in 0..200 {
                let Some(shares) = Shares::of(frames, ports, &RingSizes::DEFAULT) else { continue };
                let lent = |share: Lent| share.rx + share.tx;
                assert!(lent(shares.underlay) + ports * lent(shares.port) + BATCH <= frames);
                assert!(shares.port.rx.min(shares.port.tx) >= Shares::LEAST);
            }
        }
    }

    #[test]
    fn the_default_umem_serves_sixty_three_ports() {
        let frames = UmemSpec::DEFAULT.frames as usize;
        assert!(Shares::of(frames, 63, &RingSizes::DEFAULT).is_some());
        assert!(Shares::of(frames, 64, &RingSizes::DEFAULT).is_none());
        assert!(Shares::of(100, 1, &RingSizes::DEFAULT).is_none());
    }
}
