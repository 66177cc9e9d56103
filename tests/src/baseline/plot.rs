//! The figure of one filesystem and workload: how much faster, and how many flushes.
//!
//! Threads go along the bottom in both halves, one colour a flush time. Threads, ratios and flushes
//! are all about factors, so every axis is the logarithm to the base of two: a factor of two has the
//! same height everywhere.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;

use super::cell::{Comparison, Measurement};

type Outcome = Result<(), Box<dyn Error>>;
type Area<'b> = DrawingArea<SVGBackend<'b>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Axis, Axis>>;

const SIZE: (u32, u32) = (1000, 470);
const LEGEND_HEIGHT: u32 = 40;
const FONT: &str = "sans-serif";
/// Told apart also by who sees fewer colours (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
];
const DARK: RGBColor = RGBColor(60, 60, 60);
const GRID: RGBColor = RGBColor(225, 225, 225);

/// Draws comparisons of one filesystem and workload, at least one.
pub(super) fn draw(path: &Path, comparisons: &[Comparison]) -> Outcome {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let Measurement { fs, workload, .. } = &comparisons[0].bare;
    let body = root.titled(&format!("{fs}, {workload}: {}", workload.story()), (FONT, 17))?;
    let height = body.dim_in_pixel().1;
    let (charts, legend) = body.split_vertically(height - LEGEND_HEIGHT);
    let (left, right) = charts.split_horizontally(SIZE.0 / 2);
    let curves = curves(comparisons);
    draw_ratios(&left, &curves)?;
    draw_flushes(&right, &curves)?;
    draw_legend(&legend, &curves)?;
    root.present()?;
    Ok(())
}

// What has one flush time, along the threads.
struct Curve<'c> {
    flush_ms: f64,
    colour: RGBColor,
    comparisons: Vec<&'c Comparison>,
}

impl Curve<'_> {
    // What cannot be on a logarithmic axis is left out.
    fn points(&self, value: impl Fn(&Comparison) -> f64) -> Vec<(f64, f64)> {
        let points = self.comparisons.iter().map(|it| (it.bare.threads as f64, value(it)));
        points.filter(|(_, y)| *y > 0.0).map(|(x, y)| (x.log2(), y.log2())).collect()
    }
}

fn curves(comparisons: &[Comparison]) -> Vec<Curve<'_>> {
    let chunks = comparisons.chunk_by(|one, other| one.bare.flush_ms == other.bare.flush_ms);
    let curves = chunks.zip(COLOURS.iter().cycle()).map(|(chunk, &colour)| {
        let mut comparisons = chunk.iter().collect::<Vec<_>>();
        comparisons.sort_by_key(|comparison| comparison.bare.threads);
        Curve { flush_ms: chunk[0].bare.flush_ms, colour, comparisons }
    });
    curves.collect()
}

fn draw_ratios(area: &Area<'_>, curves: &[Curve<'_>]) -> Outcome {
    let lines = curves.iter().map(|curve| (curve.colour, curve.points(|it| it.ratio)));
    let lines = lines.collect::<Vec<_>>();
    let points = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    let x = range(points().map(|(x, _)| x));
    // The line where nobody is faster is always in it.
    let y = range(points().map(|(_, y)| y).chain([-0.5, 0.5]));
    let mut chart =
        chart(area, "operations/s: lanefs / bare (above 1: lanefs is faster)", x, y, 0.5)?;
    let whole = chart.x_range();
    chart.draw_series(LineSeries::new([(whole.start, 0.0), (whole.end, 0.0)], DARK))?;
    lines.into_iter().try_for_each(|(colour, points)| draw_solid(&mut chart, colour, points))
}

