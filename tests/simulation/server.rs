//! A simulated `JetStream`: what it stores, delivers and forgets. Time is tokio's, which is paused.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tidemill::broker::{MarkerError, PublishError, Published, Recalled, Settlement, Source, Stored};
use tidemill_policy::arrival::{Message, Position, place_of};
use tidemill_policy::event::Headers;
use tidemill_policy::headers;
use tidemill_policy::id::Token;
use tidemill_policy::marker::{self, Carrier, Marker};
use tidemill_policy::order::partition;
use tidemill_policy::publication::{self, Publication};
use tidemill_policy::together;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::plan::{Flow, name_of};
use crate::rng::Rng;

/// For how long streams of ours recognise duplicates; the users' are set up to do so for longer.
const OWN_WINDOW: Duration = Duration::from_mins(5);
const OUT_WINDOW: Duration = Duration::from_hours(24);

/// A server that dies may restore schedules that have fired no longer ago than this: how many of a thousand, and when
/// they fire again at the latest.
const RESTORED_SPAN: Duration = Duration::from_secs(5);
const RESTORED: u64 = 700;
const RESTORED_DELAY_MS: u64 = 3_000;

/// Everything that the server holds.
#[derive(Debug, Default)]
pub(crate) struct Server {
    queues: [Queue; 2],
    /// When each message of the input was stored, by sequence; what is settled stays.
    inputs: BTreeMap<u64, u64>,
    /// Scheduled messages by subject.
    schedules: BTreeMap<String, (Instant, Publication)>,
    /// Schedules that have fired, and when; a server that dies may restore the latest.
    fired: Vec<(Instant, Publication)>,
    /// Schedules that were restored, and when they fire again.
    restored: Vec<(Instant, Publication)>,
    pub(crate) outputs: Vec<Publication>,
    pub(crate) dead_letters: Vec<Publication>,
    ids: HashMap<(Stream, String), Instant>,
    markers: BTreeMap<String, Kept>,
    records: BTreeMap<String, (Bytes, u64)>,
    revisions: u64,
    deliveries: u64,
    flow: Option<Flow>,
    /// Until when the stream of outputs is full.
    full_until: Option<Instant>,
    /// Whether retries are larger than their stream takes.
    retries_too_large: bool,
}

#[derive(Debug)]
struct Kept {
    marker: Marker,
    revision: u64,
    until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stream {
    Outputs,
    DeadLetters,
    Schedules,
    Due,
    Inputs,
}

/// A stream with its one consumer.
#[derive(Debug, Default)]
struct Queue {
    messages: BTreeMap<u64, Queued>,
    last: u64,
    /// What was acknowledged, and when; a server that dies forgets the latest.
    settled: Vec<(Instant, u64, Queued)>,
}

#[derive(Debug, Clone)]
struct Queued {
    subject: String,
    headers: Headers,
    payload: Bytes,
    stored_ms: u64,
    delivered: u32,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    /// To be delivered from this time on.
    Waiting(Instant),
    /// Delivered; to be delivered again at this time, unless the lease is kept alive.
    Pending { until: Instant, number: u64, lease: Arc<Lease> },
}

impl Queued {
    fn is_ready(&self, now: Instant) -> bool {
        matches!(self.state, State::Waiting(from) if from <= now)
    }
}

/// What keeps a delivery from being delivered again.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Whether the process holds it.
    pub(crate) held: AtomicBool,
    /// Whether the process can reach the server.
    reachable: Arc<AtomicBool>,
    /// When the server last heard that the process has it.
    prolonged: Mutex<Instant>,
    /// Cancelled when the process sees that the server was started anew.
    pub(crate) end: CancellationToken,
    /// Whether what the process says about this delivery does not arrive, as against all others.
    pub(crate) is_unheard: AtomicBool,
}

impl Lease {
    pub(crate) fn new(reachable: &Arc<AtomicBool>) -> Arc<Lease> {
        let (held, prolonged) = (AtomicBool::new(true), Mutex::new(Instant::now()));
        Arc::new(Lease {
            held,
            reachable: Arc::clone(reachable),
            prolonged,
            end: CancellationToken::new(),
            is_unheard: AtomicBool::new(false),
        })
    }

