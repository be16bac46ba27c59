//! The few styles that are used, and printing styled lines.

use std::io::{IsTerminal, Write};

use ratatui::backend::IntoCrossterm;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;

/// Which styles may be used where the output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Theme {
    /// No escape codes at all: it is no terminal.
    Plain,
    /// Bold and dim, but no colours: the user set `NO_COLOR`.
    Monochrome,
    /// Everything.
    Colour,
}

impl Theme {
    /// What standard output and the user allow.
    pub(crate) fn detect() -> Theme {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        match (std::io::stdout().is_terminal(), unwanted) {
            (false, _) => Theme::Plain,
            (true, true) => Theme::Monochrome,
            (true, false) => Theme::Colour,
        }
    }

    /// What went well.
    pub(crate) fn good(self) -> Style {
        self.coloured(Color::Green)
    }

    /// What is to be noticed.
    pub(crate) fn notable(self) -> Style {
        self.coloured(Color::Yellow)
    }

    /// What went wrong.
    pub(crate) fn bad(self) -> Style {
        self.coloured(Color::Red)
    }

    /// What is ours: names and bars.
    pub(crate) fn accent(self) -> Style {
        self.coloured(Color::Cyan)
    }

    /// Headings.
    pub(crate) fn heading(self) -> Style {
        self.modified(Modifier::BOLD)
    }

    /// What is of less interest.
    pub(crate) fn faint(self) -> Style {
        self.modified(Modifier::DIM)
    }

    fn coloured(self, colour: Color) -> Style {
        if self == Theme::Colour { Style::new().fg(colour) } else { Style::new() }
    }

    fn modified(self, modifier: Modifier) -> Style {
        if self == Theme::Plain { Style::new() } else { Style::new().add_modifier(modifier) }
    }
}

/// Prints lines in their styles, which [`Theme`] has chosen for where they go.
pub(crate) fn print(lines: &[Line<'_>]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in lines {
        for span in &line.spans {
            if span.style == Style::new() {
                write!(out, "{}", span.content)?;
            } else {
                write!(out, "{}", span.style.into_crossterm().apply(&span.content))?;
            }
        }
        writeln!(out)?;
    }
    out.flush()
}
