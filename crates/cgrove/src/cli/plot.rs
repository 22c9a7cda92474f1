//! `cgrove usage --plot FILE`: the kept slots as a chart, in PNG or SVG.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use super::figures::{Figures, bytes};
use crate::exit::Exit;

const SIZE: (u32, u32) = (1200, 900);
/// Lines in one chart: the group itself, and the busiest of those below it.
const MOST: usize = 8;
/// A subset of DejaVu Sans, so that pictures do not depend on the host's fonts.
const FONT: &[u8] = include_bytes!("plot/DejaVuSans.ttf");

/// What groups used, by slot.
pub(super) type Slots = BTreeMap<u64, BTreeMap<String, Figures>>;

type Measure = (&'static str, fn(&Figures) -> Option<f64>, fn(f64) -> String);

const MEASURES: [Measure; 4] = [
    ("CPU, cores", |f| f.cores, |n| format!("{n:.2}")),
    ("Memory", |f| f.memory, bytes),
    ("Disk I/O per second", |f| Some(f.read? + f.written?), bytes),
    ("Processes and threads", |f| f.tasks.map(|n| n as f64), |n| format!("{n:.0}")),
];

/// Draws `top` and the groups directly below it. The file's name says which kind of picture.
pub(super) fn draw(file: &Path, title: &str, top: &str, slots: &Slots) -> Result<(), Exit> {
    if slots.len() < 2 {
        return Err(Exit::unavailable("a chart needs two slots or more: wait a second, or ask for more".into()));
    }
    static FONTS: Once = Once::new();
    FONTS.call_once(|| drop(register_font("sans-serif", FontStyle::Normal, FONT)));
    let failed = |e: String| Exit::unavailable(format!("{}: {e}", file.display()));
    match file.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("svg") => charts(&SVGBackend::new(file, SIZE).into_drawing_area(), title, top, slots).map_err(failed),
        Some("png") => charts(&BitMapBackend::new(file, SIZE).into_drawing_area(), title, top, slots).map_err(failed),
        _ => Err(Exit::usage(format!("--plot {}: the name must end in .png or .svg", file.display()))),
    }
}

/// The group, then the busiest below it.
fn chosen(top: &str, slots: &Slots, measure: fn(&Figures) -> Option<f64>) -> Vec<String> {
    let below = |path: &str| {
        let rest = path.strip_prefix(top.trim_end_matches('/'));
        path != top && rest.is_some_and(|r| r.starts_with('/') && !r[1..].contains('/'))
    };
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for (path, figures) in slots.values().flatten().filter(|(path, _)| below(path)) {
        *sums.entry(path).or_default() += measure(figures).unwrap_or(0.0);
    }
    let mut busiest: Vec<(&str, f64)> = sums.into_iter().collect();
    busiest.sort_by(|a, b| b.1.total_cmp(&a.1));
    std::iter::once(top).chain(busiest.into_iter().map(|(path, _)| path)).take(MOST).map(str::to_owned).collect()
}

fn charts<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    title: &str,
    top: &str,
    slots: &Slots,
) -> Result<(), String> {
    let words = |e: DrawingAreaErrorKind<B::ErrorType>| e.to_string();
    area.fill(&WHITE).map_err(words)?;
    let area = area.margin(8, 8, 8, 8).titled(title, ("sans-serif", 22)).map_err(words)?;
    // A group has one colour in all charts.
    let shown: Vec<Vec<String>> = MEASURES.iter().map(|(_, measure, _)| chosen(top, slots, *measure)).collect();
    let mut colours: Vec<&String> = Vec::new();
    for path in shown.iter().flatten() {
        if !colours.contains(&path) {
            colours.push(path);
        }
    }
    for ((measure, paths), panel) in MEASURES.iter().zip(&shown).zip(area.split_evenly((2, 2))) {
        let lines = paths.iter().map(|path| (path, colours.iter().position(|c| *c == path).unwrap_or(0)));
        chart(&panel, measure, lines, slots).map_err(words)?;
    }
    area.present().map_err(words)
}

fn chart<'a, B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    (label, measure, shown): &Measure,
    lines: impl Iterator<Item = (&'a String, usize)>,
    slots: &Slots,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let (first, last) = (*slots.keys().next().unwrap_or(&0) as i64, *slots.keys().next_back().unwrap_or(&1) as i64);
    let most = slots.values().flat_map(BTreeMap::values).filter_map(*measure).fold(0.0, f64::max);
    let most = if most > 0.0 { most * 1.05 } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .caption(*label, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(70)
        .build_cartesian_2d(first..last, 0.0..most)?;
    let clock = |slot: &i64| format!("{:02}:{:02}:{:02}", slot / 3600 % 24, slot / 60 % 60, slot % 60);
    chart
        .configure_mesh()
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&clock)
        .y_label_formatter(&|n| shown(*n))
        .label_style(("sans-serif", 12))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (path, colour) in lines {
        let colour = Palette99::pick(colour).to_rgba();
        // A second without a value interrupts the line.
        let mut pieces: Vec<Vec<(i64, f64)>> = vec![Vec::new()];
        let mut before = None;
        for (slot, groups) in slots {
            let here = groups.get(path).and_then(measure).map(|value| (*slot as i64, value));
            if before.is_some_and(|b| *slot != b + 1) || here.is_none() {
                pieces.push(Vec::new());
            }
            before = Some(*slot);
            pieces.last_mut().into_iter().for_each(|piece| piece.extend(here));
        }
        for (n, piece) in pieces.into_iter().filter(|p| !p.is_empty()).enumerate() {
            let line = chart.draw_series(LineSeries::new(piece, colour.stroke_width(2)))?;
            if n == 0 {
                line.label(path.clone())
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(2)));
            }
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(("sans-serif", 12))
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots() -> Slots {
        let figures = |cores| Figures { cores: Some(cores), memory: Some(5e6), ..Figures::default() };
        let groups = |n: u64| {
            let paths = ["/", "/a", "/a/b", "/c"];
            paths.iter().map(|p| ((*p).to_owned(), figures(n as f64 * p.len() as f64))).collect()
        };
        (100..110).filter(|n| *n != 105).map(|n| (n, groups(n))).collect()
    }

    #[test]
    fn the_group_and_the_busiest_directly_below_it() {
        let cores: fn(&Figures) -> Option<f64> = |f| f.cores;
        assert_eq!(chosen("/", &slots(), cores), ["/", "/a", "/c"]);
        assert_eq!(chosen("/a", &slots(), cores), ["/a", "/a/b"]);
    }

    #[test]
    fn both_kinds_of_pictures() {
        let directory = std::env::temp_dir().join(format!("cgrove-plot-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let [png, svg] = ["x.png", "x.SVG"].map(|name| directory.join(name));
        draw(&png, "node", "/", &slots()).unwrap();
        draw(&svg, "node", "/", &slots()).unwrap();
        assert!(std::fs::read(&png).unwrap().starts_with(b"\x89PNG"));
        let text = std::fs::read_to_string(&svg).unwrap();
        assert!(text.contains("CPU, cores") && text.contains("/a") && text.contains("00:01:4"));
        assert_eq!(draw(Path::new("x.jpg"), "node", "/", &slots()).unwrap_err().code, 64);
        assert_eq!(draw(&png, "node", "/", &Slots::new()).unwrap_err().code, 69);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
