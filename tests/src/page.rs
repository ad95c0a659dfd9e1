//! Pages of the documentation: the commands that they show, what these are said to show, and a host to type them in.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command::{self, Outcome};
use crate::daemon::{Daemon, vxdp_binary};
use crate::host::Host;
use crate::wait::wait_until;

/// Time given to a typed command, and to the words of the page for showing up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Makes a host as the pages take it to be (`$1` the examples, `$2` the program): `vxdp` and `sudo` are there,
/// `/etc/vxdp` is empty, and the examples lie where the package puts them. In the host's own mount namespace.
const READER: &str = r#"
mount -t tmpfs -o mode=755 vxdp-lab /mnt
mkdir /mnt/etc /mnt/work /mnt/bin
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/etc,workdir=/mnt/work overlay /etc
mkdir -p /etc/vxdp /etc/bash_completion.d
mount -t tmpfs -o mode=755 vxdp-lab /usr/share/doc
mkdir -p /usr/share/doc/vxdp
cp -R "$1" /usr/share/doc/vxdp/examples
ln -s "$2" /mnt/bin/vxdp
printf '#!/bin/sh\nexec "$@"\n' >/mnt/bin/sudo
chmod 755 /mnt/bin/sudo
"#;

/// A command of a page: on which host, its words, and the lines that it shows.
#[derive(Debug)]
pub struct Transcript {
    /// Index of the host: 0 for `h1$` and `$`, 1 for `h2$`.
    pub host: usize,
    /// The command line, without a comment behind it.
    pub command: String,
    /// What the page says that it shows.
    pub lines: Vec<String>,
}

impl Transcript {
    /// Every one of `page`, from its blocks of kind `console`.
    pub fn all(page: &str) -> Result<Vec<Self>> {
        let mut found: Vec<Self> = Vec::new();
        let mut inside = false;
        for line in page.lines() {
            let prompts = [("h1$ ", 0), ("h2$ ", 1), ("$ ", 0)];
            let command = prompts.iter().find_map(|(prompt, host)| Some((line.strip_prefix(prompt)?, *host)));
            match (line.starts_with("```"), command) {
                (true, _) => inside = !inside && line == "```console",
                (false, Some((command, host))) if inside => {
                    let command = command.split("  #").next().unwrap_or(command).trim_end().to_owned();
                    found.push(Self { host, command, lines: Vec::new() });
                }
                (false, None) if inside => {
                    found.last_mut().context("a line before a command")?.lines.push(line.to_owned());
                }
                _ => {}
            }
        }
        ensure!(!found.is_empty(), "the page has no transcript");
        Ok(found)
    }

    /// Those below a headline of `page`, which begins with its `#`s, up to the next one of the same kind.
    pub fn under(page: &str, headline: &str) -> Result<Vec<Self>> {
        let (kind, _) = headline.split_once(' ').context("a headline begins with #")?;
        let (_, section) = page.split_once(&format!("\n{headline}\n")).context("no such headline")?;
        Self::all(section.split(&format!("\n{kind} ")).next().unwrap_or(section))
            .with_context(|| format!("under {headline}"))
    }

    /// Whether `text` is what the page shows; `…` stands for whatever is left out.
    pub fn is_shown(&self, text: &str) -> bool {
        shows(self.lines.iter().map(String::as_str), text.lines(), |page, actual| page == actual)
    }

    /// The same, but any number, duration or rate of the page stands for any other, and so do gaps of any size.
    pub fn is_alike(&self, text: &str) -> bool {
        let dense = |line: &&str| !line.is_empty();
        let (page, text) = (self.lines.iter().map(String::as_str).filter(dense), text.lines().filter(dense));
        shows(page, text, |page, actual| shape(page) == shape(actual))
    }

    /// Types the command on its host, and waits until it shows what the page says, as `fits` sees it.
    ///
    /// A command that shows nothing has to succeed, and is typed once.
    pub fn is_true(&self, hosts: &[Host], fits: impl Fn(&Self, &str) -> bool) -> Result<()> {
        let host = hosts.get(self.host).context("the page has more hosts than the lab")?;
        if self.lines.is_empty() {
            host.type_in(&self.command)?.success()?;
            return Ok(());
        }
        let mut text = String::new();
        let shown = wait_until("the page's words", PATIENCE, || {
            text = host.type_in(&self.command)?.stdout;
            Ok(fits(self, &text))
        });
        let page = || format!("{}\n{text}\nbut the page says\n{}", self.command, self.lines.join("\n"));
        shown.with_context(page)
    }
}

