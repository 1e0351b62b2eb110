//! How a client is made.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::auth::{MetadataHook, User};
use crate::clock::{BootClock, Clock};
use crate::tls::Tls;
use crate::transport::{Connector, SocketConnector};
use crate::watch::WatchPatience;

/// How a client connects, how patient it is, and which part of the store it sees.
///
/// ```
/// use std::time::Duration;
/// use tenure_client::ConnectOptions;
///
/// let options = ConnectOptions::default().timeout(Duration::from_secs(2)).namespace("billing/");
/// # drop(options);
/// ```
#[derive(Clone)]
#[must_use = "options do nothing until a client is made with them"]
pub struct ConnectOptions {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) tls: Option<Tls>,
    pub(crate) user: Option<User>,
    pub(crate) metadata: Option<MetadataHook>,
    pub(crate) namespace: Bytes,
    pub(crate) timeout: Duration,
    pub(crate) try_timeout: Duration,
    pub(crate) dial_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) probe_interval: Duration,
    pub(crate) backoff: [Duration; 2],
    pub(crate) watch_patience: WatchPatience,
    pub(crate) prefer: Prefer,
    pub(crate) is_lazy: bool,
    pub(crate) is_fail_fast: bool,
}

/// Which of the endpoints that work a request goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prefer {
    /// The better of two that are drawn: by latency, failures and what is under way.
    #[default]
    Fastest,
    /// The leader's, while it is known and works: its answers take one hop less, and all clients together load it more.
    Leader,
    /// Each as often as the next.
    Spread,
}

impl Default for ConnectOptions {
    fn default() -> ConnectOptions {
        ConnectOptions {
            clock: Arc::new(BootClock),
            connector: Arc::new(SocketConnector),
            tls: None,
            user: None,
            metadata: None,
            namespace: Bytes::new(),
            timeout: Duration::from_secs(5),
            try_timeout: Duration::from_secs(2),
            dial_timeout: Duration::from_secs(2),
            close_timeout: Duration::from_secs(5),
            probe_interval: Duration::from_secs(5),
            backoff: [Duration::from_millis(50), Duration::from_secs(5)],
            watch_patience: WatchPatience::default(),
            prefer: Prefer::default(),
            is_lazy: false,
            is_fail_fast: false,
        }
    }
}

impl ConnectOptions {
    /// How long a request may take, over all tries. 5 s unless set; each request can set its own.
    pub fn timeout(mut self, timeout: Duration) -> ConnectOptions {
        self.timeout = timeout;
        self
    }

    /// How long one try of a request may take that can be repeated without harm, before it is sent elsewhere. 2 s unless
    /// set. A write that cannot be repeated waits for its answer until its deadline.
    pub fn try_timeout(mut self, timeout: Duration) -> ConnectOptions {
        self.try_timeout = timeout;
        self
    }

    /// How long an endpoint may take to accept a connection, TLS included, and to answer on it. 2 s unless set.
    pub fn dial_timeout(mut self, timeout: Duration) -> ConnectOptions {
        self.dial_timeout = timeout;
        self
    }

    /// How long [`Client::close`](crate::Client::close) waits for what finishes its work. 5 s unless set.
    pub fn close_timeout(mut self, timeout: Duration) -> ConnectOptions {
        self.close_timeout = timeout;
        self
    }

    /// How often each endpoint is asked how it does: whether it lives, and which member leads. 5 s unless set.
    pub fn probe_interval(mut self, interval: Duration) -> ConnectOptions {
        self.probe_interval = interval;
        self
    }

    /// How long an endpoint that fails is left alone: after the first failure and at most. It doubles from failure to failure, with
    /// up to half of it taken off by chance. 50 ms and 5 s unless set.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> ConnectOptions {
        self.backoff = [first, longest.max(first)];
        self
    }

    /// When watches leave a connection that is silent, or a member that is behind, for another.
    pub fn watch_patience(mut self, patience: WatchPatience) -> ConnectOptions {
        self.watch_patience = patience;
        self
    }

    /// Which of the endpoints that work a request goes to.
    pub fn prefer(mut self, prefer: Prefer) -> ConnectOptions {
        self.prefer = prefer;
        self
    }

    /// Have [`Client::connect`](crate::Client::connect) return at once, without waiting for an endpoint to be reached.
    pub fn lazy(mut self) -> ConnectOptions {
        self.is_lazy = true;
        self
    }

    /// Have requests fail as soon as every endpoint is known not to be reachable. Otherwise they wait until their deadline for one that is.
    pub fn fail_fast(mut self) -> ConnectOptions {
        self.is_fail_fast = true;
        self
    }

    /// Speak TLS with every endpoint whose address begins with `https://`.
    pub fn tls(mut self, tls: Tls) -> ConnectOptions {
        self.tls = Some(tls);
        self
    }

    /// Log in as this user. The client fetches a token when it needs one, and a new one when that is not valid any more.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> ConnectOptions {
        self.user = Some(User { name: name.into(), password: password.into() });
        self
    }

    /// Add headers to every request, streams included. The hook is given the request's path, as `/etcdserverpb.KV/Put`; it must not block.
    pub fn metadata(mut self, hook: impl Fn(&str, &mut http::HeaderMap) + Send + Sync + 'static) -> ConnectOptions {
        self.metadata = Some(Arc::new(hook));
        self
    }

    /// See only the keys and the locks that begin with this prefix, and without it. The prefix is used as it is: it mostly
    /// ends with a `/`.
    pub fn namespace(mut self, prefix: impl Into<Bytes>) -> ConnectOptions {
        self.namespace = prefix.into();
        self
    }

    /// Take time and chance from this clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> ConnectOptions {
        self.clock = clock;
        self
    }

    /// Make connections this way.
    pub fn connector(mut self, connector: impl Connector) -> ConnectOptions {
        self.connector = Arc::new(connector);
        self
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("namespace", &self.namespace)
            .field("timeout", &self.timeout)
            .field("try_timeout", &self.try_timeout)
            .field("dial_timeout", &self.dial_timeout)
            .field("prefer", &self.prefer)
            .field("user", &self.user)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}
