//! Golden cases: files beside a component that say which event must lead to what. They are run as `tidemill test`, and
//! before a new version gets its first event.
//!
//! A case sees the same time and the same random numbers in every run, in a fresh instance; nothing is published.

mod compare;
mod file;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tidemill_policy::manifest::Handler;
use tidemill_policy::schema::Schemas;

use crate::invoker::wasm::WasmHandler;
use crate::rehearse::rehearse;

/// What came of one case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseResult {
    /// The case: its file's name without the ending.
    pub case: String,
    /// Its file.
    pub file: PathBuf,
    /// Each thing that is not as expected, for people; none where it passed.
    pub differences: Vec<String>,
}

impl CaseResult {
    /// Whether all is as expected.
    pub fn passed(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Something that keeps a case from being run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseFault {
    /// The case's file, or the folder.
    pub file: PathBuf,
    /// What is wrong, with its key and the remedy.
    pub message: String,
}

impl fmt::Display for CaseFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.message)
    }
}

/// Why the cases of a handler cannot be run: all that is wrong in any of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CasesError(pub Vec<CaseFault>);

impl fmt::Display for CasesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for CasesError {}

/// The folder of a component's cases: `order-pricing.cases` beside `order-pricing.wasm`.
pub fn folder_of(component: &Path) -> PathBuf {
    component.with_extension("cases")
}

/// Runs all cases in a folder, in the order of their names. No folder, no cases.
///
/// # Errors
/// Where a case cannot be read or makes no sense: then none is run.
pub async fn run_cases(
    handler: &Handler,
    schemas: &Schemas,
    invoker: &WasmHandler,
    folder: &Path,
) -> Result<Vec<CaseResult>, CasesError> {
    let mut results = Vec::new();
    for case in file::read_all(folder, handler)? {
        let rehearsal = rehearse(handler, schemas, invoker, case.scene).await;
        let differences = compare::differences(&case.expected, &rehearsal);
        results.push(CaseResult { case: case.name, file: case.file, differences });
    }
    Ok(results)
}
