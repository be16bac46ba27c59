//! The same cases for the kit of every language: what a handler takes and returns, and what comes of each way to fail.
//!
//! The guests are `tests/guests/cases-<language>`, built by `cargo xtask guests --all`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tidemill::invoker::Invoker;
use tidemill::invoker::wasm::{Engine, EngineOptions, WasmHandler};
use tidemill_policy::attempt::Attempt;
use tidemill_policy::event::{Event, Output};
use tidemill_policy::id::{IdKind, Token};
use tidemill_policy::manifest::{self, Source};
use tidemill_policy::outcome::{HandlerError, Interruption, Outcome};

use crate::cli::{Desk, guests};

/// What differs between the languages.
struct Language {
    name: &'static str,
    /// Whether what it prints reaches the log.
    prints: bool,
    /// Whether an uncaught exception or a panic can be turned into a failed attempt; else it is a trap.
    catches: bool,
}

/// Writes the test of each language.
macro_rules! languages {
    ($($name:ident: prints $prints:literal, catches $catches:literal;)+) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                check(&Language { name: stringify!($name), prints: $prints, catches: $catches }).await;
            }
        )+
    };
}

languages! {
    // The target wasm32-unknown-unknown has no standard output.
    rust: prints false, catches false;
    js: prints true, catches true;
    ts: prints true, catches true;
    python: prints true, catches true;
    go: prints true, catches true;
    c: prints true, catches false;
    cpp: prints true, catches false;
    zig: prints true, catches false;
}

/// One for all languages, with compiled code on disk: the large guests take many seconds to compile.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let cache_dir = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache/tidemill"));
    Engine::new(&EngineOptions { cache_dir, ..EngineOptions::default() }).expect("an engine")
});

async fn check(language: &Language) {
    let patient = load(language, "limits = { timeout = '2m' }");
    outputs(&patient).await;
    failures(&patient).await;
    panics(language, &patient).await;
    limits(language).await;
    logs(language);
}

fn component(language: &Language) -> String {
    let name = format!("cases-{}.wasm", language.name);
    let file = guests().join(&name);
    assert!(file.is_file(), "{} is missing: run cargo xtask guests --all", file.display());
    name
}

fn load(language: &Language, limits: &str) -> WasmHandler {
    let file = guests().join(component(language));
    let text = format!("[handler.cases]\nsubject = 'in.case'\n{limits}\n");
    let source = Source { path: "tidemill.toml", text: &text };
    let manifest = manifest::parse(source, &[], &|_| None).expect("a manifest").manifest;
    let settings = BTreeMap::from([("colour".to_owned(), "green".to_owned())]);
    WasmHandler::load(&ENGINE, &file, &manifest.handlers["cases"], settings).unwrap_or_else(|error| panic!("{error}"))
}

fn event(payload: impl Into<Bytes>) -> Event {
    let headers = [("Tenant", "acme"), ("X-Many", "1"), ("X-Many", "zwei, Grüße")];
    Event {
        id: "event-1".into(),
        id_kind: IdKind::Given,
        token: Token::read(&"a".repeat(26)).expect("a token"),
        subject: "in.case".into(),
        kind: None,
        source: Some("/tests".into()),
        time_ms: Some(1_700_000_000_123),
        data_schema: None,
        attributes: std::collections::BTreeMap::new(),
        time_ns: None,
        content_type: None,
        correlation_id: "correlation-1".into(),
        causation_id: None,
        attempt: Attempt::FIRST,
        max_attempts: 5,
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        payload: payload.into(),
    }
}

async fn outcome(handler: &WasmHandler, payload: impl Into<Bytes>) -> Outcome {
    handler.invoke(event(payload).into()).await.outcome
}

async fn completed(handler: &WasmHandler, payload: impl Into<Bytes>) -> Vec<Output> {
    match outcome(handler, payload).await {
        Outcome::Completed(outputs) => outputs,
        other => panic!("not completed: {other:?}"),
    }
}

/// The payloads of the outputs, all of which are on the usual subject.
async fn answers(handler: &WasmHandler, payload: impl Into<Bytes>) -> Vec<Value> {
    let outputs = completed(handler, payload).await;
    let read = |output: &Output| {
        assert_eq!((&*output.subject, output.content_type.as_deref()), ("out.case", Some("application/json")));
        let text = String::from_utf8_lossy(&output.payload);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    };
    outputs.iter().map(read).collect()
}

