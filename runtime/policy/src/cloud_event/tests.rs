use proptest::prelude::*;

use crate::arrival::Arrival;
use crate::arrival::fixtures::{any_payload, arrival, handler, handler_of};
use crate::attempt::Attempt;
use crate::decode::{Undecodable, decode};
use crate::event::Event;
use crate::manifest::{Format, Handler, Source, parse};
use crate::{latest, order};

/// A handler with some keys in its manifest.
fn with(keys: &str) -> Handler {
    let text = format!("[handler.mail]\nsubject = 'orders.*'\n{keys}\n");
    let parsed = parse(Source { path: "tidemill.toml", text: &text }, &[], &|_| None).expect("a manifest").manifest;
    parsed.handlers["mail"].clone()
}

const CORE: [(&str, &str); 4] = [("ce-specversion", "1.0"), ("ce-id", "e1"), ("ce-type", "t"), ("ce-source", "/s")];
const TYPE: (&str, &str) = ("Content-Type", "application/cloudevents+json");

/// One event in binary mode, in structured mode, and in structured mode without a content type.
fn modes(headers: &[(&str, &str)], members: &str) -> [Arrival; 3] {
    let members = format!(r#"{{"specversion":"1.0","id":"e1","type":"t","source":"/s","data":{{"a":1}}{members}}}"#);
    [arrival(&[&CORE[..], headers].concat(), r#"{"a":1}"#), arrival(&[TYPE], &members), arrival(&[], &members)]
}

/// What policy makes of an event, in one text.
fn made_of(handler: &Handler, arrival: &Arrival) -> Result<String, Undecodable> {
    let event = decode(arrival, handler)?;
    let key = handler.key_order().map(|order| order::key(order, arrival, Some(&event)));
    let place = latest::place(handler, arrival, &event);
    Ok(format!("{} {:?} {key:?} {place:?} {}", event.id, event.time_ns, String::from_utf8_lossy(&event.payload)))
}

#[test]
fn a_key_names_the_same_thing_in_all_modes() {
    let time = "2026-01-31T12:00:00.000000900Z";
    let headers = [
        ("CE-TenantId", "m%C3%BCll%20%221%22"),
        ("ce-count", "7"),
        ("ce-urgent", "true"),
        ("ce-subject", "s"),
        ("ce-time", time),
    ];
    let members = format!(
        r#","tenantid":"müll \"1\"","count":7,"urgent":true,"subject":"\u0073","time":"{time}","nothing":null"#
    );
    let keys = [
        "dedup = { key = 'ce:tenantid' }",
        "dedup = { key = 'header:ce-tenantid' }",
        "dedup = { key = 'header:CE-Count' }",
        "dedup = { key = 'ce:id' }",
        "dedup = { key = 'json:/a' }",
        "order = { by = 'key', key = 'ce:tenantid' }",
        "order = { by = 'key', key = 'header:Ce-TenantId' }",
        "order = { by = 'key', key = 'ce:subject' }",
        "order = { by = 'key', key = 'ce:urgent' }",
        "order = { by = 'key', key = 'ce:nothing' }",
        "order = { by = 'latest', key = 'ce:count', time = 'ce:time' }",
        "order = { by = 'latest', key = 'header:ce-count', time = 'header:ce-time' }",
        "order = { by = 'latest', key = 'ce:urgent' }",
    ];
    let rows = [("dedup = { key = 'ce:tenantid' }", "müll \"1\""), ("dedup = { key = 'header:CE-Count' }", "7")];
    for (keys, id) in rows {
        assert_eq!(decode(&modes(&headers, &members)[1], &with(keys)).expect("an event").id, id);
    }
    for keys in keys {
        let handler = with(keys);
        let [binary, structured, bare] = modes(&headers, &members).map(|arrival| made_of(&handler, &arrival));
        assert!(binary.is_ok(), "{keys}: {binary:?}");
        assert_eq!((&binary, &binary), (&structured, &bare), "{keys}");
    }
    let missing = with("dedup = { key = 'ce:tenantid' }");
    for arrival in modes(&[], "") {
        let said = decode(&arrival, &missing).expect_err("it has none").to_string();
        assert_eq!(said, "dedup.key: the event has no ce:tenantid, or it is blank, null, a list or an object");
    }
}

#[test]
fn the_schema_is_chosen_by_the_same_attribute_in_all_modes() {
    for by in ["ce:version", "header:Ce-Version"] {
        let handler = with(&format!("schema_by = '{by}'\nschema_versions = {{ v1 = 'v1' }}"));
        let compile = |_: &std::path::Path| {
            let text = r#"{"type": "string"}"#.to_owned();
            let files = [("/s".into(), text)].into();
            crate::schema::Schema::compile("s", std::path::Path::new("/s"), &files)
                .map_err(|error| format!("{error:?}"))
        };
        let schemas = crate::schema::Schemas::load(&handler.schema, compile).expect("schemas");
        for arrival in modes(&[("ce-version", "v1")], r#","version":"v1""#) {
            let event = decode(&arrival, &handler).expect("an event");
            let failure = schemas.admit(&event).expect_err("it does not fit");
            assert!(failure.message.starts_with("the payload does not fit"), "{failure:?}");
        }
        for arrival in modes(&[("ce-version", "v2")], r#","version":"v2""#) {
            let failure = schemas.admit(&decode(&arrival, &handler).expect("an event")).expect_err("there is none");
            assert!(failure.message.starts_with(&format!("its {by} is \"v2\"")), "{failure:?}");
        }
    }
}

fn event(format: Format, headers: &[(&str, &str)], payload: &str) -> Result<Event, Undecodable> {
    decode(&arrival(headers, payload), &handler_of(format))
}

#[test]
fn a_structured_event_is_recognised_by_its_shape() {
    let whole = r#"{"specversion":"1.0","id":"e1","type":"t","source":"/s","data":[1]}"#;
    let marked = format!("\u{feff} {whole}\n");
    for payload in [whole, &marked, &whole.replace("1.0", "1"), &whole.replace("\"id\"", "\"\\u0069d\"")] {
        for format in [Format::Auto, Format::CloudEvents] {
            for headers in [&[][..], &[("Content-Type", "application/json")]] {
                let event = event(format, headers, payload).expect("an event");
                assert_eq!((event.id.as_str(), event.payload.as_ref()), ("e1", b"[1]".as_slice()), "{payload}");
                assert_eq!((event.kind.as_deref(), event.source.as_deref()), (Some("t"), Some("/s")));
                assert_eq!(event.content_type.as_deref(), Some("application/json"));
            }
        }
        let raw = event(Format::Raw, &[], payload).expect("an event");
        assert_eq!((raw.payload.as_ref(), raw.kind), (payload.as_bytes(), None));
    }
    // The headers of a binary event say what it is, whatever its data looks like.
    let outer = CORE.map(|(name, value)| (name, if name == "ce-id" { "outer" } else { value }));
    assert_eq!(event(Format::Auto, &outer, whole).expect("an event").id, "outer");
}

#[test]
fn what_only_resembles_a_structured_event_is_raw_unless_it_has_to_be_one() {
    let whole = r#"{"specversion":"1.0","id":"e1","type":"t","source":"/s"}"#;
    let almost = [
        (whole.replace("\"id\"", "\"ID\""), "without id"),
        (whole.replace("\"type\"", "\"kind\""), "without type"),
        (whole.replace("\"source\"", "\"from\""), "without source"),
        (whole.replace("1.0", "0.3"), "specversion \"0.3\""),
        (whole.replace("\"1.0\"", "1"), "\"specversion\": it is not a string"),
        (whole.replace("specversion", "version"), "not a CloudEvent: "),
        (format!("[{whole}]"), "not a CloudEvent: "),
        (format!("{whole}x"), "not a CloudEvent: "),
        ("\"specversion\"".to_owned(), "not a CloudEvent: "),
        (String::new(), "not a CloudEvent: "),
    ];
    for (payload, says) in almost {
        let raw = event(Format::Auto, &[], &payload).expect("an event");
        assert_eq!((raw.payload.as_ref(), raw.kind), (payload.as_bytes(), None), "{payload}");
        let said = event(Format::CloudEvents, &[], &payload).expect_err("none").to_string();
        assert!(said.contains(says), "{payload}: {said}");
    }
    // One that has all of a structured event and contradicts itself is none of both.
    let both = whole.replace('}', r#","data":1,"data_base64":"YQ=="}"#);
    assert!(event(Format::Auto, &[], &both).is_err());
    // What has all of a queue message is one, whatever else it has.
    let queue = whole.replace('}', r#","queue":"q","dispatch_date":"d","payload":7}"#);
    let event = event(Format::Auto, &[], &queue).expect("an event");
    assert_eq!((event.payload.as_ref(), event.kind), (b"7".as_slice(), None));
}

/// Of extensions the last member of a name counts, as readers of JSON take it.
#[test]
fn attributes_are_read_once() {
    let attributes = |members: &str| {
        let arrival = &modes(&[], members)[1];
        decode(arrival, &handler()).expect("an event").attributes
    };
    let last = attributes(r#","a":1,"a":"2""#);
    assert_eq!(last.get("a").map(String::as_str), Some("2"));
    assert_eq!(attributes(r#","a":1,"a":null"#).get("a"), None);
    assert_eq!(attributes(r#","a":[1],"b":{"c":2}"#).len(), 4);
    assert_eq!(attributes(r#","A":"x","Id":"x""#).get("id").map(String::as_str), Some("e1"));
    assert_eq!(attributes(r#","n":12345678901234567890"#).get("n").map(String::as_str), Some("12345678901234567890"));
    let many = (0..20_000).map(|n| format!(r#","a{n}":{n}"#)).collect::<Vec<_>>().concat();
    assert_eq!(attributes(&many).len(), 20_004);
    let raw = decode(&arrival(&[("ce-id", "1")], ""), &handler()).expect("an event");
    assert!(raw.attributes.is_empty(), "it is no CloudEvent");
}

#[test]
fn a_header_that_looks_like_an_attribute_is_a_header_where_the_event_is_no_cloud_event() {
    let handler = with("dedup = { key = 'header:ce-tenantid' }");
    let event = decode(&arrival(&[("ce-tenantid", "a%20b")], ""), &handler).expect("an event");
    assert_eq!(event.id, "a%20b");
}

proptest! {
    #[test]
    fn attributes_survive_either_mode(text in "[^\u{0}-\u{1f}]{1,40}", number in any::<i32>(), flag in any::<bool>()) {
        let encoded = text.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
        let (count, urgent) = (number.to_string(), flag.to_string());
        let headers = [("ce-text", encoded.as_str()), ("ce-count", &count), ("ce-urgent", &urgent)];
        let members = format!(
            r#","text":{},"count":{number},"urgent":{flag}"#, serde_json::to_string(&text).expect("a string")
        );
        let [binary, structured, bare] = modes(&headers, &members).map(|arrival| decode(&arrival, &handler()));
        let attributes = |event: Result<Event, Undecodable>| event.expect("an event").attributes;
        let (binary, structured, bare) = (attributes(binary), attributes(structured), attributes(bare));
        prop_assert_eq!(binary.get("text"), Some(&text));
        prop_assert_eq!(&binary, &structured);
        prop_assert_eq!(&binary, &bare);
    }

    #[test]
    fn nothing_panics(payload in any_payload(), is_labelled in any::<bool>()) {
        let arrival = Arrival { payload, ..arrival(if is_labelled { &[TYPE] } else { &[] }, "") };
        for format in [Format::Auto, Format::CloudEvents] {
            if let Ok(event) = decode(&arrival, &handler_of(format)) {
                prop_assert_eq!(event.attempt, Attempt::FIRST);
            }
        }
    }
}
