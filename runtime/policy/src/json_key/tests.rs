use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn key(text: &str, kind: JsonKind) -> Key {
    Key { text: text.to_owned(), kind }
}

fn string(text: &str) -> Key {
    key(text, JsonKind::String)
}

fn number(text: &str) -> Key {
    key(text, JsonKind::Number)
}

#[track_caller]
fn finds(document: impl AsRef<[u8]>, expected: Key) {
    let document = document.as_ref();
    assert_eq!(find(document, "/id"), Ok(Some(expected)), "{}", String::from_utf8_lossy(document));
}

#[track_caller]
fn cannot_read(document: impl AsRef<[u8]>) -> Unreadable {
    let document = document.as_ref();
    find(document, "/id").expect_err(&String::from_utf8_lossy(document))
}

#[test]
fn a_number_is_what_is_written() {
    let texts = [
        "0",
        "-0",
        "0.0",
        "1",
        "1.0",
        "1e0",
        "1E0",
        "1e+0",
        "10",
        "18446744073709551616",
        "18446744073709551617",
        "-18446744073709551616",
        "1e400",
        "0.1000000000000000055511151231257827",
        &"9".repeat(5000),
    ];
    for text in texts {
        finds(format!(r#"{{"id":{text}}}"#), number(text));
        finds(format!(r#"{{"id": {text} ,"a":1}}"#), number(text));
    }
}

#[test]
fn a_string_is_what_it_stands_for() {
    finds(r#"{"id":"a\"\\\/\b\f\n\r\t"}"#, string("a\"\\/\u{8}\u{c}\n\r\t"));
    finds(r#"{"id":"\u00e9\u00E9é"}"#, string("ééé"));
    finds(r#"{"id":"\ud83d\ude00"}"#, string("😀"));
    finds(r#"{"id":"\\ud83d"}"#, string("\\ud83d"));
    finds(r#"{"\u0069d":"x"}"#, string("x"));
    finds(r#"{"id":""}"#, string(""));
    finds(r#"{"id":true}"#, key("true", JsonKind::Boolean));
    finds(r#"{"id":false}"#, key("false", JsonKind::Boolean));
}

#[test]
fn what_parsers_in_use_accept_beside_the_key_does_no_harm() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let objects = format!("{}1{}", "{\"id\":".repeat(50_000), "}".repeat(50_000));
    finds("\u{feff}{\"id\":7}", number("7"));
    finds(format!(r#"{{"a":{deep},"id":7}}"#), number("7"));
    finds(format!(r#"{{"id":7,"a":{deep}}}"#), number("7"));
    finds(format!(r#"{{"a":{objects},"id":7}}"#), number("7"));
    finds(r#"{"a":"\ud83d","\udead":"\udead\ud83d","id":7}"#, number("7"));
    finds(b"{\"a\":\"\xff\xfe\",\"\xff\":1,\"id\":7}", number("7"));
    finds(r#"{"a":[NaN,Infinity,-Infinity],"id":7}"#, number("7"));
}

#[test]
fn of_several_members_of_one_name_the_last_counts() {
    finds(r#"{"id":1,"id":2}"#, number("2"));
    finds(r#"{"id":1,"a":{"id":3},"\u0069\u0064":2}"#, number("2"));
    for document in [r#"{"id":1,"id":null}"#, r#"{"id":1,"id":[2]}"#, r#"{"id":1,"id":{"id":2}}"#] {
        assert_eq!(find(document.as_bytes(), "/id"), Ok(None), "{document}");
    }
    // An outer member that comes again takes the inner ones with it.
    assert_eq!(find(br#"{"a":{"b":1},"a":{"c":2}}"#, "/a/b"), Ok(None));
    assert_eq!(find(br#"{"a":{"b":1},"a":2}"#, "/a/b"), Ok(None));
    assert_eq!(find(br#"{"a":2,"a":{"b":1}}"#, "/a/b"), Ok(Some(number("1"))));
}

#[test]
fn a_document_without_the_key_has_none() {
    for document in ["{}", "[]", "1", "null", r#"{"ID":1}"#, r#"{"a":{"id":1}}"#, r#"[{"id":1}]"#, r#"{"id":{}}"#] {
        assert_eq!(find(document.as_bytes(), "/id"), Ok(None), "{document}");
    }
    assert_eq!(find(b" 7 ", ""), Ok(Some(number("7"))));
    assert_eq!(find(br#"{"":{"":1}}"#, "//"), Ok(Some(number("1"))));
    assert_eq!(find(br#"{"a/b":{"m~n":1}}"#, "/a~1b/m~0n"), Ok(Some(number("1"))));
    let list = br#"{"a":[[0],[1,"x"],[2]]}"#;
    assert_eq!(find(list, "/a/1/1"), Ok(Some(string("x"))));
    for pointer in ["/a/01/0", "/a/+1/0", "/a/-/0", "/a/3/0", "/a/1/2", "/a/1/1/0", "/a/18446744073709551617/0"] {
        assert_eq!(find(list, pointer), Ok(None), "{pointer}");
    }
}

#[test]
fn a_key_that_is_no_text_or_no_number_cannot_be_read() {
    for half in [r"\ud83d", r"\ude00", r"\ud83dx", r"\ud83d\ud83d", r"\ud83d\n", r"\ude00\ud83d", r"a\uDFFF"] {
        assert_eq!(cannot_read(format!(r#"{{"id":"{half}"}}"#)), Unreadable::LoneSurrogate, "{half}");
    }
    assert_eq!(cannot_read(b"{\"id\":\"\xff\"}"), Unreadable::NotUtf8);
    // A surrogate that is written as if it were a character.
    assert_eq!(cannot_read(b"{\"id\":\"\xed\xa0\xbd\"}"), Unreadable::NotUtf8);
    assert_eq!(cannot_read(r#"{"id":NaN}"#), Unreadable::NoNumber("NaN"));
    assert_eq!(cannot_read(r#"{"id":-Infinity}"#), Unreadable::NoNumber("-Infinity"));
    // Only the last one counts.
    finds(r#"{"id":"\ud83d","id":7}"#, number("7"));
}

#[test]
fn what_is_not_json_has_no_key_and_says_where_it_ends() {
    let rows = [
        ("", "its end", 0),
        ("\u{feff}", "its end", 3),
        ("{", "its end", 1),
        (r#"{"id""#, "its end", 5),
        (r#"{"id":1"#, "its end", 7),
        (r#"{"id":1}x"#, "something behind its end", 8),
        (r#"{"id":1,}"#, "no string", 8),
        (r#"{"id":01}"#, "neither a comma nor a closing bracket", 7),
        (r#"{"id":+1}"#, "no value", 6),
        (r#"{"id":1.}"#, "no digit behind the point", 8),
        (r#"{"id":1e}"#, "no digit in the exponent", 8),
        (r#"{"id":nul}"#, "no value", 6),
        (r#"{"id":"a\x"}"#, "an unknown escape", 9),
        (r#"{"id":"\u12g4"}"#, "an escape without four digits", 8),
        ("{\"id\":\"a\nb\"}", "a control character in a string", 8),
        (r#"{"id":[1}}"#, "neither a comma nor a closing bracket", 8),
        (r#"{"id" 1}"#, "no colon", 6),
        ("{'id':1}", "no string", 1),
        ("\u{fffe}", "no value", 0),
    ];
    for (document, what, at) in rows {
        assert_eq!(cannot_read(document), Unreadable::NoJson { what, at }, "{document}");
    }
    for (open, close) in [("[", ""), ("{\"a\":", ""), ("[", "}")] {
        let document = format!("{}{}", open.repeat(200_000), close.repeat(200_000));
        assert!(matches!(cannot_read(document), Unreadable::NoJson { .. }), "{open}{close}");
    }
}

#[test]
fn a_string_is_in_quotes_where_it_could_be_another_key() {
    let rows = [
        (string("o-4711"), "o-4711"),
        (string("1"), "\"1\""),
        (string("-1.5e3"), "\"-1.5e3\""),
        (string("1 "), "1 "),
        (string("01"), "01"),
        (string("1a"), "1a"),
        (string("true"), "\"true\""),
        (string("null"), "null"),
        (string("\"1\""), "\"\\\"1\\\"\""),
        (string(""), "\"\""),
        (number("1"), "1"),
        (key("true", JsonKind::Boolean), "true"),
    ];
    for (key, expected) in rows {
        assert_eq!(key.canonical(), expected, "{key:?}");
    }
}

/// A number as it may be written.
fn any_number() -> impl Strategy<Value = String> {
    "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,3})?"
}

fn any_key() -> impl Strategy<Value = Key> {
    prop_oneof![
        any::<String>().prop_map(|text| string(&text)),
        any_number().prop_map(|text| string(&text)),
        "\"?(true|1|)\"?".prop_map(|text| string(&text)),
        any_number().prop_map(|text| number(&text)),
        any::<bool>().prop_map(|value| key(&value.to_string(), JsonKind::Boolean)),
    ]
}

/// Documents with few names, so that pointers lead somewhere.
fn any_document() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any_number(),
        any::<String>().prop_map(|text| serde_json::to_string(&text).expect("a string")),
        Just("\"\\u0061\\ud83d\\ude00\"".to_owned()),
        Just("true".to_owned()),
        Just("null".to_owned()),
    ];
    leaf.prop_recursive(6, 40, 5, |inner| {
        let name = prop_oneof![Just("a"), Just("b"), Just("\\u0061"), Just("0"), Just(""), Just("~")];
        let members = prop::collection::vec((name, inner.clone()), 0..5).prop_map(|members| {
            let members: Vec<_> = members.iter().map(|(name, value)| format!(" \"{name}\" : {value}\n")).collect();
            format!("{{{}}}", members.join(","))
        });
        let list = prop::collection::vec(inner, 0..4).prop_map(|values| format!("[ {} ]", values.join(" , ")));
        prop_oneof![members, list]
    })
}

fn any_pointer() -> impl Strategy<Value = String> {
    let token = prop_oneof![Just("a"), Just("b"), Just("0"), Just("1"), Just("00"), Just(""), Just("~0")];
    prop::collection::vec(token, 0..4)
        .prop_map(|tokens| tokens.iter().map(|token| format!("/{token}")).collect::<Vec<_>>().concat())
}

/// What a parser that makes values finds.
fn expected(document: &Value, pointer: &str) -> Option<(JsonKind, String)> {
    match document.pointer(pointer)? {
        Value::String(text) => Some((JsonKind::String, text.clone())),
        Value::Bool(value) => Some((JsonKind::Boolean, value.to_string())),
        Value::Number(number) => Some((JsonKind::Number, number.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

proptest! {
    #[test]
    fn keys_have_one_text_each(one in any_key(), other in any_key()) {
        prop_assert_eq!(one == other, one.canonical() == other.canonical(), "{:?} {:?}", one, other);
    }

    #[test]
    fn numbers_are_one_key_where_they_are_one_text(one in any_number(), other in any_number()) {
        let found = |text: &str| find(format!(r#"{{"a":[{text}],"id":{text}}}"#).as_bytes(), "/id");
        prop_assert_eq!(found(&one), Ok(Some(number(&one))));
        prop_assert_eq!(one == other, found(&one) == found(&other));
    }

    #[test]
    fn whatever_a_parser_accepts_is_read_as_it_reads_it(document in any_document(), pointer in any_pointer()) {
        let Ok(parsed) = serde_json::from_str::<Value>(&document) else { return Ok(()) };
        let found = find(document.as_bytes(), &pointer).expect("a parser has read it");
        let Some(key) = found else {
            prop_assert_eq!(expected(&parsed, &pointer), None, "{}", document);
            return Ok(());
        };
        let (kind, text) = expected(&parsed, &pointer).expect("a parser has found it");
        prop_assert_eq!(key.kind, kind);
        if kind == JsonKind::Number {
            let value: Value = serde_json::from_str(&key.text).expect("a number");
            prop_assert_eq!(value.to_string(), text);
        } else {
            prop_assert_eq!(key.text, text);
        }
    }

    #[test]
    fn nothing_panics(document in prop::collection::vec(any::<u8>(), 0..60), pointer in any_pointer()) {
        let _ = find(&document, &pointer);
    }

    #[test]
    fn a_document_that_is_cut_off_or_damaged_never_panics(
        document in any_document(), pointer in any_pointer(), cut in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = document.into_bytes();
        let at = cut.index(bytes.len());
        bytes[at] = byte;
        let _ = find(&bytes, &pointer);
        let _ = find(&bytes[..at], &pointer);
    }
}
