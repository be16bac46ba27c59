//! The forms of strings: names, addresses, references, subjects.
//!
//! No message repeats the text it is about: it may come from the environment. The place is shown with it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use super::contract::SchemaBy;
use super::expand::is_variable_name;
use super::keys::Text;
use super::latest::OrderTime;
use super::order::OrderKey;
use super::problem::{Complaint, nearest};
use super::read::Value;
use super::resolved::{BUCKET_SCHEME, RateLimit, SecretRef};
use super::units;
use crate::headers;
use crate::reach::{HttpGrant, KeyGrant};
use crate::subject::{self, SubjectError};

/// The longest path, or text of no special form, in bytes.
const TEXT_BYTES_MAX: usize = 4096;
/// The longest name of a stream or a consumer, in bytes, that `JetStream` allows.
const JETSTREAM_NAME_BYTES_MAX: usize = 255;
const PREFIX_BYTES_MAX: usize = 32;
/// The longest name of a bucket, in bytes: its stream's name has 4 more.
const BUCKET_BYTES_MAX: usize = JETSTREAM_NAME_BYTES_MAX - 4;
/// The longest name of a handler or a policy, in bytes.
const NAME_BYTES_MAX: usize = 64;

const ATTRIBUTE_HINT: &str =
    "an attribute of CloudEvents has lower-case letters and digits only, as in \"ce:tenantid\"";
const RATE_HINT: &str = "write a whole number from 1 to 1000000, \"/\" and a unit, as in \"10/min\"";

/// Reads `text` as what `form` says.
pub(super) fn read(form: Text, text: &str) -> Result<Value, Complaint> {
    let held = |condition: bool| {
        if condition { Ok(Value::Text(text.to_owned())) } else { Err(must_be(form)) }
    };
    match form {
        Text::Any | Text::Path | Text::Policy => {
            held((1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.contains('\0'))
        }
        Text::Plugins => plugins(text).map(Value::Text),
        Text::Prefix => held(is_prefix(text)),
        Text::JetStream => jetstream_name(text).map(Value::Text),
        Text::Url => url(text).map(Value::Text),
        Text::Listen => listen(text).map(Value::Text),
        Text::Secret => secret(text).map(Value::Secret),
        Text::Subject => own_subject(text, subject::check_subject(text)).map(Value::Text),
        Text::Pattern => own_subject(text, subject::check_pattern(text)).map(Value::Text),
        Text::DedupKey => dedup_key(text).map(Value::Text),
        Text::SchemaBy => part_of_event(form, text, SchemaBy::parse(text).is_some()).map(Value::Text),
        Text::OrderKey => part_of_event(form, text, OrderKey::parse(text).is_some()).map(Value::Text),
        Text::OrderTime => part_of_event(form, text, OrderTime::parse(text).is_some()).map(Value::Text),
        Text::Rate => match RateLimit::parse_rate(text) {
            Some(_) => Ok(Value::Text(text.to_owned())),
            None => Err(must_be(form).hint(RATE_HINT)),
        },
        Text::HttpGrant => granted(text, form, HttpGrant::parse(text).err()),
        Text::KeyGrant => granted(text, form, KeyGrant::parse(text).err()),
        Text::Choice(names) => {
            held(names.contains(&text)).map_err(|complaint| match nearest(text, names.iter().copied()) {
                Some(name) => complaint.hint(format!("did you mean \"{name}\"?")),
                None => complaint,
            })
        }
        Text::Duration { min, max } => match units::duration(text)? {
            duration if (min..=max).contains(&duration) => Ok(Value::Duration(duration)),
            _ => Err(must_be(form)),
        },
        Text::Size { min, max } => match units::size(text)? {
            bytes if (min..=max).contains(&bytes) => Ok(Value::Integer(bytes)),
            _ => Err(must_be(form)),
        },
    }
}

fn must_be(form: Text) -> Complaint {
    Complaint::new(format!("must be {}", form.describe()))
}

/// Whether a handler may have this name.
pub fn is_handler_name(name: &str) -> bool {
    check_name(name).is_ok()
}

/// Checks the name of a handler or a policy.
pub(super) fn check_name(name: &str) -> Result<(), Complaint> {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let fine = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(letters);
    if fine {
        Ok(())
    } else {
        Err(Complaint::new("is no name for a handler or a policy")
            .hint("use 1 to 64 of a-z, 0-9, \"-\" and \"_\", starting with a letter"))
    }
}

fn is_prefix(text: &str) -> bool {
    (1..=PREFIX_BYTES_MAX).contains(&text.len()) && is_plain(text)
}

/// Whether there are letters, digits, `-` and `_` only.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

fn plugins(text: &str) -> Result<String, Complaint> {
    match text.strip_prefix(BUCKET_SCHEME) {
        Some(bucket) => check_bucket(bucket).map(|()| text.to_owned()),
        None => match read(Text::Path, text) {
            Ok(_) => Ok(text.to_owned()),
            Err(_) => Err(must_be(Text::Plugins)),
        },
    }
}

/// Checks the name of a bucket.
pub(super) fn check_bucket(bucket: &str) -> Result<(), Complaint> {
    if (1..=BUCKET_BYTES_MAX).contains(&bucket.len()) && is_plain(bucket) {
        return Ok(());
    }
    let hint = format!(
        "a bucket's name has 1 to {BUCKET_BYTES_MAX} letters, digits, \"-\" and \"_\", as in \"{BUCKET_SCHEME}plugins\""
    );
    Err(Complaint::new("does not name a bucket after \"nats:\"").hint(hint))
}

fn jetstream_name(text: &str) -> Result<String, Complaint> {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '/' | '\\');
    if (1..=JETSTREAM_NAME_BYTES_MAX).contains(&text.len()) && !text.contains(forbidden) {
        Ok(text.to_owned())
    } else {
        Err(must_be(Text::JetStream).hint("use 1 to 255 bytes without blanks, \".\", \"*\", \">\", \"/\" and \"\\\""))
    }
}

