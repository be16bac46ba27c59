//! `tidemill schema` and `tidemill completions`: texts that other programs want.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use tidemill_policy::manifest;

use super::{Cli, Global, output};

const SCHEMA_EXAMPLES: &str = "\
Editors that know TOML schemas take it from a first line in tidemill.toml:
  #:schema ./tidemill.schema.json

Example:
  tidemill schema > tidemill.schema.json";

#[derive(Debug, Args)]
#[command(after_help = SCHEMA_EXAMPLES)]
pub(crate) struct SchemaArguments {
    /// Print the reference of all keys as Markdown instead
    #[arg(long, hide = true)]
    markdown: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tidemill completions bash > ~/.local/share/bash-completion/completions/tidemill")]
pub(crate) struct CompletionsArguments {
    /// The shell
    shell: Shell,
}

/// Prints the schema, or the reference.
pub(crate) fn schema(global: &Global, arguments: &SchemaArguments) {
    if arguments.markdown {
        output::print(&manifest::reference_markdown());
    } else {
        let schema = manifest::json_schema();
        global.out().show(&schema, || serde_json::to_string_pretty(&schema).unwrap_or_default());
    }
}

/// Prints the completions.
pub(crate) fn completions(arguments: &CompletionsArguments) {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "tidemill", &mut script);
    output::print(&String::from_utf8_lossy(&script));
}
