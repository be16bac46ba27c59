//! A simulated `JetStream`: what it stores, delivers and forgets. Time is tokio's, which is paused.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tidemill::broker::{MarkerError, PublishError, Recalled, Settlement, Source, Stored};
use tidemill_policy::arrival::{Message, Position};
use tidemill_policy::event::Headers;
use tidemill_policy::headers;
use tidemill_policy::marker::Marker;
use tidemill_policy::publication::Publication;
use tokio::time::Instant;

/// For how long streams of ours recognise duplicates; the users' are set up to do so for longer.
const OWN_WINDOW: Duration = Duration::from_mins(5);
const OUT_WINDOW: Duration = Duration::from_hours(24);

/// Everything that the server holds.
#[derive(Debug, Default)]
pub(crate) struct Server {
    queues: [Queue; 2],
    /// Scheduled messages by subject.
    schedules: BTreeMap<String, (Instant, Publication)>,
    pub(crate) outputs: Vec<Publication>,
    pub(crate) dead_letters: Vec<Publication>,
    ids: HashMap<(Stream, String), Instant>,
    markers: BTreeMap<String, Kept>,
    records: BTreeMap<String, (Bytes, u64)>,
    revisions: u64,
    deliveries: u64,
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

/// What keeps a delivery from being delivered again.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// Whether the process holds it.
    pub(crate) held: AtomicBool,
    /// Whether the process can reach the server.
    pub(crate) reachable: Arc<AtomicBool>,
}

impl Lease {
    fn is_kept_alive(&self) -> bool {
        self.held.load(Ordering::Relaxed) && self.reachable.load(Ordering::Relaxed)
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
    }
}

impl Server {
    /// Stores a batch, or nothing of it where a subject has no stream. `count` is how many of it arrive.
    pub(crate) fn publish(&mut self, batch: &[Publication], count: usize, now_ms: u64) -> Result<(), PublishError> {
        for message in batch {
            if stream(&message.subject).is_none() {
                return Err(PublishError::NoStream { subject: message.subject.clone() });
            }
        }
        for message in batch.iter().take(count) {
            let Some(stream) = stream(&message.subject) else { continue };
            self.store(stream, message, now_ms);
        }
        Ok(())
    }

    fn store(&mut self, stream: Stream, message: &Publication, now_ms: u64) {
        let now = Instant::now();
        let window = if stream == Stream::Outputs { OUT_WINDOW } else { OWN_WINDOW };
        if let Some(id) = headers::get(&message.headers, headers::MSG_ID) {
            let of = if stream == Stream::Due { Stream::Schedules } else { stream };
            let known = self.ids.entry((of, id.to_owned()));
            if matches!(&known, std::collections::hash_map::Entry::Occupied(since) if *since.get() + window > now) {
                return;
            }
            known.insert_entry(now);
        }
        match stream {
            Stream::Outputs => self.outputs.push(message.clone()),
            Stream::DeadLetters => self.dead_letters.push(message.clone()),
            Stream::Due => self.queues[1].push(message, now_ms),
            Stream::Schedules => {
                let at = headers::get(&message.headers, headers::SCHEDULE).and_then(|text| text.strip_prefix("@at "));
                let due_ms = at.and_then(parse_ms).expect("a schedule that can be read");
                let due = now + Duration::from_millis(due_ms.saturating_sub(now_ms));
                self.schedules.insert(message.subject.clone(), (due, message.clone()));
            }
        }
    }

    /// Stores an input.
    pub(crate) fn input(&mut self, id: &str, now_ms: u64) {
        let headers = vec![(headers::MSG_ID.to_owned(), id.to_owned())];
        let message = Publication { subject: "in.x".into(), headers, payload: Bytes::from_static(b"payload") };
        self.queues[0].push(&message, now_ms);
    }

    /// Moves what is due, and takes back what nobody keeps alive.
    pub(crate) fn tick(&mut self, now_ms: u64, ack_wait: Duration) {
        let now = Instant::now();
        let due: Vec<_> =
            self.schedules.iter().filter(|(_, (due, _))| *due <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            if let Some((_, mut message)) = self.schedules.remove(&name) {
                message.subject =
                    headers::get(&message.headers, headers::SCHEDULE_TARGET).expect("a target").to_owned();
                message.headers.retain(|(name, _)| !name.starts_with("Nats-"));
                self.queues[1].push(&message, now_ms);
            }
        }
        for queue in &mut self.queues {
            for queued in queue.messages.values_mut() {
                if let State::Pending { until, lease, .. } = &mut queued.state
                    && *until <= now
                {
                    if lease.is_kept_alive() {
                        *until = now + ack_wait;
                    } else {
                        queued.state = State::Waiting(now);
                    }
                }
            }
        }
        self.markers.retain(|_, kept| kept.until > now);
    }

    /// When something happens next without anybody's doing.
    pub(crate) fn next_change(&self) -> Option<Instant> {
        let schedules = self.schedules.values().map(|(due, _)| *due);
        let messages = self.queues.iter().flat_map(|queue| queue.messages.values()).map(|queued| match &queued.state {
            State::Waiting(from) => *from,
            State::Pending { until, .. } => *until,
        });
        schedules.chain(messages).min()
    }

    /// The messages that can be delivered now.
    pub(crate) fn ready(&self) -> Vec<(Source, u64)> {
        let now = Instant::now();
        let ready = |source: Source| {
            let messages = self.queues[index(source)].messages.iter();
            let is_ready = move |queued: &Queued| matches!(queued.state, State::Waiting(from) if from <= now);
            messages.filter(move |(_, queued)| is_ready(queued)).map(move |(sequence, _)| (source, *sequence))
        };
        ready(Source::Input).chain(ready(Source::Retry)).collect()
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
    /// consumer, and the ids of retries that are not stored any more. Returns the ids of events whose messages were
    /// taken back or counted down.
    pub(crate) fn roll_back(&mut self, span: Duration) -> Vec<String> {
        let now = Instant::now();
        let mut touched = Vec::new();
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
            touched.extend(headers::get(&queued.headers, headers::MSG_ID).map(str::to_owned));
            if let State::Pending { .. } = queued.state {
                queued.state = State::Waiting(now);
            }
        }
        self.ids.retain(|(stream, _), _| !matches!(stream, Stream::Schedules));
        touched
    }

    /// The events that still have a message somewhere, except one.
    pub(crate) fn has_message_of(&self, id: &str, except: Option<Ticket>) -> bool {
        let is_of = |list: &Headers| {
            headers::get(list, headers::EVENT_ID).or_else(|| headers::get(list, headers::MSG_ID)) == Some(id)
        };
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
        let id = headers::get(list, headers::EVENT_ID).or_else(|| headers::get(list, headers::MSG_ID));
        id.map(str::to_owned)
    }

    /// Whether nothing is left to be delivered.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.schedules.is_empty() && self.queues.iter().all(|queue| queue.messages.is_empty())
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

fn stream(subject: &str) -> Option<Stream> {
    match subject {
        _ if subject.starts_with("out.") => Some(Stream::Outputs),
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
