//! `vxdp top`: rates, live, on a terminal.

mod app;
mod history;
mod rates;
mod screen;
mod sheet;

use std::io::{self, IsTerminal as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use crossterm::event::{Event, EventStream};
use futures::StreamExt as _;
use ratatui::DefaultTerminal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use self::app::App;
use crate::api::status::Status;
use crate::api::{Request, client};
use crate::causes::chain;
use crate::cli::TopArgs;

/// How long the daemon may take over an answer before the screen says so.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shows the rates until somebody quits.
///
/// # Errors
/// When there is no terminal, or no daemon answers at the start. One that goes away later is waited for.
pub fn top(args: &TopArgs) -> anyhow::Result<()> {
    if args.once || !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        bail!(
            "`vxdp top` is a live view and needs a terminal; for one look, or for a program: vxdp status --json"
        );
    }
    let socket = args.daemon.socket()?;
    let status = ask(&socket)?;
    let app = App::new(status, Instant::now(), args.interval);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // A panic gives the terminal back as well: `ratatui` sees to it.
    let ended = ratatui::try_init()
        .context("cannot use the terminal")
        .and_then(|terminal| runtime.block_on(live(terminal, app, socket)));
    // One that was closed cannot be given back.
    let _ = ratatui::try_restore();
    // A daemon that does not answer may keep a thread waiting.
    runtime.shutdown_background();
    ended
}

fn ask(socket: &Path) -> Result<Status, client::Error> {
    client::ask_within(PATIENCE, socket, &Request::Status)
}

/// Draws whenever something happens: an answer, a key, another size.
async fn live(mut terminal: DefaultTerminal, mut app: App, socket: PathBuf) -> anyhow::Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let mut events = EventStream::new();
    let (answer, mut answers) = mpsc::channel(1);
    tokio::spawn(keep_asking(socket, app.interval, answer));
    loop {
        terminal.draw(|frame| screen::draw(frame, &mut app)).context("cannot draw on the terminal")?;
        let ends = tokio::select! {
            event = events.next() => match event {
                Some(Ok(Event::Key(key))) => app.press(key),
                // Another size: drawn anew.
                Some(Ok(_)) => ControlFlow::Continue(()),
                // The terminal is gone.
                Some(Err(_)) | None => ControlFlow::Break(()),
            },
            Some(answer) = answers.recv() => {
                app.hear(answer, Instant::now());
                ControlFlow::Continue(())
            }
            _ = interrupted.recv() => ControlFlow::Break(()),
            _ = terminated.recv() => ControlFlow::Break(()),
            _ = hung_up.recv() => ControlFlow::Break(()),
        };
        if ends.is_break() {
            return Ok(());
        }
    }
}

/// Asks the daemon again and again, apart from the screen, which has to answer keys meanwhile.
async fn keep_asking(socket: PathBuf, every: Duration, answer: mpsc::Sender<Result<Status, String>>) {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first answer is there already.
    tick.tick().await;
    loop {
        tick.tick().await;
        let socket = socket.clone();
        let asked = tokio::task::spawn_blocking(move || ask(&socket).map_err(|error| chain(&error))).await;
        let heard = asked.unwrap_or_else(|panic| Err(panic.to_string()));
        if answer.send(heard).await.is_err() {
            return;
        }
    }
}
