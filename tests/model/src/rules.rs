//! The real rules, asked once for each question. What they make (arrivals, markers, messages) is kept here and held by
//! number elsewhere, so that a state is small and two of them are compared at once.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;

use bytes::Bytes;
use tidemill_policy::admit::admit;
use tidemill_policy::arrival::{self, Arrival, Message, Position};
use tidemill_policy::attempt::Attempt;
use tidemill_policy::budget::Usage;
use tidemill_policy::decide::{Decision, Failure, Setback, Stamp, decide};
use tidemill_policy::decode::decode;
use tidemill_policy::event::{Event, Headers, Output};
use tidemill_policy::headers;
use tidemill_policy::history::{AttemptError, Kind, millis};
use tidemill_policy::id::{Identity, Token};
use tidemill_policy::manifest::Handler;
use tidemill_policy::marker::{self, Asker, Carrier, Marker, Next, Standing, Stored};
use tidemill_policy::outcome::{HandlerError, Outcome};
use tidemill_policy::publication::{self, Case, Publication, RetryClock};
use tidemill_policy::retry;

use crate::setup::{Dedup, Mutation, Setup};
use crate::state::{Name, Number, OUTPUTS};

/// There is no clock: it is always this time, and what is due later may come at any moment.
const NOW_MS: u64 = 1_800_000_000_000;
/// What a message is about, which the rules do not look at.
const EVENT: &str = "X-Event";

/// What is known of an arrival.
#[derive(Debug)]
pub struct Known {
    /// The delivery, unwrapped.
    pub arrival: Arrival,
    /// The event.
    pub event: Event,
    /// Which event that is.
    pub number: u8,
    /// Whether the marker is looked up at first.
    pub is_wanted: bool,
    /// Whether it is recorded that the attempt begins.
    pub records_begin: bool,
    /// Whether an end is recorded of which nothing is remembered.
    pub records_end: bool,
}

/// Where an event stands, with what the rules have made as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// Its next attempt is due.
    Due,
    /// It has ended.
    Superseded,
    /// One of these may have it.
    Elsewhere(Number),
    /// It was given up on: the number of its dead letter, as a list of carriers.
    Buried(Number),
    /// Another instance runs it.
    Claimed,
    /// The message was given to somebody else.
    TakenAway,
    /// It has failed, and this follows.
    Failed(Number),
}

/// A retry, ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// The number of its message id.
    pub id: Number,
    /// The number of the subject that holds it back.
    pub schedule: Number,
    /// The number of the subject on which it is due.
    pub due: Number,
    /// What is delivered when it is due.
    pub message: Message,
}

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// With outputs.
    Success,
    /// With a failure that may pass.
    Failure,
}

/// What follows the end of an attempt, or its refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// The outputs are published.
    Publish,
    /// This marker is written, then this failure is followed.
    Fail(Number, Number),
}

/// What is interned: equal values have one number.
#[derive(Debug)]
struct Table<T> {
    items: Vec<T>,
    numbers: HashMap<String, Number>,
}

impl<T: Debug> Table<T> {
    fn new() -> Table<T> {
        Table { items: Vec::new(), numbers: HashMap::new() }
    }

    fn number(&mut self, item: T) -> Number {
        let next = Number::try_from(self.items.len()).expect("few enough");
        let number = *self.numbers.entry(format!("{item:?}")).or_insert(next);
        if number == next {
            self.items.push(item);
        }
        number
    }

    fn get(&self, number: Number) -> &T {
        &self.items[usize::from(number)]
    }
}

/// What a standing depends on: arrival, marker, asker, and whether the delivery is fresh and the marker abandoned.
type Asked = (Number, Option<Number>, u8, bool, bool);

/// The rules, and all that they have made.
#[derive(Debug)]
pub struct Rules {
    /// What is explored.
    pub setup: Setup,
    handler: Handler,
    known: Vec<Known>,
    known_numbers: HashMap<String, Number>,
    markers: Table<Marker>,
    failures: Table<(AttemptError, Next)>,
    carriers: Table<Vec<Carrier>>,
    retries: Table<Retry>,
    texts: Table<String>,
    arrived: HashMap<(Name, Number, u8), Number>,
    stood: HashMap<Asked, (Stand, Number)>,
    made: HashMap<(What, Number, Number), Number>,
    followed: HashMap<(Number, Option<End>), Option<Follows>>,
    replaced: HashMap<(Number, u8, Number, Option<Number>), bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Begun,
    HandedBack,
    Failed,
    Dead,
    Retry,
    LetterId,
    Paused,
    OutputId,
    Renamed,
}

