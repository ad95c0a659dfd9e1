//! `vxdp completions` and `vxdp man`: made from the command line's own definition.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use crate::cli::{Cli, CompletionsArgs};
use crate::config::manual::{Entry, entries};

/// Prints the completions of a shell.
///
/// # Errors
/// When standard output cannot be written.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "vxdp", &mut script);
    print(&script)
}

/// Prints the manual page, with the configuration's keys.
///
/// # Errors
/// When standard output cannot be written.
pub fn man() -> anyhow::Result<()> {
    let mut page = Vec::new();
    write_man(&mut page)?;
    print(&page)
}

/// A reader that has seen enough (`| head`) is no failure.
fn print(bytes: &[u8]) -> anyhow::Result<()> {
    match io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn write_man(page: &mut Vec<u8>) -> io::Result<()> {
    let command = Cli::command();
    let man = Man::new(command.clone()).section("8").manual("vxdp");
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    let mut root = command;
    root.build();
    root.get_subcommands()
        .filter(|command| command.get_name() != "help")
        .for_each(|c| commands(&mut roff, c));
    roff.control("SS", ["with every command"]);
    root.get_arguments().filter(|arg| arg.is_global_set()).for_each(|arg| argument(&mut roff, arg));
    configuration(&mut roff);
    roff.control("SH", ["EXIT STATUS"]);
    roff.text([roman("0 fine, 1 failed, 2 usage or bad configuration.")]);
    page.extend(roff.render().as_bytes());
    Ok(())
}

/// A command with its flags and examples, and the commands below it.
fn commands(roff: &mut Roff, command: &clap::Command) {
    let path = command.get_display_name().unwrap_or(command.get_name()).replace('-', " ");
    roff.control("SS", [path.as_str()]);
    if let Some(about) = command.get_about() {
        roff.text([roman(format!("{about}."))]);
    }
    for arg in command
        .get_arguments()
        .filter(|arg| arg.get_id() != "help" && !arg.is_global_set() && !arg.is_hide_set())
    {
        argument(roff, arg);
    }
    if let Some(example) = command.get_after_help() {
        roff.control("PP", []);
        roff.control("nf", []);
        for line in example.to_string().lines() {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
    let nested = command.get_subcommands().filter(|command| command.get_name() != "help");
    nested.for_each(|command| commands(roff, command));
}

fn argument(roff: &mut Roff, arg: &clap::Arg) {
    roff.control("TP", []);
    roff.text([bold(arg.to_string())]);
    roff.text([roman(arg.get_help().map(ToString::to_string).unwrap_or_default())]);
}

fn configuration(roff: &mut Roff) {
    roff.control("SH", ["CONFIGURATION"]);
    let mut table = "";
    for entry in entries() {
        if entry.table != table {
            table = entry.table;
            roff.control("SS", [table]);
        }
        let Entry { key, takes, default, meaning, .. } = entry;
        roff.control("TP", []);
        roff.text([bold(key)]);
        let mut text = literals(meaning);
        text.push(roman(" Takes "));
        text.extend(literals(takes));
        text.push(roman("; default: "));
        text.extend(literals(&default));
        text.push(roman("."));
        roff.text(text);
    }
}

/// Back ticks become italics.
fn literals(text: &str) -> Vec<Inline> {
    let parts = text.split('`').enumerate();
    parts.map(|(index, part)| if index % 2 == 1 { italic(part) } else { roman(part) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_page_has_every_command_and_every_key() {
        let mut page = Vec::new();
        write_man(&mut page).expect("memory can be written");
        let page = String::from_utf8(page).expect("text");
        for command in Cli::command().get_subcommands() {
            assert!(page.contains(&format!("vxdp {}", command.get_name())), "{command}\n{page}");
        }
        for Entry { key, .. } in entries() {
            assert!(page.contains(key), "{key}");
        }
    }
}
