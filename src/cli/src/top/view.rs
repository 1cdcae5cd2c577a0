//! What `vcuda top` looks like: lines of a given width, from 60 columns on.
//!
//! Owns every word, bar and colour. Knows no terminal: the same lines are drawn on one, printed as text and compared in
//! tests.

use super::rows::{GpuRow, ProcessRow, SliceRow};
use super::state::State;
use crate::neighbours::MEANING;
use crate::ps::state::ProcessState;
use crate::ps::text::cut;
use crate::size;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use std::collections::VecDeque;

/// Columns of the names of what bars show, with the space around them.
const LABEL_COLUMNS: usize = 10;
/// Columns of the words beside a bar: `1023.9 MiB of 1023.9 MiB 100 %`.
const WORDS_COLUMNS: usize = 31;
/// Columns that a slice's name has before how it shares its GPU is told.
const NAME_COLUMNS: usize = 16;
/// Columns of a bar at least.
const BAR_COLUMNS: usize = 16;
/// Eighths of a character, from the bottom.
const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Eighths of a character, from the left.
const PARTS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub struct Palette {
    has_colours: bool,
}

impl Palette {
    /// Without any if `NO_COLOR` is set to something (no-color.org).
    pub fn of_environment() -> Palette {
        Palette { has_colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    /// Without colours.
    pub const PLAIN: Palette = Palette { has_colours: false };

    fn colour(self, colour: Color) -> Style {
        if self.has_colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn faint(self) -> Style {
        self.colour(Color::DarkGray)
    }

    /// Of time, of which it is no harm to use all there is.
    fn time(self) -> Style {
        self.colour(Color::Cyan)
    }

    /// Of memory: green, yellow from three quarters on, red from nine tenths on.
    fn memory(self, ratio: f64) -> Style {
        self.colour(match ratio {
            ratio if ratio >= 0.9 => Color::Red,
            ratio if ratio >= 0.75 => Color::Yellow,
            _ => Color::Green,
        })
    }
}

/// A line that ends with the screen, of which `right` is at the end.
fn spread(left: Vec<Span<'static>>, right: Vec<Span<'static>>, columns: usize) -> Line<'static> {
    let width = |spans: &[Span]| spans.iter().map(Span::width).sum::<usize>();
    let gap = columns.saturating_sub(width(&left) + width(&right));
    let mut spans = left;
    spans.push(Span::raw(" ".repeat(gap)));
    spans.extend(right);
    Line::from(spans)
}

/// The first lines: the whole, and each GPU.
pub fn header(state: &State, columns: usize, palette: Palette) -> Vec<Line<'static>> {
    let (slices, processes) = state.counts();
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let counted = format!(
        "   {}, {} on {}",
        count(slices, "slice", "slices"),
        count(processes, "process", "processes"),
        count(state.gpus().len(), "GPU", "GPUs")
    );
    let mut right = Vec::new();
    if state.is_paused {
        right.push(Span::styled("paused  ", bold));
    }
    right.push(Span::raw(format!("every {} s ", state.interval.as_secs_f64())));
    let left = vec![Span::styled(" vcuda top", bold), Span::raw(counted)];
    let mut lines = vec![spread(left, right, columns)];
    for gpu in state.gpus() {
        lines.push(gpu_line(gpu, columns, palette));
        lines.extend(beside_line(state.foreign_on(gpu.uuid), palette));
    }
    lines
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// ` GPU-aa202020  memory ████     14.00 of 80.00 GiB   time ███     74 %`.
fn gpu_line(gpu: &GpuRow, columns: usize, palette: Palette) -> Line<'static> {
    const WORDS: usize = " GPU-aa202020  memory  1023.99 GiB of 1023.99 GiB  time  100 % ".len();
    let bar_columns = (columns.saturating_sub(WORDS) / 2).clamp(4, 30);
    let memory_ratio =
        if gpu.physical_bytes > 0 { gpu.used_bytes as f64 / gpu.physical_bytes as f64 } else { 0.0 };
    let used = match gpu.physical_bytes {
        0 => size::text(gpu.used_bytes),
        physical_bytes => format!("{} of {}", size::text(gpu.used_bytes), size::text(physical_bytes)),
    };
    let mut spans = vec![Span::raw(format!(" {}  memory ", short(&gpu.uuid.to_string())))];
    spans.extend(bar(memory_ratio, bar_columns, palette.memory(memory_ratio), palette));
    spans.push(Span::raw(format!(" {used:<25} time ")));
    spans.extend(bar(gpu.busy_ratio, bar_columns, palette.time(), palette));
    spans.push(Span::raw(format!(" {:>3.0} %", gpu.busy_ratio * 100.0)));
    Line::from(spans)
}

/// What works on a GPU that nobody holds back, if there is something.
fn beside_line(foreign: usize, palette: Palette) -> Option<Line<'static>> {
    let text = format!("               {} without vcuda: {MEANING}", count(foreign, "process", "processes"));
    (foreign > 0).then(|| Line::styled(text, palette.colour(Color::Yellow)))
}

