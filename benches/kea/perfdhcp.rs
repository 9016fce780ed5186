//! Kea's own load generator, `perfdhcp` (Debian: kea-admin): four-way exchanges with a new client each, and what else
//! clients do.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::bed::{Bed, RELAYS};
use crate::beside::Beside;
use crate::kea::Family;

/// The beginning of a load, when its programs are cold, whose delays do not count.
pub const COLD: Duration = Duration::from_secs(1);

/// More clients than any load has exchanges.
pub const CLIENTS: u32 = 16_000_000;

/// What clients begin in a second.
#[derive(Clone, Copy)]
pub struct Rates {
    /// Four-way exchanges.
    pub exchanges: u32,
    /// Renewals of leases that were taken before, and releases of such. Together no more than the exchanges.
    pub renewals: u32,
    pub releases: u32,
    /// How many clients there are; they begin exchanges in turn.
    pub clients: u32,
    /// Whether the delay of each exchange is told. perfdhcp takes minutes to tell that of a load of minutes.
    pub delays: bool,
}

impl Rates {
    /// Nothing but new leases.
    pub fn new(exchanges: u32) -> Self {
        Self { exchanges, renewals: 0, releases: 0, clients: CLIENTS, delays: true }
    }
}

/// What became of a load.
pub struct Load {
    /// Exchanges that were begun.
    pub begun: f64,
    /// Exchanges that were completed.
    pub completed: f64,
    /// Renewals that were answered.
    pub renewed: f64,
    /// Releases: sent with DHCPv4, which does not answer them, answered with DHCPv6.
    pub released: f64,
    /// From REQUEST to ACK or REPLY, milliseconds, in order of size.
    pub delays: Vec<f64>,
}

impl Load {
    /// The part of the exchanges that were not completed.
    pub fn dropped(&self) -> f64 {
        1.0 - self.completed / self.begun
    }

    pub fn mean(&self) -> f64 {
        self.delays.iter().sum::<f64>() / f64::from(u32::try_from(self.delays.len()).unwrap())
    }

    /// The delay that a part of the messages, up to 1, had at most.
    pub fn quantile(&self, part: f64) -> f64 {
        crate::figures::quantile(&self.delays, part)
    }
}

/// A load under way; it ends with its owner.
pub struct Running {
    perfdhcp: Beside,
    family: Family,
}

/// Begins a load of some seconds.
pub fn begin(bed: &Bed, rates: Rates, seconds: u32) -> Running {
    // perfdhcp numbers its clients from this hardware address on, so that without it the clients of the load before come
    // again, and have leases.
    static LOADS: AtomicU32 = AtomicU32::new(0);
    let [.., number] = LOADS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut perfdhcp = Command::new("ip");
    perfdhcp.args(["netns", "exec", &bed.hosts.client, "perfdhcp", "-R", &rates.clients.to_string()]);
    perfdhcp.args(["-b", &format!("mac=00:0c:{number:02x}:00:00:00"), "-r", &rates.exchanges.to_string()]);
    for (option, rate) in [("-f", rates.renewals), ("-F", rates.releases)] {
        if rate > 0 {
            perfdhcp.args([option, &rate.to_string()]);
        }
    }
    // Half a second for the last answers.
    perfdhcp.args(["-p", &seconds.to_string(), "-W", "500000"]);
    if rates.delays {
        // When each message came and went.
        perfdhcp.args(["-x", "t"]);
    }
    match bed.family {
        Family::V4 => perfdhcp.args(["-4", "-l", RELAYS[0], "192.0.2.1"]),
        Family::V6 => perfdhcp.args(["-6", "-l", "cli", "all"]),
    };
    let perfdhcp = perfdhcp.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("perfdhcp (Debian: kea-admin)");
    Running { perfdhcp: Beside(Some(perfdhcp)), family: bed.family }
}

