//! What the machine's processors did: `/proc/stat`, all of them, softirqs included.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A moment, for the busy time since then.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    at: Instant,
    idle: Duration,
    processors: u32,
}

impl Moment {
    /// Now.
    pub fn now() -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat").context("while reading /proc/stat")?;
        let (idle, processors) = parse(&text).context("/proc/stat has another form than proc(5) says")?;
        Ok(Self { at: Instant::now(), idle, processors })
    }

    /// Time that processors were busy since then, all together.
    ///
    /// Taken from the idle time, which the kernel measures; the busy times it samples at each tick, in step
    /// with whatever timers start.
    pub fn busy(&self) -> Result<Duration> {
        let now = Self::now()?;
        let wall = (now.at - self.at) * self.processors;
        Ok(wall.saturating_sub(now.idle.saturating_sub(self.idle)))
    }
}

/// Time not spent on work (idle, waiting for I/O, stolen by the hypervisor), and the number of processors.
fn parse(stat: &str) -> Option<(Duration, u32)> {
    let total = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields = total.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?;
    let processors = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    // user nice system idle iowait irq softirq steal, in hundredths of a second (USER_HZ).
    let idle = fields.get(3)? + fields.get(4)? + fields.get(7)?;
    Some((Duration::from_millis(idle * 10), processors.count().try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_what_was_neither_worked_nor_given() {
        let stat = "cpu  10 0 20 400 5 0 3 2 0 0\ncpu0 5 0 10 200 2 0 2 1 0 0\ncpu1 5 0 10 200 3 0 1 1 0 0\nintr 1\n";
        assert_eq!(parse(stat), Some((Duration::from_millis(4070), 2)));
        assert_eq!(parse("cpu  1 2\n"), None);
    }

    #[test]
    fn this_machine_has_such_a_file() {
        assert!(Moment::now().unwrap().processors > 0);
    }
}
