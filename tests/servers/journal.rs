//! Clients that keep a server busy, and what they saw: every ACK, every address that they gave back, every message that
//! was not answered.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::client4::{Answer, Client4};
use crate::kea::Ports;

/// What a client last saw of an address.
#[derive(Clone, Debug)]
pub struct Seen {
    pub hwaddr: String,
    /// Seconds since the epoch, just before the message was sent that was acknowledged.
    pub asked_at: i64,
    /// Whether the client still holds the address.
    pub holds: bool,
}

#[derive(Default)]
pub struct Journal {
    addresses: Mutex<HashMap<Ipv4Addr, Seen>>,
    /// When messages were sent that had no answer.
    unanswered: Mutex<Vec<Instant>>,
    acknowledged: Mutex<u32>,
}

impl Journal {
    fn note(&self, client: &Client4, address: Ipv4Addr, asked_at: i64, holds: bool) {
        let hwaddr: Vec<String> = client.hwaddr.iter().map(|byte| format!("{byte:02x}")).collect();
        let seen = Seen { hwaddr: hwaddr.join(":"), asked_at, holds };
        self.addresses.lock().unwrap().insert(address, seen);
        *self.acknowledged.lock().unwrap() += u32::from(holds);
    }

    pub fn addresses(&self) -> HashMap<Ipv4Addr, Seen> {
        self.addresses.lock().unwrap().clone()
    }

    pub fn acknowledged(&self) -> u32 {
        *self.acknowledged.lock().unwrap()
    }

    /// When messages were sent that had no answer, once.
    pub fn take_unanswered(&self) -> Vec<Instant> {
        std::mem::take(&mut self.unanswered.lock().unwrap())
    }
}

pub fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Clients behind one relay take, renew, release and decline leases until told to stop. `seed` decides who does what.
pub fn keep_busy(server: Ports, relay: u8, seed: u64, journal: &Journal, stop: &AtomicBool) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut client = Client4::of(server, relay, 0);
    let mut held: Vec<(u32, Ipv4Addr)> = Vec::new();
    let base = u32::from(relay) * 1_000_000;
    while !stop.load(Ordering::Relaxed) {
        let (sent, asked_at) = (Instant::now(), now());
        let known = (!held.is_empty()).then(|| random.usize(..held.len()));
        match (random.u8(..10), known) {
            (0..=3, _) | (_, None) => {
                let number = base + random.u32(..2000);
                client.become_client(number);
                let Some(offer) = client.try_discover(PATIENCE) else {
                    journal.unanswered.lock().unwrap().push(sent);
                    continue;
                };
                let (sent, asked_at) = (Instant::now(), now());
                match client.answer_to_request(&offer, PATIENCE) {
                    None => journal.unanswered.lock().unwrap().push(sent),
                    Some(Answer::Nak) => {}
                    Some(Answer::Ack(address)) => {
                        journal.note(&client, address, asked_at, true);
                        held.retain(|(client, _)| *client != number);
                        held.push((number, address));
                    }
                }
            }
            (4..=6, Some(place)) => {
                let (number, address) = held[place];
                client.become_client(number);
                match client.try_renew(address, PATIENCE) {
                    None => journal.unanswered.lock().unwrap().push(sent),
                    Some(true) => journal.note(&client, address, asked_at, true),
                    // It ended, and somebody else has it.
                    Some(false) => {
                        held.swap_remove(place);
                    }
                }
            }
            (kind, Some(place)) => {
                let (number, address) = held.swap_remove(place);
                client.become_client(number);
                journal.note(&client, address, asked_at, false);
                if kind == 9 {
                    client.decline(address);
                } else {
                    client.release(address);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(random.u64(..8)));
    }
}
