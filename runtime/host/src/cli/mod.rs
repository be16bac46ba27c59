//! The command line: arguments, and one module for each command. What a command finds out is a value; how it
//! is shown, as text or as JSON, is settled here.

mod breaker;
mod build;
mod check;
mod deploy;
mod dev;
mod dlq;
mod explain;
mod history;
mod inspect;
mod invoke;
mod new;
mod output;
mod publish;
mod queues;
mod reload;
mod retry;
mod rewind;
mod run;
mod schema;
mod service;
mod status;
mod test;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use tidemill::broker::nats::Nats;
use tidemill::broker::nats::connect::{self, ConnectError, Target};
use tidemill::bucket::Mirror;
use tidemill::invoker::wasm::{Engine, EngineOptions};
use tidemill::load::{self, Fault, ManifestFile, ReadError};
use tidemill::logging::{self, Purpose};
use tidemill_policy::manifest::{Auth, Handler, Problems};

pub(crate) use output::Output;

/// Runs WebAssembly event handlers on NATS `JetStream`.
#[derive(Debug, Parser)]
#[command(
    name = "tidemill",
    version,
    about = "Runs WebAssembly event handlers on NATS JetStream",
    long_about = "Runs WebAssembly event handlers on NATS JetStream, and owns everything around the call: \
                  retries, dead letters, budgets and outputs. What it runs is said in tidemill.toml.",
    after_help = "Start with:\n  tidemill new NAME --lang LANG    write the project of a new handler\n  \
                  tidemill dev                     run the handlers on a private NATS server\n  \
                  tidemill check                   see whether everything is in order\n  \
                  tidemill explain HANDLER         see what a handler's policy comes to\n\n\
                  Exit codes: 0 ok, 1 what was asked for failed, 2 wrong usage or manifest.",
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that all commands share.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The manifest
    #[arg(short, long, global = true, value_name = "FILE", default_value = "tidemill.toml")]
    manifest: PathBuf,
    /// The NATS server, or several with commas between them; overrides the manifest
    #[arg(long, global = true, value_name = "URL", env = "TIDEMILL_NATS_URL", hide_env_values = true)]
    nats_url: Option<String>,
    /// How to show the result
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Format,
    /// Log more; repeat for still more. The filter in `TIDEMILL_LOG`, such as "info,tidemill=debug", wins
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Log less; repeat for still less
    #[arg(short, long, global = true, action = ArgAction::Count)]
    quiet: u8,
}

/// How results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs: one JSON value on standard output, errors included
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the project of a new handler, in the language of your choice
    New(new::Arguments),
    /// Build the handler of a project with its language's usual tool
    Build(build::Arguments),
    /// Check the manifest, the components and the secrets; with --server, the broker too
    Check(check::Arguments),
    /// Run the handlers until told to stop
    Run(run::Arguments),
    /// Run the handlers on a private NATS server, with their streams made and every event shown
    Dev(dev::Arguments),
    /// Run a handler once for an event from a file; needs no broker
    Invoke(invoke::Arguments),
    /// Run the cases that lie beside the components, and compare what comes of them; needs no broker
    Test(test::Arguments),
    /// Publish an event, and wait until it is stored
    Publish(publish::Arguments),
    /// Show what a WebAssembly file is, imports and exports
    Inspect(inspect::Arguments),
    /// Show what a handler's policy comes to: all values, names, and the schedule of attempts
    Explain(explain::Arguments),
    /// Show how the events of all handlers stand: waiting, running, to be retried, given up on
    Status(status::Arguments),
    /// Put a component into the bucket that instances take theirs from
    Deploy(deploy::Arguments),
    /// Have running instances load what has changed: manifest, components, schemas
    Reload(reload::ReloadArguments),
    /// Have running instances go back to an earlier version of a handler's component
    Rollback(reload::RollbackArguments),
    /// Show the versions of a handler's component, and what became of them
    History(history::Arguments),
    /// Show the circuit breakers, open and close them by hand
    Breaker(breaker::Arguments),
    /// Show the retries that wait, bring them forward, drop them
    Retry(retry::Arguments),
    /// Show dead letters, replay them, discard them
    Dlq(dlq::Arguments),
    /// Have a handler go on elsewhere in its stream: an earlier event, a time, the first one
    Rewind(rewind::Arguments),
    /// Print the JSON schema of the manifest
    Schema(schema::SchemaArguments),
    /// Print a completion script for a shell
    Completions(schema::CompletionsArguments),
}

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It failed: exit code 1.
    Failed(anyhow::Error),
    /// The arguments or the manifest ask for what cannot be: exit code 2.
    Usage(anyhow::Error),
    /// The manifest is wrong: exit code 2.
    Manifest(Problems),
    /// Components or secrets are not in order: exit code 1.
    Faults(Vec<Fault>),
    /// The result was shown and is bad: exit code 1.
    Shown,
    /// Ctrl-C was pressed twice: exit code 130.
    Interrupted,
}

