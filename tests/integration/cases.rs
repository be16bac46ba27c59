//! `tidemill test`: the cases that lie beside the components.

use std::path::Path;

use crate::cli::{Desk, guests};

const UNRULY: &str = "[runtime]\nlisten = 'off'\n[handler.unruly]\nsubject = \"test.unruly\"\n\
                      allow = { publish = [\"out.>\"] }\nconfig = { colour = \"green\" }\n";

/// A folder with some of the guests as its plugins.
fn desk(manifest: &str, plugins: &[&str]) -> Desk {
    let desk = Desk::with(manifest);
    for name in plugins {
        let component = std::fs::read(guests().join(name).with_extension("wasm")).expect("the guest is there");
        desk.write(&format!("plugins/{name}.wasm"), component);
    }
    desk
}

/// Writes a case of the guest that does what its payload says.
fn case(desk: &Desk, name: &str, payload: &str, rest: &str) {
    desk.write(&format!("plugins/unruly.cases/{name}.toml"), format!("[event]\npayload = '{payload}'\n{rest}"));
}

#[test]
fn the_cases_of_the_plugins_pass() {
    let desk = desk(
        "[handler.order-pricing]\nsubject = \"order.placed\"\nlimits.timeout = \"1m\"\nallow.publish = [\"order.priced\"]\n",
        &["order-pricing"],
    );
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/order-pricing.cases");
    for entry in std::fs::read_dir(cases).expect("cases") {
        let file = entry.expect("a case").path();
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        desk.write(&format!("plugins/order-pricing.cases/{name}"), std::fs::read(&file).expect("read"));
    }
    let run = desk.run(&["test"]);
    let expected = "order-pricing\n  ok     coupon\n  ok     hog\n  ok     unknown-coupon\n3 cases passed\n";
    assert_eq!(run.succeeds().stdout, expected);
}

#[test]
fn each_outcome_has_its_name() {
    let desk = desk(&format!("{UNRULY}limits = {{ timeout = '1s', memory = '16MiB' }}\n"), &["unruly"]);
    let outcomes = [
        ("echo", "completed"),
        ("retry", "retry"),
        ("reject", "reject"),
        ("sleep:20000", "timeout"),
        ("alloc", "memory"),
        ("panic", "trap"),
        ("output-to:not.granted", "output"),
    ];
    for (payload, outcome) in outcomes {
        case(&desk, outcome, payload, &format!("[expect]\noutcome = '{outcome}'"));
    }
    case(&desk, "attempts", "echo", "attempt = 6\n[expect]\noutcome = 'attempts'");
    case(
        &desk,
        "undecodable",
        "{",
        "headers.Content-Type = 'application/cloudevents+json'\n[expect]\noutcome = 'undecodable'",
    );
    case(&desk, "settings", "config:colour", "[expect]\noutputs = [{ subject = 'out.config', payload = 'green' }]");
    case(&desk, "kind", "event", "kind = 'order.placed'\nid = 'e-1'\n[expect]\noutputs = [{ subject = 'out.event' }]");
    let run = desk.run(&["test", "unruly"]);
    assert!(run.succeeds().stdout.ends_with("11 cases passed\n"), "{}", run.stdout);
}

#[test]
fn what_differs_is_told_and_fails_the_command() {
    let desk = desk(UNRULY, &["unruly"]);
    case(&desk, "good", "echo", "headers.X-A = '1'\n[[expect.outputs]]\nheaders.X-A = '1'\npayload = 'echo'");
    case(&desk, "outcome", "reject", "[expect]\noutcome = 'completed'");
    case(&desk, "output", "echo", "[expect]\noutputs = [{ subject = 'out.other', payload = 'else' }]");
    let run = desk.run(&["test"]);
    assert_eq!((run.exit, run.stderr.as_str()), (1, ""), "{}", run.stdout);
    let expected = "unruly\n  ok     good\n  FAILED outcome\n         outcome: expected completed, got reject: asked for\n  \
                    FAILED output\n         outputs[0].subject: expected \"out.other\", got \"out.echo\"\n         \
                    outputs[0].payload: expected \"else\", got \"echo\"\n2 of 3 cases failed\n";
    assert_eq!(run.stdout, expected);
    let json = desk.run(&["test", "unruly", "unruly", "--output", "json"]);
    let report = json.json();
    assert_eq!((json.exit, &report["ok"], &report["faults"]), (1, &false.into(), &serde_json::json!([])));
    assert_eq!(report["handlers"].as_array().map(Vec::len), Some(1), "a handler that is named twice runs once");
    let cases = &report["handlers"][0]["cases"];
    assert_eq!((&cases[0]["ok"], &cases[1]["case"]), (&true.into(), &"outcome".into()));
    assert_eq!(cases[1]["differences"][0], "outcome: expected completed, got reject: asked for");
}

#[test]
fn time_and_randomness_are_the_same_in_every_run() {
    let desk = desk(UNRULY, &["unruly"]);
    let zeros = "0".repeat(64);
    let arguments = ["invoke", "unruly", "--event", "-", "--seed", &zeros, "--clock", "2026-01-01T00:00:00Z"];
    let arguments = [&arguments[..], &["--output", "json"]].concat();
    let invoked = desk.run_with_input(&arguments, b"clock").json();
    let payload = invoked["outputs"][0]["payload"].as_str().expect("a text");
    case(&desk, "clock", "clock", &format!("[expect]\noutputs = [{{ payload = '{payload}' }}]"));
    desk.run(&["test"]).succeeds();
    case(
        &desk,
        "clock",
        "clock",
        &format!("clock = 2026-01-01T00:00:01Z\n[expect]\noutputs = [{{ payload = '{payload}' }}]"),
    );
    assert!(desk.run(&["test"]).fails(1, &[]).stdout.contains("outputs[0].payload: expected "));
    // A fresh instance for each: the first case leaves nothing behind for the second.
    for name in ["clock", "count"] {
        case(&desk, name, "count", "[expect]\noutputs = [{ payload = '1' }]");
    }
    desk.run(&["test"]).succeeds();
}

#[test]
fn mistakes_are_told_with_file_key_and_remedy() {
    let desk = desk(&format!("{UNRULY}[handler.other]\nsubject = 'other'\ncomponent = 'unruly.wasm'\n"), &["unruly"]);
    let none = desk.run(&["test"]);
    assert_eq!(none.succeeds().stdout, "no cases were run; `tidemill test --help` shows one\n");
    desk.run(&["test", "unruly"]).fails(1, &["handler.unruly has no cases: there is no folder plugins/unruly.cases"]);
    desk.run(&["test", "unruley"]).fails(2, &["no handler \"unruley\"", "did you mean \"unruly\"?"]);

    case(&desk, "typo", "echo", "[expect]\noutcom = 'completed'");
    let said =
        "error: handler.unruly: plugins/unruly.cases/typo.toml: expect.outcom: unknown key; did you mean \"outcome\"?";
    desk.run(&["test", "unruly"]).fails(1, &[said]);
    let report = desk.run(&["test", "--output", "json"]).json();
    assert_eq!(report["ok"], false);
    assert_eq!(report["faults"].as_array().map(Vec::len), Some(2), "both handlers have this component");

    case(&desk, "typo", "echo", "[expect]\noutcome = 'completed'");
    desk.run(&["test"]).fails(1, &[]);
    desk.write("plugins/unruly.wasm", "no component");
    desk.run(&["test", "other"]).fails(1, &["handler.other: ", "plugins/unruly.wasm"]);
}
