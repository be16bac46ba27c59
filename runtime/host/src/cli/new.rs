//! `tidemill new`: writes the project of a new handler.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tidemill::project::name::Name;
use tidemill::project::{create, kits};

use super::{Done, Failure, Global, output};

const EXAMPLES: &str = "\
The project holds the handler with a unit test, cases for `tidemill test`, a manifest, and all that it is built from but for
the language's own tools.

Examples:
  tidemill new order-total --lang rust
  tidemill new handlers/order-total --lang python";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The folder to make, named like the handler: words of a-z and 0-9 with "-" between them
    #[arg(value_name = "NAME")]
    folder: PathBuf,
    /// The language: c, cpp, go, js, python, rust, ts or zig
    #[arg(short, long, value_name = "LANG")]
    lang: String,
}

/// What was written, and what to do with it.
#[derive(Debug, Serialize)]
struct Report {
    name: String,
    language: &'static str,
    folder: String,
    files: Vec<String>,
    next: Vec<String>,
}

/// Writes the project.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Done {
    let folder = &arguments.folder;
    let name = name(arguments)?;
    let kit = kits::find(&arguments.lang).map_err(|meant| unknown_language(&arguments.lang, meant))?;
    let files = create::create(&kit, &name, folder)?;
    let enter = format!("cd {}", folder.display());
    let common = ["tidemill build", "tidemill test", "tidemill dev"].map(str::to_owned);
    let report = Report {
        name: name.to_string(),
        language: kit.language,
        folder: folder.display().to_string(),
        files,
        next: std::iter::once(enter).chain(kit.next().iter().cloned()).chain(common).collect(),
    };
    global.out().show(&report, || {
        let made = format!("{} ({} files; begin with its README.md)", report.folder, report.files.len());
        output::table([("made", made), ("next", report.next.join("\n"))])
    });
    Ok(())
}

fn name(arguments: &Arguments) -> Result<Name, Failure> {
    let last = arguments.folder.file_name().unwrap_or_default().to_string_lossy();
    Name::new(&last).map_err(|near| {
        let hint = near.map_or_else(String::new, |name| {
            format!("; for example: tidemill new {} --lang {}", arguments.folder.with_file_name(name.kebab()).display(), arguments.lang)
        });
        Failure::usage(format!(
            "{last:?} is no name for a handler: it takes up to 64 of a-z, 0-9 and single \"-\" between them, beginning with a letter{hint}"
        ))
    })
}

fn unknown_language(given: &str, meant: Option<&str>) -> Failure {
    let hint = meant.map_or_else(String::new, |meant| format!("did you mean {meant}? "));
    Failure::usage(format!(
        "there is no kit for the language {given:?}; {hint}there are {}",
        kits::languages().join(", ")
    ))
}
