//! Turns: the events of one key run one at a time, in the order of their stream. The rule is
//! [`tidemill_policy::order::lanes`]; here events wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemill_policy::order::lanes::{Lanes, Place};
use tokio::sync::{oneshot, watch};

/// The events of one handler that are in hand, by their keys.
#[derive(Debug)]
pub struct Turns {
    state: Mutex<State>,
    /// How often it became unsure whether something older is still to come, and whether that is settled.
    holds: watch::Sender<Hold>,
}

#[derive(Debug, Default)]
struct State {
    lanes: Lanes,
    waiting: HashMap<Place, oneshot::Sender<()>>,
    entered: u64,
}

/// Whether events may begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Hold {
    number: u64,
    is_over: bool,
}

/// An event's place among those of its key; ends when it is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    key: String,
    place: Place,
    granted: oneshot::Receiver<()>,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns { state: Mutex::default(), holds: watch::Sender::new(Hold { number: 0, is_over: true }) }
    }
}

impl Turns {
    /// Puts an event behind those of its key with a lower sequence. Events that come back go before those of the
    /// input.
    pub fn enter(self: &Arc<Self>, key: String, is_input: bool, sequence: u64) -> Turn {
        let (sender, granted) = oneshot::channel();
        let mut state = self.lock();
        state.entered += 1;
        let place = Place { is_input, sequence, number: state.entered };
        state.lanes.enter(&key, place);
        state.waiting.insert(place, sender);
        let next = state.lanes.next(&key);
        state.wake(next);
        drop(state);
        Turn { turns: Arc::clone(self), key, place, granted }
    }

    /// Lets nothing begin until it is known that everything older is in hand.
    pub fn hold(&self) {
        self.lock().lanes.hold();
        self.holds.send_modify(|hold| *hold = Hold { number: hold.number + 1, is_over: false });
    }

    /// Waits until nothing may begin, and returns the number of that hold.
    pub async fn held(&self) -> u64 {
        let mut holds = self.holds.subscribe();
        // The sender lives as long as we do.
        match holds.wait_for(|hold| !hold.is_over).await {
            Ok(hold) => hold.number,
            Err(_) => 0,
        }
    }

    /// Whether nothing may begin.
    pub fn is_held(&self) -> bool {
        !self.holds.borrow().is_over
    }

    /// Lets events begin again, unless there was another hold meanwhile.
    pub fn release(&self, number: u64) {
        let mut state = self.lock();
        if self.holds.borrow().number != number {
            return;
        }
        for (_, place) in state.lanes.release() {
            state.wake(Some(place));
        }
        drop(state);
        self.holds.send_modify(|hold| hold.is_over = true);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&mut self, place: Option<Place>) {
        if let Some(sender) = place.and_then(|place| self.waiting.remove(&place)) {
            // Where nobody waits any more, the turn is given up when it is dropped.
            let _ = sender.send(());
        }
    }
}

impl Turn {
    /// Waits until all events of the key that come before this one have ended.
    pub async fn granted(&mut self) {
        // The sender is dropped with the turn only.
        let _ = (&mut self.granted).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        state.waiting.remove(&self.place);
        state.lanes.leave(&self.key, self.place);
        let next = state.lanes.next(&self.key);
        state.wake(next);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn is_granted(turn: &mut Turn) -> bool {
        turn.granted().now_or_never().is_some()
    }

    #[test]
    fn a_turn_comes_when_the_one_before_is_dropped() {
        let turns = Arc::new(Turns::default());
        let enter = |key: &str, sequence| turns.enter(key.to_owned(), true, sequence);
        let (mut first, mut third, mut second) = (enter("a", 1), enter("a", 3), enter("a", 2));
        let mut other = enter("b", 9);
        assert!(is_granted(&mut first) && is_granted(&mut other));
        assert!(!is_granted(&mut second) && !is_granted(&mut third));
        drop(first);
        assert!(is_granted(&mut second) && !is_granted(&mut third));
        drop(third);
        drop(second);
        assert!(is_granted(&mut enter("a", 1)));
    }

    #[test]
    fn nothing_begins_while_something_older_may_come() {
        let turns = Arc::new(Turns::default());
        turns.hold();
        let number = turns.held().now_or_never().expect("held");
        let mut second = turns.enter("a".to_owned(), true, 2);
        turns.hold();
        turns.release(number);
        assert!(!is_granted(&mut second), "it became unsure again");
        let mut first = turns.enter("a".to_owned(), true, 1);
        turns.release(number + 1);
        assert!(is_granted(&mut first) && !is_granted(&mut second));
        assert!(turns.held().now_or_never().is_none());
    }
}
