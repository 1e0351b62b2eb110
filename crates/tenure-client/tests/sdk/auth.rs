//! Users and tokens, and headers of the program's own.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use http::HeaderValue;
use tenure_client::{Applied, Client, ConnectOptions, Refusal};
use tenure_proto::etcdserverpb::PutResponse;

use crate::fake::Fake;
use crate::support::run;

async fn fake(token: &str) -> Fake {
    let fake = Fake::start().await;
    *fake.script.token.lock() = Some(token.to_owned());
    fake.script.puts.lock().push_back(Ok(PutResponse::default()));
    fake
}

async fn login(fake: &Fake, password: &str) -> Result<Client, tenure_client::Error> {
    Client::connect([fake.address.to_string()], ConnectOptions::default().user("root", password)).await
}

#[test]
fn a_token_is_fetched_once_and_again_when_it_is_not_valid_any_more() {
    run(async {
        let fake = fake("first").await;
        let client = login(&fake, "secret").await.expect("a client");
        let puts = join_all((0..50).map(|_| client.put("k", "v").into_future())).await;
        assert!(puts.iter().all(Result::is_ok));
        assert_eq!(
            fake.script.logins.load(Ordering::Relaxed),
            1,
            "those that need one wait for the one that fetches it"
        );

        *fake.script.token.lock() = Some("second".to_owned());
        let puts = join_all((0..50).map(|_| client.put("k", "v").into_future())).await;
        assert!(puts.iter().all(Result::is_ok), "a write that was refused for its token was not done: {puts:?}");
        assert_eq!(fake.script.logins.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn a_wrong_password_is_told_at_once() {
    run(async {
        let fake = fake("t").await;
        let refused = login(&fake, "guess").await.expect_err("it is wrong");
        assert_eq!(refused.refusal(), Some(Refusal::AuthFailed));
        assert_eq!(refused.applied(), Applied::No);
        assert!(!format!("{refused:?} {refused}").contains("guess"));
    });
}

#[test]
fn a_cluster_without_users_is_used_without_token() {
    run(async {
        let fake = fake("t").await;
        *fake.script.token.lock() = None;
        let client = login(&fake, "secret").await.expect("a client");
        client.put("k", "v").await.expect("a put");
        client.put("k", "v").await.expect("a put");
        assert_eq!(fake.script.logins.load(Ordering::Relaxed), 1, "that it has none is remembered");
        assert!(!fake.script.headers.lock()[0].contains_key("token"));
        // It gets users while the client is connected.
        *fake.script.token.lock() = Some("new".to_owned());
        client.put("k", "v").await.expect("a put");
    });
}

#[test]
fn who_has_no_user_is_told_that_the_token_is_missing() {
    run(async {
        let fake = fake("t").await;
        let client = Client::connect([fake.address.to_string()], ConnectOptions::default()).await.expect("a client");
        let refused = client.put("k", "v").timeout(Duration::from_secs(50)).await.expect_err("there is none");
        assert_eq!(refused.refusal(), Some(Refusal::InvalidAuthToken));
    });
}

#[test]
fn a_hook_adds_headers_to_every_request() {
    run(async {
        let fake = fake("from elsewhere").await;
        let options = ConnectOptions::default().metadata(|path, headers| {
            headers.insert("token", HeaderValue::from_static("from elsewhere"));
            headers.insert("x-path", path.parse().expect("a header"));
        });
        let client = Client::connect([fake.address.to_string()], options).await.expect("a client");
        client.put("k", "v").await.expect("a put");
        let headers = fake.script.headers.lock();
        assert_eq!(headers[0]["x-path"], "/etcdserverpb.KV/Put");
        assert_eq!(headers[0]["hasleader"], "true", "it would rather be refused than wait");
    });
}