/// As much of a UUID as other tools take for it.
fn short(uuid: &str) -> String {
    uuid.chars().take("GPU-".len() + 8).collect()
}

/// The heads of the columns of [`process_line`].
pub fn heading(state: &State, columns: usize) -> Line<'static> {
    let text = "         PID  PROCESS              MEMORY      SHARE  THROTTLED    CALLS/S";
    let order = if state.is_reversed { "▲" } else { "▼" };
    let right = format!("{order} {} ", state.sort.text());
    let gap = columns.saturating_sub(text.chars().count() + right.chars().count());
    // Narrow terminals have the order at the bottom alone.
    let text = if gap == 0 { text.to_owned() } else { format!("{text}{}{right}", " ".repeat(gap)) };
    Line::styled(format!("{text:<columns$}"), Style::new().add_modifier(Modifier::REVERSED))
}

/// All slices and their processes.
pub fn body(state: &State, columns: usize, palette: Palette) -> Vec<Line<'static>> {
    let rows = state.shown();
    if rows.is_empty() {
        let text = if state.filter.is_empty() {
            [
                "  No program is running under a limit.",
                "  Start one:  vcuda run --memory 4GiB --cores 30 -- COMMAND",
            ]
        } else {
            ["  Nothing here has that in its name.", "  Esc shows everything."]
        };
        return std::iter::once("").chain(text).map(Line::raw).collect();
    }
    let mut lines = Vec::new();
    for row in &rows {
        lines.extend(slice_lines(state, row, columns, palette));
        if state.shows_processes {
            lines.extend(row.processes.iter().map(|process| process_line(process, palette)));
        }
    }
    lines
}

fn slice_lines(state: &State, row: &SliceRow, columns: usize, palette: Palette) -> Vec<Line<'static>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut right = String::new();
    let count_of = |is_meant: fn(ProcessState) -> bool| {
        row.processes.iter().filter(|process| is_meant(process.state)).count()
    };
    for (number, words) in
        [(count_of(ProcessState::is_away), "away"), (count_of(ProcessState::is_waiting), "waiting")]
    {
        if number > 0 {
            right.push_str(&format!("{number} {words}   "));
        }
    }
    if row.refused_count > 0 {
        right.push_str(&format!("{} refused   ", row.refused_count));
    }
    if row.throttled_ratio > 0.0 {
        right.push_str(&format!("throttled {:.0} %   ", row.throttled_ratio * 100.0));
    }
    let device = format!("{} ", short(&row.device.to_string()));
    // Narrow terminals have room for the name before anything else.
    let taken = right.chars().count() + device.chars().count() + NAME_COLUMNS;
    if let Some(sharing) = &row.sharing_text
        && taken + sharing.chars().count() + "   ".len() <= columns
    {
        right.push_str(&format!("{sharing}   "));
    }
    right.push_str(&device);
    let room = columns.saturating_sub(right.chars().count() + 2);
    let left = vec![Span::styled(format!(" {}", end_of(&row.name, room)), bold)];
    let history = state.history(row);
    let memory_ratio = row.memory_ratio(state.physical_bytes(row));
    let memory = match row.limit_bytes {
        Some(limit_bytes) => format!(
            "{} of {} {:>3.0} %",
            size::text(row.used_bytes),
            size::text(limit_bytes),
            memory_ratio * 100.0
        ),
        None if row.used_bytes == 0 => "no limit".to_owned(),
        None => format!("{}, no limit", size::text(row.used_bytes)),
    };
    let share = match &row.share_text {
        Some(share) => format!("{:.1} % of {share}", row.busy_ratio * 100.0),
        None => format!("{:.1} %, no limit", row.busy_ratio * 100.0),
    };
    vec![
        spread(left, vec![Span::raw(right)], columns),
        Gauge {
            label: "memory",
            ratio: memory_ratio,
            words: &memory,
            history: history.map(|history| &history.memory),
            style: palette.memory(memory_ratio),
        }
        .line(columns, palette),
        Gauge {
            label: "share",
            ratio: row.share_ratio(),
            words: &share,
            history: history.map(|history| &history.share),
            style: palette.time(),
        }
        .line(columns, palette),
    ]
}

