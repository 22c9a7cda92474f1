//! What keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::Value;

use super::state::State;
use crate::cli::args::Column;

/// What a key asks of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    Details,
    Quit,
}

/// For the help, in the order in which one needs them.
pub(super) const HELP: [(&str, &str); 14] = [
    ("↑ ↓  k j", "select"),
    ("PgUp PgDn Home End", "select, further"),
    ("← →", "close and open a group"),
    ("Enter", "details: knobs, processes, events"),
    ("Esc", "back"),
    ("/", "filter by parts of paths"),
    ("f", "all groups in one list, or the tree"),
    ("s", "sort by the next column"),
    ("r", "sort the other way round"),
    ("c m i t p n", "sort by CPU, memory, I/O, tasks, pressure, name"),
    ("Space", "pause"),
    ("[ ]", "one second back, forward   { } ten"),
    ("l", "live again"),
    ("q", "quit"),
];

pub(super) fn press(state: &mut State, key: KeyEvent) -> Wish {
    if key.kind == KeyEventKind::Release {
        return Wish::Nothing;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return if key.code == KeyCode::Char('c') { Wish::Quit } else { Wish::Nothing };
    }
    if state.typing {
        type_filter(state, key.code);
        return Wish::Nothing;
    }
    if std::mem::take(&mut state.help) {
        return Wish::Nothing;
    }
    match key.code {
        KeyCode::Char('q') => return Wish::Quit,
        KeyCode::Char('?' | 'h') => state.help = true,
        KeyCode::Up | KeyCode::Char('k') => state.go(-1),
        KeyCode::Down | KeyCode::Char('j') => state.go(1),
        KeyCode::PageUp => state.go(-10),
        KeyCode::PageDown => state.go(10),
        KeyCode::Home => state.go(isize::MIN),
        KeyCode::End => state.go(isize::MAX),
        KeyCode::Left => state.fold(false),
        KeyCode::Right => state.fold(true),
        KeyCode::Enter => {
            state.detail = Some((state.selected.clone(), Value::Null));
            return Wish::Details;
        }
        KeyCode::Esc if state.detail.is_some() => state.detail = None,
        KeyCode::Esc => state.filter.clear(),
        KeyCode::Char('/') => state.typing = true,
        KeyCode::Char('f') => state.flat = !state.flat,
        KeyCode::Char('s') => state.next_sort(),
        KeyCode::Char('r') => state.rising = !state.rising,
        KeyCode::Char(' ') => {
            state.paused = !state.paused;
            if !state.paused {
                state.back = 0;
            }
        }
        KeyCode::Char('[') => state.travel(1),
        KeyCode::Char(']') => state.travel(-1),
        KeyCode::Char('{') => state.travel(10),
        KeyCode::Char('}') => state.travel(-10),
        KeyCode::Char('l') => state.travel(isize::MIN),
        KeyCode::Char(letter) => {
            let column = match letter {
                'c' => Column::Cpu,
                'm' => Column::Memory,
                'i' => Column::Io,
                't' => Column::Tasks,
                'p' => Column::Pressure,
                'n' => Column::Name,
                _ => return Wish::Nothing,
            };
            (state.sort, state.rising) = (column, column == Column::Name);
        }
        _ => {}
    }
    follow_details(state)
}

/// Whoever moves with the details open sees those of the group that he comes to.
fn follow_details(state: &mut State) -> Wish {
    match &mut state.detail {
        Some((path, known)) if *path != state.selected => {
            path.clone_from(&state.selected);
            *known = Value::Null;
            Wish::Details
        }
        _ => Wish::Nothing,
    }
}

fn type_filter(state: &mut State, code: KeyCode) {
    match code {
        KeyCode::Char(c) => state.filter.push(c),
        KeyCode::Backspace => drop(state.filter.pop()),
        KeyCode::Esc => {
            state.filter.clear();
            state.typing = false;
        }
        KeyCode::Enter | KeyCode::Down => state.typing = false,
        _ => {}
    }
    // The selection stays in sight.
    state.go(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_letters_filter_and_do_nothing_else() {
        let mut state = State::new(Column::Cpu, false);
        let mut type_in = |code| press(&mut state, KeyEvent::from(code));
        for code in [KeyCode::Char('/'), KeyCode::Char('q'), KeyCode::Char('m'), KeyCode::Backspace, KeyCode::Enter] {
            assert_eq!(type_in(code), Wish::Nothing);
        }
        assert_eq!(type_in(KeyCode::Char('m')), Wish::Nothing);
        assert_eq!(type_in(KeyCode::Char('q')), Wish::Quit);
        assert_eq!((state.filter.as_str(), state.sort), ("q", Column::Memory));
    }
}
