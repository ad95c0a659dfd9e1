//! What the daemon may do once it runs.

use anyhow::{Context, Result, ensure};
use vxdp_control::capability::KEPT;
use vxdp_lab::{Family, Mode, Ping, Segment, deploy, scenario};

/// The sets of capabilities of every thread of process `pid`, as numbers.
fn capabilities(pid: u32) -> Result<Vec<(String, u64)>> {
    let mut sets = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread that opened a socket may have ended in the meantime.
        let Ok(status) = std::fs::read_to_string(thread?.path().join("status")) else { continue };
        for line in status.lines().filter(|line| line.starts_with("Cap")) {
            let (name, mask) = line.split_once(':').context("a line without a colon")?;
            sets.push((name.to_owned(), u64::from_str_radix(mask.trim(), 16)?));
        }
    }
    Ok(sets)
}

fn keeps_only_what_it_needs(modes: [Mode; 2]) {
    scenario("caps", |lab| {
        let segment = Segment::scenario();
        let daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &modes)?;
        let kept = KEPT.iter().map(|(capability, _)| 1 << capability.index()).sum::<u64>();
        for daemon in &daemons {
            let sets = capabilities(daemon.pid())?;
            ensure!(sets.iter().any(|(name, mask)| name == "CapEff" && *mask == kept), "{sets:x?}");
            ensure!(sets.iter().all(|(_, mask)| mask & !kept == 0), "{sets:x?}");
        }
        // They are enough for everything that comes later, too.
        let (c1, _) = segment.place(lab, 0)?;
        for mode in ["xdp", "kernel", "xdp"] {
            for host in lab.hosts() {
                let config = host.config_path();
                host.vxdp(&["mode", mode, "--config", config.to_str().context("path")?])?.success()?;
            }
            Ping::new([10, 0, 0, 3]).expect_all(&c1)?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn the_daemon_keeps_only_the_capabilities_that_it_needs() {
    keeps_only_what_it_needs([Mode::Kernel; 2]);
}

#[test]
#[ignore = "needs root"]
fn the_daemon_keeps_only_the_capabilities_that_it_needs_in_xdp_mode() {
    keeps_only_what_it_needs([Mode::Xdp; 2]);
}
