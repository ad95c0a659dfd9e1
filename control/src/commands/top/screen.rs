//! The screen: what carries, a graph of the last minutes, and the table.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize as _};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Borders, Paragraph, RenderDirection, Row, Sparkline, Table, Wrap};

use super::app::App;
use super::history::History;
use super::rates::Flows;
use super::sheet::{Cell, Column, Order, View};
use crate::commands::table::{ago, short};
use crate::engine::EngineReport;

/// Columns and rows of the smallest terminal in which everything but the graph has its place.
const NEEDED: (u16, u16) = (74, 12);

/// Rows of a terminal from which on there is a graph.
const WITH_GRAPH: u16 = 18;

/// Draws the whole screen.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let area = frame.area();
    if area.width < NEEDED.0 || area.height < NEEDED.1 {
        let (columns, rows) = NEEDED;
        let text = format!(
            "vxdp top needs {columns} columns and {rows} rows; here are {} and {}. It goes on when there is \
             room; q quits.",
            area.width, area.height
        );
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return;
    }
    let paths = paths(app);
    let graph = if area.height >= WITH_GRAPH { 5 } else { 0 };
    let rows = u16::try_from(paths.len()).unwrap_or(u16::MAX).saturating_add(1);
    let parts = [2, rows, graph, 1].map(Constraint::Length);
    let parts = parts.into_iter().chain([Constraint::Min(3), Constraint::Length(1)]);
    let [head, carried, graph, tabs, table, foot] = Layout::vertical(parts).areas(area);
    draw_head(frame, head, app);
    draw_paths(frame, carried, &paths);
    draw_graph(frame, graph, app);
    draw_tabs(frame, tabs, app.view);
    let shown = draw_table(frame, table, app);
    let keys = Line::from("q quit  Tab view  s sort  r reverse  ↑↓ scroll").dim();
    frame.render_widget(keys, foot);
    frame.render_widget(Line::from(shown).alignment(Alignment::Right).dim(), foot);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let status = &app.status;
    let kinds = status.modes.engine.iter().flat_map(|engine| &engine.kinds);
    let kinds: Vec<_> = kinds.map(|kind| kind.as_str()).collect();
    let engine = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(" and ")) };
    let first = Line::from(vec![
        Span::from(format!("vxdp {}  mode ", status.version)),
        Span::from(format!("{}{engine}", status.mode)).bold(),
        Span::from(format!(
            "  {}, {}  up {}  asked every {:?}",
            status.underlay.device,
            status.underlay.local,
            ago(status.uptime_s),
            app.interval
        )),
    ]);
    let second = match (&app.trouble, &status.modes.trouble, &status.modes.engine) {
        (Some(why), ..) => {
            Line::from(format!("no answer for {}: {why}", ago(app.heard.elapsed().as_secs()))).red()
        }
        (None, Some(why), _) => Line::from(format!("no xdp mode: {why}")).yellow(),
        (None, None, Some(engine)) => Line::from(regime(engine)),
        (None, None, None) => Line::from("the kernel carries every frame"),
    };
    frame.render_widget(Text::from(vec![first, second]), area);
}

/// Where the programs run, and what they know.
fn regime(engine: &EngineReport) -> String {
    let EngineReport { devices, remotes, locals, vteps_resolved, vteps, workers, .. } = engine;
    let underlay = devices.iter().find(|device| device.vni.is_none());
    let device = underlay.map_or_else(String::new, |underlay| {
        let regime = underlay.regime.as_deref().unwrap_or("off");
        let copy = if underlay.zero_copy { ", zero-copy" } else { "" };
        format!("{} {regime}{copy}; ", underlay.device)
    });
    format!(
        "{device}{workers} workers; {remotes} remote and {locals} local MACs; {vteps_resolved} of {vteps} VTEPs \
         resolved"
    )
}

/// The paths that there are, over all overlays; the kernel's always is.
fn paths(app: &App) -> Vec<(&'static str, Option<Flows>)> {
    let known = app.status.overlays.iter().flat_map(|overlay| &overlay.paths);
    let known: Vec<_> = known.map(|path| path.path.as_str()).collect();
    let there = |path: &&str| *path == "kernel" || known.contains(path);
    let paths = ["userspace", "inkernel", "kernel"].into_iter().filter(there);
    paths.map(|path| (path, app.rates.path(path))).collect()
}

