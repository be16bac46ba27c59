//! Messages that NATS clients cannot read, by the rules of `async-nats`.
//!
//! A server stores whatever bytes a producer sends as a subject and as headers. At some of them the client library drops its
//! connection, and at a carriage return in a header it ends for good. What others have stored therefore comes in over
//! [`super::wire`], which takes any bytes; here it is told what of it is a message, and what is damaged. A damaged one is
//! handed to the pipeline with what can be read of it, which dead-letters it.

use std::borrow::Cow;
use std::str::FromStr;

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message as Answer, StatusCode, Subject};
use bytes::Bytes;
use tidemill_policy::arrival::Message;
use tidemill_policy::event::Headers;
use tidemill_policy::subject::can_be_sent_on;

use super::wire::Arrived;

/// What every header block begins with.
const VERSION: &str = "NATS/1.0";

/// What a header block says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Block {
    /// The status, which only a server's own answers have.
    pub status: Option<StatusCode>,
    /// What is said of the status.
    pub description: String,
    /// The headers, in the order in which they stand there.
    pub headers: Headers,
}

/// Reads a header block as the client does; an empty one is that of a message without headers.
///
/// # Errors
/// At what the client gives up.
pub fn read(raw: &[u8]) -> Result<Block, &'static str> {
    if raw.is_empty() {
        return Ok(Block::default());
    }
    let text = std::str::from_utf8(raw).map_err(|_| "its headers are not valid UTF-8")?;
    let mut lines = text.lines().peekable();
    let first = lines.next().and_then(|line| line.strip_prefix(VERSION)).map(str::trim);
    let first = first.ok_or("its headers do not begin with NATS/1.0")?;
    let (status, description) = first.split_once(' ').unwrap_or((first, ""));
    let status = match status.trim() {
        "" => None,
        status => Some(status.parse().map_err(|_| "its headers begin with a status that is none")?),
    };
    let mut headers = Headers::new();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let malformed = "a header is not of the form \"name: value\"";
        let (name, value) = line.split_once(':').ok_or(malformed)?;
        HeaderName::from_str(name).map_err(|_| malformed)?;
        let mut value = Cow::Borrowed(value.trim_start());
        while let Some(rest) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.to_mut().push_str(rest);
        }
        let value = value.trim_end();
        if value.contains('\r') {
            return Err("a header contains a carriage return");
        }
        headers.push((name.to_owned(), value.to_owned()));
    }
    Ok(Block { status, description: description.trim().to_owned(), headers })
}

/// What the client would stumble over in a stored message, or take for something else.
pub fn fault(subject: &[u8], raw: &[u8]) -> Option<&'static str> {
    check(subject, raw).err()
}

