//! The messages that a handler wants published.

use serde::Serialize;

use crate::Failure;
use crate::bindings::tidemill::handler::types;

/// A message to be published. It takes effect only if the handler returns successfully.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "an output is published only if the handler returns it"]
pub struct Output {
    /// Where to publish; the handler must be granted the subject (`allow.publish`).
    pub subject: String,
    /// What kind of event it is. If set, the message is published as a `CloudEvent` in binary mode.
    pub kind: Option<String>,
    /// The media type of `payload`.
    pub content_type: Option<String>,
    /// Additional headers. Those of the broker and the host (`Nats-…`, `Tidemill-…`) are dropped.
    pub headers: Vec<(String, String)>,
    /// The message's data.
    pub payload: Vec<u8>,
}

impl Output {
    /// A message with this payload and no media type.
    pub fn new(subject: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self { subject: subject.into(), payload: payload.into(), ..Self::default() }
    }

    /// A message with a JSON payload.
    ///
    /// # Errors
    ///
    /// A rejection, if `value` has no JSON form (such as a map whose keys are not strings).
    pub fn json(subject: impl Into<String>, value: &impl Serialize) -> Result<Self, Failure> {
        let payload = serde_json::to_vec(value)
            .map_err(|error| Failure::reject(format!("an output cannot be written as JSON: {error}")))?;
        Ok(Self::new(subject, payload).content_type("application/json"))
    }

    /// Sets the kind of event, which makes the message a `CloudEvent`.
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Sets the media type of the payload.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Adds a header; one of the same name stays.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl From<Output> for types::Output {
    fn from(output: Output) -> Self {
        Self {
            subject: output.subject,
            kind: output.kind,
            content_type: output.content_type,
            headers: output.headers,
            payload: output.payload,
        }
    }
}

/// What a handler may return when it succeeds: outputs in any number.
pub trait IntoOutputs {
    /// The outputs in the order in which to publish them.
    fn into_outputs(self) -> Vec<Output>;
}

impl IntoOutputs for () {
    fn into_outputs(self) -> Vec<Output> {
        Vec::new()
    }
}

impl IntoOutputs for Output {
    fn into_outputs(self) -> Vec<Output> {
        vec![self]
    }
}

impl IntoOutputs for Option<Output> {
    fn into_outputs(self) -> Vec<Output> {
        self.into_iter().collect()
    }
}

impl IntoOutputs for Vec<Output> {
    fn into_outputs(self) -> Vec<Output> {
        self
    }
}

impl<const N: usize> IntoOutputs for [Output; N] {
    fn into_outputs(self) -> Vec<Output> {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{IntoOutputs, Output};
    use crate::Failure;

    #[test]
    fn json_outputs_say_so() -> crate::Result<()> {
        let output = Output::json("a.b", &[1, 2])?.kind("a.b").header("Tenant", "acme");
        assert_eq!(output.payload, b"[1,2]");
        assert_eq!(output.content_type.as_deref(), Some("application/json"));
        assert_eq!(output.kind.as_deref(), Some("a.b"));
        assert_eq!(output.headers, [("Tenant".to_owned(), "acme".to_owned())]);
        Ok(())
    }

    #[test]
    fn what_has_no_json_form_is_rejected() {
        let value = BTreeMap::from([((1, 2), 3)]);
        assert!(matches!(Output::json("a", &value), Err(Failure::Reject(_))));
    }

    #[test]
    fn every_number_of_outputs_can_be_returned() {
        let output = || Output::new("a", "");
        assert_eq!(().into_outputs().len(), 0);
        assert_eq!(None.into_outputs().len(), 0);
        assert_eq!(Some(output()).into_outputs().len(), 1);
        assert_eq!(output().into_outputs().len(), 1);
        assert_eq!([output(), output()].into_outputs().len(), 2);
        assert_eq!(vec![output(); 3].into_outputs().len(), 3);
    }
}
