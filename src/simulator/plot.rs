//! Plots as SVG, plain enough for a README.

use std::fmt::Write;

/// A line or a row of points.
pub struct Series {
    /// In the legend.
    pub name: String,
    /// x and y.
    pub points: Vec<(f64, f64)>,
    /// Its stroke.
    pub color: &'static str,
    /// Points instead of a line; each with a word beside it, if it is not empty.
    pub marks: Option<Vec<String>>,
}

/// One plot.
pub struct Plot {
    /// Above it.
    pub title: String,
    /// Below the axis.
    pub x: String,
    /// Beside the axis.
    pub y: String,
    /// What is drawn.
    pub series: Vec<Series>,
    /// The y axis counts powers of ten.
    pub log_y: bool,
    /// Where x begins.
    pub from_x: f64,
}

/// Colors that differ also to most who do not see all colors (Okabe and Ito).
pub const COLORS: [&str; 8] = [
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999",
];

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 46.0;

/// Plots one below the other.
pub fn svg(plots: &[Plot]) -> String {
    let height = HEIGHT * plots.len() as f64;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, plot) in plots.iter().enumerate() {
        let top = HEIGHT * number as f64;
        write!(
            text,
            "<g transform=\"translate(0 {top})\">\n{}</g>\n",
            plot.body()
        )
        .ok();
    }
    text + "</svg>\n"
}

impl Plot {
    fn body(&self) -> String {
        let all = || self.series.iter().flat_map(|series| &series.points);
        let right = all().map(|(x, _)| *x).fold(self.from_x + 1e-9, f64::max);
        let highest = all().map(|(_, y)| *y).fold(1e-9, f64::max);
        let (low, high) = if self.log_y {
            let lowest = all()
                .map(|(_, y)| *y)
                .filter(|y| *y > 0.0)
                .fold(highest, f64::min);
            (lowest.log10().floor(), highest.log10().ceil())
        } else {
            (0.0, highest * 1.05)
        };
        let (wide, tall) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let px = |x: f64| LEFT + (x - self.from_x) / (right - self.from_x) * wide;
        let py = |y: f64| {
            let y = if self.log_y {
                y.max(10f64.powf(low)).log10()
            } else {
                y
            };
            TOP + tall * (1.0 - (y - low) / (high - low))
        };
        let mut text = String::new();
        let mut put = |line: String| text += &line;
        put(label(
            LEFT,
            TOP - 12.0,
            "start",
            &format!(
                "<tspan font-weight=\"bold\">{}</tspan>",
                escape(&self.title)
            ),
        ));
        put(label(
            LEFT + wide / 2.0,
            HEIGHT - 10.0,
            "middle",
            &escape(&self.x),
        ));
        put(format!(
            "<text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
            TOP + tall / 2.0,
            escape(&self.y)
        ));
        for (value, name) in self.y_ticks(low, high) {
            let y = py(value);
            put(rule(LEFT, y, LEFT + wide, y));
            put(label(LEFT - 6.0, y + 4.0, "end", &name));
        }
        for value in ticks(self.from_x, right) {
            let x = px(value);
            put(rule(x, TOP, x, TOP + tall));
            put(label(x, TOP + tall + 16.0, "middle", &short(value)));
        }
        for (number, series) in self.series.iter().enumerate() {
            let color = series.color;
            let y = TOP + 8.0 + 18.0 * number as f64;
            let x = LEFT + wide + 14.0;
            put(format!(
                "<line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{color}\" stroke-width=\"3\"/>\n",
                x + 18.0
            ));
            put(label(x + 24.0, y + 4.0, "start", &escape(&series.name)));
            let points: Vec<String> = series
                .points
                .iter()
                .map(|(x, y)| format!("{:.1},{:.1}", px(*x), py(*y)))
                .collect();
            put(format!(
                "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\" points=\"{}\"/>\n",
                points.join(" ")
            ));
            for ((x, y), mark) in series.points.iter().zip(series.marks.iter().flatten()) {
                let (x, y) = (px(*x), py(*y));
                put(format!(
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{color}\"/>\n"
                ));
                if !mark.is_empty() {
                    put(label(x + 6.0, y - 5.0, "start", &escape(mark)));
                }
            }
        }
        text
    }

    fn y_ticks(&self, low: f64, high: f64) -> Vec<(f64, String)> {
        if !self.log_y {
            return ticks(low, high).map(|y| (y, short(y))).collect();
        }
        let powers = low as i32..=high as i32;
        powers
            .map(|power| (10f64.powi(power), short(10f64.powi(power))))
            .collect()
    }
}

/// About five round numbers.
fn ticks(from: f64, to: f64) -> impl Iterator<Item = f64> {
    let rough = (to - from) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|factor| factor * power >= rough);
    let step = factor.unwrap_or(10.0) * power;
    let first = (from / step).ceil() as i64;
    let last = (to / step).floor() as i64;
    (first..=last).map(move |count| count as f64 * step)
}

fn short(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn rule(x1: f64, y1: f64, x2: f64, y2: f64) -> String {
    format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>\n")
}

fn label(x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
