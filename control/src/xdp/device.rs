//! A network device as the XDP programs see it, and what is attached to it.

use std::fmt;
use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::instance::AttachError;
use crate::netns::Netns;

/// A network device.
#[derive(Debug, Clone)]
pub struct Device {
    /// The namespace it is in.
    pub netns: Netns,
    /// Its index there.
    pub index: u32,
    /// Its name, for messages.
    pub name: String,
}

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Regime {
    /// In the driver, before a socket buffer is made.
    Driver,
    /// In the network core, after it.
    Generic,
    /// On the NIC.
    Hardware,
}

/// The XDP program on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// Where it runs.
    pub regime: Regime,
    /// The kernel's number of the program, as `bpftool prog` shows it.
    pub program: u32,
}

impl Device {
    /// The XDP program that is attached to the device now, ours or another's.
    ///
    /// # Errors
    ///
    /// What the kernel answers; [`io::ErrorKind::NotFound`] or `ENODEV` when the device is gone.
    pub fn attached(&self) -> io::Result<Option<Attached>> {
        let link = self.netns.run(|| link(self.index))?;
        Ok(link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => attached(xdp),
            _ => None,
        }))
    }
}

impl Device {
    /// Whether taking a program off resets the device's queues, as the drivers of NICs do: a pause of seconds.
    ///
    /// A veth does not, and while it carries a program, its peer has no segmentation offload; so there the
    /// program is better taken off.
    ///
    /// # Errors
    ///
    /// As [`Self::attached`].
    pub fn resets_on_detach(&self) -> Result<bool, AttachError> {
        let failed = |source| AttachError::Device { device: self.to_string(), source };
        let link = self.netns.run(|| link(self.index)).map_err(failed)?;
        let mut infos = link.attributes.iter().filter_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        });
        Ok(!infos.any(|infos| infos.contains(&LinkInfo::Kind(InfoKind::Veth))))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({})", self.name, self.netns.label())
    }
}

impl fmt::Display for Regime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Driver => "driver",
            Self::Generic => "generic",
            Self::Hardware => "hardware",
        })
    }
}

/// Asks for one link over a socket of the moment: an answer of one message, no runtime needed.
fn link(index: u32) -> io::Result<LinkMessage> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(message));
    request.header.flags = NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(io::Error::other(format!("unexpected answer {other:?}"))),
    }
}

fn attached(xdp: &[LinkXdp]) -> Option<Attached> {
    let regime = xdp.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::Driver | XdpAttached::Multiple) => Some(Regime::Driver),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(Regime::Generic),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(Regime::Hardware),
        _ => None,
    })?;
    // With programs in several places there is no `ProgId`, only one attribute for each place.
    let program = xdp.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
            Some(*id)
        }
        _ => None,
    })?;
    Some(Attached { regime, program })
}
