//! Who holds the tunnel's UDP port, if it is not the kernel.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket, sockopt,
};

use crate::netns::Netns;

/// The process that keeps the kernel from opening the tunnel's socket, as `name (pid 1234)`.
///
/// The port is tried by binding it as the kernel's vxlan does: to the wildcard address of the underlay's
/// family, IPv6 without IPv4 (`vxlan_create_sock`, `drivers/net/vxlan/vxlan_core.c`). Where that fails and no
/// process has such a socket, a tunnel of the kernel has it, which is shared.
pub(super) fn holder(host: &Netns, local: IpAddr, port: u16) -> io::Result<Option<String>> {
    host.run(|| {
        if is_free(local, port)? {
            return Ok(None);
        }
        let tables = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
        let tables = tables.iter().filter_map(|file| fs::read_to_string(file).ok());
        let inodes = tables.flat_map(|table| inodes_of(&table, port)).collect();
        Ok(process_with(&inodes))
    })
}

fn is_free(local: IpAddr, port: u16) -> io::Result<bool> {
    let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let probe = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let bound = match local {
        IpAddr::V4(_) => bind(probe.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port)),
        IpAddr::V6(_) => {
            setsockopt(&probe, sockopt::Ipv6V6Only, &true)?;
            let any = std::net::SocketAddrV6::new(std::net::Ipv6Addr::UNSPECIFIED, port, 0, 0);
            bind(probe.as_raw_fd(), &SockaddrIn6::from(any))
        }
    };
    Ok(bound != Err(Errno::EADDRINUSE))
}

/// Inodes of the sockets on `port` in a table as `/proc/net/udp` (`udp4_format_sock`, `net/ipv4/udp.c`).
fn inodes_of(table: &str, port: u16) -> Vec<u64> {
    let inode = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let on_port = u16::from_str_radix(local_port, 16) == Ok(port);
        fields.get(9).filter(|_| on_port)?.parse().ok()
    };
    table.lines().skip(1).filter_map(inode).collect()
}

fn process_with(inodes: &HashSet<u64>) -> Option<String> {
    let links: HashSet<_> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    for process in processes {
        let pid = process.file_name().into_string().ok().filter(|name| name.parse::<u32>().is_ok());
        let (Some(pid), Ok(files)) = (pid, fs::read_dir(process.path().join("fd"))) else { continue };
        let mut targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        if targets.any(|target| target.to_str().is_some_and(|target| links.contains(target))) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim_end()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode \
                     ref pointer drops\n 8701: 00000000:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000 \
                         0        0 54734 2 000000006fb7c264 0\n";
        assert_eq!(inodes_of(table, 4789), [54734]);
        assert!(inodes_of(table, 4790).is_empty());
    }

    #[test]
    fn a_process_on_the_port_is_named() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let port = socket.local_addr().expect("bound").port();
        assert!(!is_free([192, 0, 2, 1].into(), port).expect("a look"));
        let table = fs::read_to_string("/proc/thread-self/net/udp").expect("a table");
        let holder = process_with(&inodes_of(&table, port).into_iter().collect()).expect("it is us");
        assert!(holder.ends_with(&format!("(pid {})", std::process::id())), "{holder}");
    }
}
