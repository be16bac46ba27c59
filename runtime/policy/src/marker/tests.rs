use proptest::prelude::*;

use super::*;
use crate::arrival::fixtures::{NOW_MS, arrival as arrives, delivered_again, error, handler, message, position};
use crate::arrival::{Position, first};
use crate::decode::decode;
use crate::manifest::{Dedup, DedupKey, Mode};
use crate::publication::{self, Case, RetryClock};

fn delivered(count: u32) -> Arrival {
    first(message(&[], "p"), Position { delivered: count, ..position() })
}

fn deduplicating() -> Handler {
    let dedup = Dedup { key: DedupKey::Id, window: Duration::from_hours(1), claim: false };
    Handler { dedup: Some(dedup), ..handler() }
}

/// The attempt that is due, and the attempts and kinds in the history.
fn due(arrival: &mut Arrival, marker: Option<Marker>) -> (u32, Vec<(u32, Kind)>) {
    assert_eq!(stand(&handler(), arrival, marker, NOW_MS), Standing::Due);
    (arrival.attempt.get(), entries(&arrival.history))
}

fn entries(history: &History) -> Vec<(u32, Kind)> {
    history.errors.iter().map(|error| (error.attempt, error.kind)).collect()
}

fn retry_of(arrival: &Arrival) -> Arrival {
    let event = decode(arrival, &handler()).expect("can be decoded");
    let case = Case { handler: &handler(), arrival, event: Some(&event) };
    let error = error(arrival.attempt);
    let clock = RetryClock::Schedules;
    let message = publication::retry(case, "tidemill", clock, &error, NOW_MS, Duration::ZERO, usize::MAX);
    delivered_again(message.expect("no limit"))
}

#[test]
fn every_delivery_without_a_result_is_an_attempt_that_was_lost() {
    assert_eq!(due(&mut delivered(1), None), (1, vec![]));
    assert_eq!(due(&mut delivered(3), None), (3, vec![(1, Kind::Lost), (2, Kind::Lost)]));
    // The last of five is told by the failure that the event is given up with.
    let four: Vec<_> = (1..=4).map(|attempt| (attempt, Kind::Lost)).collect();
    let mut exhausted = delivered(6);
    let (attempt, history) = due(&mut exhausted, None);
    assert_eq!((attempt, exhausted.history.len()), (6, 4));
    assert_eq!((history.first(), history.last()), (four.first(), four.last()));
    // What is delivered after that is no attempt.
    assert_eq!(due(&mut delivered(9), None).0, 6);
    // Looking again does not count again.
    assert_eq!(due(&mut exhausted, None).0, 6);
    // However many there are, the history stays short.
    let mut flood = delivered(u32::MAX);
    let mut patient = handler();
    assert_eq!(stand(&patient, &mut flood, None, NOW_MS), Standing::Due);
    assert_eq!((flood.attempt.get(), entries(&flood.history).len()), (6, 4));
    patient.retry.max_attempts = 1000;
    let mut flood = delivered(u32::MAX);
    assert_eq!(stand(&patient, &mut flood, None, NOW_MS), Standing::Due);
    assert_eq!((flood.attempt.get(), flood.history.errors.len(), flood.history.len()), (1001, 16, 999));
}

#[test]
fn after_a_recorded_failure_the_next_attempt_follows_and_a_death_in_it_counts() {
    let mut arrival = delivered(1);
    due(&mut arrival, None);
    let marker = failed(&arrival, &error(arrival.attempt), Next::Attempt(NOW_MS));
    // The process died waiting for attempt 2, or in it.
    let expected = (3, vec![(1, Kind::Retry), (2, Kind::Lost)]);
    assert_eq!(due(&mut delivered(2), Some(marker.clone())), expected);
    // The server forgot that it had delivered the message; the failure stays known.
    assert_eq!(due(&mut delivered(1), Some(marker)), (2, vec![(1, Kind::Retry)]));
}

#[test]
fn what_was_handed_back_before_it_began_costs_no_attempt() {
    let mut marker = None;
    for count in 1..10 {
        let mut arrival = delivered(count);
        assert_eq!(due(&mut arrival, marker), (1, vec![]));
        marker = Some(handed_back(&arrival));
    }
}

