//! The audit is fed what must never happen, one thing at a time, and must notice exactly that.

use super::*;

const PLACES: [&str; 3] = ["a/work", "b/work", "a/claim"];

/// Three handlers in two deployments, each with an event of every kind and ten innocent ones.
fn places() -> BTreeMap<String, Place> {
    let fate = |role, failures| Fate { role, failures, ..Fate::GOOD };
    let mut events = BTreeMap::from([
        ("flaky".to_owned(), fate(Role::Good, 1)),
        ("bad".to_owned(), fate(Role::Rejected, 0)),
        ("killer".to_owned(), fate(Role::Killer, 0)),
        ("late-killer".to_owned(), fate(Role::Killer, 2)),
        ("stuck".to_owned(), fate(Role::Stuck, 0)),
        ("mended".to_owned(), fate(Role::Mended, 0)),
    ]);
    events.extend((0..10).map(|number| (format!("e-{number}"), Fate::GOOD)));
    let place = |name: &str| Place { attempts_max: 3, claims: name == "a/claim", events: events.clone() };
    PLACES.iter().map(|&name| (name.to_owned(), place(name))).collect()
}

/// What is witnessed and stored.
#[derive(Debug, Clone, Default)]
struct Record {
    begins: Vec<Begin>,
    outputs: Vec<(String, String)>,
    letters: Vec<(String, Letter)>,
    unseen: Vec<(String, u32)>,
}

fn begin(place: &str, event: &str, attempt: u32, process: &str) -> Begin {
    Begin { place: place.into(), process: process.into(), event: event.into(), attempt }
}

/// Processes called so were killed.
const KILLED: &str = "a/0.1";
const ALIVE: &str = "a/0.9";

impl Record {
    fn begin(&mut self, place: &str, event: &str, attempt: u32, process: &str) {
        self.begins.push(begin(place, event, attempt, process));
    }

