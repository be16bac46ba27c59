//! Components that were written for wasmCloud's messaging interfaces: `wasmcloud:messaging@0.2.0`.
//!
//! Such a component publishes by a call to the host. The messages are held back, and become the outputs of an event that
//! it has handled; those of a failed call are dropped. What it cannot say there is the difference between a failure that
//! may pass and one that cannot: an error is taken for the former, unless it begins with [`REJECT`].

use tidemill_policy::budget::Budget;
use tidemill_policy::event::Event;

use super::bindings::messaging::exports::wasmcloud::messaging::handler::BrokerMessage;
use super::bindings::messaging::wasmcloud::messaging::{consumer, types};
use super::bindings::tidemill::handler::types::{Error, Failure, Output};
use super::link::State;

/// What an error begins with that no later attempt can change.
const REJECT: &str = "reject:";

/// The messages that a call has published so far.
#[derive(Debug, Default)]
pub(super) struct Held {
    outputs: Vec<Output>,
    bytes: u64,
    /// How many outputs and bytes are allowed. The first message beyond is kept, so that the outputs are refused as those
    /// of other handlers are; what follows it is not.
    outputs_max: usize,
    bytes_max: u64,
}

impl Held {
    pub(super) fn new(budget: &Budget) -> Held {
        Held { outputs_max: budget.outputs as usize, bytes_max: budget.output_bytes, ..Held::default() }
    }

    /// Forgets what an earlier call has left.
    pub(super) fn clear(&mut self) {
        self.outputs.clear();
        self.bytes = 0;
    }

    fn publish(&mut self, message: consumer::BrokerMessage) -> Result<(), String> {
        if message.reply_to.is_some() {
            return Err("tidemill publishes to streams, from which no answer comes: `reply-to` must be empty".into());
        }
        if self.is_over() {
            return Err("more is published than allowed (`limits.outputs`, `limits.output_bytes`)".into());
        }
        self.bytes = self.bytes.saturating_add((message.subject.len() + message.body.len()) as u64);
        let consumer::BrokerMessage { subject, body, .. } = message;
        self.outputs.push(Output { subject, kind: None, content_type: None, headers: Vec::new(), payload: body });
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.outputs.len() > self.outputs_max || self.bytes > self.bytes_max
    }

    /// What follows from the end of a call. Too many outputs are refused whatever the component has made of it.
    pub(super) fn end(&mut self, returned: Result<(), String>) -> Result<Vec<Output>, Failure> {
        let is_over = self.is_over();
        let outputs = std::mem::take(&mut self.outputs);
        self.clear();
        match returned {
            Err(text) if !is_over => Err(failure(&text)),
            _ => Ok(outputs),
        }
    }
}

fn failure(text: &str) -> Failure {
    let error = |message: &str| Error { code: None, message: message.to_owned(), detail: None };
    match text.strip_prefix(REJECT) {
        Some(why) => Failure::Reject(error(why.trim_start())),
        None => Failure::Retry((error(text), None)),
    }
}

/// An event as such a component gets it.
pub(super) fn message(event: &Event) -> BrokerMessage<'_> {
    BrokerMessage { subject: &event.subject, body: &event.payload, reply_to: None }
}

impl types::Host for State {}

impl consumer::Host for State {
    fn request(&mut self, _: String, _: Vec<u8>, _: u32) -> Result<consumer::BrokerMessage, String> {
        Err("tidemill answers no requests: a handler gets one event and publishes what follows from it".into())
    }

    fn publish(&mut self, message: consumer::BrokerMessage) -> Result<(), String> {
        self.held.publish(message)
    }
}