    pub(crate) fn is_of(&self, reachable: &Arc<AtomicBool>) -> bool {
        Arc::ptr_eq(&self.reachable, reachable)
    }

    pub(crate) fn prolonged(&self) -> Instant {
        *self.prolonged.lock().expect("not poisoned")
    }

    fn prolong(&self) {
        *self.prolonged.lock().expect("not poisoned") = Instant::now();
    }

    fn is_kept_alive(&self) -> bool {
        self.held.load(Ordering::Relaxed)
            && self.reachable.load(Ordering::Relaxed)
            && !self.end.is_cancelled()
            && !self.is_unheard.load(Ordering::Relaxed)
    }
}

/// Which delivery this is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    pub(crate) source: Source,
    pub(crate) sequence: u64,
    number: u64,
}

/// A message that is handed out.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) message: Message,
    pub(crate) position: Position,
    pub(crate) ticket: Ticket,
    /// Whether somebody who was given it before may still be working on it.
    pub(crate) overlaps: bool,
}

fn index(source: Source) -> usize {
    match source {
        Source::Input => 0,
        Source::Retry => 1,
        Source::Partition { .. } => unreachable!("the simulated server makes no copies"),
    }
}

impl Server {
    pub(crate) fn new(flow: Flow, retries_too_large: bool) -> Server {
        Server { flow: Some(flow), retries_too_large, ..Server::default() }
    }

    /// Has the stream of outputs refuse everything for some time.
    pub(crate) fn fill(&mut self, time: Duration) {
        self.full_until = Some(Instant::now() + time);
    }

    /// What no stream takes now, if it is in a batch.
    fn refusal(&self, batch: &[Publication]) -> Option<PublishError> {
        batch.iter().find_map(|message| {
            let (subject, why) = (message.subject.clone(), "simulated".to_owned());
            match stream(&subject) {
                None => Some(PublishError::NoStream { subject }),
                Some(Stream::Schedules | Stream::Due) if self.retries_too_large => {
                    Some(PublishError::TooLarge { subject, why })
                }
                Some(Stream::Outputs) if self.full_until.is_some_and(|until| until > Instant::now()) => {
                    Some(PublishError::Unavailable { subject, why })
                }
                Some(_) => None,
            }
        })
    }

    /// Stores a batch, or nothing of it where a subject has no stream. `count` is how many of it arrive.
    pub(crate) fn publish(
        &mut self,
        batch: &[Publication],
        count: usize,
        now_ms: u64,
    ) -> Result<Published, PublishError> {
        if let Some(refusal) = self.refusal(batch) {
            return Err(refusal);
        }
        let mut published = Published::default();
        for message in batch.iter().take(count) {
            let Some(stream) = stream(&message.subject) else { continue };
            published.repeated += usize::from(!self.store(stream, message, now_ms));
            if stream == Stream::DeadLetters {
                let of_id = |letter: &Publication| id_of(letter) == id_of(message);
                let index = self.dead_letters.iter().position(of_id).expect("it is stored");
                published.last = marker::Stored { stream: "LETTERS".into(), sequence: index as u64 };
            }
        }
        Ok(published)
    }

    /// Whether one of these still has an event.
    pub(crate) fn carries(&self, handler: &str, token: &Token, carriers: &[Carrier]) -> bool {
        let is_due =
            |queued: &Queued| queued.subject == publication::retry_due_subject("tidemill", handler, Some(token));
        carriers.iter().any(|carrier| match carrier {
            // Also what was settled is still in the input.
            Carrier::Message(name) => place_of(name).is_some_and(|place| match place.stream.as_str() {
                "IN" => self.inputs.get(&place.sequence) == Some(&place.stored_ms),
                "TIDEMILL_RETRY" => {
                    let queued = self.queues[1].messages.get(&place.sequence);
                    queued.is_some_and(|queued| queued.stored_ms == place.stored_ms)
                }
                _ => false,
            }),
            Carrier::Retry => {
                let scheduled = publication::retry_schedule_subject("tidemill", handler, token);
                self.schedules.contains_key(&scheduled)
                    || self.restored.iter().any(|(_, schedule)| schedule.subject == scheduled)
                    || self.queues[1].messages.values().any(is_due)
            }
            Carrier::Letter(place) => {
                let letter = usize::try_from(place.sequence).ok().and_then(|index| self.dead_letters.get(index));
                letter.and_then(|letter| headers::get(&letter.headers, headers::IDENTITY)) == Some(token.as_str())
                    && place.stream == "LETTERS"
            }
        })
    }

