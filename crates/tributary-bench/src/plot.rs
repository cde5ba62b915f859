//! Draws the latencies of a run as SVG: the latency that one request in N exceeds.

use std::path::Path;

use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;
use plotters::prelude::*;

use super::report::Report;

const SIZE: (u32, u32) = (900, 480);
/// Points per factor of ten on the horizontal axis.
const POINTS: i32 = 20;

/// Draws the latencies of all requests into a file; writes none if there are no latencies.
///
/// # Errors
/// If the file cannot be written.
pub fn plot(report: &Report, path: &Path) -> Result<()> {
    let latencies = report.latencies();
    if latencies.is_empty() {
        return Ok(());
    }
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    let drawn = draw(&area, &report.title(), latencies).and_then(|()| area.present());
    drawn.map_err(|error| anyhow!("{} cannot be written: {error}", path.display()))
}

fn draw<'a>(
    area: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
    title: &str,
    latencies: &Histogram<u64>,
) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
    area.fill(&WHITE)?;
    let count = latencies.len().max(10) as f64;
    let lowest = (latencies.min().max(1) as f64 / 1_000.0) / 1.5;
    let highest = (latencies.max().max(2) as f64 / 1_000.0) * 1.5;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d((1.0..count).log_scale(), (lowest..highest).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("one request in N takes longer")
        .y_desc("milliseconds")
        .x_label_formatter(&|one_in| format!("{one_in:.0}"))
        .y_label_formatter(&|ms| format!("{ms}"))
        .draw()?;
    chart.draw_series(LineSeries::new(points(latencies, count), BLUE.stroke_width(2)))?;
    Ok(())
}

/// The points of the curve, as (N, the milliseconds that one request in N exceeds).
fn points(latencies: &Histogram<u64>, count: f64) -> Vec<(f64, f64)> {
    let one_in = (0..).map(|step| 10f64.powf(f64::from(step) / f64::from(POINTS)));
    let one_in = one_in.take_while(|one_in| *one_in < count).chain([count]);
    let point = |one_in: f64| {
        let micros = latencies.value_at_quantile(1.0 - 1.0 / one_in);
        (one_in, micros.max(1) as f64 / 1_000.0)
    };
    one_in.map(point).collect()
}
