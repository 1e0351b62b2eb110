//! The list of events, the newest at the bottom.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span, Text};

use crate::model::{Entry, Kind, Model};
use crate::view::{Theme, Tone, section, text};

pub(crate) fn draw(frame: &mut Frame<'_>, model: &Model, theme: Theme, area: Rect) {
    let area = section(frame, area, vec![Span::styled("Events", theme.style(Tone::Heading))], theme);
    let newest = model.events.iter().rev().take(usize::from(area.height));
    let mut lines: Vec<_> = newest.map(|entry| line(entry, theme)).collect();
    lines.reverse();
    frame.render_widget(Text::from(lines), area);
}

fn line(entry: &Entry, theme: Theme) -> Line<'static> {
    let tone = match entry.kind {
        Kind::Command => Tone::Dim,
        Kind::Node => Tone::Plain,
        Kind::Leader => Tone::Accent,
        Kind::Lease | Kind::Lock => Tone::Plain,
        Kind::Write => Tone::Warn,
        Kind::Check => Tone::Good,
        Kind::Problem => Tone::Bad,
    };
    Line::from(vec![
        Span::styled(format!(" {} ", text::clock(entry.at)), theme.style(Tone::Dim)),
        Span::styled(entry.text.clone(), theme.style(tone)),
    ])
}