fn own_subject(text: &str, checked: Result<(), SubjectError>) -> Result<String, Complaint> {
    if let Err(error) = checked {
        return Err(Complaint::new(format!("is no usable subject: {error}")));
    }
    if subject::is_internal(text) {
        let message = "must not be a subject of NATS itself, which start with \"$\" or \"_\"";
        return Err(Complaint::new(message));
    }
    Ok(text.to_owned())
}

fn secret(text: &str) -> Result<SecretRef, Complaint> {
    match text.split_once(':') {
        Some(("env", name)) if is_variable_name(name) => Ok(SecretRef::Env(name.to_owned())),
        Some(("env", _)) => Err(Complaint::new("does not name an environment variable after \"env:\"")
            .hint("use letters, digits and \"_\", not starting with a digit")),
        Some(("file", path)) if !path.is_empty() && !path.contains('\0') => Ok(SecretRef::File(PathBuf::from(path))),
        Some(("file", _)) => Err(Complaint::new("does not name a file after \"file:\"")),
        _ => Err(Complaint::new("must be a reference to a secret, never the secret itself").hint(
            "put the secret into an environment variable or a file and write \"env:NAME\" or \
             \"file:path\"; a secret that was saved here should be replaced",
        )),
    }
}

fn granted(text: &str, form: Text, error: Option<impl fmt::Display>) -> Result<Value, Complaint> {
    match error {
        None => Ok(Value::Text(text.to_owned())),
        Some(error) => Err(must_be(form).hint(error.to_string())),
    }
}

fn dedup_key(text: &str) -> Result<String, Complaint> {
    let fine = match text.split_once(':') {
        None => matches!(text, "none" | "id"),
        Some(("header", name)) => is_header(name),
        Some(("ce", name)) => is_attribute(name),
        Some(("json", pointer)) => is_json_pointer(pointer),
        Some(_) => false,
    };
    if fine {
        return Ok(text.to_owned());
    }
    let complaint = must_be(Text::DedupKey);
    Err(match text.split_once(':') {
        Some(("header", name)) if headers::is_reserved(name) => {
            complaint.hint("Nats-Msg-Id is what \"id\" stands for, unless the event brings an id of its own")
        }
        Some(("json", _)) => complaint.hint("a JSON pointer starts with \"/\", as in \"json:/order/id\""),
        Some(("ce", _)) => complaint.hint(ATTRIBUTE_HINT),
        _ => complaint,
    })
}

/// Reads what names a part of an event.
fn part_of_event(form: Text, text: &str, is_known: bool) -> Result<String, Complaint> {
    match text.split_once(':') {
        Some(("header", name)) if !is_header(name) => Err(must_be(form)),
        Some(("ce", name)) if !is_attribute(name) => Err(must_be(form).hint(ATTRIBUTE_HINT)),
        Some(("json", pointer)) if !is_json_pointer(pointer) => {
            Err(must_be(form).hint("a JSON pointer starts with \"/\", as in \"json:/order/id\""))
        }
        Some(("subject", _)) if !is_known => {
            Err(must_be(form).hint("tokens of a subject are counted from 1, as in \"subject:2\""))
        }
        _ if is_known => Ok(text.to_owned()),
        _ => Err(must_be(form)),
    }
}

/// Whether `name` is a header that handlers get to see.
fn is_header(name: &str) -> bool {
    headers::is_valid_name(name) && !headers::is_reserved(name)
}

