//! `vxdp top` in a real terminal, beside the real daemon: what it shows of a ping, and how it ends.

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, SlavePty, native_pty_system};
use vxdp_lab::{Attachment, Host, Lifetime, Mode, Ping, TwoHosts, vxdp_binary, wait_until};

const SOON: Duration = Duration::from_secs(10);

/// The time between two pings.
const BETWEEN: Duration = Duration::from_millis(20);

/// Many more frames per second than the pings can be: nobody has sent so many.
const ABSURD: f64 = 1000.0;

/// A terminal with `vxdp top` in it.
struct Terminal {
    master: Box<dyn MasterPty + Send>,
    // Kept, so that its settings can be read when the program has ended.
    _slave: Box<dyn SlavePty + Send>,
    keys: Box<dyn Write + Send>,
    top: Box<dyn Child + Send + Sync>,
    shown: Arc<Mutex<vt100::Parser>>,
    modes: String,
}

fn size(columns: u16, rows: u16) -> PtySize {
    PtySize { rows, cols: columns, pixel_width: 0, pixel_height: 0 }
}

fn parser_size(columns: u16, rows: u16) -> Result<(NonZeroU16, NonZeroU16)> {
    NonZeroU16::new(rows).zip(NonZeroU16::new(columns)).context("no size")
}

impl Terminal {
    fn open(host: &Host, columns: u16, rows: u16) -> Result<Self> {
        let pair = native_pty_system().openpty(size(columns, rows))?;
        let words = [vxdp_binary()?.into_os_string(), "top".into(), "--interval".into(), "0.2".into()];
        let command = host.command(words);
        let mut builder = CommandBuilder::new(command.get_program());
        builder.args(command.get_args());
        command.get_envs().for_each(|(name, value)| builder.env(name, value.unwrap_or_default()));
        builder.env("TERM", "xterm-256color");
        let modes = modes_of(&*pair.master)?;
        let top = pair.slave.spawn_command(builder)?;
        let (lines, width) = parser_size(columns, rows)?;
        let shown = Arc::new(Mutex::new(vt100::Parser::new(lines, width, 0)));
        let (mut output, screen) = (pair.master.try_clone_reader()?, Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                screen.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..count]);
            }
        });
        let keys = pair.master.take_writer()?;
        Ok(Self { master: pair.master, _slave: pair.slave, keys, top, shown, modes })
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        self.keys.write_all(keys.as_bytes())?;
        Ok(self.keys.flush()?)
    }

    fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let (lines, width) = parser_size(columns, rows)?;
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).screen_mut().set_size(lines, width);
        self.master.resize(size(columns, rows))
    }

    fn text(&self) -> String {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).screen().contents()
    }

    /// Waits until all of `words` are on the screen.
    fn shows(&self, words: &[&str]) -> Result<()> {
        let there = || {
            let text = self.text();
            Ok(words.iter().all(|word| text.contains(word)))
        };
        wait_until(&format!("the screen shows {words:?}"), SOON, there)
            .with_context(|| format!("on the screen:\n{}", self.text()))
    }

    /// The frames per second into tunnels of a path, while they are known.
    fn rate(&self, path: &str) -> Option<f64> {
        let text = self.text();
        let line = text.lines().find(|line| line.starts_with(&format!("{path} ")))?;
        let figure = line.split_whitespace().nth(1)?;
        match figure.strip_suffix('k') {
            Some(thousands) => Some(thousands.parse::<f64>().ok()? * 1e3),
            // Millions and more are absurd here, whatever they are.
            None if figure.ends_with(|last: char| last.is_ascii_uppercase()) => Some(f64::INFINITY),
            None => figure.parse().ok(),
        }
    }

    /// Wants a clean end that leaves the terminal as it was found.
    fn ended(&mut self) -> Result<()> {
        let mut status = None;
        wait_until("vxdp top has ended", SOON, || {
            status = self.top.try_wait()?;
            Ok(status.is_some())
        })?;
        ensure!(status.as_ref().is_some_and(|status| status.success()), "{status:?}\n{}", self.text());
        wait_until("the screen is the one from before", SOON, || {
            let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(!shown.screen().alternate_screen() && !shown.screen().hide_cursor())
        })?;
        let modes = modes_of(&*self.master)?;
        ensure!(modes == self.modes, "the terminal's modes were {}, and are {modes}", self.modes);
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Already gone after `ended`.
        let _ = self.top.kill();
        let _ = self.top.wait();
    }
}

/// What raw mode changes.
fn modes_of(master: &dyn MasterPty) -> Result<String> {
    let modes = master.get_termios().context("no terminal")?;
    Ok(format!("{:?} {:?} {:?}", modes.input_flags, modes.output_flags, modes.local_flags))
}

