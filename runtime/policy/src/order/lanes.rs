//! Who may run next: the events of one key one at a time, in the order of their places, different keys side by side.

use std::collections::{BTreeMap, BTreeSet};

/// Where an event stands among those of its key: earlier ones come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Events that come back from the dead letters or from retries go before those of the stream.
    pub is_input: bool,
    /// The sequence in its stream.
    pub sequence: u64,
    /// Tells apart what has the same sequence because the stream was made anew.
    pub number: u64,
}

/// The keys of one handler that have events in hand.
#[derive(Debug, Default)]
pub struct Lanes {
    lanes: BTreeMap<String, Lane>,
    is_held: bool,
}

#[derive(Debug, Default)]
struct Lane {
    running: Option<Place>,
    waiting: BTreeSet<Place>,
}

impl Lanes {
    /// Puts an event into the lane of its key.
    pub fn enter(&mut self, key: &str, place: Place) {
        self.lanes.entry(key.to_owned()).or_default().waiting.insert(place);
    }

    /// Lets the first event of a lane run, if none of its key does. Returns which.
    pub fn next(&mut self, key: &str) -> Option<Place> {
        if self.is_held {
            return None;
        }
        self.lanes.get_mut(key)?.next()
    }

    /// Takes an event out, whether it runs or waits.
    pub fn leave(&mut self, key: &str, place: Place) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if lane.running == Some(place) {
            lane.running = None;
        }
        lane.waiting.remove(&place);
        if lane.running.is_none() && lane.waiting.is_empty() {
            self.lanes.remove(key);
        }
    }

    /// Lets nothing more begin: something older may still arrive.
    pub fn hold(&mut self) {
        self.is_held = true;
    }

    /// Whether nothing may begin.
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Lets events begin again, and returns those that may.
    pub fn release(&mut self) -> Vec<(String, Place)> {
        self.is_held = false;
        self.lanes.iter_mut().filter_map(|(key, lane)| Some((key.clone(), lane.next()?))).collect()
    }
}

impl Lane {
    fn next(&mut self) -> Option<Place> {
        if self.running.is_some() {
            return None;
        }
        let first = self.waiting.pop_first()?;
        self.running = Some(first);
        Some(first)
    }
}
