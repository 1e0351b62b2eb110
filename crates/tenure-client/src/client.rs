//! The client: what all of its handles share, and how it is made and closed.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use tenure_proto::tenure::v1::LeaseListRequest;
use tenure_proto::tenure::v1::leases_client::LeasesClient;
use tokio::runtime::Handle;
use tonic::{Response, Status};

use crate::call::{Next, Retry, Tries, What};
use crate::clock::{Clock, Instant};
use crate::error::{Error, Refusal};
use crate::namespace::Namespace;
use crate::options::ConnectOptions;
use crate::session::Sessions;
use crate::tasks::Tasks;
use crate::transport::{Address, EndpointId, EndpointState, Link, Links, NoLink, backoff};
use crate::watch::Hub;

/// A client of a cluster. To clone it is cheap, and gives another handle on the same client: one serves a whole program, however many
/// requests it has under way.
///
/// Requests, sessions, watches and the like are made by its methods. It connects to all of its endpoints, and lets each request go
/// to one that works: [`ConnectOptions`] says how it picks, and how long it tries.
///
/// When the last handle is dropped, or [`Client::close`] is called, the client's tasks end with it.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    namespace: Arc<Namespace>,
}

struct Inner {
    options: ConnectOptions,
    links: Links,
    tasks: Tasks,
    kind: AtomicU8,
    /// Made with the first session.
    sessions: OnceLock<Arc<Sessions>>,
    watches: Hub,
}

/// A handle that does not keep the client alive: for tasks that end with it.
#[derive(Clone, Debug)]
pub(crate) struct WeakClient {
    inner: std::sync::Weak<Inner>,
    namespace: Arc<Namespace>,
}

impl WeakClient {
    /// The client, unless it is gone.
    pub(crate) fn upgrade(&self) -> Option<Client> {
        self.inner.upgrade().map(|inner| Client { inner, namespace: self.namespace.clone() })
    }
}

/// What a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerKind {
    /// Tenure.
    Tenure,
    /// An etcd, or something else that speaks its API.
    Etcd,
}

impl Client {
    /// Makes a client of the cluster that these endpoints belong to: `HOST:PORT`, `http://HOST:PORT`, `https://HOST:PORT` or `unix://PATH`,
    /// port 2379 if there is none. The client lives on the runtime that this is called on.
    ///
    /// Waits until one of the endpoints has answered, unless the options say not to.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if an address is none, or if there is none; [`Error::Unreachable`] if no endpoint answered within
    /// the options' timeout.
    ///
    /// # Cancellation
    ///
    /// Dropping the future drops the client.
    pub async fn connect(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        options: ConnectOptions,
    ) -> Result<Client, Error> {
        let addresses = read(endpoints)?;
        let links = Links::new(&options);
        let namespace = Arc::new(Namespace::new(options.namespace.clone()));
        let tasks = Tasks::new(Handle::current());
        links.set(addresses, &tasks);
        let is_lazy = options.is_lazy;
        let kind = AtomicU8::new(0);
        let inner = Inner { options, links, tasks, kind, sessions: OnceLock::new(), watches: Hub::default() };
        let client = Client { inner: Arc::new(inner), namespace };
        if !is_lazy {
            client.link(None).await?;
        }
        Ok(client)
    }

