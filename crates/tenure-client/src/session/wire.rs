//! Leases as servers know them: granted, renewed and revoked, by Tenure's service or by etcd's.
//!
//! A renewal is a stream of its own: one message to Tenure, one per lease to etcd, and the answers to them. It costs no more than a
//! request, and ends with the connection that it was sent on. A stream that is kept would have to be watched for being dead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::ready;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use tenure_proto::etcdserverpb as etcd;
use tenure_proto::etcdserverpb::lease_client::LeaseClient;
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::leases_client::LeasesClient;
use tonic::{Status, Streaming};

use super::keeper::{Answer, Kept, LeaseWire};
use crate::call::What;
use crate::client::{Client, ServerKind, WeakClient};
use crate::clock::Instant;
use crate::error::{Error, Refusal, reason};
use crate::ids::LeaseId;
use crate::transport::Link;

/// A lease that was granted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granted {
    pub(crate) lease: LeaseId,
    /// As the server says: at least what was asked for.
    pub(crate) ttl: Duration,
    /// Before it was first sent: the server counts from no earlier moment.
    pub(crate) sent: Instant,
    /// Who granted it.
    pub(crate) kind: ServerKind,
}

/// Grants a lease.
pub(crate) async fn grant(client: &Client, ttl: Duration, holder: pb::LeaseHolder) -> Result<Granted, Error> {
    let kind = client.kind().await?;
    let sent = client.clock().now();
    let what = What::write("grant a lease");
    let (id, ttl) = match kind {
        ServerKind::Tenure => {
            let request = pb::LeaseGrantRequest { id: 0, ttl_ms: millis(ttl), holder: Some(holder) };
            let grant = |link| {
                let request = request.clone();
                async move { LeasesClient::new(link).grant(request).await }
            };
            let answer = client.call(what, grant).await?;
            (answer.id, Duration::from_millis(answer.ttl_ms))
        }
        ServerKind::Etcd => {
            // In whole seconds: rounded up, so that it lives as long as was asked for.
            let secs = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
            let request = etcd::LeaseGrantRequest { id: 0, ttl: secs };
            let answer =
                client.call(what, |link| async move { LeaseClient::new(link).lease_grant(request).await }).await?;
            (answer.id, seconds(answer.ttl))
        }
    };
    Ok(Granted { lease: LeaseId(id), ttl, sent, kind })
}

