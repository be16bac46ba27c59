//! What is refused at load, and whether the message says what to do about it.

use std::collections::BTreeMap;
use std::path::Path;

use tidemill::invoker::Invoker;
use tidemill::invoker::wasm::{Kind, Problem, WasmHandler, inspect};
use tidemill_policy::outcome::Outcome;

use crate::setup::{ENGINE, entry, event, guest, guest_bytes, handler, output, run, stack, trapped};
use crate::wat;

fn refusal(file: &[u8]) -> Problem {
    match WasmHandler::from_bytes(&ENGINE, file, &entry(), BTreeMap::new()) {
        Ok(_) => panic!("it was loaded"),
        Err(problem) => problem,
    }
}

#[track_caller]
fn check(file: &[u8], expected: &str) {
    assert_eq!(refusal(file).to_string(), expected);
}

/// A component that exports a handler, of any type, and has more fields.
fn component(fields: &str) -> Vec<u8> {
    wat::binary(&format!(
        r#"(component
            {fields}
            (core module $code (func (export "handle")))
            (core instance $running (instantiate $code))
            (func $handle (canon lift (core func $running "handle")))
            (instance $h (export "handle" (func $handle)))
            (export "tidemill:handler/handler@0.1.0" (instance $h)))"#
    ))
}

#[test]
fn files_that_are_not_webassembly() {
    for (file, found) in [
        (&b""[..], "empty"),
        (b"hi", "a file of a few bytes"),
        (b"(module)", "WebAssembly text, to be converted with `wasm-tools parse`"),
        (b"\x7fELF\x02\x01\x01", "a native or precompiled binary"),
        (b"#!/bin/sh\n", "a script"),
        (b"PK\x03\x04", "a zip archive"),
        (b"hello world", "another kind of file"),
    ] {
        check(file, &format!("is {found}, not a WebAssembly component"));
    }
}

#[test]
fn files_that_are_truncated_or_corrupt() {
    let guest = guest_bytes("unruly");
    for length in [5, 9, 100, guest.len() / 2, guest.len() - 1] {
        let problem = refusal(&guest[..length]);
        assert!(matches!(problem, Problem::Corrupt(_) | Problem::PlainModule), "{length}: {problem}");
    }
    let problem = refusal(&guest[..guest.len() / 2]).to_string();
    assert!(problem.starts_with("is a truncated or corrupt WebAssembly file; build or copy it again: "), "{problem}");
}

#[test]
fn nothing_that_is_wrong_in_a_file_panics() {
    let whole = guest_bytes("echo");
    let mut bytes = whole.clone();
    let mut state = 1_u64;
    for _ in 0..2000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = usize::try_from(state >> 33).unwrap() % bytes.len();
        bytes[at] ^= 1 << (state >> 30 & 7);
        inspect(&bytes).ok();
        bytes[at] = whole[at];
    }
}

#[test]
fn a_module_without_component_type() {
    check(
        &wat::binary("(module)"),
        "is a WebAssembly module without a component type, and exports no \
         `tidemill:handler/handler@0.1.0#handle`; build it with a tidemill SDK or wit-bindgen, or make it a component with `wasm-tools component embed` and `wasm-tools component new`",
    );
}

/// As compilers make it that cannot write a component type: its names tell what it is.
#[tokio::test]
async fn a_module_that_exports_a_handler_needs_no_component_type() {
    let log = r#"(import "wasi:logging/logging@0.1.0-draft" "log" (func $log (param i32 i32 i32 i32 i32)))"#;
    let body = r"(i32.store8 (i32.const 511) (i32.const 2)) (i32.store16 (i32.const 512) (i32.const 0x6b6f))";
    let file = wat::untyped_guest(log, body);
    assert_eq!(inspect(&file).unwrap().kind, Kind::CoreModule);
    assert_eq!(output(&run(&handler(&file), "").await), "ok");
}

