//! The screen: a line about the node, the groups, details or events, a line of keys.

use cgrove_core::event::{Kind, Weight};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row as Shown, Sparkline, Table, TableState, Wrap};
use serde_json::Value;

use super::keys::HELP;
use super::state::{Row, State};
use crate::cli::args::Column;
use crate::cli::figures::bytes;

pub(super) fn draw(frame: &mut Frame<'_>, state: &State) {
    let below = if state.detail.is_some() { frame.area().height / 2 } else { (frame.area().height / 4).min(8) };
    let [head, list, more, keys] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(4), Constraint::Length(below), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(Paragraph::new(headline(state)), head);
    groups(frame, state, list);
    match &state.detail {
        Some((path, known)) => details(frame, state, path, known, more),
        None => {
            let block = Block::new().borders(Borders::TOP).title(" events ");
            frame.render_widget(Paragraph::new(events(state, None, more.height)).block(block), more);
        }
    }
    frame.render_widget(Paragraph::new(footer(state)), keys);
    if state.help {
        help(frame);
    }
}

fn headline(state: &State) -> Vec<Line<'_>> {
    let s = &state.status;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    // An older daemon lists all.
    let count = |list: &str| {
        let plan = &s["plan"];
        plan[format!("{list}_total")].as_u64().unwrap_or(plan[list].as_array().map_or(0, Vec::len) as u64)
    };
    let mut node = vec![Span::from("cgrove ").bold(), Span::from(format!("on {}  ", text(&s["node"])))];
    match (&state.away, s["document"].is_null()) {
        (Some(why), _) => node.push(Span::from(format!("connection lost: {why}")).fg(Color::Red)),
        (None, true) if s.is_null() => {}
        (None, true) => node.push(Span::from("no document in force").fg(Color::Red)),
        (None, false) => {
            let (failing, held) = (count("failures"), count("held"));
            node.push(Span::from(format!("document {}  ", s["document"]["version"])));
            node.push(match (failing, held) {
                (0, 0) => Span::from("tree as declared").fg(Color::Green),
                (0, n) => Span::from(format!("{n} held")).fg(Color::Yellow),
                (n, _) => Span::from(format!("{n} failing")).fg(Color::Red),
            });
            if !s["refused"].is_null() {
                node.push(Span::from("  newest document refused").fg(Color::Red));
            }
            if s["source"]["connected"] == false {
                node.push(Span::from("  source away").fg(Color::Red));
            }
        }
    }
    let slot = state.shown().map_or("no slots yet".to_owned(), |(slot, _)| format!("{} UTC", time_of_day(*slot)));
    let when = match (state.back, state.paused, state.age()) {
        (0, true, _) => Span::from("  paused").fg(Color::Yellow),
        (0, false, _) if state.away.is_some() => Span::from("  the last that was heard").fg(Color::Red),
        (0, false, Some(age)) if age > 3.0 => Span::from(format!("  {age:.0} s old")).fg(Color::Red),
        (0, false, _) => Span::from("  live").fg(Color::Green),
        (back, ..) => Span::from(format!("  {back} s back, paused")).fg(Color::Yellow),
    };
    let mut second = vec![Span::from(slot), when];
    if state.dropped > 0 {
        second.push(Span::from(format!("  {} slots missed", state.dropped)).fg(Color::Yellow));
    }
    if state.typing || !state.filter.is_empty() {
        second.push(Span::from(format!("  filter: {}{}", state.filter, if state.typing { "▏" } else { "" })).bold());
    }
    vec![Line::from(node), Line::from(second)]
}

fn time_of_day(slot: u64) -> String {
    format!("{:02}:{:02}:{:02}", slot / 3600 % 24, slot / 60 % 60, slot % 60)
}

fn groups(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let rows = state.rows();
    if rows.is_empty() && !state.filter.is_empty() {
        let text = format!("no group's path has {:?}; Esc lets all be shown", state.filter);
        frame.render_widget(Paragraph::new(text).fg(Color::DarkGray), area);
        return;
    }
    let heads = [
        (Column::Name, "GROUP"),
        (Column::Cpu, "CPU %"),
        (Column::Memory, "MEMORY"),
        (Column::Io, "DISK/s"),
        (Column::Tasks, "TASKS"),
        (Column::Pressure, "WAIT %"),
    ];
    let head = heads.map(|(column, text)| {
        let mark = match (state.sort == column, state.rising) {
            (false, _) => "",
            (true, true) => "▴",
            (true, false) => "▾",
        };
        cell(format!("{text}{mark}"), column)
    });
    let selected = rows.iter().position(|r| r.path == state.selected);
    let shown = rows.iter().map(|row| Shown::new(cells(row, state.flat)));
    let widths = [
        Constraint::Min(20),
        Constraint::Length(8),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(7),
        Constraint::Length(8),
    ];
    let table = Table::new(shown, widths)
        .header(Shown::new(head).style(Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(selected));
}

fn cell(text: String, column: Column) -> Cell<'static> {
    let side = if column == Column::Name { Alignment::Left } else { Alignment::Right };
    Cell::new(Line::from(text).alignment(side))
}

