//! Asking rtnetlink: requests whose refusal says what the kernel said, many at a time, and whole dumps.

use std::fmt;
use std::io;

use futures::{Stream, StreamExt};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlaBuffer, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use rtnetlink::Handle;

use super::ledger::LedgerError;

/// The error answer carries attributes (`linux/netlink.h`).
const NLM_F_ACK_TLVS: u16 = 0x200;
/// The dump was inconsistent, because something changed while it was made.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The attribute with the kernel's own words.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Length of the request's header, which a capped error answer repeats.
const NLMSG_HEADER: usize = 16;

/// What the kernel answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// Error number; 0 if it was not the kernel that refused: the connection broke, the ledger is full.
    pub errno: i32,
    /// The kernel's own words, where it has some.
    pub words: Option<String>,
}

impl Refusal {
    pub(super) fn is(&self, errno: Errno) -> bool {
        self.errno == errno as i32
    }

    fn broken() -> Self {
        Self { errno: 0, words: Some("the netlink connection broke".into()) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.words, self.errno) {
            (Some(words), 0) => f.write_str(words),
            (Some(words), errno) => write!(f, "{} ({words})", io::Error::from_raw_os_error(errno)),
            (None, errno) => write!(f, "{}", io::Error::from_raw_os_error(errno)),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self { errno, words: None },
            None => Self { errno: 0, words: Some(error.to_string()) },
        }
    }
}

impl From<LedgerError> for Refusal {
    fn from(error: LedgerError) -> Self {
        Self { errno: 0, words: Some(error.to_string()) }
    }
}

/// A request that was sent and not yet answered.
pub(super) struct Asked(Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send + Unpin>);

/// Sends one request; `flags` come on top of `NLM_F_REQUEST | NLM_F_ACK`.
pub(super) fn send(handle: &mut Handle, message: RouteNetlinkMessage, flags: u16) -> Result<Asked, Refusal> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let answers = handle.request(request).map_err(|_| Refusal::broken())?;
    Ok(Asked(Box::new(answers)))
}

impl Asked {
    /// Waits for the acknowledgement, or for the object that the kernel sends with it.
    pub(super) async fn answer(mut self) -> Result<Option<RouteNetlinkMessage>, Refusal> {
        let mut object = None;
        while let Some(message) = self.0.next().await {
            match message.payload {
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    let tlvs = message.header.flags & NLM_F_ACK_TLVS != 0;
                    let words = if tlvs { words_of(&error.header) } else { None };
                    return Err(Refusal { errno: error.raw_code().abs(), words });
                }
                NetlinkPayload::InnerMessage(inner) => object = Some(inner),
                _ => {}
            }
        }
        Ok(object)
    }
}

/// Sends one request and waits.
pub(super) async fn ask(
    handle: &mut Handle,
    message: RouteNetlinkMessage,
    flags: u16,
) -> Result<Option<RouteNetlinkMessage>, Refusal> {
    send(handle, message, flags)?.answer().await
}

/// Dumps a table into `each`. `false` if it changed meanwhile and the dump must be made again.
pub(crate) async fn dump(
    handle: &mut Handle,
    message: RouteNetlinkMessage,
    mut each: impl FnMut(RouteNetlinkMessage),
) -> Result<bool, Refusal> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut answers = handle.request(request).map_err(|_| Refusal::broken())?;
    let mut consistent = true;
    while let Some(message) = answers.next().await {
        consistent &= message.header.flags & NLM_F_DUMP_INTR == 0;
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => each(inner),
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(Refusal { errno: error.raw_code().abs(), words: None });
            }
            _ => {}
        }
    }
    Ok(consistent)
}

/// The kernel's words out of an extended acknowledgement.
fn words_of(after_code: &[u8]) -> Option<String> {
    let mut attributes = NlasIterator::new(after_code.get(NLMSG_HEADER..)?);
    let words = attributes.find_map(|attribute| {
        let attribute: NlaBuffer<_> = attribute.ok()?;
        (attribute.kind() == NLMSGERR_ATTR_MSG).then(|| attribute.value().to_vec())
    })?;
    let text = String::from_utf8_lossy(&words);
    Some(text.trim_end_matches('\0').to_owned())
}
