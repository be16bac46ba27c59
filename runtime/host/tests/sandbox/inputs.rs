//! What a guest can see: settings, a time that stands still, randomness that can be repeated, and
//! nothing of the host's.

use serde_json::Value;
use tidemill::invoker::{Invoker, Report};

use crate::setup::{event, handler, output, run, unruly, unruly_with};
use crate::wat;

fn json(report: &Report) -> Value {
    serde_json::from_str(&output(report)).unwrap()
}

fn clock_ms(seen: &Value) -> u64 {
    let number = |name: &str| seen[name].as_u64().unwrap();
    number("seconds") * 1000 + number("nanoseconds") / 1_000_000
}

#[tokio::test]
async fn settings_are_found_by_key() {
    let handler = unruly_with(|_| (), &[("from", "hello@example.org"), ("empty", "")]);
    assert_eq!(output(&run(&handler, "config:from").await), "hello@example.org");
    assert_eq!(output(&run(&handler, "config:empty").await), "");
    assert_eq!(output(&run(&handler, "config:missing").await), "");
}

#[tokio::test]
async fn time_and_randomness_are_reported() {
    let handler = unruly(|_| ());
    let before = unix_ms();
    let report = run(&handler, "clock").await;
    let after = unix_ms();
    assert_eq!(clock_ms(&json(&report)), report.clock_ms);
    assert!((before..=after).contains(&report.clock_ms));
    let other = run(&handler, "clock").await;
    assert_ne!(report.seed, other.seed);
    assert_ne!(json(&report)["random"], json(&other)["random"]);
}

#[tokio::test]
async fn a_replay_sees_the_same_time_and_randomness() {
    let handler = unruly(|_| ());
    let original = run(&handler, "clock").await;
    let replay = handler.replay(event("clock"), original.seed, original.clock_ms).await;
    assert_eq!(output(&original), output(&replay));
    assert_eq!((original.seed, original.clock_ms), (replay.seed, replay.clock_ms));

    let reused = run(&handler, "clock").await;
    let replay = handler.replay(event("clock"), reused.seed, reused.clock_ms).await;
    assert_eq!(output(&reused), output(&replay), "also of a reused instance");

    let elsewhere = unruly(|_| ());
    let replay = elsewhere.replay(event("clock"), [7; 32], 1_700_000_000_123).await;
    assert_eq!(clock_ms(&json(&replay)), 1_700_000_000_123);
    assert_eq!(
        json(&replay)["random_hex"],
        "f692897885c0cb20a3e4cd106a0b15bc",
        "recorded seeds mean the same in every version"
    );
}

#[tokio::test]
async fn a_replay_leaves_the_idle_instances_alone() {
    let handler = unruly(|_| ());
    assert_eq!(output(&run(&handler, "count").await), "1");
    let replay = handler.replay(event("count"), [0; 32], 0).await;
    assert_eq!(output(&replay), "1");
    assert_eq!(output(&run(&handler, "count").await), "2");
}

/// Asks for everything that a guest could have from its host, and returns how much there is: variables,
/// arguments, a working directory, folders; and whether a socket was refused, and with which error.
const CURIOUS: &str = r"
    (call $environment (i32.const 256))
    (i32.store8 (i32.const 512) (i32.load (i32.const 260)))
    (call $arguments (i32.const 256))
    (i32.store8 (i32.const 513) (i32.load (i32.const 260)))
    (call $cwd (i32.const 256))
    (i32.store8 (i32.const 514) (i32.load8_u (i32.const 256)))
    (call $directories (i32.const 256))
    (i32.store8 (i32.const 515) (i32.load (i32.const 260)))
    (call $socket (i32.const 0) (i32.const 256))
    (i32.store8 (i32.const 516) (i32.load8_u (i32.const 256)))
    (i32.store8 (i32.const 517) (i32.load8_u (i32.const 260)))
    (i32.store8 (i32.const 511) (i32.const 6))
";

const CURIOUS_IMPORTS: &str = r#"
    (import "wasi:cli/environment@0.2.3" "get-environment" (func $environment (param i32)))
    (import "wasi:cli/environment@0.2.3" "get-arguments" (func $arguments (param i32)))
    (import "wasi:cli/environment@0.2.3" "initial-cwd" (func $cwd (param i32)))
    (import "wasi:filesystem/preopens@0.2.3" "get-directories" (func $directories (param i32)))
    (import "wasi:sockets/tcp-create-socket@0.2.3" "create-tcp-socket" (func $socket (param i32 i32)))
"#;

#[tokio::test]
async fn there_is_nothing_of_the_hosts_to_be_had() {
    let handler = handler(&wat::guest(CURIOUS_IMPORTS, CURIOUS));
    let report = handler.invoke(event("").into()).await;
    let access_denied = 1;
    assert_eq!(output(&report).as_bytes(), [0, 0, 0, 0, 1, access_denied]);
}

#[tokio::test]
async fn the_insecure_random_numbers_are_repeatable_too() {
    let handler = handler(&wat::guest(
        r#"(import "wasi:random/insecure@0.2.12" "get-insecure-random-u64" (func $number (result i64)))
           (import "wasi:random/insecure-seed@0.2.12" "insecure-seed" (func $seed (param i32)))"#,
        "(i64.store (i32.const 512) (i64.and (call $number) (i64.const 0x7f7f7f7f7f7f7f7f)))
         (call $seed (i32.const 256))
         (i64.store (i32.const 520)
            (i64.and (i64.load (i32.const 256)) (i64.const 0x7f7f7f7f7f7f7f7f)))
         (i32.store8 (i32.const 511) (i32.const 16))",
    ));
    let first = handler.invoke(event("").into()).await;
    let other = handler.invoke(event("").into()).await;
    assert_ne!(output(&first), output(&other));
    let replay = handler.replay(event(""), other.seed, other.clock_ms).await;
    assert_eq!(output(&replay), output(&other));
}

fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now();
    let since_epoch = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since_epoch.as_millis()).unwrap()
}
