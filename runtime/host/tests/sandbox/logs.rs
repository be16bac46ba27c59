//! What guests write becomes log lines of the host: bounded, escaped, and marked with the event.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use tidemill::invoker::Invoker;
use tracing::field::{Field, Visit};
use tracing::subscriber::NoSubscriber;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::setup::{event, handler, run, stack, trapped, unruly};
use crate::wat;

/// One log line: its level, and its fields by name, with the text as `message`.
type Line = (tracing::Level, BTreeMap<String, String>);

/// Collects what is logged on this thread.
#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Vec<Line>>>);

impl<S: tracing::Subscriber> Layer<S> for Capture {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "tidemill::handler" {
            let mut fields = Fields::default();
            event.record(&mut fields);
            let line = (*event.metadata().level(), fields.0);
            self.0.lock().unwrap().push(line);
        }
    }
}

#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

/// Runs one invocation and returns what it logged.
async fn logged(handler: &impl Invoker, payload: &str) -> Vec<Line> {
    // While there is one subscriber only, the thread that logs something first decides for all whether it is heard,
    // although it may be another test's.
    let _ = tracing::subscriber::set_global_default(NoSubscriber::default());
    let capture = Capture::default();
    let subscriber = tracing_subscriber::registry().with(capture.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    handler.invoke(event(payload).into()).await;
    capture.0.lock().unwrap().clone()
}

#[tokio::test]
async fn lines_are_marked_with_handler_event_and_attempt() {
    let handler = unruly(|_| ());
    for (payload, stream, level) in
        [("flood-log:2", "log", tracing::Level::INFO), ("flood-stderr:2", "stderr", tracing::Level::WARN)]
    {
        let lines = logged(&handler, payload).await;
        assert_eq!(lines.len(), 2, "{lines:?}");
        for (number, (line_level, fields)) in lines.iter().enumerate() {
            assert_eq!(*line_level, level);
            assert_eq!(fields["handler"], "unruly");
            assert_eq!(fields["event_id"], "event-1");
            assert_eq!(fields["attempt"], "1");
            assert_eq!(fields["stream"], stream);
            assert_eq!(fields["message"], format!("{number:0100}"));
        }
    }
}

#[tokio::test]
async fn a_flood_is_cut_off() {
    let handler = unruly(|_| ());
    for payload in ["flood-log:1000", "flood-stderr:1000"] {
        let lines = logged(&handler, payload).await;
        assert_eq!(lines.len(), 257, "{payload}");
        let (_, notice) = &lines[256];
        assert_eq!(notice["dropped"], "744");
        assert_eq!(notice["event_id"], "event-1");
    }
    let again = logged(&handler, "flood-log:1").await;
    assert_eq!(again.len(), 1, "the next event has its own allowance");
}

/// Writes to the log: level, and where the message is and how long.
fn log(level: u32, start: u32, length: u32) -> String {
    format!("(call $log (i32.const {level}) (i32.const 0) (i32.const 0) (i32.const {start}) (i32.const {length}))")
}

const LOG: &str = r#"(import "wasi:logging/logging@0.1.0-draft" "log"
    (func $log (param i32 i32 i32 i32 i32)))"#;

#[tokio::test]
async fn lines_are_escaped_and_long_ones_are_cut() {
    let imports = format!(r#"{LOG} (data (i32.const 600) "two\0alines\1b[31m\e2\80\ae")"#);
    let fill = "(memory.fill (i32.const 2048) (i32.const 0x61) (i32.const 20000))";
    let body = format!("{} {fill} {}", log(2, 600, 17), log(4, 2048, 20_000));
    let handler = handler(&wat::guest(&imports, &body));
    let lines = logged(&handler, "").await;
    let texts: Vec<_> = lines.iter().map(|(_, fields)| &*fields["message"]).collect();
    assert_eq!(texts[..2], ["two", r"lines\u{1b}[31m\u{202e}"]);
    assert_eq!(texts[2].len(), 8 * 1024 + '…'.len_utf8());
    assert_eq!(lines[2].0, tracing::Level::ERROR);
}

#[tokio::test]
async fn preview_1_output_is_taken_line_by_line() {
    let handler = handler(&wat::guest(
        r#"(import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
           (data (i32.const 600) "one\r\ntwo")
           (data (i32.const 620) "\58\02\00\00\08\00\00\00")"#,
        "(drop (call $write (i32.const 1) (i32.const 620) (i32.const 1) (i32.const 640)))
         (drop (call $write (i32.const 1) (i32.const 620) (i32.const 1) (i32.const 640)))",
    ));
    let lines = logged(&handler, "").await;
    let texts: Vec<_> = lines.iter().map(|(_, fields)| &*fields["message"]).collect();
    assert_eq!(texts, ["one", "twoone", "two"]);
    assert!(lines.iter().all(|(_, fields)| fields["stream"] == "stdout"));
}

#[tokio::test]
async fn the_last_lines_are_kept_with_a_trap() {
    let report = run(&unruly(|_| ()), "panic").await;
    let interruption = trapped(&report);
    let message = &interruption.message;
    assert!(message.contains("asked to panic"), "{message}");
    assert!(message.contains("wasm trap: "), "{message}");
    let (_, tail) =
        stack(interruption).split_once("last lines of its log and standard error:\n").expect("there is a tail");
    assert!(tail.contains("  asked to panic"), "{tail}");
}

#[tokio::test]
async fn the_tail_is_kept_also_after_a_flood() {
    let flood: String = (0..300).map(|_| log(3, 600, 5)).collect();
    let last = log(5, 610, 4);
    let handler = handler(&wat::guest(
        &format!(r#"{LOG} (data (i32.const 600) "noise") (data (i32.const 610) "last")"#),
        &format!("{flood} {last} unreachable"),
    ));
    let report = handler.invoke(event("").into()).await;
    let interruption = trapped(&report);
    assert!(interruption.message.starts_with("last ("), "{interruption:?}");
    let tail: Vec<_> = stack(interruption).lines().rev().take(20).collect();
    assert_eq!(tail[0], "  last");
    assert!(tail[1..].iter().all(|line| *line == "  noise"), "{tail:?}");
}

#[tokio::test]
async fn secrets_are_kept_out_of_log_lines() {
    let lines = logged(&crate::http::indiscreet(), "secret api_key").await;
    let messages: Vec<_> = lines.iter().map(|(_, fields)| fields["message"].as_str()).collect();
    assert_eq!(messages, ["the key is [secret api_key]"]);
}
