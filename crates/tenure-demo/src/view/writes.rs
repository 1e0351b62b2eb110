//! The writer: figures in one line, and two charts that scroll to the left.
//!
//! The chart of the slowest write is logarithmic, because a few milliseconds and an election of more than a second are
//! both of interest. Only columns whose time is over are drawn: one that is still being filled would always look low.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span, Text};

use crate::clock::Moment;
use crate::model::{BUCKETS_PER_SECOND, Bucket, Model, WINDOW, WritesModel};
use crate::view::{Theme, Tone, chart, section, text};

const LABEL_CELLS: u16 = 15;
/// The chart of latencies goes from here ...
const FASTEST: Duration = Duration::from_micros(500);
/// ... to here.
const SLOWEST: Duration = Duration::from_secs(4);
/// A gap that is no mere scatter.
const GAP_SHOWN_MIN: Duration = Duration::from_millis(300);

pub(crate) fn height(chart_rows: u16) -> u16 {
    2 + 2 * chart_rows
}

pub(crate) fn draw(frame: &mut Frame<'_>, model: &Model, now: Moment, theme: Theme, area: Rect, chart_rows: u16) {
    let writes = &model.writes;
    let area = section(frame, area, title(writes, now, theme), theme);
    let columns = usize::from(area.width.saturating_sub(LABEL_CELLS + 1));
    let mut buckets: Vec<Bucket> = writes.buckets(columns + 1).collect();
    // The newest one is not complete.
    buckets.pop();
    let peak = buckets.iter().map(|bucket| bucket.acked).max().unwrap_or(0);
    let slowest = buckets.iter().map(|bucket| bucket.worst).max().unwrap_or_default();
    let acks = Chart {
        label: "acks",
        scale: if peak == 0 { "-".to_owned() } else { format!("{}/s", text::grouped(peak * BUCKETS_PER_SECOND)) },
        levels: levels(&buckets, |bucket| chart::level(u64::from(bucket.acked), u64::from(peak), chart_rows)),
    };
    let latencies = Chart {
        label: "slowest",
        scale: if slowest.is_zero() { "-".to_owned() } else { text::latency(slowest) },
        levels: levels(&buckets, |bucket| logarithmic(bucket.worst, chart_rows)),
    };
    let mut lines = vec![figures(writes, now)];
    lines.extend(acks.lines(chart_rows, theme));
    lines.extend(latencies.lines(chart_rows, theme));
    frame.render_widget(Text::from(lines), area);
}

fn title(writes: &WritesModel, now: Moment, theme: Theme) -> Vec<Span<'static>> {
    let mut spans = vec![Span::styled("Writes", theme.style(Tone::Heading))];
    let gap = writes.gap_now(now);
    if writes.is_on() && gap >= GAP_SHOWN_MIN {
        spans.push(Span::styled(format!(": no ack for {}", text::seconds(gap)), theme.style(Tone::Bad)));
    } else if let Some((gap, at)) = writes.longest_gap(now) {
        let text = format!(": longest time without an ack {}, until {}", text::latency(gap), text::clock(at));
        spans.push(Span::raw(text));
    }
    spans
}

fn figures(writes: &WritesModel, now: Moment) -> Line<'static> {
    let mut words = format!(" acked {}", text::grouped(writes.acked));
    if writes.unanswered > 0 {
        words.push_str(&format!(", not acked {}", text::grouped(writes.unanswered)));
    }
    if writes.is_on() {
        words.push_str(&format!("; last {} s: {:.0}/s", WINDOW.as_secs(), writes.rate(now)));
        if let Some(latencies) = writes.latencies() {
            words.push_str(&format!(", p50 {}, p99 {}", text::latency(latencies.p50), text::latency(latencies.p99)));
        }
    }
    Line::raw(words)
}

fn levels(buckets: &[Bucket], level: impl Fn(&Bucket) -> u32) -> Vec<u32> {
    buckets.iter().map(level).collect()
}

struct Chart {
    label: &'static str,
    scale: String,
    levels: Vec<u32>,
}

impl Chart {
    /// The label in the top row with its scale behind or below it, then the bars, the oldest at the left.
    fn lines(&self, rows: u16, theme: Theme) -> Vec<Line<'static>> {
        let width = usize::from(LABEL_CELLS) - 1;
        let line = |from_bottom: u16| {
            let words = match rows - 1 - from_bottom {
                0 if rows == 1 => format!("{} {:>pad$}", self.label, self.scale, pad = width - 1 - self.label.len()),
                0 => self.label.to_owned(),
                1 => self.scale.clone(),
                _ => String::new(),
            };
            let bars: String = self.levels.iter().map(|level| chart::block(*level, from_bottom)).collect();
            Line::from(vec![
                Span::styled(format!(" {words:<width$} "), theme.style(Tone::Dim)),
                Span::styled(bars, theme.style(Tone::Good)),
            ])
        };
        (0..rows).rev().map(line).collect()
    }
}

fn logarithmic(latency: Duration, rows: u16) -> u32 {
    if latency.is_zero() {
        return 0;
    }
    let ratio = (latency.as_secs_f64() / FASTEST.as_secs_f64()).max(1.0).ln();
    let whole = (SLOWEST.as_secs_f64() / FASTEST.as_secs_f64()).ln();
    let per_mille = (ratio / whole * 1_000.0).clamp(1.0, 1_000.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1 to 1000 above")]
    chart::level(per_mille as u64, 1_000, rows)
}