/// What goes in and comes out.
async fn outputs(handler: &WasmHandler) {
    assert_eq!(answers(handler, "").await, [json!({ "empty": true })]);
    let index = |index: u32| json!({ "index": index });
    assert_eq!(answers(handler, r#"{"do": "many", "count": 0}"#).await, Vec::<Value>::new());
    assert_eq!(answers(handler, r#"{"do": "many", "count": 20}"#).await, (0..20).map(index).collect::<Vec<_>>());
    for (key, value) in [("colour", json!("green")), ("taste", Value::Null)] {
        let asked = json!({ "do": "config", "key": key }).to_string();
        assert_eq!(answers(handler, asked).await, [json!({ "value": value })]);
    }
    let payload = r#"{"do": "describe"}"#;
    let described = json!({
        "id": "event-1", "subject": "in.case", "attempt": 1, "correlation": "correlation-1", "size": payload.len(),
        "headers": [["Tenant", "acme"], ["X-Many", "1"], ["X-Many", "zwei, Grüße"]],
    });
    assert_eq!(answers(handler, payload).await, [described]);
    texts(handler).await;
    echoes(handler).await;
}

async fn texts(handler: &WasmHandler) {
    for text in ["", "plain", "Grüße, 日本 🌊", "\"quoted\" \\ / \n\t\u{1}\u{7f}", "e\u{301}\u{200d}\u{ffff}\u{10ffff}"]
    {
        let answer = json!({ "text": text, "length": text.chars().count() });
        let asked = json!({ "do": "text", "text": text }).to_string();
        let escaped = asked.replace('ü', "\\u00fc").replace('🌊', "\\ud83c\\udf0a");
        let both = (answers(handler, asked).await, answers(handler, escaped).await);
        assert_eq!(both, (vec![answer.clone()], vec![answer]));
    }
}

/// Payloads come back byte for byte, large ones too, and with what was said of them.
async fn echoes(handler: &WasmHandler) {
    for size in [0, 100_000] {
        let payload = json!({ "do": "echo", "text": "Grüße 日本 🌊 ".repeat(size / 20), "n": 1.0 }).to_string();
        let [output] = &completed(handler, payload.clone()).await[..] else { panic!("not one output") };
        assert_eq!((&*output.subject, output.kind.as_deref()), ("out.case", Some("case.echoed")));
        assert_eq!(output.content_type.as_deref(), Some("application/json"));
        assert_eq!(output.headers, [("x-case".to_owned(), "echo".to_owned())]);
        assert!(output.payload == payload.as_bytes(), "{size} bytes did not come back as they were");
    }
}

/// What a handler says of its failures.
async fn failures(handler: &WasmHandler) {
    let error = |code, message: &str, detail: Option<&str>| HandlerError {
        code,
        message: message.into(),
        detail: detail.map(Into::into),
    };
    let delay = Some(Duration::from_millis(250));
    let busy = Outcome::Retry { error: error(Some(503), "busy", None), delay };
    assert_eq!(outcome(handler, r#"{"do": "retry"}"#).await, busy);
    let no_good = Outcome::Rejected(error(Some(422), "no good", Some("because")));
    assert_eq!(outcome(handler, r#"{"do": "reject"}"#).await, no_good);
    let unknown = Outcome::Rejected(error(None, "unknown: dance", None));
    assert_eq!(outcome(handler, r#"{"do": "dance"}"#).await, unknown);
    for (payload, said) in [
        (&b"{\"do\": \"echo\""[..], "JSON"),
        (b"hello", "JSON"),
        (b"{\"do\": \"\xff\"}", ""),
        (b"{\"do\": 7}", ""),
        (b"[]", ""),
        (b"null", ""),
        (b"{}", ""),
    ] {
        match outcome(handler, payload.to_vec()).await {
            Outcome::Rejected(error) if error.message.contains(said) => {}
            other => panic!("{}: {other:?}", String::from_utf8_lossy(payload)),
        }
    }
}

/// A fault of the program is a failed attempt of which people can read what happened and where; the next event is none
/// the worse for it.
async fn panics(language: &Language, handler: &WasmHandler) {
    let told = match outcome(handler, r#"{"do": "panic"}"#).await {
        Outcome::Retry { error, delay: None } if language.catches => {
            assert!(error.message.contains("asked to panic"), "{error:?}");
            error.detail.unwrap_or_default()
        }
        Outcome::Trapped(Interruption { stack_trace: Some(trace), .. }) if !language.catches => {
            assert!(trace.contains("asked to panic"), "{trace}");
            trace
        }
        other => panic!("{other:?}"),
    };
    let is_named = ["inner_of_the_case", "innerOfTheCase", "InnerOfTheCase"].iter().any(|name| told.contains(name));
    assert!(is_named, "{told}");
    assert_eq!(answers(handler, "").await.len(), 1);
}

/// Endless loops and memory hogs are stopped.
async fn limits(language: &Language) {
    let hasty = load(language, "limits = { timeout = '300ms', fuel = 1_000_000_000_000 }");
    match outcome(&hasty, r#"{"do": "loop"}"#).await {
        Outcome::TimedOut(_) => {}
        other => panic!("{other:?}"),
    }
    let greedy = load(language, "limits = { timeout = '2m', memory = '48MiB', fuel = 1_000_000_000_000 }");
    match outcome(&greedy, r#"{"do": "hog"}"#).await {
        Outcome::OutOfMemory(_) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(answers(&greedy, "").await.len(), 1);
}

/// What is logged and printed is shown, and people see what became of a fault.
fn logs(language: &Language) {
    let component = component(language);
    let desk = Desk::with_guests(&format!(
        "[handler.cases]\nsubject = 'in.case'\ncomponent = '{component}'\nlimits.timeout = '2m'\n"
    ));
    let invoke = |payload: &str| desk.run_with_input(&["invoke", "cases", "--event", "-"], payload.as_bytes());
    let run = invoke(r#"{"do": "log", "text": "Grüße"}"#);
    assert_eq!(run.exit, 0, "{}{}", run.stdout, run.stderr);
    let lines: Vec<_> = run.stderr.lines().filter(|line| line.contains("Grüße")).collect();
    assert!(lines.iter().any(|line| !line.contains("printed")), "{}", run.stderr);
    assert_eq!(lines.iter().any(|line| line.contains("printed Grüße")), language.prints, "{}", run.stderr);
    let run = invoke(r#"{"do": "panic"}"#);
    assert!(run.stdout.contains("asked to panic"), "{}", run.stdout);
}
