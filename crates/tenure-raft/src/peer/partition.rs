//! Partitions put between members on purpose, for tests: traffic with chosen peers is withheld in one direction or both.
//!
//! What is withheld hangs, as packets that are lost do: requests, answers, and the messages of streams, at the member that
//! was told to, whichever side began the exchange. When it heals, what still waits is delivered late. A request that waits
//! for as long as a connection takes to notice that it is dead is failed as that connection would fail it. A connection
//! needs both directions: one that is cut takes the other with it after that time, and nothing is dialled meanwhile.
//!
//! Peers of a member built for faults are built for it too: who sends a request is said in a header of its own.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::Frame;
use tenure_core::MemberId;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::server::NamedService;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _};

use super::dial::{CONNECT_TIMEOUT, Dialer, KEEPALIVE, PeerChannel};
use crate::runtime::BootInstant;

/// Says who sends a request.
const SENDER: &str = "tenure-fault-sender";

/// When a connection is given up over which nothing comes: a ping, and the wait for its answer.
const BROKEN_AFTER: Duration = KEEPALIVE.saturating_mul(2);

/// Some of the peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Peers {
    /// None of them.
    #[default]
    None,
    /// These.
    Some(BTreeSet<MemberId>),
    /// All of them.
    All,
}

impl Peers {
    fn contain(&self, peer: MemberId) -> bool {
        match self {
            Peers::None => false,
            Peers::Some(peers) => peers.contains(&peer),
            Peers::All => true,
        }
    }
}

/// Whom a member cannot reach, and whom it cannot hear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// What goes to them is withheld.
    pub to: Peers,
    /// What comes from them is withheld.
    pub from: Peers,
}

/// The partition that a member is told to be in.
#[derive(Clone)]
pub struct Partition(Arc<watch::Sender<State>>);

#[derive(Clone, Debug)]
struct State {
    cut: Cut,
    since: BootInstant,
}

impl Default for Partition {
    fn default() -> Partition {
        Partition(Arc::new(watch::Sender::new(State { cut: Cut::default(), since: BootInstant::now() })))
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.borrow().cut.fmt(f)
    }
}

/// The partition of this process.
pub fn partition() -> Partition {
    static PARTITION: LazyLock<Partition> = LazyLock::new(Partition::default);
    PARTITION.clone()
}

impl Partition {
    /// Replaces what was; the default heals.
    pub fn set(&self, cut: Cut) {
        self.0.send_replace(State { cut, since: BootInstant::now() });
    }

    /// What is withheld.
    pub fn get(&self) -> Cut {
        self.0.borrow().cut.clone()
    }

    fn to(&self, peer: MemberId) -> Gate {
        Gate { partition: self.clone(), peer, way: Way::To }
    }

    fn from(&self, peer: MemberId) -> Gate {
        Gate { partition: self.clone(), peer, way: Way::From }
    }
}

#[derive(Clone, Copy, Debug)]
enum Way {
    To,
    From,
}

/// One direction between this member and a peer.
#[derive(Clone, Debug)]
struct Gate {
    partition: Partition,
    peer: MemberId,
    way: Way,
}

impl Gate {
    fn is_shut(&self, State { cut, since }: &State) -> bool {
        let (way, other) = match self.way {
            Way::To => (&cut.to, &cut.from),
            Way::From => (&cut.from, &cut.to),
        };
        way.contain(self.peer) || other.contain(self.peer) && since.elapsed() >= BROKEN_AFTER
    }

    fn is_shut_now(&self) -> bool {
        self.is_shut(&self.partition.0.borrow())
    }

    /// Returns once it is open.
    async fn open(self) {
        let mut cuts = self.partition.0.subscribe();
        // The sender lives in this very gate, so waiting cannot fail.
        drop(cuts.wait_for(|state| !self.is_shut(state)).await);
    }

    /// The same, for those whose connection breaks meanwhile.
    async fn open_in_time(self) -> Result<(), Status> {
        let broken = |_| Status::unavailable("the connection broke");
        tokio::time::timeout(BROKEN_AFTER, self.open()).await.map_err(broken)
    }
}

/// Dials through a partition.
#[derive(Clone, Debug)]
pub struct PartitionedDialer<D> {
    member: MemberId,
    partition: Partition,
    dialer: D,
}

impl<D: Dialer> PartitionedDialer<D> {
    /// For a member that dials by `dialer`.
    pub fn new(member: MemberId, partition: Partition, dialer: D) -> PartitionedDialer<D> {
        PartitionedDialer { member, partition, dialer }
    }
}

