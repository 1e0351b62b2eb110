//! Elections: one of those who want it leads, as long as its session lives and nobody ends it.
//!
//! An election is a lock whose key's value says something of its holder. A [`Leadership`] is asked as a lock's guard is; beside
//! that it can be proclaimed anew, and asked to end by an operator. Etcd's own elections, of this name and in the same keys,
//! contend with these and observe them.
//!
//! ```no_run
//! # async fn example(client: tenure_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let session = client.session().start().await?;
//! let leadership = session.election("scheduler").value("host-7:9000").campaign().await?;
//! tokio::select! {
//!     reason = leadership.lost() => println!("lost: {reason}"),
//!     end = leadership.end_of_term() => {
//!         println!("asked to end: {:?}", end?.reason);
//!         leadership.resign().await.map_err(|error| error.to_string())?;
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod campaign;
mod leadership;
mod observe;
mod term;

pub use campaign::Campaign;
pub use leadership::{Leadership, ProclaimError};
pub use observe::{Leader, Observer};
pub use term::{END_OF_TERM_PREFIX, EndOfTerm};

use bytes::Bytes;

use crate::client::Client;
use crate::error::Error;
use crate::ids::Revision;
use crate::kv::{Get, KeyRange, Order, SortBy};

/// An election as one sees it who does not stand for it. Made by [`Client::election`].
#[derive(Clone, Debug)]
pub struct Election {
    client: Client,
    name: Bytes,
}

impl Client {
    /// The election of this name, to look at it. Who wants to lead needs a session: [`Session::election`](crate::session::Session::election).
    pub fn election(&self, name: impl Into<Bytes>) -> Election {
        Election { client: self.clone(), name: name.into() }
    }
}

impl Election {
    /// Who leads now: the oldest key under `name/`, by one linearizable read. None if nobody does.
    ///
    /// # Errors
    ///
    /// Those of a read.
    pub async fn leader(&self) -> Result<Option<Leader>, Error> {
        Ok(oldest(&self.client, &self.name).await?.first().map(Leader::from))
    }

    /// Who leads, from now on and whenever that changes.
    pub fn observe(&self) -> Observer {
        Observer::new(self.client.clone(), self.range())
    }

    /// Asks whoever leads now to end its term, and says why. That is a key that the leader watches; what it does about it is its own
    /// business. Answers the revision of the request: leaders that were elected later do not heed it.
    ///
    /// # Errors
    ///
    /// Those of a write. It does no harm to ask again.
    pub async fn request_end_of_term(&self, reason: impl Into<Bytes>) -> Result<Revision, Error> {
        Ok(self.client.put(term::key(&self.name), reason).await?.header.revision)
    }

    fn range(&self) -> KeyRange {
        candidates(&self.name)
    }
}

/// The one that leads: the oldest of those that stand.
fn oldest(client: &Client, name: &[u8]) -> Get {
    client.get(candidates(name)).sorted(SortBy::CreateRevision, Order::Ascending).limit(1)
}

/// All keys that stand for the election.
fn candidates(name: &[u8]) -> KeyRange {
    let mut prefix = name.to_vec();
    prefix.push(b'/');
    KeyRange::prefix(prefix)
}