impl Failure {
    fn usage(message: impl Into<String>) -> Failure {
        Failure::Usage(anyhow!(message.into()))
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Failed(error.into())
    }
}

/// What a command returns.
pub(crate) type Done = Result<(), Failure>;

impl Cli {
    /// Runs the command.
    pub(crate) async fn run(self) -> Done {
        let global = &self.global;
        match self.command {
            Command::New(arguments) => new::run(global, &arguments),
            Command::Build(arguments) => build::run(global, &arguments).await,
            Command::Check(arguments) => check::run(global, &arguments).await,
            Command::Run(arguments) => run::run(global, &arguments).await,
            Command::Dev(arguments) => dev::run(global, &arguments).await,
            Command::Invoke(arguments) => invoke::run(global, &arguments).await,
            Command::Test(arguments) => test::run(global, &arguments).await,
            Command::Publish(arguments) => publish::run(global, &arguments).await,
            Command::Inspect(arguments) => inspect::run(global, &arguments),
            Command::Explain(arguments) => explain::run(global, &arguments),
            Command::Status(arguments) => status::run(global, &arguments).await,
            Command::Deploy(arguments) => deploy::run(global, &arguments).await,
            Command::Reload(arguments) => reload::reload(global, &arguments).await,
            Command::Rollback(arguments) => reload::rollback(global, &arguments).await,
            Command::History(arguments) => history::run(global, &arguments),
            Command::Breaker(arguments) => breaker::run(global, &arguments).await,
            Command::Retry(arguments) => retry::run(global, &arguments).await,
            Command::Dlq(arguments) => dlq::run(global, &arguments).await,
            Command::Rewind(arguments) => rewind::run(global, &arguments).await,
            Command::Schema(arguments) => {
                schema::schema(global, &arguments);
                Ok(())
            }
            Command::Completions(arguments) => {
                schema::completions(&arguments);
                Ok(())
            }
        }
    }
}

impl Global {
    /// What shows results.
    pub(crate) fn out(&self) -> Output {
        Output { format: self.output }
    }

    /// Starts the log.
    fn start_log(&self, purpose: Purpose) -> Done {
        let verbosity = i16::from(self.verbose) - i16::from(self.quiet);
        let options = logging::Options { purpose, verbosity, json: self.output == Format::Json };
        logging::start(options).map_err(|error| Failure::Usage(error.into()))
    }

    /// The copy of the bucket that the plugins come from, if they do and there is a server to take it from. What is wrong
    /// with the manifest is told by whoever reads all of it.
    fn mirror(&self) -> Result<Option<Mirror>, Failure> {
        let Ok(file) = load::read_alone(&self.manifest, None) else { return Ok(None) };
        let Some(bucket) = file.manifest.runtime.bucket.clone() else { return Ok(None) };
        let folder = file.base.join(&file.manifest.runtime.plugins);
        Ok(self.target(Some(&file))?.map(|target| Mirror::new(bucket, folder, target)))
    }

    /// Reads the manifest, which must have handlers, and shows its warnings.
    fn read_manifest(&self) -> Result<ManifestFile, Failure> {
        let file = read_manifest_at(&self.manifest)?;
        if file.manifest.handlers.is_empty() {
            let place = match &file.manifest.runtime.bucket {
                Some(bucket) => format!("bucket {bucket:?} (tidemill deploy)"),
                None => file.base.join(&file.manifest.runtime.plugins).display().to_string(),
            };
            return Err(Failure::usage(format!(
                "{} has no handlers; add a table [handler.NAME] with a subject, or put NAME.toml beside NAME.wasm in {place}",
                file.path.display(),
            )));
        }
        if self.output == Format::Text && !file.warnings.problems.is_empty() {
            output::complain(&file.warnings.to_string());
        }
        Ok(file)
    }

    /// Where NATS is: what the flag or the environment says, else the manifest. Nothing where nobody says.
    fn target(&self, file: Option<&ManifestFile>) -> Result<Option<Target>, Failure> {
        let nats = file.map(|file| &file.manifest.nats);
        let given = self.nats_url.as_deref().map(str::trim).filter(|text| !text.is_empty());
        let urls: Vec<String> = match (given, nats) {
            (Some(text), _) => text.split(',').map(|url| url.trim().to_owned()).collect(),
            (None, Some(nats)) => nats.urls.clone(),
            (None, None) => Vec::new(),
        };
        for url in &urls {
            check_url(url)?;
        }
        Ok((!urls.is_empty()).then(|| Target {
            urls,
            auth: nats.map_or(Auth::None, |nats| nats.auth.clone()),
            tls: nats.and_then(|nats| nats.tls.clone()),
            base: file.map_or_else(|| PathBuf::from("."), |file| file.base.clone()),
        }))
    }

