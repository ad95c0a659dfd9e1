//! Single values of the file: from TOML to checked types, or a sentence about what is wrong.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::IpNet;
use toml::de::{DeInteger, DeValue};
use vxdp_dataplane::wire::{InvalidVni, MacAddr, Vni};

use super::reader::Read;
use super::{Df, Engine, Hook, IfName, Install, Mode, NsName, Poll, Tos, Ttl, XdpAttach, ZeroCopy};

/// The kind of a value in TOML's words.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "string",
        DeValue::Integer(_) => "integer",
        DeValue::Float(_) => "float",
        DeValue::Boolean(_) => "boolean",
        DeValue::Datetime(_) => "date",
        DeValue::Array(_) => "list",
        DeValue::Table(_) => "table",
    }
}

/// The word with its article.
pub(super) fn article(word: &str) -> String {
    let an = word.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {word}", if an { "an" } else { "a" })
}

fn wrong_kind<T>(expected: &str, value: &DeValue<'_>) -> Read<T> {
    Err(format!("expected {expected}, found {}", article(kind(value))))
}

fn string<'v>(value: &'v DeValue<'_>, expected: &str) -> Read<&'v str> {
    value.as_str().map_or_else(|| wrong_kind(expected, value), Ok)
}

/// TOML's integers may be wider than ours; too wide is out of every range.
fn number(integer: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn integer(value: &DeValue<'_>, range: RangeInclusive<i64>) -> Read<i64> {
    let (first, last) = (range.start(), range.end());
    let Some(integer) = value.as_integer() else {
        return wrong_kind(&format!("an integer from {first} to {last}"), value);
    };
    number(integer)
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("{integer} is out of range; expected {first} to {last}"))
}

/// An integer of a type that holds the whole range.
fn ranged<T: TryFrom<i64>>(value: &DeValue<'_>, range: RangeInclusive<i64>) -> Read<T> {
    let number = integer(value, range)?;
    T::try_from(number).map_err(|_| format!("{number} is out of range"))
}

/// A string that parses, with an example for those that do not.
fn parsed<T: FromStr>(value: &DeValue<'_>, what: &str, example: &str) -> Read<T> {
    let text = string(value, &format!("{what} as a string, as in \"{example}\""))?;
    text.parse().map_err(|_| format!("`{text}` is not {what}; expected one as in \"{example}\""))
}

/// One of a few words.
fn word<T: Copy>(value: &DeValue<'_>, words: &[(&str, T)], or: &str) -> Read<T> {
    let names: Vec<_> = words.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let expected = format!("{}{or}", names.join(", "));
    let text = string(value, &format!("one of {expected}"))?;
    let found = words.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| format!("`{text}` is none of {expected}"))
}

fn sentence(error: impl Display) -> String {
    error.to_string()
}

pub(super) fn boolean(value: &DeValue<'_>) -> Read<bool> {
    value.as_bool().map_or_else(|| wrong_kind("true or false", value), Ok)
}

pub(super) fn vni(value: &DeValue<'_>) -> Read<Vni> {
    let Some(integer) = value.as_integer() else {
        return wrong_kind("a VNI, an integer from 0 to 16777215", value);
    };
    let checked = number(integer).and_then(|number| u32::try_from(number).ok()).map(Vni::new);
    match checked {
        Some(Ok(vni)) => Ok(vni),
        Some(Err(InvalidVni(number))) => Err(sentence(InvalidVni(number))),
        None => Err(format!("{integer} is not a VNI; expected 0 to 16777215 (24 bits)")),
    }
}

pub(super) fn port(value: &DeValue<'_>) -> Read<u16> {
    ranged(value, 1..=65535)
}

pub(super) fn workers(value: &DeValue<'_>) -> Read<u16> {
    ranged(value, 1..=256)
}

/// The number of a processor, of which a `cpu_set_t` holds 1024.
pub(super) fn cpu(value: &DeValue<'_>) -> Read<u16> {
    ranged(value, 0..=1023)
}

pub(super) fn mtu(value: &DeValue<'_>) -> Read<u32> {
    // RFC 791 lets no IPv4 link have less; the kernel lets no vxlan device have more.
    ranged(value, 68..=65535)
}

