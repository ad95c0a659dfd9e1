//! What a worker does to its rings, counted: one writer, any number of readers.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::port::KernelCounters;

/// A figure that only the worker writes, so that no addition needs a locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The figure.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.get().wrapping_add(count), Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Declares [`SocketLoss`] once, so that the list, the names and the descriptions cannot drift apart.
macro_rules! socket_losses {
    ($($variant:ident $name:literal $counter:ident $text:literal,)*) => {
        /// How the kernel loses a frame between an XDP program or a worker and the device: such frames never
        /// got a [`DropReason`](crate::DropReason), because no worker saw them or saw them again.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum SocketLoss {
            $(#[doc = $text] $variant,)*
        }

        impl SocketLoss {
            /// Every way, in the order of the document.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable name: in `--json` and in `docs/counters.md`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it means, in one sentence.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl SocketStats {
            /// Frames lost in this way.
            pub fn lost(&self, way: SocketLoss) -> u64 {
                match way { $(SocketLoss::$variant => self.$counter.get(),)* }
            }
        }
    };
}

socket_losses! {
    RxRingFull "rx_ring_full" kernel_rx_ring_full "The worker did not keep up: its RX ring was full.",
    RxNoFrame "rx_no_frame" kernel_rx_dropped "The fill ring was empty, or the frame did not fit a buffer.",
    TxRefused "tx_refused" tx_refused "The device dropped the frame instead of sending it.",
    TxInvalid "tx_invalid" kernel_tx_invalid_descs "The kernel found a descriptor of the TX ring invalid.",
}

/// The figures of one socket; counters since it was opened unless they are said to be levels.
#[derive(Debug, Default)]
pub struct SocketStats {
    /// Frames received.
    pub rx_frames: Counter,
    /// Bytes received; on ports this includes the encapsulation room.
    pub rx_bytes: Counter,
    /// Batches received: `rx_frames / rx_batches` is how well batching works.
    pub rx_batches: Counter,
    /// Turns in which received frames were left waiting because no TX ring had room for them.
    pub rx_held_back: Counter,
    /// Frames that the fill ring lacked because no frame of the UMEM was free.
    pub fill_starved: Counter,
    /// Level: frames lent to the kernel for reception, those that wait in the RX ring included.
    pub rx_lent: Counter,
    /// Frames put into the TX ring.
    pub tx_frames: Counter,
    /// Frames dropped because the TX ring, or the socket's share of the UMEM, had no room.
    pub tx_full: Counter,
    /// Frames that the kernel has transmitted and returned.
    pub tx_completed: Counter,
    /// Level: frames lent to the kernel for transmission.
    pub tx_lent: Counter,
    /// System calls that told the kernel to transmit.
    pub kicks: Counter,
    /// Kicks that moved nothing: send buffer exhausted, device down.
    pub kicks_in_vain: Counter,
    /// Frames that the device refused (EBUSY).
    pub tx_refused: Counter,
    /// The last errno of a kick that failed for a reason nobody foresaw.
    pub kick_errno: Counter,
    /// 1 once the device is gone and the socket is dead.
    pub gone: Counter,
    /// Frames that the kernel dropped because none was in the fill ring, or because they did not fit one. Refreshed every second.
    pub kernel_rx_dropped: Counter,
    /// Frames that the kernel dropped because the RX ring was full. Refreshed every second.
    pub kernel_rx_ring_full: Counter,
    /// Times the kernel found the fill ring empty. Refreshed every second.
    pub kernel_rx_fill_ring_empty: Counter,
    /// Descriptors that the kernel skipped as invalid. Refreshed every second.
    pub kernel_tx_invalid_descs: Counter,
}

impl SocketStats {
    pub(crate) fn set_kernel(&self, counted: KernelCounters) {
        self.kernel_rx_dropped.set(counted.rx_dropped);
        self.kernel_rx_ring_full.set(counted.rx_ring_full);
        self.kernel_rx_fill_ring_empty.set(counted.rx_fill_ring_empty);
        self.kernel_tx_invalid_descs.set(counted.tx_invalid_descs);
    }
}

/// The figures of one worker.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Times the worker looked at all of its rings.
    pub turns: Counter,
    /// Turns that received something.
    pub busy_turns: Counter,
    /// Times it went to sleep.
    pub sleeps: Counter,
    /// Times a packet or a command woke it, as opposed to the clock.
    pub wake_ups: Counter,
    /// Commands carried out.
    pub commands: Counter,
    /// Level: free frames of the UMEM.
    pub frames_free: Counter,
    /// Frames given up since the worker started.
    pub frames_written_off: Counter,
    /// Level: the moment of the last heartbeat, `CLOCK_MONOTONIC` in nanoseconds.
    pub heartbeat_ns: Counter,
}
