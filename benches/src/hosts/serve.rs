//! The sink's side: waits for one measuring side after the other, and does what it asks.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use vxdp_control::config::Config;
use vxdp_lab::Mode;

use super::here::{Here, ipv4, known, read};
use super::message::{Answer, Line, Request, Welcome};
use crate::echo::Echo;
use crate::report::Machine;
use crate::sink::{Counter, Sink};

/// Pause between two looks whether somebody has come.
const LOOK: Duration = Duration::from_millis(50);

/// Serves until it is interrupted.
///
/// # Errors
/// When the file cannot be read, or nothing can listen on the VTEP's address. What goes wrong with a guest is said
/// to the guest.
pub fn serve(file: &Path, port: u16) -> Result<()> {
    let config = read(file)?;
    let address = (config.underlay.local, port);
    let listener = TcpListener::bind(address)
        .with_context(|| format!("while listening on {}, port {port}", config.underlay.local))?;
    listener.set_nonblocking(true)?;
    eprintln!("waiting on {}, port {port}; Ctrl-C ends it", config.underlay.local);
    while !vxdp_lab::interrupted() {
        match listener.accept() {
            Ok((stream, from)) if is_peer(&config, from.ip()) => match attend(&config, stream, from.ip()) {
                Ok(()) => eprintln!("{from} is done"),
                Err(error) => eprintln!("{from}: {error:#}"),
            },
            Ok((_, from)) => eprintln!("refused {from}: no `remote` and no `flood` of the file names it"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(LOOK),
            Err(error) => return Err(error).context("while waiting for the measuring side"),
        }
    }
    Ok(())
}

/// Only hosts of the overlays may ask for anything.
fn is_peer(config: &Config, address: IpAddr) -> bool {
    let vteps = |overlay: &vxdp_control::config::Overlay| {
        let remotes = overlay.remotes.iter().map(|remote| remote.vtep);
        remotes.chain(overlay.flood.iter().copied()).collect::<Vec<_>>()
    };
    config.overlays.iter().flat_map(vteps).any(|vtep| vtep == address.to_canonical())
}

/// Does what one guest asks, until it hangs up; then everything is as it was.
fn attend(config: &Config, stream: TcpStream, from: IpAddr) -> Result<()> {
    let mut line = Line::over(stream)?;
    let (version, vni, address) = match line.receive(Some(Duration::from_secs(5)))? {
        Some(Request::Hello { version, vni, address }) => (version, vni, address),
        other => bail!("it does not say who it is: {other:?}"),
    };
    let mut work = match Work::begin(config, &version, vni, address) {
        Ok(work) => work,
        Err(error) => return line.send(&Answer::Refused(format!("{error:#}"))),
    };
    eprintln!("{from} measures towards {address} of overlay {vni}");
    line.send(&done(&Welcome { mac: work.here.mac, machine: Machine::here() })?)?;
    while let Some(request) = line.receive(None)? {
        let answer = work.serve(request).unwrap_or_else(|error| Answer::Refused(format!("{error:#}")));
        line.send(&answer)?;
    }
    Ok(())
}

/// What is there for one guest. In the order in which it has to go.
struct Work {
    sink: Option<Sink>,
    echo: Option<Echo>,
    mode: Option<Mode>,
    here: Here,
}

impl Work {
    fn begin(config: &Config, version: &str, vni: u32, address: Ipv4Addr) -> Result<Self> {
        let own = env!("CARGO_PKG_VERSION");
        ensure!(version == own, "it is of version {own}, the measuring side of version {version}");
        let overlay = config.overlays.iter().find(|overlay| overlay.vni.get() == vni);
        let overlay = overlay.with_context(|| format!("the sink's file has no overlay {vni}"))?;
        let container = overlay.containers.iter().find(|container| ipv4(container) == Some(address));
        let container = container.with_context(|| {
            format!("the sink's file has no container {address} in overlay {vni}; there: {}", known(overlay))
        })?;
        let here = Here::find(config, overlay, container)?;
        Ok(Self { sink: None, echo: None, mode: None, here })
    }

    fn serve(&mut self, request: Request) -> Result<Answer> {
        match request {
            Request::Hello { .. } => bail!("that has been said already"),
            Request::Mode(mode) => {
                self.here.switch(mode)?;
                self.mode = Some(mode);
                done(&())
            }
            Request::Regime(named) => done(&self.here.regime(named.kind()?)?),
            Request::Carried => done(&self.here.carried()?),
            Request::Count => {
                let hook = self.here.sink_hook(self.mode.context("no mode was asked for yet")?);
                // The old one has to be gone before.
                self.sink = None;
                self.sink = Some(Sink::open(&self.here.container, &self.here.device, hook)?);
                done(&())
            }
            Request::Frames => done(&self.counting()?.frames()?),
            Request::Drained => done(&self.counting()?.drained()?),
            Request::Echo => {
                let echo = Echo::start(&self.here.container, self.here.address.into())?;
                let address = echo.address();
                self.echo = Some(echo);
                done(&address)
            }
            Request::Rest => {
                (self.sink, self.echo) = (None, None);
                done(&())
            }
        }
    }

    fn counting(&mut self) -> Result<&mut Sink> {
        self.sink.as_mut().context("there is no sink yet")
    }
}

fn done(value: &impl Serialize) -> Result<Answer> {
    Ok(Answer::Done(serde_json::to_value(value)?))
}
