use proptest::prelude::*;

use super::*;
use crate::arrival::fixtures::{any_payload, error};
use crate::attempt::Attempt;

const ENTRY: &str = concat!(
    r#"{"status_code":503,"message":"try \"again\"\r\nlater","stack_trace":"a\nb","#,
    r#""date":"2026-11-21T04:00:00.000Z"}"#
);

#[track_caller]
fn check(before: &str, after: &str) {
    let before = format!(r#"{{"id":"1","queue":"q","dispatch_date":"d","payload":1{before}}}"#);
    let after = format!(r#"{{"id":"1","queue":"q","dispatch_date":"d","payload":1{}}}"#, after.replace('E', ENTRY));
    let written = with_error(before.as_bytes(), &error(Attempt::FIRST)).expect("is a queue message");
    assert_eq!(std::str::from_utf8(&written).expect("is UTF-8"), after);
}

#[test]
fn the_error_is_appended_and_all_else_stays() {
    check("", r#","error":[E]"#);
    check(r#","error":[]"#, r#","error":[E]"#);
    check(r#","error":null"#, r#","error":[E]"#);
    check(r#","error":[{"message" : "m"}],"x":1"#, r#","error":[{"message" : "m"},E],"x":1"#);
    check(r#","x":[ 1.0,1e400 , "\ud83d\ude00\/" ]"#, r#","x":[ 1.0,1e400 , "\ud83d\ude00\/" ],"error":[E]"#);
    check(r#","y":1,"y":2"#, r#","y":1,"y":2,"error":[E]"#);
}

#[test]
fn what_somebody_else_left_in_place_of_the_array_is_kept_as_its_first_entry() {
    check(r#","error":{"message":"m"}"#, r#","error":[{"message":"m"},E]"#);
    check(r#","error":"m""#, r#","error":["m",E]"#);
}

#[test]
fn of_two_arrays_the_one_that_readers_see_is_extended() {
    check(r#","error":[1],"error":[2]"#, r#","error":[1],"error":[2,E]"#);
}

#[test]
fn the_errors_do_not_make_the_message_grow_without_end() {
    let mut long = error(Attempt::FIRST);
    long.message = "m".repeat(1 << 20);
    long.stack_trace = Some("s".repeat(1 << 20));
    let mut message = Bytes::from_static(br#"{"id":"1","queue":"q","dispatch_date":"d","payload":1}"#);
    let mut count = 0;
    while let Some(longer) = with_error(&message, &long) {
        message = longer;
        count += 1;
        assert!(message.len() < 65 * 1024, "{} bytes after {count} errors", message.len());
    }
    assert!(count >= 10, "{count}");
}

proptest! {
    #[test]
    fn nothing_panics_and_the_payload_stays(payload in any_payload()) {
        let written = with_error(&payload, &error(Attempt::FIRST));
        prop_assert_eq!(written.is_some(), parse(&payload).is_ok());
        if let (Some(written), Ok(before)) = (written, parse(&payload)) {
            let after = parse(&written).expect("is still a queue message");
            prop_assert_eq!((before.id, before.payload.get()), (after.id, after.payload.get()));
        }
    }
}
