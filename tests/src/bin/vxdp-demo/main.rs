//! `vxdp-demo`: two hosts, a container each, a ping that crosses, and the outer packet decoded.
#![forbid(unsafe_code)]

mod proof;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use vxdp_lab::{
    Attachment, Before, Capture, Frames, KeptTwoHosts, Lifetime, Mode, Outer, Ping, Pinged, TwoHosts, VNI,
    VXLAN_PORT, describe,
};

use crate::proof::{Proof, Proofs};
use crate::report::Report;

/// Echo requests in each direction.
const PINGS: u32 = 5;

/// Shows that vxdp works: builds two hosts as network namespaces joined by a veth, runs the real daemon in
/// each, pings from container to container, and decodes a packet of the underlay.
///
/// Touches nothing outside its own namespaces and removes them at the end.
#[derive(Debug, Parser)]
#[command(name = "vxdp-demo", after_help = "Example: vxdp-demo --docker --json demo.json")]
struct Arguments {
    /// What carries known unicast frames
    #[arg(long, value_enum, default_value = "kernel")]
    mode: Mode,
    /// Use two real Docker containers; an engine is started where none runs
    #[arg(long)]
    docker: bool,
    /// Leave everything standing; `vxdp-lab shell` and `vxdp-lab down` work on it
    #[arg(long)]
    keep: bool,
    /// Write the result to this file as JSON (`-` is standard output)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match demonstrate(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vxdp-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the whole demonstration; whether everything was proven.
fn demonstrate(arguments: &Arguments) -> Result<bool> {
    vxdp_lab::catch_interrupts()?;
    ensure!(nix::unistd::geteuid().is_root(), "needs root: it makes network namespaces");
    if arguments.keep {
        ensure!(
            !KeptTwoHosts::state_file().exists(),
            "a lab stands already; remove it first: cargo xtask lab down"
        );
    }
    let (attachment, containers) = if arguments.docker {
        (Attachment::Docker, "two Docker containers")
    } else {
        (Attachment::Netns, "two containers")
    };
    let lifetime = if arguments.keep { Lifetime::Independent } else { Lifetime::Bound };
    // With --json - the report is all that standard output holds.
    let say = |text: &str| {
        if arguments.json.as_ref().is_some_and(|path| path.as_os_str() == "-") {
            eprintln!("{text}");
        } else {
            println!("{text}");
        }
    };

    let mut before = Before::look()?;
    say(&format!("Building two hosts, {containers}, mode {} …", arguments.mode.as_str()));
    let mut two_hosts = TwoHosts::build("demo", attachment, arguments.mode, lifetime)?;
    before.remember(two_hosts.lab())?;
    let mut report = Report::new(arguments.mode, &two_hosts)?;
    let mut proofs = Proofs::default();
    let shown = show(&two_hosts, &mut proofs, &mut report, &say);
    if (shown.is_err() || !proofs.hold()) && !vxdp_lab::interrupted() {
        two_hosts.lab().report();
    }
    shown?;

    if arguments.keep {
        two_hosts.keep()?;
        say("The lab stands. Look around: cargo xtask lab shell h1. Remove it: cargo xtask lab down.");
    } else {
        take_down(&mut two_hosts, &mut proofs)?;
        drop(two_hosts);
        report.left_behind = before.left_behind(Duration::from_secs(5))?;
        let left = format!("{} things", report.left_behind.len());
        proofs.add(Proof::equal("left behind on this machine", "0 things", left));
    }
    say(&proofs.table());
    for thing in &report.left_behind {
        say(&format!("left behind: {thing}"));
    }
    if let Some(path) = &arguments.json {
        report.write(path)?;
    }
    Ok(proofs.hold())
}

/// What the overlay must do while it stands.
fn show(two_hosts: &TwoHosts, proofs: &mut Proofs, report: &mut Report, say: &dyn Fn(&str)) -> Result<()> {
    let [(c1, address1), (c2, address2)] = two_hosts.containers()?;
    let (place, device) = two_hosts.lab().wire();
    let wire = Capture::start(place, device)?;
    let before = two_hosts.frames()?;
    let pinged = Ping::new(address2).count(PINGS).run(&c1)?;
    let outer = wire
        .wait_for("an encapsulated echo request", |frame| {
            let outer = Outer::parse(&frame.bytes, VXLAN_PORT)?;
            describe(&outer.inner).contains("echo request").then_some(outer)
        })
        .context("nothing of the ping was seen on the underlay")?;
    say(&format!("\nOne packet of the ping on the underlay, as h1 sent it:\n\n{}\n", outer.lines()));
    let back = Ping::new(address1).count(PINGS).run(&c2)?;
    let frames = wire.stop()?;
    let encapsulated_arp = frames
        .iter()
        .filter_map(|frame| Outer::parse(&frame.bytes, VXLAN_PORT))
        .filter(|outer| describe(&outer.inner).contains("ARP"))
        .count();

    add_ping(proofs, "ping 10.0.0.2 → 10.0.0.3", &pinged);
    add_ping(proofs, "ping 10.0.0.3 → 10.0.0.2", &back);
    let (h1, h2) = (two_hosts.lab().h1(), two_hosts.lab().h2());
    let inner = describe(&outer.inner);
    let route = format!("{} → {}", outer.addresses.0, outer.addresses.1);
    proofs.add(Proof::equal("outer addresses", format!("{} → {}", h1.ipv4(), h2.ipv4()), route));
    proofs.add(Proof::equal("outer UDP port", VXLAN_PORT, outer.ports.1));
    proofs.add(Proof::equal("outer UDP checksum", "0x0000", format!("{:#06x}", outer.udp_checksum)));
    proofs.add(Proof::equal("VXLAN flags", "0x08", format!("{:#04x}", outer.flags)));
    proofs.add(Proof::equal("VNI", VNI, outer.vni));
    let (macs, packet) = inner.split_once(", ").unwrap_or((&inner, ""));
    proofs.add(Proof::equal("inner MACs", "02:42:0a:00:00:02 → 02:42:0a:00:00:03", macs));
    let expected = "10.0.0.2 → 10.0.0.3, ICMP echo request, 98 bytes";
    proofs.add(Proof::equal("inner packet", expected, packet));
    proofs.add(Proof::equal("outer frame", "148 bytes", format!("{} bytes", outer.outer_len)));
    proofs.add(Proof::equal("ARP frames in the tunnel", 0, encapsulated_arp));
    let frames = two_hosts.frames()?;
    report.measured(&pinged, &outer);
    add_paths(proofs, report, before, frames);
    Ok(())
}

fn add_ping(proofs: &mut Proofs, what: &str, pinged: &Pinged) {
    let seen = format!("{} of {}", pinged.received, pinged.sent);
    proofs.add(Proof::equal(what, format!("{PINGS} of {PINGS}"), seen));
}

/// Which path carried the pings. A frame or two may go through the kernel while ARP is being answered.
fn add_paths(proofs: &mut Proofs, report: &mut Report, before: [Frames; 2], after: [Frames; 2]) {
    let kernel = report.carried(before, after);
    let other = if report.is_xdp() { kernel } else { report.in_userspace() };
    let what = if report.is_xdp() { "frames that the kernel carried" } else { "frames in userspace" };
    proofs.add(Proof::at_most(what, 4, other));
}

/// What `vxdp down` must do: the hosts are then as they were before.
fn take_down(two_hosts: &mut TwoHosts, proofs: &mut Proofs) -> Result<()> {
    let [(c1, address1), (c2, address2)] = two_hosts.containers()?;
    two_hosts.stop_daemons()?;
    let pinged = Ping::new(address2).count(1).run(&c1)?;
    let seen = format!("{} of {}", pinged.received, pinged.sent);
    proofs.add(Proof::equal("ping after the daemons have stopped", "1 of 1", seen));
    two_hosts.down()?;
    let mut rest = Vec::new();
    for (host, container, address) in [("h1", c1, address1), ("h2", c2, address2)] {
        if container.exec(["ip", "-brief", "address"])?.contains(&address.to_string()) {
            rest.push(format!("{address} in the container of {host}"));
        }
    }
    for host in two_hosts.lab().hosts() {
        if host.netns("overlay").exists() {
            rest.push(format!("overlay on {}", host.name()));
        }
    }
    let rest = if rest.is_empty() { "nothing".to_owned() } else { rest.join(", ") };
    proofs.add(Proof::equal("still there after `vxdp down`", "nothing", rest));
    Ok(())
}