fn draw_paths(frame: &mut Frame<'_>, area: Rect, paths: &[(&'static str, Option<Flows>)]) {
    let row = |(path, flows): &(&'static str, Option<Flows>)| {
        let figures =
            flows.map(|Flows { encap, decap }| [encap.frames, encap.bits, decap.frames, decap.bits]);
        let figures = figures.map_or([None; 4], |figures| figures.map(Some));
        let cells = figures.map(|figure| Text::from(rate(figure)).right_aligned());
        Row::new(std::iter::once(Text::from(*path)).chain(cells))
    };
    let title = |title: &'static str| Text::from(title).right_aligned();
    let titles = ["ENCAP/S", "BIT/S", "DECAP/S", "BIT/S"].map(title);
    let head = Row::new(std::iter::once(Text::from("PATH")).chain(titles)).bold();
    let widths = [10, 8, 8, 8, 8].map(Constraint::Length);
    frame.render_widget(Table::new(paths.iter().map(row), widths).header(head), area);
}

fn draw_graph(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let width = usize::from(area.width);
    let columns = app.history.columns(width, app.interval);
    let most = columns.iter().flatten().copied().fold(0.0, f64::max);
    let span = ago(History::span(width, app.interval).as_secs());
    let title = format!(" frames/s of all paths, both ways, over {span}; at most {} ", rate(Some(most)));
    // Small rates would round to nothing.
    let height = |value: f64| (value * 1000.0).round() as u64;
    let bars = columns.iter().rev().map(|value| value.map(height));
    let graph = Sparkline::default()
        .block(Block::default().borders(Borders::TOP).title(title))
        .direction(RenderDirection::RightToLeft)
        .data(bars)
        .max(height(most).max(1))
        .absent_value_symbol(" ")
        .style(Style::default().green());
    frame.render_widget(graph, area);
}

fn draw_tabs(frame: &mut Frame<'_>, area: Rect, shown: View) {
    let tab = |(number, view): (usize, View)| {
        let span = Span::from(format!(" {number} {} ", view.as_str()));
        if view == shown { span.reversed() } else { span }
    };
    frame.render_widget(Line::from_iter((1..).zip(View::ALL).map(tab)), area);
}

/// Which rows are shown, in words.
fn draw_table(frame: &mut Frame<'_>, area: Rect, app: &mut App) -> String {
    let sheet = app.sheet();
    let (columns, order) = (app.view.columns(), app.order());
    app.page = usize::from(area.height.saturating_sub(1)).max(1);
    app.scroll = app.scroll.min(sheet.rows.len().saturating_sub(app.page));
    let head = Row::new(columns.iter().enumerate().map(|(at, column)| headline(at, column, order))).bold();
    let shown = sheet.rows.iter().skip(app.scroll).take(app.page);
    let rows = shown.map(|row| Row::new(row.iter().zip(columns).map(|(cell, column)| text_of(cell, column))));
    let widths = columns.iter().map(|column| match column.width {
        Some(width) => Constraint::Length(width),
        None => Constraint::Fill(1),
    });
    frame.render_widget(Table::new(rows, widths).header(head), area);
    if sheet.rows.is_empty() {
        let below = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
        frame.render_widget(Paragraph::new(sheet.note).wrap(Wrap { trim: true }).dim(), below);
        return String::new();
    }
    let last = (app.scroll + app.page).min(sheet.rows.len());
    format!("{} to {last} of {}", app.scroll + 1, sheet.rows.len())
}

fn headline(at: usize, column: &Column, order: Order) -> Text<'static> {
    let mark = match at == order.column {
        true if column.figure != order.reversed => "▼",
        true => "▲",
        false => "",
    };
    aligned(Text::from(format!("{}{mark}", column.title)), column)
}

fn text_of(cell: &Cell, column: &Column) -> Text<'static> {
    let text = match cell {
        Cell::Text(text) => Text::from(text.clone()),
        Cell::Address(address) => Text::from(address.to_string()),
        Cell::Number(None) => Text::default(),
        // What is counted is shortened; a VNI is a name.
        Cell::Number(Some(number)) if column.figure => Text::from(short(*number)),
        Cell::Number(Some(number)) => Text::from(number.to_string()),
        Cell::Rate(per_second) => Text::from(rate(*per_second)),
    };
    let text = match cell {
        Cell::Text(word) if matches!(word.as_str(), "unresolved" | "away" | "dropped" | "lost") => text.red(),
        _ => text,
    };
    aligned(text, column)
}