#[test]
fn a_recorded_decision_is_carried_out_again_with_the_failure_it_was_made_for() {
    for next in [Next::Retry(NOW_MS + 5), Next::DeadLetter] {
        let mut arrival = delivered(2);
        due(&mut arrival, None);
        let marker = failed(&arrival, &error(arrival.attempt), next);
        let mut again = delivered(3);
        let standing = stand(&handler(), &mut again, Some(marker), NOW_MS);
        assert_eq!(standing, Standing::Failed(error(arrival.attempt), next));
        assert_eq!((again.attempt, &again.history), (arrival.attempt, &arrival.history));
    }
}

#[test]
fn a_retry_goes_on_where_its_predecessor_ended_and_leaves_that_nothing_to_do() {
    let mut input = delivered(1);
    due(&mut input, None);
    let of_input = failed(&input, &error(input.attempt), Next::Retry(NOW_MS));
    let mut retry = retry_of(&input);
    assert_eq!(due(&mut retry, Some(of_input)), (2, vec![(1, Kind::Retry)]));
    let of_retry = failed(&retry, &error(retry.attempt), Next::Retry(NOW_MS));
    assert_eq!(stand(&handler(), &mut delivered(2), Some(of_retry.clone()), NOW_MS), Standing::Superseded);
    let again = stand(&handler(), &mut retry_of(&input), Some(of_retry), NOW_MS);
    assert_eq!(again, Standing::Failed(error(retry.attempt), Next::Retry(NOW_MS)));
}

/// A server that was killed fires a schedule again, and removes the one that has followed it.
#[test]
fn a_retry_that_was_overtaken_brings_the_one_that_overtook_it_back() {
    let input = delivered(1);
    let copy = |sequence| Arrival { position: Position { sequence, ..retry_of(&input).position }, ..retry_of(&input) };
    let mut retry = copy(1);
    let overtook = Arrival { attempt: Attempt::FIRST.plus(2), ..copy(2) };
    let marker = failed(&overtook, &error(overtook.attempt), Next::Retry(NOW_MS + 5));
    let due_ms = NOW_MS + 5 + 60_000;
    let standing = stand(&handler(), &mut retry, Some(marker.clone()), NOW_MS);
    assert_eq!(standing, Standing::Failed(error(overtook.attempt), Next::Retry(due_ms)));
    assert_eq!((retry.attempt, &retry.history), (overtook.attempt, &overtook.history));
    for ended in [Next::DeadLetter, Next::Attempt(NOW_MS)] {
        let marker = failed(&overtook, &error(overtook.attempt), ended);
        assert_eq!(stand(&handler(), &mut copy(1), Some(marker), NOW_MS), Standing::Superseded);
    }
}

#[test]
fn what_has_ended_is_superseded_and_what_is_claimed_is_waited_for() {
    let claimed = Marker::Claimed { instance: "i".into() };
    for (marker, expected) in
        [(Marker::Done, Standing::Superseded), (Marker::Dead, Standing::Superseded), (claimed, Standing::Claimed)]
    {
        for count in [1, 2] {
            assert_eq!(stand(&deduplicating(), &mut delivered(count), Some(marker.clone()), NOW_MS), expected);
        }
    }
}

#[test]
fn with_dedup_the_marker_is_looked_up_on_every_delivery() {
    let broadcast = Handler { mode: Mode::Broadcast, ..handler() };
    for (handler, count, wanted) in [
        (deduplicating(), 1, true),
        (deduplicating(), 2, true),
        (handler(), 1, false),
        (handler(), 2, true),
        (broadcast, 2, false),
    ] {
        assert_eq!(is_wanted(&handler, &delivered(count)), wanted, "{:?} {count}", handler.dedup);
    }
    assert!(is_wanted(&handler(), &retry_of(&delivered(1))), "its predecessor has left a marker");
}

