//! Whether the processors that workers are pinned to are there and ours.

use std::io;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Why a thread of ours cannot run on processor `cpu`, if it cannot.
///
/// Tried, not looked up: a processor that is there may be off, or not in our cgroup.
pub(super) fn problem(cpu: u16) -> io::Result<Option<String>> {
    let attempt = std::thread::spawn(move || {
        let mut set = CpuSet::new();
        set.set(cpu.into())?;
        sched_setaffinity(Pid::from_raw(0), &set)
    });
    match attempt.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
        Ok(()) => Ok(None),
        Err(Errno::EINVAL) => {
            let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
            Ok(Some(format!(
                "we may not run on processor {cpu}, or it is not there; online: {}",
                online.trim()
            )))
        }
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::problem;

    #[test]
    fn a_processor_that_is_not_there_is_a_problem_and_one_that_is_ours_is_none() {
        let ours = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).expect("known");
        let here = (0..1023).find(|cpu| ours.is_set((*cpu).into()) == Ok(true)).expect("we run somewhere");
        assert_eq!(problem(here).expect("tried"), None);
        // No machine of today has them all.
        let told = problem(1023).expect("tried").expect("a problem");
        assert!(told.contains("processor 1023") && told.contains("online: 0"), "{told}");
    }
}
