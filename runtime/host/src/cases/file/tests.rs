use super::*;
use tidemill_policy::manifest::{Source, parse};

fn handler(body: &str) -> Handler {
    let text = format!("[handler.mail]\n{body}");
    let parsed = parse(Source { path: "tidemill.toml", text: &text }, &[], &|_| None);
    parsed.unwrap_or_else(|problems| panic!("{problems}")).manifest.handlers["mail"].clone()
}

fn usual() -> Handler {
    handler("subject = 'mail.wanted'")
}

/// What reading one case comes to.
fn read_text(text: &str, handler: &Handler) -> Result<Case, String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("one.toml"), text).expect("written");
    fs::write(folder.path().join("payload.bin"), [0xff, 0x00]).expect("written");
    let prefix = format!("{}/", folder.path().display());
    let mut cases = read_all(folder.path(), handler).map_err(|error| error.to_string().replace(&prefix, ""))?;
    assert_eq!(cases.len(), 1);
    Ok(cases.remove(0))
}

#[test]
fn what_is_not_said_is_the_same_in_every_run() {
    let text = "[event]\npayload = 'hello'\n[expect]\noutcome = 'completed'";
    let case = read_text(text, &usual()).expect("a case");
    assert_eq!(case.name, "one");
    let Scene { message, id, attempt, stored_ms, clock_ms, seed } = case.scene;
    assert_eq!((message.subject.as_str(), &*message.payload), ("mail.wanted", &b"hello"[..]));
    assert_eq!((message.headers, id, attempt), (Vec::new(), None, Attempt::FIRST));
    assert_eq!((stored_ms, clock_ms, seed), (CLOCK_MS, CLOCK_MS, SEED));
    assert_eq!(parse_clock("2026-01-01T00:00:00Z"), Ok(CLOCK_MS));
    assert!(case.expected.message.is_none() && case.expected.outputs.is_none());
}

