//! `tidemill deploy`: a component into the bucket that instances take theirs from.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::Args;
use serde::Serialize;
use tidemill::broker::nats::Nats;
use tidemill::broker::nats::connect::Target;
use tidemill::broker::nats::objects::{self, Content, Put};
use tidemill::bucket::COMPONENT_BYTES_MAX;
use tidemill::invoker::wasm::WasmHandler;
use tidemill::load::{self, ManifestFile, ReadError};
use tidemill::logging::Purpose;
use tidemill::operate::deploy::{self, Progress, Taken, Wanted};
use tidemill::versions::short;
use tidemill_policy::manifest::{self, Handler, Source, check_bucket, parse_duration};

use super::check::approximate;
use super::output::{self, harmless};
use super::queues::unanswered;
use super::{Done, Failure, Global, connect};

const EXAMPLES: &str = "\
The component is checked here before it is put. Instances with runtime.plugins = \"nats:BUCKET\" take it from there, each through
its own gate (cases, trial), unless runtime.watch = false: then when they are asked to reload.

Examples:
  tidemill deploy build/welcome-email.wasm --handler welcome-email --wait 1m
  tidemill deploy new.wasm --handler new --manifest-body new.toml --create-bucket
  tidemill deploy new.wasm --handler new --bucket plugins --nats-url nats://10.0.0.1:4222 --output json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The component
    wasm: PathBuf,
    /// The handler that it is for
    #[arg(long, value_name = "NAME")]
    handler: String,
    /// A file with the body of the handler's table, to be put too
    #[arg(long, value_name = "FILE")]
    manifest_body: Option<PathBuf>,
    /// The bucket; else the one of runtime.plugins
    #[arg(long, value_name = "NAME", value_parser = bucket_name)]
    bucket: Option<String>,
    /// Make the bucket where it is missing
    #[arg(long)]
    create_bucket: bool,
    /// Wait until the instances run it, at most for so long, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    wait: Option<Duration>,
}

fn bucket_name(text: &str) -> Result<String, String> {
    check_bucket(text).map(|()| text.to_owned())
}

/// What was done.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    bucket: String,
    created_bucket: bool,
    handler: String,
    /// The digest of the component.
    digest: String,
    size_bytes: u64,
    objects: Vec<ObjectShown>,
    /// What the instances have made of it; nothing where they were not waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    instances: Option<Vec<Taken>>,
}

#[derive(Debug, Serialize)]
struct ObjectShown {
    name: String,
    unchanged: bool,
}

/// What is to be put, once it was checked.
struct Checked {
    component: Bytes,
    body: Option<String>,
    /// Whether the main manifest has the handler; nothing where there is no manifest here.
    is_in_manifest: Option<bool>,
}

/// What was put.
struct Stored {
    /// What became of each object, by its name: the component last.
    objects: Vec<(String, Put)>,
    /// The sequence in the bucket from which on all of it is there.
    sequence: u64,
    /// Whether the handler's table is in the bucket.
    is_drop_in: bool,
}

/// Puts the component.
pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Done {
    global.start_log(Purpose::Command)?;
    let body = arguments.manifest_body.as_deref().map(read_text).transpose()?;
    let file = main_manifest(global, arguments, body.as_ref())?;
    let bucket = bucket(global, arguments, file.as_ref())?;
    let target = target(global, file.as_ref())?;
    let checked = check(arguments, file.as_ref(), body)?;
    let nats = connect(&target, "tidemill deploy").await?;
    let replicas = file.as_ref().map_or(1, |file| file.manifest.nats.replicas);
    let created_bucket = provide(&nats, &bucket, replicas, arguments.create_bucket).await?;
    let size_bytes = checked.component.len() as u64;
    let stored = put(&nats, &bucket, arguments, checked).await?;
    let shown =
        stored.objects.iter().map(|(name, put)| ObjectShown { name: name.clone(), unchanged: put.is_unchanged });
    let mut report = Report {
        ok: true,
        bucket,
        created_bucket,
        handler: arguments.handler.clone(),
        digest: stored.objects.last().map(|(_, put)| put.digest.clone()).unwrap_or_default(),
        size_bytes,
        objects: shown.collect(),
        instances: None,
    };
    if let Some(limit) = arguments.wait {
        let prefix = file.as_ref().map_or("tidemill", |file| &file.manifest.nats.prefix);
        let wanted = stored.wanted(&report);
        let taken = deploy::wait(&nats, prefix, &wanted, limit).await.map_err(unanswered)?;
        let has_taken = |one: &Taken| matches!(one.progress, Progress::Runs | Progress::OnTrial);
        report.ok = !taken.is_empty() && taken.iter().all(has_taken);
        report.instances = Some(taken);
    }
    global.out().show(&report, || report.text());
    if report.ok { Ok(()) } else { Err(Failure::Shown) }
}

