//! Breadth-first through all states, so that the first counter-example is a shortest one; then backwards from rest.
//!
//! States that differ only in which instance is which are one state. Of a state, only a fingerprint of 128 bits is kept.
//! Nothing depends on chance: a second exploration is the same.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};

use crate::action::{ACTORS, Action, RECURRING, describe};
use crate::rules::Rules;
use crate::setup::Setup;
use crate::state::State;

/// What an exploration has found.
#[derive(Debug)]
pub struct Found {
    /// How many states there are.
    pub states: usize,
    /// How many steps lead from one to another.
    pub steps: usize,
    /// In how many of them everything is at rest.
    pub at_rest: usize,
    /// How many steps the farthest state is away from the first.
    pub depth: usize,
    /// The first property that does not hold, by a shortest trace.
    pub broken: Option<Broken>,
}

/// A property that does not hold.
#[derive(Debug)]
pub struct Broken {
    /// What is wrong.
    pub what: &'static str,
    /// How it comes to that.
    pub trace: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, after {} steps:", self.what, self.trace.len())?;
        for (number, line) in (1..).zip(&self.trace) {
            writeln!(f, "{number:>4}. {line}")?;
        }
        Ok(())
    }
}

/// Where a state was found first: from which one, by which of its actions, and whether the instances changed names then.
#[derive(Debug, Clone, Copy)]
struct Parent {
    state: u32,
    action: u16,
    is_mirrored: bool,
}

/// A step that is no fault.
#[derive(Debug, Clone, Copy)]
struct Step {
    to: u32,
    actor: u8,
}

struct Explorer {
    rules: Rules,
    numbers: HashMap<u128, u32>,
    parents: Vec<Parent>,
    steps: Vec<Step>,
    /// Where the steps of each state begin.
    offsets: Vec<usize>,
    at_rest: Vec<bool>,
    count: usize,
}

/// Explores everything.
pub fn explore(setup: Setup) -> Found {
    let rules = Rules::new(setup);
    let mut explorer = Explorer {
        numbers: HashMap::new(),
        parents: Vec::new(),
        steps: Vec::new(),
        offsets: vec![0],
        at_rest: Vec::new(),
        count: 0,
        rules,
    };
    let (depth, broken) = explorer.go();
    let broken = match broken {
        Some((state, what)) => Some(explorer.broken(state, what)),
        None => explorer.stuck().map(|(state, what)| explorer.broken(state, what)),
    };
    let at_rest = explorer.at_rest.iter().filter(|rests| **rests).count();
    Found { states: explorer.parents.len(), steps: explorer.count, at_rest, depth, broken }
}

