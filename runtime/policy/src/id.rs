//! Who an event is, and every id on the wire that follows from it: derived, never drawn, so that the same event gives
//! the same ids in every attempt, on every instance, after every crash.
//!
//! An [`Identity`] says what the id is made of. Its [`Token`] is a hash over all of that, the deployment's prefix and the
//! handler; retries and dead letters carry it, and all other ids are hashes over it. The kind of the id is part of the
//! hash: an id that a producer or a handler chooses never equals one that is made of a place in a stream, and neither
//! equals one that is derived. Ids of the version before are in [`legacy`].

pub mod legacy;

use sha2::{Digest, Sha256};

/// Where an event's id comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    /// The message brings it: `Nats-Msg-Id`, or the id of a `CloudEvent` or a queue message.
    Given,
    /// It is the message's place in its stream, since the message brings none.
    Position,
    /// It is what `dedup.key` names.
    Key,
}

impl IdKind {
    /// The kind as it is written in headers.
    pub fn as_str(self) -> &'static str {
        match self {
            IdKind::Given => "given",
            IdKind::Position => "position",
            IdKind::Key => "key",
        }
    }

    /// Reads what [`IdKind::as_str`] writes.
    pub fn read(text: &str) -> Option<IdKind> {
        [IdKind::Given, IdKind::Position, IdKind::Key].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Within what an id is unique.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scope {
    /// Nothing that the message names.
    #[default]
    Whole,
    /// The source of a `CloudEvent`.
    Source(String),
    /// The queue of a queue message.
    Queue(String),
    /// The values of one key, see `dedup.key`.
    Key(String),
}

/// Where an event was first stored. Sequences start anew when a stream is made anew, and go back when it is restored
/// from a backup; the time does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The stream's name.
    pub stream: String,
    /// The message's sequence in it.
    pub sequence: u64,
    /// When it was stored, in milliseconds since the Unix epoch.
    pub stored_ms: u64,
}

impl Place {
    /// The id of an event that brings none: its stream, when it was stored there, and its sequence.
    pub fn id(&self) -> String {
        use std::fmt::Write as _;
        // The longest numbers have 20 digits.
        let mut id = String::with_capacity(self.stream.len() + 42);
        let _ = write!(id, "{}@{}:{}", self.stream, self.stored_ms, self.sequence);
        id
    }
}

/// What makes an event the one that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity<'a> {
    /// Where the id comes from.
    pub kind: IdKind,
    /// Within what it is unique.
    pub scope: &'a Scope,
    /// The id.
    pub id: &'a str,
    /// The message's place: each message is an event of its own. Nothing with `dedup`, where equal ids are one event.
    pub place: Option<&'a Place>,
}

/// Who an event is for one handler of one deployment: what all of its ids on the wire are derived from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(String);

/// How many characters a token and a derived id have.
const LENGTH: usize = 26;

impl Token {
    /// The token of an event.
    pub fn of(prefix: &str, handler: &str, event: &Identity<'_>) -> Token {
        let (scope_kind, scope) = match event.scope {
            Scope::Whole => ("", ""),
            Scope::Source(source) => ("source", source.as_str()),
            Scope::Queue(queue) => ("queue", queue.as_str()),
            Scope::Key(key) => ("key", key.as_str()),
        };
        let mut hash = Hash::new("event");
        for part in [prefix, handler, event.kind.as_str(), scope_kind, scope, event.id] {
            hash.text(part);
        }
        if let Some(place) = event.place {
            hash.text(&place.stream).number(place.sequence).number(place.stored_ms);
        }
        Token(hash.finish())
    }