impl<D: Dialer> Dialer for PartitionedDialer<D> {
    fn dial(&self, peer: MemberId, url: &str) -> BoxFuture<'static, Result<PeerChannel, String>> {
        let way = Ways { to: self.partition.to(peer), from: self.partition.from(peer) };
        let (member, dialled) = (self.member, self.dialer.dial(peer, url));
        Box::pin(async move {
            let open = async {
                way.to.clone().open().await;
                way.from.clone().open().await;
            };
            tokio::time::timeout(CONNECT_TIMEOUT, open).await.map_err(|_| "the connection timed out".to_owned())?;
            Ok(through(dialled.await?, member, way))
        })
    }

    fn is_refused(&self, peer: MemberId, url: &str) -> BoxFuture<'static, bool> {
        let shut = [self.partition.to(peer), self.partition.from(peer)].iter().any(Gate::is_shut_now);
        // No answer comes through.
        if shut { Box::pin(std::future::ready(false)) } else { self.dialer.is_refused(peer, url) }
    }
}

#[derive(Clone, Debug)]
struct Ways {
    to: Gate,
    from: Gate,
}

/// A connection whose requests and answers pass through a partition.
fn through(channel: PeerChannel, member: MemberId, ways: Ways) -> PeerChannel {
    BoxCloneSyncService::new(tower::service_fn(move |mut request: Request<Body>| {
        let (channel, ways) = (channel.clone(), ways.clone());
        let sender = HeaderValue::from(member.0);
        async move {
            request.headers_mut().insert(SENDER, sender);
            ways.to.clone().open_in_time().await?;
            let request = request.map(|body| Gated::body(body, ways.to, true));
            let answer = channel.oneshot(request).await?;
            ways.from.clone().open_in_time().await?;
            Ok(answer.map(|body| Gated::body(body, ways.from, true)))
        }
    }))
}

/// Answers peers through a partition.
#[derive(Clone, Debug)]
pub(super) struct Partitioned<S> {
    partition: Partition,
    service: S,
}

impl<S> Partitioned<S> {
    pub(super) fn new(partition: Partition, service: S) -> Partitioned<S> {
        Partitioned { partition, service }
    }
}

impl<S: NamedService> NamedService for Partitioned<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Partitioned<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Whether the service is ready is asked once the request has come through.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.service.clone();
        let Some(sender) = sender_of(&request) else { return Box::pin(service.oneshot(request)) };
        let (to, from) = (self.partition.to(sender), self.partition.from(sender));
        Box::pin(async move {
            from.clone().open().await;
            let answer = service.oneshot(request.map(|body| Gated::body(body, from, false))).await?;
            to.clone().open().await;
            Ok(answer.map(|body| Gated::body(body, to, false)))
        })
    }
}

fn sender_of(request: &Request<Body>) -> Option<MemberId> {
    request.headers().get(SENDER)?.to_str().ok()?.parse().ok().map(MemberId)
}

/// A body whose messages pass through a gate.
struct Gated {
    body: Body,
    gate: Gate,
    /// Whether a connection that brings nothing breaks.
    breaks: bool,
    waiting: Option<BoxFuture<'static, Result<(), Status>>>,
}

impl Gated {
    fn body(body: Body, gate: Gate, breaks: bool) -> Body {
        Body::new(Gated { body, gate, breaks, waiting: None })
    }

    /// Ready once the gate is open.
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if self.waiting.is_none() && !self.gate.is_shut_now() {
            return Poll::Ready(Ok(()));
        }
        let (gate, breaks) = (self.gate.clone(), self.breaks);
        let waiting = self.waiting.get_or_insert_with(|| {
            Box::pin(async move {
                if breaks {
                    return gate.open_in_time().await;
                }
                gate.open().await;
                Ok(())
            })
        });
        let open = ready!(waiting.as_mut().poll(context));
        self.waiting = None;
        Poll::Ready(open)
    }
}

impl http_body::Body for Gated {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let gated = self.get_mut();
        if let Err(broken) = ready!(gated.poll_open(context)) {
            return Poll::Ready(Some(Err(broken)));
        }
        Pin::new(&mut gated.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};
    use http_body_util::BodyExt as _;

    use super::super::channel_to;
    use super::*;

    const ME: MemberId = MemberId(1);
    const PEER: MemberId = MemberId(2);

    fn only(peer: MemberId) -> Peers {
        Peers::Some(BTreeSet::from([peer]))
    }

    fn text(body: &'static str) -> Body {
        Body::new(body.to_owned().map_err(|never| match never {}))
    }

    /// Answers each request with what came in it.
    #[derive(Clone)]
    struct Echo;

