//! Builds the guests of the conformance cases (`tests/guests/cases-<language>`) as a user of their kit would: in a
//! project that `tidemill new` writes, with the guest's files put over those of the template, by `tidemill build`.

use std::path::Path;

use anyhow::Result;

use super::{entries, name, wasm_file};
use crate::{paths, process, stamp, tools};

const PREFIX: &str = "cases-";

/// Builds those of which something has changed, but for the ones that `is_built` says are built elsewhere.
///
/// # Errors
///
/// If a compiler is missing and cannot be got, or a guest does not compile.
pub(super) fn build(out: &Path, is_built: impl Fn(&Path) -> bool) -> Result<()> {
    let root = paths::root();
    let common = ["sdk", "wit", "runtime/host/src/project", "tests/xtask/python", "tests/xtask/js"];
    for folder in entries(&root.join("tests/guests"))? {
        let folder_name = name(&folder);
        let Some(language) = folder_name.strip_prefix(PREFIX).filter(|_| !is_built(&folder)) else { continue };
        let mut inputs: Vec<_> = common.iter().map(|path| root.join(path)).collect();
        inputs.push(folder.clone());
        let key = stamp::key_of(&inputs)?;
        let step = format!("guests-{folder_name}");
        let result = wasm_file(&folder, out);
        if stamp::is_fresh(&step, &key) && result.is_file() {
            continue;
        }
        build_one(&folder, language, &result)?;
        stamp::write(&step, &key)?;
    }
    Ok(())
}

fn build_one(folder: &Path, language: &str, result: &Path) -> Result<()> {
    process::build(&["tidemill"])?;
    println!("    compiling {}", name(folder));
    let project = super::empty_folder(&paths::guest_projects().join(name(folder)))?;
    process::stream(tools::tidemill()?.arg("new").arg(&project).args(["--lang", language]))?;
    super::copy_over(folder, &project)?;
    process::stream(tools::tidemill()?.arg("build").arg(&project).arg("--to").arg(result))
}
