//! Dead letters: where they are kept, looking at them, sending their events on their way again.

use std::collections::BTreeMap;

use tidemill_policy::arrival::Arrival;
use tidemill_policy::arrival::Message;
use tidemill_policy::decode::decode;
use tidemill_policy::headers;
use tidemill_policy::manifest::{Handler, Manifest};
use tidemill_policy::marker::{self, Marker, Stored};
use tidemill_policy::order;
use tidemill_policy::publication::Case;
use tidemill_policy::replay::{self, Letter};
use tidemill_policy::subject;

use super::{OperateError, event_id, retries};
use crate::broker::nats::ask::{self, AskError, ask};
use crate::broker::nats::shelf::{Found, Kept, Reads, Shelf};
use crate::broker::nats::streams::dead_letter_stream;
use crate::broker::nats::{Nats, carriers, markers, publish, quarantine};
use crate::broker::{Broker, MarkerError};
use crate::clock::Clock;

/// Subjects of dead letters and the stream that keeps them.
#[derive(Debug)]
pub struct Place<'a> {
    /// The stream.
    pub shelf: Shelf<'a>,
    /// The subjects in it.
    pub filter: String,
    /// What our own dead-letter subjects begin with.
    own: String,
}

/// A dead letter in its stream.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its stream.
    pub stream: String,
    /// Its sequence.
    pub sequence: u64,
    /// When it was stored, in milliseconds since the Unix epoch.
    pub stored_ms: u64,
    /// The event's id.
    pub id: String,
    /// The handler that gave up.
    pub handler: String,
    /// What it says.
    pub letter: Letter,
}

/// What became of a dead letter whose event was sent on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed {
    /// The event is attempted again.
    Sent,
    /// That was done before, and the event is on its way or handled; it is not run once more.
    Repeated,
    /// The dead letter is gone.
    Gone,
}

/// The places of all dead letters, or of one handler's.
///
/// # Errors
/// Where the server denies, refuses or does not answer.
pub async fn places<'a>(
    nats: &'a Nats,
    manifest: &Manifest,
    handler: Option<&Handler>,
) -> Result<Vec<Place<'a>>, AskError> {
    let own = format!("{}.deadletter.", manifest.nats.prefix);
    let all = format!("{own}>");
    let mut filters: Vec<String> = match handler {
        Some(handler) => vec![handler.dead_letter.subject.clone()],
        None => manifest.handlers.values().map(|handler| handler.dead_letter.subject.clone()).collect(),
    };
    if handler.is_none() {
        filters.retain(|filter| !subject::covers(&all, filter));
        filters.push(all.clone());
    }
    filters.sort();
    filters.dedup();
    let mut places = Vec::new();
    for filter in filters {
        let stream = if subject::covers(&all, &filter) {
            Some(dead_letter_stream(&manifest.nats.prefix))
        } else {
            stream_of(nats, &filter).await?
        };
        let Some(stream) = stream else { continue };
        if let Some(shelf) = Shelf::open(nats, &stream).await? {
            places.push(Place { shelf, filter, own: own.clone() });
        }
    }
    Ok(places)
}

/// The stream that stores a subject.
///
/// # Errors
/// Where the server denies, refuses or does not answer.
pub(super) async fn stream_of(nats: &Nats, subject: &str) -> Result<Option<String>, AskError> {
    #[derive(serde::Deserialize)]
    struct Names {
        streams: Option<Vec<String>>,
    }
    let names: Names = ask(nats, "STREAM.NAMES", &serde_json::json!({ "subject": subject })).await?;
    Ok(names.streams.and_then(|streams| streams.into_iter().next()))
}

