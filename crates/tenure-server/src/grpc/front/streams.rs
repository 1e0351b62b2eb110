//! The streams that clients hold for long, many of them on a connection: watches and keepalives.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tenure_http2::{Dialogue, Farewell, Head, Line};
use tenure_proto::etcdserverpb as pb;
use tonic::Status;

use super::super::gate::Admission;
use super::super::watch::WatchService;
use super::calls::is_plain;
use super::deadline::TIMEOUT;
use super::keepalives::KeepAlives;
use super::spoken::{LeaderLost, Spoken, farewell};
use crate::node::Node;

const WATCH: &str = "/etcdserverpb.Watch/Watch";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// What serves them.
pub(in crate::grpc) struct Streams {
    node: Node,
    admission: Admission,
    watch: Arc<WatchService>,
}

/// A stream that is being served.
pub(super) enum Open {
    Refused(Box<Status>),
    Watch(Box<Spoken<pb::WatchRequest, pb::WatchResponse>>),
    KeepAlives(Box<KeepAlives>),
}

impl Streams {
    pub(in crate::grpc) fn new(node: &Node, watch: Arc<WatchService>) -> Streams {
        Streams { node: node.clone(), admission: Admission::new(&node.shared().raft), watch }
    }

    /// Begins a stream, if it is one of these and nothing about it is unusual: a deadline, for example, is for the routes.
    pub(super) fn open(&self, head: &Head) -> Option<Open> {
        let path = head.path();
        if !(path == WATCH || path == KEEP_ALIVE) || !is_plain(head) || head.get(TIMEOUT).is_some() {
            return None;
        }
        Some(self.admit(head).unwrap_or_else(|status| Open::Refused(Box::new(status))))
    }

    fn admit(&self, head: &Head) -> Result<Open, Status> {
        let insists = self.admission.admit(|name| head.get(name))?;
        let lost = LeaderLost::new(insists.then(|| self.node.shared().raft.leader_lost()));
        if head.path() == WATCH {
            let spoken = Spoken::new(lost, |requests| self.watch.messages(requests))?;
            Ok(Open::Watch(Box::new(spoken)))
        } else {
            Ok(Open::KeepAlives(Box::new(KeepAlives::new(&self.node, lost))))
        }
    }
}

impl Dialogue for Open {
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>, line: &mut dyn Line) -> Poll<Farewell> {
        match &mut *self {
            Open::Refused(status) => Poll::Ready(farewell(status)),
            Open::Watch(watch) => Pin::new(&mut **watch).poll(cx, line),
            Open::KeepAlives(keepalives) => Pin::new(&mut **keepalives).poll(cx, line),
        }
    }
}
