//! The work that is measured: what the events are, and what becomes of them.

use clap::ValueEnum;
use serde::Serialize;

/// What a handler does with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Work {
    /// Copies the payload.
    Echo,
    /// Adds up an order: parses and writes JSON.
    Totals,
}

impl Work {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Work::Echo => "echo",
            Work::Totals => "totals",
        }
    }

    /// Where its output goes.
    pub(crate) fn output(self) -> &'static str {
        match self {
            Work::Echo => "out.echo",
            Work::Totals => "out.total",
        }
    }

    /// The payload of event `number`, about `size` bytes long; it begins with the number, so that its output tells
    /// which event it is of. One in `fails_each` is to fail once; 0 for none.
    pub(crate) fn payload(self, number: u64, size: usize, fails_each: u64) -> Vec<u8> {
        match self {
            Work::Echo => {
                let mut payload = format!("{number:010}").into_bytes();
                payload.resize(size.max(payload.len()), b'.');
                payload
            }
            Work::Totals => {
                let failures = u8::from(fails_each > 0 && number.is_multiple_of(fails_each));
                let line = r#"{"article":"a-4711","quantity":3,"cents":1299}"#;
                let mut text = format!(r#"{{"number":"{number:010}","customer":"c-{:06}","lines":["#, number % 1_000);
                text.push_str(line);
                while text.len() + line.len() + 16 < size {
                    text.push(',');
                    text.push_str(line);
                }
                format!(r#"{text}],"failures":{failures}}}"#).into_bytes()
            }
        }
    }

    /// Which event an output is of.
    pub(crate) fn number(self, output: &[u8]) -> Option<u64> {
        let start = match self {
            Work::Echo => 0,
            Work::Totals => br#"{"number":""#.len(),
        };
        std::str::from_utf8(output.get(start..start + 10)?).ok()?.parse().ok()
    }

    /// Does it natively, as a hand-written consumer would.
    pub(crate) fn run(self, payload: bytes::Bytes) -> Option<bytes::Bytes> {
        match self {
            Work::Echo => Some(payload),
            Work::Totals => totals::total(&payload, 2).ok().flatten().map(bytes::Bytes::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Work;

    #[test]
    fn an_output_tells_which_event_it_is_of() {
        for work in [Work::Echo, Work::Totals] {
            let payload = work.payload(1_234, 256, 2);
            assert!((200..=260).contains(&payload.len()), "{}", payload.len());
            let output = work.run(payload.into()).expect("an output");
            assert_eq!(work.number(&output), Some(1_234));
        }
    }
}
