//! The nodes: what each says of itself, what the operating system says of it, and who leads.
//!
//! A node's own word counts only while it is fresh. One that was paused still believes that it leads when it wakes up, so
//! the leader is the one of the highest term among those that answer.

use std::time::Duration;

use crate::clock::Moment;
use crate::model::{Answer, EventLog, Kind, Process, Verb};

/// An answer older than this tells nothing any more. A few missed polls, so that a busy machine does not make rows blink.
const FRESH: Duration = Duration::from_millis(1_500);

/// How a node is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    Up,
    /// It answers but knows no leader.
    Leaderless,
    /// Its process is there and has not answered yet.
    Starting,
    /// Its process is there, has answered before, and does not now.
    Silent,
    Paused,
    Down,
}

/// One node.
#[derive(Clone, Debug)]
pub struct NodeModel {
    pub name: String,
    pub endpoint: String,
    process: Option<Process>,
    answer: Option<(Moment, Answer)>,
    has_answered: bool,
    /// Its end is the viewer's doing.
    is_ended_here: bool,
    /// The script that is at work on it, and since when.
    pub command: Option<(Verb, Moment)>,
}

impl NodeModel {
    /// Its answer, if that is fresh.
    pub fn answer(&self, now: Moment) -> Option<Answer> {
        self.answer.filter(|(at, _)| now.saturating_sub(*at) <= FRESH).map(|(_, answer)| answer)
    }

    /// How it is.
    pub fn state(&self, now: Moment) -> NodeState {
        match (self.process, self.answer(now)) {
            (Some(Process::Gone), _) => NodeState::Down,
            (Some(Process::Paused), _) => NodeState::Paused,
            (_, Some(answer)) if answer.leader == 0 => NodeState::Leaderless,
            (_, Some(_)) => NodeState::Up,
            (Some(Process::Running), None) if !self.has_answered => NodeState::Starting,
            (Some(Process::Running) | None, None) => NodeState::Silent,
        }
    }

    /// Whether it says of itself that it leads.
    pub fn claims_to_lead(&self, now: Moment) -> bool {
        self.answer(now).is_some_and(|answer| answer.leader == answer.member && answer.leader != 0)
    }
}

/// All of them.
#[derive(Clone, Debug)]
pub struct NodesModel {
    pub nodes: Vec<NodeModel>,
    pub selected: usize,
    /// Who led last, in which term.
    last_leader: Option<(usize, u64)>,
    /// Since when nobody leads.
    pub leaderless_since: Option<Moment>,
    /// How often the leader changed, the first one not counted.
    pub leader_changes: u64,
}

impl NodesModel {
    pub(crate) fn new(nodes: &[(String, String)]) -> Self {
        let fresh = |(name, endpoint): &(String, String)| NodeModel {
            name: name.clone(),
            endpoint: endpoint.clone(),
            process: None,
            answer: None,
            has_answered: false,
            is_ended_here: false,
            command: None,
        };
        Self {
            nodes: nodes.iter().map(fresh).collect(),
            selected: 0,
            last_leader: None,
            leaderless_since: None,
            leader_changes: 0,
        }
    }

    /// Who leads now.
    pub fn leader(&self) -> Option<usize> {
        self.last_leader.filter(|_| self.leaderless_since.is_none()).map(|(node, _)| node)
    }

    /// Whether every node answers and follows a leader, and no script is at work.
    pub fn all_up(&self, now: Moment) -> bool {
        self.nodes.iter().all(|node| node.state(now) == NodeState::Up && node.command.is_none())
            && self.leader().is_some()
    }

    pub(crate) fn answered(&mut self, now: Moment, node: usize, answer: Answer, events: &mut EventLog) {
        let Some(node) = self.nodes.get_mut(node) else { return };
        // A status can be under way while its node is paused or killed.
        if matches!(node.process, Some(Process::Gone | Process::Paused)) {
            return;
        }
        node.answer = Some((now, answer));
        node.has_answered = true;
        self.look_for_leader(now, events);
    }

    pub(crate) fn process_is(&mut self, now: Moment, node: usize, process: Process, events: &mut EventLog) {
        let Some(node) = self.nodes.get_mut(node) else { return };
        let before = node.process.replace(process);
        if before == Some(process) {
            return;
        }
        match process {
            Process::Running => node.is_ended_here = false,
            Process::Paused => node.answer = None,
            Process::Gone => {
                node.answer = None;
                node.has_answered = false;
                if before.is_some() && !node.is_ended_here {
                    events.add(now, Kind::Problem, format!("{} is down, and nobody here ended it", node.name));
                }
            }
        }
        self.look_for_leader(now, events);
    }