    impl Service<Request<Body>> for Echo {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            std::future::ready(Ok(Response::new(request.into_body())))
        }
    }

    /// A connection from one member to another, each with a partition of its own.
    fn link(mine: &Partition, theirs: &Partition) -> PeerChannel {
        let service = Partitioned::new(theirs.clone(), Echo);
        let ways = Ways { to: mine.to(PEER), from: mine.from(PEER) };
        through(channel_to(service), ME, ways)
    }

    async fn ask(link: &PeerChannel) -> Result<Bytes, Status> {
        let answer = link.clone().oneshot(Request::new(text("hello"))).await?;
        Ok(answer.into_body().collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn what_is_cut_anywhere_on_its_way_waits_and_comes_late() {
        let (to, from) =
            (|peer| Cut { to: only(peer), ..Cut::default() }, |peer| Cut { from: only(peer), ..Cut::default() });
        for (mine, theirs) in [
            (to(PEER), Cut::default()),
            (from(PEER), Cut::default()),
            (Cut::default(), to(ME)),
            (Cut::default(), from(ME)),
            (Cut { to: Peers::All, from: Peers::All }, Cut { to: Peers::All, from: Peers::All }),
        ] {
            let (here, there) = (Partition::default(), Partition::default());
            let link = link(&here, &there);
            here.set(mine.clone());
            there.set(theirs.clone());
            let mut asking = std::pin::pin!(ask(&link));
            let early = (&mut asking).now_or_never();
            assert!(early.is_none(), "{mine:?} {theirs:?} let {early:?} pass");
            here.set(Cut::default());
            there.set(Cut::default());
            assert_eq!(asking.await.unwrap(), "hello");
        }
    }

    #[tokio::test]
    async fn other_peers_and_the_other_direction_go_on() {
        let (here, there) = (Partition::default(), Partition::default());
        let link = link(&here, &there);
        here.set(Cut { to: only(MemberId(3)), from: only(MemberId(3)) });
        there.set(Cut { to: only(PEER), from: only(PEER) });
        assert_eq!(ask(&link).await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_request_that_waits_for_long_fails_as_its_connection_would() {
        let (here, there) = (Partition::default(), Partition::default());
        let link = link(&here, &there);
        for cut in [Cut { to: Peers::All, ..Cut::default() }, Cut { from: Peers::All, ..Cut::default() }] {
            here.set(cut);
            assert_eq!(ask(&link).await.unwrap_err().code(), tonic::Code::Unavailable);
        }
    }

    #[tokio::test]
    async fn messages_of_a_stream_stop_in_its_middle_and_go_on() {
        let here = Partition::default();
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let frames = stream.map(|text: &'static str| Ok::<_, Status>(Frame::data(Bytes::from(text))));
        let mut body = Gated::body(Body::new(http_body_util::StreamBody::new(frames)), here.to(PEER), false);
        sender.send("one").await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        here.set(Cut { to: Peers::All, ..Cut::default() });
        sender.send("two").await.unwrap();
        assert!(body.frame().now_or_never().is_none());
        here.set(Cut::default());
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "two");
        drop(sender);
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn a_direction_takes_the_other_with_it_when_connections_break() {
        let cut = Cut { to: only(PEER), ..Cut::default() };
        let (fresh, since) = (BootInstant::now(), BootInstant::now() - BROKEN_AFTER);
        let gate = Partition::default().from(PEER);
        assert!(!gate.is_shut(&State { cut: cut.clone(), since: fresh }));
        assert!(gate.is_shut(&State { cut: cut.clone(), since }));
        assert!(!Partition::default().from(MemberId(3)).is_shut(&State { cut, since }));
    }

    #[derive(Clone, Debug)]
    struct Direct;

    impl Dialer for Direct {
        fn dial(&self, _: MemberId, _: &str) -> BoxFuture<'static, Result<PeerChannel, String>> {
            Box::pin(async { Ok(channel_to(Echo)) })
        }

        fn is_refused(&self, _: MemberId, _: &str) -> BoxFuture<'static, bool> {
            Box::pin(std::future::ready(true))
        }
    }

    #[tokio::test]
    async fn a_peer_that_cannot_be_reached_cannot_be_dialled() {
        let here = Partition::default();
        let dialer = PartitionedDialer::new(ME, here.clone(), Direct);
        for cut in [Cut { to: only(PEER), ..Cut::default() }, Cut { from: only(PEER), ..Cut::default() }] {
            here.set(cut);
            assert!(dialer.dial(PEER, "http://nowhere").await.unwrap_err().contains("timed out"));
            assert!(dialer.dial(MemberId(3), "http://nowhere").await.is_ok());
            assert!(!dialer.is_refused(PEER, "http://nowhere").await, "no refusal comes through");
            assert!(dialer.is_refused(MemberId(3), "http://nowhere").await);
        }
        here.set(Cut::default());
        assert!(dialer.dial(PEER, "http://nowhere").await.is_ok());
    }
}