fn aligned<'a>(text: Text<'a>, column: &Column) -> Text<'a> {
    if column.figure { text.right_aligned() } else { text }
}

/// In at most five characters: 0, 0.3, 250, 12.5k; a dash for what is not known.
fn rate(per_second: Option<f64>) -> String {
    match per_second {
        None => "-".to_owned(),
        Some(rate) if rate < 9.95 && rate.fract() > 0.0 => format!("{rate:.1}"),
        Some(rate) => short(rate.round() as u64),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::api::example::{carried, status, vtep};

    const SECOND: Duration = Duration::from_secs(1);

    fn app() -> App {
        let start = Instant::now();
        let mut app = App::new(status(1000), start, SECOND);
        app.hear(Ok(status(2000)), start + SECOND);
        app
    }

    fn lines(app: &mut App, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("in memory");
        terminal.draw(|frame| draw(frame, app)).expect("in memory");
        let cells = terminal.backend().buffer().content();
        let line =
            |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
        cells.chunks(usize::from(width).max(1)).map(line).collect()
    }

    #[test]
    fn eighty_columns_and_24_rows_have_room_for_everything() {
        let text = lines(&mut app(), 80, 24).join("\n");
        for word in [
            "mode xdp",
            "192.168.10.21",
            "eth0 driver",
            "userspace",
            "kernel",
            "at most 4000",
            "█",
            "1 VTEPs  2 ports",
            "ENCAP/S▼",
            "192.168.10.22",
            "784k",
            "1 to 1 of 1",
            "q quit",
        ] {
            assert!(text.contains(word), "{word}\n{text}");
        }
    }

    #[test]
    fn each_view_shows_its_names_whole_in_80_columns() {
        let words: [&[&str]; 4] = [
            &["VTEP ", "NEXT HOP", "resolved", "TOTAL"],
            &["DEVICE", "veth2", "16777215", "driver", "PASSED/S"],
            &["VNI", "PORT", "4789", "userspace"],
            &["FATE", "passed", "VXDP_UNKNOWN_DESTINATION", "PER S▼"],
        ];
        for (key, words) in ('1'..).zip(words) {
            let mut app = app();
            let engine = app.status.modes.engine.as_mut().expect("one");
            engine.devices[1].vni = Some(16_777_215);
            let verdict = &mut engine.devices[1].verdicts[1].verdict;
            *verdict = "VXDP_UNKNOWN_DESTINATION".to_owned();
            let status = app.status.clone();
            app.hear(Ok(status), Instant::now());
            let _ = app.press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
            let text = lines(&mut app, 80, 24).join("\n");
            for word in words {
                assert!(text.contains(word), "{word}\n{text}");
            }
        }
    }

    #[test]
    fn any_size_can_be_drawn_and_a_small_one_says_what_it_needs() {
        let mut app = app();
        for (width, height) in (0..90).step_by(7).flat_map(|width| (0..30).map(move |height| (width, height)))
        {
            let _ = lines(&mut app, width, height);
        }
        let text = lines(&mut app, 80, 2).join("");
        assert!(text.contains("needs 74 columns and 12 rows; here are 80 and 2"), "{text}");
    }

    #[test]
    fn scrolling_ends_at_the_last_row() {
        let mut app = app();
        let peers = (0..100).map(|last| vtep([10, 0, 0, last], carried(1))).collect();
        app.status.modes.engine.as_mut().expect("one").peers = peers;
        let _ = app.press(KeyEvent::new(KeyCode::End, KeyModifiers::NONE));
        let text = lines(&mut app, 80, 24).join("\n");
        assert!(text.contains("10.0.0.99") && text.contains(" of 100"), "{text}");
        let _ = app.press(KeyEvent::new(KeyCode::PageUp, KeyModifiers::NONE));
        assert!(!lines(&mut app, 80, 24).join("\n").contains("10.0.0.99"));
    }

    #[test]
    fn a_daemon_that_does_not_answer_is_said() {
        let mut app = app();
        app.hear(Err("no daemon answers at /run/vxdp/vxdp.sock".to_owned()), Instant::now());
        let text = lines(&mut app, 80, 24).join("\n");
        assert!(text.contains("no answer for 0s: no daemon answers at /run/vxdp/vxdp.sock"), "{text}");
    }
}
