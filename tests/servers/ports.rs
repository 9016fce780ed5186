//! Ports for the servers of the tests, below those that the kernel gives to outgoing connections.
//!
//! A port that the kernel picks is free only until it picks it again, for another test's connection: a server that is
//! killed and started again would not get it back.

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Linux gives 32768 and above to connections (`net.ipv4.ip_local_port_range`).
const PORTS: std::ops::Range<u32> = 10_000..32_000;

/// A port that nobody uses, TCP or UDP, and that this process gives to nobody else.
pub fn free() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in PORTS {
        // Other processes of this kind begin elsewhere.
        let place = NEXT.fetch_add(1, Ordering::Relaxed) + std::process::id() * 211;
        let port = u16::try_from(PORTS.start + place % (PORTS.end - PORTS.start)).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("::", port)).is_ok() {
            return port;
        }
    }
    panic!("no port of {PORTS:?} is free");
}