#[test]
fn a_module_that_exports_a_handler_is_held_to_the_contract() {
    for (imports, named) in [
        (r#"(import "env" "puts" (func))"#, "env"),
        (r#"(import "acme:bank/accounts" "pay" (func))"#, "acme:bank/accounts"),
        (r#"(import "wasi:logging/logging@0.1.0-draft" "log" (func (param i32)))"#, "log"),
    ] {
        let problem = refusal(&wat::untyped_guest(imports, "")).to_string();
        assert!(problem.starts_with("is a WebAssembly module that cannot be made a component: "), "{problem}");
        assert!(problem.contains(named), "{problem}");
    }
}

#[test]
fn a_module_that_does_not_fit_its_component_type() {
    let problem = refusal(&wat::module("(module)")).to_string();
    assert!(problem.starts_with("is a WebAssembly module that cannot be made a component: "), "{problem}");
    assert!(problem.contains("tidemill:handler/handler@0.1.0"), "{problem}");
    let problem = refusal(&wat::guest(r#"(import "env" "puts" (func))"#, "")).to_string();
    assert!(problem.contains("env"), "{problem}");
}

#[test]
fn components_that_are_no_handler() {
    check(&wat::binary("(component)"), "exports no handler (`tidemill:handler/handler@0.1.0`); it exports nothing");
    check(
        &wat::binary(
            r#"(component (instance $i)
                (export "wasi:http/incoming-handler@0.2.0" (instance $i))
                (export "other" (instance $i)))"#,
        ),
        "exports no handler (`tidemill:handler/handler@0.1.0`); its exports are \
         `wasi:http/incoming-handler@0.2.0`, `other`",
    );
}

#[test]
fn a_handler_of_another_version() {
    check(
        &wat::binary(r#"(component (instance $i) (export "tidemill:handler/handler@0.9.0" (instance $i)))"#),
        "exports `tidemill:handler/handler@0.9.0`, and this tidemill serves \
         `tidemill:handler/handler@0.1.0`; build it against that version, or use a tidemill that serves its own",
    );
}

#[test]
fn a_handler_of_another_type() {
    for (file, why) in [
        (component(""), "expected 1-tuple, found 0-tuple"),
        (
            wat::binary(
                r#"(component (instance $i)
                    (export "tidemill:handler/handler@0.1.0" (instance $i)))"#,
            ),
            "it has no function `handle`",
        ),
    ] {
        let problem = refusal(&file).to_string();
        let expected = "exports `tidemill:handler/handler@0.1.0` with another type; build it against the \
                        published WIT: ";
        assert!(problem.starts_with(expected), "{problem}");
        assert!(problem.contains(why), "{problem}");
    }
}

#[test]
fn every_import_that_is_not_offered_is_named() {
    check(
        &component(
            r#"(import "acme:bank/accounts@1.0.0" (instance (export "open" (func))))
               (import "wasi:cli/environment@0.2.99" (instance))
               (import "wasi:http/outgoing-handler@0.2.10" (instance (export "handle" (func))))
               (import "wasi:cli/stdin@0.3.0" (instance (export "read" (func))))"#,
        ),
        "imports what it is not offered: `acme:bank/accounts@1.0.0`, \
         `wasi:http/outgoing-handler@0.2.10` (not granted: add allow.http = [\"https://api.example\"] to the handler, or \
         build without it (componentize-js: `-d http fetch-event`)), `wasi:cli/stdin@0.3.0` (build for WASI 0.2)",
    );
}

#[test]
fn an_interface_with_another_content() {
    let problem =
        refusal(&component(r#"(import "wasi:cli/environment@0.2.0" (instance (export "get-weather" (func))))"#))
            .to_string();
    assert!(problem.starts_with("imports an interface with another content than the one on offer: "), "{problem}");
    assert!(problem.contains("get-weather"), "{problem}");
}

#[test]
fn more_memory_than_there_may_be() {
    let module = |name: &str| format!("(core module ${name} (memory 200)) (core instance (instantiate ${name}))");
    check(
        &component(&format!("{} {}", module("a"), module("b"))),
        "starts with 26214400 bytes of memory, and may have 16777216; raise `limits.memory`, or link it \
         with a smaller stack or initial memory",
    );
    let problem = refusal(&component(&module("a")));
    assert!(matches!(problem, Problem::HandlerType { .. }), "{problem}");
}

#[test]
fn more_parts_than_there_may_be() {
    check(
        &component(
            r"(core module $m (memory 1))
              (core instance (instantiate $m)) (core instance (instantiate $m))
              (core instance (instantiate $m)) (core instance (instantiate $m))
              (core instance (instantiate $m))",
        ),
        "has 5 memories, and may have 4",
    );
    let large_table = "(core module $m (table 200000 funcref)) (core instance (instantiate $m))";
    let problem = refusal(&component(large_table)).to_string();
    assert!(problem.contains("exceeds the limit of 100000"), "{problem}");
}

#[test]
fn code_that_is_not_valid() {
    let problem =
        refusal(&component("(core module $m (func (result i32) (nop))) (core instance (instantiate $m))")).to_string();
    assert!(problem.starts_with("is corrupt, or uses what this tidemill does not support: "), "{problem}");
}

#[test]
fn guests_that_need_a_garbage_collector() {
    let problem = refusal(&wat::guest("(type $pair (struct (field i64)))", "")).to_string();
    assert!(problem.contains("without the gc feature"), "{problem}");
}

#[test]
fn files_that_cannot_be_read() {
    let load = |file: &Path| {
        WasmHandler::load(&ENGINE, file, &entry(), BTreeMap::new()).err().expect("it cannot be loaded").to_string()
    };
    assert_eq!(
        load(Path::new("plugins/unruly.wasm")),
        "plugins/unruly.wasm: no such file; build it, or correct `component` of handler `unruly`"
    );
    let folder = tempfile::tempdir().unwrap();
    let message = load(folder.path());
    assert!(message.contains(": cannot be read: "), "{message}");
}

#[test]
fn a_guest_is_described() {
    let bytes = guest_bytes("unruly");
    let inspection = inspect(&bytes).unwrap();
    assert_eq!(inspection.kind, Kind::CoreModule);
    assert_eq!(inspection.size_bytes, bytes.len() as u64);
    assert_eq!(inspection.digest.len(), 64);
    assert_eq!(inspection.handler.as_deref(), Some("tidemill:handler/handler@0.1.0"));
    assert!(inspection.imports.iter().all(|import| import.offered), "{inspection:?}");
    assert!(inspection.imports.iter().any(|import| import.name.starts_with("wasi:logging/")));
    let loaded = WasmHandler::load(&ENGINE, &guest("unruly"), &entry(), BTreeMap::new()).unwrap();
    assert_eq!(*loaded.inspection(), inspection);

    let other = component(r#"(import "acme:bank/accounts@1.0.0" (instance (export "open" (func))))"#);
    let inspection = inspect(&other).unwrap();
    assert_eq!(inspection.kind, Kind::Component);
    assert!(!inspection.imports[0].offered);
}

#[tokio::test]
async fn a_component_that_fails_to_start() {
    let handler = handler(&wat::guest("(func $start unreachable) (start $start)", ""));
    let report = handler.invoke(event("").into()).await;
    let interruption = trapped(&report);
    assert!(interruption.message.starts_with("while it was being instantiated: wasm trap: "), "{interruption:?}");
    assert!(stack(interruption).contains("start"), "{interruption:?}");
}

#[tokio::test]
async fn a_component_that_never_gets_started() {
    let loops = wat::guest("(func $start (loop (br 0))) (start $start)", "");
    let mut entry = entry();
    entry.limits.budget.timeout = std::time::Duration::from_millis(20);
    let handler = WasmHandler::from_bytes(&ENGINE, &loops, &entry, BTreeMap::new()).unwrap();
    let report = handler.invoke(event("").into()).await;
    assert!(matches!(report.outcome, Outcome::TimedOut(_)), "{report:?}");
}

#[tokio::test]
async fn leaving_the_process_is_a_trap() {
    let handler = handler(&wat::guest(
        r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#,
        "(call $exit (i32.const 1))",
    ));
    let report = handler.invoke(event("").into()).await;
    assert_eq!(trapped(&report).message, "exited with status 1 instead of returning");
}
