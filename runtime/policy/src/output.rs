//! Which outputs of a handler may be published.

use crate::event::Output;
use crate::headers;
use crate::manifest::Allow;
use crate::subject;

/// The most headers that one output may have.
pub const OUTPUT_HEADERS_MAX: usize = 128;
/// The most bytes that the headers of one output may take, its kind and content type among them: what the server
/// refuses for its size, it refuses when other outputs are stored already.
pub const OUTPUT_HEADER_BYTES_MAX: usize = 16 * 1024;

/// Checks all outputs of an invocation against the handler's grants and against what can be sent at all.
///
/// # Errors
/// One sentence that names the output by its index and says why it is refused.
pub fn check(allow: &Allow, outputs: &[Output]) -> Result<(), String> {
    for (index, output) in outputs.iter().enumerate() {
        check_one(allow, output).map_err(|why| format!("output {index}: {why}"))?;
    }
    Ok(())
}

fn check_one(allow: &Allow, output: &Output) -> Result<(), String> {
    let name = output.subject.as_str();
    if let Err(error) = subject::check_subject(name) {
        return Err(format!("{name:?} is not a subject that can be published on: {error}"));
    }
    if !allow.publish.iter().any(|pattern| subject::matches(pattern, name)) {
        return Err(format!("subject {name:?} is not granted; add it to allow.publish of the handler"));
    }
    if output.headers.len() > OUTPUT_HEADERS_MAX {
        return Err(format!("{} headers, more than {OUTPUT_HEADERS_MAX}", output.headers.len()));
    }
    let attributes = [&output.kind, &output.content_type];
    let attribute_bytes: usize = attributes.into_iter().flatten().map(String::len).sum();
    let bytes = headers::wire_bytes(&output.headers) + attribute_bytes;
    if bytes > OUTPUT_HEADER_BYTES_MAX {
        return Err(format!("{bytes} bytes of headers, kind and content-type, more than {OUTPUT_HEADER_BYTES_MAX}"));
    }
    for (name, value) in &output.headers {
        if !headers::is_valid_name(name) {
            return Err(format!("header name {name:?} is not visible ASCII without a colon"));
        }
        if !headers::is_valid_value(value) {
            return Err(format!("the value of header {name:?} contains a line break or NUL"));
        }
    }
    if output.kind.as_deref() == Some("") {
        return Err("kind is empty, which no CloudEvent may have; leave it out for a plain message".into());
    }
    if attributes.into_iter().flatten().any(|value| !headers::is_valid_value(value)) {
        return Err("kind or content-type contains a line break or NUL".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(subject: &str, headers: &[(&str, &str)]) -> Output {
        Output {
            subject: subject.into(),
            kind: None,
            content_type: None,
            headers: headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            payload: bytes::Bytes::new(),
        }
    }

    #[track_caller]
    fn check_says(output: Output, expected: &str) {
        let allow = Allow { publish: vec!["mail.sent.>".into(), "out".into()], ..Allow::default() };
        let said = check(&allow, &[output]).err().unwrap_or_default();
        assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{said:?}");
    }

    #[test]
    fn only_granted_subjects_that_can_be_published_on_pass() {
        check_says(output("mail.sent.now", &[("X-Trace", "é")]), "");
        check_says(output("out", &[]), "");
        check_says(output("mail.sent", &[]), "allow.publish");
        check_says(output("$JS.API.STREAM.DELETE.X", &[]), "allow.publish");
        for subject in ["", "mail.sent.*", "mail.sent.>", "mail..sent", "mail.sent.a b", "mail.sent.a\r\nPUB x"] {
            check_says(output(subject, &[]), "not a subject");
        }
    }

    #[test]
    fn headers_that_would_break_the_protocol_are_refused() {
        check_says(output("out", &[("a", "b\r\nNats-Rollup: all")]), "line break");
        check_says(output("out", &[("a:b", "c")]), "header name");
        check_says(output("out", &[("", "c")]), "header name");
        check_says(output("out", &[("a", "b"); OUTPUT_HEADERS_MAX + 1]), "more than 128");
        check_says(output("out", &[("a", &"b".repeat(OUTPUT_HEADER_BYTES_MAX))]), "bytes of headers");
    }

    #[test]
    fn kind_and_content_type_are_held_to_the_rules_for_headers() {
        let with = |kind: &str, content_type: &str| {
            let (kind, content_type) = (Some(kind.to_owned()), Some(content_type.to_owned()));
            Output { kind, content_type, ..output("out", &[]) }
        };
        let long = "b".repeat(OUTPUT_HEADER_BYTES_MAX);
        check_says(with("mail.sent", "text/plain"), "");
        check_says(with("", "text/plain"), "kind is empty");
        check_says(with("a\nb", "text/plain"), "line break");
        check_says(with("a", "b\r\nNats-Rollup: all"), "line break");
        check_says(with(&long, "text/plain"), "bytes of headers");
        check_says(with("a", &long), "bytes of headers");
    }

    #[test]
    fn no_grant_means_no_output() {
        assert!(check(&Allow::default(), &[output("out", &[])]).is_err());
        assert!(check(&Allow::default(), &[]).is_ok());
    }
}
