//! One run of a handler without a broker, through the same steps as an event from a stream, with the time and the
//! randomness that are asked for. Nothing is published.

use thiserror::Error;
use tidemill_policy::admit::admit;
use tidemill_policy::arrival::{self, Arrival, Carried, Message, Position};
use tidemill_policy::attempt::Attempt;
use tidemill_policy::decide::{Decision, Failure, Setback, decide};
use tidemill_policy::decode::decode;
use tidemill_policy::event::Event;
use tidemill_policy::headers;
use tidemill_policy::history::Kind;
use tidemill_policy::latest;
use tidemill_policy::manifest::Handler;
use tidemill_policy::schema::Schemas;
use tidemill_policy::subject::{self, SubjectError};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::invoker::wasm::WasmHandler;
use crate::invoker::{Report, Seed};

/// What is run, and in which circumstances.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The message as it would come from the stream.
    pub message: Message,
    /// The event's id; else the one that the message brings.
    pub id: Option<String>,
    /// Which attempt it is.
    pub attempt: Attempt,
    /// When the message was stored, in milliseconds since the Unix epoch.
    pub stored_ms: u64,
    /// The time of day that the handler sees, in milliseconds since the Unix epoch.
    pub clock_ms: u64,
    /// Where its random numbers come from.
    pub seed: Seed,
}

/// What came of a run.
#[derive(Debug)]
pub struct Rehearsal {
    /// The event; nothing where the message could not be decoded.
    pub event: Option<Event>,
    /// What came of the invocation; nothing where the event was refused before it.
    pub report: Option<Report>,
    /// What policy makes of it.
    pub decision: Decision,
}

/// Why an event cannot have come to a handler.
#[derive(Debug, Error)]
pub enum SubjectFault {
    /// The handler's subject has wildcards, and none was given.
    #[error("handler.{handler}: its subject {subjects} has wildcards, so the event's has to be given")]
    Unknown {
        /// The handler.
        handler: String,
        /// Its subjects.
        subjects: String,
    },
    /// The subject that was given is none.
    #[error("{subject:?}: {source}")]
    Unusable {
        /// What was given.
        subject: String,
        /// What is wrong with it.
        source: SubjectError,
    },
}

/// The subject that an event is taken to come on: what is given, else the handler's first one. Warns of one that
/// does not reach the handler.
///
/// # Errors
/// Where none is given and the handler's has wildcards, or what is given is no subject.
pub fn subject_of(handler: &Handler, given: Option<&str>) -> Result<String, SubjectFault> {
    let subjects = || handler.subjects.join(", ");
    let Some(given) = given else {
        let first = handler.subjects.first().filter(|first| subject::check_subject(first).is_ok());
        let unknown = || SubjectFault::Unknown { handler: handler.name.clone(), subjects: subjects() };
        return first.cloned().ok_or_else(unknown);
    };
    let subject = given.to_owned();
    if let Err(source) = subject::check_subject(given) {
        return Err(SubjectFault::Unusable { subject, source });
    }
    if !handler.subjects.iter().any(|pattern| subject::matches(pattern, given)) {
        tracing::warn!("events on {given} do not reach handler {}, which takes {}", handler.name, subjects());
    }
    Ok(subject)
}

/// Decodes, admits, invokes in a fresh instance, and decides.
pub async fn rehearse(handler: &Handler, schemas: &Schemas, invoker: &WasmHandler, scene: Scene) -> Rehearsal {
    let Scene { seed, clock_ms, .. } = scene;
    let arrival = arrive(scene);
    let refused = |event, failure| {
        let decision = Decision::Fail(Setback::DeadLetter(failure));
        Rehearsal { event, report: None, decision }
    };
    let event = match decode(&arrival, handler) {
        Ok(event) => event,
        Err(undecodable) => return refused(None, Failure::new(Kind::Undecodable, undecodable.to_string())),
    };
    let admitted = admit(handler, &arrival, &event, clock_ms)
        .and_then(|()| schemas.admit(&event))
        .and_then(|()| latest::place(handler, &arrival, &event).map(drop));
    if let Err(failure) = admitted {
        return refused(Some(event), failure);
    }
    let report = invoker.replay(event.clone(), seed, clock_ms).await;
    let decision = decide(handler, &event, schemas.screen(report.outcome.clone()));
    Rehearsal { event: Some(event), report: Some(report), decision }
}

/// The message as it would arrive from a stream.
fn arrive(scene: Scene) -> Arrival {
    let position = Position {
        stream: "invoke".into(),
        stream_created_unix: 0,
        sequence: 1,
        stored_ms: scene.stored_ms,
        delivered: 1,
    };
    let carried = scene.id.as_deref().map(headers::clean_id).map(|id| Carried { id, kind: None, token: None });
    Arrival { carried, attempt: scene.attempt, ..arrival::first(scene.message, position) }
}

/// Reads a seed.
///
/// # Errors
/// Where it is not 64 hexadecimal digits.
pub fn parse_seed(text: &str) -> Result<Seed, String> {
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|error| error.to_string())?;
    bytes.try_into().map_err(|bytes: Vec<u8>| format!("{} digits, where 64 are needed", bytes.len() * 2))
}

/// Reads a time of day, in milliseconds since the Unix epoch.
///
/// # Errors
/// Where it is neither RFC 3339 nor a number of milliseconds, or before 1970.
pub fn parse_clock(text: &str) -> Result<u64, String> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let time = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "write it as 2026-01-31T12:00:00Z, or in milliseconds since 1970".to_owned())?;
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).map_err(|_| "a time before 1970".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_read_in_both_forms() {
        assert_eq!(parse_clock("1700000000123"), Ok(1_700_000_000_123));
        assert_eq!(parse_clock("2023-11-14T22:13:20.123Z"), Ok(1_700_000_000_123));
        assert_eq!(parse_clock("2023-11-14T23:13:20.123+01:00"), Ok(1_700_000_000_123));
        for wrong in ["", "yesterday", "2023-11-14", "-5", "1969-12-31T00:00:00Z"] {
            assert!(parse_clock(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn seeds_are_64_digits() {
        assert_eq!(parse_seed(&"0F".repeat(32)), Ok([15; 32]));
        for wrong in [String::new(), "0f".repeat(31), "0f".repeat(33), "0g".repeat(32), "0".repeat(63)] {
            assert!(parse_seed(&wrong).is_err(), "{wrong:?}");
        }
    }
}
