use bytes::Bytes;
use serde_json::json;
use tidemill_policy::history::Kind;

use super::*;

fn output(subject: &str, payload: &str) -> Output {
    Output {
        subject: subject.into(),
        kind: Some("k".into()),
        content_type: None,
        headers: vec![("X-A".into(), "1".into()), ("X-A".into(), "2".into())],
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

fn told(expected: &Expected, decision: Decision) -> Vec<String> {
    differences(expected, &Rehearsal { event: None, report: None, decision })
}

fn published(expected: Vec<ExpectedOutput>, outputs: Vec<Output>) -> Vec<String> {
    let expected = Expected { outcome: Some(COMPLETED.into()), message: None, outputs: Some(expected) };
    told(&expected, Decision::Publish(outputs))
}

#[test]
fn an_outcome_is_compared_before_all_else() {
    let expected = |outcome: Option<&str>, message: Option<&str>| Expected {
        outcome: outcome.map(str::to_owned),
        message: message.map(str::to_owned),
        outputs: None,
    };
    let failed = || Decision::Fail(Setback::DeadLetter(Failure::new(Kind::Reject, "no such coupon")));
    let none: [&str; 0] = [];
    assert_eq!(told(&expected(Some("reject"), Some("such")), failed()), none);
    assert_eq!(told(&expected(None, Some("no")), failed()), none);
    let different = told(&expected(Some("retry"), Some("else")), failed());
    assert_eq!(different, ["outcome: expected retry, got reject: no such coupon"]);
    let different = told(&expected(Some("reject"), Some("else")), failed());
    assert_eq!(different, ["message: expected one that says \"else\", got reject: no such coupon"]);
    let different = told(&expected(None, Some("else")), Decision::Publish(Vec::new()));
    assert_eq!(different, ["message: expected one that says \"else\", got completed"]);
}

#[test]
fn only_what_is_named_is_compared() {
    let none: [&str; 0] = [];
    assert_eq!(published(vec![ExpectedOutput::default()], vec![output("a", "x")]), none);
    let named = ExpectedOutput {
        subject: Some("a".into()),
        kind: Some("k".into()),
        content_type: None,
        headers: vec![("x-a".into(), "2".into())],
        payload: Some(Payload::Text("x".into())),
    };
    assert_eq!(published(vec![named], vec![output("a", "x")]), none);
    let json = ExpectedOutput { payload: Some(Payload::Json(json!({"b": 1, "a": [1]}))), ..ExpectedOutput::default() };
    assert_eq!(published(vec![json], vec![output("a", r#"{ "a": [1], "b": 1 }"#)]), none);
}

#[test]
fn every_difference_is_told_with_its_place() {
    let wrong = ExpectedOutput {
        subject: Some("b".into()),
        kind: Some("l".into()),
        content_type: Some("text/plain".into()),
        headers: vec![("X-A".into(), "3".into()), ("X-B".into(), "1".into())],
        payload: Some(Payload::Text("y".into())),
    };
    let expected = [
        "outputs: expected 1, got 2, on a, c",
        "outputs[0].subject: expected \"b\", got \"a\"",
        "outputs[0].kind: expected \"l\", got \"k\"",
        "outputs[0].content_type: expected \"text/plain\", got none",
        "outputs[0].headers.X-A: expected \"3\", got \"1\"",
        "outputs[0].headers.X-B: expected \"1\", got none",
        "outputs[0].payload: expected \"y\", got \"x\"",
    ];
    assert_eq!(published(vec![wrong], vec![output("a", "x"), output("c", "")]), expected);

    let json = |value| vec![ExpectedOutput { payload: Some(Payload::Json(value)), ..ExpectedOutput::default() }];
    let wanted = json!({"same": 1, "gone": "x", "deep": {"list": [1, 2], "number": 1}});
    let got = r#"{"same": 1, "new": null, "deep": {"list": [1, 3, 4], "number": "1"}}"#;
    let expected = [
        "outputs[0].json.deep.list: expected 2 entries, got 3",
        "outputs[0].json.deep.list[1]: expected 2, got 3",
        "outputs[0].json.deep.number: expected 1, got \"1\"",
        "outputs[0].json.gone: expected \"x\", got none",
        "outputs[0].json.new: expected none, got null",
    ];
    assert_eq!(published(json(wanted), vec![output("a", got)]), expected);
    assert_eq!(published(json(json!(1)), vec![output("a", "{")]), ["outputs[0].json: expected JSON, got \"{\""]);
    assert_eq!(published(json(json!(1)), Vec::new()), ["outputs: expected 1, got 0"]);
}

#[test]
fn what_is_told_is_bounded() {
    let wanted: Vec<_> = (0..50).collect();
    let json = vec![ExpectedOutput { payload: Some(Payload::Json(json!(wanted))), ..ExpectedOutput::default() }];
    let other: Vec<_> = (1..51).collect();
    let told = published(json, vec![output("a", &json!(other).to_string())]);
    assert_eq!((told.len(), told.last().map(String::as_str)), (21, Some("and 30 more")));
    let text = vec![ExpectedOutput { payload: Some(Payload::Text(String::new())), ..ExpectedOutput::default() }];
    let told = published(text, vec![output("a", &"ä".repeat(1000))]);
    assert!(told[0].len() < 400 && told[0].ends_with(" …\""), "{}", told[0]);
}
