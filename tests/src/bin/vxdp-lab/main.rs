//! `vxdp-lab`: the two hosts of the demo, kept for playing.
#![forbid(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use vxdp_lab::{Attachment, KeptTwoHosts, Lifetime, Mode, TwoHosts};

/// Printed where a shell begins.
const HINT: &str = "\
You are on a host of the lab. Its overlay is in the namespace `overlay`, its container in `c1` (h1) or `c2` (h2).
  ip netns exec c1 ping 10.0.0.3              on h1: from container to container
  bridge -n overlay fdb; ip -n overlay neigh  what the kernel forwards by
  tcpdump -ni eth0 udp port 4789              the tunnel on the underlay";

/// Keeps the two hosts of the demo standing, for playing
#[derive(Debug, Parser)]
#[command(name = "vxdp-lab")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds two hosts with a container and a running vxdp each
    #[command(after_help = "Example: vxdp-lab up")]
    Up {
        /// What carries known unicast frames
        #[arg(long, value_enum, default_value = "kernel")]
        mode: Mode,
        /// Use two real Docker containers; an engine is started where none runs
        #[arg(long)]
        docker: bool,
    },
    /// Opens a shell on a host, or runs a program there
    #[command(
        after_help = "Example: vxdp-lab shell h1\nExample: vxdp-lab shell h1 ip netns exec c1 ping 10.0.0.3"
    )]
    Shell {
        /// h1 or h2
        host: String,
        /// Program to run instead of a shell
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<String>,
    },
    /// Removes both hosts and everything in them
    #[command(after_help = "Example: vxdp-lab down")]
    Down,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Up { mode, docker } => up(mode, docker),
        Command::Shell { host, program } => shell(&host, &program),
        Command::Down => down(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vxdp-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn up(mode: Mode, docker: bool) -> Result<()> {
    vxdp_lab::catch_interrupts()?;
    ensure!(nix::unistd::geteuid().is_root(), "needs root: it makes network namespaces");
    if KeptTwoHosts::state_file().exists() {
        bail!("the lab stands already; remove it first: vxdp-lab down");
    }
    let attachment = if docker { Attachment::Docker } else { Attachment::Netns };
    let kept = TwoHosts::build("lab", attachment, mode, Lifetime::Independent)?.keep()?;
    println!("The lab stands; its files are in {}.", kept.lab.dir.display());
    println!("Look around: vxdp-lab shell h1. Remove it: vxdp-lab down.");
    Ok(())
}

fn shell(host: &str, program: &[String]) -> Result<()> {
    let kept = KeptTwoHosts::read_state()?;
    let place = kept.lab.place(host)?;
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
    let words = if program.is_empty() { vec![shell] } else { program.to_vec() };
    if program.is_empty() {
        println!(
            "{HINT}\nIts configuration is {}/{host}.toml, the end of the shell is `exit`.",
            kept.lab.dir.display()
        );
    }
    let mut command = place.command(words);
    // Replaces this process, so the terminal's job control is the shell's: no process group of its own.
    let error = command.process_group(nix::unistd::getpgrp().as_raw()).exec();
    Err(error).context("while starting `nsenter`")
}

fn down() -> Result<()> {
    KeptTwoHosts::read_state()?.remove()?;
    println!("The lab is gone.");
    Ok(())
}
