//! Components that were written for wasmCloud's messaging.

use tidemill::invoker::wasm::{WasmHandler, inspect};
use tidemill_policy::event::Output;
use tidemill_policy::outcome::{HandlerError, Outcome};

use crate::setup::{guest_bytes, handler, run};

fn component() -> WasmHandler {
    handler(&guest_bytes("wasmcloud"))
}

fn relayed(payload: &'static str) -> Output {
    Output { subject: "out.relayed".into(), kind: None, content_type: None, headers: vec![], payload: payload.into() }
}

async fn outcome(handler: &WasmHandler, body: &str) -> Outcome {
    run(handler, body).await.outcome
}

#[tokio::test]
async fn what_it_publishes_are_its_outputs() {
    let handler = component();
    assert_eq!(outcome(&handler, "echo hello").await, Outcome::Completed(vec![relayed("hello")]));
    assert_eq!(outcome(&handler, "echo-subject").await, Outcome::Completed(vec![relayed("in.command")]));
    let many = ["0", "1", "2"].map(relayed).to_vec();
    assert_eq!(outcome(&handler, "many 3").await, Outcome::Completed(many));
    assert_eq!(outcome(&handler, "many 0").await, Outcome::Completed(vec![]), "nothing is left of the event before");
}

#[tokio::test]
async fn an_error_is_a_retry_unless_it_says_that_it_rejects() {
    let handler = component();
    let error = |message: &str| HandlerError { code: None, message: message.into(), detail: None };
    let failed = Outcome::Retry { error: error("not now"), delay: None };
    assert_eq!(outcome(&handler, "echo-then-fail hello").await, failed, "what it published is dropped");
    assert_eq!(outcome(&handler, "reject no good").await, Outcome::Rejected(error("no good")));
    assert_eq!(outcome(&handler, "echo hello").await, Outcome::Completed(vec![relayed("hello")]));
}

#[tokio::test]
async fn what_needs_an_answer_is_refused_with_the_reason() {
    let handler = component();
    for (body, why) in [("request", "tidemill answers no requests"), ("answer hello", "`reply-to` must be empty")] {
        let Outcome::Retry { error, .. } = outcome(&handler, body).await else { panic!("{body} has not failed") };
        assert!(error.message.contains(why), "{error:?}");
    }
}

#[tokio::test]
async fn its_outputs_are_bounded_as_those_of_others_are() {
    let handler = component();
    let Outcome::Completed(outputs) = outcome(&handler, "many 64").await else { panic!("64 are allowed") };
    assert_eq!(outputs.len(), 64);
    // At the first that is refused the component gives up, with an error that is not to be tried again.
    for body in ["many 65", "many 1000000"] {
        let Outcome::OutputRefused { message } = outcome(&handler, body).await else { panic!("{body} is refused") };
        assert!(message.contains("`limits.outputs`"), "{message}");
    }
}

#[test]
fn it_is_known_for_what_it_is() {
    let inspection = inspect(&guest_bytes("wasmcloud")).expect("it can be inspected");
    assert_eq!(inspection.handler.as_deref(), Some("wasmcloud:messaging/handler@0.2.0"));
    assert!(inspection.imports.iter().all(|import| import.offered), "{:?}", inspection.imports);
}
