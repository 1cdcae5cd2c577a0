//! A frame of `vcuda top` as text, for where there is no terminal.

use super::state::State;
use super::view::{self, Palette};
use ratatui::text::Line;

/// All there is to be seen, in at most so many columns, without colours.
pub fn frame(state: &State, columns: u16) -> String {
    let columns = usize::from(columns);
    let mut lines = view::header(state, columns, Palette::PLAIN);
    lines.push(view::heading(state, columns));
    lines.extend(view::body(state, columns, Palette::PLAIN));
    lines.iter().map(|line| format!("{}\n", text_of(line, columns).trim_end())).collect()
}

fn text_of(line: &Line, columns: usize) -> String {
    let all: String = line.spans.iter().map(|span| span.content.as_ref()).collect();
    all.chars().take(columns).collect()
}