    fn output(&mut self, place: &str, event: &str, attempt: u32) {
        let payload = format!(r#"{{"place": "{place}", "event": "{event}", "attempt": {attempt}}}"#);
        self.outputs.push((format!("out.{}", place.replace('/', ".")), payload));
    }

    fn letter(&mut self, place: &str, event: &str, kinds: &[Kind]) {
        let (deployment, handler) = place.split_once('/').expect("a place");
        let letter = Letter {
            payload: format!(r#"{{"event": "{event}", "key": ""}}"#),
            handler: handler.to_owned(),
            attempt: u32::try_from(kinds.len()).expect("few"),
            history: (1..).zip(kinds.iter().copied()).collect(),
            dropped: 0,
        };
        self.letters.push((deployment.to_owned(), letter));
    }

    /// What must come of an event.
    fn play(&mut self, place: &str, event: &str, fate: Fate) {
        match fate.role {
            Role::Killer => {
                // The first run is free where nothing is claimed.
                if place != "a/claim" {
                    self.begin(place, event, 1, KILLED);
                }
                (1..=3).for_each(|attempt| self.begin(place, event, attempt, KILLED));
                let kinds = [Kind::Retry, Kind::Retry, Kind::Attempts];
                let lost = [Kind::Lost, Kind::Lost, Kind::Attempts];
                self.letter(place, event, if fate.failures > 0 { &kinds } else { &lost });
            }
            Role::Rejected => {
                self.begin(place, event, 1, ALIVE);
                self.letter(place, event, &[Kind::Reject]);
            }
            Role::Stuck | Role::Mended => {
                self.begin(place, event, 1, if fate.role == Role::Stuck { KILLED } else { ALIVE });
                self.begin(place, event, 1, ALIVE);
                self.output(place, event, 1);
            }
            Role::Good => {
                (1..=fate.failures + 1).for_each(|attempt| self.begin(place, event, attempt, ALIVE));
                self.output(place, event, fate.failures + 1);
            }
        }
    }

    /// What is there where all went well, but for an event of the first place, of which there is nothing.
    fn without(except: &str) -> Record {
        let mut record = Record::default();
        for (place, found) in &places() {
            for (event, &fate) in &found.events {
                if (place.as_str(), event.as_str()) != (PLACES[0], except) {
                    record.play(place, event, fate);
                }
            }
        }
        record
    }

    fn tally(&self, is_forgetful: bool) -> Tally {
        let places = places();
        let mut audit = Audit::new(&places, &[KILLED.to_owned()], is_forgetful);
        self.unseen.iter().for_each(|(place, count)| audit.unseen(place, *count));
        self.begins.iter().for_each(|begin| audit.begun(begin));
        self.outputs.iter().for_each(|(subject, payload)| audit.output(subject, payload.as_bytes()));
        self.letters.iter().for_each(|(deployment, letter)| audit.letter(deployment, letter));
        audit.finish()
    }

    fn breaches(&self) -> Vec<(Breach, u64)> {
        self.tally(false).breaches.counts()
    }
}

/// The breaches where the event of this name in the first place goes another way.
fn instead(event: &str, change: impl Fn(&mut Record)) -> Vec<(Breach, u64)> {
    let mut record = Record::without(event);
    change(&mut record);
    record.breaches()
}

const WORK: &str = PLACES[0];

#[test]
fn a_trial_in_which_all_went_well_has_no_breaches() {
    let tally = Record::without("").tally(false);
    assert_eq!(tally.breaches.counts(), []);
    assert_eq!((tally.events, tally.done, tally.dead_letters), (48, 39, 9));
    assert_eq!(tally.killers, [3, 3, 4, 4, 4, 4]);
}

#[test]
fn an_event_without_a_result_is_lost_also_where_it_was_run() {
    for event in ["e-3", "bad", "killer", "stuck"] {
        assert_eq!(instead(event, |_| {}), [(Breach::Lost, 1)], "{event}");
    }
    assert_eq!(instead("e-3", |record| record.begin(WORK, "e-3", 1, ALIVE)), [(Breach::Lost, 1)]);
}

#[test]
fn an_output_or_a_dead_letter_that_is_there_twice_is_noticed() {
    assert_eq!(
        instead("", |record| {
            record.output(WORK, "e-3", 1);
        }),
        [(Breach::Doubled, 1)]
    );
    assert_eq!(instead("", |record| record.letter(WORK, "bad", &[Kind::Reject])), [(Breach::DoubledLetter, 1)]);
}

#[test]
fn an_innocent_event_in_the_dead_letters_is_noticed() {
    let dead = |record: &mut Record| record.letter(WORK, "e-3", &[Kind::Attempts]);
    let found = instead("e-3", |record| {
        record.begin(WORK, "e-3", 1, KILLED);
        dead(record);
    });
    assert_eq!(found, [(Breach::GivenUp, 1), (Breach::IncompleteHistory, 1)]);
    // It never ran, so what it was charged was not made either.
    let found = instead("e-3", |record| record.letter(WORK, "e-3", &[Kind::Lost, Kind::Lost, Kind::Attempts]));
    assert_eq!(found, [(Breach::GivenUp, 1), (Breach::Charged, 1)]);
    let found = instead("", |record| record.letter(WORK, "e-3", &[Kind::Lost, Kind::Lost, Kind::Attempts]));
    assert_eq!(found, [(Breach::DoneAndDead, 1), (Breach::GivenUp, 1), (Breach::Charged, 1)]);
}

#[test]
fn one_that_was_begun_and_cut_off_as_often_as_allowed_may_be_given_up() {
    let mut record = Record::without("e-3");
    (1..=3).for_each(|attempt| record.begin(WORK, "e-3", attempt, KILLED));
    record.letter(WORK, "e-3", &[Kind::Lost, Kind::Lost, Kind::Attempts]);
    let tally = record.tally(false);
    assert_eq!((tally.breaches.counts(), tally.cut_out), (vec![], 1));
}

#[test]
fn one_that_is_done_and_given_up_must_have_been_run_once_more_than_allowed() {
    for (runs, expected) in [(4, vec![]), (3, vec![(Breach::DoneAndDead, 1)])] {
        let mut record = Record::without("e-3");
        (1..=runs).for_each(|_| record.begin(WORK, "e-3", 1, KILLED));
        record.output(WORK, "e-3", 1);
        record.letter(WORK, "e-3", &[Kind::Lost, Kind::Lost, Kind::Attempts]);
        assert_eq!(record.breaches(), expected, "{runs}");
    }
}

#[test]
fn an_attempt_that_is_counted_and_was_not_made_is_noticed_wherever_it_shows() {
    // In what the handler is told.
    let counted = |record: &mut Record| {
        record.begin(WORK, "e-3", 2, ALIVE);
        record.output(WORK, "e-3", 2);
    };
    assert_eq!(instead("e-3", counted), [(Breach::Charged, 1)]);
    // In a dead letter.
    let told = |record: &mut Record| {
        record.begin(WORK, "bad", 1, ALIVE);
        record.letter(WORK, "bad", &[Kind::Lost, Kind::Reject]);
    };
    assert_eq!(instead("bad", told), [(Breach::Charged, 1)]);
    // Where it was cut off before, it may be counted, and need not be.
    for attempt in [1, 2] {
        let cut = |record: &mut Record| {
            record.begin(WORK, "e-3", 1, KILLED);
            record.begin(WORK, "e-3", attempt, ALIVE);
            record.output(WORK, "e-3", attempt);
        };
        assert_eq!(instead("e-3", cut), []);
    }
}

#[test]
fn attempts_that_may_have_begun_unseen_excuse_as_many_and_no_more_and_only_where_they_were() {
    let mut record = Record::without("e-3");
    record.begin(WORK, "e-3", 3, ALIVE);
    record.output(WORK, "e-3", 3);
    for (place, count, expected) in [(WORK, 2, 0), (WORK, 1, 1), ("b/work", 2, 1)] {
        let unseen = vec![(place.to_owned(), count)];
        let tally = Record { unseen, ..record.clone() }.tally(false);
        assert_eq!(tally.breaches.count(Breach::Charged), expected, "{place} {count}");
    }
}

#[test]
fn a_killer_that_ran_too_often_or_too_seldom_is_noticed() {
    let once_more = |place: &str| {
        let mut record = Record::without("");
        record.begin(place, "killer", 3, KILLED);
        record.breaches()
    };
    assert_eq!(once_more(WORK), [(Breach::RanTooOften, 1)]);
    assert_eq!(once_more("a/claim"), [(Breach::RanTooOften, 1)]);
    let mut record = Record::without("");
    let place = record.begins.iter().position(|begin| begin.place == "a/claim" && begin.event == "killer");
    record.begins.remove(place.expect("it is there"));
    assert_eq!(record.tally(false).breaches.count(Breach::RanTooSeldom), 1);
}

#[test]
fn a_killer_whose_outputs_are_stored_is_noticed() {
    assert_eq!(instead("", |record| record.output(WORK, "killer", 1)), [(Breach::Stray, 1)]);
}

#[test]
fn what_is_of_another_deployment_is_noticed() {
    let mut record = Record::without("");
    record.outputs[0].0 = "out.b.work".to_owned();
    assert_eq!(record.tally(false).breaches.count(Breach::Foreign), 1);
    let mut record = Record::without("bad");
    record.begin(WORK, "bad", 1, ALIVE);
    record.letter("c/work", "bad", &[Kind::Reject]);
    assert_eq!(record.breaches(), [(Breach::Lost, 1), (Breach::Foreign, 1)]);
}

#[test]
fn what_nobody_sent_or_no_attempt_can_have_had_is_stray() {
    assert_eq!(instead("", |record| record.begin(WORK, "e-99", 1, ALIVE)), [(Breach::Stray, 1)]);
    assert_eq!(instead("", |record| record.output(WORK, "e-99", 1)), [(Breach::Stray, 1)]);
    assert_eq!(instead("", |record| record.output(WORK, "e-3", 2)), [(Breach::Stray, 1)]);
    assert_eq!(instead("", |record| record.outputs.push(("out.a.work".into(), "?".into()))), [(Breach::Stray, 1)]);
    assert_eq!(instead("", |record| record.letter(WORK, "e-99", &[Kind::Lost])), [(Breach::Stray, 1)]);
}

#[test]
fn an_event_that_is_run_again_without_a_cause_is_noticed_unless_servers_forget() {
    let mut record = Record::without("");
    record.begin(WORK, "e-3", 1, ALIVE);
    assert_eq!(record.breaches(), [(Breach::RanAgain, 1)]);
    assert_eq!(record.tally(true).breaches.counts(), []);
    let mut record = Record::without("");
    record.begin(WORK, "e-3", 1, KILLED);
    assert_eq!(record.breaches(), []);
}

#[test]
fn a_history_that_cannot_be_is_noticed() {
    let dead = |kinds: &'static [Kind]| {
        instead("late-killer", |record| {
            (1..=4).for_each(|_| record.begin(WORK, "late-killer", 1, KILLED));
            record.letter(WORK, "late-killer", kinds);
        })
    };
    assert_eq!(dead(&[Kind::Retry, Kind::Retry, Kind::Lost]), []);
    assert_eq!(dead(&[Kind::Retry, Kind::Retry]), [(Breach::IncompleteHistory, 1)]);
    assert_eq!(dead(&[Kind::Retry, Kind::Trap, Kind::Lost]), [(Breach::IncompleteHistory, 1)]);
    assert_eq!(dead(&[Kind::Retry, Kind::Attempts, Kind::Lost]), [(Breach::IncompleteHistory, 1)]);
}