/// The end of a text that is too long: of a path, what tells it from others.
fn end_of(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    std::iter::once('…').chain(text.chars().skip(length + 1 - most.max(1))).collect()
}

/// A name, a bar, words and what was before.
struct Gauge<'a> {
    label: &'a str,
    ratio: f64,
    words: &'a str,
    history: Option<&'a VecDeque<f64>>,
    style: Style,
}

impl Gauge<'_> {
    fn line(&self, columns: usize, palette: Palette) -> Line<'static> {
        let room = columns.saturating_sub(LABEL_COLUMNS + WORDS_COLUMNS + 3);
        let bar_columns = (room * 3 / 5).max(BAR_COLUMNS);
        let line_columns = room.saturating_sub(bar_columns);
        let mut spans = vec![Span::raw(format!("   {:<7}", self.label))];
        spans.extend(bar(self.ratio, bar_columns, self.style, palette));
        spans.push(Span::raw(format!(" {:<WORDS_COLUMNS$} ", self.words)));
        let recent = self.history.map(|values| sparkline(values, line_columns)).unwrap_or_default();
        spans.push(Span::styled(recent, self.style));
        Line::from(spans)
    }
}

/// A bar as full as `ratio`, to an eighth of a character.
fn bar(ratio: f64, columns: usize, style: Style, palette: Palette) -> Vec<Span<'static>> {
    let eighths = (ratio.clamp(0.0, 1.0) * columns as f64 * 8.0).round() as usize;
    let mut full = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        full.push(PARTS[eighths % 8]);
    }
    let rest = "░".repeat(columns.saturating_sub(full.chars().count()));
    vec![Span::styled(full, style), Span::styled(rest, palette.faint())]
}

/// The last values, one a column, the newest at the right.
fn sparkline(values: &VecDeque<f64>, columns: usize) -> String {
    let level = |value: &f64| {
        let eighths = (value.clamp(0.0, 1.0) * 8.0).round() as usize;
        // What is there but small is not nothing.
        LEVELS[if *value > 0.0 { eighths.max(1) } else { 0 }]
    };
    let newest = values.iter().skip(values.len().saturating_sub(columns)).map(level);
    let text: String = newest.collect();
    format!("{text:>columns$}")
}

/// What a process has and does; in place of what it does, where it is, if it isn't at work.
fn process_line(process: &ProcessRow, palette: Palette) -> Line<'static> {
    let mark = if process.is_elsewhere { '*' } else { ' ' };
    let has = format!(
        "  {:>10}{mark} {:<16} {:>10}",
        process.pid,
        cut(&process.name, 16),
        size::text(process.used_bytes)
    );
    match process.state {
        ProcessState::Running => Line::raw(format!(
            "{has}    {:>5.1} %  {:>7.0} % {:>10.0}",
            process.busy_ratio * 100.0,
            process.throttled_ratio * 100.0,
            process.calls_per_second
        )),
        state if state.is_away() && !state.is_waiting() => {
            Line::styled(format!("{has}    {}", state.text()), palette.faint())
        }
        state => Line::from(vec![
            Span::raw(format!("{has}    ")),
            Span::styled(state.text(), palette.colour(Color::Yellow)),
        ]),
    }
}

