//! What the screen is drawn from: the latest answer, the rates since the one before, and what the keys have set.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::history::History;
use super::rates::{Rates, Sample};
use super::sheet::{Order, Sheet, View};
use crate::api::status::Status;

/// The state of the screen.
#[derive(Debug)]
pub(super) struct App {
    pub(super) interval: Duration,
    pub(super) view: View,
    orders: [Order; View::ALL.len()],
    /// Rows of the table above its first visible one.
    pub(super) scroll: usize,
    /// Rows that fitted when it was drawn.
    pub(super) page: usize,
    pub(super) status: Status,
    sample: Sample,
    pub(super) rates: Rates,
    /// Frames per second.
    pub(super) history: History,
    /// Why there is no newer answer.
    pub(super) trouble: Option<String>,
    /// When the latest answer came.
    pub(super) heard: Instant,
}

impl App {
    pub(super) fn new(status: Status, now: Instant, interval: Duration) -> Self {
        Self {
            interval,
            view: View::Vteps,
            orders: View::ALL.map(View::first_order),
            scroll: 0,
            page: 1,
            sample: Sample::of(&status, now),
            status,
            rates: Rates::default(),
            history: History::default(),
            trouble: None,
            heard: now,
        }
    }

    /// An answer came, or why none did.
    pub(super) fn hear(&mut self, answer: Result<Status, String>, now: Instant) {
        match answer {
            Ok(status) => {
                let sample = Sample::of(&status, now);
                let rates = sample.since(&self.sample);
                self.history.push(rates.as_ref().map(Rates::frames));
                self.rates = rates.unwrap_or_default();
                (self.status, self.sample, self.trouble, self.heard) = (status, sample, None, now);
            }
            Err(why) => {
                self.history.push(None);
                // What was a rate a while ago is none now.
                self.rates = Rates::default();
                self.trouble = Some(why);
            }
        }
    }

    /// The order of the view that is shown.
    pub(super) fn order(&self) -> Order {
        self.orders[self.view as usize]
    }

    /// The table that is shown.
    pub(super) fn sheet(&self) -> Sheet {
        Sheet::of(self.view, &self.status, &self.sample, &self.rates, self.order())
    }

    /// A key was pressed; a break quits.
    pub(super) fn press(&mut self, key: KeyEvent) -> ControlFlow<()> {
        if key.kind == KeyEventKind::Release {
            return ControlFlow::Continue(());
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return ControlFlow::Break(()),
            KeyCode::Char('c' | 'd') if control => return ControlFlow::Break(()),
            KeyCode::Tab | KeyCode::Right => self.show(self.view as usize + 1),
            KeyCode::BackTab | KeyCode::Left => self.show(self.view as usize + View::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='4') => self.show(digit as usize - '1' as usize),
            KeyCode::Char('s') => self.sort_by(1),
            KeyCode::Char('S') => self.sort_by(self.view.columns().len() - 1),
            KeyCode::Char('r') => self.orders[self.view as usize].reversed ^= true,
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            // Drawing goes back to the last row.
            KeyCode::Down | KeyCode::Char('j') => self.scroll = self.scroll.saturating_add(1),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(self.page),
            KeyCode::PageDown => self.scroll = self.scroll.saturating_add(self.page),
            KeyCode::Home => self.scroll = 0,
            KeyCode::End => self.scroll = usize::MAX,
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn show(&mut self, view: usize) {
        self.view = View::ALL[view % View::ALL.len()];
        self.scroll = 0;
    }

    fn sort_by(&mut self, step: usize) {
        let (order, columns) = (&mut self.orders[self.view as usize], self.view.columns().len());
        *order = Order { column: (order.column + step) % columns, reversed: false };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::example::status;

    const SECOND: Duration = Duration::from_secs(1);

    fn press(app: &mut App, code: KeyCode) -> ControlFlow<()> {
        app.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn a_daemon_that_goes_and_comes_back_leaves_a_gap_and_no_rate_of_its_own() {
        let start = Instant::now();
        let mut app = App::new(status(100), start, SECOND);
        app.hear(Ok(status(200)), start + SECOND);
        assert_eq!(app.rates.frames(), 400.0);
        app.hear(Err("gone".into()), start + 2 * SECOND);
        assert!(app.rates.carried.is_empty() && app.trouble.as_deref() == Some("gone"));
        assert_eq!(app.heard, start + SECOND);
        app.hear(Ok(Status { pid: 4712, ..status(1_000_000) }), start + 3 * SECOND);
        assert!(app.rates.carried.is_empty() && app.trouble.is_none());
        app.hear(Ok(Status { pid: 4712, ..status(1_000_010) }), start + 4 * SECOND);
        assert_eq!(app.rates.frames(), 40.0);
        assert_eq!(app.history.columns(1000, SECOND), [Some(400.0), None, None, Some(40.0)]);
    }

    #[test]
    fn keys_change_view_and_order_and_come_around() {
        let mut app = App::new(status(0), Instant::now(), SECOND);
        let first = app.order();
        for view in [View::Ports, View::Overlays, View::Reasons, View::Vteps] {
            assert!(press(&mut app, KeyCode::Tab).is_continue());
            assert_eq!(app.view, view);
        }
        let _ = press(&mut app, KeyCode::BackTab);
        assert_eq!(app.view, View::Reasons);
        let _ = press(&mut app, KeyCode::Char('1'));
        for _ in View::Vteps.columns() {
            let _ = press(&mut app, KeyCode::Char('s'));
        }
        assert_eq!(app.order(), first);
        let _ = press(&mut app, KeyCode::Char('S'));
        let _ = press(&mut app, KeyCode::Char('r'));
        assert_eq!(app.order(), Order { column: first.column - 1, reversed: true });
        assert_eq!(app.orders[View::Ports as usize], View::Ports.first_order());
    }

    #[test]
    fn q_escape_and_control_c_quit_and_a_plain_c_does_not() {
        let mut app = App::new(status(0), Instant::now(), SECOND);
        assert!(press(&mut app, KeyCode::Char('c')).is_continue());
        assert!(press(&mut app, KeyCode::Char('q')).is_break());
        assert!(press(&mut app, KeyCode::Esc).is_break());
        assert!(app.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)).is_break());
    }
}