pub(super) fn ageing(value: &DeValue<'_>) -> Read<u32> {
    if value.as_integer().and_then(number) == Some(0) {
        // Seen on 6.18, at creation and on change.
        return Err(
            "0 is not possible: the kernel takes it for its default, 300; expected 1 to 4294967295".into()
        );
    }
    ranged(value, 1..=4_294_967_295)
}

pub(super) fn pid(value: &DeValue<'_>) -> Read<u32> {
    ranged(value, 1..=4_294_967_295)
}

pub(super) fn source_ports(value: &DeValue<'_>) -> Read<(u16, u16)> {
    let DeValue::Array(ends) = value else {
        return wrong_kind("a list of two ports, as in [49152, 65535]", value);
    };
    let [first, last] = &ends[..] else {
        return Err(format!("expected two ports, as in [49152, 65535], found {}", ends.len()));
    };
    let (first, last) = (port(first.get_ref())?, port(last.get_ref())?);
    if first > last {
        return Err(format!("the range is reversed; expected [{last}, {first}]"));
    }
    if first == last {
        // `udp_flow_src_port`, include/net/udp.h: the system's range is used unless first < last.
        return Err(format!("the kernel ignores a range of one port; expected more than {first} alone"));
    }
    Ok((first, last))
}

pub(super) fn ttl(value: &DeValue<'_>) -> Read<Ttl> {
    if value.is_integer() {
        let number = ranged::<u8>(value, 1..=255)?;
        return NonZeroU8::new(number).map(Ttl::Fixed).ok_or_else(|| "0 is out of range".to_owned());
    }
    word(value, &[("auto", Ttl::Auto), ("inherit", Ttl::Inherit)], " or an integer from 1 to 255")
}

pub(super) fn tos(value: &DeValue<'_>) -> Read<Tos> {
    if value.is_integer() {
        return match ranged(value, 0..=255)? {
            // `vxlan_xmit_one`, drivers/net/vxlan/vxlan_core.c: the device has no other word for it.
            1 => Err("the kernel takes 1 for \"inherit\"; expected \"inherit\", 0 or 2 to 255".into()),
            tos => Ok(Tos::Fixed(tos)),
        };
    }
    word(value, &[("inherit", Tos::Inherit)], " or an integer from 0 to 255")
}

pub(super) fn df(value: &DeValue<'_>) -> Read<Df> {
    word(value, &[("unset", Df::Unset), ("set", Df::Set), ("inherit", Df::Inherit)], "")
}

pub(super) fn mode(value: &DeValue<'_>) -> Read<Mode> {
    word(value, &[("auto", Mode::Auto), ("kernel", Mode::Kernel), ("xdp", Mode::Xdp)], "")
}

pub(super) fn engine(value: &DeValue<'_>) -> Read<Engine> {
    let words = [("auto", Engine::Auto), ("userspace", Engine::Userspace), ("inkernel", Engine::InKernel)];
    word(value, &words, "")
}

pub(super) fn hook(value: &DeValue<'_>) -> Read<Hook> {
    word(value, &[("tc", Hook::Tc), ("xdp", Hook::Xdp)], "")
}

pub(super) fn xdp_attach(value: &DeValue<'_>) -> Read<XdpAttach> {
    let words = [("auto", XdpAttach::Auto), ("driver", XdpAttach::Driver), ("generic", XdpAttach::Generic)];
    word(value, &words, "")
}

pub(super) fn zero_copy(value: &DeValue<'_>) -> Read<ZeroCopy> {
    word(value, &[("auto", ZeroCopy::Auto), ("require", ZeroCopy::Require), ("off", ZeroCopy::Off)], "")
}

pub(super) fn poll(value: &DeValue<'_>) -> Read<Poll> {
    let words = [("adaptive", Poll::Adaptive), ("busy", Poll::Busy), ("interrupt", Poll::Interrupt)];
    word(value, &words, "")
}

pub(super) fn install(value: &DeValue<'_>) -> Read<Install> {
    word(value, &[("static", Install::Static), ("on-miss", Install::OnMiss)], "")
}

pub(super) fn device(value: &DeValue<'_>) -> Read<IfName> {
    IfName::new(string(value, "a device name")?).map_err(sentence)
}

