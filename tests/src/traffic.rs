//! TCP and UDP between places, with every byte checked.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::place::Place;

/// Time after which a socket that neither sends nor receives is an error.
const STALLED: Duration = Duration::from_secs(10);

/// Sends `bytes` bytes over one TCP connection from `from` to the address `address` of `to`, and checks each.
pub fn tcp_transfer(from: &Place, to: &Place, address: impl Into<IpAddr>, bytes: usize) -> Result<()> {
    let address = address.into();
    let listener = to.enter(|| Ok(TcpListener::bind((address, 0))?))?;
    let port = listener.local_addr()?.port();
    let receiver = std::thread::spawn(move || receive(&listener, bytes));
    let sent = from.enter(|| send((address, port).into(), bytes));
    if sent.is_err() {
        // The receiver waits in `accept`, which has no time limit: let it go.
        let _ = to.enter(|| Ok(TcpStream::connect_timeout(&(address, port).into(), STALLED)?));
    }
    let received = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let route = || format!("TCP {} → {} ({address})", from.label(), to.label());
    sent.with_context(route)?;
    received.with_context(route)
}

/// The byte at `position` of the stream: a period that no power of two divides shows blocks that moved.
fn byte_at(position: usize) -> u8 {
    (position % 251) as u8
}

fn send(address: SocketAddr, bytes: usize) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, STALLED).context("while connecting")?;
    stream.set_write_timeout(Some(STALLED))?;
    let data = (0..bytes).map(byte_at).collect::<Vec<_>>();
    stream.write_all(&data).context("while sending")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    Ok(())
}

fn receive(listener: &TcpListener, bytes: usize) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(STALLED))?;
    let mut data = Vec::with_capacity(bytes);
    stream.read_to_end(&mut data).with_context(|| format!("after {} of {bytes} bytes", data.len()))?;
    ensure!(data.len() == bytes, "{} of {bytes} bytes came", data.len());
    let wrong = data.iter().enumerate().find(|(position, byte)| **byte != byte_at(*position));
    ensure!(wrong.is_none(), "wrong byte (position, value): {wrong:?}");
    Ok(())
}

/// A UDP socket in `from`, connected to one that waits at the address `address` of `to`; what they receive they
/// wait for as long as `patience`.
pub fn udp_pair(
    from: &Place,
    to: &Place,
    address: impl Into<IpAddr>,
    patience: Duration,
) -> Result<[UdpSocket; 2]> {
    let address = address.into();
    let server = to.enter(|| Ok(UdpSocket::bind((address, 0))?))?;
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let client = from.enter(|| Ok(UdpSocket::bind((any, 0))?))?;
    client.connect(server.local_addr()?)?;
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(patience))?;
    }
    Ok([client, server])
}

/// Sends one datagram of each of `lengths` from `from` to `address` in `to` and back, and checks each.
pub fn udp_exchange(from: &Place, to: &Place, address: impl Into<IpAddr>, lengths: &[usize]) -> Result<()> {
    let address = address.into();
    let [client, server] = udp_pair(from, to, address, STALLED)?;
    for &length in lengths {
        let data = (0..length).map(byte_at).collect::<Vec<_>>();
        let mut buffer = vec![0; 65536];
        let route = || format!("UDP {} ⇄ {} ({address}), {length} bytes", from.label(), to.label());
        client.send(&data).with_context(route)?;
        let (count, peer) = server.recv_from(&mut buffer).with_context(route)?;
        ensure!(buffer[..count] == data, "{}: {count} bytes came, or others", route());
        server.send_to(&data, peer).with_context(route)?;
        let count = client.recv(&mut buffer).with_context(route)?;
        ensure!(buffer[..count] == data, "{}: {count} bytes came back, or others", route());
    }
    Ok(())
}
