//! Netlink notifications of one namespace, in order and in bounded memory.
//!
//! What the reader does not take stays in the socket's receive buffer, and when that is full the kernel
//! drops and says so (`ENOBUFS`): nothing queues up in this process.
//! `rtnetlink`'s own multicast connection forwards into an unbounded channel, which a storm would fill.

use std::io;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::MulticastGroup;
use socket2::{SockFilter, SockRef};

use crate::netns::Netns;

/// Receive buffer of a watch, in bytes, unless it is given another ([`Watch::with_buffer`]).
///
/// The kernel takes it twice, and a notification occupies some 800 bytes of that, so this holds 20,000: a burst that
/// the reader works off in a fraction of a second.
/// Much less overflows on every larger change and costs a dump each time.
pub const BUFFER: usize = 8 << 20;

/// The same where rows may come by the million: 80,000, which `bridge -batch` makes in one and a half seconds.
pub const BUFFER_FOR_STORMS: usize = 32 << 20;

/// Room for one datagram, of notifications or of a dump; the kernel never sends larger ones to a reader that takes this much
/// (`netlink_recvmsg`, `net/netlink/af_netlink.c`).
pub(crate) const DATAGRAM: usize = 32 << 10;

/// Datagrams that are thrown away before other tasks have their turn.
const DISCARDED_AT_ONCE: usize = 1024;

/// A subscription to a namespace's notifications.
pub struct Watch {
    socket: TokioSocket,
    datagram: Vec<u8>,
    only: Option<Only>,
    /// Beside the messages that were given out last.
    unread: bool,
    overflowed: bool,
}

/// What a watch reports.
#[derive(Debug)]
pub enum Notice {
    /// Messages of one datagram, in the kernel's order.
    Messages(Vec<RouteNetlinkMessage>),
    /// Something that `netlink-packet-route` does not read: a next hop object (`ip-nexthop(8)`) changed, or what a group
    /// makes of it, or a thing that newer kernels have.
    Unread,
    /// Notifications were lost (`ENOBUFS`): everything known must be dumped again. What changes from now on is told.
    Overflow,
}

/// Which notifications of its groups a watch takes; the kernel keeps the others out of its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Only {
    /// What changed.
    Changes,
    /// What the kernel asks for (`RTM_GETNEIGH`): l2miss, l3miss and resolution by an application.
    Questions,
}

impl Only {
    /// A socket filter (`Documentation/networking/filter.rst`) on the message's type.
    fn program(self) -> [SockFilter; 4] {
        // A filter loads in network byte order, and netlink's fields have the host's.
        let question = u32::from(u16::from_be_bytes(RTM_GETNEIGH.to_ne_bytes()));
        let (question_passes, other_passes) = match self {
            Self::Questions => (u32::MAX, 0),
            Self::Changes => (0, u32::MAX),
        };
        [
            SockFilter::new(BPF_LOAD_HALF_WORD, 0, 0, NLMSG_TYPE),
            SockFilter::new(BPF_JUMP_IF_EQUAL, 0, 1, question),
            SockFilter::new(BPF_RETURN, 0, 0, question_passes),
            SockFilter::new(BPF_RETURN, 0, 0, other_passes),
        ]
    }
}

/// `RTM_GETNEIGH` (`include/uapi/linux/rtnetlink.h`).
const RTM_GETNEIGH: u16 = 30;
/// Offset of a netlink message's type (`struct nlmsghdr`, `include/uapi/linux/netlink.h`).
const NLMSG_TYPE: u32 = 4;
/// `BPF_LD | BPF_H | BPF_ABS` (`include/uapi/linux/bpf_common.h`).
const BPF_LOAD_HALF_WORD: u16 = 0x28;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const BPF_JUMP_IF_EQUAL: u16 = 0x15;
/// `BPF_RET | BPF_K`.
const BPF_RETURN: u16 = 0x06;

impl Watch {
    /// Subscribes to `groups` in `namespace`.
    pub fn open(namespace: &Netns, groups: &[MulticastGroup]) -> io::Result<Self> {
        Self::open_filtered(namespace, groups, None)
    }

    /// Subscribes to some of what `groups` carry in `namespace`.
    pub fn open_only(namespace: &Netns, groups: &[MulticastGroup], only: Only) -> io::Result<Self> {
        Self::open_filtered(namespace, groups, Some(only))
    }

