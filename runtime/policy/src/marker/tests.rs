use proptest::prelude::*;

use super::*;
use crate::arrival::fixtures::{NOW_MS, delivered_again, error, handler, message, position};
use crate::arrival::{Position, first};
use crate::decode::decode;
use crate::manifest::{Dedup, DedupKey, Mode};
use crate::publication::{self, Case, RetryClock};

const US: &str = "us";
const OTHER: &str = "other";

/// Somebody who got the message only now.
const FRESH: Asker<'static> = Asker { instance: US, is_fresh: true, is_abandoned: false, now_ms: NOW_MS };
const LATE: Asker<'static> = Asker { is_fresh: false, ..FRESH };
const PATIENT: Asker<'static> = Asker { is_fresh: false, is_abandoned: true, ..FRESH };

fn delivered(count: u32) -> Arrival {
    first(message(&[], "p"), Position { delivered: count, ..position() })
}

/// Another message of the same event.
fn copy() -> Arrival {
    first(message(&[], "p"), Position { sequence: 99, ..position() })
}

fn deduplicating() -> Handler {
    let dedup = Dedup { key: DedupKey::Id, window: Duration::from_hours(1), claim: false };
    Handler { dedup: Some(dedup), ..handler() }
}

fn claiming() -> Handler {
    let dedup = deduplicating().dedup.map(|dedup| Dedup { claim: true, ..dedup });
    Handler { dedup, ..handler() }
}

