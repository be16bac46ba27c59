//! Attempt numbers, which start at 1 and have a type, so that nobody subtracts from zero.

use std::fmt;
use std::num::NonZeroU32;

/// Which run of the handler for one event this is, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(NonZeroU32);

impl Attempt {
    /// The first run of the handler for an event.
    pub const FIRST: Attempt = Attempt(NonZeroU32::MIN);

    /// Returns attempt number `number`, or nothing for 0.
    pub fn new(number: u32) -> Option<Attempt> {
        NonZeroU32::new(number).map(Attempt)
    }

    /// The number, from 1.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// The attempt that is `count` later.
    #[must_use]
    pub fn plus(self, count: u32) -> Attempt {
        Attempt(self.0.saturating_add(count))
    }

    /// How many attempts came before this one.
    pub fn preceding(self) -> u32 {
        self.get() - 1
    }

    /// Whether it is the first attempt.
    pub fn is_first(self) -> bool {
        self == Attempt::FIRST
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
