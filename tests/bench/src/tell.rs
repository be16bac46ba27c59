//! The report as text.

use std::fmt::Write as _;

use crate::footprint::{Held, Start};
use crate::guest::Call;
use crate::languages::Language;
use crate::neighbours::Fairness;
use crate::report::Report;
use crate::rows::{Alone, Outcome};
use crate::stats::Spread;
use crate::swaps::Swaps;
use crate::sweep::Point;

/// All of it, part by part.
pub(crate) fn text(report: &Report) -> String {
    let mut text = format!("{}; medians of {} rounds (least to most)\n", report.machine, report.rounds);
    rows(&mut text, &report.rows);
    guests(&mut text, &report.guests);
    languages(&mut text, &report.languages);
    if let Some(alone) = &report.latency {
        latency(&mut text, alone);
    }
    if let Some(fairness) = &report.fairness {
        neighbours(&mut text, fairness);
    }
    if let Some(all) = &report.swaps {
        swaps(&mut text, all);
    }
    start(&mut text, &report.start);
    curve(&mut text, "in flight", &report.over_concurrency);
    curve(&mut text, "bytes", &report.over_size);
    memory(&mut text, &report.memory);
    text
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing into a string does not fail.
    let _ = text.write_fmt(line);
    text.push('\n');
}

fn around(spread: Spread, digits: usize) -> String {
    let Spread { median, least, most } = spread;
    format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
}

fn rows(text: &mut String, rows: &[Outcome]) {
    if rows.is_empty() {
        return;
    }
    let titles = ["", "hand-written/s", "tidemill/s", "ratio", "goal", "server µs", "client µs", "hand-written"];
    let [name, baseline, ours, ratio, goal, server, client, other] = titles;
    line(
        text,
        format_args!("\n{name:33} {baseline:>14} {ours:>24} {ratio:>20} {goal:>5} {server:>9} {client:>9} {other:>14}"),
    );
    for row in rows {
        let goal = row.goal.map_or(String::new(), |goal| format!("{goal:.2}"));
        line(
            text,
            format_args!(
                "{:33} {:>14.0} {:>24} {:>20} {goal:>5} {:>9.1} {:>9.1} {:>6.1} + {:>4.1}",
                row.name,
                row.baseline.median,
                around(row.tidemill, 0),
                around(row.ratio, 2),
                row.tidemill_cpu.server_us,
                row.tidemill_cpu.client_us,
                row.baseline_cpu.server_us,
                row.baseline_cpu.client_us,
            ),
        );
    }
}

fn guests(text: &mut String, calls: &[Call]) {
    if !calls.is_empty() {
        line(text, format_args!("\none call of a guest, µs   reused              fresh"));
    }
    for call in calls {
        let (reused, fresh) = (around(call.reused_us, 1), around(call.fresh_us, 1));
        line(text, format_args!("{:23} {reused:>18} {fresh:>24}", call.guest));
    }
}

fn languages(text: &mut String, all: &[Language]) {
    if !all.is_empty() {
        let titles = ["component KiB", "compile ms", "first call us", "reused us", "fresh us", "memory KiB"];
        line(text, format_args!("\nlanguage {}", titles.map(|title| format!("{title:>15}")).concat()));
    }
    for one in all {
        let Language { component_bytes, compile_ms, first_us, reused_us, fresh_us, memory_bytes, .. } = one;
        line(
            text,
            format_args!(
                "{:9}{:>15}{:>15.0}{:>15.0}{:>15.1}{:>15.0}{:>15}",
                one.name,
                component_bytes / 1024,
                compile_ms.median,
                first_us.median,
                reused_us.median,
                fresh_us.median,
                memory_bytes / 1024
            ),
        );
    }
}

fn latency(text: &mut String, alone: &Alone) {
    line(
        text,
        format_args!(
            "\none event in flight, µs           hand-written                tidemill             added  goal"
        ),
    );
    for (name, pair, goal) in [("p50", &alone.p50, 15), ("p99", &alone.p99, 60)] {
        let (baseline, ours, added) = (around(pair.baseline, 0), around(pair.tidemill, 0), around(pair.added, 0));
        line(text, format_args!("{name:20} {baseline:>25} {ours:>23} {added:>17} {goal:>5}"));
    }
}

fn neighbours(text: &mut String, fairness: &Fairness) {
    let Fairness { alone, beside, p99, throughput } = fairness;
    line(
        text,
        format_args!("\na good handler                  alone          beside one that loops and one that eats memory"),
    );
    for (name, alone, beside) in [
        ("p50 at 500/s, µs", alone.p50_us, beside.p50_us),
        ("p99 at 500/s, µs", alone.p99_us, beside.p99_us),
        ("events/s flat out", alone.rate, beside.rate),
    ] {
        line(text, format_args!("{name:20} {:>24} {:>26}", around(alone, 0), around(beside, 0)));
    }
    line(
        text,
        format_args!(
            "p99 {} times that of alone (goal 2); throughput {} of alone",
            around(*p99, 2),
            around(*throughput, 2)
        ),
    );
}

fn swaps(text: &mut String, Swaps { count, took_ms, alone, swapped, p99 }: &Swaps) {
    line(text, format_args!("\nswapped component                       alone                    swapped"));
    for (name, alone, swapped) in [
        ("99 % within, µs", alone.p99_us, swapped.p99_us),
        ("longest, µs", alone.longest_us, swapped.longest_us),
        ("events/s flat out", alone.rate, swapped.rate),
    ] {
        line(text, format_args!("{name:20} {:>24} {:>26}", around(alone, 0), around(swapped, 0)));
    }
    let (count, took) = (around(*count, 0), around(*took_ms, 1));
    line(text, format_args!("{count} swaps of {took} ms; p99 {} times that of alone (goal 2)", around(*p99, 2)));
}

fn start(text: &mut String, all: &[Start]) {
    if !all.is_empty() {
        line(
            text,
            format_args!("\nready after, ms      cold    warm                     warm, nothing to make      idle MiB"),
        );
    }
    for Start { components, cold_ms, warm_ms, again_ms, idle_mib } in all {
        let (warm, again) = (around(*warm_ms, 0), around(*again_ms, 0));
        line(text, format_args!("{components:3} components {cold_ms:>10.0}    {warm:23} {again:26} {idle_mib:>5.1}"));
    }
}

fn curve(text: &mut String, what: &str, points: &[Point]) {
    if !points.is_empty() {
        line(
            text,
            format_args!("\n{what:>10}  hand-written/s  tidemill/s  ratio  hand-written p99 µs  tidemill p99 µs"),
        );
    }
    for Point { at, baseline, tidemill } in points {
        let ratio = tidemill.rate / baseline.rate;
        line(
            text,
            format_args!(
                "{at:>10}  {:>14.0}  {:>10.0}  {ratio:>5.2}  {:>19.0}  {:>15.0}",
                baseline.rate, tidemill.rate, baseline.p99_us, tidemill.p99_us
            ),
        );
    }
}

fn memory(text: &mut String, all: &[Held]) {
    if !all.is_empty() {
        line(text, format_args!("\nevents so far      MiB"));
    }
    for Held { events, mib } in all {
        line(text, format_args!("{events:>13} {mib:>8.1}"));
    }
}
