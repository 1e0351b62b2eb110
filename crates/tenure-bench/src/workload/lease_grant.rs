//! `lease-grant`: leases that are granted and left to themselves.

use std::rc::Rc;
use std::time::Duration;

use super::leases::grant;
use crate::caller::Caller;
use crate::drive::{Client, Scope};
use crate::failure::{Error, Failure};
use crate::report::Report;

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct LeaseGrant {
    /// They are not revoked: after this they are gone.
    pub ttl: Duration,
}

struct Granter {
    caller: Caller,
    ttl: Duration,
}

impl LeaseGrant {
    pub(crate) async fn run(&self, scope: &Rc<Scope>) -> Result<Report, Error> {
        let client = |at| Granter { caller: scope.caller(at), ttl: self.ttl };
        Ok(scope.measure("lease-grant", (0..scope.settings.clients).map(client).collect()).await.0)
    }
}

impl Client for Granter {
    async fn operate(&mut self, _number: u64) -> Result<(), Failure> {
        grant(&self.caller, self.ttl).await.map(|_| ())
    }
}
