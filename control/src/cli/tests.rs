//! The command line holds together, and the manual has all of it.

use std::collections::BTreeSet;

use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_holds_together() {
    Cli::command().debug_assert();
}

/// Each command with its own flags, as `vxdp fdb add --vni`.
fn flags(command: &clap::Command, path: &str, into: &mut BTreeSet<String>) {
    into.insert(path.to_owned());
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        if let Some(long) = arg.get_long().filter(|long| !matches!(*long, "help" | "version")) {
            into.insert(format!("{path} --{long}"));
        }
    }
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        flags(command, &format!("{path} {}", command.get_name()), into);
    }
}

/// In `docs/commands.md` a heading such as "## `vxdp fdb add MAC`" opens a command; the rows of the table
/// below it that begin with a flag are its flags.
fn documented() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut command = String::new();
    for line in include_str!("../../../docs/commands.md").lines() {
        let literal = line.split('`').nth(1).unwrap_or_default();
        if line.starts_with('#') && literal.starts_with("vxdp") {
            let lower = |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase());
            command = literal.split(' ').take_while(lower).collect::<Vec<_>>().join(" ");
            found.insert(command.clone());
        } else if line.starts_with("| `--") {
            let flag = literal.split(' ').next().unwrap_or_default();
            found.insert(format!("{command} {flag}"));
        }
    }
    found
}

#[test]
fn the_manual_has_each_command_and_flag_and_no_other() {
    let mut known = BTreeSet::new();
    flags(&Cli::command(), "vxdp", &mut known);
    known.insert("vxdp".to_owned());
    assert_eq!(documented(), known);
}

#[test]
fn each_flag_and_argument_has_an_example() {
    fn check(command: &clap::Command) {
        for arg in command
            .get_arguments()
            .filter(|arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version"))
        {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example: "), "{} {}: {help}", command.get_name(), arg.get_id());
        }
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
}

#[test]
fn the_default_socket_is_the_configurations() {
    let text = "underlay = { device = 'eth0', local = '192.0.2.1' }\noverlay = [{ vni = 1 }]\n";
    let loaded = crate::config::parse(Path::new("f"), text.as_bytes()).expect("valid");
    assert_eq!(loaded.config.control.socket, Path::new(DEFAULT_SOCKET));
}