impl Running {
    /// Ends it before its time.
    pub fn stop(self) -> Load {
        self.perfdhcp.signal("INT");
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(self) -> Load {
        let output = self.perfdhcp.wait();
        let report = Report(String::from_utf8_lossy(&output.stdout).into_owned());
        let [first, second, renewal, release] = match self.family {
            Family::V4 => ["DISCOVER-OFFER", "REQUEST-ACK", "REQUEST-ACK (renewal)", "RELEASE"],
            Family::V6 => ["SOLICIT-ADVERTISE", "REQUEST-REPLY", "RENEW-REPLY", "RELEASE-REPLY"],
        };
        let of_release = if self.family == Family::V4 { "sent packets:" } else { "received packets:" };
        Load {
            begun: report.number(first, "sent packets:").expect("statistics of perfdhcp"),
            completed: report.number(second, "received packets:").expect("statistics of perfdhcp"),
            renewed: report.number(renewal, "received packets:").unwrap_or(0.0),
            released: report.number(release, of_release).unwrap_or(0.0),
            delays: report.delays(second),
        }
    }
}

/// What perfdhcp prints.
struct Report(String);

impl Report {
    /// What it says of one kind of exchange.
    fn block(&self, kind: &str, of: &str) -> Option<&str> {
        let (_, block) = self.0.split_once(&format!("***{kind}: {of}***"))?;
        block.split("***").next()
    }

    fn number(&self, of: &str, name: &str) -> Option<f64> {
        let line = self.block("Statistics for", of)?.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    }

    fn delays(&self, of: &str) -> Vec<f64> {
        let times = self.block("Timestamps for packets", of).unwrap_or_default().lines().filter_map(|line| {
            let (sent, received) = line.strip_prefix("sent / received: ")?.split_once(" / ")?;
            Some((time(sent)?, time(received)?))
        });
        let mut delays: Vec<f64> = times
            .filter(|(sent, _)| *sent >= COLD.as_secs_f64())
            .map(|(sent, received)| (received - sent) * 1000.0)
            .collect();
        delays.sort_by(f64::total_cmp);
        delays
    }
}

/// Seconds of a time as perfdhcp prints it: `000100.069815` is a minute and a bit.
fn time(text: &str) -> Option<f64> {
    let (hours, rest) = text.trim().split_at_checked(2)?;
    let (minutes, seconds) = rest.split_at_checked(2)?;
    let [hours, minutes, seconds] = [hours, minutes, seconds].map(|part| part.parse::<f64>().ok());
    Some((hours? * 60.0 + minutes?) * 60.0 + seconds?)
}

/// Begins `rate` new exchanges a second for some seconds.
pub fn load(bed: &Bed, rate: u32, seconds: u32) -> Load {
    begin(bed, Rates::new(rate), seconds).wait()
}

/// The highest rate at which less than one of a hundred exchanges is dropped, found in steps of 6 % from `guess`. `load` makes
/// a load of a rate and of some seconds, and returns nothing of one that had to be ended. A rate that fails is tried once
/// more: something else on the machine may have been what ended it.
pub fn highest(guess: f64, load: impl Fn(u32, u32) -> Option<Load>) -> f64 {
    const STEP: f64 = 1.06;
    const SECONDS: u32 = 3;
    let once = |rate: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let load = load(rate as u32, SECONDS)?;
        // perfdhcp itself may be what ends it.
        let enough = load.begun > 0.95 * rate * f64::from(SECONDS);
        (load.dropped() < 0.01 && enough).then_some(load.completed / f64::from(SECONDS))
    };
    let works = |rate| once(rate).or_else(|| once(rate));
    let mut rate = guess;
    let mut best = works(rate);
    if best.is_some() {
        while let Some(completed) = works(rate * STEP) {
            rate *= STEP;
            best = Some(completed);
        }
    }
    while best.is_none() && rate > 10.0 {
        rate /= STEP;
        best = works(rate);
    }
    best.unwrap_or(0.0)
}
