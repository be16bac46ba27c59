//! Guests that are built as a user of their kit would build them: in a project that `tidemill new` writes, with the guest's
//! files put over those of the template, by `tidemill build`.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{copy_over, empty_folder, name, wasm_file};
use crate::{paths, process, stamp, tools};

/// What the guests of all languages are made of, besides their own files.
const COMMON: [&str; 5] = ["sdk", "wit", "runtime/host/src/project", "tests/xtask/python", "tests/xtask/js"];

/// The files of a guest, and what they are written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// The guest's own files. The folder's name is the guest's.
    pub(super) folder: PathBuf,
    /// As `tidemill new` calls the language.
    pub(super) language: String,
}

impl Source {
    /// Builds it, if something has changed.
    ///
    /// # Errors
    ///
    /// If a compiler is missing and cannot be got, or the guest does not compile.
    pub(super) fn build(&self, out: &Path) -> Result<()> {
        let root = paths::root();
        let mut inputs: Vec<_> = COMMON.iter().map(|path| root.join(path)).collect();
        inputs.push(self.folder.clone());
        let key = stamp::key_of(&inputs)?;
        let step = format!("guests-{}", name(&self.folder));
        let result = wasm_file(&self.folder, out);
        if stamp::is_fresh(&step, &key) && result.is_file() && self.project().is_dir() {
            return Ok(());
        }
        process::build(&["tidemill"])?;
        println!("    compiling {}", name(&self.folder));
        let project = empty_folder(&self.project())?;
        process::stream(tools::tidemill()?.arg("new").arg(&project).args(["--lang", &self.language]))?;
        copy_over(&self.folder, &project)?;
        process::stream(tools::tidemill()?.arg("build").arg(&project).arg("--to").arg(&result))?;
        stamp::write(&step, &key)
    }

    /// Where it is put together with its kit.
    pub(super) fn project(&self) -> PathBuf {
        paths::guest_projects().join(name(&self.folder))
    }
}
