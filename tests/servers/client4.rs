//! DHCPv4 clients behind a relay agent (RFC 2131; RFC 1542 section 4.1 for the relay's part).

use std::net::{Ipv4Addr, UdpSocket};
use std::ops::Range;
use std::time::{Duration, Instant};

use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};

use crate::kea::{Kea, Ports};

/// How long an answer may take that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a server says to a REQUEST.
pub enum Answer {
    Ack(Ipv4Addr),
    Nak,
}

pub struct Client4 {
    socket: UdpSocket,
    server: (Ipv4Addr, u16),
    relay: Ipv4Addr,
    pub hwaddr: Vec<u8>,
    pub client_id: Option<Vec<u8>>,
    pub hostname: Option<String>,
    /// Further options of every message.
    pub options: Vec<DhcpOption>,
}

impl Client4 {
    /// The client `number` of a server, behind the relay 127.0.1.`relay`, with a hardware address of its number.
    pub fn new(kea: &Kea, relay: u8, number: u32) -> Self {
        Self::of(kea.ports(), relay, number)
    }

    /// The same of a server that may not be there all the time.
    pub fn of(ports: Ports, relay: u8, number: u32) -> Self {
        let server = (Ipv4Addr::LOCALHOST, ports.server.unwrap_or(0));
        Self::behind((Ipv4Addr::new(127, 0, 1, relay), ports.client.unwrap_or(0)), server, number)
    }

    /// A client behind a relay anywhere.
    pub fn behind(relay: (Ipv4Addr, u16), server: (Ipv4Addr, u16), number: u32) -> Self {
        let socket = UdpSocket::bind(relay).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let [a, b, c, d] = number.to_be_bytes();
        Self {
            socket,
            server,
            relay: relay.0,
            hwaddr: vec![2, 0, a, b, c, d],
            client_id: None,
            hostname: None,
            options: Vec::new(),
        }
    }

    pub fn relay(&self) -> Ipv4Addr {
        self.relay
    }

    /// Becomes another client behind the same relay.
    pub fn become_client(&mut self, number: u32) {
        let [a, b, c, d] = number.to_be_bytes();
        self.hwaddr = vec![2, 0, a, b, c, d];
    }

    fn message(&self, kind: MessageType, ciaddr: Ipv4Addr) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new(ciaddr, none, none, self.relay, &self.hwaddr);
        message.set_hops(1);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        if let Some(id) = &self.client_id {
            message.opts_mut().insert(DhcpOption::ClientIdentifier(id.clone()));
        }
        if let Some(name) = &self.hostname {
            message.opts_mut().insert(DhcpOption::Hostname(name.clone()));
        }
        for option in &self.options {
            message.opts_mut().insert(option.clone());
        }
        message
    }

    fn send(&self, message: &Message) {
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).unwrap();
        self.socket.send_to(&bytes, self.server).unwrap();
    }

    fn ask(&self, message: &Message) -> Message {
        self.try_ask(message).expect("an answer")
    }

    fn try_ask(&self, message: &Message) -> Option<Message> {
        self.send(message);
        let mut buffer = [0; 4096];
        loop {
            let (length, _) = self.socket.recv_from(&mut buffer).ok()?;
            let answer = Message::decode(&mut Decoder::new(&buffer[..length])).unwrap();
            if answer.xid() == message.xid() {
                return Some(answer);
            }
        }
    }

    pub fn discover(&self) -> Message {
        let offer = self.ask(&self.message(MessageType::Discover, Ipv4Addr::UNSPECIFIED));
        assert_eq!(offer.opts().msg_type(), Some(MessageType::Offer));
        offer
    }

    /// What is offered within `patience`.
    pub fn try_discover(&self, patience: Duration) -> Option<Message> {
        self.within(patience, || self.try_ask(&self.message(MessageType::Discover, Ipv4Addr::UNSPECIFIED)))
    }

    fn within<T>(&self, patience: Duration, exchange: impl FnOnce() -> T) -> T {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let result = exchange();
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        result
    }

    /// Selects what was offered; the address.
    pub fn request(&self, offer: &Message) -> Ipv4Addr {
        self.try_request(offer).expect("an ACK")
    }

    /// Selects what was offered; `None` when another client was faster.
    pub fn try_request(&self, offer: &Message) -> Option<Ipv4Addr> {
        self.try_request_within(offer, PATIENCE)
    }

    /// Selects what was offered; `None` also without an answer within `patience`.
    pub fn try_request_within(&self, offer: &Message, patience: Duration) -> Option<Ipv4Addr> {
        match self.answer_to_request(offer, patience)? {
            Answer::Ack(address) => Some(address),
            Answer::Nak => None,
        }
    }

    /// Selects what was offered; the answer within `patience`, if there is one.
    pub fn answer_to_request(&self, offer: &Message, patience: Duration) -> Option<Answer> {
        let mut request = self.message(MessageType::Request, Ipv4Addr::UNSPECIFIED);
        request.opts_mut().insert(DhcpOption::RequestedIpAddress(offer.yiaddr()));
        request.opts_mut().insert(DhcpOption::ServerIdentifier(self.server.0));
        let answer = self.within(patience, || self.try_ask(&request))?;
        match answer.opts().msg_type() {
            Some(MessageType::Ack) => Some(Answer::Ack(answer.yiaddr())),
            Some(MessageType::Nak) => Some(Answer::Nak),
            _ => panic!("neither ACK nor NAK: {answer:?}"),
        }
    }

    /// The four-way exchange; the address.
    pub fn take(&self) -> Ipv4Addr {
        self.request(&self.discover())
    }

    /// The four-way exchange; how long the slower of its two answers took.
    pub fn take_timed(&self) -> Duration {
        let started = Instant::now();
        let offer = self.discover();
        let offered = started.elapsed();
        let started = Instant::now();
        self.request(&offer);
        offered.max(started.elapsed())
    }

    pub fn renew(&self, address: Ipv4Addr) {
        let answer = self.ask(&self.message(MessageType::Request, address));
        assert_eq!(answer.opts().msg_type(), Some(MessageType::Ack), "{answer:?}");
    }

    /// Renews; the answer within `patience`, if there is one: an ACK or a NAK.
    pub fn try_renew(&self, address: Ipv4Addr, patience: Duration) -> Option<bool> {
        let answer = self.within(patience, || self.try_ask(&self.message(MessageType::Request, address)))?;
        Some(answer.opts().msg_type() == Some(MessageType::Ack))
    }

    pub fn release(&self, address: Ipv4Addr) {
        let mut release = self.message(MessageType::Release, address);
        release.opts_mut().insert(DhcpOption::ServerIdentifier(self.server.0));
        self.send(&release);
    }

    pub fn decline(&self, address: Ipv4Addr) {
        let mut decline = self.message(MessageType::Decline, Ipv4Addr::UNSPECIFIED);
        decline.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
        decline.opts_mut().insert(DhcpOption::ServerIdentifier(self.server.0));
        self.send(&decline);
    }
}

/// A lease for each of these clients of a server, behind its relay 1; their addresses.
pub fn take(kea: &Kea, clients: Range<u32>) -> Vec<String> {
    let mut client = Client4::new(kea, 1, 0);
    clients
        .map(|number| {
            client.become_client(number);
            client.take().to_string()
        })
        .collect()
}

/// An option that is text (66 and 67 are).
pub fn option_text(message: &Message, code: OptionCode) -> Option<String> {
    match message.opts().get(code)? {
        DhcpOption::TFTPServerName(text) | DhcpOption::BootfileName(text) => {
            Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
        }
        _ => None,
    }
}