/// What it shows of pings in this mode, with keys, other sizes, and a daemon that ends and another that begins.
fn shows_pings(mode: Mode, path: &str) -> Result<()> {
    let mut scenario = TwoHosts::build("top", Attachment::Netns, mode, Lifetime::Bound)?;
    let [(c1, _), (_, address2)] = scenario.containers()?;
    // The first frames are the kernel's in every mode.
    Ping::new(address2).count(2).expect_all(&c1)?;
    let ping = Ping::new(address2).count(3000).interval(BETWEEN).start(&c1)?;
    let mut terminal = Terminal::open(scenario.lab().h1(), 80, 24)?;
    terminal.shows(&["mode ", "192.168.10.21", "ENCAP/S", "q quit"])?;
    let carries = |terminal: &Terminal| {
        let mut highest = 0.0_f64;
        let seen = wait_until("the pings have a rate", SOON, || {
            let rate = terminal.rate(path).unwrap_or_default();
            highest = highest.max(rate);
            Ok(rate >= 5.0)
        });
        seen.with_context(|| format!("on the screen:\n{}", terminal.text()))?;
        ensure!(highest < ABSURD, "{highest} frames per second on the path {path}");
        Ok(())
    };
    carries(&terminal)?;
    terminal.shows(&["█"])?;
    terminal.shows(&["NEXT HOP", "192.168.10.22"])?;
    terminal.press("2")?;
    terminal.shows(&["DEVICE", "ENCAP/S▼", "PASSED/S", "veth2"])?;
    terminal.press("s")?;
    terminal.shows(&["BIT/S▼"])?;
    terminal.press("r")?;
    terminal.shows(&["BIT/S▲"])?;
    terminal.press("\t")?;
    terminal.shows(&["VNI", "PORT", "4789", path])?;
    terminal.press("4")?;
    let reasons = if mode.is_fast() { "passed" } else { "no frame was dropped" };
    terminal.shows(&[reasons])?;
    terminal.resize(80, 2)?;
    terminal.shows(&["needs 74 columns and 12 rows; here are 80 and 2"])?;
    terminal.resize(100, 30)?;
    terminal.shows(&["q quit", reasons])?;

    scenario.stop_daemons()?;
    terminal.shows(&["no answer for", "no daemon answers at /run/vxdp/vxdp.sock"])?;
    let hosts = scenario.lab().hosts();
    let start = |host: &Host| host.start_vxdp(&host.config_path(), mode);
    let _daemons = hosts.iter().map(start).collect::<Result<Vec<_>>>()?;
    if mode.is_fast() {
        hosts.iter().try_for_each(Host::wait_for_fast_path)?;
    }
    carries(&terminal)?;
    ensure!(!terminal.text().contains("no answer"), "{}", terminal.text());
    terminal.press("q")?;
    terminal.ended()?;
    drop(ping);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn top_shows_pings_on_the_kernels_path() {
    shows_pings(Mode::Kernel, "kernel").expect("kernel");
}

#[test]
#[ignore = "needs root"]
fn top_shows_pings_of_the_userspace_engine() {
    shows_pings(Mode::Xdp, "userspace").expect("userspace");
}

#[test]
#[ignore = "needs root"]
fn top_shows_pings_of_the_inkernel_engine() {
    shows_pings(Mode::InKernel, "inkernel").expect("inkernel");
}

/// Whatever ends it, and whatever the daemon does meanwhile, the terminal is as it was.
#[test]
#[ignore = "needs root"]
fn top_gives_the_terminal_back_at_a_key_at_a_signal_and_while_the_daemon_hangs() {
    let outcome = || -> Result<()> {
        let scenario = TwoHosts::build("topend", Attachment::Netns, Mode::Kernel, Lifetime::Bound)?;
        let host = scenario.lab().h1();
        for keys in ["q", "\u{3}", "\u{1b}"] {
            let mut terminal = Terminal::open(host, 80, 24)?;
            terminal.shows(&["q quit"])?;
            terminal.press(keys)?;
            terminal.ended().with_context(|| format!("{keys:?}"))?;
        }
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            // In two lines as well.
            let mut terminal = Terminal::open(host, 80, 2)?;
            terminal.shows(&["vxdp top needs"])?;
            let pid = terminal.top.process_id().context("no process")?;
            kill(Pid::from_raw(pid.cast_signed()), signal)?;
            terminal.ended().with_context(|| format!("{signal}"))?;
        }
        let mut terminal = Terminal::open(host, 80, 24)?;
        terminal.shows(&["q quit"])?;
        let daemon = Pid::from_raw(scenario.daemon(0)?.pid().cast_signed());
        kill(daemon, Signal::SIGSTOP)?;
        terminal.shows(&["no answer for", "has not answered for 5s"])?;
        kill(daemon, Signal::SIGCONT)?;
        wait_until("it goes on", SOON, || Ok(!terminal.text().contains("no answer")))?;
        kill(daemon, Signal::SIGSTOP)?;
        terminal.press("q")?;
        terminal.ended()?;
        Ok(kill(daemon, Signal::SIGCONT)?)
    };
    outcome().expect("given back");
}
