//! The results as a picture: SVG, written by hand.

use std::fmt::Write as _;

use super::{Results, SizeResults, table::time};

const WIDTH: f64 = 1040.0;
const HEIGHT: f64 = 540.0;
/// Top and height of the drawing area of a panel.
const PLOT_TOP: f64 = 150.0;
const PLOT_HEIGHT: f64 = 310.0;
/// Width of a panel, and of the space left of it.
const PANEL_WIDTH: f64 = 440.0;
const PANEL_MARGIN: f64 = 64.0;

/// A series of bars: its name, its colour, its value at a size, in milliseconds.
struct Series {
    name: &'static str,
    colour: &'static str,
    value: fn(&SizeResults) -> f64,
}

const PROGRAMMING: [Series; 4] = [
    Series { name: "ipvsadm -R", colour: "#b0b7c3", value: |r| r.programming.ipvsadm.wall_ms },
    Series {
        name: "kube-ipvs (IPVS, routes, nftables)",
        colour: "#1f6feb",
        value: |r| r.programming.product.first_to_last_write_ms,
    },
    Series { name: "kube-ipvs, IPVS alone", colour: "#79b8ff", value: |r| r.programming.ipvs_alone.all_ms },
    Series { name: "the same bytes replayed", colour: "#2da44e", value: |r| r.programming.replay_ms },
];

const LATENCY: [Series; 4] = [
    Series {
        name: "API's answer to kernel, p50",
        colour: "#1f6feb",
        value: |r| r.running.changes.answer_to_kernel.p50_ms,
    },
    Series {
        name: "API's answer to kernel, p99",
        colour: "#79b8ff",
        value: |r| r.running.changes.answer_to_kernel.p99_ms,
    },
    Series {
        name: "watch event to kernel, p50",
        colour: "#8250df",
        value: |r| r.running.changes.event_to_kernel.p50_ms,
    },
    Series {
        name: "watch event to kernel, p99",
        colour: "#d2a8ff",
        value: |r| r.running.changes.event_to_kernel.p99_ms,
    },
];

/// The whole picture.
pub fn render(results: &Results) -> String {
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="system-ui, sans-serif" font-size="12" fill="#24292f">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>
"##
    );
    text(
        &mut svg,
        Point { x: 24.0, y: 32.0 },
        "start",
        18,
        "kube-ipvs: time to program the kernel, by number of Services (10 endpoints each)",
    );
    text(&mut svg, Point { x: 24.0, y: 54.0 }, "start", 12, &results.run.line());
    text(&mut svg, Point { x: 24.0, y: 72.0 }, "start", 12, results.run.caution());
    text(&mut svg, Point { x: 24.0, y: 90.0 }, "start", 12, &results.run.disturbance());
    panel(&mut svg, PANEL_MARGIN, "Programming an empty kernel", &PROGRAMMING, &results.sizes);
    let second = PANEL_MARGIN * 2.0 + PANEL_WIDTH;
    panel(&mut svg, second, "One endpoint changes", &LATENCY, &results.sizes);
    svg.push_str("</svg>\n");
    svg
}

/// Bars on a logarithmic scale, grouped by size, with a legend below.
fn panel(svg: &mut String, left: f64, title: &str, series: &[Series], sizes: &[SizeResults]) {
    let scale = Scale::around(sizes.iter().flat_map(|size| series.iter().map(|series| (series.value)(size))));
    text(svg, Point { x: left, y: PLOT_TOP - 20.0 }, "start", 14, title);
    for decade in scale.low..=scale.high {
        let ms = 10_f64.powi(decade);
        let y = scale.y(ms);
        let _ = writeln!(
            svg,
            r##"<line x1="{left:.1}" x2="{:.1}" y1="{y:.1}" y2="{y:.1}" stroke="#d8dee4"/>"##,
            left + PANEL_WIDTH
        );
        text(svg, Point { x: left - 6.0, y: y + 4.0 }, "end", 11, &round_time(ms));
    }
    let group = PANEL_WIDTH / sizes.len().max(1) as f64;
    for (number, size) in sizes.iter().enumerate() {
        let start = left + group * number as f64;
        bars(svg, &scale, Group { left: start, width: group }, series, size);
        text(
            svg,
            Point { x: start + group / 2.0, y: PLOT_TOP + PLOT_HEIGHT + 18.0 },
            "middle",
            12,
            &thousands(size.size.services),
        );
    }
    for (number, series) in series.iter().enumerate() {
        let x = left + PANEL_WIDTH / 2.0 * (number % 2) as f64;
        let y = PLOT_TOP + PLOT_HEIGHT + 38.0 + 18.0 * (number / 2) as f64;
        let _ = writeln!(
            svg,
            r#"<rect x="{x:.1}" y="{:.1}" width="11" height="11" fill="{}"/>"#,
            y - 10.0,
            series.colour
        );
        text(svg, Point { x: x + 16.0, y }, "start", 12, series.name);
    }
}