fn cells(row: &Row, flat: bool) -> [Cell<'static>; 6] {
    let f = &row.figures;
    let show = |v: Option<String>| v.unwrap_or_else(|| "-".into());
    let name =
        if flat || row.path == "/" { row.path.as_str() } else { row.path.rsplit('/').next().unwrap_or_default() };
    let mark = match row.inner {
        Some(true) => "▾ ",
        Some(false) => "▸ ",
        None if flat => "",
        None => "  ",
    };
    let io = f.read.zip(f.written).map(|(r, w)| bytes(r + w));
    let wait = cell(show(f.pressure.map(|p| format!("{p:.1}"))), Column::Pressure);
    [
        cell(format!("{:indent$}{mark}{name}", "", indent = row.depth * 2), Column::Name),
        cell(show(f.cores.map(|c| format!("{:.1}", c * 100.0))), Column::Cpu),
        cell(show(f.memory.map(bytes)), Column::Memory),
        cell(show(io), Column::Io),
        cell(show(f.tasks.map(|n| n.to_string())), Column::Tasks),
        if f.pressure.is_some_and(|p| p >= 10.0) { wait.style(Style::new().fg(Color::Red)) } else { wait },
    ]
}

fn details(frame: &mut Frame<'_>, state: &State, path: &str, known: &Value, area: Rect) {
    let block = Block::new().borders(Borders::TOP).title(format!(" {path} ").bold());
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let [left, right] = Layout::horizontal([Constraint::Percentage(62), Constraint::Percentage(38)]).areas(inner);
    let mut lines = Vec::new();
    if let Some(error) = known["error"].as_str() {
        lines.push(Line::from(error.to_owned()).fg(Color::Red));
    }
    for k in known["knobs"].as_array().into_iter().flatten() {
        let text = |key: &str| k[key].as_str().unwrap_or("-").to_owned();
        let file = k["file"].as_str().unwrap_or(k["knob"].as_str().unwrap_or_default());
        lines.push(match (k["differs"] == true, k["file"].is_null()) {
            (true, _) => {
                let line = format!("{file}  {}, declared is {}", text("kernel"), text("wanted"));
                Line::from(line).fg(Color::Red)
            }
            (false, true) => Line::from(format!("{}  {}", text("knob"), text("note"))).fg(Color::DarkGray),
            (false, false) => Line::from(format!("{file}  {}", text("kernel"))),
        });
    }
    if known["knobs"].as_array().is_some_and(Vec::is_empty) {
        lines.push(Line::from("no knobs are declared").fg(Color::DarkGray));
    }
    if let Some(n) = known["processes"].as_u64() {
        let pids: Vec<String> = known["pids"].as_array().into_iter().flatten().map(Value::to_string).collect();
        lines.push(Line::from(format!("{n} processes: {}", pids.join(" "))));
    }
    lines.extend(events(state, Some(path), inner.height.saturating_sub(lines.len() as u16 + 1)));
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }), left);
    let [cpu, memory] = Layout::vertical([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(right);
    for (column, title, area, colour) in
        [(Column::Cpu, "CPU", cpu, Color::Green), (Column::Memory, "memory", memory, Color::Blue)]
    {
        let width = usize::from(area.width.saturating_sub(1));
        let history = state.history(path, column);
        let newest = &history[history.len().saturating_sub(width)..];
        let block = Block::new().borders(Borders::LEFT).title(format!(" {title}, {} s ", newest.len()));
        frame.render_widget(Sparkline::default().block(block).data(newest).style(Style::new().fg(colour)), area);
    }
}

/// The newest events that fit, newest first; of one group and what is below, or of all.
fn events(state: &State, group: Option<&str>, room: u16) -> Vec<Line<'static>> {
    let of_group = |e: &&Value| {
        let below = |g: &str, path: &str| g == path || g.starts_with(&format!("{}/", path.trim_end_matches('/')));
        group.is_none_or(|path| e["group"].as_str().is_some_and(|g| below(g, path)))
    };
    let line = |e: &Value| {
        let text = |key: &str| e[key].as_str().unwrap_or_default();
        let colour = match Kind::parse(text("kind")).map(Kind::weight) {
            Some(Weight::Bad) => Color::Red,
            Some(Weight::Warning) => Color::Yellow,
            _ => Color::Reset,
        };
        let kind = Span::from(format!("{:<17} ", text("kind"))).fg(colour);
        let rest = format!("{} {} {}", text("group"), text("knob"), text("text"));
        Line::from(vec![
            Span::from(format!("{} ", time_of_day(e["time"].as_u64().unwrap_or(0) / 1000))),
            kind,
            Span::from(rest.split_whitespace().collect::<Vec<_>>().join(" ")),
        ])
    };
    state.events.iter().rev().filter(of_group).take(usize::from(room)).map(line).collect()
}