impl Place<'_> {
    /// How many messages there are.
    ///
    /// # Errors
    /// Where the server denies, refuses or does not answer.
    pub async fn count(&self) -> Result<u64, AskError> {
        Ok(self.shelf.counts(&self.filter).await?.values().sum())
    }

    /// Reads a dead letter. On a subject of the user's own there may be other messages, which are none.
    fn read(&self, kept: Kept) -> Option<Entry> {
        let Kept { message, position } = kept;
        let Message { subject, .. } = &message;
        let named = subject.strip_prefix(&self.own).map(str::to_owned);
        if !subject::matches(&self.filter, subject) {
            return None;
        }
        let (stream, sequence, stored_ms) = (position.stream.clone(), position.sequence, position.stored_ms);
        let letter = replay::letter(message, position);
        let handler = letter.handler.clone().or(named)?;
        Some(Entry { stream, sequence, stored_ms, id: event_id(&letter.arrival), handler, letter })
    }

    /// The dead letter with this sequence.
    ///
    /// # Errors
    /// Where the server denies, refuses or does not answer.
    pub async fn at(&self, sequence: u64) -> Result<Option<Entry>, AskError> {
        Ok(self.shelf.at(sequence).await?.and_then(|kept| self.read(kept)))
    }

    /// All dead letters that `wanted` selects, the oldest first, without their payloads.
    ///
    /// # Errors
    /// Where the server denies, refuses or does not answer.
    pub async fn select(&self, wanted: impl Fn(&Entry) -> bool) -> Result<Vec<Entry>, AskError> {
        let pick = |kept| self.read(kept).filter(|entry| wanted(entry)).map(Entry::without_payload);
        Ok(self.shelf.scan(&self.filter, &Reads::up_to(usize::MAX), pick).await?.items)
    }

    /// The newest dead letters, of one handler or of all, the newest first, without their payloads.
    ///
    /// # Errors
    /// Where the server denies, refuses or does not answer.
    pub async fn newest(&self, handler: Option<&str>, limit: usize, reads: &Reads) -> Result<Found<Entry>, AskError> {
        let is_wanted = |entry: &Entry| handler.is_none_or(|handler| entry.handler == handler);
        let pick = |kept| self.read(kept).filter(|entry| is_wanted(entry)).map(Entry::without_payload);
        self.shelf.newest(&self.filter, limit, reads, pick).await
    }
}

impl Entry {
    fn without_payload(mut self) -> Entry {
        self.letter.arrival.payload = bytes::Bytes::new();
        self
    }
}

/// Sends the event of a dead letter on its way to its handler again, and deletes the dead letter once that is
/// confirmed, unless it is to be kept.
///
/// # Errors
/// Where the dead letter is damaged, or the server denies, refuses or does not answer: then it stays.
pub async fn replay(
    shelf: &Shelf<'_>,
    manifest: &Manifest,
    entry: &Entry,
    keep: bool,
) -> Result<Replayed, OperateError> {
    let Some(Kept { message, position }) = shelf.at(entry.sequence).await? else { return Ok(Replayed::Gone) };
    let handler = manifest.handlers.get(&entry.handler);
    let letter = replay::letter(message.clone(), position.clone()).arrival;
    let earlier = earlier(shelf.nats, entry, handler, &letter).await?;
    let runs = match earlier {
        Earlier::None { runs } => runs,
        Earlier::Handled | Earlier::OnItsWay => {
            if !keep {
                retries::delete(shelf, entry.sequence).await?;
            }
            return Ok(Replayed::Repeated);
        }
    };
    let mut again = replay::replay(&message, &position, &manifest.nats.prefix, &entry.handler, handler, runs)
        .map_err(|why| OperateError::Unreplayable { stream: entry.stream.clone(), sequence: entry.sequence, why })?;
    let (_, _, mut repeated) = publish::publish_one(shelf.nats, &again).await?;
    if repeated && !is_on_its_way(shelf.nats, entry, &letter).await? {
        // It was sent on its way before, and dropped there. The stream would not take it a second time under its id.
        for (name, id) in &mut again.headers {
            if name == headers::MSG_ID {
                *id = format!("{id}.{}", Clock::System.now_ms());
            }
        }
        (_, _, repeated) = publish::publish_one(shelf.nats, &again).await?;
    }
    if !keep {
        retries::delete(shelf, entry.sequence).await?;
    }
    Ok(if repeated { Replayed::Repeated } else { Replayed::Sent })
}

/// What has become of earlier replays of a dead letter that was kept.
enum Earlier {
    /// There is none, or it has come to nothing or to another dead letter; the latest run that is known.
    None {
        /// How often the event was replayed.
        runs: u32,
    },
    /// The event was handled since.
    Handled,
    /// One is on its way.
    OnItsWay,
}

