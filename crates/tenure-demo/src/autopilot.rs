//! Presses the keys when nobody is there to do it: kills the leader and lets leases run out, at intervals.
//!
//! It never makes a majority of the nodes fail: the next leader is killed only when every node follows one again.

use std::time::Duration;

use crate::clock::Moment;
use crate::model::{Model, NodeState, Phase, Verb};
use crate::session::Order;

/// A killed node stays down until another leads, and for a moment longer; or for this long if none does.
const DOWN_MIN: Duration = Duration::from_secs(1);
const DOWN_MAX: Duration = Duration::from_secs(4);

/// What to do how often.
#[derive(Clone, Copy, Debug, Default)]
pub struct Schedule {
    pub kill_leader_every: Option<Duration>,
    pub stop_renewing_every: Option<Duration>,
    pub finish_after: Option<Duration>,
}

/// A schedule, and how far it has come.
#[derive(Clone, Debug)]
pub struct Autopilot {
    schedule: Schedule,
    began: Option<Moment>,
    killed_at: Option<Moment>,
    stopped_at: Option<Moment>,
    restart: Option<(usize, Moment)>,
    has_finished: bool,
    /// How many leaders it killed.
    pub kills: u64,
}

impl Autopilot {
    /// Follows this schedule from when the load is on.
    pub fn new(schedule: Schedule) -> Self {
        Self { schedule, began: None, killed_at: None, stopped_at: None, restart: None, has_finished: false, kills: 0 }
    }

    /// What is due.
    pub fn due(&mut self, now: Moment, model: &Model) -> Vec<Order> {
        if model.phase != Phase::Running || self.has_finished {
            return Vec::new();
        }
        let began = *self.began.get_or_insert(now);
        if self.schedule.finish_after.is_some_and(|after| now >= began + after) {
            self.has_finished = true;
            return vec![Order::Finish];
        }
        let mut orders = Vec::new();
        orders.extend(self.restart_due(now, model));
        orders.extend(self.kill_due(now, began, model));
        orders.extend(self.stop_due(now, began, model));
        orders
    }

    fn kill_due(&mut self, now: Moment, began: Moment, model: &Model) -> Option<Order> {
        let last = self.killed_at.unwrap_or(began);
        self.schedule.kill_leader_every.filter(|every| now >= last + *every)?;
        let leader = model.nodes.leader().filter(|_| model.nodes.all_up(now) && self.restart.is_none())?;
        self.killed_at = Some(now);
        self.restart = Some((leader, now));
        self.kills += 1;
        Some(Order::Control(Verb::Kill, leader))
    }

    fn restart_due(&mut self, now: Moment, model: &Model) -> Option<Order> {
        let (node, killed_at) = self.restart?;
        let wait = if model.nodes.leader().is_some() { DOWN_MIN } else { DOWN_MAX };
        if now < killed_at + wait {
            return None;
        }
        // Not while the kill is still being carried out.
        let is_down = model.nodes.nodes.get(node).is_some_and(|node| node.state(now) == NodeState::Down);
        is_down.then(|| {
            self.restart = None;
            Order::Control(Verb::Restart, node)
        })
    }

    fn stop_due(&mut self, now: Moment, began: Moment, model: &Model) -> Option<Order> {
        let last = self.stopped_at.unwrap_or(began);
        self.schedule.stop_renewing_every.filter(|every| now >= last + *every)?;
        let service = model.services.next_to_stop()?;
        self.stopped_at = Some(now);
        Some(Order::StopRenewing(service))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Answer, News, Process, Setup};

    const fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    fn three_nodes() -> Model {
        let nodes = (1..=3).map(|node| (format!("n{node}"), String::new())).collect();
        Model::new(Setup { nodes, nodes_are_ours: true, services: 2, contenders: 1, writes_per_second: 1 })
    }

    fn answers(model: &mut Model, now: Moment, nodes: &[usize], leader: u64, term: u64) {
        for node in nodes {
            model.apply(now, News::ProcessIs { node: *node, process: Process::Running });
            let answer = Answer { member: *node as u64 + 1, leader, term, revision: 1, applied: 1 };
            model.apply(now, News::Answered { node: *node, answer });
        }
    }

    #[test]
    fn it_kills_leaders_one_at_a_time_and_brings_them_back() {
        let mut pilot = Autopilot::new(Schedule { kill_leader_every: Some(at(5)), ..Schedule::default() });
        let mut model = three_nodes();
        assert_eq!(pilot.due(at(0), &model), [], "nothing before the load is on");
        model.apply(at(0), News::Phase(Phase::Running));
        assert_eq!(pilot.due(at(0), &model), []);
        answers(&mut model, at(5), &[0, 1, 2], 2, 2);
        assert_eq!(pilot.due(at(5), &model), [Order::Control(Verb::Kill, 1)]);
        assert_eq!(pilot.due(at(6), &model), [], "it is not down yet");
        model.apply(at(6), News::ProcessIs { node: 1, process: Process::Gone });
        assert_eq!(pilot.due(at(6), &model), [], "nobody else leads yet");
        answers(&mut model, at(7), &[0, 2], 1, 3);
        assert_eq!(pilot.due(at(7), &model), [Order::Control(Verb::Restart, 1)]);
        answers(&mut model, at(11), &[0, 2], 1, 3);
        assert_eq!(pilot.due(at(11), &model), [], "one is still down");
        answers(&mut model, at(12), &[0, 1, 2], 1, 3);
        assert_eq!(pilot.due(at(12), &model), [Order::Control(Verb::Kill, 0)]);
        assert_eq!(pilot.kills, 2);
    }

    #[test]
    fn it_ends_in_time_and_says_so_once() {
        let mut pilot = Autopilot::new(Schedule { finish_after: Some(at(20)), ..Schedule::default() });
        let mut model = three_nodes();
        model.apply(at(3), News::Phase(Phase::Running));
        assert_eq!(pilot.due(at(3), &model), []);
        assert_eq!(pilot.due(at(22), &model), []);
        assert_eq!(pilot.due(at(23), &model), [Order::Finish]);
        assert_eq!(pilot.due(at(24), &model), []);
    }
}
