//! `tidemill test`: runs the cases that lie beside the components.

use std::path::Path;

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;
use tidemill::cases::{self, CaseResult};
use tidemill::load::{self, Fault, ManifestFile};
use tidemill::logging::{Purpose, counted};
use tidemill_policy::manifest::Handler;

use super::{Done, Failure, Format, Global, find_handler, output};

const EXAMPLES: &str = "\
A case is a file NAME.toml in a folder beside the component, such as plugins/order-pricing.cases/coupon.toml:

  [event]
  subject = \"order.placed\"
  json = { order_id = \"o-1\", customer_id = \"c-1\", items = [] }
  [expect]
  outcome = \"reject\"
  message = \"no items\"

Examples:
  tidemill test
  tidemill test order-pricing --output json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The handlers; else all that have cases
    handler: Vec<String>,
}

/// What came of all cases.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    handlers: Vec<HandlerReport>,
    faults: Vec<Fault>,
}

/// What came of one handler's cases.
#[derive(Debug, Serialize)]
struct HandlerReport {
    handler: String,
    folder: String,
    cases: Vec<CaseReport>,
}

#[derive(Debug, Serialize)]
struct CaseReport {
    ok: bool,
    #[serde(flatten)]
    result: CaseResult,
}

/// Runs the cases.
pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Done {
    global.start_log(Purpose::Command)?;
    let file = global.read_manifest()?;
    let engine = Global::engine(Some(&file))?;
    let mut report = Report { ok: true, handlers: Vec::new(), faults: Vec::new() };
    for (handler, folder) in chosen(&file, &arguments.handler)? {
        let loaded = load::handler(&file, &engine, handler).await;
        let ran = match &loaded.result {
            Ok((invoker, schemas)) => cases::run_cases(&loaded.handler, schemas, invoker, Path::new(&folder))
                .await
                .map_err(|error| error.0.iter().map(ToString::to_string).collect()),
            Err(messages) => Err(messages.clone()),
        };
        match ran {
            Ok(results) => {
                let report_of = |result: CaseResult| CaseReport { ok: result.passed(), result };
                let cases = results.into_iter().map(report_of).collect();
                report.handlers.push(HandlerReport { handler: handler.name.clone(), folder, cases });
            }
            Err(messages) => {
                report.faults.extend(messages.into_iter().map(|message| Fault::of_handler(handler, message)));
            }
        }
    }
    report.ok = report.faults.is_empty() && report.cases().all(|case| case.ok);
    global.out().show(&report, || report.text());
    if report.ok {
        return Ok(());
    }
    if global.output == Format::Text && !report.faults.is_empty() {
        output::complain(&output::show_faults(&report.faults));
    }
    Err(Failure::Shown)
}

/// The handlers whose cases are to be run, with the folders of these. One that was named must have some.
fn chosen<'a>(file: &'a ManifestFile, names: &[String]) -> Result<Vec<(&'a Handler, String)>, Failure> {
    let folder = |handler: &Handler| cases::folder_of(&load::component_path(file, handler));
    let with_folder = |handler: &'a Handler| (handler, folder(handler).display().to_string());
    if names.is_empty() {
        return Ok(file
            .manifest
            .handlers
            .values()
            .filter(|handler| folder(handler).is_dir())
            .map(with_folder)
            .collect());
    }
    let mut chosen: Vec<(&Handler, String)> = Vec::new();
    for name in names {
        let handler = find_handler(file, name)?;
        if !folder(handler).is_dir() {
            let folder = folder(handler);
            let why = format!("handler.{name} has no cases: there is no folder {}", folder.display());
            return Err(Failure::Failed(anyhow!("{why}; `tidemill test --help` shows a case")));
        }
        if !chosen.iter().any(|(other, _)| other.name == *name) {
            chosen.push(with_folder(handler));
        }
    }
    Ok(chosen)
}

impl Report {
    fn cases(&self) -> impl Iterator<Item = &CaseReport> {
        self.handlers.iter().flat_map(|handler| &handler.cases)
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        for HandlerReport { handler, cases, .. } in &self.handlers {
            lines.push(handler.clone());
            for CaseReport { ok, result } in cases {
                lines.push(format!("  {} {}", if *ok { "ok    " } else { "FAILED" }, result.case));
                lines.extend(result.differences.iter().map(|difference| format!("         {}", harmless(difference))));
            }
        }
        let failed = self.cases().filter(|case| !case.ok).count();
        lines.push(match self.cases().count() as u64 {
            0 => "no cases were run; `tidemill test --help` shows one".to_owned(),
            count if failed == 0 => format!("{} passed", counted(count, "case")),
            count => format!("{failed} of {} failed", counted(count, "case")),
        });
        lines.join("\n")
    }
}

/// A difference as it may be shown: what is in it comes from the handler.
fn harmless(difference: &str) -> String {
    output::harmless(&difference.replace('\n', " "), true)
}
