//! `vxdp capture`: whatever path a frame takes, it is in the file, and tshark reads it.

mod limits;
mod running;

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vxdp_lab::{Mode, Ping, vxdp_binary, wait_until};

use running::{Running, in_mode, tshark};

/// Pings while capturing, and expects every request and reply four times in all: at the port and at the
/// underlay, as it enters and as it leaves, each once.
fn sees_each_frame_enter_and_leave(mode: Mode, path: &str) {
    in_mode("capture-each", mode, |hosts| {
        let [(c1, _), (_, address2)] = hosts.containers()?;
        let host = hosts.lab().h1();
        // What the first frames teach is learned.
        Ping::new(address2).count(3).expect_all(&c1)?;
        let file = host.dir().join("each.pcapng");
        let running = Running::start(host, "each", &["--write", file.to_str().context("not UTF-8")?])?;
        Ping::new(address2).count(5).expect_all(&c1)?;
        let count = |kind: u8, device: &str, direction: &str| -> Result<usize> {
            let lines = tshark(host, &file, &format!("icmp.type == {kind}"))?;
            let wanted = |line: &&String| {
                let fields: Vec<_> = line.split('|').collect();
                // Depending on its version tshark shows the number or the word.
                let number = if direction == "inbound" { "1" } else { "2" };
                fields[0] == device
                    && (fields[1].to_lowercase() == direction || fields[1].ends_with(number))
                    && fields[2].contains(path)
                    && (fields[3] == "42") == (device == "eth0")
            };
            Ok(lines.iter().filter(wanted).count())
        };
        let places = [
            (8, "veth2", "inbound"),
            (8, "eth0", "outbound"),
            (0, "eth0", "inbound"),
            (0, "veth2", "outbound"),
        ];
        let all = || -> Result<Vec<usize>> {
            places.iter().map(|(kind, device, way)| count(*kind, device, way)).collect()
        };
        let complete =
            wait_until("all frames are in the file", Duration::from_secs(10), || Ok(all()? == [5; 4]));
        let summary = running.stop()?;
        complete.with_context(|| {
            format!("{:?} of {places:?}\n{summary}\n{:#?}", all(), tshark(host, &file, "icmp"))
        })?;
        ensure!(summary.contains(", 0 lost"), "{summary}");
        ensure!(tshark(host, &file, "icmp")?.len() == 20, "some are there twice");
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn a_capture_shows_what_userspace_carries() {
    sees_each_frame_enter_and_leave(Mode::Xdp, "path userspace, queue 0");
}

#[test]
#[ignore = "needs root"]
fn a_capture_shows_what_the_kernel_carries() {
    sees_each_frame_enter_and_leave(Mode::Kernel, "path kernel");
}

#[test]
#[ignore = "needs root"]
fn a_capture_shows_what_the_inkernel_engine_carries() {
    sees_each_frame_enter_and_leave(Mode::InKernel, "path kernel or in-kernel engine");
}

#[test]
#[ignore = "needs root"]
fn a_capture_follows_switches_filters_and_tells_mistakes() {
    in_mode("capture-more", Mode::Xdp, |hosts| {
        let [(c1, _), (_, address2)] = hosts.containers()?;
        let host = hosts.lab().h1();
        Ping::new(address2).count(2).expect_all(&c1)?;
        let refused = |words: &[&str]| -> Result<String> {
            let outcome = host.vxdp(&[&["capture"], words].concat())?;
            ensure!(!outcome.status.success(), "{words:?} should fail");
            Ok(outcome.stderr)
        };
        let error = refused(&["--write", "/dev/null", "icmp", "adn", "arp"])?;
        ensure!(error.contains("icmp adn arp") && error.contains("pcap-filter"), "{error}");
        let error = refused(&["--write", "/dev/null", "--device", "veth9"])?;
        ensure!(error.contains("veth9") && error.contains("eth0, veth2"), "{error}");
        let error = refused(&["--write", "/dev/null", "--vni", "43"])?;
        ensure!(error.contains("VNI 43; there are 42"), "{error}");
        let error = refused(&["--write", "/dev/full"])?;
        ensure!(error.contains("No space left"), "{error}");
        let file = host.dir().join("more.pcapng");
        let path = file.to_str().context("not UTF-8")?;
        let words =
            ["--write", path, "--device", "veth2", "--direction", "enters", "--snap-length", "64", "icmp"];
        let running = Running::start(host, "more", &words)?;
        Ping::new(address2).count(2).expect_all(&c1)?;
        host.vxdp(&["mode", "kernel"])?.success()?;
        Ping::new(address2).count(2).expect_all(&c1)?;
        host.vxdp(&["mode", "xdp"])?.success()?;
        host.wait_for_fast_path()?;
        Ping::new(address2).count(2).expect_all(&c1)?;
        let frames = |filter: &str| -> Result<usize> { Ok(tshark(host, &file, filter)?.len()) };
        wait_until("six frames are in the file", Duration::from_secs(10), || Ok(frames("frame")? >= 6))?;
        running.stop()?;
        ensure!(
            frames("frame")? == 6 && frames("icmp.type == 8 && frame.cap_len == 64")? == 6,
            "filtered and cut"
        );
        ensure!(frames("frame.comment contains \"path userspace\"")? >= 3, "the fast path is there again");
        ensure!(frames("frame.comment contains \"path kernel\"")? >= 2, "the kernel's path is there");
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn a_capture_that_lives_through_a_switch_to_the_inkernel_engine_shows_no_frame_twice() {
    in_mode("capture-switch", Mode::Kernel, |hosts| {
        let [(c1, _), (_, address2)] = hosts.containers()?;
        let host = hosts.lab().h1();
        Ping::new(address2).count(2).expect_all(&c1)?;
        let file = host.dir().join("switch.pcapng");
        let path = file.to_str().context("not UTF-8")?;
        let running = Running::start(host, "switch", &["--write", path, "--device", "veth2", "icmp"])?;
        let frames = |filter: &str| -> Result<usize> { Ok(tshark(host, &file, filter)?.len()) };
        host.vxdp(&["mode", "xdp", "--engine", "inkernel"])?.success()?;
        host.wait_for_fast_path()?;
        wait_until("the capture has noticed", Duration::from_secs(10), || {
            Ping::new(address2).count(1).expect_all(&c1)?;
            Ok(frames("frame.comment contains \"in-kernel engine\"")? > 0)
        })?;
        // Of a length by which they are known.
        let target = address2.to_string();
        let ping = ["ping", "-n", "-c3", "-i0.2", "-s200", target.as_str()];
        c1.run(ping, Duration::from_secs(10))?.success()?;
        let marked = || frames("frame.len == 242");
        let complete = wait_until("they are in the file", Duration::from_secs(10), || Ok(marked()? >= 6));
        let summary = running.stop()?;
        complete.with_context(|| summary.clone())?;
        ensure!(marked()? == 6, "three requests and three replies are {} frames\n{summary}", marked()?);
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn a_reader_that_stops_costs_no_traffic() {
    in_mode("capture-slow", Mode::Xdp, |hosts| {
        let [(c1, _), (_, address2)] = hosts.containers()?;
        let host = hosts.lab().h1();
        Ping::new(address2).count(2).expect_all(&c1)?;
        let binary = vxdp_binary()?;
        let binary = binary.to_str().context("not UTF-8")?;
        let mut stopped = host.command([binary, "capture", "--write", "-"]);
        let said = host.dir().join("slow.log");
        let mut stopped =
            stopped.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&said)?).spawn()?;
        let steps = || -> Result<()> {
            wait_until("the capture has begun", Duration::from_secs(10), || {
                Ok(std::fs::read_to_string(&said)?.contains("capturing on"))
            })?;
            let target = address2.to_string();
            // Far more than pipe, socket and queues hold; nobody reads the pipe.
            let flood = ["ping", "-n", "-q", "-f", "-s1000", "-c20000", "-w30", target.as_str()];
            let outcome = c1.run(flood, Duration::from_secs(40))?;
            ensure!(outcome.stdout.contains(" 0% packet loss"), "{}", outcome.stdout);
            // The daemon does not wait for it either.
            host.vxdp(&["mode", "kernel"])?.success()?;
            Ping::new(address2).count(2).expect_all(&c1)
        };
        let outcome = steps();
        stopped.kill()?;
        stopped.wait()?;
        outcome
    });
}
