//! Standard output as the place of a capture: what reads it may stall, and must not keep the capture from ending.

use std::io::{self, Stdout};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;

use super::Ending;

/// Bytes written at a time. A pipe that `poll` calls writable takes a page without blocking (`PIPE_BUF`); more might
/// block.
const PIECE: usize = 4096;

/// How long a full pipe is waited for, in milliseconds, before it is asked again whether the capture shall end.
/// More would make Ctrl-C slow.
const TICK_MS: u16 = 100;

/// How long a reader that is only slow may take over the rest once the capture shall end.
const GRACE: Duration = Duration::from_secs(1);

/// Standard output.
pub(super) struct Pipe {
    stdout: Stdout,
    ending: Ending,
}

impl Pipe {
    /// Standard output of a capture that ends as `ending` says.
    pub(super) fn new(ending: Ending) -> Self {
        Self { stdout: io::stdout(), ending }
    }

    /// Writes `bytes`, and gives how many were taken: all, or fewer when the capture shall end and the reader does
    /// not take them soon.
    ///
    /// # Errors
    /// When the reader has gone, or the system refuses.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let (mut taken, mut ending) = (0, None);
        while taken < bytes.len() {
            let mut wanted = [PollFd::new(self.stdout.as_fd(), PollFlags::POLLOUT)];
            let room = poll(&mut wanted, PollTimeout::from(TICK_MS));
            let over = self.ending.is_there();
            if over && ending.get_or_insert_with(Instant::now).elapsed() > GRACE {
                break;
            }
            match room {
                Ok(0) if over => break,
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            let piece = &bytes[taken..bytes.len().min(taken + PIECE)];
            match write(self.stdout.as_fd(), piece) {
                Ok(count) => taken += count,
                // Whoever gave us the pipe may have made it non-blocking, and another may have filled it.
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(taken)
    }
}
