//! The table of nodes.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span, Text};

use crate::clock::Moment;
use crate::model::{Model, NodeModel, NodeState, Phase, Verb};
use crate::view::{Theme, Tone, section, text};

pub(crate) fn height(model: &Model) -> u16 {
    u16::try_from(model.nodes.nodes.len()).unwrap_or(u16::MAX).saturating_add(2)
}

pub(crate) fn draw(frame: &mut Frame<'_>, model: &Model, now: Moment, theme: Theme, area: Rect) {
    let area = section(frame, area, title(model, now, theme), theme);
    let head = format!(
        "   {:<5} {:<11} {:<10} {:>5} {:>11} {:>11}   {}",
        "node", "state", "role", "term", "revision", "applied", "endpoint"
    );
    let mut lines = vec![Line::styled(head, theme.style(Tone::Dim))];
    for (at, node) in model.nodes.nodes.iter().enumerate() {
        lines.push(row(model, at, node, now, theme));
    }
    frame.render_widget(Text::from(lines), area);
}

fn title(model: &Model, now: Moment, theme: Theme) -> Vec<Span<'static>> {
    let mut spans = vec![Span::styled("Nodes", theme.style(Tone::Heading))];
    match model.nodes.leaderless_since {
        Some(since) if model.phase != Phase::Starting => {
            let time = text::seconds(now.saturating_sub(since));
            spans.push(Span::styled(format!(": no leader for {time}"), theme.style(Tone::Bad)));
        }
        _ if model.nodes.leader_changes > 0 => {
            let changes = model.nodes.leader_changes;
            spans.push(Span::raw(format!(": the leader changed {}", text::times(changes))));
        }
        _ => {}
    }
    spans
}

fn row(model: &Model, at: usize, node: &NodeModel, now: Moment, theme: Theme) -> Line<'static> {
    let is_selected = at == model.nodes.selected && model.setup.nodes_are_ours;
    let (state, tone) = state(node, model.phase, now);
    let answer = node.answer(now);
    let role = match answer {
        None => "-",
        Some(answer) if answer.leader == 0 => "-",
        Some(_) if model.nodes.leader() == Some(at) => "leader",
        Some(_) if node.claims_to_lead(now) => "was leader",
        Some(_) => "follower",
    };
    let role_tone = if role == "leader" { Tone::Accent } else { Tone::Plain };
    let number = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let term = number(answer.map(|answer| answer.term.to_string()));
    let revision = number(answer.map(|answer| text::grouped(answer.revision)));
    let applied = number(answer.map(|answer| text::grouped(answer.applied)));
    let name_tone = if is_selected { Tone::Title } else { Tone::Plain };
    Line::from(vec![
        Span::styled(if is_selected { " ▶ " } else { "   " }, theme.style(Tone::Accent)),
        Span::styled(node.name.clone(), theme.style(name_tone)),
        Span::raw(" ".repeat(6_usize.saturating_sub(node.name.chars().count()))),
        Span::styled(format!("{state:<11} "), theme.style(tone)),
        Span::styled(format!("{role:<10} "), theme.style(role_tone)),
        Span::raw(format!("{term:>5} {revision:>11} {applied:>11}   ")),
        Span::styled(node.endpoint.clone(), theme.style(Tone::Dim)),
    ])
}

fn state(node: &NodeModel, phase: Phase, now: Moment) -> (&'static str, Tone) {
    match (node.command, node.state(now)) {
        (Some((Verb::Restart, _)), NodeState::Up) => ("restarting", Tone::Warn),
        (Some((Verb::Restart, _)), _) => ("starting", Tone::Warn),
        (None, NodeState::Down | NodeState::Silent) if phase == Phase::Starting => ("-", Tone::Dim),
        (_, NodeState::Up) => ("up", Tone::Good),
        (_, NodeState::Leaderless) => ("no leader", Tone::Warn),
        (_, NodeState::Starting) => ("starting", Tone::Warn),
        (_, NodeState::Silent) => ("no answer", Tone::Bad),
        (_, NodeState::Paused) => ("paused", Tone::Warn),
        (_, NodeState::Down) => ("down", Tone::Bad),
    }
}
