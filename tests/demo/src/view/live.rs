//! For terminals: a few lines that are drawn over and over in place, so that what was on the screen before
//! stays, and so do the last figures.

use std::io::{Stdout, Write};

use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Row as TableRow, Table};
use ratatui::{Frame, Terminal, TerminalOptions, Viewport};

use super::{Row, Scene, Theme, WIDTH_MAX, share};
use crate::text::{count, micros};

/// Title, blank, bar, blank, header, three handlers, blank, phase.
const HEIGHT: u16 = 10;
/// The columns: name, bar, handled, retried, dead-lettered, in flight, p50, p99. The bar takes what is left.
const COLUMNS: [Constraint; 8] = [
    Constraint::Length(14),
    Constraint::Fill(1),
    Constraint::Length(7),
    Constraint::Length(7),
    Constraint::Length(4),
    Constraint::Length(9),
    Constraint::Length(7),
    Constraint::Length(7),
];
/// What the columns but the bar take, with the gaps between them.
const COLUMNS_WIDTH: usize = 14 + 7 + 7 + 4 + 9 + 7 + 7 + 7 * 2;

/// Draws on a terminal.
pub(crate) struct Live {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    theme: Theme,
}

impl Live {
    /// Takes the lines below the cursor.
    ///
    /// # Errors
    /// Where the terminal does not say where its cursor is.
    pub(super) fn open(theme: Theme) -> std::io::Result<Live> {
        let options = TerminalOptions { viewport: Viewport::Inline(HEIGHT) };
        let terminal = Terminal::with_options(CrosstermBackend::new(std::io::stdout()), options)?;
        Ok(Live { terminal, theme })
    }

    /// Draws a scene.
    pub(super) fn show(&mut self, scene: &Scene) -> std::io::Result<()> {
        let theme = self.theme;
        self.terminal.draw(|frame| draw(frame, scene, theme)).map(drop)
    }

    fn go_below(&mut self) -> std::io::Result<()> {
        let area = self.terminal.get_frame().area();
        self.terminal.set_cursor_position((0, area.bottom().saturating_sub(1)))?;
        self.terminal.show_cursor()?;
        let mut out = std::io::stdout();
        out.write_all(b"\r\n")?;
        out.flush()
    }
}

impl Drop for Live {
    /// What is printed next, a report or an error, goes below what was drawn.
    fn drop(&mut self) {
        // Nothing can be done where the terminal is gone.
        let _ = self.go_below();
    }
}

fn draw(frame: &mut Frame<'_>, scene: &Scene, theme: Theme) {
    let area = Rect { width: frame.area().width.min(WIDTH_MAX), ..frame.area() };
    let [title, _, bar, _, table, phase] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(title_line(scene, theme), title);
    frame.render_widget(bar_line(scene, theme, bar.width), bar);
    frame.render_widget(handlers(scene, theme, table.width), table);
    let elapsed = Span::styled(format!("{:.1} s", scene.elapsed.as_secs_f64()), theme.heading());
    frame.render_widget(
        Line::from(vec![elapsed, Span::raw("  "), Span::styled(scene.phase.clone(), theme.faint())]),
        phase,
    );
}

fn title_line(scene: &Scene, theme: Theme) -> Line<'static> {
    let rest = format!(
        "  {} events, {} of them odd, for {} handlers",
        count(scene.events),
        count(scene.odd),
        scene.rows.len()
    );
    Line::from(vec![Span::styled("tidemill demo", theme.accent().patch(theme.heading())), Span::raw(rest)])
}

fn bar_line(scene: &Scene, theme: Theme, width: u16) -> Line<'static> {
    let label = format!(" {:3} %  {} of {}", scene.percent(), count(scene.ends), count(scene.ends_wanted));
    let room = usize::from(width).saturating_sub(24);
    let mut spans = bar(scene.done(), room, theme);
    spans.push(Span::styled(label, theme.heading()));
    Line::from(spans)
}

/// A bar of `width` cells, filled by eighths of a cell.
fn bar(share: f64, width: usize, theme: Theme) -> Vec<Span<'static>> {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "cells")]
    let eighths = (share * (width * 8) as f64) as usize;
    let mut filled = "█".repeat(eighths / 8);
    filled.push_str(PARTS[eighths % 8]);
    let rest = "·".repeat(width - eighths.div_ceil(8));
    vec![Span::styled(filled, theme.accent()), Span::styled(rest, theme.faint())]
}

fn handlers(scene: &Scene, theme: Theme, width: u16) -> Table<'static> {
    let names = ["handler", "", "handled", "retried", "dead", "in flight", "p50", "p99"];
    let header = names.iter().enumerate().map(|(place, name)| {
        let text = Text::from(*name);
        Cell::from(if place > 1 { text.right_aligned() } else { text })
    });
    let room = usize::from(width).saturating_sub(COLUMNS_WIDTH);
    let rows = scene.rows.iter().map(|row| table_row(row, theme, room));
    Table::new(rows, COLUMNS).column_spacing(2).header(TableRow::new(header).style(theme.faint()))
}

fn table_row(row: &Row, theme: Theme, room: usize) -> TableRow<'static> {
    let status = &row.status;
    let cell = |text: String, style| Cell::from(Text::styled(text, style).right_aligned());
    let unless_zero = |number: u64, style| cell(count(number), if number == 0 { theme.faint() } else { style });
    TableRow::new([
        Cell::from(Span::styled(row.name, theme.heading())),
        Cell::from(Line::from(bar(share(status.ends(), row.ends_wanted), room, theme))),
        unless_zero(status.handled, theme.good()),
        unless_zero(status.retried, theme.notable()),
        unless_zero(status.dead_lettered, theme.bad()),
        unless_zero(status.in_flight, theme.accent()),
        cell(micros(status.p50_us), theme.heading()),
        cell(micros(status.p99_us), theme.heading()),
    ])
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::tests::scene;
    use super::*;

    fn drawn(width: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, HEIGHT)).expect("a terminal in memory");
        terminal.draw(|frame| draw(frame, &scene(), Theme::Colour)).expect("it can be drawn on");
        let text = terminal.backend().to_string();
        let lines = text.lines().map(|line| line.trim_matches('"').trim_end());
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_scene_on_a_wide_terminal() {
        let expected = "\
tidemill demo  4,000 events, 40 of them odd, for 3 handlers

███████████████████████████████▍············································  41 %  2,892 of 6,994

handler                                          handled  retried  dead  in flight      p50      p99
loyalty-points  █████████▎·····················      900       12     0          8   740 µs   4.2 ms
order-pricing   ███████████████▌···············    1,497        4     3          8   740 µs   312 ms
welcome-email   ███████████████▎···············      490        9     2          8   740 µs   2.1 ms

4.2 s  publishing, 2,310 of 4,000 events confirmed";
        assert_eq!(drawn(120), expected);
    }

    #[test]
    fn a_narrow_terminal_still_shows_the_bar() {
        assert!(drawn(60).contains(" 41 %  2,892 of 6,994"), "{}", drawn(60));
    }
}
