//! Lists the files of the kits (`sdk/`) and of the contract (`wit/`), for `tidemill new` to write them from the binary.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// What tools leave behind.
const LEFTOVERS: [&str; 9] =
    ["target", "node_modules", "build", "dist", "__pycache__", ".zig-cache", "zig-out", ".mypy_cache", ".ruff_cache"];

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../..").canonicalize()?;
    let mut files = Vec::new();
    for home in ["sdk", "wit"] {
        println!("cargo::rerun-if-changed={}", root.join(home).display());
        collect(&root.join(home), &mut files)?;
    }
    files.sort();
    let mut list = String::from("&[\n");
    for file in files {
        let name = file.strip_prefix(&root).unwrap_or(&file).to_string_lossy().replace('\\', "/");
        let _ = writeln!(list, "    ({name:?}, include_bytes!({:?})),", file.display().to_string());
    }
    list.push_str("]\n");
    fs::write(Path::new(&env::var_os("OUT_DIR").unwrap_or_default()).join("kits.rs"), list)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if !entry.file_type()?.is_dir() {
            files.push(path);
        } else if !LEFTOVERS.iter().any(|leftover| entry.file_name() == *leftover) || is_tracked(&path) {
            collect(&path, files)?;
        }
    }
    Ok(())
}

/// A folder of a template that is there for the sake of what is made in it.
fn is_tracked(folder: &Path) -> bool {
    folder.join(".gitignore").is_file() && folder.components().any(|part| part.as_os_str() == "template")
}
