//! The `vxdp` command: parses, starts the log, runs the command, and turns its outcome into an exit code.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, stderr};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use vxdp_control::cli::{Cli, Command, LogFormat};
use vxdp_control::commands;
use vxdp_control::config::ConfigError;
use vxdp_control::preflight::PreflightError;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A line of the log would tear the screen of `top`, which says itself what goes wrong.
    if !matches!(cli.command, Command::Top(_)) {
        start_log(&cli);
    }
    match dispatch(&cli.command) {
        Ok(code) => code,
        Err(error) => {
            // Problems of the configuration begin with file and line, as editors and people expect them.
            if is_configuration(&error) {
                eprintln!("{error:#}");
                ExitCode::from(2)
            } else {
                eprintln!("vxdp: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

fn dispatch(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Doctor(args) => return commands::doctor(args).map(ExitCode::from),
        Command::Trace(args) => commands::trace(args),
        Command::Run(args) => commands::run(args),
        Command::Down(args) => commands::down(args),
        Command::Status(args) => commands::status(args),
        Command::Top(args) => commands::top(args),
        Command::Fdb(args) => commands::fdb(args),
        Command::Mode(args) => commands::mode(args),
        Command::Capture(args) => commands::capture(args),
        Command::Check(args) => commands::check(args),
        Command::Completions(args) => commands::completions(args),
        Command::Man => commands::man(),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn is_configuration(error: &anyhow::Error) -> bool {
    let unfit = matches!(error.downcast_ref(), Some(PreflightError::Unfit(_)));
    unfit || error.is::<ConfigError>()
}

/// The log goes to standard error, so that standard output is the command's answer alone.
fn start_log(cli: &Cli) {
    let level = match cli.verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    // `netlink_proto` warns of each row of a dump that nobody reads to its end.
    let filter = format!("warn,netlink_proto=error,vxdp_control={level},vxdp_dataplane={level},vxdp={level}");
    let filter = EnvFilter::new(filter);
    let log = tracing_subscriber::fmt().with_writer(stderr).with_env_filter(filter);
    match log_format(&cli.command) {
        LogFormat::Text => log.with_ansi(stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

fn log_format(command: &Command) -> LogFormat {
    match command {
        Command::Run(args) => args.log_format,
        _ => LogFormat::Text,
    }
}
