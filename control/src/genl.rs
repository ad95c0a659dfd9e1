//! Requests to families of generic netlink, whose messages we take apart attribute by attribute.

use std::io;
use std::marker::PhantomData;

use futures::StreamExt as _;
use genetlink::{GenetlinkError, GenetlinkHandle};
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla as _,
    NlasIterator, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

use crate::netns::Netns;

/// A family, by the name under which the kernel gives out its number.
pub(crate) trait Family: std::fmt::Debug + Clone + Send + Sync + 'static {
    /// Its name.
    const NAME: &'static str;
}

/// Why a request came to nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was not sent, or not answered.
    Exchange(GenetlinkError),
    /// The kernel said no.
    Refused(io::Error),
}

/// A message of a family.
#[derive(Debug, Clone)]
pub(crate) struct Message<F> {
    command: u8,
    pub(crate) attributes: Vec<DefaultNla>,
    family: PhantomData<F>,
}

impl<F: Family> Message<F> {
    pub(crate) fn new(command: u8, attributes: Vec<DefaultNla>) -> Self {
        Self { command, attributes, family: PhantomData }
    }

    /// Sends it as a request; the answers.
    pub(crate) async fn ask(self, handle: &mut GenetlinkHandle) -> Result<Vec<Self>, Failure> {
        let mut message = NetlinkMessage::from(GenlMessage::from_payload(self));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let mut stream = Box::pin(handle.request(message).await.map_err(Failure::Exchange)?);
        let mut answers = Vec::new();
        while let Some(answer) = stream.next().await {
            match answer.map_err(|error| Failure::Exchange(error.into()))?.payload {
                NetlinkPayload::InnerMessage(message) => answers.push(message.payload),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(Failure::Refused(error.to_io()));
                }
                _ => {}
            }
        }
        Ok(answers)
    }
}

/// A socket in a namespace.
pub(crate) fn open(netns: &Netns) -> io::Result<GenetlinkHandle> {
    let runtime = tokio::runtime::Handle::current();
    let (connection, handle, _) = netns.run(|| {
        let _guard = runtime.enter();
        genetlink::new_connection()
    })?;
    runtime.spawn(connection);
    Ok(handle)
}

/// The bytes of an attribute.
pub(crate) fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}

impl<F: Family> GenlFamily for Message<F> {
    fn family_name() -> &'static str {
        F::NAME
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        1
    }
}

impl<F> Emitable for Message<F> {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl<F: Family> ParseableParametrized<[u8], GenlHeader> for Message<F> {
    fn parse_with_param(buffer: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(buffer).map(|part| {
            let part = part?;
            Ok(DefaultNla::new(part.kind(), part.value().to_vec()))
        });
        Ok(Self::new(header.cmd, attributes.collect::<Result<_, DecodeError>>()?))
    }
}
