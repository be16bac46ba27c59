//! Reading and removing what a stream keeps, without a consumer: operators look at messages that others are to
//! receive.
//!
//! Messages are read through the JSON API, which carries headers in base64: one that the client library cannot
//! parse must not cost the connection.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_policy::arrival::{Message, Position};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ask::{self, AskError, ask, found, message};
use super::{Nats, quarantine};

/// How many parts of a stream are read at once.
const LANES: u16 = 8;
/// How wide a part of a stream may be to be read from one end to the other when its newest messages are wanted.
const LEAF: u64 = 64;

/// A stream as it was when it was opened.
#[derive(Debug, Clone)]
pub struct Shelf<'a> {
    /// The connection that it is read over.
    pub nats: &'a Nats,
    /// The stream's name.
    pub stream: String,
    created_unix: i64,
    sequences: Range<u64>,
}

/// A message as it is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The message.
    pub message: Message,
    /// Where it is.
    pub position: Position,
}

/// What was found in a stream.
#[derive(Debug)]
pub struct Found<T> {
    /// What was found.
    pub items: Vec<T>,
    /// Whether all of it was looked at.
    pub complete: bool,
}

/// How many messages may be read in all.
#[derive(Debug)]
pub struct Reads(AtomicUsize);

#[derive(Deserialize)]
struct StreamInfo {
    created: String,
    state: State,
    /// How many subjects there are, those of other pages included.
    #[serde(default)]
    total: u64,
}

#[derive(Deserialize)]
struct State {
    first_seq: u64,
    last_seq: u64,
    subjects: Option<BTreeMap<String, u64>>,
}

impl Reads {
    /// So many.
    pub fn up_to(count: usize) -> Reads {
        Reads(AtomicUsize::new(count))
    }