impl Rules {
    /// The rules for a handler.
    pub fn new(setup: Setup) -> Rules {
        Rules {
            setup,
            handler: setup.handler(),
            known: Vec::new(),
            known_numbers: HashMap::new(),
            markers: Table::new(),
            failures: Table::new(),
            carriers: Table::new(),
            retries: Table::new(),
            texts: Table::new(),
            arrived: HashMap::new(),
            stood: HashMap::new(),
            made: HashMap::new(),
            followed: HashMap::new(),
            replaced: HashMap::new(),
        }
    }

    /// Which event a message of the input is.
    pub fn event_of_input(&self, sequence: u8) -> u8 {
        if self.setup.dedup == Dedup::Off { sequence } else { 0 }
    }

    /// Whether instances claim events.
    pub fn claims(&self) -> bool {
        marker::claims(&self.handler)
    }

    /// What is known of an arrival.
    pub fn arrival(&self, number: Number) -> &Known {
        &self.known[usize::from(number)]
    }

    /// A marker.
    pub fn marker(&self, number: Number) -> &Marker {
        self.markers.get(number)
    }

    /// A failure, and what follows it.
    pub fn failure(&self, number: Number) -> &(AttemptError, Next) {
        self.failures.get(number)
    }

    /// What may carry an event.
    pub fn carriers(&self, number: Number) -> &[Carrier] {
        self.carriers.get(number)
    }

    /// A retry.
    pub fn retry_of(&self, number: Number) -> &Retry {
        self.retries.get(number)
    }

    /// Which event a retry is about.
    pub fn event_of_retry(&self, number: Number) -> u8 {
        event_of(&self.retries.get(number).message.headers)
    }

    /// The subjects of an event's retry: held back, and due.
    pub fn retry_subjects(&mut self, arrival: Number) -> (Number, Number) {
        let token = self.wire_token(arrival);
        let schedule = publication::retry_schedule_subject("tidemill", "h", &token);
        let due = publication::retry_due_subject("tidemill", "h", Some(&token));
        (self.texts.number(schedule), self.texts.number(due))
    }

    fn intern_known(&mut self, arrival: Arrival) -> Number {
        let key = format!("{arrival:?}");
        if let Some(number) = self.known_numbers.get(&key) {
            return *number;
        }
        let mut event = decode(&arrival, &self.handler).expect("an event");
        event.attempt = arrival.attempt;
        let number = Number::try_from(self.known.len()).expect("few enough");
        self.known_numbers.insert(key, number);
        self.known.push(Known {
            number: event_of(&arrival.headers),
            is_wanted: marker::is_wanted(&self.handler, &arrival),
            records_begin: marker::records_begin(&self.handler, &arrival),
            records_end: marker::records_end(&self.handler, &arrival),
            arrival,
            event,
        });
        number
    }

    /// A message is delivered: of a retry, `retry` is what it says.
    pub fn arrive(&mut self, name: Name, retry: Number, delivered: u8) -> Number {
        if let Some(number) = self.arrived.get(&(name, retry, delivered)) {
            return *number;
        }
        let position = |stream: &str, sequence: u8| Position {
            stream: stream.into(),
            stream_created_unix: 1,
            sequence: sequence.into(),
            stored_ms: NOW_MS,
            delivered: delivered.into(),
        };
        let arrival = match name {
            Name::Input(sequence) => {
                let event = self.event_of_input(sequence).to_string();
                let list = [(headers::MSG_ID, "e"), (EVENT, event.as_str())];
                let message = Message {
                    subject: "in.x".into(),
                    headers: list.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
                    payload: Bytes::from_static(b"payload"),
                    damage: None,
                };
                arrival::first(message, position("IN", sequence))
            }
            Name::Retry(sequence) => {
                arrival::retried(self.retries.get(retry).message.clone(), position("TIDEMILL_RETRY", sequence))
            }
        };
        let number = self.intern_known(arrival);
        self.arrived.insert((name, retry, delivered), number);
        number
    }

