//! Draws `vcuda top` as an SVG: of a real screen, over simulated tenants that really run, as it was when all had run for a
//! while and one had been given a larger share. Writes to standard output; `scripts/picture-top` runs it.

use std::fmt::Write;
use std::os::unix::fs::symlink;
use std::thread::sleep;
use std::time::Duration;
use vcuda_tests::{Container, Run, Running, World, artefacts, program};

const COLUMNS: u16 = 92;
const LINES: u16 = 25;
/// Of one character, in the picture's units.
const WIDTH: f64 = 8.43;
const HEIGHT: f64 = 17.0;
const MARGIN: f64 = 12.0;
const BACKGROUND: &str = "#16181d";
const FOREGROUND: &str = "#d4d7dd";

/// What a tenant does, and in which limits.
struct Tenant {
    slice: &'static str,
    limits: &'static [&'static str],
    /// Name, and microseconds of the host's own work between kernels of a millisecond.
    processes: &'static [(&'static str, u32)],
    gpu: &'static str,
}

const TENANTS: [Tenant; 4] = [
    Tenant {
        slice: "training",
        limits: &["--memory", "2GiB", "--cores", "35"],
        processes: &[("trainer", 0), ("trainer", 0)],
        gpu: "0",
    },
    Tenant {
        slice: "serving",
        limits: &["--memory", "1GiB", "--cores", "30"],
        processes: &[("server", 2600)],
        gpu: "0",
    },
    Tenant {
        slice: "notebook",
        limits: &["--memory", "4GiB", "--cores", "12.5"],
        processes: &[("ipykernel", 15000)],
        gpu: "1",
    },
    Tenant { slice: "batch", limits: &["--cores", "60"], processes: &[("batch", 0)], gpu: "1" },
];

fn vcuda(container: &Container) -> Run {
    let run = container.run(World::Bare, &artefacts().vcuda).env("VCUDA_LIBRARY", &artefacts().library);
    // What is copied does not matter, only how long it takes.
    run.env("VCUDA_FAKE_CONTENTS", "0")
}

/// Starts a tenant's programs in a slice of their own.
fn start(container: &Container, tenant: &Tenant) -> Running {
    let load = program("compute_load");
    let commands: Vec<String> = tenant
        .processes
        .iter()
        .map(|(name, gap_us)| {
            let path = container.directory().join(name);
            // One of the name may have made it already.
            let _ = symlink(&load, &path);
            format!(
                "{} run sync16 1000000 1 seconds=45 warmup=0 gap_ns={gap_us}000 >/dev/null &",
                path.display()
            )
        })
        .collect();
    let script = format!("{} wait", commands.join(" "));
    let run = vcuda(container).env("CUDA_VISIBLE_DEVICES", tenant.gpu).args(["run", "--name", tenant.slice]);
    run.args(tenant.limits).args(["--", "sh", "-c", &script]).start()
}

fn main() {
    let container = Container::new().gpus("2x16GiB").no_limit();
    let tenants: Vec<Running> = TENANTS.iter().map(|tenant| start(&container, tenant)).collect();
    let mut top = vcuda(&container).args(["top", "--interval", "0.5"]).start_on_terminal(COLUMNS, LINES);
    top.press("s");
    sleep(Duration::from_secs(7));
    vcuda(&container).args(["set", "training", "--cores", "60"]).finish().clean();
    sleep(Duration::from_secs(6));
    print!("{}", svg(&top.screen()));
    top.press("q");
    top.ended();
    tenants.into_iter().for_each(Running::kill);
}