fn read_text(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display())).map_err(Failure::Usage)
}

/// The manifest without the drop-ins that instances have, and with the one that is to be put. It need not be there where the
/// arguments say enough.
fn main_manifest(
    global: &Global,
    arguments: &Arguments,
    body: Option<&String>,
) -> Result<Option<ManifestFile>, Failure> {
    let drop_in = body.map(|body| (format!("{}.toml", arguments.handler), body.clone()));
    match load::read_alone(&global.manifest, drop_in) {
        Ok(file) => Ok(Some(file)),
        Err(ReadError::Missing { .. }) if arguments.bucket.is_some() => Ok(None),
        Err(ReadError::Invalid(problems)) => Err(Failure::Manifest(problems)),
        Err(error) => Err(Failure::Usage(error.into())),
    }
}

fn bucket(global: &Global, arguments: &Arguments, file: Option<&ManifestFile>) -> Result<String, Failure> {
    let named = file.and_then(|file| file.manifest.runtime.bucket.clone());
    arguments.bucket.clone().or(named).ok_or_else(|| {
        Failure::usage(format!(
            "no bucket is named: {} has no runtime.plugins = \"nats:BUCKET\"; give --bucket NAME, or put the file into the \
             folder of plugins",
            global.manifest.display()
        ))
    })
}

fn target(global: &Global, file: Option<&ManifestFile>) -> Result<Target, Failure> {
    global.target(file)?.ok_or_else(|| {
        Failure::usage(
            "no NATS server is named; give --nats-url or TIDEMILL_NATS_URL, or add url = \"nats://HOST:4222\" to [nats]",
        )
    })
}

/// Checks that instances can run the component, as far as that can be told here.
fn check(arguments: &Arguments, file: Option<&ManifestFile>, body: Option<String>) -> Result<Checked, Failure> {
    let path = arguments.wasm.display();
    let size = std::fs::metadata(&arguments.wasm).with_context(|| format!("cannot read {path}"))?.len();
    if size > COMPONENT_BYTES_MAX {
        return Err(anyhow!("{path} has {size} bytes, and instances take {COMPONENT_BYTES_MAX} at most").into());
    }
    let component = std::fs::read(&arguments.wasm).with_context(|| format!("cannot read {path}"))?;
    let known = file.and_then(|file| file.manifest.handlers.get(&arguments.handler));
    let handler = match known {
        Some(handler) => handler.clone(),
        None => alone(&arguments.handler, body.as_deref())?,
    };
    let usual = format!("{}.wasm", arguments.handler);
    if handler.component != Path::new(&usual) {
        return Err(Failure::usage(format!(
            "handler {} runs {}, not {usual}: instances would not take it; remove `component` from its table",
            arguments.handler,
            handler.component.display(),
        )));
    }
    let engine = Global::engine(file)?;
    WasmHandler::from_bytes(&engine, &component, &handler, BTreeMap::new())
        .map_err(|problem| anyhow!("{path} {problem}; nothing was put"))?;
    Ok(Checked { component: component.into(), is_in_manifest: file.map(|_| known.is_some()), body })
}

/// The handler as a drop-in without any manifest, or with the usual limits.
fn alone(name: &str, body: Option<&str>) -> Result<Handler, Failure> {
    let path = format!("{name}.toml");
    let drop_in = Source { path: &path, text: body.unwrap_or("subject = \"any\"") };
    let env = |name: &str| std::env::var(name).ok();
    let parsed = manifest::parse(Source { path: "", text: "" }, &[drop_in], &env).map_err(Failure::Manifest)?;
    let mut handlers = parsed.manifest.handlers;
    handlers.remove(name).ok_or_else(|| Failure::usage(format!("{name:?} is no name for a handler")))
}