impl Explorer {
    fn go(&mut self) -> (usize, Option<(u32, &'static str)>) {
        let first = State::first(&self.rules);
        self.numbers.insert(fingerprint(&first), 0);
        self.note(&first, Parent { state: 0, action: 0, is_mirrored: false });
        let mut level = vec![first];
        let mut number = 0;
        for depth in 0.. {
            let mut next_level = Vec::new();
            for state in level {
                for (index, action) in state.actions(&self.rules).into_iter().enumerate() {
                    self.count += 1;
                    let (next, is_mirrored) = canonical(state.after(&mut self.rules, action), &mut self.rules);
                    let fresh = u32::try_from(self.parents.len()).expect("few enough");
                    let to = *self.numbers.entry(fingerprint(&next)).or_insert(fresh);
                    if !action.is_fault() && to != number {
                        self.steps.push(Step { to, actor: action.actor() });
                    }
                    if to == fresh {
                        let action = u16::try_from(index).expect("few enough");
                        self.note(&next, Parent { state: number, action, is_mirrored });
                        if let Some(what) = next.broken {
                            return (depth + 1, Some((fresh, what)));
                        }
                        next_level.push(next);
                    }
                }
                self.offsets.push(self.steps.len());
                number += 1;
            }
            if next_level.is_empty() {
                return (depth, None);
            }
            level = next_level;
        }
        unreachable!("it ends with the last level")
    }

    fn note(&mut self, state: &State, parent: Parent) {
        self.parents.push(parent);
        self.at_rest.push(state.is_at_rest());
    }

    /// The steps of a state that are no faults.
    fn steps_of(&self, state: usize) -> &[Step] {
        &self.steps[self.offsets[state]..self.offsets[state + 1]]
    }

    /// A state from which no way leads to rest without a fault, or a circle in which everybody goes on for ever as far as he
    /// can. The first that was found is the nearest.
    fn stuck(&self) -> Option<(u32, &'static str)> {
        let to_rest = self.leads_to_rest();
        if let Some(state) = to_rest.iter().position(|leads| !leads) {
            return Some((u32::try_from(state).expect("a number"), "no way leads to rest"));
        }
        let all: Vec<u32> = (0..).take(self.parents.len()).collect();
        let circle = self.circle(&all)?;
        Some((circle, "it may go in a circle for ever"))
    }

    /// The first state of a circle among `states` in which everybody goes on. Whoever can act in each of its states, and
    /// would leave it whatever he does, does so in the end; so does, in time, whoever can act in some of them again and
    /// again, where his turn comes for sure.
    fn circle(&self, states: &[u32]) -> Option<u32> {
        let is_circle = |component: Vec<u32>| {
            let leaves = |actor: u8, state: &u32| {
                let mut own = self.steps_of(*state as usize).iter().filter(|step| step.actor == actor).peekable();
                own.peek().is_some() && own.all(|step| component.binary_search(&step.to).is_err())
            };
            if (0..ACTORS).any(|actor| component.iter().all(|state| leaves(actor, state))) {
                return None;
            }
            let is_open = |state: &u32| RECURRING.into_iter().any(|actor| leaves(actor, state));
            let closed: Vec<_> = component.iter().copied().filter(|state| !is_open(state)).collect();
            if closed.len() == component.len() { component.first().copied() } else { self.circle(&closed) }
        };
        self.components(states).into_iter().filter_map(is_circle).min()
    }

    fn leads_to_rest(&self) -> Vec<bool> {
        let mut before = vec![0usize; self.parents.len() + 1];
        for step in &self.steps {
            before[step.to as usize + 1] += 1;
        }
        for state in 0..self.parents.len() {
            before[state + 1] += before[state];
        }
        let mut from = vec![0u32; self.steps.len()];
        let mut filled = before.clone();
        for state in 0..self.parents.len() {
            for step in self.steps_of(state) {
                from[filled[step.to as usize]] = u32::try_from(state).expect("a number");
                filled[step.to as usize] += 1;
            }
        }
        let mut leads = self.at_rest.clone();
        let mut open: Vec<usize> = (0..leads.len()).filter(|state| leads[*state]).collect();
        while let Some(state) = open.pop() {
            for previous in &from[before[state]..before[state + 1]] {
                let previous = *previous as usize;
                if !std::mem::replace(&mut leads[previous], true) {
                    open.push(previous);
                }
            }
        }
        leads
    }

    /// The sets of more than one state each of which leads to every other within `states` (Tarjan's algorithm); all
    /// sorted.
    fn components(&self, states: &[u32]) -> Vec<Vec<u32>> {
        let within = |at: usize| {
            let steps = self.steps_of(states[at] as usize).iter();
            steps.filter_map(|step| states.binary_search(&step.to).ok()).collect::<Vec<_>>()
        };
        let mut search = Search { index: vec![NEW; states.len()], low: vec![NEW; states.len()], ..Search::default() };
        for root in 0..states.len() {
            if search.index[root] == NEW {
                search.from(root, &within);
            }
        }
        let numbers = |component: Vec<usize>| {
            let mut numbers: Vec<_> = component.into_iter().map(|at| states[at]).collect();
            numbers.sort_unstable();
            numbers
        };
        search.found.into_iter().map(numbers).collect()
    }

    /// The way from the first state to this one.
    fn broken(&mut self, state: u32, what: &'static str) -> Broken {
        let mut way = Vec::new();
        let mut at = state;
        while at != 0 {
            let parent = self.parents[at as usize];
            way.push(parent);
            at = parent.state;
        }
        let mut trace = Vec::new();
        let (mut here, mut is_mirrored) = (State::first(&self.rules), false);
        for parent in way.iter().rev() {
            let action: Action = here.actions(&self.rules)[usize::from(parent.action)];
            trace.push(describe(&self.rules, &here, action, is_mirrored));
            here = canonical(here.after(&mut self.rules, action), &mut self.rules).0;
            is_mirrored ^= parent.is_mirrored;
        }
        Broken { what, trace }
    }
}

/// What has no number yet.
const NEW: u32 = u32::MAX;
/// What has one, and its set is known.
const CLOSED: u32 = u32::MAX - 1;

/// A search for strongly connected components.
#[derive(Default)]
struct Search {
    index: Vec<u32>,
    /// The lowest number that is reached from here and open.
    low: Vec<u32>,
    open: Vec<usize>,
    next: u32,
    found: Vec<Vec<usize>>,
}

impl Search {
    fn from(&mut self, root: usize, within: &impl Fn(usize) -> Vec<usize>) {
        let mut path = vec![self.enter(root, within)];
        while let Some((at, children)) = path.last_mut() {
            let at = *at;
            match children.pop() {
                Some(child) if self.index[child] == NEW => path.push(self.enter(child, within)),
                Some(child) if self.low[child] != CLOSED => self.low[at] = self.low[at].min(self.index[child]),
                Some(_) => {}
                None => {
                    path.pop();
                    let low = self.low[at];
                    if low == self.index[at] {
                        self.close(at);
                    } else if let Some((parent, _)) = path.last() {
                        self.low[*parent] = self.low[*parent].min(low);
                    }
                }
            }
        }
    }

