//! The task that keeps the connection to one endpoint: dials, asks how it does, dials again.

use std::sync::Arc;

use super::dial::{Probe, dial, probe};
use super::endpoint::{Alarm, Connection, Endpoint, Phase};
use super::health::{Outcome, backoff};
use super::links::Shared;

/// Keeps an endpoint until it is removed.
pub(super) async fn keep(endpoint: Arc<Endpoint>, shared: Arc<Shared>) {
    let removed = endpoint.removed.clone();
    removed.run_until_cancelled(Keeper { endpoint, shared, failures: 0, connections: 0 }.run()).await;
}

struct Keeper {
    endpoint: Arc<Endpoint>,
    shared: Arc<Shared>,
    /// In a row.
    failures: u32,
    connections: u64,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            match self.connect().await {
                Ok(connection) => {
                    let reason = self.attend(connection).await;
                    tracing::info!(endpoint = self.endpoint.shown, reason, "lost an endpoint");
                    // A connection that held is made again at once: its member may only have been restarted. One that breaks
                    // again and again is not.
                    let has_held = self.failures == 0;
                    self.failures = self.failures.saturating_add(1);
                    self.enter(Phase::Down { reason });
                    if has_held {
                        continue;
                    }
                }
                Err(reason) => {
                    tracing::debug!(endpoint = self.endpoint.shown, reason, "did not reach an endpoint");
                    self.failures = self.failures.saturating_add(1);
                    self.enter(Phase::Down { reason });
                }
            }
            self.pause().await;
        }
    }

    fn enter(&self, phase: Phase) {
        self.endpoint.enter(phase);
        self.shared.announce();
    }

    async fn pause(&self) {
        let span = backoff(self.shared.backoff, self.failures, self.shared.clock.random());
        self.shared.clock.sleep(span).await;
    }

    async fn connect(&mut self) -> Result<Connection, String> {
        let shared = self.shared.clone();
        let at = shared.clock.now() + shared.dial_timeout;
        let dialled = shared.clock.timeout(at, async {
            let channel = dial(&self.endpoint.address, shared.connector.clone(), shared.tls.as_ref()).await?;
            let probe = probe(channel.clone()).await?;
            Ok::<_, String>((channel, probe))
        });
        let (channel, probe) = match dialled.await {
            Ok(dialled) => dialled?,
            Err(_) => return Err(format!("no answer within {:?}", shared.dial_timeout)),
        };
        self.connections += 1;
        let connection = Connection { channel, number: self.connections };
        self.learn(probe);
        self.endpoint.revived();
        self.enter(Phase::Ready(connection.clone()));
        tracing::info!(endpoint = self.endpoint.shown, member = %probe.member, "reached an endpoint");
        Ok(connection)
    }

    /// Looks after a connection until it is given up, and says why that is.
    async fn attend(&mut self, connection: Connection) -> String {
        loop {
            let shared = self.shared.clone();
            let alarm = tokio::select! {
                alarm = self.endpoint.alarmed(connection.number) => Some(alarm),
                () = shared.clock.sleep(shared.clock.jittered(shared.probe_interval, 0.2)) => None,
            };
            match alarm {
                Some(Alarm::Broken) => return "the connection broke".to_owned(),
                Some(Alarm::Tripped) => {
                    // Its circuit is open: it is left alone for a while, and closed again by the answer to a probe.
                    self.failures = self.failures.saturating_add(1);
                    self.shared.announce();
                    self.pause().await;
                }
                Some(Alarm::Suspect) | None => {}
            }
            let started = shared.clock.now();
            match shared.clock.timeout(started + shared.dial_timeout, probe(connection.channel.clone())).await {
                Ok(Ok(probe)) => {
                    self.learn(probe);
                    let latency = shared.clock.now() - started;
                    if alarm.is_none() {
                        self.failures = 0;
                        self.endpoint.note(connection.number, Outcome::Answered(latency), shared.clock.now());
                    }
                    self.endpoint.revived();
                    self.enter(Phase::Ready(connection.clone()));
                }
                Ok(Err(reason)) => return reason,
                Err(_) => {
                    self.failures = self.failures.saturating_add(1);
                    return format!("no answer within {:?}", shared.dial_timeout);
                }
            }
        }
    }

    fn learn(&self, probe: Probe) {
        self.endpoint.is_member(probe.member);
        self.shared.learn(&self.endpoint, probe);
    }
}
