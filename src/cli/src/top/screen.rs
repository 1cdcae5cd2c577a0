//! `vcuda top` on a terminal: drawing, keys, and leaving the terminal as it was found.
//!
//! Whatever ends the program gives the terminal back first: a key, an error, a panic, or one of the signals that ask a
//! program to end. What can't be caught can't be answered: after SIGKILL, `reset` helps.

use super::rows::Look;
use super::state::State;
use super::view::{self, Palette};
use anyhow::{Context, Result};
use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How soon a signal is noticed.
const POLL: Duration = Duration::from_millis(100);
/// Between looks, at least and at most.
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(60);

/// What a key asks for beyond the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    GoOn,
    Quit,
    /// To the shell, for a while.
    Suspend,
}

/// A terminal in use, given back when dropped.
struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    fn take() -> Result<Screen> {
        // Also has a panic give the terminal back before it says what happened.
        let terminal = ratatui::try_init().context("can't use the terminal; vcuda top --once prints text")?;
        Ok(Screen { terminal })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows `state`, with a new `look` every so often, until the user or a signal ends it.
pub fn run(state: &mut State, look: impl Fn() -> Result<Look>) -> Result<ExitCode> {
    let ended_by = Arc::new(AtomicUsize::new(0));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register_usize(signal, Arc::clone(&ended_by), signal as usize)
            .context("can't catch signals")?;
    }
    let palette = Palette::of_environment();
    let mut screen = Screen::take()?;
    let mut last_look = Instant::now();
    loop {
        let mut height = 0;
        screen.terminal.draw(|frame| height = draw(frame, state, palette))?;
        let due = if state.is_paused { LONGEST } else { state.interval.saturating_sub(last_look.elapsed()) };
        if event::poll(due.min(POLL))? {
            let wish = match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => press(state, key, height),
                // A new size is drawn at.
                _ => Wish::GoOn,
            };
            match wish {
                Wish::GoOn => {}
                Wish::Quit => return Ok(ExitCode::SUCCESS),
                Wish::Suspend => {
                    drop(screen);
                    signal_hook::low_level::emulate_default_handler(SIGTSTP)?;
                    screen = Screen::take()?;
                }
            }
        }
        match ended_by.load(Ordering::Relaxed) {
            0 => {}
            signal => return Ok(ExitCode::from(128u8.saturating_add(signal as u8))),
        }
        if !state.is_paused && last_look.elapsed() >= state.interval {
            last_look = Instant::now();
            state.see(look()?);
        }
    }
}

/// Draws everything; gives how many lines of the body fit.
fn draw(frame: &mut Frame, state: &mut State, palette: Palette) -> usize {
    let area = frame.area();
    let columns = usize::from(area.width);
    let mut header = view::header(state, columns, palette);
    // Of very many GPUs the first are shown.
    header.truncate(usize::from(area.height / 3).max(1));
    let heights = [header.len() as u16, 1, 0, 1].map(Constraint::Length);
    let [top, heading, _, bottom] = heights;
    let [top, heading, middle, bottom] =
        Layout::vertical([top, heading, Constraint::Min(0), bottom]).areas(area);
    let body = if state.shows_help { view::help() } else { view::body(state, columns, palette) };
    let height = usize::from(middle.height);
    state.scroll = state.scroll.min(body.len().saturating_sub(height));
    let visible: Vec<Line> = body.into_iter().skip(state.scroll).take(height).collect();
    frame.render_widget(Paragraph::new(header), top);
    frame.render_widget(Paragraph::new(view::heading(state, columns)), heading);
    frame.render_widget(Paragraph::new(visible), middle);
    frame.render_widget(Paragraph::new(view::footer(state, columns, palette)), bottom);
    height
}

