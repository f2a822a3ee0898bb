//! The live view on a terminal: draws pictures and reads keys, on a thread of its own.

use std::io;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table, TableState, Wrap};
use ratatui::{DefaultTerminal, Frame};

use super::Shared;
use super::plain::{COLUMNS, cells, summary};
use super::view::{Action, Picture, View};

/// How soon a key or the end is noticed.
const PATIENCE: Duration = Duration::from_millis(100);

/// Shows rows until the user or the stream ends it; the terminal is as before then.
///
/// # Errors
/// The terminal cannot be drawn on, or gives no keys.
pub(super) fn run(shared: &Shared, interval: Duration) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let outcome = show(shared, interval, &mut terminal);
    ratatui::try_restore()?;
    outcome
}

fn show(shared: &Shared, interval: Duration, terminal: &mut DefaultTerminal) -> io::Result<()> {
    let mut view = View::default();
    let mut table = TableState::default();
    let mut drawn: Option<Instant> = None;
    let mut picture = Picture::default();
    while !shared.has_ended() {
        let now = Instant::now();
        if drawn.is_none_or(|drawn| now.saturating_duration_since(drawn) >= interval) {
            drawn = Some(now);
            picture = {
                let mut top = shared.top();
                top.tick(now);
                view.picture(&top)
            };
            view.settle(picture.rows.len());
            let note = shared.note();
            terminal.draw(|frame| draw(frame, &view, &picture, &mut table, &note))?;
        }
        if !event::poll(PATIENCE.min(interval))? {
            continue;
        }
        // A key or another size is shown at once.
        drawn = None;
        let Event::Key(key) = event::read()? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match view.key(key, &picture.rows) {
            Action::None => {}
            Action::Quit => return Ok(()),
            Action::Clear => shared.top().clear(Instant::now()),
            Action::Pause => view.pause(&shared.top()),
        }
    }
    Ok(())
}

fn draw(frame: &mut Frame<'_>, view: &View, picture: &Picture, table: &mut TableState, note: &str) {
    let areas = Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)]);
    let [head, body, foot] = areas.areas(frame.area());
    frame.render_widget(Paragraph::new(header(view, picture)), head);
    if view.help {
        frame.render_widget(Paragraph::new(HELP), body);
    } else if let Some(pair) = &view.inside {
        let title = format!("{} -> {} {}", pair.from, pair.to, pair.service());
        let row = picture.rows.iter().find(|(shown, _)| shown == pair);
        let mut lines = vec![Line::styled(title, Modifier::BOLD), Line::default()];
        match row {
            Some((_, row)) => lines.extend(row.latest.iter().rev().map(|line| Line::from(line.as_str()))),
            None => lines.push(Line::from("nothing is known of it any more; Esc goes back")),
        }
        frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), body);
    } else {
        table.select((!picture.rows.is_empty()).then_some(view.chosen));
        frame.render_stateful_widget(rows(picture, body), body, table);
    }
    frame.render_widget(Paragraph::new(footer(view, note)), foot);
}

fn header<'a>(view: &View, picture: &Picture) -> Vec<Line<'a>> {
    let order = if view.reversed { "sorted by least " } else { "sorted by " };
    let mut title = format!("{} pairs, {order}{}", picture.rows.len(), view.sort.name());
    if picture.hidden > 0 {
        title.push_str(&format!(", {} hidden by the filter", picture.hidden));
    }
    if view.frozen.is_some() {
        title.push_str(", PAUSED");
    }
    vec![Line::styled(title, Modifier::BOLD), Line::from(summary(picture))]
}

fn footer<'a>(view: &View, note: &str) -> Line<'a> {
    if view.typing || !view.filter.is_empty() {
        let cursor = if view.typing { "_" } else { "  (Esc: all rows)" };
        return Line::from(format!("filter: {}{cursor}", view.filter));
    }
    if !note.is_empty() {
        return Line::styled(note.to_owned(), Style::new().fg(Color::Yellow));
    }
    Line::styled("q quit  ? help  s sort  / filter  p pause  Enter flows of the row  c clear", Modifier::DIM)
}

fn rows<'a>(picture: &Picture, area: Rect) -> Table<'a> {
    let header = TableRow::new(COLUMNS.map(Cell::from)).style(Modifier::REVERSED);
    let row = |cells: [String; COLUMNS.len()], dropped: bool| {
        let style = if dropped { Style::new().fg(Color::Red) } else { Style::new() };
        TableRow::new(cells.map(Cell::from)).style(style)
    };
    let shown = picture.rows.iter().map(|(pair, one)| row(cells(pair, one), one.rate.drops > 0.0));
    let other =
        picture.other.iter().map(|(other, pairs)| row(super::plain::other_cells(other, *pairs), false));
    // Names take what the numbers leave.
    let names = area.width.saturating_sub(NUMBERS).max(20) / 2;
    let widths = [names, names, 9, 11, 8, 8, 11, 8, 8, 10];
    Table::new(shown.chain(other), widths).header(header).row_highlight_style(Modifier::REVERSED)
}

/// Width of the columns of numbers, with what is between all columns.
const NUMBERS: u16 = 9 + 11 + 8 + 8 + 11 + 8 + 8 + 10 + 9;

const HELP: &str = "\
q, Ctrl-C          quit
?, h               this help; any key goes back
Up, Down, k, j     choose a row; PageUp, PageDown, Home, End too
Enter, Right       the latest flows of the row
Esc, Left          back; all rows again
s                  sort by the next column: bytes/s, flows/s, drops/s, bytes, flows, dropped, names
b, f, d, n         sort by bytes/s, flows/s, drops/s, names
r                  the other way round
/                  show rows with this text only: names, tcp/80, DROPPED
p, Space           pause and go on; counting goes on meanwhile
c                  begin all counters anew";