    fn open_filtered(namespace: &Netns, groups: &[MulticastGroup], only: Option<Only>) -> io::Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let socket = namespace.run(|| {
            let _guard = runtime.enter();
            let mut socket = TokioSocket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
            if let Some(only) = only {
                // Before the subscription, or it would not hold for what comes first.
                SockRef::from(socket.socket_ref()).attach_filter(&only.program())?;
            }
            socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
            for group in groups {
                socket.socket_mut().add_membership(*group as u32)?;
            }
            Ok(socket)
        })?;
        set_receive_buffer(socket.socket_ref(), BUFFER);
        Ok(Self { socket, datagram: Vec::with_capacity(DATAGRAM), only, unread: false, overflowed: false })
    }

    /// The same with a receive buffer of so many bytes.
    pub fn with_buffer(self, bytes: usize) -> Self {
        set_receive_buffer(self.socket.socket_ref(), bytes);
        self
    }

    /// Waits for the next notice. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> io::Result<Notice> {
        if std::mem::take(&mut self.unread) {
            return Ok(Notice::Unread);
        }
        if !self.overflowed {
            self.datagram.clear();
            match self.socket.recv_from(&mut self.datagram).await {
                Ok(_) => {
                    let (answers, unread) = split(&self.datagram);
                    if answers.is_empty() && unread {
                        return Ok(Notice::Unread);
                    }
                    self.unread = unread;
                    return Ok(Notice::Messages(inner(answers)));
                }
                Err(error) if is_overflow(&error) => self.overflowed = true,
                Err(error) => return Err(error),
            }
        }
        // No dump repeats a question.
        if self.only != Some(Only::Questions) {
            self.discard().await?;
        }
        self.overflowed = false;
        Ok(Notice::Overflow)
    }

    /// Empties the receive buffer. From the first loss on the kernel drops everything, without a further word, until
    /// the reader has done so (`NETLINK_S_CONGESTED`, net/netlink/af_netlink.c): a dump before would miss it.
    async fn discard(&mut self) -> io::Result<()> {
        loop {
            for _ in 0..DISCARDED_AT_ONCE {
                self.datagram.clear();
                match self.socket.socket_ref().recv(&mut self.datagram, 0) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) if is_overflow(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

fn is_overflow(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOBUFS as i32)
}

/// Reads the messages of a datagram; what the parser does not know is left out.
pub fn messages(datagram: &[u8]) -> Vec<RouteNetlinkMessage> {
    inner(answers(datagram))
}

fn inner(answers: Vec<NetlinkMessage<RouteNetlinkMessage>>) -> Vec<RouteNetlinkMessage> {
    let messages = answers.into_iter().filter_map(|answer| match answer.payload {
        NetlinkPayload::InnerMessage(message) => Some(message),
        _ => None,
    });
    messages.collect()
}

/// As [`messages`], with what netlink itself says: errors, the end of a dump, flags.
pub(crate) fn answers(datagram: &[u8]) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
    split(datagram).0
}

/// What the parser knows, and whether there is anything else.
fn split(mut datagram: &[u8]) -> (Vec<NetlinkMessage<RouteNetlinkMessage>>, bool) {
    let (mut found, mut unread) = (Vec::new(), false);
    while let Some(length) = datagram.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
        let Some(bytes) = datagram.get(..length).filter(|_| length > 0) else { return (found, true) };
        match NetlinkMessage::deserialize(bytes) {
            Ok(message) => found.push(message),
            Err(_) => unread = true,
        }
        // Messages are aligned to four bytes (`NLMSG_ALIGN`).
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    (found, unread)
}

/// Beyond the system's limit where we may, up to it where not; a smaller buffer only overflows earlier.
fn set_receive_buffer(socket: &netlink_sys::Socket, bytes: usize) {
    let forced = setsockopt(socket, sockopt::RcvBufForce, &bytes);
    if forced.is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::{NetlinkHeader, NetlinkMessage};
    use netlink_packet_route::neighbour::NeighbourMessage;

    fn serialized() -> Vec<u8> {
        let message = RouteNetlinkMessage::NewNeighbour(NeighbourMessage::default());
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), message.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn every_message_of_a_datagram_is_read() {
        assert_eq!(messages(&serialized().repeat(3)).len(), 3);
    }

    #[test]
    fn what_the_parser_does_not_know_is_noticed_beside_what_it_does() {
        // `RTM_NEWNEXTHOP` (`include/uapi/linux/rtnetlink.h`).
        let mut object = serialized();
        object[4..6].copy_from_slice(&104u16.to_ne_bytes());
        let of = |datagram: &[u8]| (split(datagram).0.len(), split(datagram).1);
        assert_eq!(of(&serialized()), (1, false));
        assert_eq!(of(&object), (0, true));
        assert_eq!(of(&[serialized(), object, serialized()].concat()), (2, true));
    }

    #[test]
    fn a_datagram_that_lies_about_its_length_is_read_as_far_as_it_goes() {
        let mut bytes = serialized().repeat(2);
        let second = bytes.len() / 2;
        for length in [0u32, 3, 15, 1 << 20, u32::MAX] {
            bytes[second..second + 4].copy_from_slice(&length.to_ne_bytes());
            assert!(messages(&bytes).len() <= 2);
        }
        assert!(messages(&[1, 2]).is_empty());
    }
}
