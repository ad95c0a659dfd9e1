//! The sink's side, as the measuring side sees it.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use super::message::{Answer, Line, Request, Welcome};
use crate::sink::Counter;

/// How long it takes to reach a host that is there.
const REACHED: Duration = Duration::from_secs(5);
/// Longer than a daemon takes for a change of mode.
const PATIENCE: Duration = Duration::from_secs(75);

/// The connection. Its clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Far {
    line: Arc<Mutex<Line>>,
    address: SocketAddr,
}

impl Far {
    /// Connects, and asks for the container with this address.
    pub(super) fn connect(address: SocketAddr, vni: u32, container: Ipv4Addr) -> Result<(Self, Welcome)> {
        let stream = TcpStream::connect_timeout(&address, REACHED).with_context(|| {
            format!(
                "no sink answers at {address}; start it there with: cargo xtask bench --sink --config FILE"
            )
        })?;
        let far = Self { line: Arc::new(Mutex::new(Line::over(stream)?)), address };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let welcome = far.ask(&Request::Hello { version, vni, address: container })?;
        Ok((far, welcome))
    }

    /// Asks, and waits for the answer.
    pub(super) fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let at = || format!("the sink at {}", self.address);
        line.send(request).with_context(at)?;
        match line.receive(Some(PATIENCE)).with_context(at)? {
            Some(Answer::Done(value)) => serde_json::from_value(value).with_context(at),
            Some(Answer::Refused(reason)) => bail!("{}: {reason}", at()),
            None => bail!("{} has hung up", at()),
        }
    }
}

/// The sink over there, attached and taken away again.
#[derive(Debug)]
pub(super) struct FarSink(Far);

impl FarSink {
    pub(super) fn open(far: &Far) -> Result<Self> {
        far.ask::<()>(&Request::Count)?;
        Ok(Self(far.clone()))
    }
}

impl Counter for FarSink {
    fn frames(&mut self) -> Result<u64> {
        self.0.ask(&Request::Frames)
    }

    fn drained(&mut self) -> Result<u64> {
        self.0.ask(&Request::Drained)
    }
}

impl Drop for FarSink {
    fn drop(&mut self) {
        // Who has hung up has taken it away.
        let _ = self.0.ask::<()>(&Request::Rest);
    }
}