fn draw_flushes(area: &Area<'_>, curves: &[Curve<'_>]) -> Outcome {
    let bare = |it: &Comparison| it.bare.flushes_per_op;
    let lanefs = |it: &Comparison| it.lanefs.flushes_per_op;
    let points = curves.iter().flat_map(|curve| [curve.points(bare), curve.points(lanefs)]);
    let points = points.flatten().collect::<Vec<_>>();
    let x = range(points.iter().map(|(x, _)| *x));
    let y = range(points.iter().map(|(_, y)| *y));
    let mut chart = chart(area, "device flushes per operation (dashed: bare)", x, y, 1.0)?;
    // Bare curves lie on each other mostly; the others on top.
    for curve in curves {
        draw_dashed(&mut chart, curve.colour, curve.points(bare))?;
    }
    for curve in curves {
        draw_solid(&mut chart, curve.colour, curve.points(lanefs))?;
    }
    Ok(())
}

fn draw_solid(chart: &mut Chart<'_, '_>, colour: RGBColor, points: Vec<(f64, f64)>) -> Outcome {
    let style = colour.stroke_width(2);
    chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
    chart.draw_series(points.into_iter().map(|point| Circle::new(point, 4, colour.filled())))?;
    Ok(())
}

fn draw_dashed(chart: &mut Chart<'_, '_>, colour: RGBColor, points: Vec<(f64, f64)>) -> Outcome {
    let style = colour.stroke_width(2);
    chart.draw_series(DashedLineSeries::new(points.clone(), 5, 4, style))?;
    chart.draw_series(points.into_iter().map(|point| Circle::new(point, 5, style)))?;
    Ok(())
}

// An empty chart with a line for every `y_step` on the vertical axis.
fn chart<'a, 'b>(
    area: &'a Area<'b>,
    title: &str,
    x: Range<f64>,
    y: Range<f64>,
    y_step: f64,
) -> Result<Chart<'a, 'b>, Box<dyn Error>> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 14))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(Axis { range: x, step: 1.0 }, Axis { range: y, step: y_step })?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(DARK)
        .label_style((FONT, 13))
        .x_desc("threads")
        .draw()?;
    Ok(chart)
}

fn draw_legend(area: &Area<'_>, curves: &[Curve<'_>]) -> Outcome {
    const ENTRY_WIDTH: i32 = 130;
    const Y: i32 = 18;
    for (curve, x) in curves.iter().zip((60..).step_by(ENTRY_WIDTH as usize)) {
        let line = vec![(x, Y), (x + 26, Y)];
        area.draw(&PathElement::new(line, curve.colour.stroke_width(2)))?;
        area.draw(&Circle::new((x + 13, Y), 4, curve.colour.filled()))?;
        let text = format!("flush {} ms", curve.flush_ms);
        area.draw(&Text::new(text, (x + 32, Y - 7), (FONT, 14)))?;
    }
    Ok(())
}

// From a power of two to another, with all values inside, not just on the edge.
fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
    const MARGIN: f64 = 0.15;
    let (min, max) =
        values.fold((f64::MAX, f64::MIN), |(min, max), value| (min.min(value), max.max(value)));
    if min > max {
        // Nothing to show.
        return -1.0..1.0;
    }
    (min - MARGIN).floor().max(min - 0.5)..(max + MARGIN).ceil().min(max + 0.5)
}

// Exponents of two, with a line and a label at every multiple of `step`.
struct Axis {
    range: Range<f64>,
    step: f64,
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (low, high): (i32, i32)) -> i32 {
        let part = (value - self.range.start) / (self.range.end - self.range.start);
        low + (part * f64::from(high - low)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        let first = (self.range.start / self.step).ceil() as i32;
        let last = (self.range.end / self.step).floor() as i32;
        (first..=last).map(|number| f64::from(number) * self.step).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    // The power itself: 0.0625, 0.71, 1.41, 16.
    fn format(exponent: &f64) -> String {
        let value = exponent.exp2();
        let digits = if value < 0.3 { 4 } else { 2 };
        let text = format!("{value:.digits$}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_labelled_with_what_a_reader_expects() {
        let labels = [-4.0, -1.0, -0.5, 0.0, 0.5, 4.0].map(|exponent| Axis::format(&exponent));
        assert_eq!(labels, ["0.0625", "0.5", "0.71", "1", "1.41", "16"]);
        let axis = Axis { range: -0.65..0.65, step: 0.5 };
        assert_eq!(axis.key_points(10), [-0.5, 0.0, 0.5]);
    }
}