/// Makes the bucket where it is missing and that is asked for. Returns whether it was made.
async fn provide(nats: &Nats, bucket: &str, replicas: u32, may_create: bool) -> Result<bool, Failure> {
    if objects::state(nats, bucket).await.map_err(unanswered)?.is_some() {
        return Ok(false);
    }
    if !may_create {
        let why = "does not exist; make it with --create-bucket, or";
        return Err(anyhow!("bucket {bucket:?} {why}: nats object add {bucket}").into());
    }
    objects::create(nats, bucket, replicas).await.map_err(unanswered)?;
    Ok(true)
}

/// Puts the table first and then the component.
async fn put(nats: &Nats, bucket: &str, arguments: &Arguments, checked: Checked) -> Result<Stored, Failure> {
    let Checked { component, body, is_in_manifest } = checked;
    let name = &arguments.handler;
    let table = format!("{name}.toml");
    let is_in_bucket = objects::find(nats, bucket, &table).await.map_err(unanswered)?.is_some();
    if body.is_none() && is_in_manifest == Some(false) && !is_in_bucket {
        return Err(Failure::usage(format!(
            "nothing says which events handler {name} gets: neither the manifest has [handler.{name}] nor bucket {bucket:?} \
             {table}; give --manifest-body FILE.toml"
        )));
    }
    let is_drop_in = body.is_some() || is_in_bucket;
    let table = body.map(|body| Content { name: table, bytes: body.into() });
    let component = Content { name: format!("{name}.wasm"), bytes: component };
    let contents: Vec<_> = table.into_iter().chain([component]).collect();
    // What is there already may have been refused for something else that is changed by now.
    let before = objects::state(nats, bucket).await.map_err(unanswered)?.map_or(0, |state| state.sequence);
    let put = objects::put(nats, bucket, &contents).await.map_err(unanswered)?;
    let sequence = put.iter().map(|put| put.sequence).fold(before, u64::max);
    let objects = contents.into_iter().zip(put).map(|(content, put)| (content.name, put)).collect();
    Ok(Stored { objects, sequence, is_drop_in })
}

impl Stored {
    /// What the instances are to take of it.
    fn wanted<'a>(&self, report: &'a Report) -> Wanted<'a> {
        Wanted {
            bucket: &report.bucket,
            handler: &report.handler,
            digest: &report.digest,
            sequence: self.sequence,
            is_drop_in: self.is_drop_in,
            has_new_table: self.objects.len() > 1 && self.objects.first().is_some_and(|(_, put)| !put.is_unchanged),
        }
    }
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        let made = if self.created_bucket { ", which was made" } else { "" };
        for object in &self.objects {
            let did = if object.unchanged { "is there already" } else { "stored" };
            let _ = writeln!(text, "{}: {did}, in bucket {}{made}", object.name, self.bucket);
        }
        let _ = writeln!(text, "component {} ({})", self.digest, approximate(self.size_bytes));
        let Some(instances) = &self.instances else { return text };
        if instances.is_empty() {
            let _ = writeln!(text, "no instance that takes handler {} from this bucket answers", self.handler);
            return text;
        }
        let rows: Vec<_> = instances.iter().map(row).collect();
        text.push('\n');
        text.push_str(&output::columns(["INSTANCE", "RUNS", "OUTCOME"], &rows));
        for one in instances {
            for problem in &one.problems {
                let problem = harmless(problem, false).replace('\n', "\n  ");
                let _ = writeln!(text, "{}: {problem}", harmless(&one.instance, true));
            }
        }
        text
    }
}

fn row(one: &Taken) -> [String; 3] {
    let runs = one.component.as_deref().map_or("-".to_owned(), |digest| harmless(short(digest), true));
    let outcome = match (one.progress, one.share) {
        (Progress::Runs, _) => "runs it".to_owned(),
        (Progress::OnTrial, Some(share)) => format!("on trial with {:.0} % of the events", share * 100.0),
        (Progress::OnTrial, None) => "on trial".to_owned(),
        (Progress::Refused, _) => "refused; it goes on with what it runs".to_owned(),
        (Progress::Waiting, _) => "did not take it in time".to_owned(),
    };
    [harmless(&one.instance, true), runs, outcome]
}