    fn enter(&mut self, at: usize, within: &impl Fn(usize) -> Vec<usize>) -> (usize, Vec<usize>) {
        (self.index[at], self.low[at]) = (self.next, self.next);
        self.next += 1;
        self.open.push(at);
        (at, within(at))
    }

    fn close(&mut self, at: usize) {
        let first = self.open.iter().rposition(|other| *other == at).expect("it is open");
        let component = self.open.split_off(first);
        for other in &component {
            self.low[*other] = CLOSED;
        }
        if component.len() > 1 {
            self.found.push(component);
        }
    }
}

/// The smaller of a state and its mirror image, and whether it is the latter.
fn canonical(state: State, rules: &mut Rules) -> (State, bool) {
    let mirrored = state.mirrored(rules);
    if mirrored < state { (mirrored, true) } else { (state, false) }
}

fn fingerprint(state: &State) -> u128 {
    let mut hasher = Fingerprint { lanes: [0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F], word: 0, bytes: 0 };
    state.hash(&mut hasher);
    hasher.mix();
    u128::from(hasher.lanes[0]) << 64 | u128::from(hasher.lanes[1])
}

/// Two independent hashes of 64 bits, over words of eight bytes. What a state is made of is written in an order that can be
/// read back, so that two states never write the same bytes.
struct Fingerprint {
    lanes: [u64; 2],
    word: u64,
    bytes: u64,
}

impl Fingerprint {
    fn mix(&mut self) {
        const ODD: [u64; 2] = [0xA076_1D64_78BD_642F, 0xE703_7ED1_A0B4_28DB];
        let word = std::mem::take(&mut self.word);
        for (lane, odd) in self.lanes.iter_mut().zip(ODD) {
            let product = u128::from(*lane ^ word ^ self.bytes) * u128::from(odd.rotate_left(23) | 1);
            let bytes = product.to_le_bytes();
            let half = |from: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[from + index]));
            let (low, high) = (half(0), half(8));
            *lane = (low ^ high).wrapping_add(odd).rotate_left(29) ^ word.wrapping_mul(odd);
        }
    }
}

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.word = self.word << 8 | u64::from(value);
        self.bytes += 1;
        if self.bytes.is_multiple_of(8) {
            self.mix();
        }
    }

    /// Of lists, how long they are.
    fn write_usize(&mut self, value: usize) {
        self.write_u8(u8::try_from(value).expect("few"));
    }

    /// Of enumerations, which variant it is.
    fn write_isize(&mut self, value: isize) {
        self.write_u8(u8::try_from(value).expect("few"));
    }

    fn finish(&self) -> u64 {
        self.lanes[0]
    }
}
