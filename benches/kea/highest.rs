//! The highest rate of new leases that a server answers.

use crate::Part;
use crate::bed::{MODES, mode};
use crate::figures::{Budget, Figure};
use crate::kea::Family;
use crate::perfdhcp;
use crate::with::{Against, With};

/// Where it is looked for first.
const GUESS: f64 = 8000.0;

/// Where the highest rate is looked for when one was found: so that the steps go up to it.
const BELOW: f64 = 0.88;

/// One family and threading mode.
struct Mode {
    family: Family,
    threads: bool,
    /// From where it is looked for, by [`With`].
    guesses: [f64; With::NUMBER],
    rates: Against<Figure>,
}

impl Mode {
    fn new((family, threads): (Family, bool)) -> Self {
        let mode = mode(family, threads);
        let of = |with: With| with.figure(&mode, "highest rate under 1 % drops", "1/s", Budget::AtLeast(0.90));
        Self { family, threads, guesses: [GUESS; With::NUMBER], rates: Against::new(of) }
    }

    fn measure(&mut self, with: With) {
        let bed = with.bed(self.family, self.threads);
        let guess = &mut self.guesses[with as usize];
        let top = perfdhcp::highest(*guess, |rate, seconds| Some(with.load(&bed, rate, seconds).0));
        *guess = BELOW * top;
        println!("  {}, {with}: {top:.0}/s", mode(self.family, self.threads));
        self.rates.add(with, |figure, is_with| figure.add(is_with, top));
    }
}

/// Every family and threading mode.
pub struct Highest([Mode; 4]);

impl Highest {
    pub fn new() -> Self {
        Self(MODES.map(Mode::new))
    }
}

impl Part for Highest {
    fn measure(&mut self, round: usize) {
        for mode in &mut self.0 {
            for with in With::turns(round) {
                mode.measure(with);
            }
        }
    }

    fn figures(&self) -> Vec<&Figure> {
        self.0.iter().flat_map(|mode| mode.rates.iter()).collect()
    }
}
