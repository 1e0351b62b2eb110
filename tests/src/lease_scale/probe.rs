//! A light, steady load of puts and linearizable reads at every member, which feels whatever stalls.
//!
//! Every request has its time, whether the one before it is answered or not, and its latency counts from that time: a
//! stall delays all requests that fall into it, as it would those of independent clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::transport::Channel;

use super::PATIENCE;
use crate::lease_check::Moment;
use crate::samples::percentile;

/// Clients of each kind at each member, and how often each has its turn: together 150 puts and as many reads a second.
const CLIENTS: u32 = 5;
const EVERY: Duration = Duration::from_millis(100);

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Put,
    Read,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub kind: Kind,
    /// When it was its turn.
    pub due: Moment,
    pub took: Duration,
    pub failed: bool,
}

/// The load at work.
pub struct Probe {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Vec<Sample>>,
}

/// What it felt.
#[derive(Clone, Debug, Default)]
pub struct Felt(Vec<Sample>);

impl Probe {
    /// Begins.
    pub fn start(channels: &[Channel]) -> Probe {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for (member, channel) in channels.iter().enumerate() {
            for number in 0..CLIENTS {
                for (kind, shift) in [(Kind::Put, Duration::ZERO), (Kind::Read, EVERY / CLIENTS / 2)] {
                    let first = Instant::now() + EVERY / CLIENTS * number + shift;
                    let key = format!("probe/{member}/{number}");
                    clients.spawn(ask(KvClient::new(channel.clone()), kind, key, first, stop.clone()));
                }
            }
        }
        Probe { stop, clients }
    }

    /// Ends, and says what was felt.
    pub async fn finish(mut self) -> Result<Felt> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        while let Some(samples) = self.clients.join_next().await {
            all.extend(samples?);
        }
        ensure!(!all.is_empty(), "the probe asked for nothing");
        Ok(Felt(all))
    }
}

async fn ask(
    mut client: KvClient<Channel>,
    kind: Kind,
    key: String,
    mut turn: Instant,
    stop: Arc<AtomicBool>,
) -> Vec<Sample> {
    let mut samples = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        sleep_until(turn).await;
        let late = turn.elapsed();
        let due = Moment::now().minus(late);
        let answered = match kind {
            Kind::Put => {
                let value = vec![b'v'; 64].into();
                let put = pb::PutRequest { key: key.clone().into(), value, ..pb::PutRequest::default() };
                timeout(PATIENCE, client.put(put)).await.is_ok_and(|answer| answer.is_ok())
            }
            Kind::Read => {
                let range = pb::RangeRequest { key: key.clone().into(), ..pb::RangeRequest::default() };
                timeout(PATIENCE, client.range(range)).await.is_ok_and(|answer| answer.is_ok())
            }
        };
        samples.push(Sample { kind, due, took: turn.elapsed(), failed: !answered });
        turn += EVERY;
    }
    samples
}

impl Felt {
    /// What was to be asked for between two moments.
    pub fn between(&self, from: Moment, to: Moment) -> Felt {
        Felt(self.0.iter().filter(|sample| (from..to).contains(&sample.due)).copied().collect())
    }

    /// Requests of one kind alone.
    pub fn of(&self, kind: Kind) -> Felt {
        Felt(self.0.iter().filter(|sample| sample.kind == kind).copied().collect())
    }

    /// How many requests there were.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// How many of them failed.
    pub fn failed(&self) -> usize {
        self.0.iter().filter(|sample| sample.failed).count()
    }

    /// The latency that this part of the requests, in percent, did not exceed.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut all: Vec<Duration> = self.0.iter().map(|sample| sample.took).collect();
        all.sort_unstable();
        percentile(&all, percent)
    }

    /// The longest that a request took.
    pub fn worst(&self) -> Duration {
        self.percentile(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_felt_is_told_by_time_and_kind() {
        let sample = |due, took, kind| Sample {
            kind,
            due: Moment::at(due),
            took: Duration::from_millis(took),
            failed: took > 90,
        };
        let all = (0..100).map(|at| sample(at, at, if at < 50 { Kind::Put } else { Kind::Read })).collect();
        let felt = Felt(all);
        assert_eq!(felt.worst(), Duration::from_millis(99));
        assert_eq!(felt.of(Kind::Put).percentile(50), Duration::from_millis(25));
        assert_eq!(felt.between(Moment::at(10), Moment::at(20)).worst(), Duration::from_millis(19));
        assert_eq!((felt.failed(), felt.of(Kind::Put).failed(), felt.count()), (9, 0, 100));
        assert_eq!(Felt::default().percentile(99), Duration::ZERO);
    }
}
