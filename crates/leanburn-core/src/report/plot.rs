use derive_new::new;
use plotters::{
    chart::{ChartBuilder, SeriesLabelPosition},
    prelude::{
        BLACK, Circle, Color, IntoDrawingArea, LineSeries, Palette, Palette99, PathElement, SVGBackend, WHITE,
    },
};

use crate::{Error, Result};

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Points joined by a line.
    Line,
    /// Points alone.
    Points,
}

/// A plot of one or more series over two numeric axes, drawn as SVG.
#[derive(Debug, Clone, new)]
pub struct Plot {
    #[new(into)]
    title: String,
    #[new(into)]
    x_label: String,
    #[new(into)]
    y_label: String,
    #[new(default)]
    series: Vec<Series>,
}

#[derive(Debug, Clone)]
struct Series {
    name: String,
    style: Style,
    points: Vec<(f64, f64)>,
}

impl Plot {
    /// The plot with one more series; points that are not finite are left out.
    pub fn with(
        mut self,
        name: impl Into<String>,
        style: Style,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        let points = points.into_iter().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        self.series.push(Series { name: name.into(), style, points });
        self
    }

    /// The plot as an SVG document.
    ///
    /// # Errors
    ///
    /// When no series has a finite point.
    pub fn svg(&self) -> Result<String> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let (Some(x), Some(y)) = (range(points().map(|p| p.0)), range(points().map(|p| p.1))) else {
            return Err(Error::data(format!("plot `{}`", self.title), "a finite point", "none"));
        };
        let mut svg = String::new();
        self.draw(&mut svg, x, y).map_err(|error| {
            Error::data(format!("plot `{}`", self.title), "a plot that can be drawn", error)
        })?;
        Ok(svg)
    }

    fn draw(
        &self,
        svg: &mut String,
        x: std::ops::Range<f64>,
        y: std::ops::Range<f64>,
    ) -> std::result::Result<(), Box<dyn std::error::Error>> {
        let area = SVGBackend::with_string(svg, (720, 440)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(56)
            .build_cartesian_2d(x, y)?;
        chart.configure_mesh().light_line_style(WHITE).x_desc(&self.x_label).y_desc(&self.y_label).draw()?;
        for (i, Series { name, style, points }) in self.series.iter().enumerate() {
            let colour = Palette99::pick(i).to_rgba();
            let drawn = match style {
                Style::Line => {
                    chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
                }
                Style::Points => {
                    chart.draw_series(points.iter().map(|&point| Circle::new(point, 2, colour.filled())))?
                }
            };
            drawn
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(3)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.2))
            .draw()?;
        area.present()?;
        Ok(())
    }
}

/// The values' range with a margin; a single value gets a range of one around it.
fn range(values: impl Iterator<Item = f64>) -> Option<std::ops::Range<f64>> {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return None;
    }
    let margin = if high > low { 0.04 * (high - low) } else { 0.5 };
    Some(low - margin..high + margin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_holds_its_labels_and_series() {
        let svg = Plot::new("scores", "row", "score")
            .with("normal", Style::Points, [(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)])
            .with("mean", Style::Line, [(0.0, 2.0), (2.0, 2.0)])
            .svg()
            .unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["scores", "row", "normal", "mean"] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(svg.matches("<circle").count(), 2);
    }

    #[test]
    fn a_plot_of_nothing_is_an_error() {
        assert!(Plot::new("empty", "x", "y").svg().is_err());
        assert!(Plot::new("point", "x", "y").with("one", Style::Line, [(1.0, 1.0)]).svg().is_ok());
    }
}
