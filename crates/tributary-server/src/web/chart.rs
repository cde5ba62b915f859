//! Charts as SVG. Their colours are names for the style sheet, which replaces them by those of the
//! theme; each chart has a table with the same values beside it.

use plotters::prelude::*;

/// The size in pixels, before the page scales it.
const SIZE: (u32, u32) = (420, 150);
/// Stand for the colours of the lines, of the axes and of the texts in `style.css`.
const LINES: [RGBColor; 4] =
    [RGBColor(0, 0, 1), RGBColor(0, 0, 2), RGBColor(0, 0, 3), RGBColor(0, 0, 4)];
const AXIS: RGBColor = RGBColor(0, 0, 16);
const TEXT: RGBColor = RGBColor(0, 0, 17);

/// A line of a chart.
pub(super) struct Line {
    pub(super) name: String,
    /// Seconds before now, and the value.
    pub(super) points: Vec<(f64, f64)>,
}

/// A chart, and its last values as text.
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    /// SVG without scripts, from numbers only.
    pub(super) svg: String,
    /// Name, last value and highest value of each line.
    pub(super) rows: Vec<(String, String, String)>,
}

impl Chart {
    pub(super) fn new(title: &'static str, unit: &'static str, lines: &[Line]) -> Self {
        let row = |line: &Line| {
            let last = line.points.last().map_or(0.0, |(_, value)| *value);
            let highest = line.points.iter().map(|(_, value)| *value).fold(0.0, f64::max);
            (line.name.clone(), number(last), number(highest))
        };
        Self { title, unit, svg: draw(lines), rows: lines.iter().map(row).collect() }
    }
}

/// The chart; empty if it cannot be drawn, which the table makes up for.
fn draw(lines: &[Line]) -> String {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    let drawn = draw_on(&area, lines).and_then(|()| area.present());
    drop(area);
    match drawn {
        Ok(()) => svg.replacen("<svg ", "<svg class=\"chart\" aria-hidden=\"true\" ", 1),
        Err(_) => String::new(),
    }
}

fn draw_on<'a>(
    area: &DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
    lines: &[Line],
) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let oldest = points().map(|(age, _)| *age).fold(60.0, f64::max);
    let highest = points().map(|(_, value)| *value).fold(1.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .margin(6)
        .margin_right(20)
        .x_label_area_size(22)
        .y_label_area_size(44)
        .build_cartesian_2d(-oldest..0.0, 0.0..highest)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(3)
        .y_labels(4)
        .axis_style(AXIS)
        .bold_line_style(AXIS)
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 13).into_font().color(&TEXT))
        .x_label_formatter(&|age| if *age == 0.0 { "now".into() } else { format!("{age:.0} s") })
        .y_label_formatter(&|value| number(*value))
        .draw()?;
    for (line, colour) in lines.iter().zip(LINES.iter().cycle()) {
        let points = line.points.iter().map(|(age, value)| (-age, *value));
        chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
    }
    Ok(())
}

/// A number with as many digits as people read.
pub(super) fn number(value: f64) -> String {
    match value {
        value if value >= 1_000_000.0 => format!("{:.1} M", value / 1_000_000.0),
        value if value >= 10_000.0 => format!("{:.0} k", value / 1_000.0),
        value if value >= 10.0 || value == 0.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_have_a_line_for_each_series_and_a_table() {
        let line = |name: &str, values: [f64; 3]| Line {
            name: name.to_owned(),
            points: [4.0, 2.0, 0.0].into_iter().zip(values).collect(),
        };
        let chart = Chart::new("t", "u", &[line("a", [1.0, 2.0, 3.0]), line("b", [0.0, 9e4, 0.5])]);
        assert!(chart.svg.contains("#000001") && chart.svg.contains("#000002"), "{}", chart.svg);
        assert_eq!(chart.rows[1], ("b".to_owned(), "0.5".to_owned(), "90 k".to_owned()));
        assert!(Chart::new("t", "u", &[]).svg.contains("<svg"));
    }
}