    /// Reads a token that a message carries; nothing where it cannot be one.
    pub fn read(text: &str) -> Option<Token> {
        let is_digit = |byte: u8| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte);
        (text.len() == LENGTH && text.bytes().all(is_digit)).then(|| Token(text.to_owned()))
    }

    /// The token as it is written in headers, in subjects, and as the name of the event's marker.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the output with this index. The attempt is no part of it, so a repeated output is recognised.
    pub fn output(&self, index: u32) -> String {
        self.derive("output").number(index.into()).finish()
    }

    /// The id of the retry that follows a message: one, however often that is delivered and whatever fails meanwhile.
    /// Another message of the same event has another.
    pub fn retry(&self, message: &str) -> String {
        self.derive("retry").text(message).finish()
    }

    /// The id of the dead letter of the run that ends with this message; `replays` is how often the event was replayed
    /// before.
    pub fn dead_letter(&self, message: &str, replays: u32) -> String {
        self.derive("dead-letter").text(message).number(replays.into()).finish()
    }

    fn derive(&self, purpose: &str) -> Hash {
        let mut hash = Hash::new("derived");
        hash.text(&self.0).text(purpose);
        hash
    }
}

/// What operators have done with a stored message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Its event returns from the dead letters, for the time that is counted.
    Replay(u32),
    /// Its event's retry is brought forward.
    Hurry,
}

/// The id of a message that is made from a stored one by hand. It depends on which one, so that two never share it.
pub fn by_hand(prefix: &str, handler: &str, stored: &Place, event_id: &str, action: Action) -> String {
    let (name, number) = match action {
        Action::Replay(replays) => ("replay", replays),
        Action::Hurry => ("hurry", 0),
    };
    let mut hash = Hash::new("by-hand");
    hash.text(prefix).text(handler).text(&stored.stream).number(stored.sequence).number(stored.stored_ms);
    hash.text(event_id).text(name).number(number.into());
    hash.finish()
}

/// The name of what is remembered of a key's newest event for a handler.
pub fn newest(handler: &str, key: &str) -> String {
    legacy::hash([handler, "newest", key], 0)
}

/// The name of what is remembered of a handler for all instances, such as which is the active one.
pub fn of_handler(handler: &str, what: &str) -> String {
    legacy::marker(None, "", handler, what, 0)
}

/// The name of what is remembered of a key of `order`.
pub fn of_key(handler: &str, key: &str, what: &str) -> String {
    legacy::marker(None, key, handler, what, 0)
}

/// A token for `text` that may stand in a subject: base32 of 128 bits of its SHA-256.
pub fn token(text: &str) -> String {
    encode(&Sha256::digest(text)[..16])
}

/// A number in `0.0..1.0` that depends on the event and the attempt only: the jitter of its delay, the
/// same in every replay.
pub fn fraction(event_id: &str, handler: &str, attempt: u32) -> f64 {
    unit(&legacy::hash(["", event_id, handler, "retry", &attempt.to_string()], 0))
}

/// A number in `0.0..1.0` that depends on the event alone, not on the attempt: where it stands among all events.
pub fn lot(event_id: &str) -> f64 {
    unit(&legacy::hash([event_id, "lot"], 0))
}

/// A number in `0.0..1.0`, evenly spread over all texts.
fn unit(text: &str) -> f64 {
    let hash = Sha256::digest(text);
    let bits = u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]);
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// 128 bits of the SHA-256 over parts, each preceded by its length, so that none runs into the next.
struct Hash(Sha256);

impl Hash {
    fn new(domain: &str) -> Hash {
        let mut hash = Hash(Sha256::new());
        hash.text("tidemill/2").text(domain);
        hash
    }

    fn text(&mut self, part: &str) -> &mut Hash {
        self.number(part.len() as u64);
        self.0.update(part);
        self
    }

    fn number(&mut self, number: u64) -> &mut Hash {
        self.0.update(number.to_le_bytes());
        self
    }

    fn finish(&self) -> String {
        encode(&self.0.clone().finalize()[..16])
    }
}

fn encode(bytes: &[u8]) -> String {
    let mut text = data_encoding::BASE32_NOPAD.encode(bytes);
    text.make_ascii_lowercase();
    text
}

#[cfg(test)]
mod tests;
