//! Elections: standing, leading, being seen, and ending.

use std::time::Duration;

use futures::StreamExt as _;
use tenure_client::election::ProclaimError;
use tenure_client::session::LostReason;

use crate::help::{Stranger, session};
use crate::support::members::Cluster;
use crate::support::{run, within};

#[test]
fn observers_see_each_leader_each_proclamation_and_the_vacancy_after_the_last() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let stranger = Stranger::of(&cluster).await;
        let (one, two) = (session(&client).await, session(&client).await);
        let mut observer = client.election("e").observe();
        assert_eq!(within("vacant", observer.next()).await.expect("observed"), None);
        let first = one.election("e").value("one").campaign().await.expect("it leads");
        let seen = within("seen", observer.next()).await.expect("observed").expect("a leader");
        assert_eq!((&seen.value[..], seen.token), (&b"one"[..], first.token().revision));
        let standing = tokio::spawn(two.election("e").value("two").campaign());
        stranger.until_contenders("e", 2).await;
        let proclaimed = first.proclaim("one, still").await.expect("it leads");
        let seen = within("seen", observer.next()).await.expect("observed").expect("a leader");
        // Not the candidate, although it came after the last proclamation.
        assert_eq!((&seen.value[..], seen.proclaimed), (&b"one, still"[..], proclaimed));
        assert_eq!(client.election("e").leader().await.expect("a read"), Some(seen));
        first.resign().await.expect("it is acknowledged");
        let second = within("elected", standing).await.expect("no panic").expect("it leads");
        let seen = within("seen", observer.next()).await.expect("observed").expect("a leader");
        assert_eq!((&seen.value[..], seen.token), (&b"two"[..], second.token().revision));
        drop(second);
        assert_eq!(within("vacant", observer.next()).await.expect("observed"), None);
        // As a stream it begins with what is there.
        let mut stream = Box::pin(client.election("e").observe().into_stream());
        assert_eq!(within("vacant", stream.next()).await.expect("an item").expect("observed"), None);
    });
}

#[test]
fn a_leader_that_lost_its_key_proclaims_nothing() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let session = session(&client).await;
        let leadership = session.election("e").value("one").campaign().await.expect("it leads");
        client.delete(leadership.key().clone()).await.expect("a delete");
        let failed = leadership.proclaim("two").await.expect_err("it does not lead");
        assert!(matches!(failed, ProclaimError::Lost(_)), "{failed}");
        assert_eq!(within("lost", leadership.lost()).await, LostReason::KeyDeleted);
        assert!(client.election("e").leader().await.expect("a read").is_none());
    });
}

#[test]
fn an_operator_ends_the_term_of_who_leads_and_not_of_who_comes_after() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let session = session(&client).await;
        let first = session.election("e").campaign().await.expect("it leads");
        let asking = client.election("e");
        let (end, asked) = tokio::join!(first.end_of_term(), asking.request_end_of_term("an upgrade"));
        let (end, asked) = (end.expect("asked"), asked.expect("a put"));
        assert_eq!((&end.reason[..], end.revision), (&b"an upgrade"[..], asked));
        // It is told again to who asks again.
        assert_eq!(first.end_of_term().await.expect("asked"), end);
        first.resign().await.expect("it is acknowledged");
        let second = session.election("e").campaign().await.expect("it leads");
        let told = tokio::time::timeout(Duration::from_millis(200), second.end_of_term()).await;
        assert!(told.is_err(), "an old request ended a new term");
    });
}

#[test]
fn a_request_to_end_a_term_is_not_for_those_who_only_wait_then() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let stranger = Stranger::of(&cluster).await;
        let (one, two) = (session(&client).await, session(&client).await);
        let first = one.election("e").campaign().await.expect("it leads");
        let standing = tokio::spawn(two.election("e").campaign());
        stranger.until_contenders("e", 2).await;
        let election = client.election("e");
        let asked = election.request_end_of_term("an upgrade").await.expect("a put");
        assert_eq!(first.end_of_term().await.expect("asked").revision, asked);
        first.resign().await.expect("it is acknowledged");
        let second = within("elected", standing).await.expect("no panic").expect("it leads");
        assert!(second.token().revision < asked, "it was in the queue by then");
        let told = tokio::time::timeout(Duration::from_millis(200), second.end_of_term()).await;
        assert!(told.is_err(), "a request to another leader ended its term");
        let again = election.request_end_of_term("another one").await.expect("a put");
        assert_eq!(within("asked", second.end_of_term()).await.expect("asked").revision, again);
    });
}

#[test]
fn a_candidate_with_much_to_say_stands_in_the_same_queue() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client().await;
        let stranger = Stranger::of(&cluster).await;
        let (one, two) = (session(&client).await, session(&client).await);
        let first = one.election("e").campaign().await.expect("it leads");
        let value = vec![b'x'; 5000];
        let standing = tokio::spawn(two.election("e").value(value.clone()).campaign());
        stranger.until_contenders("e", 2).await;
        first.resign().await.expect("it is acknowledged");
        let second = within("elected", standing).await.expect("no panic").expect("it leads");
        let leader = client.election("e").leader().await.expect("a read").expect("a leader");
        assert_eq!((leader.token, leader.value), (second.token().revision, value.into()));
    });
}
