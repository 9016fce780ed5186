//! Ports for the servers of the tests, below those that the kernel gives to outgoing connections.
//!
//! A port that the kernel picks is free only until it picks it again, for another test's connection: a server that is
//! killed and started again would not get it back.

use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Linux gives 32768 and above to connections (`net.ipv4.ip_local_port_range`).
const PORTS: std::ops::Range<u32> = 10_000..32_000;

/// A port that nobody uses, TCP or UDP, and that no process of this kind gives to anybody as long as this one runs.
pub fn free() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in PORTS {
        // Other processes of this kind begin elsewhere.
        let place = NEXT.fetch_add(1, Ordering::Relaxed) + std::process::id() * 211;
        let port = u16::try_from(PORTS.start + place % (PORTS.end - PORTS.start)).unwrap();
        let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("::", port)).is_ok();
        if is_free && is_ours(port) {
            return port;
        }
    }
    panic!("no port of {PORTS:?} is free");
}

/// Takes a name for a port that only one process can have, until it ends: a server that is killed leaves its port free for a
/// while, and another process would start its own there.
fn is_ours(port: u16) -> bool {
    let name = SocketAddr::from_abstract_name(format!("dhcp-etcd-port-{port}")).unwrap();
    UnixListener::bind_addr(&name).map(std::mem::forget).is_ok()
}
