//! The event that a handler is given.

use crate::Failure;
use crate::bindings::tidemill::handler::types;

/// One event. It looks the same however the message was encoded on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Identifies the event; the same for every attempt and every duplicate of it. Use it as the
    /// idempotency key for effects outside of the event stream.
    pub id: String,
    /// The subject the event was first published on.
    pub subject: String,
    /// What kind of event it is (the `CloudEvents` `type`), where the message says so.
    pub kind: Option<String>,
    /// Where the event comes from (the `CloudEvents` `source`), where the message says so.
    pub source: Option<String>,
    /// When it happened, in milliseconds since the Unix epoch.
    pub time_ms: Option<u64>,
    /// The media type of `payload`, where the message says so.
    pub content_type: Option<String>,
    /// Shared by all events that follow from the same first event.
    pub correlation_id: String,
    /// The id of the event whose handling published this one, if any.
    pub causation_id: Option<String>,
    /// Which attempt this is, counted from 1.
    pub attempt: u32,
    /// After how many failed attempts the event goes to the dead letters.
    pub max_attempts: u32,
    /// The message's headers, sorted by name; a name may occur more than once.
    pub headers: Vec<(String, String)>,
    /// The event's data, unchanged.
    pub payload: Vec<u8>,
}

impl Event {
    /// Reads the payload as JSON.
    ///
    /// # Errors
    ///
    /// A rejection that says where and why the payload does not fit `T`: it never will.
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        serde_json::from_slice(&self.payload).map_err(|error| rejected(&error))
    }

    /// Reads the payload as UTF-8 text.
    ///
    /// # Errors
    ///
    /// A rejection that says at which byte the payload stops being UTF-8.
    pub fn text(&self) -> Result<&str, Failure> {
        std::str::from_utf8(&self.payload)
            .map_err(|error| Failure::reject(format!("the payload is not UTF-8 text: {error}")))
    }

    /// The first header of this name; upper and lower case make no difference.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    /// Whether the event goes to the dead letters if this attempt fails.
    pub fn is_last_attempt(&self) -> bool {
        self.attempt >= self.max_attempts
    }
}

/// What is told of a payload that cannot be read.
fn rejected(error: &serde_json::Error) -> Failure {
    let wrong = if error.is_data() { "as expected" } else { "JSON" };
    Failure::reject(format!("the payload is not {wrong}: {error}"))
}

impl From<types::Event> for Event {
    fn from(event: types::Event) -> Self {
        Self {
            id: event.id,
            subject: event.subject,
            kind: event.kind,
            source: event.source,
            time_ms: event.time_ms,
            content_type: event.content_type,
            correlation_id: event.correlation_id,
            causation_id: event.causation_id,
            attempt: event.attempt,
            max_attempts: event.max_attempts,
            headers: event.headers,
            payload: event.payload,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::{Failure, testing};

    #[test]
    fn what_is_not_json_is_rejected_with_the_place() {
        for (payload, place) in
            [("", "line 1 column 0"), (r#"{"name": "#, "line 1 column 9"), ("name", "line 1 column 2")]
        {
            let event = testing::event("a", payload);
            let Err(Failure::Reject(error)) = event.json::<BTreeMap<String, String>>() else {
                panic!("not rejected");
            };
            assert!(error.message.starts_with("the payload is not JSON: "), "{}", error.message);
            assert!(error.message.ends_with(place), "{}", error.message);
        }
    }

    #[test]
    fn json_that_does_not_fit_is_rejected_with_the_place() {
        let event = testing::event("a", br#"{"name": 7}"#);
        let Err(Failure::Reject(error)) = event.json::<BTreeMap<String, String>>() else {
            panic!("not rejected");
        };
        assert_eq!(
            error.message,
            "the payload is not as expected: invalid type: integer `7`, expected a string at line 1 column 10"
        );
    }

    #[test]
    fn text_that_is_not_utf8_is_rejected() {
        let event = testing::event("a", b"ab\xff");
        assert!(matches!(event.text(), Err(Failure::Reject(error)) if error.message.contains("index 2")));
    }

    #[test]
    fn headers_are_found_whatever_their_case() {
        let mut event = testing::event("a", b"");
        event.headers.push(("Tenant".into(), "acme".into()));
        event.headers.push(("tenant".into(), "other".into()));
        assert_eq!(event.header("TENANT"), Some("acme"));
        assert_eq!(event.header("none"), None);
    }

    #[test]
    fn the_last_attempt_knows_it() {
        let mut event = testing::event("a", b"");
        event.max_attempts = 3;
        event.attempt = 2;
        assert!(!event.is_last_attempt());
        event.attempt = 3;
        assert!(event.is_last_attempt());
    }
}
