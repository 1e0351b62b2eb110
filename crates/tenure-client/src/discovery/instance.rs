//! An instance of a service: its id, its kind, where it is reached, and what else others should know of it.
//!
//! It holds what the instance says of itself and nothing of the store: revisions and leases are in the cache's
//! [`Entry`](super::Entry). So two instances are equal if they say the same.

use std::collections::BTreeMap;

use serde_json::Value;

/// An instance of a service, as it describes itself.
///
/// ```
/// use tenure_client::discovery::Instance;
///
/// let room = Instance::new("room-7").addr("10.0.0.7:8080").meta("mode", "ranked").meta("seats", 8);
/// assert_eq!(room.addr_text(), Some("10.0.0.7:8080"));
/// assert_eq!(room.get_meta("seats").and_then(|seats| seats.as_u64()), Some(8));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) addr: Option<String>,
    pub(super) meta: BTreeMap<String, Value>,
}

impl Instance {
    /// An instance with this id, which is unique among those of its kind. The kind is given by what it is registered with.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), kind: String::new(), addr: None, meta: BTreeMap::new() }
    }

    /// Where it is reached: `host:port`, or a URI such as `https://host:port`.
    #[must_use]
    pub fn addr(mut self, addr: impl Into<String>) -> Self {
        self.addr = Some(addr.into());
        self
    }

    /// Something else that others should know: any JSON value. One of the same name is replaced.
    #[must_use]
    pub fn meta(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.meta.insert(name.into(), value.into());
        self
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its kind; empty if it comes from [`Instance::new`] and is not registered.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Where it is reached, in its own words, if it said that.
    #[must_use]
    pub fn addr_text(&self) -> Option<&str> {
        self.addr.as_deref()
    }

    /// All that it said of itself besides.
    #[must_use]
    pub fn all_meta(&self) -> &BTreeMap<String, Value> {
        &self.meta
    }

    /// One of the things that it said of itself.
    #[must_use]
    pub fn get_meta(&self, name: &str) -> Option<&Value> {
        self.meta.get(name)
    }
}
