//! What a server is measured with: the library, nothing, the simplest exact mirror that could be, nothing while another
//! program writes to etcd, a library that does nothing, or both of these.

use std::fmt::{self, Display, Formatter};

use tempfile::TempDir;

use crate::bed::{Bed, Way};
use crate::compiled;
use crate::figures::{Budget, Figure};
use crate::kea::Family;
use crate::others::{self, Others, Writing};
use crate::perfdhcp::{self, Load};

/// Records of a transaction of the other program; those of the library at 4,000 leases a second have up to as many.
pub const BATCH: u32 = 100;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum With {
    Nothing,
    Library,
    /// A library that only reads each lease that was committed, in the callout, while another program writes as many records to
    /// etcd, on the same cores, as simply as an exact mirror can: each only where its key is as expected, and it listens to what
    /// others write. Its records are DHCPv4's, with a host name.
    Least,
    /// No library at all, while that program writes. What it takes is not the server's: this is about what a server pays for
    /// etcd's and a writer's part in the cores and their caches, wherever the records come from.
    Beside,
    /// A library whose callouts do nothing, and nobody writes: what Kea takes to call one after a lease was written.
    Idle,
    /// That library, while that program writes: what whoever is told of leases by Kea and writes them to an etcd on the same cores
    /// cannot do without, were it to take nothing in between.
    Called,
}

/// What is measured against nothing.
const AGAINST: [With; 5] = [With::Library, With::Least, With::Beside, With::Idle, With::Called];

/// Seconds by which the other program may be late, beyond which that is told.
const LATE: f64 = 0.1;

impl With {
    /// How many there are.
    pub const NUMBER: usize = 1 + AGAINST.len();

    /// All of them, in the order of this round: another one is first in each, and every other round goes backwards.
    pub fn turns(round: usize) -> [Self; Self::NUMBER] {
        let step = if round % 2 == 0 { 1 } else { Self::NUMBER - 1 };
        std::array::from_fn(|turn| match (round + step * turn) % Self::NUMBER {
            0 => Self::Nothing,
            other => AGAINST[other - 1],
        })
    }

    /// A server with it.
    pub fn bed(self, family: Family, threads: bool) -> Bed {
        let dir = TempDir::new().unwrap();
        let reader = dir.path().join("libreader.so");
        let way = match self {
            Self::Library => Way::Library,
            Self::Nothing | Self::Beside => Way::None,
            Self::Least | Self::Idle | Self::Called => {
                compiled::reader(&reader, self == Self::Least);
                Way::Instead(&reader)
            }
        };
        // Once it serves it has loaded the library.
        Bed::by(family, threads, way)
    }

    /// Loads the server while the other program, if there is one, writes; what came of the load, and the seconds of CPU of that
    /// writing, where it is a mirror's.
    pub fn beside<T>(self, bed: &Bed, writing: Writing, load: impl FnOnce() -> T) -> (T, f64) {
        let writer = matches!(self, Self::Least | Self::Beside | Self::Called).then(|| others::write(bed, writing));
        let loaded = load();
        let Some(written) = writer.map(Others::written) else { return (loaded, 0.0) };
        if written.late > LATE {
            let Writing { rate, seconds, .. } = writing;
            println!("  the other program was late by {:.1} s of {seconds} at {rate}/s", written.late);
        }
        (loaded, if self == Self::Beside { 0.0 } else { written.cpu })
    }

    /// The same with a load of as many exchanges.
    pub fn load(self, bed: &Bed, rate: u32, seconds: u32) -> (Load, f64) {
        self.beside(bed, Writing::exact(rate, seconds, BATCH), || perfdhcp::load(bed, rate, seconds))
    }

    /// The name of a figure of it.
    pub fn name(self, mode: &str, what: &str) -> String {
        let with = match self {
            Self::Library => "",
            Self::Nothing => ", no hook",
            Self::Least => ", a library that only reads, another program writes to etcd what an exact mirror does",
            Self::Beside => ", no library, that program writes the same to etcd",
            Self::Idle => ", a library whose callouts do nothing, nobody writes",
            Self::Called => ", a library whose callouts do nothing, that program writes the same to etcd",
        };
        format!("{mode}{with}: {what}")
    }

    /// A figure of it, as a ratio to nothing. Only the library has a budget.
    pub fn figure(self, mode: &str, what: &str, unit: &'static str, budget: Budget) -> Figure {
        let budget = if self == Self::Library { budget } else { Budget::Told };
        Figure::ratio(self.name(mode, what), unit, budget)
    }
}

impl Display for With {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Library => "with the library",
            Self::Nothing => "without the library",
            Self::Least => "a library that only reads, another program writes",
            Self::Beside => "without a library, another program writes",
            Self::Idle => "a library that does nothing",
            Self::Called => "a library that does nothing, another program writes",
        })
    }
}

/// Figures of each that is measured against nothing.
pub struct Against<F>([F; AGAINST.len()]);

impl<F> Against<F> {
    pub fn new(figures: impl Fn(With) -> F) -> Self {
        Self(AGAINST.map(figures))
    }

    /// Has what was measured added, with or without: what was measured with nothing, to the figures of each.
    pub fn add(&mut self, with: With, add: impl Fn(&mut F, bool)) {
        for (figures, of) in self.0.iter_mut().zip(AGAINST) {
            if with == of || with == With::Nothing {
                add(figures, with == of);
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &F> {
        self.0.iter()
    }
}
