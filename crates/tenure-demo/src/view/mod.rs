//! Draws the model: a pure function from the model, the time and a theme to one frame.
//!
//! Every part has a fixed height for a given terminal size, whatever happens, so nothing jumps. 80 by 24 shows all parts;
//! larger terminals get taller charts and more events, and from [`TWO_COLUMNS_WIDTH`] on the lock and the
//! events stand beside the rest. Nothing is told by colour alone.

mod chart;
mod events;
mod leases;
mod lock;
mod nodes;
mod text;
mod theme;
mod writes;

pub use text::{clock as clock_text, grouped, times};
pub use theme::{Theme, Tone};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};

use crate::clock::Moment;
use crate::model::{Model, NodeState, Phase};

/// From here on there are two columns.
pub const TWO_COLUMNS_WIDTH: u16 = 150;
/// Below this there is nothing worth seeing.
const WIDTH_MIN: u16 = 60;
const HEIGHT_MIN: u16 = 20;
/// Events that must fit before charts grow.
const EVENT_ROWS_WANTED: u16 = 5;

/// Draws one frame.
pub fn draw(frame: &mut Frame<'_>, model: &Model, now: Moment, theme: Theme) {
    let area = frame.area();
    if area.width < WIDTH_MIN || area.height < HEIGHT_MIN {
        let text =
            format!("The demo needs {WIDTH_MIN} columns and {HEIGHT_MIN} rows; 80 by 24 shows all of it. q quits.");
        frame.render_widget(ratatui::widgets::Paragraph::new(text).wrap(Default::default()), area);
        return;
    }
    let rows = [Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)];
    let [title, body, footer] = Layout::vertical(rows).areas(area);
    frame.render_widget(title_line(model, now, theme), title);
    if area.width < TWO_COLUMNS_WIDTH {
        one_column(frame, model, now, theme, body);
    } else {
        two_columns(frame, model, now, theme, body);
    }
    frame.render_widget(footer_line(model, now, theme), footer);
}

fn one_column(frame: &mut Frame<'_>, model: &Model, now: Moment, theme: Theme, area: Rect) {
    let lock_rows = lock::height();
    let leases_rows = leases::height(model, area.width, area.height);
    let fixed = nodes::height(model).saturating_add(leases_rows).saturating_add(lock_rows + 1 + EVENT_ROWS_WANTED);
    let chart_rows = chart_rows(area.height.saturating_sub(fixed));
    let rows = [
        Constraint::Length(nodes::height(model)),
        Constraint::Length(leases_rows),
        Constraint::Length(lock_rows),
        Constraint::Length(writes::height(chart_rows)),
        Constraint::Fill(1),
    ];
    let [nodes_area, leases_area, lock_area, writes_area, events_area] = Layout::vertical(rows).areas(area);
    nodes::draw(frame, model, now, theme, nodes_area);
    leases::draw(frame, model, now, theme, leases_area);
    lock::draw(frame, model, now, theme, lock_area);
    writes::draw(frame, model, now, theme, writes_area, chart_rows);
    events::draw(frame, model, theme, events_area);
}

fn two_columns(frame: &mut Frame<'_>, model: &Model, now: Moment, theme: Theme, area: Rect) {
    let columns = [Constraint::Percentage(58), Constraint::Length(2), Constraint::Fill(1)];
    let [left, _, right] = Layout::horizontal(columns).areas(area);
    let leases_rows = leases::height(model, left.width, left.height);
    let fixed = nodes::height(model).saturating_add(leases_rows);
    let chart_rows = chart_rows(left.height.saturating_sub(fixed));
    let rows = [
        Constraint::Length(nodes::height(model)),
        Constraint::Length(leases_rows),
        Constraint::Length(writes::height(chart_rows)),
    ];
    let [nodes_area, leases_area, writes_area] = Layout::vertical(rows).areas(left);
    nodes::draw(frame, model, now, theme, nodes_area);
    leases::draw(frame, model, now, theme, leases_area);
    writes::draw(frame, model, now, theme, writes_area, chart_rows);
    let rows = [Constraint::Length(lock::height()), Constraint::Fill(1)];
    let [lock_area, events_area] = Layout::vertical(rows).areas(right);
    lock::draw(frame, model, now, theme, lock_area);
    events::draw(frame, model, theme, events_area);
}

/// How tall the charts may be so that both fit into `rows`.
fn chart_rows(rows: u16) -> u16 {
    const CHART_ROWS_MAX: u16 = 10;
    (1..=CHART_ROWS_MAX).take_while(|chart| writes::height(*chart) <= rows).last().unwrap_or(1)
}

fn title_line(model: &Model, now: Moment, theme: Theme) -> Line<'static> {
    let phase = match model.phase {
        Phase::Starting => "starting the nodes",
        Phase::Running => "running",
        Phase::Checking => "checking that nothing was lost",
    };
    let mut spans = vec![
        Span::styled(" Tenure demo ", theme.style(Tone::Title)),
        Span::raw(format!(" {}  ", text::clock(now))),
        Span::styled(phase, theme.style(Tone::Accent)),
    ];
    let setup = &model.setup;
    if model.phase == Phase::Running {
        let text = format!(
            "{} · {} services, {} contenders, {} writes/s",
            if setup.nodes_are_ours { "" } else { ", attached" },
            grouped(setup.services),
            setup.contenders,
            grouped(setup.writes_per_second)
        );
        spans.push(Span::styled(text, theme.style(Tone::Dim)));
    }
    if model.missed > 0 {
        let text = format!(" · {} updates missed here", grouped(model.missed));
        spans.push(Span::styled(text, theme.style(Tone::Warn)));
    }
    Line::from(spans)
}

fn footer_line(model: &Model, now: Moment, theme: Theme) -> Line<'static> {
    let selected = model.nodes.nodes.get(model.nodes.selected);
    let pause = match selected.map(|node| node.state(now)) {
        Some(NodeState::Paused) => "resume",
        _ => "pause",
    };
    let restart = match selected.map(|node| node.state(now)) {
        Some(NodeState::Down) => "start",
        _ => "restart",
    };
    let select = format!("1-{}", model.nodes.nodes.len());
    let mut keys: Vec<(&str, &str)> = Vec::new();
    if model.setup.nodes_are_ours && model.phase == Phase::Running {
        keys.extend([(select.as_str(), "node"), ("k", "kill"), ("p", pause), ("r", restart), ("K", "kill leader")]);
    }
    if model.phase == Phase::Running {
        keys.extend([("w", "end a lease"), ("q", "quit")]);
    } else {
        keys.push(("Ctrl-C", "give up"));
    }
    let spans = keys.into_iter().flat_map(|(key, what)| {
        [Span::styled(format!(" {key}"), theme.style(Tone::Key)), Span::raw(format!(" {what} "))]
    });
    Line::from(spans.collect::<Vec<_>>())
}

/// A rule across the area with a title in it; answers what is left below.
fn section(frame: &mut Frame<'_>, area: Rect, title: Vec<Span<'static>>, theme: Theme) -> Rect {
    let [rule, rest] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let mut spans = vec![Span::styled("── ", theme.style(Tone::Dim))];
    spans.extend(title);
    let used: usize = spans.iter().map(Span::width).sum::<usize>() + 1;
    let fill = usize::from(rule.width).saturating_sub(used);
    spans.push(Span::styled(format!(" {}", "─".repeat(fill)), theme.style(Tone::Dim)));
    frame.render_widget(Line::from(spans), rule);
    rest
}