    /// Stores a batch at one moment, or nothing of it.
    pub(crate) fn publish_together(&mut self, batch: &[Publication], now_ms: u64) -> Result<Published, PublishError> {
        for message in batch {
            let subject = message.subject.clone();
            match stream(&subject) {
                None => return Err(PublishError::NoStream { subject }),
                Some(Stream::Outputs) => {}
                Some(_) => {
                    return Err(PublishError::Apart { subject, stream: "IN".into(), other: "OUT".into() });
                }
            }
        }
        if let Some(refusal) = self.refusal(batch) {
            return Err(refusal);
        }
        let known: Vec<_> = batch.iter().map(|message| self.knows(id_of(message))).collect();
        let is_known = |stored: &&Publication| batch.iter().any(|message| id_of(message) == id_of(stored));
        let whole = self.outputs.iter().filter(is_known).any(|stored| together::is_of_a_whole(&stored.headers));
        for index in together::rest(&known, whole) {
            self.store(Stream::Outputs, &batch[index], now_ms);
        }
        Ok(Published::default())
    }

    /// Whether the stream of outputs knows an id.
    pub(crate) fn knows(&self, id: &str) -> bool {
        let since = self.ids.get(&(Stream::Outputs, id.to_owned()));
        since.is_some_and(|since| *since + OUT_WINDOW > Instant::now())
    }

    /// Stores a message, unless its id is known.
    fn store(&mut self, stream: Stream, message: &Publication, now_ms: u64) -> bool {
        let now = Instant::now();
        let window = if stream == Stream::Outputs { OUT_WINDOW } else { OWN_WINDOW };
        if let Some(id) = headers::get(&message.headers, headers::MSG_ID) {
            let of = if stream == Stream::Due { Stream::Schedules } else { stream };
            let known = self.ids.entry((of, id.to_owned()));
            if matches!(&known, std::collections::hash_map::Entry::Occupied(since) if *since.get() + window > now) {
                return false;
            }
            known.insert_entry(now);
        }
        match stream {
            Stream::Outputs => self.outputs.push(message.clone()),
            Stream::DeadLetters => self.dead_letters.push(message.clone()),
            Stream::Due => self.queues[1].push(message, now_ms),
            Stream::Inputs => self.queues[0].push(message, now_ms),
            Stream::Schedules => {
                let at = headers::get(&message.headers, headers::SCHEDULE).and_then(|text| text.strip_prefix("@at "));
                let due_ms = at.and_then(parse_ms).expect("a schedule that can be read");
                let due = now + Duration::from_millis(due_ms.saturating_sub(now_ms));
                self.restored.retain(|(_, restored)| restored.subject != message.subject);
                self.schedules.insert(message.subject.clone(), (due, message.clone()));
            }
        }
        true
    }

    /// Stores an input.
    pub(crate) fn input(&mut self, key: &str, headers: Headers, now_ms: u64) {
        let message = Publication { subject: format!("in.{key}"), headers, payload: Bytes::from_static(b"payload") };
        self.queues[0].push(&message, now_ms);
        self.inputs.insert(self.queues[0].last, now_ms);
    }

    /// Goes back to what the input was at a time: what came since is not there any more, and its sequences come again.
    /// Returns the names of the events that are gone. Who holds one of them sees that the stream is another one.
    pub(crate) fn restore(&mut self, since_ms: u64, earlier: &Earlier) -> Vec<String> {
        let input = &mut self.queues[0];
        self.inputs.retain(|_, stored_ms| *stored_ms < since_ms);
        input.last = self.inputs.keys().next_back().copied().unwrap_or(0);
        let gone = input.messages.split_off(&(input.last + 1));
        for ((source, sequence), lease) in earlier {
            if *source == Source::Input && *sequence > input.last {
                lease.end.cancel();
            }
        }
        let gone = gone.values().map(|queued| name_of(&queued.headers).to_owned()).collect();
        input.settled.retain(|(_, sequence, _)| *sequence <= input.last);
        gone
    }

