//! `tidemill check`: whether everything is in order, of the server only where that is asked for.

use clap::Args;
use serde::Serialize;
use tidemill::broker::nats::preflight::{self, Findings};
use tidemill::invoker::wasm::Inspection;
use tidemill::load::{self, Fault, Loaded, ManifestFile};
use tidemill::logging::Purpose;
use tidemill_policy::in_flight::{self, PAYLOAD_MAX_DEFAULT};
use tidemill_policy::manifest::Problems;

use super::{Done, Failure, Global, output};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  tidemill check\n  tidemill check --server\n  \
                  tidemill check --manifest staging.toml --output json")]
pub(crate) struct Arguments {
    /// Compare the manifest with the NATS server too: streams, consumers and permissions. Changes nothing
    #[arg(long)]
    server: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Report<'a> {
    ok: bool,
    manifest: String,
    handlers: Vec<HandlerReport>,
    faults: Vec<Fault>,
    /// The most bytes of messages in flight, on a server with the usual `max_payload`.
    in_flight_bytes: u64,
    /// The most bytes of outputs beside them.
    outputs_bytes: u64,
    warnings: &'a Problems,
    /// What is odd about the server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    server_warnings: Vec<String>,
}

/// What was found about one handler.
#[derive(Debug, Serialize)]
struct HandlerReport {
    name: String,
    ok: bool,
    subjects: Vec<String>,
    may_publish: Vec<String>,
    component: String,
    size_bytes: Option<u64>,
    digest: Option<String>,
    load_ms: u128,
}

/// Checks the manifest, the components and the secrets, and the server.
pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Done {
    global.start_log(Purpose::Command)?;
    if arguments.server
        && let Some(mirror) = global.mirror()?
    {
        for problem in mirror.sync().await?.problems {
            tracing::error!("{problem}");
        }
    }
    let file = global.read_manifest()?;
    let loaded = load::handlers(&file, &Global::engine(Some(&file))?).await;
    let mut report = report(&file, loaded);
    if arguments.server {
        let findings = compare(global, &file).await?;
        report.faults.extend(findings.conflicts.into_iter().map(|message| Fault { key: "nats".into(), message }));
        report.ok = report.faults.is_empty();
        for warning in &findings.warnings {
            tracing::warn!("{warning}");
        }
        report.server_warnings = findings.warnings;
    }
    global.out().show(&report, || text(&report));
    if report.ok {
        return Ok(());
    }
    if global.output == super::Format::Text {
        output::complain(&output::show_faults(&report.faults));
    }
    Err(Failure::Shown)
}

/// Compares the manifest with the server.
async fn compare(global: &Global, file: &ManifestFile) -> Result<Findings, Failure> {
    let target = global.target(Some(file))?.ok_or_else(|| {
        Failure::usage(format!(
            "{} names no NATS server to check; add url = \"nats://HOST:4222\" to its table [nats], or give --nats-url",
            file.path.display()
        ))
    })?;
    let nats = super::connect(&target, "tidemill check").await?;
    Ok(preflight::check(&nats, &file.manifest).await?)
}

fn report(file: &ManifestFile, loaded: Vec<Loaded>) -> Report<'_> {
    let mut faults = load::nats_faults(file);
    let mut handlers = Vec::new();
    for Loaded { handler, result, elapsed, .. } in loaded {
        let inspection = result.as_ref().ok().map(|(loaded, _)| loaded.inspection().clone());
        handlers.push(HandlerReport {
            name: handler.name.clone(),
            ok: result.is_ok(),
            subjects: handler.subjects.clone(),
            may_publish: handler.allow.publish.clone(),
            component: load::component_path(file, &handler).display().to_string(),
            size_bytes: inspection.as_ref().map(|inspection: &Inspection| inspection.size_bytes),
            digest: inspection.map(|inspection| inspection.digest),
            load_ms: elapsed.as_millis(),
        });
        for message in result.err().unwrap_or_default() {
            faults.push(Fault::of_handler(&handler, message));
        }
    }
    let manifest = file.path.display().to_string();
    Report {
        ok: faults.is_empty(),
        manifest,
        handlers,
        faults,
        in_flight_bytes: in_flight::division(&file.manifest, PAYLOAD_MAX_DEFAULT).bound(),
        outputs_bytes: in_flight::outputs_bound(file.manifest.handlers.values()),
        warnings: &file.warnings,
        server_warnings: Vec::new(),
    }
}

/// One line for each handler, and one for all.
fn text(report: &Report<'_>) -> String {
    let width = report.handlers.iter().map(|handler| handler.name.len()).max().unwrap_or(0);
    let line = |handler: &HandlerReport| {
        let mark = if handler.ok { "ok    " } else { "FAILED" };
        let size = handler.size_bytes.map_or_else(String::new, |bytes| format!(" ({})", approximate(bytes)));
        let grants = match handler.may_publish.as_slice() {
            [] => "nothing".to_owned(),
            subjects => subjects.join(", "),
        };
        let subjects = handler.subjects.join(", ");
        let component = &handler.component;
        let name = &handler.name;
        format!("{mark} {name:width$}  {subjects} -> {component}{size}, may publish {grants}")
    };
    let memory = format!(
        "messages in flight: up to {}, and {} of outputs beside them",
        approximate(report.in_flight_bytes),
        approximate(report.outputs_bytes)
    );
    report.handlers.iter().map(line).chain([memory]).collect::<Vec<_>>().join("\n")
}

/// A size to two digits or so, in the unit that suits it.
pub(crate) fn approximate(bytes: u64) -> String {
    let tenths = |unit: u64| bytes.saturating_mul(10) / unit;
    let (unit, name) = if bytes < 1 << 20 { (1 << 10, "KiB") } else { (1 << 20, "MiB") };
    match tenths(unit) {
        _ if bytes < 1 << 10 => format!("{bytes} B"),
        tenths @ ..100 => format!("{}.{} {name}", tenths / 10, tenths % 10),
        tenths => format!("{} {name}", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::approximate;

    #[test]
    fn sizes_are_short() {
        let rows = [
            (0, "0 B"),
            (17, "17 B"),
            (2100, "2.0 KiB"),
            (94_321, "92 KiB"),
            (1_629_858, "1.5 MiB"),
            (1 << 40, "1048576 MiB"),
        ];
        for (bytes, expected) in rows {
            assert_eq!(approximate(bytes), expected);
        }
    }
}
