//! Where things are in the checkout.

use std::path::{Path, PathBuf};

/// The root of the checkout.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("tests/xtask lies two folders deep").to_owned()
}

/// Where everything that is made goes.
pub fn target() -> PathBuf {
    root().join("target")
}

/// Where fetched tools are kept.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// Where the built guests are put, one `<name>.wasm` each.
pub fn guests() -> PathBuf {
    target().join("guests")
}

/// Where compilers and tidemill keep what they have compiled.
pub fn cache() -> PathBuf {
    target().join("cache")
}

/// Where guests are put together with the kit of their language. It lies beside the packages from npm, so that npm and
/// Node.js find them there.
pub fn guest_projects() -> PathBuf {
    tools().join("js/projects")
}

/// Finds `program` in the `PATH`.
pub fn find_in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_root_is_the_checkout() {
        assert!(super::root().join("wit/handler.wit").is_file());
    }

    /// Code with such lines does not compile; texts do.
    #[test]
    fn no_text_has_leftovers_of_a_merge() {
        for name in ["README.md", "runtime/ARCHITECTURE.md", "sdk/rust/README.md"] {
            let text = std::fs::read_to_string(super::root().join(name)).expect("the text is there");
            let is_leftover = |line: &str| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ");
            assert_eq!(text.lines().find(|line| is_leftover(line)), None, "in {name}");
        }
    }
}