    /// Loses what is remembered of events.
    pub(crate) fn forget_markers(&mut self) {
        self.markers.clear();
    }

    /// Moves what is due, and takes back what nobody keeps alive.
    pub(crate) fn tick(&mut self, now_ms: u64, ack_wait: Duration) {
        let now = Instant::now();
        let due: Vec<_> =
            self.schedules.iter().filter(|(_, (due, _))| *due <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            if let Some((_, message)) = self.schedules.remove(&name) {
                self.fire(message, now_ms);
            }
        }
        let (due, later) = std::mem::take(&mut self.restored).into_iter().partition(|(due, _)| *due <= now);
        self.restored = later;
        for (_, message) in due {
            // That removes what has followed on its subject.
            self.schedules.remove(&message.subject);
            self.fire(message, now_ms);
        }
        for queue in &mut self.queues {
            for queued in queue.messages.values_mut() {
                let State::Pending { until, lease, .. } = &mut queued.state else { continue };
                if lease.is_kept_alive() {
                    lease.prolong();
                    *until = now + ack_wait;
                } else if *until <= now {
                    queued.state = State::Waiting(now);
                }
            }
        }
        self.markers.retain(|_, kept| kept.until > now);
    }

    fn fire(&mut self, schedule: Publication, now_ms: u64) {
        let mut message = schedule.clone();
        self.fired.push((Instant::now(), schedule));
        message.subject = headers::get(&message.headers, headers::SCHEDULE_TARGET).expect("a target").to_owned();
        message.headers.retain(|(name, _)| !name.starts_with("Nats-"));
        self.queues[1].push(&message, now_ms);
    }

    /// When something happens next without anybody's doing.
    pub(crate) fn next_change(&self, ack_wait: Duration) -> Option<Instant> {
        let now = Instant::now();
        let schedules = self.schedules.values().chain(&self.restored).map(|(due, _)| *due);
        let messages = self.queues.iter().flat_map(|queue| queue.messages.values()).map(|queued| match &queued.state {
            State::Waiting(from) => *from,
            // Leases are prolonged every quarter of the time.
            State::Pending { until, .. } => (*until).min(now + ack_wait / 4),
        });
        schedules.chain(messages).min()
    }

    /// The messages that can be delivered now.
    pub(crate) fn ready(&self) -> Vec<(Source, u64)> {
        let now = Instant::now();
        let ready = |source: Source| {
            let messages = self.queues[index(source)].messages.iter();
            messages.filter(move |(_, queued)| queued.is_ready(now)).map(move |(sequence, _)| (source, *sequence))
        };
        let input = &self.queues[index(Source::Input)];
        let first = |is_ready: bool, (sequence, _): (&u64, &Queued)| is_ready.then_some((Source::Input, *sequence));
        match self.flow.unwrap_or(Flow::Free) {
            Flow::Free => ready(Source::Input).chain(ready(Source::Retry)).collect(),
            Flow::Partitions(count) => {
                // The consumer delivers nothing else before the first one is settled.
                let of = |queued: &Queued| partition(queued.subject.trim_start_matches("in."), count);
                let head = |number| input.messages.iter().find(move |(_, queued)| of(queued) == number);
                let heads = (0..count).filter_map(head);
                heads.filter_map(|head| first(head.1.is_ready(now), head)).chain(ready(Source::Retry)).collect()
            }
            Flow::Window(window) => {
                // What was delivered before comes in any order, what was not in the order of the stream.
                let (again, new): (Vec<_>, Vec<_>) =
                    input.messages.iter().partition(|(_, queued)| queued.delivered > 0);
                let is_room = again.len() < window as usize;
                let again = again.into_iter().filter_map(|one| first(one.1.is_ready(now), one));
                let new = new.into_iter().take(1).filter_map(|one| first(is_room && one.1.is_ready(now), one));
                again.chain(new).chain(ready(Source::Retry)).collect()
            }
        }
    }