/// Place of the bars of one size.
#[derive(Clone, Copy)]
struct Group {
    left: f64,
    width: f64,
}

fn bars(svg: &mut String, scale: &Scale, group: Group, series: &[Series], size: &SizeResults) {
    let width = group.width * 0.84 / series.len() as f64;
    for (number, series) in series.iter().enumerate() {
        let ms = (series.value)(size);
        let (x, y) = (group.left + group.width * 0.08 + width * number as f64, scale.y(ms));
        let _ = writeln!(
            svg,
            r#"<rect x="{:.1}" y="{y:.1}" width="{:.1}" height="{:.1}" fill="{}"/>"#,
            x + 1.0,
            width - 2.0,
            PLOT_TOP + PLOT_HEIGHT - y,
            series.colour
        );
        text(svg, Point { x: x + width / 2.0, y: y - 4.0 }, "middle", 9, &time(ms));
    }
}

/// A logarithmic scale from one power of ten to another.
struct Scale {
    low: i32,
    high: i32,
}

impl Scale {
    fn around(values: impl Iterator<Item = f64>) -> Scale {
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| *value > 0.0) {
            (least, most) = (least.min(value), most.max(value));
        }
        if !least.is_finite() {
            return Scale { low: 0, high: 1 };
        }
        let low = least.log10().floor() as i32;
        Scale { low, high: (most.log10().ceil() as i32).max(low + 1) }
    }

    fn y(&self, ms: f64) -> f64 {
        let share =
            (ms.max(f64::MIN_POSITIVE).log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        PLOT_TOP + PLOT_HEIGHT * (1.0 - share.clamp(0.0, 1.0))
    }
}

/// A point of the picture.
#[derive(Clone, Copy)]
struct Point {
    x: f64,
    y: f64,
}

fn text(svg: &mut String, at: Point, anchor: &str, size: u32, content: &str) {
    let Point { x, y } = at;
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}">{content}</text>"#
    );
}

/// Renders a power of ten without digits that say nothing.
fn round_time(ms: f64) -> String {
    if ms >= 1_000.0 { format!("{} s", ms / 1e3) } else { format!("{ms} ms") }
}

fn thousands(number: usize) -> String {
    if number >= 1_000 { format!("{},{:03}", number / 1_000, number % 1_000) } else { number.to_string() }
}

#[cfg(test)]
mod tests {
    use super::{PLOT_HEIGHT, PLOT_TOP, Scale, round_time, thousands};

    #[test]
    fn the_scale_covers_all_values() {
        let scale = Scale::around([3.0, 97_000.0, 0.0].into_iter());
        assert_eq!((scale.low, scale.high), (0, 5));
        assert!(
            (scale.y(1.0) - (PLOT_TOP + PLOT_HEIGHT)).abs() < 1e-9 && (scale.y(1e5) - PLOT_TOP).abs() < 1e-9
        );
        assert!(scale.y(0.0) <= PLOT_TOP + PLOT_HEIGHT, "a bar without a value has no height");
        let empty = Scale::around(std::iter::empty());
        assert!(empty.y(5.0).is_finite());
    }

    #[test]
    fn labels() {
        assert_eq!([0.1, 1.0, 100.0, 1_000.0].map(round_time), ["0.1 ms", "1 ms", "100 ms", "1 s"]);
        assert_eq!([100, 1_000, 10_000].map(thousands), ["100", "1,000", "10,000"]);
    }
}
