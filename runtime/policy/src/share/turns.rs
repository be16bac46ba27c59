//! Who of those that compute for long gets the next turn: handlers take turns, and within a handler its calls.
//!
//! So many calls of one handler have together what a single call of another has.

use std::collections::{BTreeMap, VecDeque};

/// Calls that wait for a turn, by handler. A call that has had its turn and wants another one waits again.
#[derive(Debug)]
pub struct Turns<H, C> {
    /// Of each handler that waits, its calls, never none.
    calls: BTreeMap<H, VecDeque<C>>,
    /// The handlers that wait, each once, the next one first.
    handlers: VecDeque<H>,
}

impl<H: Ord + Copy, C> Turns<H, C> {
    /// Nobody waits.
    pub fn new() -> Turns<H, C> {
        Turns { calls: BTreeMap::new(), handlers: VecDeque::new() }
    }

    /// A call waits, behind the others of its handler. A handler that begins to wait does so behind the other handlers.
    pub fn wait(&mut self, handler: H, call: C) {
        let calls = self.calls.entry(handler).or_default();
        if calls.is_empty() {
            self.handlers.push_back(handler);
        }
        calls.push_back(call);
    }

    /// Grants a turn to the first call of the next handler, which then waits behind the other handlers.
    pub fn grant(&mut self) -> Option<C> {
        let handler = self.handlers.pop_front()?;
        let calls = self.calls.get_mut(&handler)?;
        let call = calls.pop_front();
        if calls.is_empty() {
            self.calls.remove(&handler);
        } else {
            self.handlers.push_back(handler);
        }
        call
    }

    /// Takes a call out that no longer wants a turn: the first of the handler's that `is_it`.
    pub fn give_up(&mut self, handler: H, is_it: impl Fn(&C) -> bool) -> Option<C> {
        let calls = self.calls.get_mut(&handler)?;
        let call = calls.iter().position(is_it).and_then(|place| calls.remove(place));
        if calls.is_empty() {
            self.calls.remove(&handler);
            self.handlers.retain(|other| *other != handler);
        }
        call
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.handlers.is_empty()
    }
}

impl<H: Ord + Copy, C> Default for Turns<H, C> {
    fn default() -> Turns<H, C> {
        Turns::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::Turns;

    #[test]
    fn handlers_take_turns_and_within_a_handler_its_calls() {
        let mut turns = Turns::new();
        for call in ["a1", "a2", "a3"] {
            turns.wait('a', call);
        }
        turns.wait('b', "b1");
        let mut order = Vec::new();
        for _ in 0..8 {
            let call = turns.grant().expect("somebody waits");
            order.push(call);
            turns.wait(if call.starts_with('a') { 'a' } else { 'b' }, call);
        }
        assert_eq!(order, ["a1", "b1", "a2", "b1", "a3", "b1", "a1", "b1"]);
    }

    #[test]
    fn a_turn_that_is_given_up_goes_to_the_next() {
        let mut turns = Turns::new();
        turns.wait(1, "only");
        turns.wait(2, "first");
        turns.wait(2, "second");
        assert_eq!(turns.give_up(1, |call| *call == "only"), Some("only"));
        assert_eq!(turns.give_up(2, |call| *call == "first"), Some("first"));
        assert_eq!(turns.give_up(2, |call| *call == "never seen"), None);
        assert_eq!(turns.grant(), Some("second"));
        assert_eq!((turns.grant(), turns.is_empty()), (None, true));
    }

    /// What may happen while calls run on several threads.
    #[derive(Debug, Clone)]
    enum Step {
        /// A new call of a handler waits.
        Begin(u8),
        /// A thread is free.
        Grant,
        /// A running call has had its turn, and wants another one.
        Again(usize),
        /// A running call has ended.
        End(usize),
        /// A waiting call is dropped.
        GiveUp(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (0u8..4).prop_map(Step::Begin),
            5 => Just(Step::Grant),
            5 => any::<usize>().prop_map(Step::Again),
            1 => any::<usize>().prop_map(Step::End),
            1 => (0u8..4).prop_map(Step::GiveUp),
        ]
    }

    /// Handlers whose calls wait, with how many turns each was granted since each other one has waited without pause.
    #[derive(Debug, Default)]
    struct Count {
        waiting: BTreeMap<u8, usize>,
        granted: BTreeMap<(u8, u8), i64>,
    }

    impl Count {
        fn waits(&mut self, handler: u8) {
            *self.waiting.entry(handler).or_default() += 1;
        }

        fn granted(&mut self, handler: u8) {
            for other in self.waiting.keys() {
                *self.granted.entry((handler, *other)).or_default() += 1;
            }
            self.leaves(handler);
        }

        /// A handler without a call that waits does not want a turn; what others got meanwhile took nothing from it.
        fn leaves(&mut self, handler: u8) {
            let left = self.waiting.get_mut(&handler).expect("it waited");
            *left -= 1;
            if *left == 0 {
                self.waiting.remove(&handler);
                self.granted.retain(|(one, other), _| *one != handler && *other != handler);
            }
        }
    }

    proptest! {
        #[test]
        fn handlers_that_want_turns_all_the_time_get_equally_many(
            steps in proptest::collection::vec(step(), 1..400),
            threads in 1usize..4,
        ) {
            let (mut turns, mut running, mut count, mut next) = (Turns::new(), Vec::new(), Count::default(), 0u32);
            for step in steps {
                match step {
                    Step::Begin(handler) => {
                        next += 1;
                        turns.wait(handler, (handler, next));
                        count.waits(handler);
                    }
                    Step::Grant if running.len() < threads => {
                        let call = turns.grant();
                        prop_assert_eq!(call.is_none(), count.waiting.is_empty(), "a turn is granted whenever one is wanted");
                        if let Some(call) = call {
                            running.push(call);
                            count.granted(call.0);
                        }
                    }
                    Step::Again(which) if !running.is_empty() => {
                        let call: (u8, u32) = running.swap_remove(which % running.len());
                        turns.wait(call.0, call);
                        count.waits(call.0);
                    }
                    Step::End(which) if !running.is_empty() => {
                        running.swap_remove(which % running.len());
                    }
                    Step::Grant | Step::Again(_) | Step::End(_) => {}
                    Step::GiveUp(handler) => {
                        if turns.give_up(handler, |call| call.0 == handler).is_some() {
                            count.leaves(handler);
                        }
                    }
                }
                for ((one, other), granted) in &count.granted {
                    let back = count.granted.get(&(*other, *one)).copied().unwrap_or(0);
                    prop_assert!((granted - back).abs() <= 1, "{one} got {granted} turns, {other} {back}");
                }
            }
        }

        #[test]
        fn no_call_is_lost_doubled_or_starved(calls in proptest::collection::vec(0u8..5, 1..60)) {
            let mut turns = Turns::new();
            for (number, handler) in calls.iter().enumerate() {
                turns.wait(*handler, number);
            }
            let mut seen = Vec::new();
            while let Some(call) = turns.grant() {
                seen.push(call);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..calls.len()).collect::<Vec<_>>());
        }
    }
}
