//! Many watches on one client.

use tenure_client::Client;

use crate::support::members::Cluster;
use crate::support::proxy::Proxy;
use crate::support::{eventually, run, within};
use crate::{done, hasty, put, read};

/// A gauge of a member.
async fn gauge(cluster: &Cluster, name: &str) -> u64 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut connection = tokio::net::TcpStream::connect(cluster.members[0].clients).await.expect("a connection");
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").await.expect("a request");
    let mut page = String::new();
    connection.read_to_string(&mut page).await.expect("a page");
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in {page}"))
}

#[test]
fn a_thousand_watches_share_a_few_streams_and_all_go_on_after_a_cut() {
    run(async {
        const WATCHES: usize = 1000;
        let cluster = Cluster::one().await;
        let proxy = Proxy::before(cluster.members[0].clients).await;
        let client = within("a client", Client::connect([proxy.endpoint()], hasty())).await.expect("a client");
        let direct = cluster.client().await;
        let opening = (0..WATCHES).map(|number| client.watch(format!("k/{number}")).open());
        let opened = within("the watches", futures::future::join_all(opening)).await;
        let mut watchers: Vec<_> = opened.into_iter().map(|opened| opened.expect("a watch")).collect();
        assert_eq!(gauge(&cluster, "tenure_watchers").await, 1000);
        assert_eq!(gauge(&cluster, "tenure_watch_streams").await, 4);
        for round in ["before the cut", "after the cut"] {
            let mut revisions = Vec::new();
            for chunk in (0..WATCHES).collect::<Vec<_>>().chunks(100) {
                let puts = chunk.iter().map(|number| tenure_client::kv::put(format!("k/{number}"), round));
                let done = done("a write", direct.txn().and_then(puts)).await.expect("a write");
                revisions.extend(chunk.iter().map(|_| done.header.revision));
            }
            for (number, watcher) in watchers.iter_mut().enumerate() {
                let told = (revisions[number].0, format!("k/{number}"), Some(round.to_owned()));
                assert_eq!(read(watcher, 1).await, [told]);
            }
            proxy.cut();
        }
        drop(watchers);
        eventually("all watches go", async || (gauge(&cluster, "tenure_watchers").await == 0).then_some(())).await;
        eventually("all streams go", async || (gauge(&cluster, "tenure_watch_streams").await == 0).then_some(())).await;
        put(&client, "k/0", "nobody hears it").await;
    });
}

#[test]
fn a_watch_that_is_cancelled_is_gone_at_the_server_and_the_others_of_its_stream_stay() {
    run(async {
        let cluster = Cluster::one().await;
        let client = cluster.client_with(hasty()).await;
        let one = client.watch("k/1").open().await.expect("a watch");
        let mut other = client.watch("k/2").open().await.expect("a watch");
        within("the end", one.cancel()).await;
        assert_eq!(gauge(&cluster, "tenure_watchers").await, 1);
        let revision = put(&client, "k/2", "v").await;
        assert_eq!(read(&mut other, 1).await, [(revision.0, "k/2".into(), Some("v".into()))]);
        drop(client.watch("k/3").open().await.expect("a watch"));
        // Dropping the future of one that is being opened ends it, too.
        let opening = client.watch("k/4").open();
        drop(futures::future::poll_immediate(opening).await);
        eventually("they are gone", async || (gauge(&cluster, "tenure_watchers").await == 1).then_some(())).await;
    });
}
