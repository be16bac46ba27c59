//! Messages as no client library would send them: any bytes as subject and headers, over a socket of our own.

use std::fmt::Write as _;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

/// A connection that sends what it is told.
pub(crate) struct Raw(BufStream<TcpStream>);

/// A message: the last token of its subject, and its header block.
pub(crate) type RawMessage = (Vec<u8>, Option<Vec<u8>>);

impl Raw {
    pub(crate) async fn connect(url: &str) -> Raw {
        let socket = TcpStream::connect(url.trim_start_matches("nats://")).await.expect("a connection");
        let mut raw = Raw(BufStream::new(socket));
        raw.0.write_all(b"CONNECT {\"headers\":true,\"verbose\":false,\"pedantic\":false}\r\n").await.expect("sent");
        raw.flush().await;
        raw
    }

    /// Sends a message.
    pub(crate) async fn publish(&mut self, subject: &[u8], headers: Option<&[u8]>, payload: &[u8]) {
        let mut message = if headers.is_some() { b"HPUB ".to_vec() } else { b"PUB ".to_vec() };
        message.extend_from_slice(subject);
        let mut counts = String::new();
        if let Some(headers) = headers {
            write!(counts, " {}", headers.len()).expect("written");
        }
        let headers = headers.unwrap_or_default();
        write!(counts, " {}\r\n", headers.len() + payload.len()).expect("written");
        message.extend([counts.as_bytes(), headers, payload, b"\r\n"].concat());
        self.0.write_all(&message).await.expect("sent");
    }

    /// Waits until the server has taken what was sent, and complains where it refuses some of it.
    pub(crate) async fn flush(&mut self) {
        self.0.write_all(b"PING\r\n").await.expect("sent");
        self.0.flush().await.expect("sent");
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).await.expect("an answer") > 0, "the server has hung up");
            assert!(!line.starts_with("-ERR"), "{line}");
            if line.starts_with("PING") {
                self.0.write_all(b"PONG\r\n").await.expect("sent");
            }
            if line.starts_with("PONG") {
                return;
            }
        }
    }
}

/// So many messages of all kinds, always the same ones for one seed.
pub(crate) fn messages(count: usize, seed: u8) -> Vec<RawMessage> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    vec((token(), block()), count).new_tree(&mut runner).expect("messages").current()
}

/// One token of a subject.
fn token() -> impl Strategy<Value = Vec<u8>> {
    let texts = |texts: &'static [&'static str]| prop::sample::select(texts).prop_map(|text| text.as_bytes().to_vec());
    let is_inside = |byte: &u8| !b" \t\r\n\0.*>".contains(byte);
    prop_oneof![
        4 => "[a-z]{1,8}".prop_map(String::into_bytes),
        2 => texts(&["東京", "ü", "a\u{7}b", "a\u{200b}"]),
        2 => texts(&["東京\u{3000}本社", "a\u{a0}b", "a\u{85}b", "a\u{b}b", "a\u{c}b", "a\u{2028}b"]),
        1 => texts(&["東京\u{3000}", "\u{3000}a", "a\u{a0}", "\u{3000}", "a\u{1f}"]),
        2 => vec(any::<u8>().prop_filter("ends a token", is_inside), 1..6),
    ]
}

/// A header block, or none.
fn block() -> impl Strategy<Value = Option<Vec<u8>>> {
    let first = prop_oneof![
        12 => Just("NATS/1.0"),
        1 => prop::sample::select(&["NATS/1.0 100", "NATS/1.0 503", "NATS/1.0 408 Request Timeout", "NATS/1.0 404 x"][..]),
        1 => prop::sample::select(&["NATS/1.0 abc", "NATS/1.0 99", "NATS/1.01", "NATS/1.0 1000 x", "NATS/1.0 50\u{660}"][..]),
        1 => prop::sample::select(&["NATS/1.0 ", "NATS/1.0\u{3000}", "NATS/1.0\t"][..]),
        1 => prop::sample::select(&["HTTP/1.1", "nats/1.0", " NATS/1.0", ""][..]),
    ];
    let line = prop_oneof![
        8 => prop::sample::select(&["A: b", "X-Own:1", "B: ü", "C:", "A: second", "D: a:b", "X-Long: \u{3000} x"][..])
            .prop_map(|line| line.as_bytes().to_vec()),
        1 => prop::sample::select(&[": no name", "no colon", "a b: c", "ä: c", "\u{1}: c", "A : b", "\0", "x\0: c"][..])
            .prop_map(|line| line.as_bytes().to_vec()),
        1 => prop::sample::select(&[" folded", "\tfolded: x", "\u{3000}folded", ""][..])
            .prop_map(|line| line.as_bytes().to_vec()),
        1 => prop::sample::select(&["A: b\rc", "A: b\r", "\r", "A: \rb", "A\r: b", "A: b\nB: c", "A: b\nc", "A: \0"][..])
            .prop_map(|line| line.as_bytes().to_vec()),
        1 => vec(any::<u8>().prop_filter("a line break", |byte| !b"\r\n".contains(byte)), 0..12)
            .prop_map(|value| [b"A: ", &value[..]].concat()),
        1 => (1000usize..9000).prop_map(|length| format!("X-Long: {}", "v".repeat(length)).into_bytes()),
    ];
    let end = prop::sample::select(&["\r\n", "", "\r\n\r\n", "\n"][..]);
    let whole = (first, vec(line, 0..4), prop_oneof![8 => Just("\r\n"), 1 => end]);
    let whole = whole.prop_map(|(first, lines, end)| {
        let lines: Vec<u8> = lines.into_iter().flat_map(|line| [&line[..], b"\r\n"].concat()).collect();
        [first.as_bytes(), b"\r\n", &lines, end.as_bytes()].concat()
    });
    prop::option::weighted(0.8, whole)
}
