//! The services' leases: one bar each, in groups of ten, and a line for the one that runs out next.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span, Text};

use crate::clock::Moment;
use crate::model::{Model, Service, ServiceState, ServicesModel};
use crate::view::{Theme, Tone, chart, section, text};

const GROUP: usize = 10;
const COUNTDOWN_CELLS: u16 = 30;

/// The title, the bars, and the line below them. A fifth of the screen is enough, however many there are.
pub(crate) fn height(model: &Model, width: u16, screen_rows: u16) -> u16 {
    let rows = model.services.services.len().div_ceil(per_row(width));
    u16::try_from(rows).unwrap_or(u16::MAX).min(screen_rows / 5).saturating_add(2)
}

/// Whole groups of ten, each with a blank after it.
fn per_row(width: u16) -> usize {
    (usize::from(width) / (GROUP + 1)).max(1) * GROUP
}

pub(crate) fn draw(frame: &mut Frame<'_>, model: &Model, now: Moment, theme: Theme, area: Rect) {
    let services = &model.services;
    let area = section(frame, area, title(services, now, theme), theme);
    let rows_shown = usize::from(area.height.saturating_sub(1));
    let rows = services.services.chunks(per_row(area.width)).take(rows_shown);
    let mut lines: Vec<_> = rows.map(|row| bars(row, now, theme)).collect();
    let hidden = services.services.len().saturating_sub(rows_shown * per_row(area.width));
    lines.push(countdown(services, hidden, now, theme));
    frame.render_widget(Text::from(lines), area);
}

fn title(services: &ServicesModel, now: Moment, theme: Theme) -> Vec<Span<'static>> {
    let is_overdue = |service: &&Service| match service.state {
        ServiceState::Kept | ServiceState::Stopped => service.left_permille(now) == 0,
        ServiceState::Away | ServiceState::Ended => false,
    };
    let overdue = services.services.iter().filter(is_overdue).count();
    let is_kept = |service: &&Service| service.state == ServiceState::Kept && !is_overdue(service);
    let kept = services.services.iter().filter(is_kept).count();
    let mut spans = vec![
        Span::styled("Services", theme.style(Tone::Heading)),
        Span::raw(format!(": {kept} of {} keep their lease", services.services.len())),
    ];
    if overdue > 0 {
        spans.push(Span::styled(format!(", {overdue} overdue"), theme.style(Tone::Bad)));
    }
    if services.ran_out > 0 {
        spans.push(Span::raw(format!(", {} let it run out", services.ran_out)));
    }
    if services.lost > 0 {
        spans.push(Span::styled(format!(", {} lost it", services.lost), theme.style(Tone::Bad)));
    }
    spans
}

fn bars(row: &[Service], now: Moment, theme: Theme) -> Line<'static> {
    let mut spans = Vec::new();
    for group in row.chunks(GROUP) {
        spans.push(Span::raw(" "));
        for service in group {
            let (character, tone) = cell(service, now);
            spans.push(Span::styled(character.to_string(), theme.style(tone)));
        }
    }
    Line::from(spans)
}

fn cell(service: &Service, now: Moment) -> (char, Tone) {
    let left = service.left_permille(now);
    let bar = || chart::block(chart::level(u64::from(left), 1_000, 1), 0);
    match service.state {
        ServiceState::Away => ('·', Tone::Dim),
        ServiceState::Ended => ('×', Tone::Bad),
        // Due and not seen to end yet.
        _ if left == 0 => ('_', Tone::Bad),
        ServiceState::Stopped => (bar(), Tone::Warn),
        ServiceState::Kept if left < 250 => (bar(), Tone::Bad),
        ServiceState::Kept => (bar(), Tone::Good),
    }
}

fn countdown(services: &ServicesModel, hidden: usize, now: Moment, theme: Theme) -> Line<'static> {
    let Some((at, service)) = services.next_to_end() else {
        let text = match hidden {
            0 => " each bar is the time left of one lease; w lets one service stop renewing".to_owned(),
            hidden => format!(" each bar is the time left of one lease; {} more do not fit", text::grouped(hidden)),
        };
        return Line::styled(text, theme.style(Tone::Dim));
    };
    let cells = u32::from(service.left_permille(now)) * u32::from(COUNTDOWN_CELLS) / 1_000;
    let full = usize::try_from(cells).unwrap_or(0);
    let bar = format!("{}{}", "█".repeat(full), "░".repeat(usize::from(COUNTDOWN_CELLS) - full));
    let left = service.due().saturating_sub(now);
    let says = if left.is_zero() {
        format!("due {} ago", text::seconds(now.saturating_sub(service.due())))
    } else {
        format!("{} left", text::seconds(left))
    };
    Line::from(vec![
        Span::raw(format!(" {} does not renew  ", ServicesModel::name(at))),
        Span::styled(bar, theme.style(Tone::Warn)),
        Span::raw(format!("  {says}")),
    ])
}
