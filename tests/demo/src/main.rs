//! The demo: starts a private NATS server and the real `tidemill`, publishes a stream of events of which some
//! are odd, shows what becomes of them, and checks it against what the streams hold in the end.
//!
//! It ends with success only if every event ended as it must.

mod checks;
mod events;
mod expect;
mod feed;
mod host;
mod ledger;
mod report;
mod run;
mod shop;
mod status;
mod text;
mod view;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::view::Theme;

#[tokio::main]
async fn main() -> ExitCode {
    match demo().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo; says whether everything was as it must be. Where it was not, the folder with the logs is
/// kept.
async fn demo() -> Result<bool> {
    let theme = Theme::detect();
    let folder = tempfile::Builder::new().prefix("tidemill-demo-").tempdir().context("cannot create a folder")?;
    let ended = tokio::select! {
        ended = both(folder.path(), theme) => ended,
        // What runs is killed when its future is dropped.
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    };
    let holds = match ended {
        Ok(holds) => holds,
        Err(error) => {
            eprintln!("\nerror: {error:#}\nThe logs are in {}", keep(folder));
            return Ok(false);
        }
    };
    if !holds {
        println!("The logs are in {}", keep(folder));
    }
    Ok(holds)
}

/// Runs both parts, one after the other.
async fn both(folder: &Path, theme: Theme) -> Result<bool> {
    let run = run::run(folder, theme).await?;
    view::print(&report::lines(&run, theme)).context("cannot print the report")?;
    let shop = shop::run(folder, theme).await?;
    Ok(shop && run.checks.iter().all(|check| check.holds))
}

/// Keeps the folder with the logs and says where it is.
fn keep(folder: TempDir) -> String {
    folder.keep().display().to_string()
}