/// The attempt that is due, and the attempts and kinds in the history.
fn due(arrival: &mut Arrival, marker: Option<Marker>) -> (u32, Vec<(u32, Kind)>) {
    assert_eq!(stand(&handler(), arrival, marker, &FRESH), Standing::Due);
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
fn a_delivery_of_which_nothing_is_known_costs_no_attempt() {
    for count in [1, 2, 3, 6, u32::MAX] {
        assert_eq!(due(&mut delivered(count), None), (1, vec![]), "delivery {count}");
    }
}

#[test]
fn an_attempt_that_has_begun_and_has_no_end_is_lost() {
    let mut marker = None;
    for count in 2..=5 {
        let mut arrival = delivered(count);
        let lost: Vec<_> = (1..count - 1).map(|attempt| (attempt, Kind::Lost)).collect();
        assert_eq!(due(&mut arrival, marker), (count - 1, lost));
        marker = Some(begun(&arrival, OTHER));
        // Until it begins anew, it is the same, however often it is delivered.
        assert_eq!(due(&mut delivered(count + 1), marker.clone()).0, count);
        assert_eq!(due(&mut delivered(count + 7), marker.clone()).0, count);
    }
    // The last of five is told by the failure that the event is given up with.
    let mut arrival = delivered(6);
    assert_eq!(due(&mut arrival, marker).0, 5);
    let (attempt, history) = due(&mut delivered(7), Some(begun(&arrival, OTHER)));
    assert_eq!((attempt, history.len()), (6, 4));
}

#[test]
fn what_this_process_has_cut_off_itself_is_not_lost() {
    let mut arrival = delivered(2);
    due(&mut arrival, None);
    assert_eq!(due(&mut delivered(3), Some(begun(&arrival, US))), (1, vec![]));
    assert_eq!(due(&mut delivered(3), Some(handed_back(&arrival))), (1, vec![]));
}

#[test]
fn after_a_recorded_failure_the_next_attempt_follows_and_a_death_in_it_counts_if_it_had_begun() {
    let mut arrival = delivered(1);
    due(&mut arrival, None);
    let marker = failed(&arrival, &error(arrival.attempt), Next::Attempt(NOW_MS));
    // The process died waiting for attempt 2.
    let mut again = delivered(2);
    assert_eq!(due(&mut again, Some(marker.clone())), (2, vec![(1, Kind::Retry)]));
    assert_eq!(due(&mut delivered(9), Some(marker)), (2, vec![(1, Kind::Retry)]));
    // It died in it.
    let expected = (3, vec![(1, Kind::Retry), (2, Kind::Lost)]);
    assert_eq!(due(&mut delivered(3), Some(begun(&again, OTHER))), expected);
}

#[test]
fn a_recorded_decision_is_carried_out_again_with_the_failure_it_was_made_for() {
    for next in [Next::Retry(NOW_MS + 5), Next::DeadLetter] {
        let mut arrival = delivered(2);
        due(&mut arrival, None);
        let marker = failed(&arrival, &error(arrival.attempt), next);
        let mut again = delivered(3);
        let standing = stand(&handler(), &mut again, Some(marker), &FRESH);
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
    let carried = Standing::Elsewhere(vec![Carrier::Retry]);
    assert_eq!(stand(&handler(), &mut delivered(2), Some(of_retry.clone()), &FRESH), carried);
    let again = stand(&handler(), &mut retry_of(&input), Some(of_retry), &FRESH);
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
    let standing = stand(&handler(), &mut retry, Some(marker.clone()), &FRESH);
    assert_eq!(standing, Standing::Failed(error(overtook.attempt), Next::Retry(due_ms)));
    assert_eq!((retry.attempt, &retry.history), (overtook.attempt, &overtook.history));
    let carried = Standing::Elsewhere(vec![Carrier::Message(overtook.position.name())]);
    let markers = [Next::DeadLetter, Next::Attempt(NOW_MS)].map(|next| failed(&overtook, &error(Attempt::FIRST), next));
    for marker in markers.into_iter().chain([begun(&overtook, OTHER)]) {
        assert_eq!(stand(&handler(), &mut copy(1), Some(marker), &FRESH), carried);
    }
}

/// A second message of the same attempt, while the first is being run.
#[test]
fn a_retry_that_is_there_twice_is_run_once() {
    let input = delivered(1);
    let one = retry_of(&input);
    let mut two = Arrival { position: Position { sequence: 7777, ..one.position.clone() }, ..one.clone() };
    let carried = Standing::Elsewhere(vec![Carrier::Message(one.position.name())]);
    assert_eq!(stand(&handler(), &mut two, Some(begun(&one, OTHER)), &FRESH), carried);
}

#[test]
fn a_copy_of_what_has_ended_is_superseded_unless_its_dead_letter_may_be_gone() {
    let letter = Stored { stream: "TIDEMILL_DEADLETTER".into(), sequence: 3 };
    let of_letter = Standing::Buried(letter.clone());
    let arrival = delivered(1);
    for (marker, expected) in [
        (done(&arrival), Standing::Superseded),
        (dead(&arrival, None), Standing::Superseded),
        (dead(&arrival, Some(letter.clone())), of_letter),
    ] {
        assert_eq!(stand(&deduplicating(), &mut copy(), Some(marker), &FRESH), expected);
    }
    // The very message comes back only from a server that forgot its end. Nobody has sent it again.
    let of_retry = dead(&retry_of(&arrival), Some(letter.clone()));
    for marker in [dead(&arrival, Some(letter.clone())), of_retry] {
        assert_eq!(stand(&deduplicating(), &mut delivered(2), Some(marker), &FRESH), Standing::Superseded);
    }
    // A retry is older than the end; it is not what a producer has sent again.
    let stale = stand(&deduplicating(), &mut retry_of(&arrival), Some(dead(&arrival, Some(letter))), &FRESH);
    assert_eq!(stale, Standing::Superseded);
}

#[test]
fn a_replay_is_another_run_and_what_was_before_it_is_older() {
    let arrival = delivered(1);
    let replayed = Arrival { epoch: 1, ..retry_of(&arrival) };
    let open = failed(&arrival, &error(Attempt::FIRST), Next::DeadLetter);
    for marker in [done(&arrival), dead(&arrival, None), open, begun(&arrival, OTHER)] {
        let mut replayed = replayed.clone();
        assert_eq!(stand(&handler(), &mut replayed, Some(marker.clone()), &FRESH), Standing::Due);
        assert!(may_replace(&replayed, US, &begun(&replayed, US), Some(&marker)));
    }
    let of_replay = [done(&replayed), begun(&replayed, OTHER)];
    let name = Carrier::Message(replayed.position.name());
    let expected = [Standing::Superseded, Standing::Elsewhere(vec![name, Carrier::Retry])];
    for (marker, expected) in of_replay.into_iter().zip(expected) {
        assert_eq!(stand(&deduplicating(), &mut copy(), Some(marker.clone()), &FRESH), expected);
        assert!(!may_replace(&copy(), US, &done(&copy()), Some(&marker)));
    }
}

#[test]
fn of_two_messages_the_one_that_was_begun_carries_the_event_on() {
    let one = delivered(1);
    let message = Carrier::Message(one.position.name());
    let of_message = Standing::Elsewhere(vec![message, Carrier::Retry]);
    let of_retry = Standing::Elsewhere(vec![Carrier::Retry]);
    for (marker, expected) in [
        (begun(&one, OTHER), &of_message),
        (handed_back(&one), &of_message),
        (failed(&one, &error(Attempt::FIRST), Next::Attempt(NOW_MS)), &of_message),
        (failed(&one, &error(Attempt::FIRST), Next::DeadLetter), &of_message),
        (failed(&one, &error(Attempt::FIRST), Next::Retry(NOW_MS)), &of_retry),
    ] {
        assert_eq!(stand(&deduplicating(), &mut copy(), Some(marker), &FRESH), *expected);
    }
}

#[test]
fn a_claim_is_waited_for_until_its_holder_is_gone() {
    let begun_by = |instance| begun(&delivered(1), instance);
    let claimed = |asker| stand(&claiming(), &mut delivered(2), Some(begun_by(OTHER)), asker);
    assert_eq!((claimed(&FRESH), claimed(&LATE)), (Standing::Claimed, Standing::Claimed));
    let mut arrival = delivered(2);
    assert_eq!(stand(&claiming(), &mut arrival, Some(begun_by(OTHER)), &PATIENT), Standing::Due);
    assert_eq!((arrival.attempt.get(), entries(&arrival.history)), (2, vec![(1, Kind::Lost)]));
    assert_eq!(stand(&claiming(), &mut delivered(2), Some(begun_by(US)), &FRESH), Standing::Due);
    // Also by what follows the message that was given up too early.
    let retry = || retry_of(&delivered(1));
    let taken_over = || Some(begun(&copy(), OTHER));
    assert_eq!(stand(&claiming(), &mut retry(), taken_over(), &FRESH), Standing::Claimed);
    assert_eq!(stand(&claiming(), &mut retry(), taken_over(), &PATIENT), Standing::Due);
    assert_eq!(stand(&deduplicating(), &mut retry(), taken_over(), &FRESH), Standing::Due);
    // Of the version before.
    let before = || Some(Marker::Claimed { instance: OTHER.into() });
    assert_eq!(stand(&claiming(), &mut delivered(1), before(), &FRESH), Standing::Claimed);
    assert_eq!(stand(&claiming(), &mut delivered(1), before(), &PATIENT), Standing::Due);
}

#[test]
fn who_got_a_message_earlier_leaves_it_to_who_got_it_later() {
    let later = begun(&delivered(3), OTHER);
    assert_eq!(stand(&handler(), &mut delivered(2), Some(later.clone()), &LATE), Standing::TakenAway);
    assert_eq!(stand(&handler(), &mut delivered(4), Some(later.clone()), &LATE), Standing::Due);
    // A server that was killed counts anew.
    assert_eq!(stand(&handler(), &mut delivered(1), Some(later), &FRESH), Standing::Due);
}

#[test]
fn what_is_looked_up_and_recorded_depends_on_what_may_be_known() {
    let broadcast = Handler { mode: Mode::Broadcast, ..handler() };
    let retry = retry_of(&delivered(1));
    let replayed = Arrival { epoch: 1, ..delivered(1) };
    for (handler, arrival, is_looked_up, is_begin_recorded) in [
        (deduplicating(), delivered(1), true, false),
        (deduplicating(), delivered(2), true, true),
        (claiming(), delivered(1), true, true),
        (handler(), delivered(1), false, false),
        (handler(), delivered(2), true, true),
        (handler(), retry, true, true),
        (handler(), replayed, true, true),
        (broadcast, delivered(2), false, false),
    ] {
        let found = (is_wanted(&handler, &arrival), records_begin(&handler, &arrival));
        assert_eq!(found, (is_looked_up, is_begin_recorded), "{:?} {:?}", handler.dedup, arrival.position);
    }
}

#[test]
fn only_what_is_no_end_is_replaced_unseen_and_only_by_an_end_or_a_successor() {
    let input = delivered(1);
    let retry = retry_of(&input);
    let of_input = failed(&input, &error(input.attempt), Next::Retry(NOW_MS));
    let of_retry = failed(&retry, &error(retry.attempt), Next::Retry(NOW_MS));
    let (is_done, is_dead) = (done(&input), dead(&input, None));
    let (ours, others) = (begun(&input, US), begun(&input, OTHER));
    let retry_begun = begun(&retry, US);
    let rows = [
        (&input, &of_input, None, true),
        (&input, &is_done, Some(&of_input), true),
        (&input, &is_done, Some(&is_dead), false),
        (&input, &is_dead, Some(&is_done), false),
        (&input, &of_input, Some(&is_done), false),
        (&input, &of_input, Some(&of_retry), false),
        (&retry, &of_retry, Some(&of_input), true),
        (&retry, &of_retry, Some(&of_retry), false),
        (&input, &of_input, Some(&others), false),
        (&input, &of_input, Some(&ours), true),
        (&input, &is_done, Some(&others), true),
        (&retry, &of_retry, Some(&others), true),
        (&retry, &retry_begun, Some(&of_input), true),
        (&retry, &retry_begun, Some(&others), false),
    ];
    for (arrival, new, present, expected) in rows {
        assert_eq!(may_replace(arrival, US, new, present), expected, "{new:?} after {present:?}");
    }
}

#[test]
fn markers_of_the_version_before_are_found_and_read() {
    let input = first(message(&[], "p"), position());
    let event = decode(&input, &handler()).expect("an event");
    let expected = legacy::marker(None, "ORDERS@1700000000:7", "mail", "ORDERS:7:1700000000123", 0);
    assert_eq!(legacy_key(&handler(), &input, Some(&event)), expected);
    let expected = legacy::marker(None, "ORDERS@1700000000:7", "mail", "", 0);
    assert_eq!(legacy_key(&deduplicating(), &input, Some(&event)), expected);
    let open = r#"{"state":"open","message":"ORDERS:7@1700000000123","deliveries":1,"attempts":1,"errors":[],
        "next":{"attempt":5}}"#;
    for (text, expected) in [
        (r#"{"state":"done"}"#, Standing::Superseded),
        (r#"{"state":"dead"}"#, Standing::Superseded),
        (r#"{"state":"claimed","instance":"i"}"#, Standing::Claimed),
        (open, Standing::Due),
    ] {
        let marker = serde_json::from_str(text).expect("a marker");
        assert_eq!(stand(&deduplicating(), &mut input.clone(), Some(marker), &FRESH), expected, "{text}");
    }
}

#[test]
fn markers_outlive_what_they_are_needed_for() {
    let (handler, without) = (deduplicating(), handler());
    let arrival = delivered(1);
    let open = |next| failed(&arrival, &error(Attempt::FIRST), next);
    assert_eq!(lifetime(&handler, &done(&arrival), NOW_MS), Duration::from_hours(1));
    assert_eq!(lifetime(&without, &dead(&arrival, None), NOW_MS), OPEN_AGE_MIN);
    assert_eq!(lifetime(&handler, &Marker::Claimed { instance: String::new() }, NOW_MS), handler.ack_wait * 2);
    assert_eq!(lifetime(&handler, &begun(&arrival, US), NOW_MS), OPEN_AGE_MIN);
    assert_eq!(lifetime(&handler, &open(Next::Retry(NOW_MS + 1000)), NOW_MS), OPEN_AGE_MIN + Duration::from_secs(1));
}

/// What a process does with a delivery before it dies or ends it.
#[derive(Debug, Clone, Copy)]
enum Deed {
    /// Nothing: it dies, or waits until it does.
    Nothing,
    /// It begins the attempt, and dies in it.
    Begin,
    /// It begins the attempt, and cuts it off itself.
    CutOff,
    /// The attempt fails.
    Fail,
}

proptest! {
    /// However often a message is delivered and whatever becomes of it: every attempt that is charged was made, every
    /// one that was made and is known is charged once, in order, and no more are made than one too many.
    #[test]
    fn what_is_charged_was_made(
        claims: bool,
        deeds in prop::collection::vec(
            prop_oneof![Just(Deed::Nothing), Just(Deed::Begin), Just(Deed::CutOff), Just(Deed::Fail)], 1..20
        ),
    ) {
        let handler = if claims { claiming() } else { handler() };
        let (mut marker, mut made, mut charged_max) = (None, 0, 0);
        for (count, deed) in (1..).zip(deeds) {
            let mut arrival = delivered(count);
            prop_assert_eq!(stand(&handler, &mut arrival, marker.clone(), &PATIENT), Standing::Due);
            let charged = arrival.attempt.preceding();
            prop_assert!(charged <= made, "{charged} attempts are charged, {made} were made");
            prop_assert!(charged >= charged_max, "an attempt is forgotten");
            charged_max = charged;
            if charged >= handler.retry.max_attempts {
                break;
            }
            let told = arrival.history.errors.iter().map(|error| error.attempt).collect::<Vec<_>>();
            prop_assert_eq!(told, (1..=charged).collect::<Vec<_>>());
            let instance = format!("i{count}");
            let begins = !matches!(deed, Deed::Nothing);
            if begins && records_begin(&handler, &arrival) {
                marker = Some(begun(&arrival, &instance));
            }
            made += u32::from(begins);
            match deed {
                Deed::CutOff if records_begin(&handler, &arrival) => marker = Some(handed_back(&arrival)),
                Deed::Fail => marker = Some(failed(&arrival, &error(arrival.attempt), Next::Attempt(NOW_MS))),
                _ => {}
            }
            let json = serde_json::to_vec(&marker).expect("serialises");
            prop_assert_eq!(serde_json::from_slice::<Option<Marker>>(&json).ok(), Some(marker.clone()));
        }
    }

    /// One that kills the process at each attempt is run once too often, and never with `dedup.claim`.
    #[test]
    fn an_event_that_kills_its_process_is_run_at_most_once_too_often(max_attempts in 1u32..9, claims: bool) {
        let mut handler = if claims { claiming() } else { handler() };
        handler.retry.max_attempts = max_attempts;
        let (mut marker, mut runs) = (None, 0);
        for count in 1.. {
            let mut arrival = delivered(count);
            prop_assert_eq!(stand(&handler, &mut arrival, marker.clone(), &PATIENT), Standing::Due);
            if arrival.attempt.get() > max_attempts {
                break;
            }
            runs += 1;
            if records_begin(&handler, &arrival) {
                marker = Some(begun(&arrival, &format!("i{count}")));
            }
        }
        prop_assert_eq!(runs, max_attempts + u32::from(!claims));
    }
}

/// The bucket is open to whoever may write in it.
#[test]
fn what_somebody_wrote_into_a_record_stays_within_what_policy_allows() {
    let longest_ms = millis(retry::longest_delay(&handler().retry));
    let huge = AttemptError { message: "x".repeat(700_000), ..error(Attempt::FIRST) };
    let arrival = delivered(2);
    for next in [Next::Retry(u64::MAX), Next::Retry(NOW_MS + 400 * 24 * 3_600_000), Next::DeadLetter] {
        for attempts in [0, 1, u32::MAX] {
            let Marker::Open(progress) = failed(&arrival, &huge, next) else { panic!("it is open") };
            let mut arrival = arrival.clone();
            let marker = Marker::Open(Progress { attempts, ..progress });
            let Standing::Failed(error, next) = stand(&handler(), &mut arrival, Some(marker), &FRESH) else {
                panic!("it has failed")
            };
            assert!(error.message.len() < 100_000);
            assert!(!matches!(next, Next::Retry(due_ms) if due_ms > NOW_MS + longest_ms), "{next:?}");
            assert!(arrival.attempt.get() < u32::MAX - 1, "there is a next attempt");
        }
    }
}

#[test]
fn a_marker_of_the_version_before_is_of_the_run_that_its_name_tells() {
    let replayed = Arrival { epoch: 2, ..retry_of(&delivered(1)) };
    for marker in [done(&delivered(1)), dead(&delivered(1), None)] {
        let of_run = marker.clone().of_run(2);
        assert_eq!((marker.run(), of_run.run()), (Some(0), Some(2)));
        assert_eq!(stand(&deduplicating(), &mut replayed.clone(), Some(of_run), &FRESH), Standing::Superseded);
    }
    assert_eq!(Marker::Released.of_run(2), Marker::Released);
}
