//! Developer and operator commands: one file per command, this one only dispatches.
#![forbid(unsafe_code)]

mod bench;
mod demo;
mod dist;
mod ebpf;
mod fuzz;
mod lab;
mod process;
mod run;
mod setup;
mod test;
mod tool;
mod vm;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The commands of the vxdp workspace. Each installs what it needs by itself (see `setup`).
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Setup(setup::Args),
    Run(run::Args),
    Demo(demo::Args),
    Lab(lab::Args),
    Test(test::Args),
    Bench(bench::Args),
    Ebpf(ebpf::Args),
    Dist(dist::Args),
    Vm(vm::Args),
    Fuzz(fuzz::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::main(&args),
        Command::Run(args) => run::main(&args),
        Command::Demo(args) => demo::main(&args),
        Command::Lab(args) => lab::main(&args),
        Command::Test(args) => test::main(&args),
        Command::Bench(args) => bench::main(&args),
        Command::Ebpf(args) => ebpf::main(&args),
        Command::Dist(args) => dist::main(&args),
        Command::Vm(args) => vm::main(&args),
        Command::Fuzz(args) => fuzz::main(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
