//! The lease of a registration, kept by a session of the client.
//!
//! A registration asks three things of a session: its lease, to be told when it is lost, and its end. That it is lost some time
//! before the lease is gone does not matter here: the key is moved to another lease then, and stays.

use std::time::Duration;

use super::error::DiscoveryError;
use crate::session::{Session, StartError};
use crate::{Client, Error, Instant, LeaseId};

/// What the name of a session may have.
const NAME_BYTES_MAX: usize = 128;
/// Below this a session has to be told that little margin is left. A registration that is lost is made again, and needs none.
const TTL_WITHOUT_MARGIN: Duration = Duration::from_secs(3);

/// A lease that is renewed. Dropping it has the client end the lease.
pub(super) struct Keep {
    session: Session,
    client: Client,
}

impl Keep {
    pub(super) async fn start(client: &Client, ttl: Duration, name: &str) -> Result<Self, Error> {
        let length = (0..=name.len().min(NAME_BYTES_MAX)).rev().find(|length| name.is_char_boundary(*length));
        let mut session = client.session().ttl(ttl).name(&name[..length.unwrap_or(0)]);
        if ttl < TTL_WITHOUT_MARGIN {
            session = session.dangerously_skip_margin();
        }
        let session = Box::pin(session.start()).await.map_err(|error| match error {
            StartError::Client(error) => error,
            StartError::Lost(_) => Error::Timeout(Vec::new().into()),
            other => Error::Invalid(other.to_string()),
        })?;
        Ok(Self { session, client: client.clone() })
    }

    pub(super) fn lease(&self) -> LeaseId {
        self.session.lease_id()
    }

    /// Ends when the lease must be taken for lost.
    pub(super) async fn lost(&self) {
        let reason = self.session.lost().await;
        tracing::debug!(lease = %self.lease(), %reason, "the lease of a registration is lost");
    }

    /// Ends the lease, if that can be done by then; else it goes on being tried in the background until the lease ended by itself.
    pub(super) async fn end(self, until: Instant) -> Result<(), DiscoveryError> {
        match self.client.clock().timeout(until, self.session.close()).await {
            Ok(closed) => Ok(closed?),
            Err(_) => Err(DiscoveryError::TimedOut),
        }
    }
}