/// The name of a device that we make: not one that every namespace has already.
pub(super) fn new_device(value: &DeValue<'_>) -> Read<IfName> {
    let name = device(value)?;
    if name.as_str() == "lo" { Err("every namespace has a `lo` already".into()) } else { Ok(name) }
}

pub(super) fn namespace(value: &DeValue<'_>) -> Read<NsName> {
    NsName::new(string(value, "a namespace name")?).map_err(sentence)
}

pub(super) fn docker(value: &DeValue<'_>) -> Read<String> {
    let text = string(value, "the name or id of a Docker container")?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let valid = text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(allowed);
    if valid {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not the name or id of a Docker container"))
    }
}

pub(super) fn station_mac(value: &DeValue<'_>) -> Read<MacAddr> {
    let text = string(value, "a MAC address as a string, as in \"02:42:0a:00:00:02\"")?;
    let mac: MacAddr = text.parse().map_err(sentence)?;
    if mac.is_zero() {
        return Err(format!("{mac} is no container's address; expected a unicast MAC address"));
    }
    if mac.is_multicast() {
        return Err(format!("{mac} is a multicast address; expected one whose first octet is even"));
    }
    Ok(mac)
}

/// An address without prefix that a host may have.
pub(super) fn address(value: &DeValue<'_>) -> Read<IpAddr> {
    let example = "10.0.0.3";
    let text = string(value, &format!("an address as a string, as in \"{example}\""))?;
    if let Ok(net) = text.parse::<IpNet>() {
        return Err(format!("`{text}` has a prefix length; expected \"{}\"", net.addr()));
    }
    let address =
        text.parse().map_err(|_| format!("`{text}` is not an address; expected one as in \"{example}\""))?;
    unicast(address)
}

/// An address with its prefix that a host may have.
pub(super) fn interface_address(value: &DeValue<'_>) -> Read<IpNet> {
    let text = string(value, "an address with its prefix length as a string, as in \"10.0.0.2/24\"")?;
    if let Ok(bare) = text.parse::<IpAddr>() {
        let usual = if bare.is_ipv4() { 24 } else { 64 };
        return Err(format!("`{text}` has no prefix length; expected one as in \"{text}/{usual}\""));
    }
    let net: IpNet = parsed(value, "an address with its prefix length", "10.0.0.2/24")?;
    let address = unicast(net.addr())?;
    let (host_bits, family_bits) = (net.max_prefix_len() - net.prefix_len(), net.max_prefix_len());
    // RFC 3021 (IPv4) and RFC 6164 (IPv6): a prefix with two addresses has two hosts.
    if host_bits >= 2 && address == net.network() {
        let what =
            if family_bits == 32 { "the network's own address" } else { "the subnet-router anycast address" };
        return Err(format!("{address} is {what} in {}; expected a host's", net.trunc()));
    }
    if host_bits >= 2 && family_bits == 32 && address == net.broadcast() {
        return Err(format!("{address} is the broadcast address of {}; expected a host's", net.trunc()));
    }
    Ok(net)
}

fn unicast(address: IpAddr) -> Read<IpAddr> {
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Err(format!("{address} is an IPv4 address in IPv6 clothes; expected \"{v4}\""));
    }
    let what = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        _ => return Ok(address),
    };
    Err(format!("{address} is {what}; expected a host's"))
}

pub(super) fn metrics(value: &DeValue<'_>) -> Read<SocketAddr> {
    let address: SocketAddr = parsed(value, "an address with a port", "127.0.0.1:9490")?;
    if address.port() == 0 { Err("port 0 is no port; expected 1 to 65535".into()) } else { Ok(address) }
}

pub(super) fn socket(value: &DeValue<'_>) -> Read<PathBuf> {
    /// `sizeof(sun_path)` less the terminating zero (`unix(7)`).
    const MAX: usize = 107;
    let text = string(value, "a path as a string")?;
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(format!("`{text}` is not an absolute path"));
    }
    if text.len() > MAX {
        return Err(format!("the path has {} bytes; a Unix socket's has at most {MAX}", text.len()));
    }
    if text.contains('\0') || text.ends_with('/') || path.file_name().is_none() {
        return Err(format!("`{text}` is not the path of a file"));
    }
    Ok(path.to_owned())
}
