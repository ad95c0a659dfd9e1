//! A daemon that starts over more rows than are read in the time of a start.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use vxdp_lab::{Family, Mode, Ping, Segment, deploy, scenario};

/// The kernel takes twice as long to tell of them as a start waits for that.
const ROWS: u32 = 200_000;

/// What a start and an end may take on a busy machine. Reading all rows takes longer.
const SOON: Duration = Duration::from_secs(6);

#[test]
#[ignore = "needs root"]
fn a_daemon_is_ready_and_ends_while_the_first_rows_are_being_read() {
    scenario("rows", |lab| {
        let segment = Segment::scenario();
        let mut daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &[Mode::Kernel; 2])?;
        let (c1, _) = segment.place(lab, 0)?;
        let (h1, address2) = (lab.h1(), segment.place(lab, 1)?.1);
        daemons.remove(0).stop()?;
        let mut batch = String::new();
        for number in 0..ROWS {
            let [_, a, b, c] = number.to_be_bytes();
            writeln!(batch, "fdb add 02:43:00:{a:02x}:{b:02x}:{c:02x} dev vxlan1 self dst 192.168.10.22")?;
        }
        let file = lab.dir().join("rows");
        std::fs::write(&file, batch)?;
        h1.netns("overlay").exec(["bridge", "-batch", file.to_str().context("path")?])?;
        let behind = || Ok::<_, anyhow::Error>(h1.status()?["modes"]["engine"]["behind"] == 1);

        for mode in [Mode::Xdp, Mode::InKernel] {
            let begun = Instant::now();
            let daemon = h1.start_vxdp(&h1.config_path(), mode)?;
            let (ready, status) = (begun.elapsed(), h1.status()?);
            ensure!(status["modes"]["mode"] == "xdp", "{}", status["modes"]);
            ensure!(behind()?, "the rows have been read already after {ready:.1?}");
            // The kernel has them.
            Ping::new(address2).expect_all(&c1)?;
            let text = h1.vxdp(&["status"])?.success()?;
            ensure!(text.contains("are still being read"), "{text}");
            ensure!(behind()?, "the rows have been read in the meantime");
            let begun = Instant::now();
            daemon.stop()?;
            let ended = begun.elapsed();
            eprintln!("{mode:?}: ready after {ready:.1?}, ended after {ended:.1?}");
            ensure!(ready < SOON && ended < SOON, "ready after {ready:.1?}, ended after {ended:.1?}");
            Ping::new(address2).expect_all(&c1)?;
        }
        Ok(())
    });
}
