//! A link between Kea and etcd that can be made to fail: a TCP relay on a port of its own. Nothing that the machine has
//! cuts or slows a single loopback connection at will.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use crate::ports;

/// What the link does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Passes them on.
    Whole,
    /// Keeps connections open and swallows everything until it is whole again; then they end.
    BlackHole,
    /// Ends every connection, and takes no new one.
    Cut,
    /// Passes them on late, and few at a time.
    Slow,
}

struct Shared {
    mode: AtomicU8,
    over: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

pub struct TcpLink {
    shared: Arc<Shared>,
    port: u16,
}

impl TcpLink {
    /// A whole link to a port of this host.
    pub fn to(target: u16) -> Self {
        let port = ports::free();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared {
            mode: AtomicU8::new(Mode::Whole as u8),
            over: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let link = Arc::clone(&shared);
        std::thread::spawn(move || {
            while !link.over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((near, _)) if link.is(Mode::Cut) => drop(near),
                    Ok((near, _)) => link.connect(near, target),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(5)),
                    Err(error) => panic!("accept: {error}"),
                }
            }
        });
        Self { shared, port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn set(&self, mode: Mode) {
        let was_black_hole = self.shared.is(Mode::BlackHole);
        self.shared.mode.store(mode as u8, Ordering::Relaxed);
        // What was swallowed is missing: such a connection is of no use any more.
        if mode == Mode::Cut || was_black_hole {
            self.shared.end_connections();
        }
    }
}

impl Drop for TcpLink {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.shared.end_connections();
    }
}

impl Shared {
    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::Relaxed) == mode as u8
    }

    fn end_connections(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn connect(self: &Arc<Self>, near: TcpStream, target: u16) {
        let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { return };
        for (from, to) in [(&near, &far), (&far, &near)] {
            let (from, to, link) = (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(self));
            std::thread::spawn(move || link.relay(from, to));
        }
        self.connections.lock().unwrap().extend([near, far]);
    }

    fn relay(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16 * 1024];
        loop {
            let room = if self.is(Mode::Slow) { 512 } else { buffer.len() };
            let Ok(length @ 1..) = from.read(&mut buffer[..room]) else { break };
            if self.is(Mode::BlackHole) {
                continue;
            }
            if self.is(Mode::Slow) {
                sleep(Duration::from_millis(20));
            }
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}
