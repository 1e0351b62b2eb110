//! Services that register: a lease, a key attached to it, renewals for ever. One group shares a keeper.
//!
//! A service that is told to stop renewing waits for the end of its lease like everybody else: a watch sees its key go.
//! Some time later it registers again, with a new lease.

use std::collections::BTreeMap;
use std::time::Duration;

use tenure_proto::etcdserverpb::PutRequest;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::Code;

use crate::clock::Moment;
use crate::ledger::LeaseRecord;
use crate::limits::{ENDED_MAX, PAUSE_AFTER_FAILURE, SERVICE_AWAY};
use crate::load::keeper::Keeper;
use crate::load::observer::Ended;
use crate::load::{LeaseTerms, Shared};
use crate::model::{News, ServicesModel};
use crate::store::key;

/// How often a group looks at what its keeper knows.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Registrations of one group at a time.
const REGISTERING_MAX: usize = 8;

/// Where a service stands.
#[derive(Clone, Copy, Debug)]
enum Standing {
    Away { until: Moment },
    Registering,
    Registered { lease: i64, shown: Moment },
}

/// Some of the services.
#[derive(Debug)]
pub(crate) struct Group {
    shared: Shared,
    node: usize,
    ttl_secs: i64,
    standings: BTreeMap<usize, Standing>,
}

impl Group {
    /// The services with these numbers, to be registered at `node` first.
    pub(crate) fn new(shared: Shared, node: usize, ttl_secs: i64, members: Vec<usize>) -> Self {
        let away = |service| (service, Standing::Away { until: Moment::ZERO });
        Self { shared, node, ttl_secs, standings: members.into_iter().map(away).collect() }
    }

    /// Registers and renews until it is cut off.
    pub(crate) async fn run(mut self, mut stops: mpsc::Receiver<usize>, mut endings: mpsc::Receiver<Ended>) {
        let (keeper, keeping) = Keeper::new(self.shared.store.clone(), self.shared.clock, self.node);
        let mut registrations: JoinSet<(usize, i64)> = JoinSet::new();
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let work = async {
            loop {
                tokio::select! {
                    Some(service) = stops.recv() => self.stop_renewing(service, &keeper).await,
                    Some(ended) = endings.recv() => self.ended(ended.lease, ended.seen),
                    Some(registered) = registrations.join_next() => match registered {
                        Ok((service, lease)) => {
                            self.standings.insert(service, Standing::Registered { lease, shown: Moment::ZERO });
                        }
                        Err(error) => std::panic::resume_unwind(error.into_panic()),
                    },
                    _ = looks.tick() => {
                        self.look();
                        self.register(&keeper, &mut registrations);
                    }
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = keeping => {}
        }
    }

    fn register(&mut self, keeper: &Keeper, registrations: &mut JoinSet<(usize, i64)>) {
        let now = self.shared.clock.now();
        for (service, standing) in &mut self.standings {
            let is_due = matches!(standing, Standing::Away { until } if *until <= now);
            if !is_due || registrations.len() >= REGISTERING_MAX || self.shared.ledger.leases().len() >= ENDED_MAX {
                continue;
            }
            *standing = Standing::Registering;
            registrations.spawn(register(self.shared.clone(), keeper.clone(), *service, self.node, self.ttl_secs));
        }
    }

    /// Tells what the keeper has learnt.
    fn look(&mut self) {
        let mut gone = Vec::new();
        let leases = self.shared.ledger.leases();
        for (service, standing) in &mut self.standings {
            let Standing::Registered { lease, shown } = standing else { continue };
            let Some(record) = leases.get(lease) else { continue };
            let terms = *record.terms.borrow();
            if let Some(seen) = terms.gone {
                gone.push((*lease, seen));
            } else if terms.sent != *shown {
                *shown = terms.sent;
                self.shared.teller.tell(News::LeaseRenewed { service: *service, sent: terms.sent, ttl: terms.ttl });
            }
        }
        drop(leases);
        for (lease, seen) in gone {
            self.ended(lease, seen);
        }
    }

    async fn stop_renewing(&mut self, service: usize, keeper: &Keeper) {
        let Some(Standing::Registered { lease, .. }) = self.standings.get(&service).copied() else { return };
        if !self.note_stop(lease) {
            return;
        }
        keeper.stop(lease).await;
        self.look();
        self.shared.teller.tell(News::LeaseStopped { service });
    }

    /// Answers false if the lease does not live, or is not renewed already.
    fn note_stop(&self, lease: i64) -> bool {
        let mut leases = self.shared.ledger.leases();
        let living = leases.get_mut(&lease).filter(|record| record.stopped.is_none() && record.ended.is_none());
        living.is_some_and(|record| record.stopped.replace(self.shared.clock.now()).is_none())
    }

    fn ended(&mut self, lease: i64, seen: Moment) {
        let mut leases = self.shared.ledger.leases();
        let Some(record) = leases.get_mut(&lease).filter(|record| record.ended.is_none()) else { return };
        let service = record.service;
        let Some(standing) = self.standings.get_mut(&service) else { return };
        record.ended = Some(seen);
        let overdue_from = record.terms.borrow().overdue_from();
        *standing = Standing::Away { until: seen + SERVICE_AWAY };
        self.shared.teller.tell(News::LeaseEnded { service, seen, overdue_from });
    }
}

/// Registers one service, however long that takes. The lease is renewed from the moment that it is granted.
async fn register(shared: Shared, keeper: Keeper, service: usize, mut node: usize, ttl_secs: i64) -> (usize, i64) {
    let name = ServicesModel::name(service);
    let path = shared.names.service(&name);
    loop {
        let sent = shared.clock.now();
        let Ok(grant) = shared.store.grant(node, ttl_secs).await else {
            node = shared.store.other(node);
            sleep(PAUSE_AFTER_FAILURE).await;
            continue;
        };
        let ttl = Duration::from_secs(u64::try_from(grant.ttl).unwrap_or(0));
        let terms = keeper.keep(grant.id, LeaseTerms::granted(sent, ttl)).await;
        let record = LeaseRecord {
            service,
            key: path.clone(),
            terms: terms.clone(),
            registered: false,
            stopped: None,
            ended: None,
        };
        shared.ledger.leases().insert(grant.id, record);
        if put_until_done(&shared, &mut node, &path, &name, grant.id).await {
            if let Some(record) = shared.ledger.leases().get_mut(&grant.id) {
                record.registered = true;
            }
            shared.teller.tell(News::LeaseGranted { service, sent, ttl });
            return (service, grant.id);
        }
        if let Some(record) = shared.ledger.leases().get_mut(&grant.id) {
            record.ended = Some(shared.clock.now());
        }
    }
}

/// Writes the service's key; answers false if the lease ended before that.
async fn put_until_done(shared: &Shared, node: &mut usize, path: &str, name: &str, lease: i64) -> bool {
    loop {
        let request = PutRequest { key: key(path), value: key(name), lease, ..PutRequest::default() };
        match shared.store.put(*node, request).await {
            Ok(_) => return true,
            Err(status) if status.code() == Code::NotFound => return false,
            Err(_) => {
                *node = shared.store.other(*node);
                sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
}
