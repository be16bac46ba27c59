//! A guest that does what its payload says, most of it bad, so that tests can see what the host makes of it.
//!
//! The payload is a command word, some with an argument after a colon:
//!
//! | command | what it does |
//! |---|---|
//! | `loop` | never ends |
//! | `sleep:<ms>` | waits in a host call |
//! | `alloc` | takes memory until it gets no more |
//! | `grow:<bytes>` | takes that much memory, keeps it for later calls, succeeds |
//! | `recurse` | overflows the stack |
//! | `panic` | panics |
//! | `trap` | traps below the functions `outer_of_the_trap` and `bottom_of_the_trap` |
//! | `abort` | aborts |
//! | `outputs:<n>` | returns n small outputs on `out.many` |
//! | `huge-output:<bytes>` | returns one output of that size on `out.huge` |
//! | `output-to:<subject>` | returns one output there |
//! | `headers` | returns one output on `out.headers` with headers it must not set |
//! | `flood-log:<n>`, `flood-stderr:<n>` | writes n lines of 100 bytes |
//! | `retry`, `retry:<ms>`, `reject` | fails in that way |
//! | `fail-until:<n>` | asks for a retry in all attempts before the nth |
//! | `echo` | copies payload and headers to `out.echo` |
//! | `event` | describes the event as JSON on `out.event` |
//! | `config:<key>` | returns the setting on `out.config`, or an empty payload if there is none |
//! | `clock` | returns time and random bytes as JSON on `out.clock` |
//! | `count` | returns on `out.count` how many calls this instance has had |
//!
//! Anything else is rejected.

mod exhaust;
mod observe;
mod stderr;

use std::time::Duration;

use tidemill_sdk::{Event, Failure, Output, Result, handler};

/// Does what the payload says.
///
/// # Errors
///
/// Those that the payload asks for, and a rejection of an unknown command.
pub fn handle(event: Event) -> Result {
    let calls = observe::count_call();
    let text = event.text()?.to_owned();
    let (command, argument) = text.split_once(':').unwrap_or((&text, ""));
    if let Some(result) = misbehave(command, argument) {
        return result;
    }
    match (command, argument) {
        ("retry", "") => Err(Failure::retry("asked for").code(503).detail("nothing is wrong")),
        ("retry", delay) => Err(Failure::retry_after("asked for", Duration::from_millis(delay.parse()?))),
        ("reject", _) => Err(Failure::reject("asked for").code(422).detail("nothing is wrong")),
        ("fail-until", attempt) if event.attempt < attempt.parse()? => {
            Err(Failure::retry(format!("attempt {} is before {attempt}", event.attempt)))
        }
        ("fail-until", _) => Ok(vec![Output::new("out.fail-until", event.attempt.to_string())]),
        ("echo", _) => Ok(vec![observe::echo(event)]),
        ("event", _) => Ok(vec![observe::event(&event)?]),
        ("config", key) => Ok(vec![observe::config(key)?]),
        ("clock", _) => Ok(vec![observe::clock()?]),
        ("count", _) => Ok(vec![Output::new("out.count", calls.to_string())]),
        _ => Err(Failure::reject(format!("there is no command {text:?}"))),
    }
}

/// The commands that use up what the host gives, or return what it must refuse.
fn misbehave(command: &str, argument: &str) -> Option<Result> {
    Some(match command {
        "loop" => exhaust::forever(),
        "alloc" => exhaust::without_bound(),
        "recurse" => Ok(vec![Output::new("out.recurse", exhaust::recurse(0).to_string())]),
        "panic" => panic!("asked to panic"),
        "trap" => exhaust::outer_of_the_trap(),
        "abort" => std::process::abort(),
        "sleep" => number(argument).map(exhaust::sleep),
        "grow" => number(argument).map(exhaust::grow),
        "outputs" => number(argument).map(exhaust::outputs),
        "huge-output" => number(argument).map(exhaust::huge_output),
        "flood-log" => number(argument).map(exhaust::flood_log),
        "flood-stderr" => number(argument).map(stderr::flood),
        "output-to" => Ok(vec![Output::new(argument, "hello")]),
        "headers" => Ok(vec![exhaust::forbidden_headers()]),
        _ => return None,
    })
}

fn number(argument: &str) -> Result<usize> {
    argument.parse().map_err(|_| Failure::reject(format!("{argument:?} is no number")))
}

handler!(handle);

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tidemill_sdk::{Event, Failure, testing};

    use super::handle;

    fn command(payload: &str) -> Event {
        testing::event("in.command", payload)
    }

    #[test]
    fn outputs_are_as_many_and_as_large_as_asked_for() {
        assert_eq!(handle(command("outputs:3")).expect("it succeeds").len(), 3);
        let huge = handle(command("huge-output:1000")).expect("it succeeds");
        assert_eq!(huge[0].payload.len(), 1000);
    }

    #[test]
    fn failures_are_as_asked_for() {
        assert!(matches!(handle(command("retry")), Err(Failure::Retry { after: None, .. })));
        assert!(matches!(handle(command("retry:20")), Err(Failure::Retry { after: Some(_), .. })));
        for payload in ["reject", "dance", "outputs:many", ""] {
            assert!(matches!(handle(command(payload)), Err(Failure::Reject(_))), "{payload}");
        }
    }

    #[test]
    fn it_fails_until_the_attempt_asked_for() {
        let mut event = command("fail-until:2");
        assert!(handle(event.clone()).is_err());
        event.attempt = 2;
        assert!(handle(event).is_ok());
    }

    #[test]
    fn echo_copies_payload_and_headers() {
        let mut event = command("echo");
        event.headers.push(("Tenant".into(), "acme".into()));
        let outputs = handle(event.clone()).expect("it succeeds");
        assert_eq!((&outputs[0].payload, &outputs[0].headers), (&event.payload, &event.headers));
    }

    #[test]
    fn the_event_is_described() {
        let outputs = handle(command("event")).expect("it succeeds");
        let seen: Value = serde_json::from_slice(&outputs[0].payload).expect("it is JSON");
        assert_eq!(seen["subject"], "in.command");
        assert_eq!(seen["attempt"], 1);
        assert_eq!(seen["payload"], "event");
    }

    #[test]
    fn calls_are_counted() {
        let count = || -> u64 {
            let outputs = handle(command("count")).expect("it succeeds");
            String::from_utf8_lossy(&outputs[0].payload).parse().expect("it is a number")
        };
        assert!(count() < count());
    }
}
