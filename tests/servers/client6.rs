//! DHCPv6 clients behind a relay agent (RFC 8415).

use std::net::{Ipv6Addr, UdpSocket};
use std::time::Duration;

use dhcproto::v6::{DhcpOption, DhcpOptions, IAAddr, IANA, IAPD, IAPrefix, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};

use crate::kea::Kea;

/// The relay's address on the clients' link; it selects the subnet.
pub const LINK: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

const RELAY_MSG: [u8; 2] = [0, 9];

pub struct Client6 {
    socket: UdpSocket,
    port: u16,
    pub duid: Vec<u8>,
    server_id: Option<DhcpOption>,
}

impl Client6 {
    /// The client `number` of a server. All share one relay, so one at a time may exist.
    pub fn new(kea: &Kea, number: u32) -> Self {
        let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, kea.client_port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut client = Self { socket, port: kea.port, duid: Vec::new(), server_id: None };
        client.become_client(number);
        client
    }

    /// Becomes another client behind the same relay.
    pub fn become_client(&mut self, number: u32) {
        // DUID-LL (RFC 8415 section 11.4), Ethernet.
        self.duid = [&[0, 3, 0, 1, 2, 0][..], &number.to_be_bytes()].concat();
    }

    /// A relay-forward (RFC 8415 section 9) around `message`; `dhcproto` has no form for a relayed message.
    fn forward(message: &Message) -> Vec<u8> {
        let mut inner = Vec::new();
        message.encode(&mut Encoder::new(&mut inner)).unwrap();
        let peer = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x99);
        let length = u16::try_from(inner.len()).unwrap().to_be_bytes();
        [&[12, 0][..], &LINK.octets(), &peer.octets(), &RELAY_MSG, &length, &inner].concat()
    }

    fn unwrap(reply: &[u8]) -> Message {
        assert_eq!(reply[0], 13, "a relay-reply");
        let mut options = &reply[34..];
        loop {
            let length = usize::from(u16::from_be_bytes([options[2], options[3]]));
            if options[..2] == RELAY_MSG {
                return Message::decode(&mut Decoder::new(&options[4..4 + length])).unwrap();
            }
            options = &options[4 + length..];
        }
    }

    fn ask(&self, message: &Message) -> Message {
        self.socket.send_to(&Self::forward(message), (Ipv6Addr::LOCALHOST, self.port)).unwrap();
        let mut buffer = [0; 4096];
        loop {
            let (length, _) = self.socket.recv_from(&mut buffer).expect("an answer");
            let answer = Self::unwrap(&buffer[..length]);
            if answer.xid() == message.xid() {
                return answer;
            }
        }
    }

    fn message(&self, kind: MessageType, ias: &[DhcpOption]) -> Message {
        let mut message = Message::new(kind);
        message.opts_mut().insert(DhcpOption::ClientId(self.duid.clone()));
        message.opts_mut().insert(DhcpOption::ElapsedTime(0));
        for ia in ias {
            message.opts_mut().insert(ia.clone());
        }
        if let (Some(id), false) = (&self.server_id, matches!(kind, MessageType::Solicit | MessageType::Rebind)) {
            message.opts_mut().insert(id.clone());
        }
        message
    }

    /// Solicits; the identity associations that are advertised.
    pub fn solicit(&mut self, wanted: &[DhcpOption]) -> Vec<DhcpOption> {
        let advertise = self.ask(&self.message(MessageType::Solicit, wanted));
        assert_eq!(advertise.msg_type(), MessageType::Advertise);
        self.server_id = advertise.opts().get(OptionCode::ServerId).cloned();
        ias(&advertise)
    }

    /// Requests, renews, rebinds, releases or declines; the identity associations of the reply.
    pub fn exchange(&self, kind: MessageType, associations: &[DhcpOption]) -> Vec<DhcpOption> {
        let reply = self.ask(&self.message(kind, associations));
        assert_eq!(reply.msg_type(), MessageType::Reply);
        ias(&reply)
    }

    /// Registers an address that the client made up (RFC 9686): ADDR-REG-INFORM, which must be answered.
    pub fn register(&self, address: &DhcpOption) {
        let reply = self.ask(&self.message(MessageType::Unknown(36), std::slice::from_ref(address)));
        assert_eq!(reply.msg_type(), MessageType::Unknown(37));
    }

    /// The four-message exchange for `wanted`; what was assigned.
    pub fn take(&mut self, wanted: &[DhcpOption]) -> Vec<DhcpOption> {
        let advertised = self.solicit(wanted);
        self.exchange(MessageType::Request, &advertised)
    }
}

fn ias(message: &Message) -> Vec<DhcpOption> {
    message
        .opts()
        .iter()
        .filter(|option| matches!(option, DhcpOption::IANA(_) | DhcpOption::IAPD(_)))
        .cloned()
        .collect()
}

/// A non-temporary address, wanted.
pub fn ia_na(id: u32) -> DhcpOption {
    DhcpOption::IANA(IANA { id, t1: 0, t2: 0, opts: DhcpOptions::new() })
}

/// A delegated prefix, wanted.
pub fn ia_pd(id: u32) -> DhcpOption {
    DhcpOption::IAPD(IAPD { id, t1: 0, t2: 0, opts: DhcpOptions::new() })
}

/// The addresses and prefixes in identity associations.
pub fn addresses(associations: &[DhcpOption]) -> Vec<Ipv6Addr> {
    let inner = associations.iter().flat_map(|association| match association {
        DhcpOption::IANA(IANA { opts, .. }) | DhcpOption::IAPD(IAPD { opts, .. }) => opts.iter().collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    inner
        .filter_map(|option| match option {
            DhcpOption::IAAddr(IAAddr { addr, .. }) => Some(*addr),
            DhcpOption::IAPrefix(IAPrefix { prefix_ip, .. }) => Some(*prefix_ip),
            _ => None,
        })
        .collect()
}