    /// Where an event stands, and the arrival brought up to what is known.
    pub fn stand(
        &mut self,
        arrival: Number,
        marker: Option<Number>,
        instance: u8,
        is_fresh: bool,
        is_abandoned: bool,
    ) -> (Stand, Number) {
        let key = (arrival, marker, instance, is_fresh, is_abandoned);
        if let Some(answer) = self.stood.get(&key) {
            return *answer;
        }
        let mut now = self.arrival(arrival).arrival.clone();
        let present = marker.map(|marker| self.marker(marker).clone());
        let is_abandoned = match self.setup.mutation {
            Some(Mutation::Impatient) => true,
            Some(Mutation::Patient) => false,
            _ => is_abandoned,
        };
        let asker = Asker { instance: name_of(instance), is_fresh, is_abandoned, now_ms: NOW_MS };
        let standing = marker::stand(&self.handler, &mut now, present, &asker);
        let charges = self.setup.mutation == Some(Mutation::ChargeDeliveries) && marker.is_none();
        if charges && standing == Standing::Due {
            now.attempt = now.attempt.plus(now.position.delivered - 1);
        }
        let stand = match standing {
            Standing::Due => Stand::Due,
            Standing::Elsewhere(_) | Standing::Buried(_) if self.setup.mutation == Some(Mutation::TrustMarkers) => {
                Stand::Superseded
            }
            Standing::Superseded => Stand::Superseded,
            Standing::Elsewhere(carriers) => Stand::Elsewhere(self.carriers.number(carriers)),
            Standing::Buried(letter) => Stand::Buried(self.carriers.number(vec![Carrier::Letter(letter)])),
            Standing::Claimed => Stand::Claimed,
            Standing::TakenAway => Stand::TakenAway,
            Standing::Failed(error, next) => Stand::Failed(self.failures.number((error, next))),
        };
        let answer = (stand, self.intern_known(now));
        self.stood.insert(key, answer);
        answer
    }

    /// Whether a marker may replace what is there.
    pub fn may_replace(&mut self, arrival: Number, instance: u8, new: Number, present: Option<Number>) -> bool {
        let key = (arrival, instance, new, present);
        if let Some(answer) = self.replaced.get(&key) {
            return *answer;
        }
        let known = &self.known[usize::from(arrival)].arrival;
        let present_marker = present.map(|present| self.markers.get(present));
        let answer = marker::may_replace(known, name_of(instance), self.markers.get(new), present_marker);
        self.replaced.insert(key, answer);
        answer
    }

    fn make(&mut self, what: What, of: Number, with: Number, make: impl FnOnce(&mut Rules) -> Number) -> Number {
        if let Some(number) = self.made.get(&(what, of, with)) {
            return *number;
        }
        let number = make(self);
        self.made.insert((what, of, with), number);
        number
    }

    /// The marker for an attempt that begins.
    pub fn begun(&mut self, arrival: Number, instance: u8) -> Number {
        self.make(What::Begun, arrival, instance.into(), |rules| {
            let begun = marker::begun(&rules.arrival(arrival).arrival, name_of(instance));
            rules.markers.number(begun)
        })
    }

    /// The marker for an attempt that did not begin after all.
    pub fn handed_back(&mut self, arrival: Number) -> Number {
        self.make(What::HandedBack, arrival, 0, |rules| {
            let handed_back = marker::handed_back(&rules.arrival(arrival).arrival);
            rules.markers.number(handed_back)
        })
    }

    /// The marker for an event that was handled.
    pub fn done(&mut self, arrival: Number) -> Number {
        let done = marker::done(&self.arrival(arrival).arrival);
        self.markers.number(done)
    }

    /// The marker for an event that was given up, whose dead letter is the one with this place.
    pub fn dead(&mut self, arrival: Number, letter: usize) -> Number {
        self.make(What::Dead, arrival, Number::try_from(letter).expect("few"), |rules| {
            let stored = Stored { stream: "LETTERS".into(), sequence: letter as u64 };
            let dead = marker::dead(&rules.arrival(arrival).arrival, Some(stored));
            rules.markers.number(dead)
        })
    }

    /// The marker for a failure.
    pub fn failed(&mut self, arrival: Number, failure: Number) -> Number {
        self.make(What::Failed, arrival, failure, |rules| {
            let (error, next) = rules.failure(failure);
            let failed = marker::failed(&rules.arrival(arrival).arrival, error, *next);
            rules.markers.number(failed)
        })
    }

    /// The same failure, after which the message itself is attempted again.
    pub fn failure_in_place(&mut self, failure: Number) -> Number {
        let (error, next) = self.failure(failure).clone();
        let next = if let Next::Retry(due_ms) = next { Next::Attempt(due_ms) } else { next };
        self.failures.number((error, next))
    }

