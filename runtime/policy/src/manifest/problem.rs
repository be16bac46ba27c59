//! Problems: what is wrong with a manifest, where, and what to do about it.
//!
//! A problem shows the line it is about, but never a secret: whoever collects the problems says which
//! spans hold text that must not be shown.

use std::fmt;

use serde::Serialize;

/// How many problems are kept; of any more only the number is told.
pub const PROBLEMS_MAX: usize = 100;
/// How many characters of a line are shown around a problem.
const EXCERPT_CHARS_MAX: usize = 160;
/// How many characters are shown before the problem in a line that is too long to be shown whole.
const EXCERPT_CHARS_BEFORE: usize = 40;
/// How many bytes around a problem are looked at to show it; enough for any excerpt.
const EXCERPT_REACH_BYTES: usize = 8 * EXCERPT_CHARS_MAX;
/// Stands for text that must not be shown.
const REDACTED: &str = "***";

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The manifest cannot be used.
    Error,
    /// The manifest can be used, but probably does not mean what it says.
    Warning,
}

/// One thing that is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The file, as it was named to the parser.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, in characters from 1.
    pub column: usize,
    /// The line's text with secrets replaced; of a long line, the part around the problem.
    pub text: String,
    /// Where in `text` the problem starts, in characters from 0.
    pub caret_start: usize,
    /// How many characters of `text` it spans; at least 1.
    pub caret_length: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let line = self.line.to_string();
        let margin = " ".repeat(line.len());
        let caret = format!("{}{}", " ".repeat(self.caret_start), "^".repeat(self.caret_length));
        writeln!(f, "{severity}: {}", self.message)?;
        writeln!(f, "{margin}--> {}:{}:{}", self.file, self.line, self.column)?;
        writeln!(f, "{margin} |")?;
        writeln!(f, "{}", format!("{line} | {}", self.text).trim_end())?;
        writeln!(f, "{margin} | {caret}")?;
        match &self.hint {
            Some(hint) => writeln!(f, "{margin} = hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// All problems of a manifest, in the order of the files and of the places in them. Displayed, it is
/// what a person is shown; serialised, what a program is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problems {
    /// The problems, at most [`PROBLEMS_MAX`].
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub omitted: usize,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        match self.omitted {
            0 => Ok(()),
            omitted => writeln!(f, "\nand {omitted} more"),
        }
    }
}

impl std::error::Error for Problems {}

