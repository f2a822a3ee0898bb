//! What of the rows is shown, and what keys do. Knows no terminal.

use std::cmp::Ordering;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::top::{Row, Top};
use crate::traffic::Pair;

/// What the user chose to see.
#[derive(Debug, Default)]
pub(super) struct View {
    /// What rows are ordered by.
    pub(super) sort: Sort,
    /// The other way round.
    pub(super) reversed: bool,
    /// Text that rows must have.
    pub(super) filter: String,
    /// Whether the filter is being typed.
    pub(super) typing: bool,
    /// Whether the keys are explained.
    pub(super) help: bool,
    /// The pair whose flows are shown.
    pub(super) inside: Option<Pair>,
    /// What was on the screen when it was paused.
    pub(super) frozen: Option<Picture>,
    /// The chosen row.
    pub(super) chosen: usize,
}

/// What rows are ordered by.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Sort {
    /// Bytes per second.
    #[default]
    ByteRate,
    /// Flows per second.
    FlowRate,
    /// Dropped packets per second.
    DropRate,
    /// Bytes.
    Bytes,
    /// Flows.
    Flows,
    /// Dropped packets.
    Drops,
    /// Names.
    Names,
}

/// What a key asks for beyond the view.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Action {
    /// Nothing.
    None,
    /// To quit.
    Quit,
    /// To begin all counters anew.
    Clear,
    /// To stop or go on.
    Pause,
}

/// The rows of one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Picture {
    /// Rows, in their order.
    pub(super) rows: Vec<(Pair, Row)>,
    /// Rows that the filter hides.
    pub(super) hidden: usize,
    /// The row of the others, and how many pairs it stands for.
    pub(super) other: Option<(Row, u64)>,
    /// Everything.
    pub(super) all: Row,
    /// Events that were lost.
    pub(super) lost: u64,
}

impl Sort {
    /// What the header says.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ByteRate => "bytes/s",
            Self::FlowRate => "flows/s",
            Self::DropRate => "drops/s",
            Self::Bytes => "bytes",
            Self::Flows => "flows",
            Self::Drops => "dropped",
            Self::Names => "names",
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::ByteRate => Self::FlowRate,
            Self::FlowRate => Self::DropRate,
            Self::DropRate => Self::Bytes,
            Self::Bytes => Self::Flows,
            Self::Flows => Self::Drops,
            Self::Drops => Self::Names,
            Self::Names => Self::ByteRate,
        }
    }

    /// Larger numbers first, names from A; rows that are alike by name.
    fn compare(self, one: &(Pair, Row), other: &(Pair, Row)) -> Ordering {
        let ((pair, row), (other_pair, other_row)) = (one, other);
        let by_number = match self {
            Self::ByteRate => other_row.rate.bytes.total_cmp(&row.rate.bytes),
            Self::FlowRate => other_row.rate.flows.total_cmp(&row.rate.flows),
            Self::DropRate => other_row.rate.drops.total_cmp(&row.rate.drops),
            Self::Bytes => other_row.totals.bytes.cmp(&row.totals.bytes),
            Self::Flows => other_row.totals.events().cmp(&row.totals.events()),
            Self::Drops => other_row.totals.dropped.cmp(&row.totals.dropped),
            Self::Names => Ordering::Equal,
        };
        let busier = || other_row.totals.events().cmp(&row.totals.events());
        let by_number = if self == Self::Names { by_number } else { by_number.then_with(busier) };
        by_number.then_with(|| pair.cmp(other_pair))
    }
}

impl View {
    /// What to show of the rows now.
    pub(super) fn picture(&self, top: &Top) -> Picture {
        if let Some(frozen) = &self.frozen {
            return self.arrange(frozen.clone());
        }
        let rows: Vec<_> = top.rows().map(|(pair, row)| (pair.clone(), row.clone())).collect();
        let (other, evicted) = top.other();
        let other = (evicted > 0).then(|| (other.clone(), evicted));
        self.arrange(Picture { rows, hidden: 0, other, all: top.all().clone(), lost: top.lost() })
    }

    /// Keeps what is there now on the screen, or goes on.
    pub(super) fn pause(&mut self, top: &Top) {
        self.frozen = match self.frozen.take() {
            Some(_) => None,
            None => Some(Self::default().picture(top)),
        };
    }

    /// Moves the choice onto a row that is there.
    pub(super) fn settle(&mut self, rows: usize) {
        self.chosen = self.chosen.min(rows.saturating_sub(1));
    }

