//! The documentation is true: every command of every page is typed in, in a lab, and shows what the page says.
//!
//! `docs/troubleshooting.md` has a test of its own, since its commands want trouble.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use vxdp_lab::{Daemon, Engine, Lab, Lifetime, Transcript, scenario};

const GETTING_STARTED: &str = include_str!("../../docs/getting-started.md");
const COMMANDS: &str = include_str!("../../docs/commands.md");
const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// How the commands begin that a lab cannot take, and who tries them instead.
const ELSEWHERE: &[(&str, &str)] = &[
    ("cargo xtask demo", "the lab is the demo's, tests/tests/lab.rs; the command would build again"),
    ("cargo xtask test", "we are in it"),
    ("cargo xtask run", "builds, then is `vxdp run`"),
    ("cargo xtask bench", "takes hours; its parts are tested in benches/"),
    ("sudo vxdp top", "takes a terminal, which tests/tests/top.rs has"),
    ("sudo dpkg", "xtask/src/dist/trial"),
    ("sudo tar", "would write to the machine's /usr; the files are the package's"),
    ("sudo systemctl", "xtask/src/dist/trial: a lab has no service manager"),
    (
        "sudo vxdp capture --write - | wireshark",
        "takes a screen; tests/tests/capture.rs reads it with tshark",
    ),
    ("sudo vxdp capture --write trace.pcapng --device", "goes on until Ctrl-C; tests/tests/capture.rs"),
    ("vxdp man | man", "xtask/src/dist/trial"),
];

fn is_elsewhere(command: &str) -> bool {
    ELSEWHERE.iter().any(|(beginning, _)| command.starts_with(beginning))
}

/// Types the transcripts in, in their order, and keeps the daemons that they start in `daemons`.
fn follow(lab: &Lab, daemons: &mut Vec<Daemon>, transcripts: Vec<Transcript>) -> Result<()> {
    for transcript in transcripts.into_iter().filter(|transcript| !is_elsewhere(&transcript.command)) {
        if transcript.command.starts_with("sudo vxdp run ") {
            let host = lab.hosts().get(transcript.host).context("no such host")?;
            daemons.push(host.type_daemon(&transcript.command)?);
        } else {
            transcript.is_true(lab.hosts(), Transcript::is_shown)?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn getting_started_gets_one_started() {
    scenario("started", |lab| {
        lab.hosts().iter().try_for_each(vxdp_lab::Host::prepare_for_pages)?;
        let mut daemons = Vec::new();
        let (with_namespaces, _) = GETTING_STARTED.split_once("\n## With Docker\n").context("no Docker")?;
        follow(lab, &mut daemons, Transcript::all(with_namespaces)?)?;
        ensure!(daemons.len() == 2, "the page starts {} daemons", daemons.len());
        for daemon in &mut daemons {
            ensure!(daemon.wait()?.success(), "`vxdp down` does not stop the daemon:\n{}", daemon.log_text());
        }
        for host in lab.hosts() {
            ensure!(host.netns_names()?.is_empty(), "{:?} are left", host.netns_names()?);
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root"]
fn getting_started_with_docker_gets_one_started() {
    scenario("started-docker", |lab| {
        let engine = Engine::find_or_start(lab, Lifetime::Bound)?;
        for host in lab.hosts() {
            host.prepare_for_pages()?;
            host.use_docker(&engine);
        }
        let mut transcripts = Transcript::under(GETTING_STARTED, "## With Docker")?;
        for transcript in &mut transcripts {
            transcript.command = transcript.command.replace("IMAGE", &engine.image_words());
        }
        let mut daemons = Vec::new();
        follow(lab, &mut daemons, transcripts)?;
        ensure!(daemons.len() == 2, "the page starts {} daemons", daemons.len());
        Ok(())
    });
}

/// Of `docs/commands.md` the figures are those of some host; everything else is as it says.
#[test]
#[ignore = "needs root"]
fn the_commands_show_what_their_page_says() {
    scenario("commands", |lab| {
        for (host, container) in lab.hosts().iter().zip(["c1", "c2"]) {
            host.prepare_for_pages()?;
            host.container(container)?;
            host.script("cp /usr/share/doc/vxdp/examples/host[12].toml /etc/vxdp")?;
        }
        let mut typed = Transcript::all(COMMANDS)?;
        // The page is in the order of use, and ends with what needs no daemon.
        let down = typed.iter().position(|t| t.command.starts_with("sudo vxdp down ")).context("no down")?;
        let down = typed.remove(down);
        let second = "sudo vxdp run --config /etc/vxdp/host2.toml --mode kernel";
        let mut daemons = vec![lab.h2().type_daemon(second)?];
        let mut untrue = Vec::new();
        for transcript in typed.iter().filter(|transcript| !is_elsewhere(&transcript.command)) {
            if transcript.command.starts_with("sudo vxdp run ") {
                let kernel = format!("{} --mode kernel", transcript.command);
                daemons.push(lab.h1().type_daemon(&kernel)?);
                vxdp_lab::Ping::new([10, 0, 0, 3]).expect_all(&lab.h1().netns("c1"))?;
            } else if let Err(error) = transcript.is_true(lab.hosts(), Transcript::is_alike) {
                untrue.push(format!("{error:#}"));
            }
        }
        ensure!(untrue.is_empty(), "{}", untrue.join("\n\n"));
        let upgrade = Transcript::under(OPERATIONS, "## Upgrading")?;
        follow(lab, &mut daemons, upgrade)?;
        lab.h1().type_in(&down.command)?.success()?;
        ensure!(lab.h1().netns_names()? == ["c1"], "{:?}", lab.h1().netns_names()?);
        Ok(())
    });
}

/// The pages that are followed from beginning to end, by the tests above and by `tests/tests/troubleshooting.rs`.
const FOLLOWED: [&str; 3] = ["getting-started.md", "commands.md", "troubleshooting.md"];

#[test]
fn every_command_of_every_page_is_typed_in_somewhere() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![root.join("README.md")];
    for page in std::fs::read_dir(root.join("docs"))? {
        pages.push(page?.path());
    }
    let mut commands = Vec::new();
    for page in pages.iter().filter(|page| page.is_file()) {
        let text = std::fs::read_to_string(page)?;
        if text.contains("```console") {
            let name = page.file_name().context("a page without a name")?.to_string_lossy().into_owned();
            commands.extend(Transcript::all(&text)?.into_iter().map(|t| (name.clone(), t.command)));
        }
    }
    let upgrade = Transcript::under(OPERATIONS, "## Upgrading")?;
    let typed: Vec<_> = commands.iter().filter(|(page, _)| FOLLOWED.contains(&page.as_str())).collect();
    for (page, command) in &commands {
        let known = is_elsewhere(command)
            || typed.iter().any(|(_, typed)| typed == command)
            || upgrade.iter().any(|upgrade| upgrade.command == *command);
        ensure!(known, "{page}: nobody types `{command}`");
    }
    for (beginning, _) in ELSEWHERE {
        let shown = commands.iter().any(|(_, command)| command.starts_with(beginning));
        ensure!(shown, "no page shows `{beginning}` any more");
    }
    Ok(())
}