    /// The arrival after a failure in memory: the next attempt is due.
    pub fn paused(&mut self, arrival: Number, failure: Number) -> Number {
        self.make(What::Paused, arrival, failure, |rules| {
            let mut next = rules.arrival(arrival).arrival.clone();
            let (error, _) = rules.failure(failure).clone();
            next.history = std::mem::take(&mut next.history).with(error);
            next.attempt = next.attempt.plus(1);
            rules.intern_known(next)
        })
    }

    /// The marker as it is when the process of `instance` has ended: whoever ran it lives no more.
    pub fn after_death(&mut self, marker: Number, instance: u8) -> Number {
        self.renamed(marker, instance, |run| if run == name_of(instance) { "gone" } else { run })
    }

    /// The marker with the instances' names exchanged.
    pub fn mirrored(&mut self, marker: Number) -> Number {
        self.renamed(marker, 2, |run| match run {
            "a" => "b",
            "b" => "a",
            other => other,
        })
    }

    fn renamed(&mut self, marker: Number, kind: u8, rename: impl Fn(&str) -> &str) -> Number {
        self.make(What::Renamed, marker, kind.into(), |rules| {
            let mut marker = rules.marker(marker).clone();
            if let Marker::Open(progress) = &mut marker
                && let Some(run) = &mut progress.run
            {
                run.instance = rename(&run.instance).to_owned();
            }
            rules.markers.number(marker)
        })
    }

    /// What follows when an attempt is due, or has ended: nothing where it may be made.
    pub fn follows(&mut self, arrival: Number, end: Option<End>) -> Option<Follows> {
        if let Some(answer) = self.followed.get(&(arrival, end)) {
            return *answer;
        }
        let known = self.arrival(arrival);
        let setback = match end {
            None => admit(&self.handler, &known.arrival, &known.event, NOW_MS).err().map(Setback::DeadLetter),
            Some(end) => match decide(&self.handler, &known.event, outcome(end)) {
                Decision::Publish(_) => None,
                Decision::Fail(setback) => Some(setback),
            },
        };
        let answer = match setback {
            None => end.map(|_| Follows::Publish),
            Some(setback) => {
                let failure = self.failures.number(what_fails(&self.handler, &self.arrival(arrival).arrival, setback));
                Some(Follows::Fail(self.failed(arrival, failure), failure))
            }
        };
        self.followed.insert((arrival, end), answer);
        answer
    }

    /// The retry that follows a failure.
    pub fn retry(&mut self, arrival: Number, failure: Number) -> Number {
        self.make(What::Retry, arrival, failure, |rules| {
            let event = rules.wire_event(arrival);
            let (error, next) = rules.failure(failure).clone();
            let Next::Retry(due_ms) = next else { unreachable!("only retries are asked for") };
            let delay = std::time::Duration::from_millis(due_ms.saturating_sub(NOW_MS));
            let case = Case { handler: &rules.handler, arrival: &rules.arrival(arrival).arrival, event: Some(&event) };
            let stored = publication::retry(case, "tidemill", RetryClock::Schedules, &error, NOW_MS, delay, usize::MAX)
                .expect("fits");
            let retry = Retry {
                id: rules.texts.number(header(&stored, headers::MSG_ID)),
                schedule: rules.texts.number(stored.subject.clone()),
                due: rules.texts.number(header(&stored, headers::SCHEDULE_TARGET)),
                message: fired(&stored),
            };
            rules.retries.number(retry)
        })
    }

    /// The id of the dead letter that follows a failure, and of how many attempts it tells.
    pub fn letter(&mut self, arrival: Number, failure: Number) -> (Number, u8) {
        let id = self.make(What::LetterId, arrival, failure, |rules| {
            if rules.setup.mutation == Some(Mutation::ForgetPlace) {
                let id = rules.wire_token(arrival).dead_letter("", 0);
                return rules.texts.number(id);
            }
            let event = rules.wire_event(arrival);
            let (error, _) = rules.failure(failure);
            let case = Case { handler: &rules.handler, arrival: &rules.arrival(arrival).arrival, event: Some(&event) };
            let letter = publication::dead_letter(case, error, None, true, usize::MAX).expect("fits");
            rules.texts.number(header(&letter, headers::MSG_ID))
        });
        let told = self.arrival(arrival).arrival.history.len() + 1;
        let attempt = self.failure(failure).0.attempt as usize;
        (id, u8::try_from(told.max(attempt)).unwrap_or(u8::MAX))
    }

