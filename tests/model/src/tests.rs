//! What holds in every state that can be reached, and that the checker would see it if it did not.
//!
//! `TIDEMILL_MODEL_FAULTS` sets how many faults the explorations of one message have. `TIDEMILL_MODEL` asks for one
//! exploration of one's own, such as `dedup=claim attempts=2 messages=2 faults=2 operations=1`.

use crate::explore::{Found, explore};
use crate::setup::{Dedup, Mutation, Setup};

/// How many faults there are where nothing else is said.
const FAULTS: u8 = 2;

fn setup(dedup: Dedup, max_attempts: u32, messages: u8, faults: u8) -> Setup {
    Setup {
        dedup,
        max_attempts,
        in_memory: false,
        retries_too_large: false,
        messages,
        faults,
        operations: 0,
        discards_early: false,
        mutation: None,
    }
}

fn faults() -> u8 {
    let wanted = std::env::var("TIDEMILL_MODEL_FAULTS").ok();
    wanted.map_or(FAULTS, |text| text.parse().expect("TIDEMILL_MODEL_FAULTS is a number"))
}

fn run(setup: Setup) -> Found {
    let found = explore(setup);
    println!(
        "{setup:?}: {} states, {} steps, {} at rest, {} deep",
        found.states, found.steps, found.at_rest, found.depth
    );
    found
}

#[track_caller]
fn check_holds(setup: Setup) {
    let found = run(setup);
    if let Some(broken) = found.broken {
        panic!("{setup:?}\n{broken}");
    }
    assert!(found.states > 10 && found.at_rest > 1, "it has seen something: {found:?}");
}

/// Checks that the shortest way to what is wrong ends like this. Returns it.
#[track_caller]
fn check_finds(setup: Setup, what: &str) -> Vec<String> {
    let broken = run(setup).broken.unwrap_or_else(|| panic!("nothing is wrong in {setup:?}"));
    println!("{broken}");
    assert!(broken.what.starts_with(what), "{broken}");
    broken.trace
}

#[test]
fn one_message_without_dedup() {
    check_holds(setup(Dedup::Off, 1, 1, faults()));
    check_holds(setup(Dedup::Off, 2, 1, faults()));
}

#[test]
fn one_message_with_dedup() {
    check_holds(setup(Dedup::On, 1, 1, faults()));
    check_holds(setup(Dedup::On, 2, 1, faults()));
}

#[test]
fn one_message_with_claims() {
    check_holds(setup(Dedup::Claim, 1, 1, faults()));
    check_holds(setup(Dedup::Claim, 2, 1, faults()));
}

#[test]
fn two_messages_with_equal_ids() {
    for dedup in [Dedup::Off, Dedup::On, Dedup::Claim] {
        check_holds(setup(dedup, 1, 2, 1));
        check_holds(setup(dedup, 2, 2, 0));
    }
    check_holds(setup(Dedup::On, 2, 2, 1));
    check_holds(setup(Dedup::Claim, 2, 2, 1));
}

#[test]
fn what_is_discarded_or_purged_and_sent_again() {
    for dedup in [Dedup::On, Dedup::Claim] {
        check_holds(Setup { operations: 1, ..setup(dedup, 1, 1, 1) });
        check_holds(Setup { operations: 1, ..setup(dedup, 2, 1, 0) });
        check_holds(Setup { operations: 1, ..setup(dedup, 1, 2, 0) });
    }
}

#[test]
fn retries_that_wait_in_memory() {
    for dedup in [Dedup::Off, Dedup::On] {
        check_holds(Setup { in_memory: true, ..setup(dedup, 2, 1, 2) });
    }
    for dedup in [Dedup::Off, Dedup::On, Dedup::Claim] {
        check_holds(Setup { retries_too_large: true, ..setup(dedup, 2, 1, 1) });
    }
}

#[test]
fn a_charge_for_each_delivery_gives_up_an_event_that_was_not_run() {
    let mutated = Setup { mutation: Some(Mutation::ChargeDeliveries), ..setup(Dedup::Off, 1, 1, 1) };
    let trace = check_finds(mutated, "an event is given up after attempts that were not made");
    assert_eq!(trace.len(), 7);
}