/// Whether the lines of `text` are those of `page`, one by one, as `fits` sees them.
fn shows<'a>(
    page: impl Iterator<Item = &'a str>,
    mut text: impl Iterator<Item = &'a str>,
    fits: impl Fn(&str, &str) -> bool,
) -> bool {
    let mut gap = false;
    for line in page {
        if line == "…" {
            gap = true;
            continue;
        }
        let fits = |actual: &str| match line.strip_suffix('…') {
            Some(beginning) => actual.starts_with(beginning),
            None => fits(line, actual),
        };
        let found = if gap { text.any(fits) } else { text.next().is_some_and(fits) };
        if !found {
            return false;
        }
        gap = false;
    }
    gap || text.next().is_none()
}

/// The words of a line; those that measure something are all the same.
fn shape(line: &str) -> Vec<&str> {
    let is_address = |word: &str| word.contains(':') || word.matches('.').count() > 2;
    let measures = |word: &str| word.starts_with(|c: char| c.is_ascii_digit()) && !is_address(word);
    line.split_whitespace().map(|word| if measures(word) { "#" } else { word }).collect()
}

impl Host {
    /// Makes it a host that pages can be followed on.
    pub fn prepare_for_pages(&self) -> Result<()> {
        let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
        let program = vxdp_binary()?;
        let program = program.to_str().context("the path of vxdp is not UTF-8")?;
        self.exec(["sh", "-euc", READER, "reader", examples, program])?;
        Ok(())
    }

    fn typed(&self, line: &str) -> Command {
        let mut command = self.command(["sh", "-c", line]);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("/mnt/bin:{path}"));
        command.envs(self.docker_address().map(|address| ("DOCKER_HOST", address)));
        command
    }

    /// Runs a command line as somebody types it in.
    pub fn type_in(&self, line: &str) -> Result<Outcome> {
        command::run(self.typed(line), PATIENCE).with_context(|| format!("on {}", self.name()))
    }

    /// The same for one that goes on, `vxdp run`; it is ready afterwards.
    pub fn type_daemon(&self, line: &str) -> Result<Daemon> {
        self.start_daemon(self.typed(&format!("exec {line}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Page\n\n## One\n\n```console\n$ a  # why\nx 1\n…\nlast …\n```\n```sh\n$ no\n```\n## Two\n\n```console\nh2$ b\n```\n";

    #[test]
    fn transcripts_are_found_by_headline() -> Result<()> {
        let one = Transcript::under(PAGE, "## One")?;
        assert_eq!((one.len(), one[0].host, one[0].command.as_str()), (1, 0, "a"));
        let two = Transcript::under(PAGE, "## Two")?;
        assert_eq!((two.len(), two[0].host, two[0].command.as_str()), (1, 1, "b"));
        assert_eq!(Transcript::all(PAGE)?.len(), 2);
        Transcript::under(PAGE, "## Three").unwrap_err();
        Ok(())
    }

    #[test]
    fn an_ellipsis_stands_for_lines_and_for_the_end_of_a_line() -> Result<()> {
        let one = &Transcript::under(PAGE, "## One")?[0];
        assert!(one.is_shown("x 1\nsomething\nlast one"));
        assert!(!one.is_shown("x 1\nlast one\nmore"));
        assert!(!one.is_shown("x 2\nlast one") && one.is_alike("x  2\nlast one"));
        Ok(())
    }

    #[test]
    fn addresses_are_no_measures() {
        assert_eq!(shape("4 rows, up 1h2m"), shape("17 rows, up 3s"));
        assert_ne!(shape("10.0.0.2/24"), shape("10.0.0.3/24"));
        assert_ne!(shape("02:42:0a:00:00:03"), shape("02:42:0a:00:00:02"));
    }
}