#[test]
fn every_key_is_read() {
    let text = r#"
        [event]
        subject = "mail.other"
        headers = { X-A = "1", X-B = ["2", "3"] }
        json = { list = [1, 2.5, true], at = 2026-01-31T12:00:00Z, deep = { text = "ä" } }
        id = "e-1"
        kind = "mail.wanted"
        time = 2026-01-31T12:00:00Z
        attempt = 3
        clock = 1_769_860_800_123
        seed = "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"
        [expect]
        outcome = "completed"
        [[expect.outputs]]
        subject = "a"
        kind = "k"
        content_type = "text/plain"
        headers = { X-A = "1" }
        payload = "text"
        [[expect.outputs]]
        json = { a = 1 }
    "#;
    let Case { scene, expected, .. } = read_text(text, &usual()).expect("a case");
    let json = r#"{"at":"2026-01-31T12:00:00Z","deep":{"text":"ä"},"list":[1,2.5,true]}"#;
    assert_eq!(scene.message.payload, json);
    assert_eq!((scene.message.subject.as_str(), scene.id.as_deref()), ("mail.other", Some("e-1")));
    let expected_headers = [
        ("X-A", "1"),
        ("X-B", "2"),
        ("X-B", "3"),
        ("ce-specversion", "1.0"),
        ("ce-type", "mail.wanted"),
        ("ce-source", SOURCE),
        ("ce-id", "e-1"),
    ];
    assert_eq!(scene.message.headers, expected_headers.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!((scene.stored_ms, scene.clock_ms), (1_769_860_800_000, 1_769_860_800_123));
    assert_eq!((scene.attempt.get(), scene.seed), (3, [15; 32]));
    let outputs = expected.outputs.expect("outputs");
    assert_eq!((outputs.len(), outputs[0].subject.as_deref(), outputs[0].headers.len()), (2, Some("a"), 1));
    assert!(matches!(&outputs[0].payload, Some(Payload::Text(text)) if text == "text"));
    assert!(matches!(&outputs[1].payload, Some(Payload::Json(json)) if json["a"] == 1));
}

#[test]
fn payloads_may_be_files() {
    let text = "[event]\npayload_file = 'payload.bin'\n[expect]\noutputs = []";
    let case = read_text(text, &usual()).expect("a case");
    assert_eq!(&*case.scene.message.payload, [0xff, 0x00]);
    assert_eq!(case.expected.outcome.as_deref(), Some(COMPLETED), "outputs follow from success only");
}

#[test]
fn mistakes_are_told_with_file_and_key() {
    #[track_caller]
    fn check(text: &str, said: &str) {
        let error = read_text(text, &usual()).expect_err("a mistake");
        assert!(error.starts_with("one.toml: ") && error.contains(said), "{said:?} is not in:\n{error}");
    }
    let event = |line: &str| format!("[event]\npayload = ''\n{line}\n[expect]\noutcome = 'retry'");
    check(&event("subjct = 'a'"), "event.subjct: unknown key; did you mean \"subject\"?");
    check(&event("zzz = 1"), "event.zzz: unknown key; known are subject, headers,");
    check(&event("subject = 'a b'"), "event.subject: \"a b\": ");
    check(&event("json = 1"), "event.payload: give one of payload, payload_file and json");
    check(&event("kind = 'two words'"), "event.kind: ");
    check(&event("clock = 'noon'"), "event.clock: write it as 2026-01-31T12:00:00Z");
    check(&event("time = true"), "event.time: write it as 2026-01-31T12:00:00Z");
    check(&event("time = 2026-01-31"), "event.time: write it as 2026-01-31T12:00:00Z");
    check(&event("attempt = 0"), "event.attempt: attempts are counted from 1");
    check(&event("attempt = 'one'"), "attempt = 'one'\n");
    check(&event("seed = '00'"), "event.seed: 2 digits, where 64 are needed");
    check(&event("headers.'a b' = '1'"), "event.headers.a b: a name is visible ASCII");
    check(&event("headers.a = \"1\\n2\""), "event.headers.a: the value contains a line break");
    check("[event]\n[expect]\noutcome = 'retry'", "event.payload: give one of");
    check("[event]\npayload_file = 'gone'\n[expect]\noutcome = 'retry'", "event.payload_file: ");
    check("[event]\npayload = ''", "missing field `expect`");
    check("[event]\npayload = ''\n[expext]", "expext: unknown key; did you mean \"expect\"?");
    check("[event", "not valid TOML: ");

    let expect = |line: &str| format!("[event]\npayload = ''\n[expect]\n{line}");
    check(&expect(""), "expect: nothing is expected; name at least one of outcome, message, outputs");
    check(&expect("outcome = 'rejected'"), "expect.outcome: there is no \"rejected\"; did you mean \"reject\"?");
    check(&expect("outcome = 'xxxxxxxx'"), "it is one of completed, retry, reject, timeout,");
    check(&expect("outcome = 'retry'\noutputs = []"), "expect.outputs: an event that is not handled has none");
    check(&expect("message = 'a'\noutputs = []"), "expect.message: an event that is handled has none");
    check(
        &expect("outputs = [{ subjekt = 'a' }]"),
        "expect.outputs[0].subjekt: unknown key; did you mean \"subject\"?",
    );
    check(&expect("outputs = [{}, { payload = '', json = 1 }]"), "expect.outputs[1].payload: give one of");
}

#[test]
fn all_mistakes_of_all_files_are_told_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in [("b.toml", "[evnt]\n[expct]"), ("a.toml", "x = 1"), ("notes.txt", "no case"), ("c.toml", "")] {
        fs::write(folder.path().join(name), text).expect("written");
    }
    let CasesError(faults) = read_all(folder.path(), &usual()).expect_err("mistakes");
    let files: Vec<_> = faults.iter().filter_map(|fault| fault.file.file_name()?.to_str()).collect();
    assert_eq!(files, ["a.toml", "b.toml", "b.toml", "c.toml"]);
    assert!(read_all(&folder.path().join("none"), &usual()).expect("no folder, no cases").is_empty());
}

#[test]
fn what_the_handler_cannot_get_is_refused() {
    let text = "[event]\npayload = ''\nkind = 'k'\n[expect]\noutcome = 'retry'";
    let error = read_text(text, &handler("subject = 'a'\nformat = 'raw'")).expect_err("no kind");
    assert!(error.contains("event.kind: only CloudEvents have one, and the handler's format is \"raw\""), "{error}");
    let text = "[event]\npayload = ''\n[expect]\noutcome = 'retry'";
    let error = read_text(text, &handler("subject = 'a.*'")).expect_err("which subject?");
    assert!(error.contains("event.subject: handler.mail: its subject a.* has wildcards"), "{error}");
}
