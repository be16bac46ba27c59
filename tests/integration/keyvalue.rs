//! Handlers with buckets: real components, a real server.

use std::collections::BTreeMap;

use async_nats::jetstream::kv;
use tidemill::invoker::Invoker;
use tidemill::invoker::wasm::{Engine, EngineOptions, WasmHandler};
use tidemill_policy::attempt::Attempt;
use tidemill_policy::event::Event;
use tidemill_policy::id::{IdKind, Token};
use tidemill_policy::outcome::Outcome;

use crate::cli::guests;
use crate::support::{World, completed, parse};

/// The guest that does what its payload says, with these keys in its table.
struct Caller {
    handler: WasmHandler,
    engine: Engine,
}

impl Caller {
    fn new(keys: &str) -> Caller {
        let text = format!("[handler.caller]\nsubject = 'in.>'\nlimits.timeout = '1m'\n{keys}");
        let manifest = parse(&text);
        let engine = Engine::new(&EngineOptions { invocations: 16, ..EngineOptions::default() }).expect("an engine");
        let file = guests().join("caller.wasm");
        let handler = WasmHandler::load(&engine, &file, &manifest.handlers["caller"], BTreeMap::new());
        Caller { handler: handler.expect("the guest can be loaded"), engine }
    }

    /// What comes of a command: the payload of its output, nothing, or what went wrong with all of its history.
    async fn does(&self, command: &str) -> Result<String, String> {
        let event = Event {
            id: "event-1".into(),
            id_kind: IdKind::Given,
            token: Token::read(&"a".repeat(26)).expect("a token"),
            subject: "in.command".into(),
            kind: None,
            source: None,
            time_ms: None,
            data_schema: None,
            attributes: std::collections::BTreeMap::new(),
            time_ns: None,
            content_type: None,
            correlation_id: "event-1".into(),
            causation_id: None,
            attempt: Attempt::FIRST,
            max_attempts: 5,
            headers: Vec::new(),
            payload: command.to_owned().into(),
        };
        match self.handler.invoke(event.into()).await.outcome {
            Outcome::Completed(outputs) => Ok(outputs
                .first()
                .map(|output| String::from_utf8_lossy(&output.payload).into_owned())
                .unwrap_or_default()),
            Outcome::Retry { error, .. } => {
                Err(format!("retry {} {}", error.message, error.detail.unwrap_or_default()))
            }
            Outcome::Rejected(error) => Err(format!("reject {} {}", error.message, error.detail.unwrap_or_default())),
            other => Err(format!("{other:?}")),
        }
    }

    #[track_caller]
    fn refused(result: Result<String, String>, kind: &str, expected: &str) {
        let said = result.expect_err("refused");
        assert!(said.starts_with(kind) && said.contains(expected), "{said}");
    }
}

const GRANTS: &str = "allow = { http = ['http://localhost'], keyvalue = ['all', 'some/mine.', 'read some/theirs.'] }\n";

async fn world() -> World {
    let world = World::in_and_out().await;
    for bucket in ["all", "some", "other"] {
        let config = kv::Config { bucket: bucket.into(), history: 1, ..kv::Config::default() };
        let store = world.context.create_key_value(config).await.expect("a bucket");
        store.put("theirs.a", "theirs".into()).await.expect("put");
    }
    world
}

#[tokio::test]
async fn granted_keys_are_read_and_written() {
    let world = world().await;
    let caller = Caller::new(GRANTS);
    Caller::refused(caller.does("read all a").await, "retry", "there is no connection to NATS here");
    caller.engine.buckets().connect(&world.context);
    let all = world.context.get_key_value("all").await.expect("a bucket");
    assert_eq!(caller.does("read all a").await.as_deref(), Ok(""));
    assert_eq!(caller.does("write all a some words").await.as_deref(), Ok(""));
    assert_eq!(caller.does("read all a").await.as_deref(), Ok("some words"));
    assert_eq!(all.get("a").await.expect("read").as_deref(), Some(&b"some words"[..]));
    assert_eq!(caller.does("keys all").await.as_deref(), Ok("a theirs.a"));
    assert_eq!(caller.does("delete all a").await.as_deref(), Ok(""));
    assert_eq!(caller.does("read all a").await.as_deref(), Ok(""));
    assert_eq!(caller.does("keys all").await.as_deref(), Ok("theirs.a"));
    // After a removal, a number begins anew.
    assert_eq!(caller.does("add all a 5").await.as_deref(), Ok("5"));
    assert_eq!(caller.does("add all a -7").await.as_deref(), Ok("-2"));
    Caller::refused(caller.does("add all theirs.a 1").await, "retry", "holds no whole number");
    assert_eq!(caller.does("add some mine.n 1").await.as_deref(), Ok("1"));
    assert_eq!(caller.does("read some theirs.a").await.as_deref(), Ok("theirs"));
    assert_eq!(caller.does("keys some").await.as_deref(), Ok("mine.n theirs.a"));
}

