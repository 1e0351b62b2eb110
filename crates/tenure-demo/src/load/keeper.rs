//! Keeps leases alive over one stream, and moves to another node's when that one fails or falls silent.

use std::collections::BTreeMap;
use std::time::Duration;

use tenure_proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::clock::Clock;
use crate::limits::{CONTROL_QUEUE, PAUSE_AFTER_FAILURE, STREAM_QUEUE, STREAM_SILENCE_MAX};
use crate::load::renewals::{LeaseTerms, Renewals};
use crate::store::Store;

/// How often it looks for leases that want renewing: much finer than the time to live.
const LOOK_EVERY: Duration = Duration::from_millis(50);

enum Order {
    Keep(i64, watch::Sender<LeaseTerms>),
    Stop(i64),
}

/// The way to a keeper's loop. Dropping all of them ends it, and leaves its leases to their end.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    orders: mpsc::Sender<Order>,
}

impl Keeper {
    /// A keeper whose first stream goes to `node`, and the loop that its owner must run.
    pub(crate) fn new(store: Store, clock: Clock, node: usize) -> (Self, impl Future<Output = ()>) {
        let (orders, taken) = mpsc::channel(CONTROL_QUEUE);
        (Self { orders }, keeper_loop(store, clock, node, taken))
    }

    /// Renews this lease from now on; what becomes of it can be read from the answer.
    pub(crate) async fn keep(&self, lease: i64, terms: LeaseTerms) -> watch::Receiver<LeaseTerms> {
        let (told, tells) = watch::channel(terms);
        // A loop that has ended drops the sender, which the receiver notices.
        self.orders.send(Order::Keep(lease, told)).await.ok();
        tells
    }

    /// Leaves this lease to its end.
    pub(crate) async fn stop(&self, lease: i64) {
        self.orders.send(Order::Stop(lease)).await.ok();
    }
}

struct State {
    clock: Clock,
    renewals: Renewals,
    told: BTreeMap<i64, watch::Sender<LeaseTerms>>,
}

async fn keeper_loop(store: Store, clock: Clock, mut node: usize, mut orders: mpsc::Receiver<Order>) {
    let mut state = State { clock, renewals: Renewals::default(), told: BTreeMap::new() };
    loop {
        state.reopened();
        let (requests, outgoing) = mpsc::channel(STREAM_QUEUE);
        if !state.wait_until_due(&requests, &mut orders).await {
            return;
        }
        match open(&store, node, outgoing).await {
            Ok(mut responses) => {
                if !state.serve(&requests, &mut responses, &mut orders).await {
                    return;
                }
            }
            Err(_) => sleep(PAUSE_AFTER_FAILURE).await,
        }
        node = store.other(node);
    }
}

/// A server may say nothing at all, not even that the stream is open, before it was asked something: `outgoing` holds
/// the first requests.
async fn open(
    store: &Store,
    node: usize,
    outgoing: mpsc::Receiver<LeaseKeepAliveRequest>,
) -> Result<Streaming<LeaseKeepAliveResponse>, Status> {
    let mut client = store.lease(node);
    let opening = client.lease_keep_alive(ReceiverStream::new(outgoing));
    let late = |_| Status::deadline_exceeded("the stream was not opened in time");
    Ok(timeout(STREAM_SILENCE_MAX, opening).await.map_err(late)??.into_inner())
}

impl State {
    fn reopened(&mut self) {
        self.renewals.reopened();
        self.told.retain(|lease, _| self.renewals.terms(*lease).is_some());
    }

    /// Waits until something is to be renewed, and queues it; answers false when nobody gives orders any more.
    async fn wait_until_due(
        &mut self,
        requests: &mpsc::Sender<LeaseKeepAliveRequest>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> bool {
        let mut looks = looks();
        while !self.send(requests) {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return false,
                },
                _ = looks.tick() => {}
            }
        }
        true
    }

    /// Renews over this stream until it is of no use any more; answers false when nobody gives orders any more.
    async fn serve(
        &mut self,
        requests: &mpsc::Sender<LeaseKeepAliveRequest>,
        responses: &mut Streaming<LeaseKeepAliveResponse>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> bool {
        let mut looks = looks();
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return false,
                },
                response = responses.message() => match response {
                    Ok(Some(response)) => self.hear(&response),
                    Ok(None) | Err(_) => return true,
                },
                _ = looks.tick() => {
                    if self.renewals.is_unheard(self.clock.now()) {
                        return true;
                    }
                    self.send(requests);
                }
            }
        }
    }

    /// Queues what is due; answers whether anything was.
    fn send(&mut self, requests: &mpsc::Sender<LeaseKeepAliveRequest>) -> bool {
        let due = self.renewals.due(self.clock.now());
        for lease in &due {
            if requests.try_send(LeaseKeepAliveRequest { id: *lease }).is_err() {
                // The queue is full: it is sent at the next look.
                self.renewals.unsent(*lease);
            }
            if let (Some(told), Some(terms)) = (self.told.get(lease), self.renewals.terms(*lease)) {
                told.send_replace(terms);
            }
        }
        !due.is_empty()
    }

    fn hear(&mut self, response: &LeaseKeepAliveResponse) {
        let ttl = Duration::from_secs(u64::try_from(response.ttl).unwrap_or(0));
        let Some(terms) = self.renewals.answered(self.clock.now(), response.id, ttl) else { return };
        if let Some(told) = self.told.get(&response.id) {
            told.send_replace(terms);
        }
        if self.renewals.terms(response.id).is_none() {
            self.told.remove(&response.id);
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Keep(lease, told) => {
                self.renewals.keep(lease, *told.borrow());
                self.told.insert(lease, told);
            }
            Order::Stop(lease) => {
                self.renewals.stop(lease);
                if self.renewals.terms(lease).is_none() {
                    self.told.remove(&lease);
                }
            }
        }
    }
}

fn looks() -> Interval {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}
