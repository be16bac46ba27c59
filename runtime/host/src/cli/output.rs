//! Showing results and errors, as text or as JSON. A reader that goes away is no error.

use std::fmt::Write as _;
use std::io::Write;

use serde::Serialize;
use serde_json::{Value, json};
use tidemill::load::Fault;

use super::{Failure, Format};

/// A payload as it is shown: as text where it is text.
#[derive(Debug, Serialize)]
pub(crate) enum Payload {
    #[serde(rename = "payload")]
    Text(String),
    #[serde(rename = "payload_base64")]
    Base64(String),
}

impl Payload {
    pub(crate) fn of(bytes: &[u8]) -> Payload {
        match std::str::from_utf8(bytes) {
            Ok(text) => Payload::Text(text.to_owned()),
            Err(_) => Payload::Base64(data_encoding::BASE64.encode(bytes)),
        }
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Payload::Text(text) => text.clone(),
            Payload::Base64(text) => format!("(base64) {text}"),
        }
    }
}

/// Shows results in the form that the user asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) format: Format,
}

impl Output {
    /// Shows a result: `value` as JSON, or the text.
    pub(crate) fn show(self, value: &impl Serialize, text: impl FnOnce() -> String) {
        match self.format {
            Format::Text => print(&text()),
            Format::Json => print(&to_json(value)),
        }
    }

    /// Shows why a command failed, and returns the exit code.
    pub(crate) fn fail(self, failure: &Failure) -> u8 {
        let exit = match failure {
            Failure::Failed(_) | Failure::Faults(_) | Failure::Shown => 1,
            Failure::Usage(_) | Failure::Manifest(_) => 2,
            Failure::Interrupted => 130,
        };
        let (text, mut error) = match failure {
            Failure::Failed(error) | Failure::Usage(error) => {
                let message = with_causes(error);
                (format!("error: {message}"), json!({ "message": message }))
            }
            Failure::Manifest(problems) => (problems.to_string(), json!(problems)),
            Failure::Faults(faults) => (show_faults(faults), json!({ "faults": faults })),
            Failure::Shown | Failure::Interrupted => return exit,
        };
        if error.get("message").is_none() {
            error["message"] = Value::from(text.as_str());
        }
        match self.format {
            Format::Text => complain(&text),
            Format::Json => print(&to_json(&json!({ "error": error }))),
        }
        exit
    }
}

/// An error with its causes, those left out that its text tells already.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        _ if told.contains(&cause) => told,
        _ => format!("{told}: {cause}"),
    })
}

/// One line for each fault.
pub(crate) fn show_faults(faults: &[Fault]) -> String {
    let line = |fault: &Fault| format!("error: {}: {}", fault.key, fault.message);
    faults.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|error| Value::from(error.to_string()).to_string())
}

/// Writes to standard output. Where nobody reads it any more, as after `| head`, the rest is dropped.
pub(crate) fn print(text: &str) {
    write(std::io::stdout().lock(), text);
}

/// Writes to standard error.
pub(crate) fn complain(text: &str) {
    write(std::io::stderr().lock(), text);
}

fn write(mut to: impl Write, text: &str) {
    let _ = to.write_all(text.trim_end().as_bytes()).and_then(|()| to.write_all(b"\n")).and_then(|()| to.flush());
}

/// Lines of a label and a text, the texts below each other. Further lines of a text are indented.
pub(crate) fn table<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0) + 2;
    let mut text = String::new();
    for (label, value) in rows {
        for (index, line) in value.lines().enumerate() {
            let label = if index == 0 { label } else { "" };
            text.push_str(format!("{label:width$}{line}").trim_end());
            text.push('\n');
        }
    }
    text
}

/// Rows of cells below a title each, of which those without any text are left out.
pub(crate) fn columns<const N: usize>(titles: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..N).map(width).collect();
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (column, cell) in cells.iter().enumerate().filter(|(column, _)| widths[*column] > 0) {
            let width = widths[column].max(titles[column].len()) + 2;
            let _ = write!(line, "{cell:width$}");
        }
        format!("{}\n", line.trim_end())
    };
    let cells = rows.iter().map(|row| line(std::array::from_fn(|column| row[column].as_str())));
    std::iter::once(line(titles)).chain(cells).collect()
}

/// A text of somebody else's without what would steer the terminal: on one line where it is part of a table.
pub(crate) fn harmless(text: &str, on_one_line: bool) -> String {
    let steers = |c: char| c.is_control() && (on_one_line || !matches!(c, '\n' | '\t'));
    let text = if on_one_line { text.lines().next().unwrap_or_default() } else { text };
    text.replace(steers, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let error = anyhow::anyhow!("disk full").context("cannot write: disk full").context("cannot save");
        assert_eq!(with_causes(&error), "cannot save: cannot write: disk full");
    }

    #[test]
    fn cells_stand_below_their_titles() {
        let rows = [["1", "", "é"], ["22", "", "x"]].map(|row| row.map(str::to_owned));
        assert_eq!(columns(["SEQ", "STREAM", "ID"], &rows), "SEQ  ID\n1    é\n22   x\n");
    }

    #[test]
    fn what_others_wrote_does_not_steer_the_terminal() {
        assert_eq!(harmless("a\u{1b}[31m\r\nb", true), "a [31m");
        assert_eq!(harmless("a\u{1b}\tb\nc", false), "a \tb\nc");
        assert_eq!(harmless("", true), "");
    }

    #[test]
    fn texts_stand_below_each_other() {
        let text = table([("a", "one\ntwo".to_owned()), ("long", "three".to_owned()), ("none", String::new())]);
        assert_eq!(text, "a     one\n      two\nlong  three\n");
    }
}