/// Whether `name` is an attribute of `CloudEvents`.
fn is_attribute(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// Whether `text` is a JSON pointer (RFC 6901).
fn is_json_pointer(text: &str) -> bool {
    let escapes_are_known = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    (text.is_empty() || text.starts_with('/')) && text.len() <= TEXT_BYTES_MAX && escapes_are_known
}

fn url(text: &str) -> Result<String, Complaint> {
    let complaint = must_be(Text::Url);
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    if rest.contains('@') {
        return Err(Complaint::new("must not contain a user, password or token")
            .hint("use \"nats.user\" and \"nats.password\", or \"nats.token\""));
    }
    match scheme {
        Some("nats" | "tls") | None => {}
        Some("ws" | "wss") => {
            return Err(complaint.hint("WebSocket is not supported; use \"nats://\" or \"tls://\""));
        }
        Some(_) => return Err(complaint.hint("use \"nats://host:port\" or \"tls://host:port\"")),
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let complete = host_and_port(authority).is_some();
    let portless = scheme.is_some() && is_host(authority);
    if complete || portless {
        Ok(text.to_owned())
    } else {
        Err(complaint.hint("write \"nats://host:port\", \"tls://host:port\" or \"host:port\""))
    }
}

fn listen(text: &str) -> Result<String, Complaint> {
    if text == "off" {
        return Ok(text.to_owned());
    }
    let Some((host, _)) = host_and_port(text) else {
        return Err(must_be(Text::Listen).hint("write for example \"127.0.0.1:7070\""));
    };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if host == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
        Ok(text.to_owned())
    } else {
        Err(Complaint::new(
            "must be a loopback address: the API has no token yet, so anyone in the network could use it",
        )
        .hint("write \"127.0.0.1:7070\" and put a proxy with authentication in front"))
    }
}

/// Splits `host:port`; an IPv6 address stands in brackets.
fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let digits = port.chars().all(|c| c.is_ascii_digit());
    let port = port.parse().ok().filter(|_| digits)?;
    is_host(host).then_some((host, port))
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6());
    }
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !host.is_empty() && host.chars().all(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fine(form: Text, texts: &[&str]) {
        for text in texts {
            assert!(read(form, text).is_ok(), "{form:?} {text:?}");
        }
    }

    fn refused(form: Text, texts: &[&str]) {
        for text in texts {
            assert!(read(form, text).is_err(), "{form:?} {text:?}");
        }
    }

    #[test]
    fn addresses() {
        let urls = ["nats://127.0.0.1:4222", "tls://nats.example", "nats://[::1]:4222", "localhost:4222"];
        fine(Text::Url, &urls);
        let urls =
            ["", "localhost", "nats://", "nats://h:99999", "http://h:80", "nats://u:p@h:1", "h:+1", "nats://h/x"];
        refused(Text::Url, &urls);
        fine(Text::Listen, &["off", "127.0.0.1:0", "localhost:80", "[::1]:7070"]);
        refused(Text::Listen, &["", ":7070", "127.0.0.1", "0.0.0.0:7070", "[::]:7070", "example.org:80"]);
    }

    #[test]
    fn references_and_names() {
        fine(Text::Secret, &["env:A_1", "file:/run/secrets/x", "file:a b"]);
        refused(Text::Secret, &["", "env:", "env:1A", "env:A-B", "file:", "s3cret", "ENV:A"]);
        fine(Text::JetStream, &["ORDERS", "tidemill-mail"]);
        refused(Text::JetStream, &["", "a b", "a.b", "a*", "a>", "a/b", "a\\b"]);
        fine(Text::Plugins, &["plugins", "/srv/x", "nats/x", "nats:plugins", "nats:A-1_b"]);
        refused(Text::Plugins, &["", "nats:", "nats:a.b", "nats:a/b", "nats: a", "nats://a"]);
        assert!(read(Text::Plugins, &format!("nats:{}", "b".repeat(252))).is_err());
        fine(Text::Prefix, &["tidemill", "A-1_b"]);
        refused(Text::Prefix, &["", "a.b", "123456789012345678901234567890123"]);
        refused(Text::Subject, &["$JS.API", "_INBOX.x", "a.*"]);
        fine(Text::Pattern, &["a.*", ">"]);
        fine(Text::DedupKey, &["none", "id", "header:X-Order", "ce:tenantid", "json:", "json:/a/b~1c"]);
        refused(
            Text::DedupKey,
            &[
                "",
                "ID",
                "header:",
                "header:a b",
                "header:Nats-Msg-Id",
                "ce:",
                "ce:tenantId",
                "json:a",
                "json:/~2",
                "x:y",
            ],
        );
        fine(Text::SchemaBy, &["dataschema", "header:X-Version", "ce:version"]);
        refused(Text::SchemaBy, &["", "header:", "header:a b", "header:Nats-Msg-Id", "ce:", "ce:a-b", "json:/version"]);
        fine(Text::OrderKey, &["header:X-User", "ce:subject", "json:/user", "subject:1", "subject:12"]);
        refused(
            Text::OrderKey,
            &["", "id", "subject:", "subject:0", "subject:+1", "subject:1000", "json:a", "header:a b", "ce:", "ce:A"],
        );
        fine(Text::OrderTime, &["event", "header:X-Time", "ce:time", "json:/updated_at"]);
        refused(Text::OrderTime, &["", "now", "subject:1", "json:a", "header:Nats-Time-Stamp", "ce:a_b"]);
        fine(Text::HttpGrant, &["https://api.example", "GET,POST http://localhost:8080/v1/"]);
        refused(Text::HttpGrant, &["", "api.example", "https://a@b", "https://a/?b", "CONNECT https://a"]);
        fine(Text::KeyGrant, &["templates", "read counters/orders."]);
        refused(Text::KeyGrant, &["", "a.b", "a/", "write a"]);
        assert!(check_name("welcome-email_2").is_ok());
        for name in ["", "2a", "A", "a.b", "a b", &"a".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
