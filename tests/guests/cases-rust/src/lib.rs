//! The cases that every language's kit must handle alike (`tests/integration/languages.rs`): the event says what to do.

use std::hint::black_box;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tidemill_sdk::{Event, Failure, Output, Result, config, handler, log};

/// What the payload asks for.
#[derive(Deserialize)]
struct Case {
    #[serde(rename = "do")]
    verb: String,
    #[serde(default)]
    count: u32,
    #[serde(default)]
    text: String,
    #[serde(default)]
    key: String,
}

/// Does what the event asks for.
///
/// # Errors
///
/// Whatever failure the event asks for, and a rejection where it asks for nothing that is known.
pub fn handle(event: Event) -> Result {
    if event.payload.is_empty() {
        return Ok(vec![case(&json!({ "empty": true }))?]);
    }
    let Case { verb, count, text, key } = event.json()?;
    match verb.as_str() {
        "echo" => Ok(vec![echo(event)]),
        "many" => (0..count).map(|index| case(&json!({ "index": index }))).collect(),
        "retry" => Err(Failure::retry_after("busy", Duration::from_millis(250)).code(503)),
        "reject" => Err(Failure::reject("no good").code(422).detail("because")),
        "describe" => Ok(vec![describe(&event)?]),
        "text" => Ok(vec![case(&json!({ "length": text.chars().count(), "text": text }))?]),
        "config" => Ok(vec![case(&json!({ "value": config::get(&key)? }))?]),
        "log" => {
            log::info!("{text}");
            println!("printed {text}");
            Ok(Vec::new())
        }
        "panic" => inner_of_the_case(),
        "loop" => loop {
            black_box(());
        },
        "hog" => hog(),
        verb => Err(Failure::reject(format!("unknown: {verb}"))),
    }
}

handler!(handle);

fn case(value: &serde_json::Value) -> Result<Output> {
    Output::json("out.case", value)
}

fn echo(event: Event) -> Output {
    let output = Output::new("out.case", event.payload).content_type("application/json");
    output.kind("case.echoed").header("x-case", "echo")
}

fn describe(event: &Event) -> Result<Output> {
    case(&json!({
        "id": event.id,
        "subject": event.subject,
        "attempt": event.attempt,
        "correlation": event.correlation_id,
        "headers": event.headers,
        "size": event.payload.len(),
    }))
}

/// Is on the stack of the panic, so that a backtrace has a name to show.
#[inline(never)]
fn inner_of_the_case() -> ! {
    panic!("asked to panic")
}

fn hog() -> ! {
    let mut taken = Vec::new();
    loop {
        taken.push(black_box(vec![1_u8; 1024 * 1024]));
    }
}

#[cfg(test)]
mod tests {
    use tidemill_sdk::{Failure, testing};

    use super::handle;

    #[test]
    fn what_is_not_known_is_rejected() {
        let result = handle(testing::event("in.case", r#"{"do": "dance"}"#));
        assert_eq!(result, Err(Failure::reject("unknown: dance")));
    }
}
