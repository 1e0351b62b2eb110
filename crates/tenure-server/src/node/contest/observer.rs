//! Who leads, now and from now on.
//!
//! An observer is told of a leader, then of every value that it proclaims, then of the next leader. While there is none it
//! is told nothing, as in etcd, whose clients take every message for a leader. Whom it is told of after that is looked up
//! then: etcd tells of the first put that it hears of, which may be of somebody who has come and gone meanwhile
//! (etcd's issue 18163).

use std::collections::VecDeque;
use std::future::pending;

use bytes::Bytes;
use futures::stream::{self, Iter};
use tenure_core::Revision;
use tenure_core::command::KeyRange;
use tenure_core::outcome::KeyValue;

use super::RETRY_PAUSE;
use super::names::Contest;
use crate::node::watch::{
    Changes, CreateWatch, Kinds, Scope, StreamLimits, WatchEvent, WatchMessage, WatchRequest, WatchSession,
};
use crate::node::{Node, ReadAnswer, RequestError};

/// What an observer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The leader's key and value.
    pub leader: KeyValue,
    /// The store's revision when it was so.
    pub revision: Revision,
}

type Following = WatchSession<Iter<std::array::IntoIter<Result<WatchRequest, RequestError>, 1>>, RequestError>;

/// See the module's header.
pub struct Observer {
    node: Node,
    name: Bytes,
    limits: StreamLimits,
    /// What is still to be told.
    told: VecDeque<Observed>,
    /// The watch of the leader's key, if there is a leader.
    following: Option<Following>,
}

impl Node {
    /// Observes an election. `limits` are those of the watches of this member.
    pub fn observe(&self, name: Bytes, limits: StreamLimits) -> Observer {
        Observer { node: self.clone(), name, limits, told: VecDeque::new(), following: None }
    }
}

impl Observer {
    /// The next that there is to tell.
    pub async fn next(&mut self) -> Result<Observed, RequestError> {
        loop {
            if let Some(observed) = self.told.pop_front() {
                return Ok(observed);
            }
            match &mut self.following {
                None => self.look().await?,
                Some(following) => {
                    let message = following.next().await.transpose()?;
                    self.take(message)?;
                }
            }
        }
    }

    /// Finds the leader, or waits until somebody contends.
    async fn look(&mut self) -> Result<(), RequestError> {
        let answer = self.node.leader_of(self.name.clone()).await;
        let ReadAnswer { result, revision } = match answer {
            // Observers outlast a time without a leader of the cluster, unless they insist on one.
            Err(RequestError::Timeout | RequestError::LeaderLost | RequestError::TooManyRequests) => {
                tokio::time::sleep(RETRY_PAUSE).await;
                return Ok(());
            }
            answer => answer?,
        };
        let Some(leader) = result else {
            let contenders = Contest::new(self.name.clone()).contenders();
            let puts = Kinds { puts: true, deletes: false };
            let changes = Changes::after(revision, &self.node.shared().watches, [(contenders, puts)]);
            changes.map_err(|_| RequestError::TooManyRequests)?.any().await;
            return Ok(());
        };
        let scope =
            Scope { range: KeyRange::One(leader.key.clone()), kinds: Kinds::ALL, prev_kv: false, fragment: false };
        let start = Revision(revision.0.saturating_add(1));
        let create = CreateWatch { id: None, start, scope, progress_notify: false };
        let requests = stream::iter([Ok(WatchRequest::Create(create))]);
        self.following = Some(self.node.watch(requests, pending(), self.limits)?);
        self.told.push_back(Observed { leader, revision });
        Ok(())
    }

    /// Takes what was heard of the leader's key.
    fn take(&mut self, message: Option<WatchMessage>) -> Result<(), RequestError> {
        match message {
            Some(WatchMessage::Events { revision, events, .. }) => {
                for WatchEvent { event, .. } in events {
                    if event.meta.is_tombstone() {
                        self.following = None;
                        return Ok(());
                    }
                    let leader = KeyValue::of(event.key, &event.meta, event.value);
                    self.told.push_back(Observed { leader, revision });
                }
                Ok(())
            }
            Some(WatchMessage::Created { .. } | WatchMessage::Progress { .. }) => Ok(()),
            Some(WatchMessage::Refused { .. }) => Err(RequestError::TooManyRequests),
            // What it missed is compacted, or too large to be told: the present is what counts.
            Some(WatchMessage::Compacted { .. } | WatchMessage::Failed { .. } | WatchMessage::Canceled { .. })
            | None => {
                self.following = None;
                Ok(())
            }
        }
    }
}
