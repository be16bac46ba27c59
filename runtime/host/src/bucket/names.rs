//! Which objects of a bucket are files of the copy, and how large they may be.

use std::path::PathBuf;

use tidemill_policy::manifest::SOURCE_BYTES_MAX;

/// The largest component that is taken.
pub const COMPONENT_BYTES_MAX: u64 = 256 << 20;
/// The longest name of a file or a folder, in bytes, that all usual file systems take.
const NAME_BYTES_MAX: usize = 255;

/// A file of the copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Its path in the folder of the copy.
    pub(super) path: PathBuf,
    /// How large it may be.
    pub(super) bytes_max: u64,
}

/// The file that an object is: a component, a drop-in manifest, or a case in the folder of cases of a component.
pub(super) fn place(name: &str) -> Option<Place> {
    let (folder, file) = match name.split_once('/') {
        Some((folder, file)) => (Some(folder), file),
        None => (None, name),
    };
    let bytes_max = match (folder, stem_and_end(file)?) {
        (None, "wasm") => COMPONENT_BYTES_MAX,
        (None, "toml") => SOURCE_BYTES_MAX as u64,
        (Some(folder), "toml") if stem_and_end(folder)? == "cases" => SOURCE_BYTES_MAX as u64,
        _ => return None,
    };
    Some(Place { path: PathBuf::from(name), bytes_max })
}

/// What a plain name ends in, behind its last dot.
fn stem_and_end(name: &str) -> Option<&str> {
    let (stem, end) = name.rsplit_once('.')?;
    let is_plain = !stem.is_empty()
        && !stem.starts_with('.')
        && name.len() <= NAME_BYTES_MAX
        && !name.contains(|c: char| c.is_control() || matches!(c, '/' | '\\'));
    is_plain.then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_files() {
        for name in ["a.wasm", "a.toml", "a.cases/b.toml", "a b.wasm", "a.b.wasm", "ü.toml"] {
            assert_eq!(place(name).expect(name).path.to_str(), Some(name));
        }
        let odd = [
            "",
            "a",
            "a.txt",
            ".wasm",
            ".a.wasm",
            "..",
            "../a.wasm",
            "/a.wasm",
            "/etc/a.toml",
            "a/b.wasm",
            "a/b.toml",
            "a.cases/b.wasm",
            "a.cases/../b.toml",
            "a.cases/b/c.toml",
            "a.cases/.b.toml",
            "..cases/b.toml",
            ".cases/b.toml",
            "a.cases//b.toml",
            "a.cases/",
            "a\\b.wasm",
            "a\nb.wasm",
            "a\0.wasm",
            "a.WASM",
        ];
        for name in odd {
            assert_eq!(place(name), None, "{name:?}");
        }
        assert_eq!(place(&format!("{}.wasm", "a".repeat(251))), None);
    }
}
