use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn compile_text(text: &str) -> Result<Schema, SchemaError> {
    let path = Path::new("/etc/tm/a.json");
    Schema::compile("a.json", path, &[(path.to_owned(), text.to_owned())].into())
}

fn compiled(schema: &Value) -> Schema {
    compile_text(&schema.to_string()).expect("a valid schema")
}

#[track_caller]
fn says(schema: &Value, payload: &str, expected: &str) {
    let said = compiled(schema).check(payload.as_bytes()).err().unwrap_or_default();
    assert_eq!(said, expected, "{schema} {payload}");
}

#[test]
fn offences_are_told_with_their_places_and_without_the_payloads_values() {
    let person = json!({
        "type": "object",
        "required": ["name"],
        "additionalProperties": false,
        "properties": { "name": { "type": "string", "minLength": 1 }, "mail": { "format": "email" },
                        "tags": { "items": { "enum": ["a", "b"] }, "uniqueItems": true } },
    });
    says(&person, r#"{"name": "Ada", "mail": "ada@example.org", "tags": ["a", "b"]}"#, "");
    says(&person, r#"["s3cret"]"#, "does not fit a.json: the whole: it is not of type \"object\"");
    says(
        &person,
        r#"{"mail": "s3cret"}"#,
        "does not fit a.json: /mail: it is not a \"email\"; the whole: \"name\" is a required property",
    );
    says(
        &person,
        r#"{"name": "Ada", "tags": ["a", "s3cret"]}"#,
        "does not fit a.json: /tags/1: it is not one of \"a\" or \"b\"",
    );
    says(&person, r#"{"name": "Ada", "tags": ["a", "a"]}"#, "does not fit a.json: /tags: it has non-unique elements");
    says(
        &person,
        r#"{"name": "Ada", "x": 1}"#,
        "does not fit a.json: the whole: Additional properties are not allowed ('x' was unexpected)",
    );
    let names = json!({ "propertyNames": { "maxLength": 2 } });
    let long = "does not fit a.json: the whole: the name of a property is longer than 2 characters";
    says(&names, r#"{"s3cret": 1}"#, long);
    let closed = json!({ "prefixItems": [true], "unevaluatedItems": false });
    let more = "does not fit a.json: the whole: Unevaluated items are not allowed (1 item)";
    says(&closed, r#"[1, "s3cret"]"#, more);
    says(&person, "Ada", "is not JSON, as a.json wants it: expected value at line 1 column 1");
    says(&person, "", "is not JSON, as a.json wants it: EOF while parsing a value at line 1 column 0");
    says(
        &json!({ "items": [{}, {}], "additionalItems": false, "$schema": "http://json-schema.org/draft-07/schema#" }),
        "[1, 2, 3]",
        "does not fit a.json: the whole: more than 2 items",
    );
}

#[test]
fn only_the_first_offences_are_told_and_the_others_counted() {
    let numbers = json!({ "items": { "type": "number" } });
    let strings = |count: usize| format!("[{}]", vec!["\"a\""; count].join(","));
    let told = (0..5).map(|index| format!("/{index}: it is not of type \"number\"")).collect::<Vec<_>>().join("; ");
    says(&numbers, &strings(5), &format!("does not fit a.json: {told}"));
    says(&numbers, &strings(1000), &format!("does not fit a.json: {told}, and 995 more"));
    says(&numbers, &strings(1001), &format!("does not fit a.json: {told}, and more"));
    says(&numbers, &strings(300_000), &format!("does not fit a.json: {told}, and more"));
    let long = "k".repeat(100_000);
    let nested = format!(r#"{{"{long}": {{"{long}": 1, "{long}2": 1, "ü{long}": 2}}}}"#);
    let closed = json!({ "additionalProperties": { "additionalProperties": false } });
    let said = compiled(&closed).check(nested.as_bytes()).expect_err("additional properties");
    assert!(said.len() < 300, "{said}");
}

/// Two alternatives that both look into the children: `alternatives` to the power of the depth, if every way is gone.
fn tree() -> Value {
    let branch = |op: &str| {
        json!({ "type": "object", "required": ["op"],
                "properties": { "op": { "const": op }, "left": { "$ref": "#" }, "right": { "$ref": "#" } } })
    };
    json!({ "anyOf": [{ "type": "number" }, branch("+"), branch("-"), branch("*")] })
}

fn chain(depth: usize, end: &str) -> String {
    (0..depth).fold(end.to_owned(), |inner, _| format!(r#"{{"op":"+","left":{inner},"right":1}}"#))
}

#[test]
fn a_payload_that_would_take_for_ever_is_given_up() {
    let schema = compiled(&tree());
    assert_eq!(schema.check(chain(100, "1").as_bytes()), Ok(()));
    let begun = Instant::now();
    let said = schema.check(chain(100, "\"x\"").as_bytes()).expect_err("it does not fit");
    assert!(said.starts_with("does not fit a.json"), "{said}");
    assert!(begun.elapsed() < Duration::from_mins(1), "took {:?}", begun.elapsed());

    let slow = json!({ "$ref": "#/$defs/a", "$defs": {
        "a": { "anyOf": [{ "properties": { "left": { "unevaluatedProperties": { "$ref": "#/$defs/a" } } } }] },
    } });
    let _ = compiled(&slow).check(chain(60, "1").as_bytes());
}

#[test]
fn where_the_measure_is_used_up_nothing_is_believed() {
    let document = json!([1, [2, [3]], { "a": 4 }]);
    let schema = compiled(&json!({ "items": { "type": ["number", "array", "object"] } }));
    let valid = |steps: u64| {
        let walk = Walk::new(steps, u32::MAX);
        let is_valid = schema.validator.is_valid(Place::new(&document, &walk));
        (!walk.is_cut()).then_some(is_valid)
    };
    assert_eq!((valid(0), valid(3), valid(1000)), (None, None, Some(true)));
}

#[test]
fn patterns_take_linear_time() {
    let schema = compiled(&json!({ "pattern": "^(a+)+$" }));
    let payload = format!("\"{}!\"", "a".repeat(200_000));
    let said = schema.check(payload.as_bytes()).expect_err("it does not match");
    assert_eq!(said, "does not fit a.json: the whole: it does not match \"^(a+)+$\"");
    let error = compile_text(r#"{ "properties": { "a": { "pattern": "(?=a)b" } } }"#).expect_err("look-ahead");
    let SchemaError::Invalid(why) = error else { panic!("{error:?}") };
    assert!(why.starts_with("a.json is not a valid schema at ") && why.ends_with("nor back-references"), "{why}");
}

#[test]
fn what_is_no_schema_is_refused_with_the_place() {
    #[track_caller]
    fn check(text: &str, expected: &str) {
        match compile_text(text).expect_err("no schema") {
            SchemaError::Invalid(why) => assert!(why.starts_with(expected), "{why}"),
            wanted @ SchemaError::Wanted(_) => panic!("{wanted:?}"),
        }
    }
    check("", "a.json is not JSON: EOF while parsing a value at line 1 column 0");
    check("1", "a.json is not a valid schema: 1 is not");
    check(
        r#"{ "properties": { "a": { "type": "text" } } }"#,
        "a.json is not a valid schema at /properties/a/type: \"text\" is not valid under any",
    );
    check(r#"{ "items": { "minimum": "1" } }"#, "a.json is not a valid schema at /items/minimum: \"1\" is not");
    check(r##"{ "$ref": "#/$defs/none" }"##, "a.json is not a valid schema");
    check(r#"{ "$ref": "http://example.org/x.json" }"#, "a.json refers to http://example.org/x.json, and nothing");
    check(r#"{ "$id": "https://example.org/a", "$ref": "b" }"#, "a.json refers to https://example.org/b, and");
    check(r#"{ "$schema": "https://example.org/meta" }"#, "a.json is not a valid schema: Unknown meta-schema");
    check(r#"{ "$ref": "urn:x:y" }"#, "a.json refers to urn:x:y, and nothing");
}

#[test]
fn files_that_are_referred_to_are_asked_for_one_at_a_time() {
    let wanted = |path: &str| SchemaError::Wanted(path.into());
    assert_eq!(compile_text(r#"{ "$ref": "b%20c.json" }"#).expect_err("a file is missing"), wanted("/etc/tm/b c.json"));
    assert_eq!(compile_text(r#"{ "$ref": "../b.json#/x" }"#).expect_err("a file is missing"), wanted("/etc/b.json"));
    let path = Path::new("/etc/tm/a.json");
    assert_eq!(Schema::compile("a", path, &BTreeMap::new()).expect_err("nothing is there"), wanted("/etc/tm/a.json"));
}

#[test]
fn references_within_a_document_and_that_recur_for_ever_end() {
    let schema = json!({ "$defs": { "n": { "type": "number" } }, "items": { "$ref": "#/$defs/n" } });
    says(&schema, "[1]", "");
    says(&schema, "[\"a\"]", "does not fit a.json: /0: it is not of type \"number\"");
    says(&json!({ "$ref": "#" }), "1", "");
    says(&json!({ "allOf": [{ "$ref": "#" }, { "type": "string" }] }), "\"a\"", "");
}

/// JSON values, nested to some depth.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        let keys = prop_oneof![Just("op".to_owned()), Just("left".to_owned()), "[a-c]{1,2}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(keys, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn schemas() -> Vec<Value> {
    vec![
        tree(),
        json!({ "type": "object", "properties": { "a": { "type": "integer", "multipleOf": 0.1 } },
                "patternProperties": { "^b": { "format": "date-time" } }, "unevaluatedProperties": false }),
        json!({ "items": { "$ref": "#" }, "uniqueItems": true, "contains": { "const": 1.5 }, "maxItems": 3 }),
        json!({ "propertyNames": { "maxLength": 2, "pattern": "^[a-z]+$" }, "additionalProperties": { "$ref": "#" } }),
        json!({ "not": { "type": "string" }, "if": { "type": "array" }, "then": { "prefixItems": [{ "enum": [1, "a"] }] },
                "else": { "oneOf": [{ "minimum": 0 }, { "maximum": 100 }, { "format": "regex" }] } }),
        json!(false),
    ]
}

proptest! {
    #[test]
    fn the_measure_changes_no_verdict_and_offences_are_bounded(payload in values()) {
        for schema in schemas() {
            let said = compiled(&schema).check(payload.to_string().as_bytes());
            let expected = jsonschema::options().should_validate_formats(true).build(&schema).expect("a schema");
            prop_assert_eq!(said.is_ok(), expected.is_valid(&payload), "{} {:?}", schema, said);
            prop_assert!(said.err().unwrap_or_default().len() < 1024);
        }
    }

    #[test]
    fn noise_is_an_offence_and_nothing_panics(payload in any::<Vec<u8>>(), text in any::<String>()) {
        let schema = compiled(&json!(false));
        prop_assert!(schema.check(&payload).is_err());
        let _ = (compile_text(&text), schema.check(text.as_bytes()));
    }

    #[test]
    fn any_json_is_taken_for_a_schema_or_refused(schema in values(), payload in values()) {
        if let Ok(schema) = compile_text(&schema.to_string()) {
            let _ = schema.check(payload.to_string().as_bytes());
        }
    }

    #[test]
    fn a_path_survives_its_uri(path in "/[^\0]{0,20}") {
        prop_assert_eq!(path_of(&uri_of(Path::new(&path))), Some(PathBuf::from(path)));
    }
}