    /// How many messages of the input are delivered and not settled, and the last one that was delivered.
    pub(crate) fn in_flight(&self) -> (u64, u64) {
        let delivered = self.queues[0].messages.iter().filter(|(_, queued)| queued.delivered > 0);
        (delivered.clone().count() as u64, delivered.map(|(sequence, _)| *sequence).max().unwrap_or(0))
    }

    /// Delivers a message.
    pub(crate) fn deliver(
        &mut self,
        (source, sequence): (Source, u64),
        lease: &Arc<Lease>,
        earlier: &Earlier,
        ack_wait: Duration,
    ) -> Handed {
        self.deliveries += 1;
        let queued = self.queues[index(source)].messages.get_mut(&sequence).expect("a message");
        queued.delivered += 1;
        queued.state =
            State::Pending { until: Instant::now() + ack_wait, number: self.deliveries, lease: Arc::clone(lease) };
        let stream = if source == Source::Input { "IN" } else { "TIDEMILL_RETRY" };
        let mut headers = queued.headers.clone();
        headers.sort_by(|a, b| a.0.cmp(&b.0));
        Handed {
            message: Message {
                subject: queued.subject.clone(),
                headers,
                payload: queued.payload.clone(),
                damage: None,
            },
            position: Position {
                stream: stream.into(),
                stream_created_unix: 1,
                sequence,
                stored_ms: queued.stored_ms,
                delivered: queued.delivered,
            },
            ticket: Ticket { source, sequence, number: self.deliveries },
            overlaps: earlier.iter().any(|(of, lease)| *of == (source, sequence) && lease.held.load(Ordering::Relaxed)),
        }
    }

    pub(crate) fn settle(&mut self, ticket: Ticket, settlement: &Settlement) {
        let now = Instant::now();
        let queue = &mut self.queues[index(ticket.source)];
        let Some(queued) = queue.messages.get_mut(&ticket.sequence) else { return };
        match settlement {
            // Also of an old delivery: that is accepted and final.
            Settlement::Ack | Settlement::Term { .. } => {
                if let Some(queued) = queue.messages.remove(&ticket.sequence) {
                    queue.settled.push((now, ticket.sequence, queued));
                }
            }
            Settlement::Nothing => {}
            Settlement::Nak { delay } => {
                if matches!(&queued.state, State::Pending { number, .. } if *number == ticket.number) {
                    queued.state = State::Waiting(now + *delay);
                }
            }
        }
    }

    pub(crate) fn read_record(&self, key: &str) -> Stored {
        let kept = self.records.get(key).cloned();
        kept.map_or_else(Stored::default, |(value, revision)| Stored { value: Some(value), revision })
    }

    pub(crate) fn replace_record(&mut self, key: &str, value: Bytes, revision: u64) -> Result<u64, MarkerError> {
        if self.read_record(key).revision != revision {
            return Err(MarkerError::Conflict);
        }
        self.revisions += 1;
        self.records.insert(key.to_owned(), (value, self.revisions));
        Ok(self.revisions)
    }

    pub(crate) fn recall(&self, key: &str) -> Recalled {
        let kept = self.markers.get(key).filter(|kept| kept.until > Instant::now());
        kept.map_or_else(Recalled::default, |kept| Recalled {
            marker: Some(kept.marker.clone()),
            revision: kept.revision,
        })
    }

    pub(crate) fn remember(
        &mut self,
        key: &str,
        marker: &Marker,
        lifetime: Duration,
        revision: u64,
    ) -> Result<u64, MarkerError> {
        if self.recall(key).revision != revision {
            return Err(MarkerError::Conflict);
        }
        self.revisions += 1;
        let kept = Kept { marker: marker.clone(), revision: self.revisions, until: Instant::now() + lifetime };
        self.markers.insert(key.to_owned(), kept);
        Ok(self.revisions)
    }

