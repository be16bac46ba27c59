//! Tells a server outside that an attempt begins, before it does anything else, and does what the server answers. So
//! whoever runs that server knows which attempts were made, whatever tidemill says, and can kill the process while an
//! attempt waits for its answer.
//!
//! | setting | what it is |
//! |---|---|
//! | `driver` | the server's URL |
//! | `place` | which handler of which deployment this is, as `<deployment>/<handler>` |
//! | `instance` | which process this is |
//! | `output` | where the output goes |
//!
//! The request is `GET <driver>/<place>/<instance>/<event>/<attempt>`. The answer is `done`, `retry` or `reject`.

use serde::{Deserialize, Serialize};
use tidemill_sdk::{Event, Failure, Output, Result, config, handler, http};

/// The payload of an event. There may be more in it, such as a key.
#[derive(Deserialize)]
struct Task {
    /// The event's name.
    event: String,
}

/// The payload of an output.
#[derive(Serialize)]
struct Done<'a> {
    place: &'a str,
    event: &'a str,
    attempt: u32,
}

/// Asks what to do, and does it.
///
/// # Errors
///
/// Those that the answer asks for, and a retry where there is none.
#[allow(clippy::needless_pass_by_value, reason = "this is how handlers are called")]
pub fn handle(event: Event) -> Result {
    let task: Task = event.json()?;
    let place = config::require("place")?;
    let (driver, instance) = (config::require("driver")?, config::require("instance")?);
    let answer = http::get(&format!("{driver}/{place}/{instance}/{}/{}", task.event, event.attempt))?.success()?;
    match answer.body.as_slice() {
        b"done" => {
            let done = Done { place: &place, event: &task.event, attempt: event.attempt };
            Ok(vec![Output::json(config::require("output")?, &done)?])
        }
        b"retry" => Err(Failure::retry("asked for")),
        _ => Err(Failure::reject("asked for")),
    }
}

handler!(handle);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidemill_sdk::{Event, Failure, http, testing};

    use super::handle;

    /// The second attempt at an event, where the server answers this.
    fn event(answer: &'static str) -> Event {
        let driver = "http://127.0.0.1:1";
        testing::set_config([("driver", driver), ("place", "a/plain"), ("instance", "0.3"), ("output", "out.plain")]);
        testing::serve(move |request| {
            assert_eq!(request.url, format!("{driver}/a/plain/0.3/e-7/2"));
            Ok(http::Response { status: 200, body: answer.into(), ..http::Response::default() })
        });
        let mut event = testing::event("in.plain", json!({"event": "e-7", "key": "k"}).to_string());
        event.attempt = 2;
        event
    }

    #[test]
    fn it_tells_of_the_attempt_and_does_as_it_is_answered() {
        let outputs = handle(event("done")).expect("it succeeds");
        assert_eq!(outputs[0].subject, "out.plain");
        let said: Value = serde_json::from_slice(&outputs[0].payload).expect("it is JSON");
        assert_eq!(said, json!({"place": "a/plain", "event": "e-7", "attempt": 2}));
        assert!(matches!(handle(event("retry")), Err(Failure::Retry { .. })));
        assert!(matches!(handle(event("reject")), Err(Failure::Reject(_))));
    }

    #[test]
    fn it_is_attempted_again_where_there_is_no_answer() {
        let event = event("done");
        testing::serve(|_| Err(http::Error::transient("nobody is there")));
        assert!(matches!(handle(event), Err(Failure::Retry { .. })));
    }
}
