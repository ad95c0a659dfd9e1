//! A UDP echo in a container, and the client that asks it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use vxdp_lab::Place;

/// A request without an answer after this time is lost.
pub const LOST: Duration = Duration::from_millis(200);
/// How long the echo may take to notice that it is not needed any more.
const CHECK: Duration = Duration::from_millis(50);

/// Answers while it exists.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts it in `container`, on a port of the system's choice.
    pub fn start(container: &Place, address: IpAddr) -> Result<Self> {
        let socket = container.enter(|| Ok(UdpSocket::bind((address, 0))?))?;
        socket.set_read_timeout(Some(CHECK))?;
        let (address, done) = (socket.local_addr()?, Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let done = Arc::clone(&done);
            move || answer(&socket, &done)
        });
        Ok(Self { address, done, thread: Some(thread) })
    }

    /// Where to ask.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        // One that panicked has said so, and what it did not answer is lost.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A socket in `container` that asks the echo at `address`.
pub fn client(container: &Place, address: SocketAddr) -> Result<UdpSocket> {
    let client = container.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    client.connect(address)?;
    client.set_read_timeout(Some(LOST))?;
    Ok(client)
}

/// Sends back what comes, until it is told to end.
fn answer(echo: &UdpSocket, done: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !done.load(Ordering::Relaxed) {
        // A time limit that passed; or the client's, who will notice.
        if let Ok((length, client)) = echo.recv_from(&mut buffer) {
            let _ = echo.send_to(&buffer[..length], client);
        }
    }
}