#[test]
fn only_what_is_no_end_is_replaced_unseen_and_only_by_an_end_or_a_successor() {
    let input = delivered(1);
    let retry = retry_of(&input);
    let of_input = failed(&input, &error(input.attempt), Next::Retry(NOW_MS));
    let of_retry = failed(&retry, &error(retry.attempt), Next::Retry(NOW_MS));
    let claimed = Marker::Claimed { instance: "i".into() };
    let rows = [
        (&input, &of_input, None, false, true),
        (&input, &Marker::Done, Some(&of_input), false, true),
        (&input, &Marker::Done, Some(&Marker::Dead), false, false),
        (&input, &Marker::Dead, Some(&Marker::Done), false, false),
        (&input, &of_input, Some(&Marker::Done), false, false),
        (&input, &of_input, Some(&of_retry), false, false),
        (&retry, &of_retry, Some(&of_input), false, true),
        (&retry, &of_retry, Some(&of_retry), false, false),
        (&input, &of_input, Some(&claimed), false, false),
        (&input, &of_input, Some(&claimed), true, true),
        (&input, &Marker::Done, Some(&claimed), false, false),
    ];
    for (arrival, new, present, is_own, expected) in rows {
        assert_eq!(may_replace(arrival, new, present, is_own), expected, "{new:?} after {present:?}");
    }
}

#[test]
fn messages_of_one_identity_share_a_marker_only_with_dedup_and_a_replay_has_its_own() {
    let identity = Identity { source: None, id: "e1" };
    let one = arrives(&[], "p");
    let other = first(message(&[], "p"), Position { sequence: 8, ..position() });
    let replayed = Arrival { epoch: 1, ..one.clone() };
    assert_eq!(key(&deduplicating(), identity, &one), key(&deduplicating(), identity, &other));
    assert_ne!(key(&handler(), identity, &one), key(&handler(), identity, &other));
    assert_eq!(key(&handler(), identity, &one), key(&handler(), identity, &retry_of(&one)));
    for handler in [handler(), deduplicating()] {
        assert_ne!(key(&handler, identity, &one), key(&handler, identity, &replayed));
    }
}

#[test]
fn markers_outlive_what_they_are_needed_for() {
    let (handler, without) = (deduplicating(), handler());
    let open = |next| failed(&delivered(1), &error(Attempt::FIRST), next);
    assert_eq!(lifetime(&handler, &Marker::Done, NOW_MS), Duration::from_hours(1));
    assert_eq!(lifetime(&without, &Marker::Dead, NOW_MS), OPEN_AGE_MIN);
    assert_eq!(lifetime(&handler, &Marker::Claimed { instance: String::new() }, NOW_MS), handler.ack_wait * 2);
    assert_eq!(lifetime(&handler, &open(Next::Retry(NOW_MS + 1000)), NOW_MS), OPEN_AGE_MIN + Duration::from_secs(1));
}

proptest! {
    /// Whatever the broker holds, and however often it delivers, the history tells of every attempt once.
    #[test]
    fn attempts_are_counted_without_gaps(steps in prop::collection::vec((0u32..3, any::<bool>()), 1..8)) {
        let handler = handler();
        let (mut marker, mut count) = (None, 0);
        for (crashes, reports) in steps {
            count += 1 + crashes;
            let mut arrival = delivered(count);
            prop_assert_eq!(stand(&handler, &mut arrival, marker.clone(), NOW_MS), Standing::Due);
            if arrival.attempt.get() > handler.retry.max_attempts {
                break;
            }
            let told = arrival.history.errors.iter().map(|error| error.attempt).collect::<Vec<_>>();
            if arrival.history.dropped == 0 {
                prop_assert_eq!(told, (1..arrival.attempt.get()).collect::<Vec<_>>());
            }
            marker = Some(if reports {
                failed(&arrival, &error(arrival.attempt), Next::Attempt(NOW_MS))
            } else {
                handed_back(&arrival)
            });
            let json = serde_json::to_vec(&marker).expect("serialises");
            prop_assert_eq!(serde_json::from_slice::<Option<Marker>>(&json).ok(), Some(marker.clone()));
        }
    }
}
