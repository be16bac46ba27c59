//! For pipes and CI: a line when something begins and one each second, without escape codes.

use std::io::Write;
use std::time::Duration;

use super::Scene;
use crate::text::count;

/// How much time lies between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Prints lines.
#[derive(Debug, Default)]
pub(crate) struct Plain {
    /// When the next line is due.
    due: Duration,
}

impl Plain {
    /// Prints a line if one is due.
    pub(super) fn show(&mut self, scene: &Scene) -> std::io::Result<()> {
        if scene.elapsed < self.due {
            return Ok(());
        }
        self.due = scene.elapsed + INTERVAL;
        print(scene)
    }
}

/// Prints a line, due or not.
pub(super) fn print(scene: &Scene) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", line(scene))?;
    out.flush()
}

fn line(scene: &Scene) -> String {
    let mut text = format!("{:5.1} s  {:3} %", scene.elapsed.as_secs_f64(), scene.percent());
    if scene.ends > 0 {
        let sum = |of: fn(&super::Row) -> u64| scene.rows.iter().map(of).sum::<u64>();
        let handled = sum(|row| row.status.handled);
        let (retried, dead) = (sum(|row| row.status.retried), sum(|row| row.status.dead_lettered));
        text = format!("{text}  {} handled, {retried} retried, {dead} dead-lettered", count(handled));
    }
    format!("{text}  {}", scene.phase)
}

#[cfg(test)]
mod tests {
    use super::super::tests::scene;
    use super::line;

    #[test]
    fn a_line_holds_the_sums_and_the_phase() {
        let expected =
            "  4.2 s   41 %  2,887 handled, 25 retried, 5 dead-lettered  publishing, 2,310 of 4,000 events confirmed";
        assert_eq!(line(&scene()), expected);
    }
}
