//! The manifest (`tidemill.toml` and the drop-ins beside the plugins): from text to resolved values.
//!
//! [`parse`] reports everything that is wrong in all files at once. It goes in steps, one module each:
//! the sources are parsed as TOML, walked along the key tables (`tables`, `read`, `values`), merged by precedence
//! (`layers`), turned into a [`Manifest`] (`resolve`) and checked as a whole (`check`). The JSON schema
//! and the reference are made from the same key tables.
//!
//! Nothing here touches a file or the environment: the caller hands in texts and a look-up.

#[macro_use]
mod macros;

mod check;
mod contract;
mod expand;
mod gate;
mod keys;
mod latest;
mod layers;
mod order;
mod problem;
mod reach;
mod read;
mod redact;
mod reload;
mod resolve;
mod resolved;
mod schema;
mod share;
mod tables;
mod texts;
mod units;
mod values;

pub use contract::{SchemaBy, SchemaPolicy};
pub use expand::Env;
pub use latest::{Latest, OnMissing, OnStale, OrderTime};
pub use order::{KeyOrder, OnFailure, Order, OrderForm, OrderKey};
pub use problem::{PROBLEMS_MAX, Problem, Problems, Severity, nearest};
pub use reload::Reload;
pub use resolved::{
    AckMode, Across, Allow, Auth, BUCKET_SCHEME, Backoff, CONCURRENCY_MAX, CircuitBreaker, DeadLetterPolicy, Dedup,
    DedupKey, Format, Handler, HttpPolicy, Isolation, KeyValuePolicy, Limits, Manifest, Mode, Nats, Outputs, RateLimit,
    RetryPolicy, Runtime, SecretRef, Tls, Trigger,
};
pub use schema::{json_schema, reference_markdown};
pub use texts::is_handler_name;
pub use units::{parse_duration, show_duration, show_size};

use toml::de::DeTable;

use problem::{Complaint, Report, Span};
use read::Raw;

/// The largest source, in bytes.
pub const SOURCE_BYTES_MAX: usize = 1 << 20;

/// One file of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source<'a> {
    /// How to name the file in problems. The stem of a drop-in's path is the name of its handler.
    pub path: &'a str,
    /// What it holds.
    pub text: &'a str,
}

/// A manifest that can be used.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The manifest.
    pub manifest: Manifest,
    /// What is probably not meant as it is written; no errors among them.
    pub warnings: Problems,
}

/// The plugins folder that a manifest names as a plain string, whatever else is wrong with it: tells where the
/// drop-ins are, so that their problems can be reported beside those of the main file.
pub fn plugins_folder(text: &str) -> Option<String> {
    let table: toml::Table = text.parse().ok()?;
    let folder = table.get("runtime")?.get("plugins")?.as_str()?;
    (!folder.contains("${")).then(|| folder.to_owned())
}

/// Checks the name of a bucket that components are taken from.
///
/// # Errors
/// What is wrong with it, and what names buckets may have.
pub fn check_bucket(bucket: &str) -> Result<(), String> {
    texts::check_bucket(bucket).map_err(|complaint| complaint.hint.unwrap_or(complaint.message))
}

/// Parses a manifest: `main` is `tidemill.toml`, each of `drop_ins` the body of one handler table. `env`
/// looks up the variables that strings refer to; it is not asked for secrets.
///
/// # Errors
///
/// All problems of all files, at least one of which is an error.
pub fn parse(main: Source, drop_ins: &[Source], env: Env) -> Result<Parsed, Problems> {
    let mut report = Report::default();
    let mut raw = Raw::default();
    let mut complete = true;
    match document(main.text, 0, &mut report) {
        Some(document) => read::main_file(&document, &mut raw, &mut report, env),
        None => complete = false,
    }
    for (index, drop_in) in drop_ins.iter().enumerate() {
        let file = index + 1;
        let name = stem(drop_in.path);
        if let Err(complaint) = texts::check_name(name) {
            let message = format!("the file's name {name:?} {}", complaint.message);
            let span = Span { file, ..Span::default() };
            report.error(span, Complaint { message, ..complaint });
        }
        match document(drop_in.text, file, &mut report) {
            Some(document) => read::drop_in(&document, file, name, &mut raw, &mut report, env),
            None => complete = false,
        }
    }
    let manifest = complete.then(|| resolve::manifest(&raw, &mut report));
    let failed = report.has_errors();
    let sources = std::iter::once(&main).chain(drop_ins);
    let files: Vec<_> = sources.map(|source| (source.path, source.text)).collect();
    let problems = report.finish(&files);
    match manifest {
        Some(manifest) if !failed => Ok(Parsed { manifest, warnings: problems }),
        _ => Err(problems),
    }
}

/// Parses the TOML of file number `file`, or reports why that is impossible.
fn document<'a>(text: &'a str, file: usize, report: &mut Report) -> Option<DeTable<'a>> {
    if text.len() > SOURCE_BYTES_MAX {
        let message = format!("a manifest has at most {}", units::show_size(SOURCE_BYTES_MAX as u64));
        report.error(Span { file, ..Span::default() }, Complaint::new(message));
        return None;
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    redact::document(document.get_ref(), file, report);
    if errors.is_empty() {
        return Some(document.into_inner());
    }
    redact::broken_text(text, file, report);
    for error in errors {
        let range = error.span().unwrap_or_default();
        let span = Span { file, start: range.start, end: range.end };
        report.error(span, Complaint::new(format!("not valid TOML: {}", error.message())));
    }
    None
}

/// The name of a drop-in's handler: its file's name without folder and extension.
fn stem(path: &str) -> &str {
    let file = path.rsplit(['/', '\\']).next().unwrap_or(path);
    file.strip_suffix(".toml").unwrap_or(file)
}
