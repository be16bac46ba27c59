use proptest::prelude::*;

use super::*;
use crate::arrival::fixtures::{arrival, handler};
use crate::decode::decode;

fn latest(key: &str, time: &str) -> Handler {
    let text =
        format!("[handler.mail]\nsubject = 'orders.*'\norder = {{ by = 'latest', key = '{key}', time = '{time}' }}\n");
    let source = crate::manifest::Source { path: "tidemill.toml", text: &text };
    let parsed = crate::manifest::parse(source, &[], &|_| None).expect("a manifest").manifest;
    Handler { order: parsed.handlers["mail"].order.clone(), ..handler() }
}

fn with(handler: &Handler, change: impl FnOnce(&mut Latest)) -> Handler {
    let mut latest = policy(handler).expect("an order").clone();
    change(&mut latest);
    Handler { order: Some(Order::Latest(latest)), ..handler.clone() }
}

fn place_of(handler: &Handler, headers: &[(&str, &str)], payload: &str) -> Result<Option<Place>, Failure> {
    let arrival = arrival(headers, payload);
    let event = decode(&arrival, handler).map_err(|why| Failure::new(Kind::Undecodable, why.to_string()))?;
    place(handler, &arrival, &event)
}

fn seen(event: &str, time_ns: i64, sequence: u64) -> Seen {
    Seen { time_ns, stored_ms: 1, sequence, event: event.into() }
}

fn processed(seen: &Seen) -> Newest {
    Newest { processed: Some(seen.clone()), entered: None }
}

#[test]
fn times_are_rfc_3339_or_numbers_of_seconds_or_milliseconds() {
    let rows = [
        ("2026-01-31T12:00:00Z", Some(1_769_860_800_000_000_000)),
        ("2026-01-31T13:00:00.000000001+01:00", Some(1_769_860_800_000_000_001)),
        ("1769860800", Some(1_769_860_800_000_000_000)),
        ("1769860800.25", Some(1_769_860_800_250_000_000)),
        ("1769860800.000000001", Some(1_769_860_800_000_000_001)),
        ("1769860800.0000000019", Some(1_769_860_800_000_000_001)),
        ("1769860800123.000001", Some(1_769_860_800_123_000_001)),
        ("17698608001230000.01e-4", Some(1_769_860_800_123_000_001)),
        ("1769860800000000000000e-12", Some(1_769_860_800_000_000_000)),
        ("0.000000000000000000000017698608e32", Some(1_769_860_800_000_000_000)),
        ("1e-9", Some(1)),
        ("-0.000000001", Some(-1)),
        ("1e-10", Some(0)),
        ("1e-9223372036854775808", Some(0)),
        ("0e9223372036854775807", Some(0)),
        ("1e9223372036854775807", None),
        ("1e99999999999999999999", None),
        ("1.2.3", None),
        ("1e", None),
        ("+1", None),
        ("--1", None),
        (".5", None),
        ("0x10", None),
        ("1769860800123", Some(1_769_860_800_123_000_000)),
        (" 1.7698608e9 ", Some(1_769_860_800_000_000_000)),
        ("-1", Some(-1_000_000_000)),
        ("0", Some(0)),
        ("99999999999", None),
        ("100000000000", Some(100_000_000_000_000_000)),
        ("1769860800123000", None),
        ("9999-12-31T23:59:59Z", None),
        ("0001-01-01T00:00:00Z", None),
        ("2026-01-31", None),
        ("inf", None),
        ("nan", None),
        ("", None),
        ("yesterday", None),
    ];
    for (text, expected) in rows {
        assert_eq!(read_time(text), expected, "{text:?}");
    }
}