#[test]
fn ids_without_a_place_lose_one_of_two_events() {
    for max_attempts in [1, 2] {
        // Of two dead letters one is stored; of two retries, the second replaces the first.
        let mutated = Setup { mutation: Some(Mutation::ForgetPlace), ..setup(Dedup::Off, max_attempts, 2, 0) };
        check_finds(mutated, "an event is lost");
    }
}

#[test]
fn a_marker_that_is_trusted_swallows_what_was_discarded_and_is_sent_again() {
    let mutated = Setup { mutation: Some(Mutation::TrustMarkers), operations: 1, ..setup(Dedup::On, 1, 1, 0) };
    let trace = check_finds(mutated, "an event is lost");
    assert_eq!(trace.len(), 14);
}

#[test]
fn a_claim_that_is_taken_over_at_once_is_run_twice() {
    let mutated = Setup { mutation: Some(Mutation::Impatient), ..setup(Dedup::Claim, 2, 1, 1) };
    check_finds(mutated, "two instances run a claimed event at once");
}

#[test]
fn a_claim_that_is_never_taken_over_keeps_its_event_for_ever() {
    let mutated = Setup { mutation: Some(Mutation::Patient), ..setup(Dedup::Claim, 1, 1, 1) };
    check_finds(mutated, "no way leads to rest");
}

#[test]
fn a_beginning_that_is_taken_back_unseen_undoes_what_another_instance_has_recorded() {
    let mutated = Setup { mutation: Some(Mutation::TakeBackUnseen), ..setup(Dedup::Off, 2, 1, 1) };
    check_finds(mutated, "an event has two dead letters for one run");
}

/// Limits of the present rules: see the page of the protocol.
#[test]
fn a_dead_letter_that_is_discarded_before_its_last_message_is_settled_may_swallow_what_is_sent_again() {
    // The event is not marked yet, or the last retry is not acknowledged yet.
    for max_attempts in [1, 2] {
        let early = Setup { operations: 1, discards_early: true, ..setup(Dedup::On, max_attempts, 1, 0) };
        check_finds(early, "an event is lost");
    }
}

#[test]
fn two_explorations_are_the_same() {
    let of = || {
        let found = explore(setup(Dedup::Claim, 2, 2, 0));
        (found.states, found.steps, found.at_rest, found.depth)
    };
    assert_eq!(of(), of());
}

#[test]
fn what_the_environment_asks_for() {
    let Ok(text) = std::env::var("TIDEMILL_MODEL") else { return };
    let mut wanted = setup(Dedup::Off, 1, 1, 1);
    for word in text.split_whitespace() {
        let (key, value) =
            word.split_once('=').unwrap_or_else(|| panic!("{word:?} in TIDEMILL_MODEL is not key=value"));
        let number = || value.parse::<u8>().unwrap_or_else(|_| panic!("{word:?} in TIDEMILL_MODEL needs a number"));
        match (key, value) {
            ("dedup", "off") => wanted.dedup = Dedup::Off,
            ("dedup", "on") => wanted.dedup = Dedup::On,
            ("dedup", "claim") => wanted.dedup = Dedup::Claim,
            ("attempts", _) => wanted.max_attempts = number().into(),
            ("messages", _) => wanted.messages = number().clamp(1, 2),
            ("faults", _) => wanted.faults = number(),
            ("operations", _) => wanted.operations = number().min(1),
            ("memory", _) => wanted.in_memory = number() > 0,
            ("large", _) => wanted.retries_too_large = number() > 0,
            ("early", _) => wanted.discards_early = number() > 0,
            ("unseen", _) => wanted.mutation = (number() > 0).then_some(Mutation::TakeBackUnseen),
            _ => panic!(
                "{word:?} in TIDEMILL_MODEL is none of dedup=off|on|claim, attempts, messages, faults, operations, \
                 memory, large, early and unseen"
            ),
        }
    }
    check_holds(wanted);
}
