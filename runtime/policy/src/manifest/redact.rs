//! Finds what looks like a secret in a document, so that no message shows it.
//!
//! This goes by names, not by the key tables: a secret under a misspelt key, or in a file that TOML
//! cannot read, must stay as hidden as one in its proper place.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Report, Span};

/// A key with one of these in it, or a table under such a key, may hold secrets.
const SECRETIVE: &[&str] = &["secret", "password", "passwd", "token", "credential", "nkey", "api_key", "apikey"];

/// Redacts all strings of `document`, the contents of file number `file`, that may be secrets.
pub(super) fn document(document: &DeTable, file: usize, report: &mut Report) {
    table(document, file, false, report);
}

fn table(entries: &DeTable, file: usize, secretive: bool, report: &mut Report) {
    for (name, inner) in entries {
        value(inner, file, secretive || is_secretive(name.get_ref()), report);
    }
}

fn value(spanned: &Spanned<DeValue>, file: usize, secretive: bool, report: &mut Report) {
    match spanned.get_ref() {
        DeValue::Table(inner) => table(inner, file, secretive, report),
        DeValue::Array(inner) => inner.iter().for_each(|inner| value(inner, file, secretive, report)),
        DeValue::String(text) if !(secretive && !is_reference(text) || has_user_info(text)) => {}
        DeValue::Boolean(_) => {}
        DeValue::String(_) => redact(spanned.span(), file, report),
        _ if secretive => redact(spanned.span(), file, report),
        _ => {}
    }
}

/// Redacts all of `text`, a file that TOML cannot read, that may be part of a secret: in a line that
/// names one, or that stands under a header that does, everything after the first `=`.
pub(super) fn broken_text(text: &str, file: usize, report: &mut Report) {
    let mut start = 0;
    let mut under_header = false;
    for line in text.split_inclusive('\n') {
        let header = line.trim_start().starts_with('[') && !line.contains(['"', '\'', '=', ',']);
        if header {
            under_header = is_secretive(line);
        } else if under_header || is_secretive(line) || has_user_info(line) {
            let from = line.find('=').map_or(0, |equals| equals + 1);
            redact(start + from..start + line.trim_end().len(), file, report);
        }
        start += line.len();
    }
}

fn redact(range: std::ops::Range<usize>, file: usize, report: &mut Report) {
    report.redact(Span { file, start: range.start, end: range.end });
}

fn is_secretive(name: &str) -> bool {
    let name = name.to_lowercase();
    SECRETIVE.iter().any(|word| name.contains(word))
}

fn is_reference(text: &str) -> bool {
    text.starts_with("env:") || text.starts_with("file:")
}

fn has_user_info(text: &str) -> bool {
    text.contains('@') && text.contains("://")
}