/// Does what a key says, with `height` lines on the screen.
fn press(state: &mut State, key: KeyEvent, height: usize) -> Wish {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Wish::Quit,
            KeyCode::Char('z') => Wish::Suspend,
            _ => Wish::GoOn,
        };
    }
    if state.is_typing_filter {
        type_filter(state, key.code);
        return Wish::GoOn;
    }
    match key.code {
        KeyCode::Char('q') => return Wish::Quit,
        KeyCode::Esc if state.shows_help => state.shows_help = false,
        KeyCode::Esc if !state.filter.is_empty() => state.filter.clear(),
        KeyCode::Esc => return Wish::Quit,
        KeyCode::Char('?' | 'h') => state.shows_help = !state.shows_help,
        KeyCode::Char('s') => state.sort = state.sort.next(),
        KeyCode::Char('r') => state.is_reversed = !state.is_reversed,
        KeyCode::Char('/') => state.is_typing_filter = true,
        KeyCode::Char('t') => state.shows_processes = !state.shows_processes,
        KeyCode::Char('p' | ' ') => state.is_paused = !state.is_paused,
        KeyCode::Char('+') => state.interval = (state.interval / 2).max(SHORTEST),
        KeyCode::Char('-') => state.interval = (state.interval * 2).min(LONGEST),
        KeyCode::Down | KeyCode::Char('j') => state.scroll += 1,
        KeyCode::Up | KeyCode::Char('k') => state.scroll = state.scroll.saturating_sub(1),
        KeyCode::PageDown => state.scroll += height,
        KeyCode::PageUp => state.scroll = state.scroll.saturating_sub(height),
        KeyCode::Home => state.scroll = 0,
        _ => {}
    }
    Wish::GoOn
}

fn type_filter(state: &mut State, key: KeyCode) {
    match key {
        KeyCode::Enter => state.is_typing_filter = false,
        KeyCode::Esc => {
            state.is_typing_filter = false;
            state.filter.clear();
        }
        KeyCode::Backspace => drop(state.filter.pop()),
        KeyCode::Char(character) => state.filter.push(character),
        _ => {}
    }
    state.scroll = 0;
}

#[cfg(test)]
mod tests {
    use super::super::state::Sort;
    use super::super::state::tests::seen;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn pressed(state: &mut State, keys: &str) -> Wish {
        let code = |key: char| match key {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '\u{8}' => KeyCode::Backspace,
            key => KeyCode::Char(key),
        };
        keys.chars().map(|key| press(state, KeyEvent::new(code(key), KeyModifiers::NONE), 10)).last().unwrap()
    }

    /// The screen's lines.
    fn drawn(state: &mut State, columns: u16, lines: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
        terminal
            .draw(|frame| {
                draw(frame, state, Palette::PLAIN);
            })
            .unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y: u16| {
            (0..columns).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>().trim_end().to_owned()
        };
        (0..lines).map(line).collect()
    }

    #[test]
    fn keys_change_what_is_seen() {
        let mut state = seen();
        assert_eq!(pressed(&mut state, "s"), Wish::GoOn);
        assert_eq!(state.sort, Sort::Share);
        pressed(&mut state, "r/q\u{8}tri");
        assert!(state.is_reversed && state.is_typing_filter);
        assert_eq!(state.filter, "tri", "what is typed is no command");
        pressed(&mut state, "\n");
        assert_eq!(state.shown().len(), 1);
        assert_eq!(pressed(&mut state, "\u{1b}"), Wish::GoOn, "the first Esc shows everything");
        assert_eq!(state.shown().len(), 3);
        pressed(&mut state, "++++++");
        assert_eq!(state.interval, SHORTEST);
        assert_eq!(pressed(&mut state, "?\u{1b}"), Wish::GoOn);
        assert_eq!(pressed(&mut state, "\u{1b}"), Wish::Quit);
        assert_eq!(pressed(&mut state, "q"), Wish::Quit);
        let control = |key| KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL);
        assert_eq!(press(&mut state, control('c'), 10), Wish::Quit);
        assert_eq!(press(&mut state, control('z'), 10), Wish::Suspend);
    }

    #[test]
    fn a_small_screen_scrolls_and_a_tiny_one_is_survived() {
        let mut state = seen();
        let lines = drawn(&mut state, 80, 10);
        assert!(lines[0].starts_with(" vcuda top   3 slices"), "{lines:#?}");
        assert!(lines[3].starts_with(" /run/serving"), "{lines:#?}");
        assert!(lines[9].starts_with(" q quit  s sort: memory"), "{lines:#?}");
        state.scroll = 1_000;
        let lines = drawn(&mut state, 80, 10);
        assert!(lines[8].contains("ipykernel"), "{lines:#?}");
        for (columns, height) in [(1, 1), (10, 2), (79, 3), (300, 100)] {
            drawn(&mut state, columns, height);
        }
        pressed(&mut state, "?");
        assert!(drawn(&mut state, 80, 30).iter().any(|line| line.contains("Ctrl-C   quit")));
    }
}
