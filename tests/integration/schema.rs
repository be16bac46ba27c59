//! Schemas: on a real server, and with real components on the command line.

use std::path::Path;

use tempfile::TempDir;
use tidemill_policy::headers;
use tidemill_policy::history::{AttemptError, Kind};

use crate::cli::Desk;
use crate::support::{Stored, World, completed, output};

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    folder
}

fn manifest(folder: &Path, more: &str) -> String {
    let folder = folder.display();
    format!(
        "[handler.h]\nsubject = 'in.>'\nstream = 'IN'\nallow = {{ publish = ['out.>'] }}\n{}\n",
        more.replace("FOLDER", &folder.to_string())
    )
}

fn history(letter: &Stored) -> Vec<AttemptError> {
    serde_json::from_str(&letter.headers[headers::ERRORS]).expect("a history")
}

#[tokio::test]
async fn what_does_not_fit_is_dead_lettered_unrun_and_replayed_once_the_schema_is_corrected() {
    let world = World::in_and_out().await;
    let files = folder(&[("a.json", r#"{ "properties": { "id": { "type": "string" } }, "required": ["id"] }"#)]);
    let manifest = manifest(files.path(), "schema = 'FOLDER/a.json'");
    let running = world.run(&manifest, |event| completed(&[output("out.a", &event.id)])).ready().await;
    world.publish("in.x", &[(headers::MSG_ID, "bad")], r#"{"id": 7}"#).await;
    world.publish("in.x", &[(headers::MSG_ID, "none")], "no JSON").await;
    world.publish("in.x", &[(headers::MSG_ID, "good")], r#"{"id": "7"}"#).await;
    let letters = world.wait_for("TIDEMILL_DEADLETTER", 2).await;
    world.wait_for("OUT", 1).await;
    let letter = |id: &str| letters.iter().find(|letter| letter.headers[headers::EVENT_ID] == *id).expect("a letter");
    let [bad, none] = ["bad", "none"].map(|id| history(letter(id)).remove(0));
    assert_eq!((bad.kind, bad.attempt, none.kind), (Kind::Schema, 1, Kind::Schema));
    assert!(bad.message.ends_with("a.json: /id: it is not of type \"string\""), "{}", bad.message);
    assert!(none.message.starts_with("the payload is not JSON"), "{}", none.message);
    assert_eq!(letter("bad").payload, br#"{"id": 7}"#);
    assert_eq!(running.seen().len(), 1);
    running.drain().await.expect("drains");

    std::fs::write(files.path().join("a.json"), r#"{ "required": ["id"] }"#).expect("written");
    let running = world.run(&manifest, |event| completed(&[output("out.a", &event.id)])).ready().await;
    let replay = ["dlq", "replay", "--nats-url", &world.server.url, "--handler", "h", "--all"];
    Desk::with(&manifest).run(&replay).succeeds();
    let outputs = world.wait_for("OUT", 2).await;
    assert_eq!(outputs[1].payload, b"bad");
    let letters = world.wait_for("TIDEMILL_DEADLETTER", 1).await;
    assert_eq!(history(&letters[0]).len(), 2, "what still does not fit is dead-lettered again");
    running.drain().await.expect("drains");
}

#[tokio::test]
async fn versions_are_told_apart_and_outputs_are_checked() {
    let world = World::in_and_out().await;
    let files = folder(&[
        ("v1.json", r#"{ "type": "object" }"#),
        ("v2.json", r#"{ "type": "array" }"#),
        ("out.json", r#"{ "type": "number" }"#),
    ]);
    let manifest = manifest(
        files.path(),
        "schema_by = 'header:X-Version'\nschema_versions = { 1 = 'FOLDER/v1.json', 2 = 'FOLDER/v2.json' }\n\
         schema_out = { 'out.n.*' = 'FOLDER/out.json' }",
    );
    let script = |event: &tidemill_policy::event::Event| {
        let number = if event.id == "nan" { "x" } else { "1" };
        completed(&[output("out.text", "no JSON"), output("out.n.a", number)])
    };
    let running = world.run(&manifest, script).ready().await;
    let event = |id, version| [(headers::MSG_ID, id), ("X-Version", version)];
    world.publish("in.x", &event("one", "1"), "{}").await;
    world.publish("in.x", &event("two", "2"), "[]").await;
    world.publish("in.x", &event("three", "2"), "{}").await;
    world.publish("in.x", &event("four", "3"), "{}").await;
    world.publish("in.x", &event("nan", "1"), "{}").await;
    let letters = world.wait_for("TIDEMILL_DEADLETTER", 3).await;
    world.wait_for("OUT", 4).await;
    let mut reasons: Vec<_> =
        letters.iter().map(|letter| (letter.headers[headers::EVENT_ID].clone(), history(letter)[0].kind)).collect();
    reasons.sort();
    let expected = [("four", Kind::Schema), ("nan", Kind::Output), ("three", Kind::Schema)];
    assert_eq!(reasons, expected.map(|(id, kind)| (id.to_owned(), kind)));
    assert_eq!(running.seen().len(), 3);
    assert_eq!(world.messages("OUT").await.len(), 4, "nothing of what did not fit");
    running.drain().await.expect("drains");
}

const ECHO: &str = "[handler.echo]\nsubject = 'test.echo'\nallow.publish = ['out.>']\nschema = 'schemas/in.json'\n\
                    schema_out = { 'out.echo' = 'schemas/out.json' }\n";

#[test]
fn check_names_every_schema_that_cannot_be_used_with_key_and_remedy() {
    let more = "schema_versions = { a = 'schemas/a.json', b = 'schemas/b.json', c = 'schemas/c.json' }\n";
    let desk = Desk::with_guests(&format!("{ECHO}{more}"));
    desk.write("schemas/in.json", "{");
    desk.write("schemas/a.json", r#"{ "properties": { "x": { "type": "text" } } }"#);
    desk.write("schemas/b.json", r#"{ "$ref": "https://example.org/b.json" }"#);
    desk.write("schemas/c.json", r#"{ "$ref": "d.json" }"#);
    let run = desk.run(&["check"]);
    run.fails(
        1,
        &[
            "handler.echo: schema: schemas/in.json is not JSON: EOF while parsing an object at line 1 column 1; correct",
            "handler.echo: schema_versions.\"a\": schemas/a.json is not a valid schema at /properties/x/type: \"text\"",
            "handler.echo: schema_versions.\"b\": schemas/b.json refers to https://example.org/b.json, and nothing is",
            "handler.echo: schema_versions.\"c\": schemas/c.json: there is no file ",
            "schemas/d.json, which it refers to; add it, or correct the path",
            "handler.echo: schema_out.\"out.echo\": schemas/out.json: there is no file",
        ],
    );
    desk.run(&["invoke", "echo", "--event", "tidemill.toml"]).fails(1, &["schemas/out.json: there is no file"]);
}

#[test]
fn invoke_and_explain_know_the_schemas() {
    let desk = Desk::with_guests(ECHO);
    desk.write("schemas/in.json", r#"{ "$ref": "common.json#/$defs/id" }"#);
    desk.write("schemas/common.json", r#"{ "$defs": { "id": { "type": "integer" } } }"#);
    desk.write("schemas/out.json", r#"{ "maximum": 10 }"#);
    desk.run(&["check"]).succeeds();
    let invoke = |payload: &str, outcome: &str, kind: Option<&str>| {
        let run = desk.run_with_input(&["invoke", "echo", "--event", "-", "--output", "json"], payload.as_bytes());
        let json = run.json();
        assert_eq!((json["outcome"].as_str(), json["failure"]["kind"].as_str()), (Some(outcome), kind), "{json}");
    };
    invoke("7", "completed", None);
    invoke("11", "completed", Some("output"));
    invoke("\"7\"", "not run", Some("schema"));
    let shown = desk.run(&["explain", "echo"]).succeeds().stdout.clone();
    let rows = "\nschema        schemas/in.json\n              schemas/out.json for outputs on out.echo\n";
    assert!(shown.contains(rows), "{shown}");

    let versions = "schema_by = 'header:V'\nschema_versions = { 1 = 'schemas/in.json' }\n";
    let desk = Desk::with_guests(&format!("{}{versions}", ECHO.replace("schema = 'schemas/in.json'\n", "")));
    let shown = desk.run(&["explain", "echo"]).succeeds().stdout.clone();
    let rows = "schemas/in.json where header:V is \"1\"\n              any other event goes to the dead letters\n";
    assert!(shown.contains(rows), "{shown}");
    let json = desk.run(&["explain", "echo", "--output", "json"]).succeeds().json();
    assert_eq!(json["schema"]["versions"]["1"], "schemas/in.json");
}