#[test]
fn key_and_time_are_found_where_the_manifest_says() {
    let time = |handler: &Handler, headers: &[(&str, &str)], payload: &str| {
        place_of(handler, headers, payload).map(|place| place.expect("a place").mine.time_ns / 1_000_000_000)
    };
    let json = latest("json:/user/id", "json:/at");
    assert_eq!(time(&json, &[], r#"{"user": {"id": 7}, "at": "1970-01-01T00:00:05Z"}"#), Ok(5));
    assert_eq!(time(&json, &[], r#"{"user": {"id": "7"}, "at": 5}"#), Ok(5));
    let key = |payload: &str| place_of(&json, &[], payload).expect("a place").expect("a place").key;
    assert_eq!(key(r#"{"user": {"id": 7}, "at": 1}"#), key(r#"{"user": {"id": 7}, "at": 2}"#));
    assert_ne!(key(r#"{"user": {"id": 7}, "at": 1}"#), key(r#"{"user": {"id": "7"}, "at": 1}"#));
    let big = |id: &str| key(&format!(r#"{{"user": {{"id": {id}}}, "at": 1}}"#));
    assert_ne!(big("12345678901234567890"), big("12345678901234567891"));
    assert_ne!(key(r#"{"user": {"id": 7}, "at": 1}"#), key(r#"{"user": {"id": 8}, "at": 1}"#));
    let header = latest("header:X-User", "header:X-At");
    assert_eq!(time(&header, &[("x-user", "7"), ("X-At", "5000000000")], "no JSON"), Ok(5_000_000_000));
    let event = latest("subject:2", "event");
    let cloud = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-type", "t"), ("ce-source", "s")];
    let cloud = [&cloud[..], &[("ce-time", "1970-01-01T00:00:05Z")]].concat();
    assert_eq!(time(&event, &cloud, ""), Ok(5));
    let stored = arrival(&[], "").origin.time_ms;
    assert_eq!(time(&event, &[], ""), Ok(i64::try_from(stored / 1000).expect("fits")));
}

/// The order of what happened within a millisecond is that of its nanoseconds.
#[test]
fn times_are_compared_to_the_nanosecond_wherever_they_come_from() {
    let (early, late) = ("2026-01-31T12:00:00.000000100Z", "2026-01-31T12:00:00.000000900Z");
    let cloud = |time: &'static str| {
        vec![("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-type", "t"), ("ce-source", "s"), ("ce-time", time)]
    };
    let structured = |time: &str| {
        format!(r#"{{"specversion":"1.0","id":"1","type":"t","source":"s","time":"{time}","data":{{"at":"{time}"}}}}"#)
    };
    let queue =
        |time: &str| format!(r#"{{"id":"1","queue":"q","dispatch_date":"{time}","payload":{{"at":"{time}"}}}}"#);
    let seconds = |time: &str| if time == early { "1769860800.0000001" } else { "1769860800.0000009" };
    let at = |order: &str, headers: &[(&str, &str)], payload: &str| {
        place_of(&latest("subject:1", order), headers, payload).expect("a place").expect("a place").mine.time_ns
    };
    let times = |time: &'static str| {
        let number = format!(r#"{{"at":{}}}"#, seconds(time));
        [
            at("event", &cloud(time), ""),
            at("ce:time", &cloud(time), ""),
            at("header:Ce-Time", &cloud(time), ""),
            at("event", &[], &structured(time)),
            at("ce:time", &[], &structured(time)),
            at("header:ce-time", &[], &structured(time)),
            at("json:/at", &[], &structured(time)),
            at("event", &[], &queue(time)),
            at("header:X-At", &[("X-At", time)], ""),
            at("header:X-At", &[("X-At", seconds(time))], ""),
            at("json:/at", &[], &number),
        ]
    };
    for (early, late) in times(early).into_iter().zip(times(late)) {
        assert_eq!((early, late), (1_769_860_800_000_000_100, 1_769_860_800_000_000_900));
        assert!(processed(&seen("a", late, 1)).makes_stale(&seen("b", early, 2)));
    }
}

/// Run as if it had no key, it could take effect out of order.
#[test]
fn an_event_of_which_the_key_cannot_be_told_is_never_run() {
    let json = latest("json:/id", "event");
    for handler in [json.clone(), with(&json, |latest| latest.on_missing = OnMissing::Run)] {
        let failure = place_of(&handler, &[], r#"{"id":"\ud83d"}"#).expect_err("no place");
        assert_eq!(failure.kind, Kind::Undecodable);
        assert!(failure.message.starts_with("order.key: the event's json:/id cannot be read: "), "{failure:?}");
    }
}

#[test]
fn an_event_without_key_or_time_is_never_passed_in_silence() {
    #[track_caller]
    fn check(handler: &Handler, headers: &[(&str, &str)], payload: &str, said: &str) {
        let failure = place_of(handler, headers, payload).expect_err("no place");
        assert!(failure.kind == Kind::Undecodable && failure.message.starts_with(said), "{failure:?}");
        let run = with(handler, |latest| latest.on_missing = OnMissing::Run);
        assert_eq!(place_of(&run, headers, payload), Ok(None));
    }
    let json = latest("json:/id", "json:/at");
    check(&json, &[], "no JSON", "order: its key or time needs a JSON payload");
    for payload in [r#"{"at": 1}"#, r#"{"id": null, "at": 1}"#, r#"{"id": [], "at": 1}"#, r#"{"id": " ", "at": 1}"#] {
        check(&json, &[], payload, "order.key: the event has no json:/id");
    }
    for at in ["null", "[1]", "true", "\"\"", "\"soon\"", "1e300", "-1e300"] {
        check(&json, &[], &format!(r#"{{"id": 1, "at": {at}}}"#), "order.time: the event has no json:/at");
    }
    check(&latest("header:X-User", "event"), &[], "", "order.key: the event has no header:X-User");
    check(&latest("subject:1", "header:X-At"), &[], "", "order.time: the event has no header:X-At");
}

#[test]
fn what_is_older_is_stale_and_what_comes_again_is_not() {
    let rows = [
        (seen("a", 5, 1), false),
        (seen("a", 5, 9), false),
        (seen("a", 4, 9), true),
        (seen("b", 4, 9), true),
        (seen("b", 6, 1), false),
        // Of equal times, the one that was stored later is the newer one.
        (seen("b", 5, 1), true),
        (seen("b", 5, 3), false),
    ];
    for (mine, expected) in rows {
        assert_eq!(processed(&seen("a", 5, 2)).makes_stale(&mine), expected, "{mine:?}");
    }
    assert!(!Newest::default().makes_stale(&seen("a", i64::MIN, 0)));
}

#[test]
fn an_entry_is_waited_for_and_taken_over_by_its_event_or_a_newer_one() {
    let (old, new) = (seen("old", 1, 1), seen("new", 2, 2));
    let entered = |seen: &Seen| Newest { processed: None, entered: Some(seen.clone()) };
    assert_eq!(Newest::default().enter(&old, false), Entry::Enter(entered(&old)));
    assert_eq!(entered(&old).enter(&old, false), Entry::Enter(entered(&old)));
    assert_eq!((entered(&old).enter(&new, false), entered(&new).enter(&old, false)), (Entry::Wait, Entry::Wait));
    assert_eq!(entered(&old).enter(&new, true), Entry::Enter(entered(&new)));
    assert_eq!(entered(&new).enter(&old, true), Entry::Blocked);
    assert_eq!(processed(&new).enter(&old, true), Entry::Stale);
    assert_eq!(entered(&old).leave(&old), processed(&old));
    assert_eq!(Newest { processed: Some(new.clone()), entered: None }.leave(&old), processed(&new));
    assert_eq!(entered(&old).withdraw(&old), Newest::default());
    assert_eq!(entered(&old).withdraw(&new), entered(&old));
}

#[test]
fn the_policy_says_what_becomes_of_what_is_stale() {
    let handler = latest("subject:1", "header:At");
    let stale = |handler: &Handler, at: &str| {
        let place = place_of(handler, &[("At", at)], "").expect("a place").expect("a place");
        let newest = seen("other", 5_000_000_000, u64::MAX);
        place.stale(&processed(&Seen { stored_ms: u64::MAX, ..newest }))
    };
    let why = "it is of 1970-01-01T00:00:04.000Z, and one of its subject:1 of 1970-01-01T00:00:05.000Z was processed";
    assert_eq!(stale(&handler, "4"), Stale::Discard { why: why.into() });
    let equal = "it is of 1970-01-01T00:00:05.000Z, and so is a later one of its subject:1, which was processed";
    assert_eq!(stale(&handler, "5"), Stale::Discard { why: equal.into() });
    let kept = with(&handler, |latest| latest.on_stale = OnStale::DeadLetter);
    assert_eq!(stale(&kept, "4"), Stale::DeadLetter(Failure::new(Kind::Stale, why)));
}

#[test]
fn what_is_remembered_is_read_back_and_kept_for_the_window() {
    let newest = Newest { processed: Some(seen("a", i64::MIN, u64::MAX)), entered: Some(seen("b", i64::MAX, 0)) };
    for newest in [newest, Newest::default()] {
        let marker = crate::marker::Marker::Newest(newest);
        let text = serde_json::to_string(&marker).expect("JSON");
        assert_eq!(serde_json::from_str::<crate::marker::Marker>(&text).expect("read back"), marker);
        let handler = with(&latest("subject:1", "event"), |latest| latest.window = Duration::from_hours(99));
        assert_eq!(crate::marker::lifetime(&handler, &marker, 0), Duration::from_hours(99));
        assert_eq!(crate::marker::lifetime_max([&handler].into_iter()), Duration::from_hours(99));
    }
}

/// Somebody who has run an event.
#[derive(Debug, Clone)]
struct Actor {
    mine: Seen,
    read: (Newest, u64),
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Ran,
    Entered,
    Published,
    Done,
    Stale,
    Blocked,
}

/// A key with everything that happens to it.
#[derive(Debug, Default)]
struct Key {
    now: (Newest, u64),
    effects: Vec<Seen>,
}

impl Key {
    /// Compare-and-set: who has read something else reads anew.
    fn write(&mut self, actor: &mut Actor, newest: Newest) -> bool {
        let fits = actor.read.1 == self.now.1;
        if fits {
            self.now = (newest, self.now.1 + 1);
        }
        actor.read = self.now.clone();
        fits
    }

    /// One step of an actor. It may die in it, and then starts again with what its message says. `is_holder_dead` says
    /// whether nobody is publishing under the entry that it sees.
    fn step(&mut self, actor: &mut Actor, dies: bool, is_holder_dead: bool) {
        if dies && matches!(actor.phase, Phase::Entered | Phase::Published) {
            actor.phase = Phase::Ran;
            actor.read = self.now.clone();
            return;
        }
        actor.phase = match actor.phase {
            Phase::Ran | Phase::Blocked => match actor.read.0.enter(&actor.mine, is_holder_dead) {
                Entry::Stale => Phase::Stale,
                Entry::Blocked => {
                    actor.read = self.now.clone();
                    Phase::Blocked
                }
                Entry::Enter(newest) if self.write(actor, newest.clone()) => Phase::Entered,
                Entry::Enter(_) => Phase::Ran,
                Entry::Wait => {
                    actor.read = self.now.clone();
                    Phase::Ran
                }
            },
            Phase::Entered => {
                self.effects.push(actor.mine.clone());
                Phase::Published
            }
            Phase::Published => {
                let newest = actor.read.0.leave(&actor.mine);
                if self.write(actor, newest) { Phase::Done } else { Phase::Published }
            }
            ended => ended,
        };
    }
}

proptest! {
    #[test]
    fn whatever_the_order_of_steps_the_newest_takes_effect_last(
        times in prop::collection::vec(0i64..4, 1..5),
        steps in prop::collection::vec((any::<prop::sample::Index>(), prop::bool::weighted(0.1)), 0..60),
    ) {
        let mut key = Key::default();
        let mut actors: Vec<_> = (0..).zip(&times).map(|(sequence, time_ns)| {
            let mine = seen(&format!("e{sequence}"), *time_ns, sequence);
            Actor { mine, read: key.now.clone(), phase: Phase::Ran }
        }).collect();
        let rest = (0..actors.len() * 40).map(|step| (step % times.len(), false));
        let steps: Vec<_> = steps.iter().map(|(index, dies)| (index.index(times.len()), *dies)).chain(rest).collect();
        for (index, dies) in steps {
            let is_publishing = |actor: &Actor| matches!(actor.phase, Phase::Entered | Phase::Published);
            let is_held = actors.iter().any(is_publishing);
            let mut actor = actors[index].clone();
            key.step(&mut actor, dies, !is_held);
            actors[index] = actor;
        }
        for pair in key.effects.windows(2) {
            prop_assert!(!pair[1].order(&pair[0]).is_lt(), "{:?}", key.effects);
        }
        let newest = actors.iter().max_by(|a, b| a.mine.order(&b.mine)).expect("an actor");
        prop_assert_eq!(key.effects.last(), Some(&newest.mine));
        prop_assert!(actors.iter().all(|actor| matches!(actor.phase, Phase::Done | Phase::Stale)), "{:?}", actors);
        prop_assert_eq!(key.now.0, processed(&newest.mine));
    }

    #[test]
    fn no_payload_and_no_header_makes_it_panic(payload in any::<String>(), header in "[^\r\n]{0,30}", number in any::<f64>()) {
        let headers = [("X-User", header.as_str()), ("X-At", header.as_str())];
        for (key, time) in [("json:/a", "json:/b"), ("header:X-User", "header:X-At"), ("json:", "event")] {
            let handler = latest(key, time);
            let _ = place_of(&handler, &headers, &payload);
            let _ = place_of(&handler, &headers, &format!("{{\"a\": {payload:?}, \"b\": {number:?}}}"));
        }
    }

    #[test]
    fn later_numbers_are_later_times(a in 0.0..1e11f64, b in 0.0..1e11f64) {
        let (early, late) = if a <= b { (a, b) } else { (b, a) };
        let [early, late] = [early, late].map(|seconds| read_time(&seconds.to_string()));
        prop_assert!(early <= late || late.is_none());
    }
}