/// Looks for the event's retry, then for its marker: a run that ends in between has left it.
async fn earlier(
    nats: &Nats,
    entry: &Entry,
    handler: Option<&Handler>,
    letter: &Arrival,
) -> Result<Earlier, OperateError> {
    let Some(token) = letter.carried.as_ref().and_then(|carried| carried.token.as_ref()) else {
        return Ok(Earlier::None { runs: 0 });
    };
    if is_on_its_way(nats, entry, letter).await? {
        return Ok(Earlier::OnItsWay);
    }
    let marker = match markers::recall_as_operator(nats, token.as_str()).await {
        Ok(marker) => marker.filter(|marker| marker.run().is_some_and(|run| run > letter.epoch)),
        Err(AskError::Denied { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let is_queued_elsewhere = handler.is_some_and(|handler| handler.partitions().is_some());
    Ok(match marker {
        Some(Marker::Done { .. }) => Earlier::Handled,
        Some(Marker::Open(_)) if is_queued_elsewhere => Earlier::OnItsWay,
        marker => Earlier::None { runs: marker.and_then(|marker| marker.run()).unwrap_or(0) },
    })
}

/// Whether a replay of the letter is there; where we may not look, whatever is not known to be there is not. The retry that
/// ended in the letter may be there too, until it is acknowledged.
async fn is_on_its_way(nats: &Nats, entry: &Entry, letter: &Arrival) -> Result<bool, OperateError> {
    let Some(token) = letter.carried.as_ref().and_then(|carried| carried.token.as_ref()) else { return Ok(true) };
    match carriers::retries(nats, &entry.handler, token).await {
        Err(AskError::Denied { .. }) => Ok(false),
        retries => Ok(retries?.iter().any(|retry| run_of(retry).is_some_and(|run| run > letter.epoch))),
    }
}

/// Which run of its event a retry is of; nothing where it does not say so, and nobody knows what it is.
fn run_of(retry: &ask::Kept) -> Option<u32> {
    let raw = data_encoding::BASE64.decode(retry.hdrs.as_bytes()).ok()?;
    let block = quarantine::read(&raw).ok()?;
    headers::get(&block.headers, headers::REPLAY).map_or(Some(0), |count| count.parse().ok())
}

/// Deletes a dead letter for good, and lets the key go on that its event may have held up. Returns whether it was still
/// there.
///
/// # Errors
/// Where the server denies, refuses or does not answer.
pub async fn discard(shelf: &Shelf<'_>, manifest: &Manifest, entry: &Entry) -> Result<bool, OperateError> {
    let kept = shelf.at(entry.sequence).await?;
    let was_there = shelf.delete(entry.sequence).await?;
    if let (Some(kept), Some(handler)) = (kept, manifest.handlers.get(&entry.handler)) {
        let discarded = Stored { stream: entry.stream.clone(), sequence: entry.sequence };
        let arrival = replay::letter(kept.message, kept.position).arrival;
        unpark(shelf.nats, handler, &arrival, &discarded).await?;
    }
    Ok(was_there)
}

/// Lets the key of an event go on, if that event holds it up with this dead letter.
async fn unpark(nats: &Nats, handler: &Handler, arrival: &Arrival, letter: &Stored) -> Result<(), OperateError> {
    let Some(order) = handler.key_order().filter(|_| handler.parks()) else { return Ok(()) };
    let event = decode(arrival, handler).ok();
    // Where there is no telling the key, nothing was held up.
    let Ok(key) = order::key(order, arrival, event.as_ref()) else { return Ok(()) };
    let name = marker::parked(handler, &key);
    let case = Case { handler, arrival, event: event.as_ref() };
    loop {
        let recalled = nats.recall(&name).await?;
        if !matches!(&recalled.marker, Some(Marker::Parked(holder)) if holder.is(case) && holder.is_held_by(letter)) {
            return Ok(());
        }
        let lifetime = marker::lifetime(handler, &Marker::Released, 0);
        match nats.remember(&name, &Marker::Released, lifetime, recalled.revision).await {
            Ok(_) => return Ok(()),
            Err(MarkerError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The shelves of some places, by the names of their streams.
pub fn shelves<'a, 'b>(places: &'b [Place<'a>]) -> BTreeMap<&'b str, &'b Shelf<'a>> {
    places.iter().map(|place| (place.shelf.stream.as_str(), &place.shelf)).collect()
}
