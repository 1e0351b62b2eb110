//! How often an endpoint is dialled that does not work: on a clock that the test holds, over connections that it makes up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tenure_client::clock::TokioClock;
use tenure_client::{Client, Clock, ConnectOptions, Connector, Error, Stream};

/// Counts dials, none of which comes to anything.
#[derive(Clone, Debug, Default)]
struct Dials(Arc<AtomicUsize>, Fate);

#[derive(Clone, Copy, Debug, Default)]
enum Fate {
    #[default]
    Refused,
    /// It is accepted, and closed at once.
    Closed,
    /// It is accepted, and nothing is said.
    Silent,
    /// Nobody answers at all.
    Lost,
}

impl Dials {
    fn that_are(fate: Fate) -> Dials {
        Dials(Arc::default(), fate)
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Connector for Dials {
    fn connect(&self, endpoint: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        assert_eq!(endpoint, "n1:2379");
        self.0.fetch_add(1, Ordering::Relaxed);
        let fate = self.1;
        async move {
            let (near, far) = tokio::io::duplex(1 << 16);
            match fate {
                Fate::Refused => Err(io::ErrorKind::ConnectionRefused.into()),
                Fate::Closed => Ok(Box::new(near) as Box<dyn Stream>),
                Fate::Silent => {
                    // It lives as long as the process.
                    std::mem::forget(far);
                    Ok(Box::new(near) as Box<dyn Stream>)
                }
                Fate::Lost => std::future::pending().await,
            }
        }
        .boxed()
    }
}

async fn dials_in_a_minute(fate: Fate) -> usize {
    let dials = Dials::that_are(fate);
    let options = ConnectOptions::default().clock(Arc::new(TokioClock::seeded(1))).connector(dials.clone()).lazy();
    let client = Client::connect(["n1"], options).await.expect("it does not wait");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let error = client.put("k", "v").await.expect_err("nobody answers");
    assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
    dials.count()
}

/// Doubled from 50 ms to 5 s, halved by chance at most: 7 dials until 5 s are reached, then one every 2.5 s to 5 s.
#[tokio::test(start_paused = true)]
async fn what_is_refused_is_dialled_ever_less_often() {
    let dials = dials_in_a_minute(Fate::Refused).await;
    assert!((18..=36).contains(&dials), "{dials}");
}

#[tokio::test(start_paused = true)]
async fn what_is_closed_at_once_is_dialled_ever_less_often() {
    let dials = dials_in_a_minute(Fate::Closed).await;
    assert!((18..=36).contains(&dials), "{dials}");
}

/// A dial is given up after 2 s.
#[tokio::test(start_paused = true)]
async fn what_says_nothing_is_given_up_and_dialled_ever_less_often() {
    for fate in [Fate::Silent, Fate::Lost] {
        let dials = dials_in_a_minute(fate).await;
        assert!((8..=20).contains(&dials), "{dials} {fate:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_request_counts_over_all_tries() {
    let clock = Arc::new(TokioClock::seeded(1));
    let options = ConnectOptions::default().clock(clock.clone()).connector(Dials::that_are(Fate::Lost)).lazy();
    let client = Client::connect(["n1"], options).await.expect("it does not wait");
    let started = clock.now();
    client.get("k").timeout(Duration::from_secs(7)).await.expect_err("nobody answers");
    assert_eq!(clock.now().saturating_duration_since(started).as_secs(), 7);
    let at = clock.now() + Duration::from_secs(3);
    client.get("k").deadline(at).timeout(Duration::from_secs(60)).await.expect_err("nobody answers");
    assert_eq!(clock.now().saturating_duration_since(at).as_secs(), 0, "the earlier of both");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_dialled_for_a_client_that_is_gone_or_an_endpoint_that_is() {
    let dials = Dials::that_are(Fate::Refused);
    let options = ConnectOptions::default().clock(Arc::new(TokioClock::seeded(1))).connector(dials.clone()).lazy();
    let client = Client::connect(["n1"], options).await.expect("it does not wait");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let clone = client.clone();
    drop(client);
    let before = dials.count();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(dials.count() > before, "a clone keeps it alive");
    drop(clone);
    let before = dials.count();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(dials.count() <= before, "{} more", dials.count() - before);
}
