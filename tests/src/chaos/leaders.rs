//! Who leads, in which term, as the members themselves say when they are asked; and whether two ever led in one term.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenure_history::NodeId;
use tenure_history::report::LeaderSeen;
use tenure_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tenure_proto::etcdserverpb::{StatusRequest, StatusResponse};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use tenure_workload::connect::socket;
use tenure_workload::recorder::Recorder;

const ASK_EVERY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_millis(300);

/// What members say of their leader; asks for as long as it lives.
#[derive(Debug)]
pub struct Leaders {
    told: Arc<Mutex<Told>>,
    _askers: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Told {
    /// For each member its term, if it says that it leads.
    leads: Vec<Option<u64>>,
    seen: Vec<LeaderSeen>,
    /// Who led in which term.
    by_term: BTreeMap<u64, usize>,
    twice: Vec<String>,
}

impl Leaders {
    /// Begins to ask.
    pub fn ask(endpoints: &[String], recorder: &Arc<Recorder>) -> Leaders {
        let told = Arc::new(Mutex::new(Told { leads: vec![None; endpoints.len()], ..Told::default() }));
        let mut askers = JoinSet::new();
        for (at, endpoint) in endpoints.iter().enumerate() {
            askers.spawn(ask(at, endpoint.clone(), told.clone(), recorder.clone()));
        }
        Leaders { told, _askers: askers }
    }

    /// Who leads at the moment, if anybody says so.
    pub fn leader(&self) -> Option<usize> {
        lock(&self.told).leader().map(|(at, _)| at)
    }

    /// Every change so far.
    pub fn seen(&self) -> Vec<LeaderSeen> {
        lock(&self.told).seen.clone()
    }

    /// Terms with two leaders: there must be none.
    pub fn twice(&self) -> Vec<String> {
        lock(&self.told).twice.clone()
    }
}

impl Told {
    fn leader(&self) -> Option<(usize, u64)> {
        let leads = self.leads.iter().enumerate().filter_map(|(at, term)| Some((at, (*term)?)));
        leads.max_by_key(|(_, term)| *term)
    }

    /// Notes what a member says: the term that it leads in, or that it does not.
    fn note(&mut self, at: usize, term: Option<u64>, now: tenure_history::Moment) {
        let before = std::mem::replace(&mut self.leads[at], term);
        // Term and leader are read one after the other, so an answer can mix two terms; two answers in a row do not.
        if let Some(term) = term.filter(|_| before == term) {
            let first = *self.by_term.entry(term).or_insert(at);
            if first != at {
                self.twice.push(format!("members {} and {} both led in term {term}", first + 1, at + 1));
            }
        }
        let leader = self.leader();
        let node = leader.and_then(|(at, _)| u32::try_from(at).ok()).map(NodeId);
        let last = self.seen.last();
        let term = leader.map_or(last.map_or(0, |last| last.term), |(_, term)| term);
        if last.is_none_or(|last| (last.node, last.term) != (node, term)) {
            self.seen.push(LeaderSeen { at: now, node, term });
        }
    }
}

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask(at: usize, endpoint: String, told: Arc<Mutex<Told>>, recorder: Arc<Recorder>) {
    let mut client = MaintenanceClient::new(socket(&endpoint));
    loop {
        let term = match timeout(PATIENCE, client.status(StatusRequest {})).await {
            Ok(Ok(answer)) => leads(&answer.into_inner()),
            Ok(Err(_)) | Err(_) => None,
        };
        lock(&told).note(at, term, recorder.now());
        sleep(ASK_EVERY).await;
    }
}

/// The term, if the member that says this leads.
fn leads(status: &StatusResponse) -> Option<u64> {
    let header = status.header.as_ref()?;
    (status.leader != 0 && status.leader == header.member_id).then_some(status.raft_term)
}

#[cfg(test)]
mod tests {
    use tenure_history::Moment;

    use super::*;

    #[test]
    fn changes_are_noted_once_and_two_leaders_of_one_term_are_found() {
        let mut told = Told { leads: vec![None; 3], ..Told::default() };
        let says = [
            (0, Some(2)),
            (0, Some(2)),
            (1, None),
            (1, Some(3)),
            (1, Some(3)),
            (0, Some(3)),
            (0, None),
            (1, None),
            (2, Some(3)),
            (2, Some(3)),
        ];
        for (place, (at, term)) in (0..).zip(says) {
            told.note(at, term, Moment(place));
        }
        let seen: Vec<_> = told.seen.iter().map(|seen| (seen.at.0, seen.node.map(|node| node.0), seen.term)).collect();
        assert_eq!(seen, [(0, Some(0), 2), (3, Some(1), 3), (7, None, 3), (8, Some(2), 3)]);
        assert_eq!(told.twice, ["members 2 and 3 both led in term 3"]);
    }
}