fn footer(state: &State) -> Line<'_> {
    let keys = if state.typing {
        "type to filter   Enter done   Esc no filter"
    } else if state.detail.is_some() {
        "Esc back   ↑↓ other group   [ ] in time   q quit   ? help"
    } else {
        "Enter details   / filter   s sort   f flat   Space pause   [ ] in time   q quit   ? help"
    };
    Line::from(keys).fg(Color::DarkGray)
}

fn help(frame: &mut Frame<'_>) {
    let lines: Vec<Line<'_>> = HELP.iter().map(|(keys, what)| Line::from(format!("{keys:<18} {what}"))).collect();
    let (width, height) = (76.min(frame.area().width), (lines.len() as u16 + 2).min(frame.area().height));
    let area = frame.area();
    let area = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" keys, any of them closes this ")), area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::super::state::tests::slot;
    use super::*;

    fn screen(state: &State) -> String {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(frame, state)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..80).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..24).map(line).collect::<Vec<_>>().join("\n")
    }

    fn state() -> State {
        let mut state = State::new(Column::Cpu, false);
        (1..=5).for_each(|n| state.take(slot(n)));
        state.take(json!({ "subscription": "status", "value": {
            "node": "n1", "document": { "version": 4 }, "plan": { "failures": [], "held": [] }, "source": { "connected": true } } }));
        state.take(json!({ "subscription": "events", "events": [
            { "seq": 1, "time": 3_723_000, "kind": "oom_kill", "group": "/clients/vm-1", "text": "a process was killed" }] }));
        state
    }

    #[test]
    fn eighty_by_twenty_four() {
        let shown = screen(&state());
        for wanted in [
            "cgrove on n1  document 4  tree as declared",
            "CPU %▾",
            "▾ clients",
            "    vm-2",
            "90.0",
            "3.0 M",
            "01:02:03 oom_kill",
            "q quit",
        ] {
            assert!(shown.contains(wanted), "{wanted}:\n{shown}");
        }
    }

    #[test]
    fn details_have_knobs_processes_events_and_history() {
        let mut state = state();
        state.detail = Some(("/clients/vm-1".into(), Value::Null));
        state.take(json!({ "id": "group", "group": "/clients/vm-1", "processes": 2, "pids": [41, 42], "knobs": [
            { "knob": "cpu.weight", "file": "cpu.shares", "wanted": "1024", "kernel": "7", "differs": true }] }));
        let shown = screen(&state);
        for wanted in ["cpu.shares  7, declared is 1024", "2 processes: 41 42", "oom_kill", "CPU, 5 s"] {
            assert!(shown.contains(wanted), "{wanted}:\n{shown}");
        }
    }

    #[test]
    fn hostile_names_only_show() {
        let mut state = state();
        let bad = "a\u{1b}[2J\u{202e}\u{9b}b\nc";
        state.take(json!({ "subscription": "slots", "slot": 6, "value": { "cpu": { "value": {}, "sub_cgroup": {
            "clients": { "value": {}, "sub_cgroup": { bad: { "value": { "usage": 1 } } } } } } } }));
        state.take(json!({ "subscription": "events", "events": [
            { "seq": 2, "time": 1, "kind": bad, "group": bad, "knob": bad, "text": bad }] }));
        state.take(json!({ "subscription": "status", "value": { "node": bad, "document": { "version": bad } } }));
        state.detail = Some(("/clients".into(), Value::Null));
        state
            .take(json!({ "id": "group", "group": "/clients", "error": bad, "knobs": [{ "knob": bad, "file": bad }] }));
        state.lost(bad);
        let screen = screen(&state);
        assert!(screen.contains("a\\x1b[2J\\u202e\\x9bb"), "{screen}");
        assert!(!screen.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{screen:?}");
    }

    #[test]
    fn it_says_when_it_does_not_know() {
        assert!(screen(&State::new(Column::Cpu, true)).contains("no slots yet"));
        let mut state = state();
        state.lost("gone");
        state.help = true;
        let shown = screen(&state);
        assert!(shown.contains("connection lost: gone") && shown.contains("select, further"), "{shown}");
    }
}
