//! What etcd tells of itself: the endpoint `/metrics` of its client address.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::bed::Bed;
use crate::beside::spawn;

/// Numbers by name, at one time.
pub struct Metrics(String);

impl Metrics {
    /// Asks the etcd of a bed.
    pub fn of(bed: &Bed) -> Self {
        let output = spawn(&bed.hosts.server, &["metrics", &bed.etcd.port().to_string()]).wait();
        assert!(output.status.success(), "{output:?}");
        Self(String::from_utf8(output.stdout).unwrap())
    }

    /// A number without labels.
    pub fn get(&self, name: &str) -> f64 {
        let mut values = self.0.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        values.next().unwrap_or_else(|| panic!("etcd tells no {name}")).trim().parse().unwrap()
    }
}

/// In the server's namespace: prints what the etcd on a port tells.
pub fn print(port: u16) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    // The older version of the protocol: the answer comes in one piece, and its end is that of the connection.
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer of HTTP");
    assert!(head.split(' ').nth(1) == Some("200"), "{head}");
    print!("{body}");
}