/// A piece of one of the sources, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Span {
    pub(super) file: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What is wrong and what to do about it, before it has a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Complaint {
    pub(super) fn new(message: impl Into<String>) -> Complaint {
        Complaint { message: message.into(), hint: None }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Complaint {
        Complaint { hint: Some(hint.into()), ..self }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    span: Span,
    severity: Severity,
    complaint: Complaint,
}

/// Collects problems and the spans that must not be shown.
#[derive(Debug, Default)]
pub(super) struct Report {
    found: Vec<Found>,
    redacted: Vec<Span>,
}

impl Report {
    pub(super) fn error(&mut self, span: Span, complaint: Complaint) {
        self.found.push(Found { span, severity: Severity::Error, complaint });
    }

    pub(super) fn warning(&mut self, span: Span, complaint: Complaint) {
        self.found.push(Found { span, severity: Severity::Warning, complaint });
    }

    /// Never shows the text of `span`.
    pub(super) fn redact(&mut self, span: Span) {
        self.redacted.push(span);
    }

    pub(super) fn has_errors(&self) -> bool {
        self.found.iter().any(|found| found.severity == Severity::Error)
    }

    /// Looks up the places; `files` are the paths and texts that the spans' numbers mean.
    pub(super) fn finish(mut self, files: &[(&str, &str)]) -> Problems {
        self.found.sort_by_key(|found| found.span);
        self.found.dedup();
        self.redacted.sort();
        let omitted = self.found.len().saturating_sub(PROBLEMS_MAX);
        let problems = self.found.iter().take(PROBLEMS_MAX);
        let problems = problems.filter_map(|found| {
            let (path, text) = files.get(found.span.file)?;
            Some(locate(found, path, text, &self.redacted))
        });
        Problems { problems: problems.collect(), omitted }
    }
}

fn locate(found: &Found, path: &str, text: &str, redacted: &[Span]) -> Problem {
    let file = found.span.file;
    let start = text.floor_char_boundary(found.span.start);
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
    let end = text.floor_char_boundary(found.span.end).clamp(start, line_end);

    let from = text.floor_char_boundary(start.saturating_sub(EXCERPT_REACH_BYTES)).max(line_start);
    let to = text.floor_char_boundary(start + EXCERPT_REACH_BYTES).min(line_end);
    let near = |span: &&Span| span.file == file && span.start < to && span.end > from;
    let redacted: Vec<Span> = redacted.iter().filter(near).copied().collect();
    let shown = |to: usize| show(text, Span { file, start: from, end: to }, &redacted);
    let caret = shown(start).chars().count();
    let length = shown(end.min(to)).chars().count().saturating_sub(caret);
    let (shown, caret_start) = shorten(shown(to), caret);
    let room = shown.chars().count().saturating_sub(caret_start);
    Problem {
        severity: found.severity,
        file: path.to_owned(),
        line: text[..line_start].matches('\n').count() + 1,
        column: text[line_start..start].chars().count() + 1,
        text: shown,
        caret_start,
        caret_length: length.min(room).max(1),
        message: found.complaint.message.clone(),
        hint: found.complaint.hint.clone(),
    }
}

/// Copies a piece of one line for display: secrets replaced, tabs widened, control characters (which
/// could drive a terminal) made visible.
fn show(text: &str, piece: Span, redacted: &[Span]) -> String {
    let mut shown = String::new();
    let mut hidden_until = piece.start;
    for (offset, c) in text[piece.start..piece.end].char_indices() {
        let at = piece.start + offset;
        if at < hidden_until {
            continue;
        }
        let hiding = |span: &&Span| span.file == piece.file && (span.start..span.end).contains(&at);
        if let Some(span) = redacted.iter().find(hiding) {
            shown.push_str(REDACTED);
            hidden_until = span.end;
            continue;
        }
        match c {
            '\t' => shown.push_str("    "),
            '\r' => {}
            c if c.is_control() => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
    }
    shown
}

/// Cuts a line that is too long to what is around column `caret`; returns it with the new column.
fn shorten(line: String, caret: usize) -> (String, usize) {
    let length = line.chars().count();
    if length <= EXCERPT_CHARS_MAX {
        return (line, caret);
    }
    let skipped = caret.saturating_sub(EXCERPT_CHARS_BEFORE);
    let kept: String = line.chars().skip(skipped).take(EXCERPT_CHARS_MAX).collect();
    let before = if skipped > 0 { "…" } else { "" };
    let after = if length - skipped > EXCERPT_CHARS_MAX { "…" } else { "" };
    (format!("{before}{kept}{after}"), caret - skipped + before.chars().count())
}

/// The candidate most like `word`, if one is like enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let distance = |candidate: &&str| strsim::osa_distance(&word, &candidate.to_lowercase());
    let best = candidates.into_iter().min_by_key(distance)?;
    let tolerance = (best.chars().count() / 3).max(1);
    (distance(&best) <= tolerance).then_some(best)
}

/// Names in quotes with commas between them.
pub(super) fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_nearest_name_is_found_only_if_it_is_near() {
        assert_eq!(nearest("concurency", ["config", "concurrency"]), Some("concurrency"));
        assert_eq!(nearest("Mode", ["mode", "format"]), Some("mode"));
        assert_eq!(nearest("subject", ["stream", "durable"]), None);
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn a_long_line_is_cut_around_the_problem() {
        let (line, caret) = shorten(format!("{}!{}", "a".repeat(300), "b".repeat(300)), 300);
        assert_eq!(line.chars().nth(caret), Some('!'));
        assert_eq!(line.chars().count(), EXCERPT_CHARS_MAX + 2);
    }

    #[test]
    fn a_program_is_given_the_same_as_a_person() {
        let mut report = Report::default();
        report.warning(Span { file: 0, start: 2, end: 5 }, Complaint::new("odd"));
        let problems = report.finish(&[("t.toml", "\n\tabc")]);
        let expected = serde_json::json!({
            "problems": [{
                "severity": "warning",
                "file": "t.toml",
                "line": 2,
                "column": 2,
                "text": "    abc",
                "caret_start": 4,
                "caret_length": 3,
                "message": "odd",
                "hint": null,
            }],
            "omitted": 0,
        });
        assert_eq!(serde_json::to_value(&problems).ok(), Some(expected));
    }

    proptest! {
        #[test]
        fn any_span_of_any_text_is_rendered(
            text in any::<String>(), start in 0..80_usize, end in 0..80_usize, hidden in 0..80_usize,
        ) {
            let mut report = Report::default();
            report.redact(Span { file: 0, start: hidden, end: hidden + 5 });
            report.error(Span { file: 0, start, end }, Complaint::new("wrong").hint("mend it"));
            let problems = report.finish(&[("t.toml", &text)]);
            prop_assert_eq!(problems.problems.len(), 1);
            prop_assert!(problems.to_string().starts_with("error: wrong\n"));
        }
    }
}
