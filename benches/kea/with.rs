//! What a server is measured with: the library, nothing, or the simplest exact mirror that could be.

use std::fmt::{self, Display, Formatter};

use tempfile::TempDir;

use crate::bed::{Bed, Way};
use crate::compiled;
use crate::kea::Family;
use crate::others::{self, Writing};
use crate::perfdhcp::{self, Load};

/// Records of a transaction of the other program; those of the library at 4,000 leases a second have up to as many.
const BATCH: u32 = 100;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum With {
    Library,
    Nothing,
    /// A library that only reads each lease that was committed, in the callout, while another program writes as many records to
    /// etcd, on the same cores, as simply as an exact mirror can: each only where its key is as expected, and it listens to what
    /// others write.
    Least,
}

impl With {
    /// How the last is named in figures.
    pub const LEAST: &str = ", a library that only reads, another program writes to etcd what an exact mirror does";

    /// All of them, in the order of this round: each is first in every third one.
    pub fn turns(round: usize) -> [Self; 3] {
        let mut turns = [Self::Library, Self::Nothing, Self::Least];
        turns.rotate_left(round % 3);
        turns
    }

    /// A server with it.
    pub fn bed(self, family: Family, threads: bool) -> Bed {
        let dir = TempDir::new().unwrap();
        let reader = dir.path().join("libreader.so");
        let way = match self {
            Self::Library => Way::Library,
            Self::Nothing => Way::None,
            Self::Least => {
                compiled::reader(&reader);
                Way::Instead(&reader)
            }
        };
        // Once it serves it has loaded the library.
        Bed::by(family, threads, way)
    }

    /// Loads the server while the other program, if there is one, writes so many records a second for some seconds; what came of
    /// the load, and the seconds of CPU that the program took.
    pub fn beside<T>(self, bed: &Bed, rate: u32, seconds: u32, load: impl FnOnce() -> T) -> (T, f64) {
        let writing = Writing { rate, seconds, batch: BATCH, watches: 0, exact: true };
        let writer = (self == Self::Least).then(|| others::write(bed, writing));
        let loaded = load();
        (loaded, writer.map_or(0.0, |writer| writer.written().cpu))
    }

    /// The same with a load of as many exchanges.
    pub fn load(self, bed: &Bed, rate: u32, seconds: u32) -> (Load, f64) {
        self.beside(bed, rate, seconds, || perfdhcp::load(bed, rate, seconds))
    }

    /// Has what was measured added, with or without: what was measured with nothing, to the figures of both.
    pub fn add<F>(self, library: &mut F, least: &mut F, add: impl Fn(&mut F, bool)) {
        if self != Self::Least {
            add(library, self == Self::Library);
        }
        if self != Self::Library {
            add(least, self == Self::Least);
        }
    }
}

impl Display for With {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Library => "with the library",
            Self::Nothing => "without the library",
            Self::Least => "a library that only reads, another program writes",
        })
    }
}