    /// The message id of an output.
    pub fn output(&mut self, arrival: Number, index: u8) -> Number {
        self.make(What::OutputId, arrival, index.into(), |rules| {
            let Outcome::Completed(outputs) = outcome(End::Success) else { unreachable!("a success") };
            let messages = publication::outputs(&rules.handler, &rules.arrival(arrival).event, outputs);
            rules.texts.number(header(&messages[usize::from(index)], headers::MSG_ID))
        })
    }

    /// The event as its retries and dead letters are derived from it.
    fn wire_event(&self, arrival: Number) -> Event {
        Event { token: self.wire_token(arrival), ..self.arrival(arrival).event.clone() }
    }

    fn wire_token(&self, arrival: Number) -> Token {
        let event = &self.arrival(arrival).event;
        if self.setup.mutation != Some(Mutation::ForgetPlace) {
            return event.token.clone();
        }
        let scope = &tidemill_policy::id::Scope::Whole;
        Token::of("tidemill", "h", &Identity { kind: event.id_kind, scope, id: &event.id, place: None })
    }
}

/// What the host makes of a setback: the error, and what follows it.
fn what_fails(handler: &Handler, arrival: &Arrival, setback: Setback) -> (AttemptError, Next) {
    let (failure, next) = match setback {
        Setback::DeadLetter(failure) => (failure, Next::DeadLetter),
        Setback::Retry { delay, failure } => {
            let due_ms = NOW_MS + millis(delay);
            let in_memory = retry::waits_in_memory(handler, std::time::Duration::ZERO, delay);
            (failure, if in_memory { Next::Attempt(due_ms) } else { Next::Retry(due_ms) })
        }
    };
    (error(handler, arrival, failure), next)
}

fn error(handler: &Handler, arrival: &Arrival, failure: Failure) -> AttemptError {
    let stamp = Stamp { now_ms: NOW_MS, component: "", instance: "", usage: Usage::default() };
    let attempt = match failure.kind {
        Kind::Attempts => Attempt::FIRST.plus(arrival.attempt.preceding().saturating_sub(1)),
        _ => arrival.attempt,
    };
    failure.into_error(attempt, &handler.name, &stamp)
}

fn outcome(end: End) -> Outcome {
    let output = |index: usize| Output {
        subject: format!("out.{index}"),
        kind: None,
        content_type: None,
        headers: Headers::new(),
        payload: Bytes::new(),
    };
    match end {
        End::Success => Outcome::Completed((0..OUTPUTS).map(output).collect()),
        End::Failure => {
            let error = HandlerError { code: None, message: "later".into(), detail: None };
            Outcome::Retry { error, delay: None }
        }
    }
}

/// What the server delivers when a schedule is due: without the broker's own headers, the others sorted.
fn fired(schedule: &Publication) -> Message {
    let mut list: Headers = schedule.headers.iter().filter(|(name, _)| !name.starts_with("Nats-")).cloned().collect();
    list.sort_by(|a, b| a.0.cmp(&b.0));
    let subject = header(schedule, headers::SCHEDULE_TARGET);
    Message { subject, headers: list, payload: schedule.payload.clone(), damage: None }
}

fn header(message: &Publication, name: &str) -> String {
    headers::get(&message.headers, name).expect("it has one").to_owned()
}

fn event_of(list: &Headers) -> u8 {
    headers::get(list, EVENT).and_then(|event| event.parse().ok()).expect("it says so")
}

/// The name of an instance.
pub fn name_of(instance: u8) -> &'static str {
    if instance == 0 { "a" } else { "b" }
}

impl Rules {
    /// A marker, in short; `is_mirrored` where the instances have each other's names.
    pub fn show_marker(&self, number: Number, is_mirrored: bool) -> String {
        let name = |instance: &str| match (instance, is_mirrored) {
            ("a", false) | ("b", true) => "A",
            ("a", true) | ("b", false) => "B",
            _ => "one that died",
        };
        match self.marker(number) {
            Marker::Open(progress) => {
                let run = progress.run.as_ref();
                let run = run.map(|run| format!(", run by {} on delivery {}", name(&run.instance), run.delivery));
                let (message, attempts, next) = (&progress.message, progress.attempts, progress.next);
                format!("open: {attempts} attempts of {message}, then {next:?}{}", run.unwrap_or_default())
            }
            marker => format!("{marker:?}"),
        }
    }

    /// A failure and what follows it, in short.
    pub fn show_failure(&self, number: Number) -> String {
        let (error, next) = self.failure(number);
        format!("{next:?} after {} in attempt {}", error.kind, error.attempt)
    }
}
