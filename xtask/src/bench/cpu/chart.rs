//! The chart: how many times as long as the host each row takes, as SVG, on a logarithmic scale.

use super::measured::Measured;
use super::report::times;
use super::rows::Group;
use super::run::Who;
use std::fmt::Write;

const WIDTH: f64 = 860.0;
/// Left of the bars, where the names are.
const NAMES: f64 = 240.0;
/// Right of them, for the figure of the longest bar.
const RIGHT: f64 = 60.0;
const TOP: f64 = 56.0;
const BAR: f64 = 9.0;
const ROW: f64 = 26.0;
const TITLE: f64 = 30.0;

/// The scale begins here.
const LEAST: f64 = 0.5;

const BARS: [(Who, &str); 2] = [(Who::Soft, "#0b6e99"), (Who::Tcg, "#c9a227")];

/// The scale's lines.
const GRID: [f64; 10] = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0, 10_000.0];

pub fn draw(measured: &Measured) -> String {
    let groups: Vec<_> = Group::ALL
        .into_iter()
        .map(|group| (group, measured.rows.iter().copied().filter(move |row| row.group == group).collect::<Vec<_>>()))
        .filter(|(_, rows)| !rows.is_empty())
        .collect();
    let height = TOP + groups.iter().map(|(_, rows)| TITLE + ROW * rows.len() as f64).sum::<f64>() + 10.0;
    let ratio = |who, row| measured.ratio(who, Who::Native, row).least;
    let most = measured.rows.iter().flat_map(|row| BARS.map(|(who, _)| ratio(who, row))).fold(2.0, f64::max);
    let length = |value: f64| (value / LEAST).ln().max(0.0) / (most / LEAST).ln() * (WIDTH - NAMES - RIGHT);

    let mut svg = Svg::new(height);
    svg.text(12.0, 20.0, "start", "Times as long as the host (logarithmic; shorter is faster)");
    for ((who, colour), x) in BARS.into_iter().zip([NAMES, NAMES + 140.0]) {
        svg.bar((x, 32.0), 12.0, colour);
        let name = if who == Who::Soft { "motu, soft" } else { "QEMU, TCG" };
        svg.text(x + 18.0, 40.0, "start", name);
    }
    for value in GRID.into_iter().filter(|value| *value <= most) {
        let x = NAMES + length(value);
        svg.line(x, TOP - 2.0, height - 8.0, if value == 1.0 { "#444444" } else { "#dddddd" });
        svg.text(x, TOP + 10.0, "middle", &value.to_string());
    }
    let mut y = TOP;
    for (group, rows) in groups {
        y += TITLE;
        svg.text(12.0, y - 8.0, "start", &group.title().to_uppercase());
        for row in rows {
            svg.text(NAMES - 8.0, y + 13.0, "end", row.what);
            for ((who, colour), below) in BARS.into_iter().zip([0.0, BAR + 1.0]) {
                let (value, top) = (ratio(who, row), y + 1.0 + below);
                svg.bar((NAMES, top), length(value), colour);
                svg.text(NAMES + length(value) + 4.0, top + BAR - 1.0, "start", &times(value));
            }
            y += ROW;
        }
    }
    svg.finish()
}

/// A document that is being written. Writing to a string does not fail.
struct Svg(String);

impl Svg {
    fn new(height: f64) -> Svg {
        Svg(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        ))
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ =
            writeln!(self.0, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#222222\">{text}</text>");
    }

    fn bar(&mut self, (x, y): (f64, f64), width: f64, colour: &str) {
        let _ = writeln!(
            self.0,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>"
        );
    }

    fn line(&mut self, x: f64, from: f64, to: f64, colour: &str) {
        let _ =
            writeln!(self.0, "<line x1=\"{x:.1}\" y1=\"{from:.1}\" x2=\"{x:.1}\" y2=\"{to:.1}\" stroke=\"{colour}\"/>");
    }

    fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::measured;
    use super::super::rows::ROWS;
    use super::*;

    #[test]
    fn longer_bars_are_slower_rows() {
        let svg = draw(&measured(4.0));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        let widths = |colour: &str| -> Vec<f64> {
            let bars = svg.lines().filter(|line| line.contains(&format!("height=\"{BAR}\" fill=\"{colour}\"")));
            let width = |line: &str| line.split("width=\"").nth(1)?.split('"').next()?.parse().ok();
            bars.map(|line| width(line).unwrap()).collect()
        };
        let [(_, soft), (_, tcg)] = BARS;
        // The first bar of each is its legend's.
        let (soft, tcg) = (widths(soft), widths(tcg));
        assert_eq!((soft.len(), tcg.len()), (ROWS.len() + 1, ROWS.len() + 1));
        let expected = (4.0 / LEAST).ln() / (10.0 / LEAST).ln();
        assert!(
            soft.iter().zip(&tcg).skip(1).all(|(soft, tcg)| (soft / tcg - expected).abs() < 0.01),
            "{soft:?} {tcg:?}"
        );
    }
}