    fn take(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

impl<'a> Shelf<'a> {
    /// Opens a stream; nothing where there is none of that name.
    ///
    /// # Errors
    /// Where the server denies, refuses or does not answer.
    pub async fn open(nats: &'a Nats, stream: &str) -> Result<Option<Shelf<'a>>, AskError> {
        let info = ask::<StreamInfo>(nats, &format!("STREAM.INFO.{stream}"), &Value::Null).await;
        Ok(found(info)?.map(|info| Shelf {
            nats,
            stream: stream.to_owned(),
            created_unix: moment(&info.created).unix_timestamp(),
            sequences: info.state.first_seq..info.state.last_seq.saturating_add(1),
        }))
    }

    /// The number of messages on each subject that the filter matches, of which there should be few.
    ///
    /// # Errors
    /// Where the server denies, refuses or does not answer.
    pub async fn counts(&self, filter: &str) -> Result<BTreeMap<String, u64>, AskError> {
        Ok(self.info(filter, 0).await?.state.subjects.unwrap_or_default())
    }

    /// The number of subjects that the filter matches, of which there may be very many.
    ///
    /// # Errors
    /// Where the server denies, refuses or does not answer.
    pub async fn subjects(&self, filter: &str) -> Result<u64, AskError> {
        // The page behind the last one: the subjects themselves need not be sent.
        Ok(self.info(filter, u32::MAX).await?.total)
    }

    async fn info(&self, filter: &str, offset: u32) -> Result<StreamInfo, AskError> {
        let question = json!({ "subjects_filter": filter, "offset": offset });
        ask(self.nats, &format!("STREAM.INFO.{}", self.stream), &question).await
    }

    /// The message with this sequence.
    ///
    /// # Errors
    /// Where the server denies, refuses or does not answer.
    pub async fn at(&self, sequence: u64) -> Result<Option<Kept>, AskError> {
        self.get(&json!({ "seq": sequence })).await
    }

    /// The last message on the subjects that the filter matches.
    ///
    /// # Errors
    /// Where the server denies, refuses or does not answer.
    pub async fn last(&self, filter: &str) -> Result<Option<Kept>, AskError> {
        self.get(&json!({ "last_by_subj": filter })).await
    }

    /// The first message from `range` on the subjects that the filter matches.
    async fn next(&self, filter: &str, range: &Range<u64>) -> Result<Option<Kept>, AskError> {
        if range.is_empty() {
            return Ok(None);
        }
        let kept = self.get(&json!({ "seq": range.start, "next_by_subj": filter })).await?;
        Ok(kept.filter(|kept| range.contains(&kept.position.sequence)))
    }

    async fn get(&self, question: &Value) -> Result<Option<Kept>, AskError> {
        // Sequence 0 is none, and the server takes it for a question without one.
        if question["seq"] == 0 {
            return Ok(None);
        }
        let answer = found(message(self.nats, &self.stream, question).await)?;
        Ok(answer.map(|stored| self.kept(stored)))
    }

    fn kept(&self, stored: ask::Kept) -> Kept {
        let decode = |text: &str| data_encoding::BASE64.decode(text.as_bytes()).unwrap_or_default();
        let raw = decode(&stored.hdrs);
        let message = Message {
            damage: quarantine::fault(stored.subject.as_bytes(), &raw).map(str::to_owned),
            subject: stored.subject,
            headers: quarantine::lossy(&raw),
            payload: decode(&stored.data).into(),
        };
        let stored_ms = moment(&stored.time).unix_timestamp_nanos() / 1_000_000;
        let position = Position {
            stream: self.stream.clone(),
            stream_created_unix: self.created_unix,
            sequence: stored.seq,
            stored_ms: u64::try_from(stored_ms).unwrap_or(0),
            delivered: 1,
        };
        Kept { message, position }
    }

    /// Reads the messages on the subjects that the filter matches, from the first to the last, and keeps what
    /// `pick` makes of them. What is stored later is not read.
    ///
    /// # Errors
    /// Where the server denies, refuses or does not answer.
    pub async fn scan<T>(
        &self,
        filter: &str,
        reads: &Reads,
        pick: impl Fn(Kept) -> Option<T>,
    ) -> Result<Found<T>, AskError> {
        let lanes = split(&self.sequences).map(|lane| self.read(filter, lane, reads, &pick));
        let parts: Vec<_> = stream::iter(lanes).buffered(LANES.into()).try_collect().await?;
        let complete = parts.iter().all(|part| part.complete);
        Ok(Found { items: parts.into_iter().flat_map(|part| part.items).collect(), complete })
    }

    async fn read<T>(
        &self,
        filter: &str,
        mut range: Range<u64>,
        reads: &Reads,
        pick: &impl Fn(Kept) -> Option<T>,
    ) -> Result<Found<T>, AskError> {
        let mut items = Vec::new();
        while let Some(kept) = self.next(filter, &range).await? {
            if !reads.take() {
                return Ok(Found { items, complete: false });
            }
            range.start = kept.position.sequence + 1;
            items.extend(pick(kept));
        }
        Ok(Found { items, complete: true })
    }

    /// The newest messages on the subjects that the filter matches of which `pick` makes something, the newest
    /// first; it is complete where there are as many as wanted, or no more.
    ///
    /// # Errors
    /// Where the server denies, refuses or does not answer.
    pub async fn newest<T>(
        &self,
        filter: &str,
        wanted: usize,
        reads: &Reads,
        pick: impl Fn(Kept) -> Option<T>,
    ) -> Result<Found<T>, AskError> {
        // A stream can be asked for the next message only. So it is halved, and of each half the later one read
        // first, until the part is small.
        let mut parts = vec![self.sequences.clone()];
        let mut items = Vec::new();
        while let Some(mut part) = parts.pop().filter(|_| items.len() < wanted) {
            let Some(first) = self.next(filter, &part).await? else { continue };
            part.start = first.position.sequence;
            let width = part.end - part.start;
            if width > LEAF {
                let middle = part.start + width / 2;
                parts.extend([part.start..middle, middle..part.end]);
                continue;
            }
            let found = self.read(filter, part, reads, &pick).await?;
            items.extend(found.items.into_iter().rev());
            if !found.complete {
                items.truncate(wanted);
                return Ok(Found { items, complete: false });
            }
        }
        items.truncate(wanted);
        Ok(Found { items, complete: true })
    }

    /// Removes a message. Returns whether it was there.
    ///
    /// # Errors
    /// Where the server denies, refuses or does not answer.
    pub async fn delete(&self, sequence: u64) -> Result<bool, AskError> {
        #[derive(Deserialize)]
        struct Deleted {
            success: bool,
        }
        let question = json!({ "seq": sequence, "no_erase": true });
        match ask::<Deleted>(self.nats, &format!("STREAM.MSG.DELETE.{}", self.stream), &question).await {
            Ok(deleted) => Ok(deleted.success),
            Err(AskError::NotFound(_) | AskError::NoMessage(_)) => Ok(false),
            Err(error @ AskError::Refused { .. }) => match self.at(sequence).await? {
                Some(_) => Err(error),
                None => Ok(false),
            },
            Err(error) => Err(error),
        }
    }
}

/// About equal parts, in order.
fn split(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let (start, end) = (range.start, range.end.max(range.start));
    let width = (end - start).div_ceil(LANES.into()).max(1);
    (0..LANES).map(move |lane| {
        let bound = |lane: u16| start.saturating_add(width.saturating_mul(lane.into())).min(end);
        bound(lane)..bound(lane + 1)
    })
}

fn moment(text: &str) -> OffsetDateTime {
    OffsetDateTime::parse(text, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_split_without_gaps() {
        for range in [0..0, 1..2, 1..8, 5..1000, 1..1_000_001, 7..7] {
            let parts: Vec<_> = split(&range).collect();
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start), "{parts:?}");
            assert_eq!((parts[0].start, parts[7].end), (range.start, range.end));
        }
    }
}
