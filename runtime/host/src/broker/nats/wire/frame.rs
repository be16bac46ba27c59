//! What a server sends, cut into frames. Any bytes are taken as a subject and as headers.

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

/// The longest line that a server may send: an `INFO` names all servers of a cluster.
const LINE_MAX: usize = 1024 * 1024;
/// The largest message that any server can be set to.
const MESSAGE_MAX: usize = 1 << 30;

/// What a server sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// About itself, as JSON.
    Info(Bytes),
    /// A message for the subscription of this number.
    Message(u64, Arrived),
    /// It wants to know whether we are there.
    Ping,
    /// It is there.
    Pong,
    /// It has done what was asked.
    Fine,
    /// What it refuses.
    Refusal(String),
}

/// A message as it came, not interpreted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Arrived {
    /// Its subject.
    pub subject: Bytes,
    /// Where an answer goes; empty where none is wanted.
    pub reply: Bytes,
    /// Its header block; empty where it has none.
    pub headers: Bytes,
    /// Its payload.
    pub payload: Bytes,
}

impl Arrived {
    /// How many bytes it has, as the server counts them for a pull request.
    pub fn length(&self) -> usize {
        self.subject.len() + self.reply.len() + self.headers.len() + self.payload.len()
    }
}

/// The server says what is not of the protocol, so that it is not known where the next frame begins.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("the server says what is not of the NATS protocol: {0:?}")]
pub(super) struct Garbled(String);

/// Takes the next frame out of what was read; nothing where it is not whole yet.
pub(super) fn next(buffer: &mut BytesMut) -> Result<Option<Frame>, Garbled> {
    let Some(length) = line(buffer) else {
        return if buffer.len() > LINE_MAX { Err(garbled(buffer)) } else { Ok(None) };
    };
    let (verb, rest) = split(&buffer[..length]);
    let start = length - rest.len();
    match verb {
        b"MSG" => return message(buffer, start, length, false),
        b"HMSG" => return message(buffer, start, length, true),
        _ => {}
    }
    let frame = match verb {
        b"INFO" => Frame::Info(Bytes::copy_from_slice(rest)),
        b"PING" => Frame::Ping,
        b"PONG" => Frame::Pong,
        b"+OK" => Frame::Fine,
        b"-ERR" => Frame::Refusal(String::from_utf8_lossy(rest).trim().trim_matches('\'').to_owned()),
        _ => return Err(garbled(&buffer[..length])),
    };
    buffer.advance(length + 2);
    Ok(Some(frame))
}

/// The length of the first line; nothing where it has not ended.
fn line(buffer: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let end = from + buffer[from..].iter().position(|&byte| byte == b'\n')?;
        if end > 0 && buffer[end - 1] == b'\r' {
            return Some(end - 1);
        }
        from = end + 1;
    }
}

/// A line's first word, and what follows.
fn split(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
    (&line[..end], line[end..].strip_prefix(b" ").unwrap_or_default())
}

/// `<subject> <subscription> [reply] [bytes of headers] <bytes>`: read from its end, since the server itself writes all but
/// the subject.
fn message(buffer: &mut BytesMut, start: usize, length: usize, has_headers: bool) -> Result<Option<Frame>, Garbled> {
    let line = &buffer[start..length];
    let head = Head::read(line, has_headers).ok_or_else(|| garbled(line))?;
    let whole = length + 2 + head.bytes + 2;
    if buffer.len() < whole {
        buffer.reserve(whole - buffer.len());
        return Ok(None);
    }
    let mut frame = buffer.split_to(whole).freeze();
    let words = frame.split_to(length + 2);
    let headers = frame.split_to(head.header_bytes);
    let payload = frame.split_to(head.bytes - head.header_bytes);
    let word = |(from, to): (usize, usize)| words.slice(start + from..start + to);
    let arrived = Arrived { subject: word(head.subject), reply: word(head.reply), headers, payload };
    Ok(Some(Frame::Message(head.subscription, arrived)))
}

/// What is said of a message before its bytes. Words are told by where they begin and end.
struct Head {
    subject: (usize, usize),
    subscription: u64,
    reply: (usize, usize),
    header_bytes: usize,
    bytes: usize,
}

impl Head {
    fn read(line: &[u8], has_headers: bool) -> Option<Head> {
        let mut end = line.len();
        let mut last = || {
            let word = word_before(line, end)?;
            end = word.0;
            Some(word)
        };
        let number = |(from, to): (usize, usize)| std::str::from_utf8(&line[from..to]).ok()?.parse::<usize>().ok();
        let bytes = number(last()?).filter(|&bytes| bytes <= MESSAGE_MAX)?;
        let header_bytes = if has_headers { number(last()?).filter(|&some| some <= bytes)? } else { 0 };
        let (one, two) = (last()?, last()?);
        // Without a reply, the subscription is the last word, and what is before it is the subject.
        let with_reply = word_before(line, two.0).and_then(|_| Some((one, number(two)?, two.0)));
        let (reply, subscription, subject_end) = match with_reply {
            Some(words) => words,
            None => ((0, 0), number(one)?, one.0),
        };
        let subject_end = line[..subject_end].iter().rposition(|&byte| byte != b' ')? + 1;
        Some(Head { subject: (0, subject_end), subscription: subscription as u64, reply, header_bytes, bytes })
    }
}

