//! Where a capture ends: a pipe, a count, an overlay, a ring of files, a full disk, a reader that is slow.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use etherparse::PacketBuilder;
use vxdp_control::api::client;
use vxdp_control::capture::{Direction, SNAP_LENGTH, Wanted};
use vxdp_control::cli::DEFAULT_SOCKET;
use vxdp_lab::{Host, Injector, Mode, Ping, Place, TwoHosts, VNI, VXLAN_PORT, vxdp_binary, wait_until};

use crate::running::{Running, in_both_modes, in_mode, tshark};

/// Ethernet, IPv4 and ICMP.
const HEADERS: u32 = 14 + 20 + 8;

/// Pings as fast as the answers come, in frames of more than 1000 bytes, and wants all answers.
fn flood(from: &Place, target: Ipv4Addr, count: u32) -> Result<()> {
    let (count, target) = (count.to_string(), target.to_string());
    let words = ["ping", "-n", "-q", "-f", "-s1000", "-w30", "-c", &count, &target];
    let outcome = from.run(words, Duration::from_secs(40))?;
    ensure!(outcome.stdout.contains(" 0% packet loss"), "{}", outcome.stdout);
    Ok(())
}

/// A ping of a length by which its two frames at `veth2` are known.
fn mark(from: &Place, target: Ipv4Addr, length: u32) -> Result<()> {
    let payload = (length - HEADERS).to_string();
    let words = ["ping", "-n", "-c1", "-W5", "-s", &payload, &target.to_string()];
    from.run(words, Duration::from_secs(10))?.success().map(drop)
}

/// Frames of [`mark`] in a file.
fn marks(host: &Host, file: &Path, length: u32) -> Result<usize> {
    frames(host, file, &format!("frame.len == {length}"))
}

/// Frames that this filter takes, of a file that may end in the middle of a block still.
fn frames(host: &Host, file: &Path, filter: &str) -> Result<usize> {
    let words = ["tshark", "-n", "-r", file.to_str().context("not UTF-8")?, "-Y", filter];
    Ok(host.run(words, Duration::from_secs(30))?.stdout.lines().count())
}