    /// Forgets what a server forgets that is killed: the latest acknowledgements and counts of the input's
    /// consumer, the ids of retries that are not stored any more, and that schedules have fired. Returns the ids of
    /// events whose messages were taken back or counted down.
    pub(crate) fn roll_back(&mut self, span: Duration, rng: &mut Rng) -> Vec<String> {
        let now = Instant::now();
        let mut touched = Vec::new();
        for (at, schedule) in std::mem::take(&mut self.fired) {
            if at + RESTORED_SPAN >= now && rng.chance(RESTORED) {
                touched.push(name_of(&schedule.headers).to_owned());
                self.restored.push((now + rng.millis(RESTORED_DELAY_MS), schedule));
            }
        }
        let input = &mut self.queues[0];
        for (at, sequence, mut queued) in std::mem::take(&mut input.settled) {
            if at + span >= now {
                queued.state = State::Waiting(now);
                queued.delivered = 0;
                input.messages.insert(sequence, queued);
            }
        }
        for queued in input.messages.values_mut() {
            queued.delivered = 0;
            touched.push(name_of(&queued.headers).to_owned());
            if let State::Pending { lease, .. } = &queued.state {
                if self.flow != Some(Flow::Free) {
                    lease.end.cancel();
                }
                queued.state = State::Waiting(now);
            }
        }
        self.ids.retain(|(stream, _), _| !matches!(stream, Stream::Schedules));
        // Their ids are forgotten: published once more, they are there twice.
        let retries = self.queues[1].messages.values();
        touched.extend(retries.map(|queued| name_of(&queued.headers).to_owned()));
        touched
    }

    /// The events that still have a message somewhere, except one.
    pub(crate) fn has_message_of(&self, id: &str, except: Option<Ticket>) -> bool {
        let is_of = |list: &Headers| name_of(list) == id;
        let excepted = |source: Source, sequence: u64| {
            except.is_some_and(|ticket| ticket.source == source && ticket.sequence == sequence)
        };
        let in_queue = |source: Source| {
            let mut messages = self.queues[index(source)].messages.iter();
            messages.any(|(sequence, queued)| !excepted(source, *sequence) && is_of(&queued.headers))
        };
        in_queue(Source::Input)
            || in_queue(Source::Retry)
            || self.schedules.values().any(|(_, message)| is_of(&message.headers))
    }

    /// The event that a message is about.
    pub(crate) fn event_of(&self, ticket: Ticket) -> Option<String> {
        let list = &self.queues[index(ticket.source)].messages.get(&ticket.sequence)?.headers;
        Some(name_of(list).to_owned()).filter(|name| !name.is_empty())
    }

    /// The event that a message is about which has this name.
    pub(crate) fn event_named(&self, name: &str) -> Option<String> {
        let place = place_of(name)?;
        let queue = &self.queues[usize::from(place.stream != "IN")];
        Some(name_of(&queue.messages.get(&place.sequence)?.headers).to_owned())
    }

    /// Whether nothing is left to be delivered.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.schedules.is_empty()
            && self.restored.is_empty()
            && self.queues.iter().all(|queue| queue.messages.is_empty())
    }
}

/// The leases that were handed out before, by message.
pub(crate) type Earlier = Vec<((Source, u64), Arc<Lease>)>;

impl Queue {
    fn push(&mut self, message: &Publication, now_ms: u64) {
        self.last += 1;
        let queued = Queued {
            subject: message.subject.clone(),
            headers: message.headers.clone(),
            payload: message.payload.clone(),
            stored_ms: now_ms,
            delivered: 0,
            state: State::Waiting(Instant::now()),
        };
        self.messages.insert(self.last, queued);
    }
}

fn id_of(message: &Publication) -> &str {
    headers::get(&message.headers, headers::MSG_ID).unwrap_or_default()
}

fn stream(subject: &str) -> Option<Stream> {
    match subject {
        _ if subject.starts_with("out.") => Some(Stream::Outputs),
        _ if subject.starts_with("in.") => Some(Stream::Inputs),
        _ if subject.starts_with("tidemill.retry.at.") => Some(Stream::Schedules),
        _ if subject.starts_with("tidemill.retry.due.") => Some(Stream::Due),
        _ if subject.starts_with("tidemill.deadletter.") => Some(Stream::DeadLetters),
        _ => None,
    }
}

/// Milliseconds since the Unix epoch of an RFC 3339 time.
fn parse_ms(text: &str) -> Option<u64> {
    use time::format_description::well_known::Rfc3339;
    let time = time::OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}
