//! The curves as a picture: throughput and latency over concurrency and size.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::report::Report;
use crate::sweep::{Measured, Point};

const SIZE: (u32, u32) = (1_000, 760);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Draws all four curves.
pub(crate) fn draw(path: &Path, report: &Report) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    let fail = |error: DrawingAreaErrorKind<std::io::Error>| anyhow!("cannot draw {}: {error}", path.display());
    root.fill(&WHITE).map_err(fail)?;
    let areas = root.split_evenly((2, 2));
    let rate = |measured: &Measured| measured.rate;
    let p99 = |measured: &Measured| measured.p99_us;
    let curves = [
        ("events a second, over events in flight", &report.over_concurrency, &rate as &dyn Fn(&Measured) -> f64),
        ("p99 in µs, over events in flight", &report.over_concurrency, &p99),
        ("events a second, over bytes of payload", &report.over_size, &rate),
        ("p99 in µs, over bytes of payload", &report.over_size, &p99),
    ];
    for (area, (title, points, value)) in areas.iter().zip(curves) {
        curve(area, title, points, value).map_err(fail)?;
    }
    root.present().map_err(fail)
}

/// One picture, with both axes logarithmic.
fn curve(
    area: &Area<'_>,
    title: &str,
    points: &[Point],
    value: &dyn Fn(&Measured) -> f64,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let values = || points.iter().flat_map(|point| [value(&point.baseline), value(&point.tidemill)]);
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Ok(()) };
    let (bottom, top) = (values().fold(f64::INFINITY, f64::min), values().fold(1.0, f64::max));
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(70)
        .build_cartesian_2d((first.at..last.at).log_scale(), (bottom * 0.8..top * 1.25).log_scale())?;
    chart.configure_mesh().x_labels(8).y_labels(6).draw()?;
    let baseline: Vec<_> = points.iter().map(|point| (point.at, value(&point.baseline))).collect();
    let tidemill: Vec<_> = points.iter().map(|point| (point.at, value(&point.tidemill))).collect();
    for (name, colour, line) in [("hand-written", BLACK, baseline), ("tidemill", BLUE, tidemill)] {
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    Ok(())
}