#[tokio::test]
async fn a_counter_loses_nothing_to_others() {
    let world = world().await;
    let caller = Caller::new(&format!("{GRANTS}concurrency = 4\n"));
    caller.engine.buckets().connect(&world.context);
    let counted = futures::future::join_all((0..8).map(|_| caller.does("add all n 1"))).await;
    assert!(counted.iter().all(Result::is_ok), "{counted:?}");
    assert_eq!(caller.does("read all n").await.as_deref(), Ok("8"));
}

#[tokio::test]
async fn what_is_not_granted_is_refused_and_the_history_says_so() {
    let world = world().await;
    let caller = Caller::new(GRANTS);
    caller.engine.buckets().connect(&world.context);
    let granted = "allow.keyvalue grants \"some/mine.\", \"read some/theirs.\" of that bucket";
    for (command, expected) in [
        ("read other theirs.a", "bucket \"other\" is not granted; add it to allow.keyvalue of the handler".to_owned()),
        ("keys other", "bucket \"other\" is not granted".to_owned()),
        ("keys tidemill_done", "bucket \"tidemill_done\" is not granted".to_owned()),
        ("read some elsewhere", format!("reading key \"elsewhere\" of bucket \"some\" is not granted; {granted}")),
        ("write some theirs.a x", format!("writing key \"theirs.a\" of bucket \"some\" is not granted; {granted}")),
        ("delete some theirs.a", format!("writing key \"theirs.a\" of bucket \"some\" is not granted; {granted}")),
        ("add some theirs.n 1", format!("writing key \"theirs.n\" of bucket \"some\" is not granted; {granted}")),
    ] {
        Caller::refused(caller.does(command).await, "reject", &expected);
    }
    for key in ["mine..a", "mine.*", "mine.>", ".a", "mine.\u{e9}"] {
        Caller::refused(caller.does(&format!("write some {key} x")).await, "retry", "cannot be a key");
    }
    let some = world.context.get_key_value("some").await.expect("a bucket");
    assert_eq!(some.get("theirs.a").await.expect("read").as_deref(), Some(&b"theirs"[..]));
}

#[tokio::test]
async fn buckets_are_used_within_limits() {
    let world = world().await;
    let caller = Caller::new(&format!("{GRANTS}keyvalue = {{ value = '4B', operations = 2 }}\n"));
    caller.engine.buckets().connect(&world.context);
    assert_eq!(caller.does("write all a 1234").await.as_deref(), Ok(""));
    let refused = "a value of 5 bytes, more than 4B (`keyvalue.value`)";
    Caller::refused(caller.does("write all a 12345").await, "retry", refused);
    Caller::refused(caller.does("read all theirs.a").await, "retry", "a value of 6 bytes, more than 4B");
    assert_eq!(caller.does("read all a").await.as_deref(), Ok("1234"), "each invocation counts for itself");
    let caller = Caller::new(&format!("{GRANTS}keyvalue.operations = 1\n"));
    caller.engine.buckets().connect(&world.context);
    Caller::refused(
        caller.does("read all a").await,
        "retry",
        "more than 1 operations on buckets (`keyvalue.operations`)",
    );
}

#[tokio::test]
async fn a_bucket_that_is_missing_is_found_before_anything_is_consumed() {
    let world = world().await;
    let manifest = "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\nallow.keyvalue = ['gone', 'all']\n";
    let error = world.run(manifest, |_| completed(&[])).end().await.expect_err("refused").to_string();
    let expected = "handler.h: there is no bucket \"gone\", which allow.keyvalue grants; create it: nats kv add gone";
    assert!(error.contains(expected) && !error.contains("\"all\""), "{error}");
    let caller = Caller::new("allow = { http = ['http://localhost'], keyvalue = ['gone'] }\n");
    caller.engine.buckets().connect(&world.context);
    Caller::refused(
        caller.does("read gone a").await,
        "retry",
        "there is no bucket \"gone\"; create it: nats kv add gone",
    );
}