fn check<'a>(subject: &'a [u8], raw: &[u8]) -> Result<(&'a str, Headers), &'static str> {
    let subject = std::str::from_utf8(subject).map_err(|_| "its subject is not valid UTF-8")?;
    // Where there are headers, the client takes any white space for the end of the subject.
    if !raw.is_empty() && subject.contains(char::is_whitespace) {
        return Err("its subject contains white space, which clients cannot read where there are headers");
    }
    let block = read(raw)?;
    if block.status.is_some() {
        return Err("its headers begin with a status, as only answers of a server do");
    }
    Ok((subject, block.headers))
}

/// A stored message, damaged where the client could not read it. Headers are sorted by name.
pub(super) fn message(subject: &[u8], raw: &[u8], payload: Bytes) -> Message {
    let (subject, mut headers, damage) = match check(subject, raw) {
        Ok((subject, headers)) => {
            // Its retry and its dead letter must say where it comes from.
            let damage = (!can_be_sent_on(subject)).then(|| "its subject contains a control character".to_owned());
            (subject.to_owned(), headers, damage)
        }
        Err(damage) => (String::from_utf8_lossy(subject).into_owned(), lossy(raw), Some(damage.to_owned())),
    };
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    Message { subject, headers, payload, damage }
}

/// An answer to a question, with what can be read of its headers: a server puts its own behind what it has stored.
pub(super) fn answer(arrived: Arrived) -> Answer {
    let length = arrived.length();
    let Arrived { subject, reply, headers: raw, payload } = arrived;
    let block = read(&raw).unwrap_or_else(|_| Block { headers: lossy(&raw), ..Block::default() });
    let mut headers = HeaderMap::new();
    for (name, value) in &block.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_str(name), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    let text = |bytes: &[u8]| Subject::from(String::from_utf8_lossy(bytes).into_owned());
    Answer {
        subject: text(&subject),
        reply: (!reply.is_empty()).then(|| text(&reply)),
        payload,
        headers: (!raw.is_empty()).then_some(headers),
        status: block.status,
        description: Some(block.description).filter(|description| !description.is_empty()),
        length,
    }
}

/// What can be read of a header block, for the dead letter.
pub(super) fn lossy(raw: &[u8]) -> Headers {
    let text = String::from_utf8_lossy(raw);
    let pairs = text.lines().skip(1).filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_client_cannot_read_is_at_fault() {
        let good: &[(&str, &str)] = &[
            ("in.a", ""),
            ("in.東京\u{3000}本社", ""),
            ("in.a", "NATS/1.0\r\n\r\n"),
            ("in.a", "NATS/1.0 \u{3000}\r\nA: ü\r\nB:\r\n folded\r\n: no name\r\n\r\n"),
            ("in.a", "NATS/1.0\nA: b\r\r\n"),
        ];
        for (subject, raw) in good {
            assert_eq!(fault(subject.as_bytes(), raw.as_bytes()), None, "{subject} {raw:?}");
        }
        let bad: &[(&[u8], &[u8], &str)] = &[
            (b"in.\xff", b"", "subject is not valid UTF-8"),
            ("in.a\u{3000}".as_bytes(), b"NATS/1.0\r\n\r\n", "white space"),
            (b"in.a", b"NATS/1.0\r\nA: \xff\r\n\r\n", "headers are not valid UTF-8"),
            (b"in.a", b"NATS/1.0\r\nno colon\r\n\r\n", "name: value"),
            (b"in.a", b"NATS/1.0\r\n x: folded first\r\n\r\n", "name: value"),
            (b"in.a", b"NATS/1.0\r\nA: b\r\n\r\n after an empty line\r\n", "name: value"),
            (b"in.a", b"NATS/1.0\r\nA: b\rc\r\n\r\n", "carriage return"),
            (b"in.a", b"NATS/1.0\r\nA: b\r\r\n c\r\n\r\n", "carriage return"),
            (b"in.a", b"NATS/1.0 abc\r\n\r\n", "status that is none"),
            (b"in.a", b"NATS/1.0 100\r\n\r\n", "as only answers"),
            (b"in.a", b"NATS/1.0 503 away\r\n\r\n", "as only answers"),
            (b"in.a", b"HTTP/1.1\r\n\r\n", "begin with NATS/1.0"),
            (b"in.a", b"\r\n", "begin with NATS/1.0"),
        ];
        for (subject, raw, why) in bad {
            assert!(fault(subject, raw).is_some_and(|fault| fault.contains(why)), "{raw:?}: {:?}", fault(subject, raw));
        }
    }

    #[test]
    fn what_can_be_read_is_kept() {
        let raw = b"NATS/1.0\r\nB: x\xffy\r\nA: 1\r\n\r\n";
        let message = message(b"in.\xfe", raw, Bytes::new());
        assert_eq!(message.subject, "in.\u{fffd}");
        assert_eq!(message.headers, [("A".into(), "1".into()), ("B".into(), "x\u{fffd}y".into())]);
        assert!(message.damage.is_some());
    }

    #[test]
    fn a_status_is_read_with_its_description() {
        let block = read(b"NATS/1.0 408  Request Timeout\r\nNats-Pending-Messages: 3\r\n\r\n").expect("readable");
        assert_eq!((block.status, block.description.as_str()), (Some(StatusCode::TIMEOUT), "Request Timeout"));
        assert_eq!(block.headers, [("Nats-Pending-Messages".to_owned(), "3".to_owned())]);
    }
}
