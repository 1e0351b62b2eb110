//! One client of a lock: its connection, its lease, and how it asks.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tenure_proto::tenure::v1;
use tenure_proto::tenure::v1::lock_acquire_response::State;
use tenure_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};

use crate::binaries::Program;
use tenure_bench::{Answers, Caller};

/// By which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// etcd's, at either program.
    Etcd,
    /// Tenure's own.
    Native,
}

/// What is compared: a program, and the service that its clients use.
pub const CONTESTANTS: [(Program, Service); 3] =
    [(Program::Etcd, Service::Etcd), (Program::Tenured, Service::Native), (Program::Tenured, Service::Etcd)];

/// A client, which has one request at a time.
pub struct Seat {
    caller: Caller,
    service: Service,
    name: Bytes,
    lease: i64,
    /// Of native requests.
    number: u64,
}

/// A lock that is held: what releases it.
pub struct Held {
    key: Bytes,
    token: i64,
}

/// A native request under way.
pub struct Pending(Answers);

impl Service {
    /// For a line of figures.
    pub fn label(self) -> &'static str {
        match self {
            Service::Etcd => "v3lock",
            Service::Native => "native",
        }
    }
}

impl Seat {
    /// A client of a lock that has asked for nothing yet.
    pub fn new(caller: Caller, service: Service, name: String, lease: i64) -> Seat {
        Seat { caller, service, name: name.into(), lease, number: 0 }
    }

    /// The same for a lease whose requests up to that number are finished.
    pub fn numbered_from(self, number: u64) -> Seat {
        Seat { number, ..self }
    }

    /// Takes the lock, however long that lasts.
    pub async fn lock(&mut self) -> Result<Held> {
        match self.service {
            Service::Etcd => {
                let request = LockRequest { name: self.name.clone(), lease: self.lease };
                let answer: LockResponse = self.caller.call("/v3lockpb.Lock/Lock", &request).await?;
                Ok(Held { key: answer.key, token: 0 })
            }
            Service::Native => self.ask().await?.granted().await,
        }
    }

    /// Asks for the lock by Tenure's own service, and does not wait for it.
    pub async fn ask(&mut self) -> Result<Pending> {
        self.number += 1;
        let request = v1::LockRequest { lease: self.lease, number: self.number, lowest_open: self.number, attach: 1 };
        let request = v1::LockAcquireRequest {
            name: self.name.clone(),
            request: Some(request),
            ..v1::LockAcquireRequest::default()
        };
        Ok(Pending(self.caller.open("/tenure.v1.Locks/Acquire", &request).await?))
    }

    /// Lets go.
    pub async fn unlock(&mut self, held: Held) -> Result<()> {
        match self.service {
            Service::Etcd => {
                let request = UnlockRequest { key: held.key };
                self.caller.call::<UnlockResponse>("/v3lockpb.Lock/Unlock", &request).await?;
            }
            Service::Native => {
                let request = v1::LockReleaseRequest {
                    name: self.name.clone(),
                    lease: self.lease,
                    token: held.token,
                    number: self.number,
                };
                let answer: v1::LockReleaseResponse = self.caller.call("/tenure.v1.Locks/Release", &request).await?;
                ensure!(answer.released, "a lock was not held when it was released");
            }
        }
        Ok(())
    }
}

impl Pending {
    /// Waits until the request is in the queue. Says whether it holds the lock already.
    pub async fn queued(&mut self) -> Result<Option<Held>> {
        match self.0.next::<v1::LockAcquireResponse>().await?.and_then(|answer| answer.state) {
            Some(State::Waiting(_)) => Ok(None),
            Some(State::Granted(granted)) => Ok(Some(Held { key: granted.key, token: granted.token })),
            other => anyhow::bail!("an Acquire was answered by {other:?}"),
        }
    }

    /// Waits until it holds the lock, and for the end of the call.
    pub async fn granted(mut self) -> Result<Held> {
        loop {
            if let Some(held) = self.queued().await? {
                let more = self.0.end().await.context("after a grant")?;
                ensure!(more == 0, "something follows a grant");
                return Ok(held);
            }
        }
    }
}
