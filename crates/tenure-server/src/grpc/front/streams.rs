//! The streams that clients hold for long, many of them on a connection, or make often: watches, keepalives, acquires of locks.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tenure_http2::{Dialogue, Farewell, Head, Line};
use tenure_proto::etcdserverpb as pb;
use tonic::Status;

use super::super::gate::Admission;
use super::super::locks::LocksService;
use super::super::watch::WatchService;
use super::acquires::Acquire;
use super::calls::is_plain;
use super::deadline::{TIMEOUT, timeout};
use super::keepalives::KeepAlives;
use super::spoken::{LeaderLost, Spoken, farewell};
use crate::node::Node;

const WATCH: &str = "/etcdserverpb.Watch/Watch";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const ACQUIRE: &str = "/tenure.v1.Locks/Acquire";

/// What serves them.
pub(in crate::grpc) struct Streams {
    node: Node,
    admission: Admission,
    watch: Arc<WatchService>,
    locks: Arc<LocksService>,
}

/// A stream that is being served.
pub(super) enum Open {
    Refused(Box<Status>),
    Watch(Box<Spoken<pb::WatchRequest, pb::WatchResponse>>),
    KeepAlives(Box<KeepAlives>),
    Acquire(Box<Acquire>),
}

impl Streams {
    pub(in crate::grpc) fn new(node: &Node, watch: Arc<WatchService>, locks: Arc<LocksService>) -> Streams {
        Streams { node: node.clone(), admission: Admission::new(&node.shared().raft), watch, locks }
    }

    /// Begins a stream, if it is one of these and nothing about it is unusual: a deadline of what is held for long, for example, is
    /// for the routes.
    pub(super) fn open(&self, head: &Head) -> Option<Open> {
        let path = head.path();
        let is_held = path == WATCH || path == KEEP_ALIVE;
        if !(is_held || path == ACQUIRE) || !is_plain(head) || (is_held && head.get(TIMEOUT).is_some()) {
            return None;
        }
        Some(self.admit(head).unwrap_or_else(|status| Open::Refused(Box::new(status))))
    }

    fn admit(&self, head: &Head) -> Result<Open, Status> {
        let insists = self.admission.admit(|name| head.get(name))?;
        let lost = LeaderLost::new(insists.then(|| self.node.shared().raft.leader_lost()));
        Ok(match head.path() {
            WATCH => Open::Watch(Box::new(Spoken::new(lost, |requests| self.watch.messages(requests))?)),
            ACQUIRE => {
                let patience = head.get(TIMEOUT).and_then(timeout);
                let deadline = patience.map(|patience| Box::pin(tokio::time::sleep(patience)));
                Open::Acquire(Box::new(Acquire::new(&self.locks, lost, deadline)))
            }
            _ => Open::KeepAlives(Box::new(KeepAlives::new(&self.node, lost))),
        })
    }
}

impl Dialogue for Open {
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>, line: &mut dyn Line) -> Poll<Farewell> {
        match &mut *self {
            Open::Refused(status) => Poll::Ready(farewell(status)),
            Open::Watch(watch) => Pin::new(&mut **watch).poll(cx, line),
            Open::KeepAlives(keepalives) => Pin::new(&mut **keepalives).poll(cx, line),
            Open::Acquire(acquire) => Pin::new(&mut **acquire).poll(cx, line),
        }
    }

    fn begins(&self, is_over: bool) -> bool {
        match self {
            Open::Refused(_) => false,
            Open::Watch(watch) => watch.begins(is_over),
            Open::KeepAlives(keepalives) => keepalives.begins(is_over),
            Open::Acquire(acquire) => acquire.begins(is_over),
        }
    }
}
