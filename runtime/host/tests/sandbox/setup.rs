//! Engine, handlers and events as the tests need them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use tidemill::invoker::wasm::{Engine, EngineOptions, WasmHandler};
use tidemill::invoker::{Invoker, Report};
use tidemill_policy::attempt::Attempt;
use tidemill_policy::budget::Budget;
use tidemill_policy::event::Event;
use tidemill_policy::id::{IdKind, Token};
use tidemill_policy::manifest::{
    AckMode, Allow, Backoff, DeadLetterPolicy, Format, Handler, HttpPolicy, Isolation, KeyValuePolicy, Limits, Mode,
    Outputs, Reload, RetryPolicy, SchemaPolicy,
};
use tidemill_policy::outcome::{Interruption, Outcome};

pub(crate) const MIB: u64 = 1024 * 1024;

/// More fuel than any test burns before its deadline, and the other way round.
pub(crate) const ENDLESS: u64 = 1 << 50;
pub(crate) const EVER: Duration = Duration::from_mins(10);

/// One engine for all tests of the binary, as in a process.
pub(crate) static ENGINE: LazyLock<Engine> = LazyLock::new(|| engine(256, None));

pub(crate) fn engine(invocations: u32, cache_dir: Option<PathBuf>) -> Engine {
    let options = EngineOptions { invocations, cache_dir, ..EngineOptions::default() };
    Engine::new(&options).expect("the machine has room for the engine")
}

/// The folder of the guests.
pub(crate) fn guests() -> PathBuf {
    std::env::var_os("TIDEMILL_GUESTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests"), PathBuf::from)
}

pub(crate) fn guest(name: &str) -> PathBuf {
    let file = guests().join(name).with_extension("wasm");
    assert!(file.is_file(), "{} is missing: run cargo xtask guests", file.display());
    file
}

pub(crate) fn guest_bytes(name: &str) -> Vec<u8> {
    std::fs::read(guest(name)).expect("the guest can be read")
}

/// A handler's manifest entry, generous in everything.
pub(crate) fn entry() -> Handler {
    Handler {
        name: "unruly".into(),
        prefix: "tidemill".into(),
        component: "unruly.wasm".into(),
        subjects: vec!["in.>".into()],
        stream: None,
        create_stream: false,
        durable: "tidemill-unruly".into(),
        mode: Mode::Queue,
        format: Format::Auto,
        concurrency: 4,
        ack: AckMode::Plain,
        ack_wait: EVER,
        max_age: None,
        schema: SchemaPolicy::default(),
        dedup: None,
        order: None,
        config: BTreeMap::new(),
        secrets: BTreeMap::new(),
        isolation: Isolation::Handler,
        outputs: Outputs::Each,
        limits: Limits {
            budget: Budget { timeout: EVER, fuel: ENDLESS, memory_bytes: 16 * MIB, outputs: 64, output_bytes: MIB },
            payload_bytes: MIB,
            reuse: 1000,
        },
        retry: RetryPolicy {
            max_attempts: 5,
            backoff: Backoff::Constant,
            initial: Duration::ZERO,
            max: Duration::ZERO,
            multiplier: 1.0,
            jitter: 0.0,
            in_memory: Duration::ZERO,
            on: Vec::new(),
        },
        circuit_breaker: None,
        outage_brake: true,
        rate_limit: None,
        dead_letter: DeadLetterPolicy { subject: "tidemill.deadletter.unruly".into(), max_age: EVER, on: Vec::new() },
        allow: Allow::default(),
        http: HttpPolicy {
            connect_timeout: Duration::from_secs(5),
            request_timeout: EVER,
            response_bytes: MIB,
            in_flight: 16,
            rate_limit: None,
            circuit_breaker: None,
        },
        keyvalue: KeyValuePolicy { value_bytes: MIB, operations: 1000 },
        reload: Reload { guard: None, max_failure_ratio: 1.0, min_events: 1, canary: 1.0, rerun: false },
    }
}

/// The unruly guest with an entry that was changed.
pub(crate) fn unruly(change: impl FnOnce(&mut Handler)) -> WasmHandler {
    unruly_with(change, &[])
}

pub(crate) fn unruly_with(change: impl FnOnce(&mut Handler), settings: &[(&str, &str)]) -> WasmHandler {
    let mut entry = entry();
    change(&mut entry);
    let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    WasmHandler::load(&ENGINE, &guest("unruly"), &entry, settings).expect("the guest can be loaded")
}

/// A handler from bytes, with the usual entry.
pub(crate) fn handler(file: &[u8]) -> WasmHandler {
    WasmHandler::from_bytes(&ENGINE, file, &entry(), BTreeMap::new()).expect("it can be loaded")
}

pub(crate) fn event(payload: &str) -> Event {
    Event {
        id: "event-1".into(),
        id_kind: IdKind::Given,
        token: Token::read(&"a".repeat(26)).expect("a token"),
        subject: "in.command".into(),
        kind: Some("com.example.command".into()),
        source: Some("/tests".into()),
        time_ms: Some(1_700_000_000_123),
        data_schema: None,
        attributes: std::collections::BTreeMap::new(),
        time_ns: None,
        content_type: Some("text/plain".into()),
        correlation_id: "correlation-1".into(),
        causation_id: None,
        attempt: Attempt::FIRST,
        max_attempts: 5,
        headers: vec![("Tenant".into(), "acme".into())],
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

pub(crate) async fn run(handler: &WasmHandler, payload: &str) -> Report {
    handler.invoke(event(payload).into()).await
}

/// The only output's payload as text.
pub(crate) fn output(report: &Report) -> String {
    let Outcome::Completed(outputs) = &report.outcome else {
        panic!("not completed: {:?}", report.outcome);
    };
    assert_eq!(outputs.len(), 1, "{outputs:?}");
    String::from_utf8_lossy(&outputs[0].payload).into_owned()
}

pub(crate) fn trapped(report: &Report) -> &Interruption {
    match &report.outcome {
        Outcome::Trapped(interruption) => interruption,
        other => panic!("not trapped: {other:?}"),
    }
}

pub(crate) fn stack(interruption: &Interruption) -> &str {
    interruption.stack_trace.as_deref().unwrap_or_default()
}
