//! `watch-catch-up`: watchers that begin in the past, and how fast they come to the present. An operation is one watcher.

use std::rc::Rc;

use tenure_proto::etcdserverpb as pb;

use super::RANGE;
use super::fill::Filling;
use super::watching::{judge, open};
use crate::caller::Caller;
use crate::drive::{Client, Scope};
use crate::failure::{Error, Failure};
use crate::histogram::rounded;
use crate::keys::{Keys, Values};
use crate::recorder::float;
use crate::report::Report;
use crate::target::within;

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct WatchCatchUp {
    pub keys: Keys,
    pub value_bytes: usize,
    /// How many revisions are written beforehand. Nobody else may write meanwhile.
    pub history: u64,
}

struct Latecomer {
    caller: Caller,
    watch: pb::WatchCreateRequest,
    events: u64,
}

impl WatchCatchUp {
    pub(crate) async fn run(&self, scope: &Rc<Scope>) -> Result<Report, Error> {
        let now: pb::RangeResponse = {
            let request = pb::RangeRequest { key: self.keys.at(0), ..pb::RangeRequest::default() };
            let asked = within(scope.settings.patience, scope.caller(0).call(RANGE, &request)).await;
            asked.map_err(Error::preparing("asking for the revision"))?
        };
        let start_revision = now.header.map_or(0, |header| header.revision) + 1;
        let values = Values::new(self.value_bytes, true);
        Filling::revisions(&self.keys, &values, self.history).run(scope).await?;
        let watch = pb::WatchCreateRequest {
            key: self.keys.prefix_start(),
            range_end: self.keys.prefix_end(),
            start_revision,
            ..pb::WatchCreateRequest::default()
        };
        let client = |at| Latecomer { caller: scope.caller(at), watch: watch.clone(), events: self.history };
        let clients = (0..scope.settings.clients).map(client).collect();
        let (mut report, _) = scope.measure("watch-catch-up", clients).await;
        let events = float(report.operations * self.history);
        report.figures.insert("events", events);
        report.figures.insert("events_per_s", rounded(events / report.seconds.max(1e-9)));
        Ok(report)
    }
}

impl Client for Latecomer {
    async fn operate(&mut self, _number: u64) -> Result<(), Failure> {
        let (_requests, mut answers) = open(&self.caller, vec![self.watch.clone()]).await?;
        let mut seen = 0;
        while seen < self.events {
            let answer = answers.next::<pb::WatchResponse>().await?;
            let answer = answer.ok_or_else(|| Failure::answer("a watch stream has ended"))?;
            judge(&answer)?;
            seen += answer.events.len() as u64;
        }
        Ok(())
    }
}
