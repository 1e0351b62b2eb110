//! The lock: who holds it, who waits, and how fast it changes hands.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span, Text};

use crate::clock::Moment;
use crate::model::Model;
use crate::view::{Theme, Tone, section, text};

pub(crate) fn height() -> u16 {
    3
}

pub(crate) fn draw(frame: &mut Frame<'_>, model: &Model, now: Moment, theme: Theme, area: Rect) {
    let area = section(frame, area, vec![Span::styled("Lock", theme.style(Tone::Heading))], theme);
    let lines = vec![queue(model, now, theme), speed(model)];
    frame.render_widget(Text::from(lines), area);
}

fn queue(model: &Model, now: Moment, theme: Theme) -> Line<'static> {
    let lock = &model.lock;
    let mut spans = Vec::new();
    let holder = lock.holder.as_ref();
    match holder {
        Some(holder) => {
            let time = text::seconds(now.saturating_sub(holder.since));
            spans.push(Span::raw(" held by "));
            spans.push(Span::styled(holder.contender.clone(), theme.style(Tone::Accent)));
            spans.push(Span::raw(format!(" for {time}, token {:<8}", text::grouped(holder.token))));
        }
        None => spans.push(Span::raw(format!(" {:<32}", "held by nobody"))),
    }
    let waiting = lock.queue.iter().filter(|place| holder.is_none_or(|holder| holder.token != place.token));
    let waiting: Vec<_> = waiting.map(|place| place.contender.as_str()).collect();
    let text = if waiting.is_empty() { "nobody".to_owned() } else { waiting.join(" → ") };
    spans.push(Span::raw("  waiting: "));
    spans.push(Span::raw(text));
    Line::from(spans)
}

fn speed(model: &Model) -> Line<'static> {
    let lock = &model.lock;
    if lock.taken == 0 {
        return Line::raw(" not taken yet");
    }
    let mut words = format!(" taken {}", text::times(lock.taken));
    if let (Some(last), Some(slowest)) = (lock.last_handover, lock.slowest_handover) {
        words.push_str(&format!("; handed over within {}, {} at worst", text::latency(last), text::latency(slowest)));
    }
    Line::raw(words)
}