/// Revokes a lease. That it is gone already is no error.
pub(crate) async fn revoke(client: &Client, lease: LeaseId) -> Result<(), Error> {
    let request = etcd::LeaseRevokeRequest { id: lease.0 };
    let what = What::idempotent("revoke a lease").farewell();
    let revoked = client.call(what, |link| async move { LeaseClient::new(link).lease_revoke(request).await });
    match revoked.await {
        Ok(_) => Ok(()),
        Err(error) if error.refusal() == Some(Refusal::LeaseNotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Renewals of a client.
#[derive(Debug)]
pub(crate) struct ClientWire {
    client: WeakClient,
    last: Arc<Mutex<Option<Last>>>,
}

/// The latest try.
#[derive(Clone)]
struct Last {
    link: Link,
    is_answered: Arc<AtomicBool>,
}

impl ClientWire {
    pub(crate) fn new(client: WeakClient) -> ClientWire {
        ClientWire { client, last: Arc::default() }
    }
}

impl LeaseWire for ClientWire {
    fn renew(&self, leases: Vec<(LeaseId, Duration)>, elsewhere: bool) -> BoxStream<'static, Answer> {
        let last = self.last.lock().clone().filter(|_| elsewhere);
        if let Some(last) = last.as_ref().filter(|last| !last.is_answered.load(Ordering::Relaxed)) {
            last.link.report_silence();
        }
        let opening = open(self.client.clone(), self.last.clone(), last, leases);
        let opened = opening.map(|opened| match opened {
            Ok(answers) => answers,
            Err(error) => stream::once(ready(Err(error))).boxed(),
        });
        opened.flatten_stream().boxed()
    }
}

async fn open(
    client: WeakClient,
    latest: Arc<Mutex<Option<Last>>>,
    last: Option<Last>,
    leases: Vec<(LeaseId, Duration)>,
) -> Result<BoxStream<'static, Answer>, Arc<str>> {
    let client = client.upgrade().ok_or("the client is gone")?;
    let words = |error: Error| -> Arc<str> { error.to_string().into() };
    let kind = client.kind().await.map_err(words)?;
    let link = client.link(last.map(|last| last.link.endpoint())).await.map_err(words)?;
    drop(client);
    let is_answered = Arc::new(AtomicBool::new(false));
    *latest.lock() = Some(Last { link: link.clone(), is_answered: is_answered.clone() });
    let failed = |status: Status| -> Arc<str> {
        is_answered.store(true, Ordering::Relaxed);
        link.report(Err(&status));
        format!("{}: {}", link.address(), reason(&status)).into()
    };
    // The stream of requests stays open until the answers are there: none is lost to its end.
    Ok(match kind {
        ServerKind::Tenure => {
            let ids = leases.iter().map(|(lease, _)| lease.0).collect();
            let request = stream::once(ready(pb::LeaseKeepAliveRequest { ids })).chain(stream::pending());
            let answers = LeasesClient::new(link.clone()).keep_alive(request).await.map_err(failed)?.into_inner();
            let read = move |answer: pb::LeaseKeepAliveResponse| native(&answer, &leases);
            heard(answers, (link.clone(), is_answered.clone()), 1, read)
        }
        ServerKind::Etcd => {
            let count = leases.len();
            let requests = leases.into_iter().map(|(lease, _)| etcd::LeaseKeepAliveRequest { id: lease.0 });
            let requests = stream::iter(requests).chain(stream::pending());
            let answers = LeaseClient::new(link.clone()).lease_keep_alive(requests).await.map_err(failed)?.into_inner();
            heard(answers, (link.clone(), is_answered.clone()), count, |answer| vec![plain(&answer)])
        }
    })
}

/// Tenure tells what is left, counted from when it answered. The promise counts from when the renewal was sent: if the lease is
/// there, it lives its whole TTL from then.
fn native(answer: &pb::LeaseKeepAliveResponse, leases: &[(LeaseId, Duration)]) -> Vec<Kept> {
    let answered = answer.leases.iter().zip(leases).filter(|(kept, (lease, _))| kept.id == lease.0);
    let kept = |(kept, (lease, ttl)): (&pb::LeaseKept, &(LeaseId, Duration))| Kept {
        lease: *lease,
        ttl: (kept.remaining_ms > 0).then(|| Duration::from_millis(kept.remaining_ms).max(*ttl)),
    };
    answered.map(kept).collect()
}

/// etcd tells the TTL in whole seconds, and none if there is no such lease.
fn plain(answer: &etcd::LeaseKeepAliveResponse) -> Kept {
    Kept { lease: LeaseId(answer.id), ttl: (answer.ttl > 0).then(|| seconds(answer.ttl)) }
}

/// So many answers, or an error.
fn heard<A: Send + 'static>(
    answers: Streaming<A>,
    (link, is_answered): (Link, Arc<AtomicBool>),
    count: usize,
    read: impl Fn(A) -> Vec<Kept> + Send + 'static,
) -> BoxStream<'static, Answer> {
    let answers = answers.take(count).map(move |answer| match answer {
        Ok(answer) => {
            is_answered.store(true, Ordering::Relaxed);
            link.report(Ok(()));
            Ok(read(answer))
        }
        Err(status) => {
            is_answered.store(true, Ordering::Relaxed);
            link.report(Err(&status));
            Err(format!("{}: {}", link.address(), reason(&status)).into())
        }
    });
    answers.boxed()
}

/// In whole milliseconds, rounded up.
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

impl std::fmt::Debug for Last {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Last").field("endpoint", &self.link.address()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_that_was_answered_late_is_counted_from_its_sending_with_the_whole_ttl() {
        let ttl = Duration::from_secs(10);
        let answer = |remaining_ms| pb::LeaseKeepAliveResponse {
            header: None,
            leases: vec![pb::LeaseKept { id: 7, remaining_ms }],
        };
        let read = |remaining_ms| native(&answer(remaining_ms), &[(LeaseId(7), ttl)]);
        assert_eq!(read(6000), [Kept { lease: LeaseId(7), ttl: Some(ttl) }]);
        assert_eq!(read(12_000), [Kept { lease: LeaseId(7), ttl: Some(Duration::from_secs(12)) }]);
        assert_eq!(read(0), [Kept { lease: LeaseId(7), ttl: None }]);
    }

    #[test]
    fn an_answer_about_another_lease_is_none() {
        let answer =
            pb::LeaseKeepAliveResponse { header: None, leases: vec![pb::LeaseKept { id: 8, remaining_ms: 5 }] };
        assert_eq!(native(&answer, &[(LeaseId(7), Duration::from_secs(1))]), []);
    }

    #[test]
    fn etcds_zero_says_that_there_is_no_such_lease() {
        let answer = |ttl| etcd::LeaseKeepAliveResponse { header: None, id: 7, ttl };
        assert_eq!(plain(&answer(0)).ttl, None);
        assert_eq!(plain(&answer(-1)).ttl, None);
        assert_eq!(plain(&answer(5)).ttl, Some(Duration::from_secs(5)));
    }
}