/// What a pipe gets is there at once, and the capture ends by itself with the last frame of its count.
fn shows_live_and_ends_after_a_count(mode: Mode) {
    in_mode("capture-live", mode, |hosts| {
        let [(c1, _), (_, address2)] = hosts.containers()?;
        let host = hosts.lab().h1();
        Ping::new(address2).count(2).expect_all(&c1)?;
        let (binary, said, shown) =
            (vxdp_binary()?, host.dir().join("live.log"), host.dir().join("live.txt"));
        File::create(&said)?;
        let line = format!(
            "{} capture --write - --device veth2 --count 4 icmp 2> {} | tshark -l -n -i - -T fields -e icmp.type",
            binary.display(),
            said.display()
        );
        let mut command = host.command(["sh", "-c", &line]);
        let errors = host.dir().join("tshark.log");
        command.stdout(File::create(&shown)?).stderr(File::create(&errors)?);
        let mut running = Running::begin(command, said)?;
        let shows = |frames: usize| {
            let complete = wait_until("tshark shows the frames", Duration::from_secs(10), || {
                Ok(std::fs::read_to_string(&shown)?.lines().count() == frames)
            });
            complete.with_context(|| format!("{:?}", [&shown, &errors].map(std::fs::read_to_string)))
        };
        Ping::new(address2).count(1).expect_all(&c1)?;
        shows(2)?;
        ensure!(running.child.try_wait()?.is_none(), "it has ended before its count");
        // Twice as many as it waits for.
        Ping::new(address2).count(2).expect_all(&c1)?;
        let status = running.wait()?;
        ensure!(status.success(), "{status}");
        shows(4)?;
        ensure!(running.said()?.contains("4 frames captured, 0 lost"), "{}", running.said()?);
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn a_capture_into_a_pipe_is_seen_live_and_ends_after_its_count() {
    shows_live_and_ends_after_a_count(Mode::Kernel);
}

#[test]
#[ignore = "needs root"]
fn a_capture_into_a_pipe_is_seen_live_and_ends_after_its_count_in_xdp_mode() {
    shows_live_and_ends_after_a_count(Mode::Xdp);
}

/// What h2 would send for c2 to c1 in this overlay, with an outer UDP checksum that is wrong or missing.
fn from_h2(hosts: &TwoHosts, vni: u32, checksum: [u8; 2]) -> Vec<u8> {
    let mac = |host: &Host| {
        let [a, b, c, d] = host.ipv4().octets();
        [2, 0, a, b, c, d]
    };
    let (h1, h2) = (hosts.lab().h1(), hosts.lab().h2());
    let mut payload = vec![8, 0, 0, 0];
    payload.extend((vni << 8).to_be_bytes());
    PacketBuilder::ethernet2([0x02, 0x42, 0x0a, 0, 0, 3], [0x02, 0x42, 0x0a, 0, 0, 2])
        .ipv4([10, 0, 0, 3], [10, 0, 0, 2], 64)
        .udp(4000, 4000)
        .write(&mut payload, b"datagram")
        .expect("a vector takes everything");
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac(h2), mac(h1))
        .ipv4(h2.ipv4().octets(), h1.ipv4().octets(), 64)
        .udp(50_000, VXLAN_PORT)
        .write(&mut frame, &payload)
        .expect("a vector takes everything");
    frame[40..42].copy_from_slice(&checksum);
    frame
}

/// Frames of another overlay are not shown; those of this one are, with the reason where they were dropped.
fn keeps_to_its_overlay(mode: Mode, bad_checksum: &str) {
    in_mode("capture-vni", mode, |hosts| {
        let [(c1, _), (_, address2)] = hosts.containers()?;
        let host = hosts.lab().h1();
        Ping::new(address2).count(3).expect_all(&c1)?;
        let file = host.dir().join("vni.pcapng");
        let path = file.to_str().context("not UTF-8")?;
        let words = ["--write", path, "--vni", "42", "--device", "eth0", "--direction", "enters"];
        let running = Running::start(host, "vni", &words)?;
        let wire = Injector::open(hosts.lab().h2(), "eth0")?;
        wire.send(&from_h2(hosts, VNI + 1, [0, 0]))?;
        wire.send(&from_h2(hosts, VNI, [0xba, 0xd0]))?;
        wire.send(&from_h2(hosts, VNI, [0, 0]))?;
        let datagrams = || tshark(host, &file, "udp.port == 4000");
        let came =
            wait_until("both are in the file", Duration::from_secs(10), || Ok(datagrams()?.len() >= 2));
        let summary = running.stop()?;
        came.with_context(|| format!("{summary}\n{:#?}", tshark(host, &file, "frame")))?;
        let datagrams = datagrams()?;
        ensure!(datagrams.len() == 2, "{datagrams:#?}");
        let comments: Vec<_> = datagrams.iter().filter_map(|line| line.split('|').nth(2)).collect();
        let carried = bad_checksum.split(", dropped").next().unwrap_or_default();
        ensure!(comments == [bad_checksum, carried], "{comments:#?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn a_capture_keeps_to_its_overlay() {
    keeps_to_its_overlay(Mode::Kernel, "path kernel");
}

#[test]
#[ignore = "needs root"]
fn a_capture_keeps_to_its_overlay_and_names_the_reason_of_a_drop_in_xdp_mode() {
    keeps_to_its_overlay(Mode::Xdp, "path userspace, queue 0, dropped: UDP_CSUM");
}

#[test]
#[ignore = "needs root"]
fn a_ring_of_files_keeps_the_last_frames_in_files_of_the_given_size() {
    in_both_modes("capture-ring", |hosts, mode| {
        let [(c1, _), (_, address2)] = hosts.containers()?;
        let host = hosts.lab().h1();
        Ping::new(address2).count(2).expect_all(&c1)?;
        let directory = host.dir().join(mode.as_str());
        std::fs::create_dir(&directory)?;
        let path = directory.join("trace.pcapng");
        let path = path.to_str().context("not UTF-8")?;
        let words = ["--write", path, "--file-size", "1", "--files", "2"];
        let running = Running::start(host, "ring", &words)?;
        // About 4 MiB of frames, and then one that is known.
        flood(&c1, address2, 1000)?;
        mark(&c1, address2, 242)?;
        let files = ["trace.0.pcapng", "trace.1.pcapng"].map(|name| directory.join(name));
        let last = || files.iter().map(|file| marks(host, file, 242)).sum::<Result<usize>>();
        let complete =
            wait_until("the last frame is in a file", Duration::from_secs(10), || Ok(last()? == 2));
        let summary = running.stop()?;
        complete.with_context(|| format!("{summary}\n{:?}", last()))?;
        let mut names: Vec<_> =
            std::fs::read_dir(&directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        names.sort();
        ensure!(names == files, "{names:?}");
        let sizes = files.each_ref().map(|file| file.metadata().map_or(0, |about| about.len()));
        // Each ends with the frame that reaches the size; the present one may have just begun.
        ensure!(sizes.iter().all(|size| (1..(1 << 20) + 4096).contains(size)), "{sizes:?}");
        ensure!(sizes.iter().any(|size| *size >= 1 << 20), "{sizes:?}");
        ensure!(tshark(host, &files[0], "icmp")?.len() > 100 || tshark(host, &files[1], "icmp")?.len() > 100);
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn a_disk_that_fills_ends_the_capture_with_a_whole_file_and_costs_no_traffic() {
    in_both_modes("capture-full", |hosts, mode| {
        let [(c1, _), (_, address2)] = hosts.containers()?;
        let host = hosts.lab().h1();
        Ping::new(address2).count(2).expect_all(&c1)?;
        // In the host's mount namespace, with which it goes.
        host.script("mount -t tmpfs -o size=1m tmpfs /mnt")?;
        let file = Path::new("/mnt/full.pcapng");
        let mut running =
            Running::start(host, mode.as_str(), &["--write", file.to_str().context("not UTF-8")?])?;
        flood(&c1, address2, 1000)?;
        let status = running.wait()?;
        let said = running.said()?;
        ensure!(status.code() == Some(1), "{status}: {said}");
        ensure!(
            said.contains("No space left on device") && said.contains("whole to the last frame"),
            "{said}"
        );
        // A file that is cut in the middle of a block would be an error.
        let frames = tshark(host, file, "icmp")?.len();
        ensure!(frames > 100, "only {frames} frames in 1 MiB");
        host.script("umount -l /mnt")?;
        Ping::new(address2).count(2).expect_all(&c1)
    });
}

#[test]
#[ignore = "needs root"]
fn what_a_slow_reader_loses_is_counted_to_the_last_frame() {
    in_both_modes("capture-lost", |hosts, mode| {
        let [(c1, _), (_, address2)] = hosts.containers()?;
        let host = hosts.lab().h1();
        Ping::new(address2).count(2).expect_all(&c1)?;
        let mut running = piped(host, mode)?;
        flood(&c1, address2, 20_000)?;
        // Now it reads.
        let mut pipe = running.child.stdout.take().context("no pipe")?;
        let file = host.dir().join(format!("{}.pcapng", mode.as_str()));
        let mut copy = File::create(&file)?;
        let reader = std::thread::spawn(move || std::io::copy(&mut pipe, &mut copy));
        // The frames that come next tell what was lost before them.
        let mut pings = 0;
        wait_until("one of them is in the file", Duration::from_secs(20), || {
            mark(&c1, address2, 242)?;
            pings += 1;
            Ok(marks(host, &file, 242)? >= 2)
        })?;
        // Behind all others.
        mark(&c1, address2, 342)?;
        pings += 1;
        wait_until("the last one is in the file", Duration::from_secs(10), || {
            Ok(marks(host, &file, 342)? == 2)
        })?;
        let summary = running.stop()?;
        reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        let sent = 2 * (20_000 + pings);
        let captured = tshark(host, &file, "icmp")?.len();
        let lost = sent - captured;
        ensure!(lost > 1000, "only {lost} lost");
        ensure!(
            summary.contains(&format!("{captured} frames captured, {lost} lost")),
            "of {sent}: {summary}"
        );
        let told = told_lost(host, &file)?;
        ensure!(told == lost, "{told} of {lost} are in the file");
        Ok(())
    });
}

/// How many lost frames the frames of a file tell of.
fn told_lost(host: &Host, file: &Path) -> Result<usize> {
    let path = file.to_str().context("not UTF-8")?;
    let words = ["tshark", "-n", "-r", path, "-T", "fields", "-e", "frame.drop_count"];
    let told = host.run(words, Duration::from_secs(30))?.stdout;
    told.split_whitespace().map(|count| Ok(count.parse::<usize>()?)).sum()
}

/// A capture of pings at `veth2` into a pipe that nobody reads yet.
fn piped(host: &Host, mode: Mode) -> Result<Running> {
    let (binary, said) = (vxdp_binary()?, host.dir().join(format!("{}.log", mode.as_str())));
    let binary = binary.to_str().context("not UTF-8")?;
    let mut command = host.command([binary, "capture", "--write", "-", "--device", "veth2", "icmp"]);
    command.stdout(Stdio::piped()).stderr(File::create(&said)?);
    Running::begin(command, said)
}

#[test]
#[ignore = "needs root"]
fn ctrl_c_ends_a_capture_whose_pipe_nobody_reads_and_what_is_not_written_is_counted() {
    in_both_modes("capture-stalled", |hosts, mode| {
        let [(c1, _), (_, address2)] = hosts.containers()?;
        let host = hosts.lab().h1();
        Ping::new(address2).count(2).expect_all(&c1)?;
        let mut running = piped(host, mode)?;
        let mut pipe = running.child.stdout.take().context("no pipe")?;
        // More than pipe and buffers hold, so that it is in the middle of writing; one Ctrl-C has to do.
        flood(&c1, address2, 1000)?;
        let begun = Instant::now();
        let summary = running.stop()?;
        ensure!(begun.elapsed() < Duration::from_secs(3), "only after {:?}", begun.elapsed());
        let number = |words: &str| -> Result<usize> {
            let line = summary.lines().find(|line| line.contains(words)).context(summary.clone())?;
            Ok(line.split_whitespace().next().context("no figure")?.parse()?)
        };
        let (captured, unwritten) = (number("frames captured")?, number("could not be written")?);
        ensure!(unwritten > 0, "{summary}");
        // What the pipe holds can be read still, to the last whole frame.
        let file = host.dir().join(format!("{}-stalled.pcapng", mode.as_str()));
        std::io::copy(&mut pipe, &mut File::create(&file)?)?;
        let read = frames(host, &file, "frame")?;
        ensure!(
            read > 0 && read + unwritten == captured,
            "{read} in the pipe, {unwritten} of {captured} not"
        );
        Ping::new(address2).count(2).expect_all(&c1)
    });
}

/// Of the daemon's own queue, which the workers fill and its client does not empty.
#[test]
#[ignore = "needs root"]
fn a_client_of_the_api_that_does_not_read_its_capture_costs_no_traffic_and_what_it_loses_is_counted() {
    in_mode("capture-queue", Mode::Xdp, |hosts| {
        let [(c1, _), (_, address2)] = hosts.containers()?;
        let host = hosts.lab().h1();
        Ping::new(address2).count(2).expect_all(&c1)?;
        let carried = || -> Result<u64> {
            let userspace = host.frames()?.xdp;
            Ok(userspace.encap + userspace.decap)
        };
        let before = carried()?;
        let (devices, direction) = (vec!["veth2".to_owned()], Direction::Both);
        let wanted = Wanted { devices, vni: None, direction, filter: None, snap_length: SNAP_LENGTH };
        let mut stream = client::capture(&host.file(DEFAULT_SOCKET), wanted)?;
        // The queue has room for 8192, and the socket for a few hundred.
        flood(&c1, address2, 10_000)?;
        // The daemon does not wait for the client either.
        host.status()?;
        let file = host.dir().join("queue.pcapng");
        let mut copy = File::create(&file)?;
        let reader = std::thread::spawn(move || std::io::copy(&mut stream, &mut copy));
        wait_until("frames behind the loss are in the file", Duration::from_secs(20), || {
            mark(&c1, address2, 242)?;
            Ok(marks(host, &file, 242)? >= 2)
        })?;
        let mut seen = 0;
        wait_until(
            "all that userspace carried are in the file, or told as lost",
            Duration::from_secs(10),
            || {
                seen = frames(host, &file, "frame")? + told_lost(host, &file)?;
                Ok(seen as u64 == carried()? - before)
            },
        )
        .with_context(|| format!("{seen} of {:?} after {before}", carried()))?;
        // Its end is the capture's.
        host.vxdp(&["down", "--config", host.config_path().to_str().context("not UTF-8")?])?.success()?;
        reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        ensure!(told_lost(host, &file)? > 1000, "only {} lost", told_lost(host, &file)?);
        Ok(())
    });
}
