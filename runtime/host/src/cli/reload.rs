//! `tidemill reload` and `tidemill rollback`: having the instances that run take what is new, or go back.

use std::fmt::Write as _;

use clap::Args;
use tidemill::operate::reloads::{self, Answer};
use tidemill::service::RollbackRequest;

use super::output::harmless;
use super::queues::{Session, start, unanswered};
use super::{Done, Failure, Global, find_handler};

const RELOAD_EXAMPLES: &str = "\
Each instance looks at its own files. What is wrong is told, and then that instance goes on with what it runs. Instances
reload by themselves when their files change, unless runtime.watch = false; SIGHUP and POST /api/v1/reload do the same.

Examples:
  tidemill reload
  tidemill reload --instance k3v9x2m4q8aa --output json";

const ROLLBACK_EXAMPLES: &str = "\
The version is run until another file is put into the folder, also after a restart. Which versions there are is told by
`tidemill history HANDLER`.

Examples:
  tidemill rollback welcome-email
  tidemill rollback welcome-email --to 3fa9c1";

#[derive(Debug, Args)]
#[command(after_help = RELOAD_EXAMPLES)]
pub(crate) struct ReloadArguments {
    /// Only this instance
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = ROLLBACK_EXAMPLES)]
pub(crate) struct RollbackArguments {
    /// The handler's name in the manifest
    handler: String,
    /// The beginning of the version's digest; else the last one that was kept before
    #[arg(long, value_name = "DIGEST")]
    to: Option<String>,
    /// Only this instance
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

/// Has instances reload.
pub(crate) async fn reload(global: &Global, arguments: &ReloadArguments) -> Done {
    let session = Session::open(global, start(global)?, "reload").await?;
    let instance = arguments.instance.as_deref();
    let answers = reloads::reload(&session.nats, session.prefix(), instance).await.map_err(unanswered)?;
    show(global, instance, &answers)
}

/// Has instances go back.
pub(crate) async fn rollback(global: &Global, arguments: &RollbackArguments) -> Done {
    let session = Session::open(global, start(global)?, "rollback").await?;
    let handler = find_handler(&session.file, &arguments.handler)?.name.clone();
    let request = RollbackRequest { handler, to: arguments.to.clone() };
    let instance = arguments.instance.as_deref();
    let answers = reloads::rollback(&session.nats, session.prefix(), instance, &request).await;
    show(global, instance, &answers.map_err(unanswered)?)
}

fn show(global: &Global, instance: Option<&str>, answers: &[Answer]) -> Done {
    if answers.is_empty() {
        let which = instance.map_or_else(|| "no instance".to_owned(), |name| format!("no instance {name:?}"));
        return Err(anyhow::anyhow!(
            "{which} answers on this server; is one running with this nats.prefix? One that may not be found as a \
             service reloads on SIGHUP, and by POST /api/v1/reload at its runtime.listen"
        )
        .into());
    }
    global.out().show(&answers, || answers.iter().map(text).collect());
    if answers.iter().all(|answer| answer.ok) { Ok(()) } else { Err(Failure::Shown) }
}

fn text(answer: &Answer) -> String {
    let mut text = String::new();
    let what = if answer.ok { answer.applied.summary() } else { "refused; it goes on with what it runs".to_owned() };
    let _ = writeln!(text, "{}: {}", harmless(&answer.instance, true), harmless(&what, true));
    for line in answer.problems.iter().chain(&answer.applied.notes) {
        let _ = writeln!(text, "  {}", harmless(line, false).replace('\n', "\n  "));
    }
    text
}
