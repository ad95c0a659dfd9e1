//! The API: newline-delimited JSON over a unix socket that only its owner may open.
//!
//! One request per line, one answer per line, in order.
//! A request is `{"version":1,"request":"status"}` and so on ([`Request`]); an answer is
//! `{"version":1,"ok":…}` or `{"version":1,"error":{"kind":"…","message":"…"}}`.
//! `docs/commands.md` documents both for those who write clients.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use vxdp_dataplane::wire::MacAddr;

use crate::capture::Wanted;
use crate::config::{Engine, Mode};
use crate::kernel::{as_text, as_texts};

pub mod client;
#[cfg(test)]
pub(crate) mod example;
pub mod server;
pub mod status;

/// Version of requests and answers. A daemon refuses every other one.
pub const VERSION: u32 = 1;

/// Longest request in bytes, its newline included.
pub const MAX_REQUEST: usize = 64 << 10;

/// What a client may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Everything on one screen.
    Status,
    /// The rows of one overlay or of all.
    FdbShow {
        /// Only overlays with this VNI.
        #[serde(default)]
        vni: Option<u32>,
        /// Only rows of these MACs; of all if empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty", with = "as_texts")]
        macs: Vec<MacAddr>,
    },
    /// Makes a remote container known.
    FdbAdd(Station),
    /// Forgets a remote container that was added, installed on a miss, or learned.
    FdbDel {
        /// Its overlay.
        vni: u32,
        /// UDP port of the overlay, where two have the VNI.
        #[serde(default)]
        port: Option<u16>,
        /// Its MAC.
        #[serde(with = "as_text")]
        mac: MacAddr,
    },
    /// Changes what carries known unicast.
    Mode {
        /// Only in overlays with this VNI.
        #[serde(default)]
        vni: Option<u32>,
        /// To this.
        mode: Mode,
        /// And to this engine.
        #[serde(default)]
        engine: Option<Engine>,
    },
    /// Copies of the frames that userspace carries. After an answer that is no error the connection carries
    /// pcapng, until the client hangs up.
    Capture(Wanted),
    /// Removes everything the configuration created, then stops.
    Down,
    /// Stops and leaves the overlay forwarding, for the daemon that asks and will take over; the answer comes
    /// when that one may begin.
    HandOver,
}

/// A remote container, as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Station {
    /// Its overlay.
    pub vni: u32,
    /// UDP port of the overlay, where two have the VNI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its MAC.
    #[serde(with = "as_text")]
    pub mac: MacAddr,
    /// Underlay address of its host.
    pub vtep: IpAddr,
    /// Its addresses; each gives an ARP or ND row.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// What the daemon answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It was done, or here it is.
    Ok(serde_json::Value),
    /// It was not done.
    Error(Refusal),
}

impl Answer {
    /// Success with nothing to say.
    pub fn done() -> Self {
        Self::Ok(serde_json::Value::Object(serde_json::Map::new()))
    }

    /// Success with `value`.
    pub fn with(value: &impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => Self::Ok(value),
            Err(error) => Self::refuse(Kind::Failed, format!("cannot write the answer as JSON: {error}")),
        }
    }

    /// Failure.
    pub fn refuse(kind: Kind, message: impl Into<String>) -> Self {
        Self::Error(Refusal { kind, message: message.into() })
    }
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Whose fault it is.
    pub kind: Kind,
    /// For the operator.
    pub message: String,
}

/// Whose fault it is that something was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The request cannot be read.
    BadRequest,
    /// The request speaks another version.
    BadVersion,
    /// The request names something that is not there or not allowed.
    Refused,
    /// The kernel, or something else on the host, did not do it.
    Failed,
    /// The daemon has no room for it now, or is stopping.
    Busy,
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

/// The line that carries `content`, newline included.
pub fn to_line(content: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&Envelope { version: VERSION, content })?;
    line.push(b'\n');
    Ok(line)
}

/// Reads a request; whatever the bytes are, the outcome is a request or a refusal.
pub fn read_request(line: &[u8]) -> Result<Request, Refusal> {
    let refuse = |kind, message: String| Err(Refusal { kind, message });
    let mut fields = match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line) {
        Ok(fields) => fields,
        Err(error) => return refuse(Kind::BadRequest, format!("not a JSON object: {error}")),
    };
    let Some(version) = fields.remove("version") else {
        return refuse(Kind::BadVersion, format!("no version; this daemon speaks version {VERSION}"));
    };
    if version != VERSION {
        return refuse(Kind::BadVersion, format!("version {version}; this daemon speaks version {VERSION}"));
    }
    match serde_json::from_value(serde_json::Value::Object(fields)) {
        Ok(request) => Ok(request),
        Err(error) => refuse(Kind::BadRequest, format!("not a request: {error}")),
    }
}

/// Reads an answer.
pub fn read_answer(line: &[u8]) -> serde_json::Result<Answer> {
    serde_json::from_slice::<Envelope<Answer>>(line).map(|envelope| envelope.content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn station() -> Station {
        Station {
            vni: 42,
            port: None,
            mac: MacAddr::new([2, 0x42, 10, 0, 0, 9]),
            vtep: IpAddr::from([192, 168, 10, 23]),
            addresses: vec![IpAddr::from([10, 0, 0, 9])],
        }
    }

    #[test]
    fn every_request_survives_the_wire() {
        let mac = station().mac;
        let wanted = Wanted {
            devices: vec!["eth0".into()],
            vni: Some(42),
            direction: crate::capture::Direction::Leaves,
            filter: Some("icmp".into()),
            snap_length: 96,
        };
        for request in [
            Request::Status,
            Request::FdbShow { vni: None, macs: Vec::new() },
            Request::FdbShow { vni: Some(42), macs: vec![mac] },
            Request::FdbAdd(station()),
            Request::FdbDel { vni: 42, port: Some(4789), mac },
            Request::Mode { vni: Some(42), mode: Mode::Xdp, engine: Some(Engine::InKernel) },
            Request::Capture(wanted),
            Request::Down,
            Request::HandOver,
        ] {
            let line = to_line(&request).expect("a line");
            assert_eq!(read_request(&line), Ok(request));
        }
    }

    #[test]
    fn an_answer_survives_the_wire() {
        let line = to_line(&Answer::refuse(Kind::Refused, "no")).expect("a line");
        assert_eq!(line, b"{\"version\":1,\"error\":{\"kind\":\"refused\",\"message\":\"no\"}}\n");
        assert!(matches!(read_answer(&line), Ok(Answer::Error(Refusal { kind: Kind::Refused, .. }))));
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let refusal = read_request(br#"{"version":2,"request":"status"}"#).expect_err("another version");
        assert_eq!(refusal.kind, Kind::BadVersion);
        assert!(refusal.message.contains('2'), "{refusal}");
        assert_eq!(read_request(br#"{"request":"status"}"#).map_err(|r| r.kind), Err(Kind::BadVersion));
    }

    #[test]
    fn a_misspelt_field_is_refused_by_name() {
        let line = br#"{"version":1,"request":"fdb-add","vni":42,"mac":"02:42:0a:00:00:09","vtep":"192.168.10.23","adress":[]}"#;
        let refusal = read_request(line).expect_err("an unknown field");
        assert!(refusal.message.contains("adress"), "{refusal}");
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_request_or_a_refusal(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_request(&bytes);
        }

        #[test]
        fn a_mutated_request_gives_a_request_or_a_refusal(at in 0usize..120, byte in any::<u8>()) {
            let mut line = to_line(&Request::FdbAdd(station())).expect("a line");
            let at = at % line.len();
            line[at] = byte;
            let _ = read_request(&line);
        }
    }
}