/// The last line: what keys do, or the filter that is being typed.
pub fn footer(state: &State, columns: usize, palette: Palette) -> Line<'static> {
    if state.is_typing_filter {
        return Line::raw(format!(" filter: {}▏", state.filter));
    }
    let filter = if state.filter.is_empty() { String::new() } else { format!(" \"{}\"", state.filter) };
    let keys = format!(
        " q quit  s sort: {}  r reverse  / filter{filter}  t processes  ↑↓ scroll  ? help",
        state.sort.text()
    );
    Line::styled(cut(&keys, columns), palette.faint())
}

/// What the keys and the figures mean.
pub fn help() -> Vec<Line<'static>> {
    let lines = [
        "",
        "  q, Esc, Ctrl-C   quit",
        "  s                sort by memory, share, throttled time, name",
        "  r                the other way round",
        "  /                show what has a text in its name or state, or a process id; Esc shows all",
        "  t                with processes or without",
        "  p, space         stop the picture and go on",
        "  + -              look more often, or less",
        "  ↑ ↓ PgUp PgDn    scroll",
        "",
        "  memory      what the slice holds of its limit",
        "  share       how much of the GPU's time it used since the last look, of its share; the bar is full",
        "              when it is used up",
        "  throttled   how long calls were held back meanwhile, summed over threads",
        "  refused     how often memory was asked for that the limit did not allow",
        "  away        suspended or put aside: what they have is in the host's memory and counts for nothing",
        "  waiting     for memory that others have, to allocate it or to come back",
        "  *           the process id means nothing here: it is of another PID namespace",
        "",
        "  Bars of a GPU show what slices have of it, and nothing else that may use it.",
    ];
    lines.into_iter().map(Line::raw).collect()
}

#[cfg(test)]
mod tests {
    use super::super::state::tests::{seen, seen_away, seen_sharing};
    use super::super::text::frame;
    use super::*;
    use vcuda_core::sharing::{ELASTIC_BIT, HIGH_PRIORITY_BIT, Sharing};

    #[test]
    fn a_frame_of_eighty_columns() {
        let text = frame(&seen(), 80);
        let expected = [
            " vcuda top   3 slices, 4 processes on 1 GPU                           every 1 s",
            " GPU-aa202020  memory █▍░░░░░░ 14.00 GiB of 80.00 GiB    time █████▉░░  74 %",
            "         PID  PROCESS              MEMORY      SHARE  THROTTLED    CALLS/S",
            " /run/serving                         3 refused   throttled 65 %   GPU-aa202020",
            "   memory ██████████████████▍░░ 7.00 GiB of 8.00 GiB  88 %             ▇▇▇▇▇▇▇▇",
            "   share  ████████████████████▎ 29.0 % of 30 %                          ███████",
            "         100  triton             7.00 GiB     29.0 %       65 %       2900",
            " /run/training                        3 refused   throttled 20 %   GPU-aa202020",
            "   memory █████████████▏░░░░░░░ 5.00 GiB of 8.00 GiB  62 %             ▅▅▅▅▅▅▅▅",
            "   share  ██████████████████▉░░ 45.0 % of 50 %                          ▇▇▇▇▇▇▇",
            "         100  python3            4.00 GiB     30.0 %       20 %       3000",
            "         101  dataset            1.00 GiB     15.0 %        0 %       1500",
            " /run/notebook                                         3 refused   GPU-aa202020",
            "   memory █████▎░░░░░░░░░░░░░░░ 2.00 GiB of 8.00 GiB  25 %             ▂▂▂▂▂▂▂▂",
            "   share  ░░░░░░░░░░░░░░░░░░░░░ 0.0 % of 10 %",
            "         100  ipykernel          2.00 GiB      0.0 %        0 %          0",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected, "\n{text}");
    }