    /// Does what a key asks for; `rows` are shown.
    pub(super) fn key(&mut self, key: KeyEvent, rows: &[(Pair, Row)]) -> Action {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if matches!(key.code, KeyCode::Char('c')) { Action::Quit } else { Action::None };
        }
        if self.typing {
            self.type_filter(key.code);
            return Action::None;
        }
        if self.help {
            self.help = false;
            return if matches!(key.code, KeyCode::Char('q')) { Action::Quit } else { Action::None };
        }
        match key.code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('p' | ' ') => return Action::Pause,
            KeyCode::Char('c') => return Action::Clear,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('b') => self.sort = Sort::ByteRate,
            KeyCode::Char('f') => self.sort = Sort::FlowRate,
            KeyCode::Char('d') => self.sort = Sort::DropRate,
            KeyCode::Char('n') => self.sort = Sort::Names,
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Enter | KeyCode::Right if self.inside.is_none() => {
                self.inside = rows.get(self.chosen).map(|(pair, _)| pair.clone());
            }
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left => {
                if self.inside.take().is_none() {
                    self.filter.clear();
                }
            }
            code => self.choose(code, rows.len()),
        }
        Action::None
    }

    fn choose(&mut self, code: KeyCode, rows: usize) {
        let last = rows.saturating_sub(1);
        self.chosen = match code {
            KeyCode::Down | KeyCode::Char('j') => self.chosen + 1,
            KeyCode::Up | KeyCode::Char('k') => self.chosen.saturating_sub(1),
            KeyCode::PageDown => self.chosen + PAGE,
            KeyCode::PageUp => self.chosen.saturating_sub(PAGE),
            KeyCode::Home | KeyCode::Char('g') => 0,
            KeyCode::End | KeyCode::Char('G') => last,
            _ => self.chosen,
        }
        .min(last);
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if self.filter.len() < MAX_FILTER => self.filter.push(c),
            _ => {}
        }
        self.chosen = 0;
    }

    fn arrange(&self, mut picture: Picture) -> Picture {
        let all = picture.rows.len();
        let wanted = self.filter.to_lowercase();
        picture.rows.retain(|(pair, row)| wanted.is_empty() || text(pair, row).contains(&wanted));
        picture.hidden = all - picture.rows.len();
        picture.rows.sort_by(|one, other| self.sort.compare(one, other));
        if self.reversed {
            picture.rows.reverse();
        }
        picture
    }
}

/// What a filter looks at.
fn text(pair: &Pair, row: &Row) -> String {
    format!("{} -> {} {} {}", pair.from, pair.to, pair.service(), row.verdict).to_lowercase()
}

/// Rows that a page key moves by.
const PAGE: usize = 10;
/// Bytes of a filter.
const MAX_FILTER: usize = 128;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::traffic::Totals;

    fn top() -> Top {
        let mut top = Top::new(Instant::now());
        for (from, bytes, dropped, verdict) in
            [("a", 10, 0, "FORWARDED"), ("b", 30, 1, "DROPPED"), ("c", 20, 7, "DROPPED")]
        {
            let pair = Pair { from: from.to_owned(), to: "x".to_owned(), protocol: "tcp", port: Some(80) };
            let totals = Totals { passed: 1, dropped, bytes, ..Totals::default() };
            top.add(pair, &totals, verdict, "");
        }
        top
    }

    fn press(view: &mut View, top: &Top, keys: &str) -> Action {
        let mut action = Action::None;
        for c in keys.chars() {
            let code = match c {
                '\n' => KeyCode::Enter,
                '\u{1b}' => KeyCode::Esc,
                'v' => KeyCode::Down,
                c => KeyCode::Char(c),
            };
            let rows = view.picture(top).rows;
            action = view.key(KeyEvent::new(code, KeyModifiers::NONE), &rows);
        }
        action
    }

    fn shown(view: &View, top: &Top) -> String {
        view.picture(top).rows.iter().map(|(pair, _)| pair.from.as_str()).collect()
    }

    #[test]
    fn keys_sort_and_filter() {
        let top = top();
        for (keys, rows) in [
            ("", "cba"),
            ("sss", "bca"),
            ("sssss", "cba"),
            ("n", "abc"),
            ("nr", "cba"),
            ("n/DROP\n", "bc"),
            ("n/80\n", "abc"),
            ("n/b ->\n", "b"),
            ("n/nothing\n", ""),
            ("n/b\u{1b}", "abc"),
            ("n/b\n\u{1b}", "abc"),
        ] {
            let mut view = View::default();
            press(&mut view, &top, keys);
            assert_eq!(shown(&view, &top), rows, "{keys:?}");
        }
    }

    #[test]
    fn keys_choose_a_row_and_look_inside() {
        let top = top();
        let mut view = View::default();
        press(&mut view, &top, "nvvvvv");
        assert_eq!(view.chosen, 2);
        press(&mut view, &top, "k\n");
        assert_eq!(view.inside.as_ref().unwrap().from, "b");
        press(&mut view, &top, "\u{1b}");
        assert!(view.inside.is_none());
        press(&mut view, &top, "G/a\n");
        view.settle(1);
        assert_eq!(view.chosen, 0);
    }

    #[test]
    fn a_pause_keeps_the_rows() {
        let mut top = top();
        let mut view = View::default();
        assert_eq!(press(&mut view, &top, "np"), Action::Pause);
        view.pause(&top);
        assert_eq!(press(&mut view, &top, "c"), Action::Clear);
        top.clear(Instant::now());
        assert_eq!(shown(&view, &top), "abc");
        press(&mut view, &top, "r");
        assert_eq!(shown(&view, &top), "cba", "a frozen picture can be sorted");
        view.pause(&top);
        assert_eq!(shown(&view, &top), "");
    }

    #[test]
    fn keys_end_it() {
        let top = top();
        for keys in ["q", "?q", "n?xq"] {
            assert_eq!(press(&mut View::default(), &top, keys), Action::Quit, "{keys}");
        }
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        let mut typing = View { typing: true, ..View::default() };
        assert_eq!(typing.key(control_c, &[]), Action::Quit);
        assert_eq!(press(&mut View::default(), &top, "/q"), Action::None, "it is a letter of the filter");
    }
}
