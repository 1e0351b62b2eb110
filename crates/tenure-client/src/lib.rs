//! The client library of Tenure, a coordination store that speaks etcd's v3 API and its own.
//!
//! ```no_run
//! use std::time::Duration;
//! use tenure_client::{Client, Compare, ConnectOptions, KeyRange, kv};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(["a:2379", "b:2379", "c:2379"], ConnectOptions::default()).await?;
//!
//! // Keys: a request is built by methods, and sent when it is awaited.
//! client.put("config/colour", "blue").await?;
//! let found = client.get(KeyRange::prefix("config/")).limit(100).await?;
//! for kv in &found.kvs {
//!     println!("{:?} = {:?} since {}", kv.key, kv.value, kv.mod_revision);
//! }
//! let job = [kv::put("jobs/1", "waiting")];
//! let is_new = client.txn().when([Compare::absent("jobs/1")]).and_then(job).await?.succeeded;
//!
//! // A session is a lease that is renewed; a lock is held on one, and its guard knows when it is lost.
//! let session = client.session().ttl(Duration::from_secs(10)).name("billing").start().await?;
//! let guard = session.lock("jobs/nightly").acquire().await?;
//! client.put("state", "done").under(&guard.fence()).await?;
//! guard.release().await?;
//! # assert!(is_new);
//! # Ok(())
//! # }
//! ```
//!
//! # Where things are
//!
//! - [`Client`], [`ConnectOptions`], [`Error`]: connecting, and what can go wrong. A write that failed was done or not, or nobody
//!   knows: [`Error::applied`] says which.
//! - [`kv`], [`txn`], [`lease`]: the store's own requests.
//! - [`watch`]: every change, once, in order, whatever becomes of connections.
//! - [`session`], [`watchdog`], [`lock`], [`election`]: what is held, and the certainty that it is held.
//! - [`discovery`]: who is there.
//! - [`blocking`]: all of it for programs without async.
//! - [`clock`]: the time that all of this counts, which runs on while a machine is suspended.
//!
//! It works with an etcd as well, wherever the wire allows; the rest is [`Error::NeedsTenure`].
//!
//! # Design
//!
//! Everything that is not instant belongs to the client, not to a handle: connections, renewals, watches and releases are tasks on the
//! runtime that the client was made on. So handles can be dropped anywhere, and a request that is given up leaves nothing behind that
//! nobody looks after. What decides (health, retries, watch tables, session deadlines) is pure and takes the time as an argument; what
//! waits is around it.
//!
//! It deliberately has no cache of keys, no automatic repetition of writes that may have been done, and no global state: two clients
//! in one process know nothing of each other.
#![warn(missing_docs)]

mod auth;
pub mod blocking;
mod call;
mod client;
pub mod clock;
pub mod discovery;
pub mod election;
mod error;
mod fence;
mod header;
mod ids;
pub mod kv;
pub mod lease;
pub mod lock;
mod namespace;
mod options;
pub mod session;
mod tasks;
mod tls;
mod transport;
pub mod txn;
pub mod watch;
pub mod watchdog;

pub use client::{Client, ServerKind};
pub use clock::{Clock, Instant};
pub use error::{Applied, Error, Refusal, Refused, Setback, Setbacks};
pub use fence::Fence;
pub use header::Header;
pub use ids::{LeaseId, MemberId, Revision};
pub use kv::{KeyRange, KeyValue};
pub use lease::{Granted, Holder, LeaseEnd, LeaseState};
pub use options::{ConnectOptions, Prefer};
pub use tls::Tls;
pub use transport::{Connector, EndpointId, EndpointState, Stream};
pub use txn::{Compare, Op, Txn};
