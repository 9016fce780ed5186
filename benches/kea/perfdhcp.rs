//! Kea's own load generator, `perfdhcp` (Debian: kea-admin), for four-way exchanges with a new client each.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::bed::{Bed, RELAYS};
use crate::kea::Family;

/// What became of a load.
pub struct Load {
    /// Exchanges that were begun, a second.
    pub begun: f64,
    /// Exchanges that were completed, a second.
    pub completed: f64,
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

/// Begins `rate` exchanges a second for some seconds.
pub fn load(bed: &Bed, rate: u32, seconds: u32) -> Load {
    // perfdhcp numbers its clients from this hardware address on, so that without it the clients of the load before come
    // again, and have leases.
    static LOADS: AtomicU32 = AtomicU32::new(0);
    let [.., number] = LOADS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut perfdhcp = Command::new("ip");
    perfdhcp.args(["netns", "exec", &bed.hosts.client, "perfdhcp", "-r", &rate.to_string(), "-R", "16000000"]);
    perfdhcp.args(["-b", &format!("mac=00:0c:{number:02x}:00:00:00")]);
    // Half a second for the last answers, and when each message came and went.
    perfdhcp.args(["-p", &seconds.to_string(), "-W", "500000", "-x", "t"]);
    match bed.family {
        Family::V4 => perfdhcp.args(["-4", "-l", RELAYS[0], "192.0.2.1"]),
        Family::V6 => perfdhcp.args(["-6", "-l", "cli", "all"]),
    };
    let output = perfdhcp.output().expect("perfdhcp (Debian: kea-admin)");
    let text = String::from_utf8_lossy(&output.stdout);
    let (first, second) = match bed.family {
        Family::V4 => ("DISCOVER-OFFER", "REQUEST-ACK"),
        Family::V6 => ("SOLICIT-ADVERTISE", "REQUEST-REPLY"),
    };
    let block = |kind: &str, of: &str| {
        let start = text.find(&format!("***{kind}: {of}***")).unwrap_or_else(|| panic!("perfdhcp says {text}"));
        text[start + 3..].split("***").nth(1).unwrap_or_default().to_owned()
    };
    let number = |block: &str, name: &str| -> f64 {
        let line = block.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim().parse().unwrap()
    };
    let begun = number(&block("Statistics for", first), "sent packets:");
    let completed = number(&block("Statistics for", second), "received packets:");
    let mut delays: Vec<f64> = block("Timestamps for packets", second)
        .lines()
        .filter_map(|line| {
            let (sent, received) = line.strip_prefix("sent / received: ")?.split_once(" / ")?;
            Some((received.trim().parse::<f64>().ok()? - sent.trim().parse::<f64>().ok()?) * 1000.0)
        })
        .collect();
    delays.sort_by(f64::total_cmp);
    let seconds = f64::from(seconds);
    Load { begun: begun / seconds, completed: completed / seconds, delays }
}

/// The highest rate at which less than one of a hundred exchanges is dropped, found in steps of 6 % from `guess`.
pub fn highest(bed: &Bed, guess: u32) -> f64 {
    const STEP: f64 = 1.06;
    let works = |rate: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let load = load(bed, rate as u32, 3);
        // perfdhcp itself may be what ends it.
        (load.dropped() < 0.01 && load.begun > 0.95 * rate).then_some(load.completed)
    };
    let mut rate = f64::from(guess);
    let mut best = works(rate);
    if best.is_some() {
        while let Some(completed) = works(rate * STEP) {
            rate *= STEP;
            best = Some(completed);
        }
    }
    while best.is_none() && rate > 100.0 {
        rate /= STEP;
        best = works(rate);
    }
    best.unwrap_or(0.0)
}
