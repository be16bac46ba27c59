use super::*;
use crate::arrival::Arrival;
use crate::arrival::fixtures::{arrival, handler, handler_of};
use crate::decode::decode;
use crate::manifest::Format;

/// Schemas whose files are named like the one word that fits them.
fn schemas(policy: &SchemaPolicy) -> Schemas {
    let compile = |path: &Path| {
        let text = format!("{{ \"const\": {:?} }}", path.to_str().expect("text"));
        Schema::compile("s", Path::new("/s"), &[("/s".into(), text)].into()).map_err(|error| format!("{error:?}"))
    };
    Schemas::load(policy, compile).expect("schemas")
}

fn files(files: &[(&str, &str)]) -> BTreeMap<String, PathBuf> {
    files.iter().map(|(name, path)| ((*name).to_owned(), PathBuf::from(path))).collect()
}

#[track_caller]
fn says(policy: &SchemaPolicy, arrival: &Arrival, expected: &str) {
    let event = decode(arrival, &handler()).expect("an event");
    let said = schemas(policy).admit(&event).err();
    assert!(said.iter().all(|failure| failure.kind == Kind::Schema));
    let said = said.map_or_else(String::new, |failure| failure.message);
    assert!(said.starts_with(expected) && said.is_empty() == expected.is_empty(), "{said}");
}

#[test]
fn without_a_schema_anything_goes_and_with_one_only_what_fits() {
    says(&SchemaPolicy::default(), &arrival(&[], "no JSON"), "");
    let one = SchemaPolicy { default: Some("one".into()), ..SchemaPolicy::default() };
    says(&one, &arrival(&[], "\"one\""), "");
    says(&one, &arrival(&[], "\"two\""), "the payload does not fit s: the whole: \"one\" was expected");
    says(&one, &arrival(&[], "one"), "the payload is not JSON");
}

#[test]
fn the_version_is_told_by_dataschema_in_both_modes_of_cloud_events() {
    let versions = files(&[("urn:v1", "one"), ("urn:v 2", "two")]);
    let strict = SchemaPolicy { versions, ..SchemaPolicy::default() };
    let lenient = SchemaPolicy { default: Some("any".into()), ..strict.clone() };
    let binary = |version: &str, payload: &str| {
        let attributes = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-type", "t"), ("ce-source", "/s")];
        arrival(&[&attributes[..], &[("ce-dataschema", version)]].concat(), payload)
    };
    let structured = |version: &str, data: &str| {
        let envelope = r#"{"specversion": "1.0", "id": "1", "type": "t", "source": "/s", "dataschema": "#;
        arrival(
            &[("Content-Type", "application/cloudevents+json")],
            &format!("{envelope}{version:?}, \"data\": {data:?}}}"),
        )
    };
    says(&strict, &binary("urn:v1", "\"one\""), "");
    says(&strict, &binary("urn:v%202", "\"two\""), "");
    says(&strict, &binary("urn:v1", "\"two\""), "the payload does not fit");
    says(&strict, &structured("urn:v 2", "two"), "");
    says(&strict, &structured("urn:v1", "two"), "the payload does not fit");
    says(&strict, &binary("urn:v3", "\"one\""), "its dataschema is \"urn:v3\", which schema_versions does not have");
    says(&strict, &arrival(&[], "\"one\""), "it has no dataschema, by which schema_versions are told apart");
    says(&lenient, &binary("urn:v3", "\"any\""), "");
    says(&lenient, &arrival(&[], "\"any\""), "");
    says(&lenient, &arrival(&[], "\"one\""), "the payload does not fit");
}

#[test]
fn the_version_is_told_by_a_header() {
    let by = SchemaBy::Header("X-Version".into());
    let policy = SchemaPolicy { by, versions: files(&[("1", "one")]), ..SchemaPolicy::default() };
    says(&policy, &arrival(&[("x-version", "1")], "\"one\""), "");
    says(&policy, &arrival(&[("X-Version", "2")], "\"one\""), "its header:X-Version is \"2\"");
    let long = "ü".repeat(1000);
    says(&policy, &arrival(&[("X-Version", &long)], "\"one\""), "its header:X-Version is \"üüü");
    says(&policy, &arrival(&[], "\"one\""), "it has no header:X-Version");
}

#[test]
fn of_a_queue_message_the_inner_payload_is_checked() {
    let policy = SchemaPolicy { default: Some("one".into()), ..SchemaPolicy::default() };
    let message = r#"{"id": "1", "queue": "q", "dispatch_date": "2026-01-01T00:00:00Z", "payload": "one"}"#;
    let event = decode(&arrival(&[], message), &handler_of(Format::Queue)).expect("an event");
    assert_eq!(schemas(&policy).admit(&event), Ok(()));
}

#[test]
fn an_output_must_fit_every_schema_whose_pattern_selects_it() {
    let outputs = files(&[(">", "one"), ("a.*", "one"), ("b.>", "two")]);
    let schemas = schemas(&SchemaPolicy { outputs, ..SchemaPolicy::default() });
    let output = |subject: &str| Output {
        subject: subject.into(),
        kind: None,
        content_type: None,
        headers: Vec::new(),
        payload: "\"one\"".into(),
    };
    let fine = Outcome::Completed(vec![output("a.b"), output("c")]);
    assert_eq!(schemas.screen(fine.clone()), fine);
    let screened = schemas.screen(Outcome::Completed(vec![output("a.b"), output("b.c")]));
    let Outcome::OutputRefused { message } = screened else { panic!("{screened:?}") };
    assert!(message.starts_with("output 1 on \"b.c\": the payload does not fit s: "), "{message}");
    let other = Outcome::OutputRefused { message: "too many".into() };
    assert_eq!(schemas.screen(other.clone()), other);
}

#[test]
fn every_schema_that_cannot_be_had_is_told_once_with_its_key() {
    let policy = SchemaPolicy {
        default: Some("a".into()),
        versions: files(&[("v", "a"), ("w", "b")]),
        outputs: files(&[(">", "c")]),
        by: SchemaBy::DataSchema,
    };
    let faults = Schemas::load(&policy, |path| Err(format!("{} is bad", path.display()))).expect_err("faults");
    assert_eq!(faults, ["schema: a is bad", "schema_versions.\"w\": b is bad", "schema_out.\">\": c is bad"]);
}
