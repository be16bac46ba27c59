//! Does what its payload says. Each output names the event it is of and its place among that event's outputs,
//! so that whoever reads the streams can tell what is missing and what is there twice without trusting any id
//! that the host gives.

use std::hint::black_box;

use serde::{Deserialize, Serialize};
use tidemill_sdk::{Event, Failure, Output, Result, handler};

/// The payload of an event.
#[derive(Deserialize)]
struct Task {
    /// The event's name.
    event: String,
    /// Which of the messages that stand for this one event it is.
    copy: u32,
    /// How many outputs to return in the end.
    outputs: u32,
    /// In how many attempts to ask for a retry first.
    failures: u32,
    /// What to do after that.
    end: End,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum End {
    Done,
    Reject,
    Retry,
    Trap,
    Loop,
}

/// The payload of an output.
#[derive(Serialize)]
struct Done<'a> {
    event: &'a str,
    copy: u32,
    index: u32,
    attempt: u32,
}

/// Does what the payload says. The outputs of an event on `in.x` go to `out.x`.
///
/// # Errors
///
/// Those that the payload asks for.
#[allow(clippy::needless_pass_by_value, reason = "this is how handlers are called")]
pub fn handle(event: Event) -> Result {
    let task: Task = event.json()?;
    if event.attempt <= task.failures {
        return Err(Failure::retry(format!("attempt {} of {} that fail", event.attempt, task.failures)));
    }
    match task.end {
        End::Done => {}
        End::Reject => return Err(Failure::reject("asked for")),
        End::Retry => return Err(Failure::retry("asked for")),
        End::Trap => panic!("asked for"),
        End::Loop => loop {
            black_box(());
        },
    }
    let subject = event.subject.replacen("in.", "out.", 1);
    let done = |index| Done { event: &task.event, copy: task.copy, index, attempt: event.attempt };
    (0..task.outputs).map(|index| Output::json(subject.as_str(), &done(index))).collect()
}

handler!(handle);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidemill_sdk::{Event, Failure, testing};

    use super::handle;

    fn event(end: &str, failures: u32) -> Event {
        let task = json!({"event": "plain-7", "copy": 1, "outputs": 2, "failures": failures, "end": end});
        testing::event("in.plain", task.to_string())
    }

    #[test]
    fn every_output_names_its_event_and_its_place() {
        let outputs = handle(event("done", 0)).expect("it succeeds");
        let read = |index: usize| serde_json::from_slice::<Value>(&outputs[index].payload).expect("it is JSON");
        assert_eq!(outputs[0].subject, "out.plain");
        assert_eq!(read(0), json!({"event": "plain-7", "copy": 1, "index": 0, "attempt": 1}));
        assert_eq!(read(1), json!({"event": "plain-7", "copy": 1, "index": 1, "attempt": 1}));
    }

    #[test]
    fn it_fails_as_often_as_asked_for() {
        let mut event = event("done", 2);
        for attempt in 1..=2 {
            event.attempt = attempt;
            assert!(matches!(handle(event.clone()), Err(Failure::Retry { .. })), "{attempt}");
        }
        event.attempt = 3;
        assert!(handle(event).is_ok());
    }

    #[test]
    fn it_ends_as_asked_for() {
        assert!(matches!(handle(event("reject", 0)), Err(Failure::Reject(_))));
        assert!(matches!(handle(event("retry", 0)), Err(Failure::Retry { .. })));
        assert!(matches!(handle(event("dance", 0)), Err(Failure::Reject(_))));
    }
}
