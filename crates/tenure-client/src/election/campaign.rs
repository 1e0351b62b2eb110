//! How one stands for an election.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::leadership::Leadership;
use crate::lock::{AcquireError, LockBuilder, Wait, Way};
use crate::session::Session;
use crate::watchdog::WatchdogFactory;

/// What a native request can say of itself. Who has more to say stands by the recipe, in the same queue.
const NATIVE_VALUE_MAX: usize = 1024;

/// A candidacy that has not begun. Made by [`Session::election`].
#[derive(Clone, Debug)]
#[must_use = "nobody stands before `campaign`"]
pub struct Campaign {
    lock: LockBuilder,
    value: Bytes,
}

impl Session {
    /// Stands for the election of this name, once [`Campaign::campaign`] is called. What names may be is as with
    /// [`Session::lock`]; an election and a lock of one name are the same.
    pub fn election(&self, name: impl Into<Bytes>) -> Campaign {
        Campaign { lock: self.lock(name), value: Bytes::new() }
    }
}

impl Campaign {
    /// What observers are to see of the leader: the value of its key. As large as any value.
    pub fn value(mut self, value: impl Into<Bytes>) -> Campaign {
        self.value = value.into();
        self
    }

    /// For how long to stand: as long as the session lives, unless set.
    pub fn wait(mut self, wait: Wait) -> Campaign {
        self.lock = self.lock.wait(wait);
        self
    }

    /// Lose the leadership after so long, whatever the leader does. It ends a session's margin later.
    pub fn max_term(mut self, span: Option<Duration>) -> Campaign {
        self.lock = self.lock.max_hold(span);
        self
    }

    /// As [`LockBuilder::cancel_in_jeopardy`].
    pub fn cancel_in_jeopardy(mut self) -> Campaign {
        self.lock = self.lock.cancel_in_jeopardy();
        self
    }

    /// As [`LockBuilder::watchdog`].
    pub fn watchdog(mut self, factory: Arc<dyn WatchdogFactory>) -> Campaign {
        self.lock = self.lock.watchdog(factory);
        self
    }

    /// As [`LockBuilder::by_recipe`].
    pub fn by_recipe(mut self) -> Campaign {
        self.lock = self.lock.by_recipe();
        self
    }

    /// Stands, and waits until it leads.
    ///
    /// # Errors
    ///
    /// See [`AcquireError`]. No key is left behind.
    ///
    /// # Cancellation
    ///
    /// As with [`LockBuilder::acquire`]: the candidacy is withdrawn by the client's tasks.
    pub async fn campaign(self) -> Result<Leadership, AcquireError> {
        let Campaign { lock, value } = self;
        let lock = if value.len() > NATIVE_VALUE_MAX { lock.way(Way::Recipe) } else { lock };
        lock.metadata(value).hold().await.map(Leadership::new)
    }
}
