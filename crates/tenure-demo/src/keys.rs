//! What the keys mean: a pure function from a key and the model to an order, or to words for the event list.

use crate::clock::Moment;
use crate::model::{Model, NodeState, Phase, Verb};
use crate::session::Order;

/// What a key comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pressed {
    Order(Order),
    Select(usize),
    /// It cannot be done, and this is why.
    Refused(String),
    Nothing,
}

/// What this key means now.
pub fn pressed(key: char, model: &Model, now: Moment) -> Pressed {
    if model.phase != Phase::Running {
        return Pressed::Nothing;
    }
    match key {
        'q' => Pressed::Order(Order::Finish),
        'w' => match model.services.next_to_stop() {
            Some(service) => Pressed::Order(Order::StopRenewing(service)),
            None => Pressed::Refused("no service has a lease that it could stop renewing".to_owned()),
        },
        '1'..='9' => select(key, model),
        'k' => control(Verb::Kill, model.nodes.selected, model, now),
        'K' => match model.nodes.leader() {
            Some(leader) => control(Verb::Kill, leader, model, now),
            None => Pressed::Refused("there is no leader to kill".to_owned()),
        },
        'p' => {
            let is_paused = state(model, model.nodes.selected, now) == Some(NodeState::Paused);
            control(if is_paused { Verb::Resume } else { Verb::Pause }, model.nodes.selected, model, now)
        }
        'r' => control(Verb::Restart, model.nodes.selected, model, now),
        _ => Pressed::Nothing,
    }
}

fn select(key: char, model: &Model) -> Pressed {
    let number = key.to_digit(10).and_then(|digit| usize::try_from(digit).ok()).unwrap_or(0);
    if (1..=model.nodes.nodes.len()).contains(&number) { Pressed::Select(number - 1) } else { Pressed::Nothing }
}

fn state(model: &Model, node: usize, now: Moment) -> Option<NodeState> {
    model.nodes.nodes.get(node).map(|node| node.state(now))
}

fn control(verb: Verb, at: usize, model: &Model, now: Moment) -> Pressed {
    if !model.setup.nodes_are_ours {
        return Pressed::Refused("these nodes are not the demo's own: it leaves them alone".to_owned());
    }
    let Some(node) = model.nodes.nodes.get(at) else { return Pressed::Nothing };
    let is_down = node.state(now) == NodeState::Down;
    match verb {
        Verb::Kill | Verb::Pause | Verb::Resume if is_down => Pressed::Refused(format!("{} is down", node.name)),
        Verb::Restart if matches!(node.command, Some((Verb::Restart, _))) => {
            Pressed::Refused(format!("{} is being started already", node.name))
        }
        _ => Pressed::Order(Order::Control(verb, at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Answer, News, Process, Setup};

    fn model(ours: bool) -> Model {
        let nodes = (1..=3).map(|node| (format!("n{node}"), String::new())).collect();
        let setup = Setup { nodes, nodes_are_ours: ours, services: 1, contenders: 1, writes_per_second: 1 };
        let mut model = Model::new(setup);
        model.apply(Moment::ZERO, News::Phase(Phase::Running));
        for node in 0..3 {
            model.apply(Moment::ZERO, News::ProcessIs { node, process: Process::Running });
        }
        model
    }

    fn press(key: char, model: &Model) -> Pressed {
        pressed(key, model, Moment::ZERO)
    }

    #[test]
    fn keys_act_on_the_selected_node() {
        let mut model = model(true);
        assert_eq!(press('2', &model), Pressed::Select(1));
        assert_eq!(press('4', &model), Pressed::Nothing);
        model.nodes.selected = 1;
        assert_eq!(press('k', &model), Pressed::Order(Order::Control(Verb::Kill, 1)));
        assert_eq!(press('p', &model), Pressed::Order(Order::Control(Verb::Pause, 1)));
        model.apply(Moment::ZERO, News::ProcessIs { node: 1, process: Process::Paused });
        assert_eq!(press('p', &model), Pressed::Order(Order::Control(Verb::Resume, 1)));
        model.apply(Moment::ZERO, News::ProcessIs { node: 1, process: Process::Gone });
        assert_eq!(press('k', &model), Pressed::Refused("n2 is down".to_owned()));
        assert_eq!(press('r', &model), Pressed::Order(Order::Control(Verb::Restart, 1)));
    }

    #[test]
    fn the_leader_is_killed_if_there_is_one() {
        let mut model = model(true);
        assert!(matches!(press('K', &model), Pressed::Refused(_)));
        let answer = Answer { member: 3, leader: 3, term: 2, revision: 1, applied: 1 };
        model.apply(Moment::ZERO, News::Answered { node: 2, answer });
        assert_eq!(press('K', &model), Pressed::Order(Order::Control(Verb::Kill, 2)));
    }

    #[test]
    fn other_peoples_nodes_are_left_alone_and_nothing_happens_outside_the_run() {
        let mut model = model(false);
        assert!(matches!(press('k', &model), Pressed::Refused(_)));
        model.apply(Moment::ZERO, News::Phase(Phase::Checking));
        assert_eq!(press('q', &model), Pressed::Nothing);
    }
}