/// The screen's cells, those that look the same in a row together.
fn svg(screen: &vt100::Screen) -> String {
    let (width, height) = (f64::from(COLUMNS) * WIDTH, f64::from(LINES) * HEIGHT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0} {:.0}\" font-family=\"'DejaVu Sans Mono', \
         Menlo, Consolas, monospace\" font-size=\"14\">\n<title>vcuda top</title>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{BACKGROUND}\"/>\n",
        width + 2.0 * MARGIN,
        height + 2.0 * MARGIN
    );
    for row in 0..LINES {
        let mut column = 0;
        while column < COLUMNS {
            let look = look(screen, row, column);
            let end =
                (column..COLUMNS).find(|&next| self::look(screen, row, next) != look).unwrap_or(COLUMNS);
            let text: String = (column..end).map(|column| character(screen, row, column)).collect();
            draw(&mut svg, row, column, &text, &look);
            column = end;
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// How a cell looks.
#[derive(PartialEq)]
struct Look {
    colour: &'static str,
    background: Option<&'static str>,
    is_bold: bool,
}

fn look(screen: &vt100::Screen, row: u16, column: u16) -> Look {
    let Some(cell) = screen.cell(row, column) else {
        return Look { colour: FOREGROUND, background: None, is_bold: false };
    };
    let colour = match cell.fgcolor() {
        vt100::Color::Idx(1) => "#e5646e",
        vt100::Color::Idx(2) => "#7fb96b",
        vt100::Color::Idx(3) => "#e0b44c",
        vt100::Color::Idx(6) => "#59b3c2",
        vt100::Color::Idx(8) => "#5b616e",
        _ => FOREGROUND,
    };
    let (colour, background) = if cell.inverse() { (BACKGROUND, Some(colour)) } else { (colour, None) };
    Look { colour, background, is_bold: cell.bold() }
}

fn character(screen: &vt100::Screen, row: u16, column: u16) -> char {
    screen.cell(row, column).and_then(|cell| cell.contents().chars().next()).unwrap_or(' ')
}

/// What a block character fills of its cell: from the left, from the top, to the right, and how densely. Fonts differ
/// in these, and leave gaps.
fn block(character: char) -> Option<[f64; 4]> {
    let eighths = |first: char| f64::from(u32::from(character) - u32::from(first) + 1) / 8.0;
    match character {
        '░' => Some([0.0, 0.0, 1.0, 0.45]),
        '▁'..='█' => Some([0.0, 1.0 - eighths('▁'), 1.0, 1.0]),
        '▉'..='▏' => Some([0.0, 0.0, 1.0 - eighths('▉'), 1.0]),
        _ => None,
    }
}

fn draw(svg: &mut String, row: u16, column: u16, text: &str, look: &Look) {
    let (x, y) = (MARGIN + f64::from(column) * WIDTH, MARGIN + f64::from(row) * HEIGHT);
    let width = text.chars().count() as f64 * WIDTH;
    let drawn = match look.background {
        Some(background) => writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{HEIGHT}\" fill=\"{background}\"/>"
        ),
        None => Ok(()),
    };
    drawn.expect("a string takes all that is written");
    if text.trim().is_empty() {
        return;
    }
    if text.chars().any(|character| block(character).is_some()) {
        for (place, character) in text.chars().enumerate() {
            let Some([left, top, right, opacity]) = block(character) else { continue };
            let x = x + place as f64 * WIDTH;
            let drawn = writeln!(
                svg,
                "<rect x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{:.2}\" fill=\"{}\" opacity=\"{opacity}\"/>",
                x + left * WIDTH,
                y + top * HEIGHT + 1.0,
                (right - left) * WIDTH + 0.1,
                (1.0 - top) * (HEIGHT - 2.0),
                look.colour
            );
            drawn.expect("a string takes all that is written");
        }
        return;
    }
    // Word by word, where each belongs: what is between them is as wide as the viewer's font likes, if it is kept at all.
    let mut place = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if length > 0 {
            draw_word(svg, x + place as f64 * WIDTH, y, word, look);
        }
        place += length + 1;
    }
}

fn draw_word(svg: &mut String, x: f64, y: f64, word: &str, look: &Look) {
    let escaped = word.replace('&', "&amp;").replace('<', "&lt;");
    let weight = if look.is_bold { " font-weight=\"bold\"" } else { "" };
    // Stretched to its cells, whatever the font's own widths.
    let drawn = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{:.1}\" lengthAdjust=\"spacingAndGlyphs\" fill=\"{}\"{weight}>{escaped}</text>",
        y + HEIGHT * 0.77,
        word.chars().count() as f64 * WIDTH,
        look.colour
    );
    drawn.expect("a string takes all that is written");
}