/// The last word that ends before `end`.
fn word_before(line: &[u8], end: usize) -> Option<(usize, usize)> {
    let to = line[..end].iter().rposition(|&byte| byte != b' ')? + 1;
    let from = line[..to].iter().rposition(|&byte| byte == b' ').map_or(0, |space| space + 1);
    Some((from, to))
}

fn garbled(bytes: &[u8]) -> Garbled {
    Garbled(String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arrived(subject: &[u8], reply: &[u8], headers: &[u8], payload: &[u8]) -> Arrived {
        let bytes = Bytes::copy_from_slice;
        Arrived { subject: bytes(subject), reply: bytes(reply), headers: bytes(headers), payload: bytes(payload) }
    }

    #[test]
    fn all_that_a_server_says_is_read() {
        let said = b"INFO {\"a\":1}\r\n+OK\r\nPING\r\nPONG\r\n-ERR 'Stale Connection'\r\n\
            MSG a.b 7 5\r\nhello\r\nMSG a 8  r.1  0\r\n\r\nHMSG a 9 r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n";
        let mut buffer = BytesMut::from(&said[..]);
        let mut frames = Vec::new();
        while let Some(frame) = next(&mut buffer).expect("of the protocol") {
            frames.push(frame);
        }
        assert_eq!(
            frames,
            [
                Frame::Info(Bytes::from_static(b"{\"a\":1}")),
                Frame::Fine,
                Frame::Ping,
                Frame::Pong,
                Frame::Refusal("Stale Connection".to_owned()),
                Frame::Message(7, arrived(b"a.b", b"", b"", b"hello")),
                Frame::Message(8, arrived(b"a", b"r.1", b"", b"")),
                Frame::Message(9, arrived(b"a", b"r", b"NATS/1.0\r\n\r\n", b"hi")),
            ]
        );
        assert!(buffer.is_empty());
    }

    #[test]
    fn what_is_not_of_the_protocol_is_refused() {
        for odd in ["HELLO\r\n", "MSG a 1\r\n", "MSG a x 1\r\n", "HMSG a 1 5 4\r\n", "MSG a 1 99999999999\r\n", "\r\n"]
        {
            assert!(next(&mut BytesMut::from(odd)).is_err(), "{odd}");
        }
        assert!(next(&mut BytesMut::from(&vec![b'x'; LINE_MAX + 1][..])).is_err());
    }

    proptest! {
        /// Whatever subject and headers are stored, and however the bytes come in, the same messages come out.
        #[test]
        fn any_bytes_are_taken(
            messages in prop::collection::vec((
                prop_oneof![
                    "[^ \r\n\t]{1,8}".prop_map(String::into_bytes),
                    prop::collection::vec(any::<u8>().prop_filter("no end", |b| !b" \r\n\t".contains(b)), 1..9),
                ],
                prop::option::of(prop::collection::vec(any::<u8>(), 0..30)),
                prop::collection::vec(any::<u8>(), 0..30),
                prop::bool::ANY,
            ), 1..8),
            cut in 1usize..40,
        ) {
            let mut said = Vec::new();
            let mut expected = Vec::new();
            for (number, (subject, headers, payload, has_reply)) in messages.iter().enumerate() {
                let reply: &[u8] = if *has_reply { b"$JS.ACK.S.c.1.2.3.4.5" } else { b"" };
                said.extend_from_slice(if headers.is_some() { b"HMSG " } else { b"MSG " });
                said.extend_from_slice(subject);
                said.extend(format!(" {number} ").bytes());
                said.extend_from_slice(reply);
                let raw = headers.clone().unwrap_or_default();
                if headers.is_some() {
                    said.extend(format!(" {}", raw.len()).bytes());
                }
                said.extend(format!(" {}\r\n", raw.len() + payload.len()).bytes());
                said.extend([&raw[..], payload, b"\r\n"].concat());
                expected.push(Frame::Message(number as u64, arrived(subject, reply, &raw, payload)));
            }
            let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
            for chunk in said.chunks(cut) {
                buffer.extend_from_slice(chunk);
                while let Some(frame) = next(&mut buffer).expect("of the protocol") {
                    frames.push(frame);
                }
            }
            prop_assert_eq!(frames, expected);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = next(&mut buffer) {}
        }
    }
}