    /// Has the client use exactly these endpoints from now on. Connections to those that stay are kept; what is under way at
    /// others ends as it will.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if an address is none, or if there is none: nothing is changed then.
    pub fn set_endpoints(&self, endpoints: impl IntoIterator<Item = impl Into<String>>) -> Result<(), Error> {
        self.inner.links.set(read(endpoints)?, &self.inner.tasks);
        // They may be of another cluster.
        self.inner.kind.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// The addresses that the client uses.
    pub fn endpoints(&self) -> Vec<String> {
        self.inner.links.addresses()
    }

    /// How each endpoint does, as far as the client knows. Asks nobody.
    pub fn endpoint_states(&self) -> Vec<EndpointState> {
        self.inner.links.states()
    }

    /// A client that sees only what begins with this prefix, and without it, within what this one sees. They share everything else.
    #[must_use]
    pub fn namespaced(&self, prefix: impl AsRef<[u8]>) -> Client {
        Client { inner: self.inner.clone(), namespace: Arc::new(self.namespace.within(prefix.as_ref())) }
    }

    /// Ends the client's tasks, for all of its handles: watches end, sessions do what their own documentation says, and requests are refused from
    /// now on. Waits for what finishes its work, for as long as the options say. Closing again does no harm.
    pub async fn close(&self) {
        self.inner.tasks.close(self.options().close_timeout).await;
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.inner.tasks.closing().is_cancelled()
    }

    /// What the cluster is. It is asked the first time.
    ///
    /// # Errors
    ///
    /// Those of a read.
    pub async fn kind(&self) -> Result<ServerKind, Error> {
        const TENURE: u8 = 1;
        const ETCD: u8 = 2;
        match self.inner.kind.load(Ordering::Relaxed) {
            TENURE => return Ok(ServerKind::Tenure),
            ETCD => return Ok(ServerKind::Etcd),
            _ => {}
        }
        let one = LeaseListRequest { limit: 1, after: None };
        let listed =
            self.call(What::read("server kind"), |link| async move { LeasesClient::new(link).list(one).await });
        let (kind, known) = match listed.await {
            Ok(_) => (ServerKind::Tenure, TENURE),
            Err(error) => match error.refusal() {
                Some(Refusal::Unimplemented) => (ServerKind::Etcd, ETCD),
                // It knows the call.
                Some(Refusal::PermissionDenied) => (ServerKind::Tenure, TENURE),
                _ => return Err(error),
            },
        };
        self.inner.kind.store(known, Ordering::Relaxed);
        Ok(kind)
    }

    /// Refuses what etcd cannot do.
    pub(crate) async fn needs_tenure(&self, what: &'static str) -> Result<(), Error> {
        match self.kind().await? {
            ServerKind::Tenure => Ok(()),
            ServerKind::Etcd => Err(Error::NeedsTenure { what }),
        }
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.options.clock
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    pub(crate) fn options(&self) -> &ConnectOptions {
        &self.inner.options
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// For an answer that no server gives which knows what it was asked.
    pub(crate) fn nonsense(&self, what: &str) -> Error {
        Error::nonsense("the server", what)
    }

    /// For an answer with a key that is not within the client's namespace.
    pub(crate) fn strange_key(&self) -> Error {
        self.nonsense("a key of another namespace")
    }

    /// What renews this client's sessions.
    pub(crate) fn sessions(&self) -> &Arc<Sessions> {
        let make = || Sessions::new(self.downgrade(), self.clock().clone(), self.tasks());
        self.inner.sessions.get_or_init(make)
    }

    pub(crate) fn watches(&self) -> &Hub {
        &self.inner.watches
    }

    pub(crate) fn downgrade(&self) -> WeakClient {
        WeakClient { inner: Arc::downgrade(&self.inner), namespace: self.namespace.clone() }
    }

    /// Carries a request out: at one endpoint after the other until one answers it, it may not be sent again, or its deadline has come.
    pub(crate) async fn call<A, F, Fut>(&self, what: What, mut rpc: F) -> Result<A, Error>
    where
        F: FnMut(Link) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let clock = self.clock();
        let options = self.options();
        let deadline = clock.now() + what.timeout.unwrap_or(options.timeout);
        let deadline = what.deadline.map_or(deadline, |at| at.min(deadline));
        let mut tries = Tries::default();
        loop {
            let link = match self.link_before(deadline, &mut tries, what.is_farewell).await {
                Ok(link) => link,
                Err(Error::Timeout(down)) => return Err(tries.expired(what.retry, &down)),
                Err(error) => return Err(error),
            };
            let link = if what.is_local { link.without_leader() } else { link };
            let started = clock.now();
            let is_short = matches!(what.retry, Retry::Read | Retry::Idempotent);
            let try_deadline = if is_short { deadline.min(started + options.try_timeout) } else { deadline };
            let under_way = link.under_way();
            let answer = clock.timeout(try_deadline, rpc(link.clone())).await;
            drop(under_way);
            let next = match answer {
                Ok(Ok(response)) => {
                    link.report_answer(clock.now() - started);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => {
                    link.report_status(&status, clock.now() - started);
                    tries.failed(&link, what.retry, &status)
                }
                Err(_) => {
                    link.report_silence();
                    tries.silent(&link, what.retry)
                }
            };
            match next {
                Next::Again => tracing::debug!(request = what.name, endpoint = link.address(), "trying again"),
                Next::Fail(error) => return Err(error),
            }
        }
    }

    /// The best endpoint now, for a stream. Waits for one that works, for as long as a request may take.
    pub(crate) async fn link(&self, avoid: Option<EndpointId>) -> Result<Link, Error> {
        let deadline = self.clock().now() + self.options().timeout;
        let mut tries = Tries::default();
        tries.avoid.extend(avoid);
        match self.link_before(deadline, &mut tries, false).await {
            Err(Error::Timeout(down)) => Err(Error::Unreachable(down)),
            other => other,
        }
    }

    /// The best endpoint that was not tried in vain since the last pause. Pauses once all were, and waits while none works; the
    /// deadline's coming is told as [`Error::Timeout`], with what is wrong with those that do not work. While the client is closing
    /// only a farewell gets a link, and only over a connection that is there: none is made any more.
    async fn link_before(&self, deadline: Instant, tries: &mut Tries, is_farewell: bool) -> Result<Link, Error> {
        let (clock, links, options) = (self.clock(), &self.inner.links, self.options());
        let mut changes = links.changes();
        loop {
            let is_over = if is_farewell { self.tasks().is_ended() } else { self.is_closed() };
            if is_over {
                return Err(Error::Closed);
            }
            changes.mark_unchanged();
            match links.choose(&tries.avoid) {
                Ok(link) => match self.login(deadline, link, tries).await {
                    Some(result) => return result,
                    None => continue,
                },
                Err(NoLink::AllTried) => {
                    tries.avoid.clear();
                    tries.rounds += 1;
                    let pause = backoff(options.backoff, tries.rounds, clock.random());
                    if clock.now() + pause >= deadline {
                        return Err(Error::Timeout(links.setbacks()));
                    }
                    clock.sleep(pause).await;
                }
                Err(NoLink::AllDown) if self.is_closed() => return Err(Error::Closed),
                Err(NoLink::AllDown) => {
                    if options.is_fail_fast && links.are_all_down() {
                        return Err(Error::Unreachable(links.setbacks()));
                    }
                    let closing = self.tasks().closing().cancelled();
                    let changed = async {
                        tokio::select! {
                            _ = changes.changed() => {}
                            () = closing => {}
                        }
                    };
                    if clock.timeout(deadline, changed).await.is_err() {
                        return Err(Error::Timeout(links.setbacks()));
                    }
                }
            }
        }
    }
}

impl Client {
    /// Puts the token on a link that its requests need. None if that failed in a way that is this endpoint's, and is worth a try at another.
    async fn login(&self, deadline: Instant, link: Link, tries: &mut Tries) -> Option<Result<Link, Error>> {
        let (clock, credentials) = (self.clock(), self.inner.links.credentials());
        if !credentials.has_user() {
            return Some(Ok(link));
        }
        let at = deadline.min(clock.now() + self.options().try_timeout);
        let failed = match clock.timeout(at, credentials.on(link.clone())).await {
            Ok(Err(error)) if error.is_retryable() => error.to_string(),
            Ok(result) => return Some(result),
            Err(_) => {
                link.report_silence();
                "no answer in time to a login".to_owned()
            }
        };
        tries.could_not_log_in(&link, failed);
        None
    }
}

fn read(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Result<Vec<Address>, Error> {
    let read: Result<Vec<Address>, Error> = endpoints.into_iter().map(|endpoint| endpoint.into().parse()).collect();
    match read {
        Ok(addresses) if addresses.is_empty() => Err(Error::Invalid("a client needs an endpoint".to_owned())),
        read => read,
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("links", &self.links).finish_non_exhaustive()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("namespace", self.namespace.prefix())
            .field("endpoints", &self.inner.links)
            .finish_non_exhaustive()
    }
}
