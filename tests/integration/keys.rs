//! Keys of events on a real server: what is one key and what are two, whatever the payload looks like otherwise.

use tidemill_policy::headers;

use crate::support::{World, completed, output};

fn manifest(keys: &str) -> String {
    format!("[handler.h]\nsubject = \"in.>\"\nstream = \"IN\"\nallow = {{ publish = [\"out.>\"] }}\n{keys}\n")
}

/// Payloads with five keys.
const DISTINCT: [&str; 5] = [
    r#"{"id":12345678901234567890}"#,
    r#"{"id":12345678901234567891}"#,
    r#"{"id":"12345678901234567891"}"#,
    r#"{"id":1.0}"#,
    "\u{feff}{\"id\":1,\"other\":\"\\ud83d\"}",
];

#[tokio::test]
async fn events_with_different_keys_are_all_handled() {
    let keys = [
        "dedup = { key = \"json:/id\", window = \"1h\" }",
        "order = { by = \"key\", key = \"json:/id\" }",
        "order = { by = \"latest\", key = \"json:/id\" }",
    ];
    for keys in keys {
        let world = World::in_and_out().await;
        let running = world.run(&manifest(keys), |_| completed(&[output("out.a", "x")])).ready().await;
        for payload in DISTINCT {
            world.publish("in.x", &[], payload).await;
        }
        running.wait_for_calls(DISTINCT.len()).await;
        world.wait_until_settled("IN", "tidemill-h").await;
        assert_eq!(world.messages("OUT").await.len(), DISTINCT.len(), "{keys}");
        running.drain().await.expect("drains");
    }
}

#[tokio::test]
async fn an_event_of_which_the_key_cannot_be_told_goes_to_the_dead_letters_and_never_runs() {
    let rows = [
        ("order = { by = \"key\", key = \"json:/id\" }", "order.key: "),
        ("order = { by = \"key\", key = \"json:/id\", on_failure = \"park\" }", "order.key: "),
        ("order = { by = \"latest\", key = \"json:/id\" }", "order"),
        ("dedup = { key = \"json:/id\", window = \"1h\" }", "dedup.key: "),
    ];
    for (keys, says) in rows {
        let world = World::in_and_out().await;
        let running = world.run(&manifest(keys), |_| completed(&[output("out.a", "x")])).ready().await;
        for payload in [r#"{"id":"\ud83d"}"#, r#"{"id":NaN}"#, r#"{"id":7"#] {
            world.publish("in.x", &[], payload).await;
        }
        for letter in world.wait_for("TIDEMILL_DEADLETTER", 3).await {
            assert_eq!(letter.headers[headers::REASON], "undecodable");
            let errors = &letter.headers[headers::ERRORS];
            assert!(errors.contains(says), "{errors}");
        }
        // What comes after them is not held up.
        world.publish("in.x", &[], r#"{"id":7}"#).await;
        assert_eq!(running.wait_for_calls(1).await.len(), 1);
        world.wait_until_settled("IN", "tidemill-h").await;
        assert_eq!(world.messages("OUT").await.len(), 1, "{keys}");
        running.drain().await.expect("drains");
    }
}

/// One event, however it is encoded.
#[tokio::test]
async fn a_cloud_event_has_one_key_in_all_of_its_encodings() {
    let world = World::in_and_out().await;
    let keys = "dedup = { key = \"ce:tenantid\", window = \"1h\" }";
    let running = world.run(&manifest(keys), |event| completed(&[output("out.a", &event.id)])).ready().await;
    let structured = |tenant: &str| {
        format!(r#"{{"specversion":"1.0","id":"e","type":"t","source":"/s","tenantid":{tenant},"data":null}}"#)
    };
    let binary = [("ce-specversion", "1.0"), ("ce-id", "e"), ("ce-type", "t"), ("ce-source", "/s")];
    world.publish("in.x", &[], structured(r#""a b""#)).await;
    running.wait_for_calls(1).await;
    world.publish("in.x", &[("Content-Type", "application/cloudevents+json")], structured(r#""a\u0020b""#)).await;
    world.publish("in.x", &[&binary[..], &[("ce-tenantid", "a%20b")]].concat(), "null").await;
    world.publish("in.x", &[], structured("7")).await;
    world.publish("in.x", &[&binary[..], &[("Ce-TenantId", "7")]].concat(), "null").await;
    world.wait_until_settled("IN", "tidemill-h").await;
    let ids: Vec<_> = running.seen().iter().map(|event| (event.id.clone(), event.payload.clone())).collect();
    assert_eq!(ids, [("a b".to_owned(), "null".into()), ("7".to_owned(), "null".into())]);
    running.drain().await.expect("drains");
}