    #[test]
    fn a_frame_of_processes_that_are_not_at_work() {
        let text = frame(&seen_away(), 80);
        let expected = [
            " vcuda top   2 slices, 4 processes on 1 GPU                           every 1 s",
            " GPU-aa202020  memory ▊░░░░░░░ 8.00 GiB of 80.00 GiB     time ░░░░░░░░   0 %",
            "         PID  PROCESS              MEMORY      SHARE  THROTTLED    CALLS/S",
            " /run/second                               1 waiting   3 refused   GPU-aa202020",
            "   memory █████████████████████ 8.00 GiB of 8.00 GiB 100 %                    █",
            "   share  ░░░░░░░░░░░░░░░░░░░░░ 0.0 % of 30 %",
            "         100  triton             7.00 GiB    waiting for 4.00 GiB of memory",
            "         101  lab                1.00 GiB    coming back",
            " /run/first                                   2 away   3 refused   GPU-aa202020",
            "   memory ░░░░░░░░░░░░░░░░░░░░░ 0 B of 8.00 GiB   0 %",
            "   share  ░░░░░░░░░░░░░░░░░░░░░ 0.0 % of 50 %",
            "         100  python3                 0 B    put aside, back when it calls",
            "         101  dataset                 0 B    suspended, not on the GPU",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected, "\n{text}");
    }

    #[test]
    fn no_line_is_wider_than_the_screen() {
        for state in [seen(), seen_away(), seen_with_most_words()] {
            for columns in [60, 80, 100, 132, 200] {
                for line in frame(&state, columns).lines() {
                    assert!(line.chars().count() <= usize::from(columns), "{columns}: {line}");
                }
            }
        }
        assert!(help().iter().all(|line| line.width() <= 100));
    }

    /// All slices are elastic, of the largest weight, and of high priority.
    fn seen_with_most_words() -> State {
        seen_sharing(Sharing::from_word(ELASTIC_BIT | HIGH_PRIORITY_BIT | 10_000))
    }

    #[test]
    fn sharing_is_shown_beside_the_name_where_there_is_room() {
        let wide = frame(&seen_with_most_words(), 100);
        let line = "3 refused   throttled 20 %   elastic, weight 10000, high priority   GPU-aa202020";
        assert!(wide.contains(line), "{wide}");
        assert!(wide.contains("45.0 % of ≥ 50 %"), "{wide}");
        let narrow = frame(&seen_with_most_words(), 80);
        assert!(
            narrow.contains(" /run/training                        3 refused   throttled 20 %   GPU-aa"),
            "{narrow}"
        );
    }

    #[test]
    fn bars_are_exact_to_an_eighth_and_stay_within_their_bounds() {
        let text = |ratio: f64| {
            bar(ratio, 4, Style::new(), Palette::PLAIN)
                .iter()
                .map(|span| span.content.to_string())
                .collect::<String>()
        };
        for (ratio, expected) in [
            (0.0, "░░░░"),
            (0.5, "██░░"),
            (0.28, "█▏░░"),
            (1.0, "████"),
            (7.5, "████"),
            (-1.0, "░░░░"),
            (f64::NAN, "░░░░"),
        ] {
            assert_eq!(text(ratio), expected, "{ratio}");
        }
        let values = VecDeque::from([0.0, 0.001, 0.5, 1.0, 3.0]);
        assert_eq!(sparkline(&values, 7), "   ▁▄██");
        assert_eq!(sparkline(&values, 2), "██");
        assert_eq!(sparkline(&values, 0), "");
    }

    #[test]
    fn colours_tell_how_full_and_can_be_done_without() {
        let coloured = Palette { has_colours: true };
        let colour = |ratio: f64| coloured.memory(ratio).fg;
        assert_eq!([0.5, 0.8, 0.95].map(colour), [Some(Color::Green), Some(Color::Yellow), Some(Color::Red)]);
        let state = seen();
        let all = [header(&state, 80, Palette::PLAIN), body(&state, 80, Palette::PLAIN)].concat();
        assert!(all.iter().flat_map(|line| &line.spans).all(|span| span.style.fg.is_none()));
    }
}