    pub(crate) fn command_began(&mut self, now: Moment, node: usize, verb: Verb) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.command = Some((verb, now));
            node.is_ended_here |= matches!(verb, Verb::Kill | Verb::Restart);
        }
    }

    pub(crate) fn command_ended(
        &mut self,
        now: Moment,
        node: usize,
        verb: Verb,
        problem: Option<&str>,
        events: &mut EventLog,
    ) {
        let Some(node) = self.nodes.get_mut(node) else { return };
        let Some((_, began)) = node.command.take_if(|(running, _)| *running == verb) else { return };
        match (problem, verb) {
            (Some(problem), _) => events.add(now, Kind::Problem, problem),
            (None, Verb::Restart) => {
                let took = now.saturating_sub(began).as_secs_f64();
                events.add(now, Kind::Node, format!("{} serves again after {took:.1} s", node.name));
            }
            (None, Verb::Kill | Verb::Pause | Verb::Resume) => {}
        }
    }

    pub(crate) fn advance(&mut self, now: Moment, events: &mut EventLog) {
        self.look_for_leader(now, events);
    }

    fn look_for_leader(&mut self, now: Moment, events: &mut EventLog) {
        let claims = self.nodes.iter().enumerate().filter(|(_, node)| node.claims_to_lead(now));
        let found = claims.filter_map(|(at, node)| node.answer(now).map(|answer| (answer.term, at))).max();
        let floor = self.last_leader.map_or(0, |(_, term)| term);
        let Some((term, at)) = found.filter(|(term, _)| *term >= floor) else {
            self.leaderless_since.get_or_insert(now);
            return;
        };
        let without = self.leaderless_since.take().map(|since| now.saturating_sub(since).as_secs_f64());
        let before = self.last_leader.replace((at, term));
        if before == Some((at, term)) {
            return;
        }
        let name = &self.nodes[at].name;
        let mut text = match before {
            None => format!("{name} leads, term {term}"),
            Some((old, _)) if old == at => format!("{name} leads again, term {term}"),
            Some((old, _)) => format!("leader {} → {name}, term {term}", self.nodes[old].name),
        };
        if before.is_some() {
            self.leader_changes += 1;
            if let Some(seconds) = without.filter(|seconds| *seconds >= 0.1) {
                text.push_str(&format!(", after {seconds:.1} s without one"));
            }
        }
        events.add(now, Kind::Leader, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> (NodesModel, EventLog) {
        let names = ["n1", "n2", "n3"].map(|name| (name.to_owned(), String::new()));
        (NodesModel::new(&names), EventLog::default())
    }

    fn answer(member: u64, leader: u64, term: u64) -> Answer {
        Answer { member, leader, term, revision: 1, applied: 1 }
    }

    fn texts(events: &EventLog) -> Vec<&str> {
        events.iter().map(|entry| entry.text.as_str()).collect()
    }

    #[test]
    fn a_leader_that_wakes_up_in_an_old_term_is_not_the_leader() {
        let (mut nodes, mut events) = three();
        let at = Duration::from_secs;
        nodes.answered(at(1), 0, answer(11, 11, 2), &mut events);
        nodes.process_is(at(2), 0, Process::Paused, &mut events);
        assert_eq!(nodes.leader(), None);
        nodes.answered(at(3), 1, answer(12, 12, 3), &mut events);
        nodes.process_is(at(4), 0, Process::Running, &mut events);
        nodes.answered(at(4), 0, answer(11, 11, 2), &mut events);
        assert_eq!(nodes.leader(), Some(1));
        assert!(nodes.nodes[0].claims_to_lead(at(4)));
        assert_eq!(texts(&events), ["n1 leads, term 2", "leader n1 → n2, term 3, after 1.0 s without one"]);
    }

    #[test]
    fn an_answer_that_was_under_way_does_not_revive_a_dead_node() {
        let (mut nodes, mut events) = three();
        nodes.process_is(Duration::ZERO, 0, Process::Running, &mut events);
        assert_eq!(nodes.nodes[0].state(Duration::ZERO), NodeState::Starting);
        nodes.process_is(Duration::ZERO, 0, Process::Gone, &mut events);
        nodes.answered(Duration::ZERO, 0, answer(11, 11, 2), &mut events);
        assert_eq!(nodes.nodes[0].state(Duration::ZERO), NodeState::Down);
        assert_eq!(nodes.leader(), None);
        assert_eq!(texts(&events), ["n1 is down, and nobody here ended it"]);
    }

    #[test]
    fn a_node_that_was_killed_here_is_no_surprise_however_late_that_is_seen() {
        let (mut nodes, mut events) = three();
        nodes.process_is(Duration::ZERO, 0, Process::Running, &mut events);
        nodes.command_began(Duration::ZERO, 0, Verb::Kill);
        nodes.command_ended(Duration::ZERO, 0, Verb::Kill, None, &mut events);
        nodes.process_is(Duration::ZERO, 0, Process::Gone, &mut events);
        assert_eq!(texts(&events), Vec::<&str>::new());
        nodes.process_is(Duration::ZERO, 0, Process::Running, &mut events);
        nodes.process_is(Duration::ZERO, 0, Process::Gone, &mut events);
        assert_eq!(texts(&events).len(), 1);
    }

    #[test]
    fn an_old_answer_tells_nothing() {
        let (mut nodes, mut events) = three();
        nodes.answered(Duration::ZERO, 0, answer(11, 11, 2), &mut events);
        let late = FRESH + Duration::from_millis(1);
        nodes.advance(late, &mut events);
        assert_eq!(nodes.nodes[0].state(late), NodeState::Silent);
        assert_eq!(nodes.leader(), None);
        nodes.answered(late, 0, answer(11, 11, 2), &mut events);
        assert_eq!(nodes.leader(), Some(0));
        assert_eq!(texts(&events), ["n1 leads, term 2"]);
    }
}