    /// Sets up the engine that runs components, with the cache of compiled code.
    fn engine(file: Option<&ManifestFile>) -> Result<Engine, Failure> {
        let configured = file.and_then(|file| file.manifest.runtime.cache.as_deref());
        let base = file.map_or_else(|| Path::new("."), |file| &file.base);
        let cache_dir = load::cache_dir(configured, base, &|name| std::env::var(name).ok());
        let memory_bytes = file.and_then(|file| file.manifest.runtime.memory_bytes);
        let options = EngineOptions { cache_dir, memory_bytes, ..EngineOptions::default() };
        Ok(Engine::new(&options).context("cannot run WebAssembly here")?)
    }
}

/// Reads a manifest, which may be without handlers.
fn read_manifest_at(path: &Path) -> Result<ManifestFile, Failure> {
    load::read(path).map_err(|error| match error {
        ReadError::Invalid(problems) => Failure::Manifest(problems),
        error => Failure::Usage(error.into()),
    })
}

/// Finds a handler by its name, or says which names there are.
fn find_handler<'a>(file: &'a ManifestFile, name: &str) -> Result<&'a Handler, Failure> {
    let handlers = &file.manifest.handlers;
    handlers.get(name).ok_or_else(|| {
        let names: Vec<_> = handlers.keys().map(String::as_str).collect();
        let nearest = names.iter().min_by_key(|known| strsim::osa_distance(name, known));
        let meant = nearest.filter(|known| strsim::osa_distance(name, known) <= known.len().div_ceil(3));
        let hint = meant.map_or_else(String::new, |known| format!("did you mean {known:?}? "));
        Failure::usage(format!(
            "{} has no handler {name:?}; {hint}its handlers are {}",
            file.path.display(),
            names.join(", ")
        ))
    })
}

/// Connects once; services that wait for their server do so elsewhere.
async fn connect(target: &Target, name: &str) -> Result<Nats, Failure> {
    let (client, link) = connect::connect(target, name, Arc::default()).await.map_err(|error| match error {
        ConnectError::Unreachable { .. } => {
            anyhow!("{error}; is the server running, and are the URL and the credentials right?")
        }
        error => error.into(),
    })?;
    Ok(Nats::new(client, link))
}

/// Checks a URL before it is tried: a wrong one would be tried for ever.
fn check_url(url: &str) -> Done {
    let remedy = "write it as nats://HOST:4222, or tls://HOST:4222";
    let parsed: Result<async_nats::ServerAddr, _> = url.parse();
    let url = connect::without_credentials(&[url.to_owned()]);
    match parsed {
        Ok(address) if address.host().is_empty() => {
            Err(Failure::usage(format!("NATS URL {url:?} has no host; {remedy}")))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::usage(format!("NATS URL {url:?} cannot be used: {error}; {remedy}"))),
    }
}

/// Splits `NAME=VALUE`, as `--header` takes it.
fn parse_header(text: &str) -> Result<(String, String), String> {
    use tidemill_policy::headers::{is_valid_name, is_valid_value};
    match text.split_once('=') {
        Some((name, value)) if is_valid_name(name) && is_valid_value(value) => Ok((name.into(), value.into())),
        Some((name, _)) if is_valid_name(name) => Err("the value contains a line break".into()),
        Some(_) => Err("the name must be visible ASCII without a colon".into()),
        None => Err("write it as NAME=VALUE".into()),
    }
}

/// Reads a file, or standard input for `-`.
fn read_input(file: &Path) -> anyhow::Result<bytes::Bytes> {
    use std::io::Read as _;
    if file.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
        return Ok(bytes.into());
    }
    Ok(std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn headers_are_split_at_the_first_equals_sign() {
        assert_eq!(parse_header("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_header("a="), Ok(("a".into(), String::new())));
        for wrong in ["a", "=b", "a b=c", "a:=b", "a=b\nc"] {
            assert!(parse_header(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn urls_are_checked_before_they_are_tried() {
        for right in ["nats://127.0.0.1:4222", "tls://example.org", "localhost", "127.0.0.1:4222"] {
            assert!(check_url(right).is_ok(), "{right}");
        }
        for wrong in ["http://example.org", "nats://", "nats://host:port", "a b"] {
            assert!(check_url(wrong).is_err(), "{wrong}");
        }
    }
}
