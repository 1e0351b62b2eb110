//! Automatic compaction in a cluster: history ends at the same revision everywhere, because one member ends it.

use tenure_proto::etcdserverpb as pb;
use tonic::Code;

use crate::support::{cluster, leader, run, within};

#[test]
fn old_history_is_forgotten_on_all_members_and_the_present_is_not() {
    run(async {
        let mut servers = cluster(3, &["--auto-compaction-retention=300ms"]).await;
        for round in 0..2 {
            let mut kv = servers[0].kv().await;
            let mut written = 0;
            for number in 0..10 {
                let value = format!("{round} {number}").into();
                let put = pb::PutRequest { key: "k".into(), value, ..Default::default() };
                written = kv.put(put).await.expect("a put").into_inner().header.expect("a header").revision;
            }
            for server in &servers {
                let mut kv = server.kv().await;
                let old = pb::RangeRequest { key: "k".into(), revision: written - 1, ..Default::default() };
                let refused = within("the old revision is forgotten", async {
                    loop {
                        if let Err(refused) = kv.range(old.clone()).await {
                            return refused;
                        }
                    }
                })
                .await;
                assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
                let now = pb::RangeRequest { key: "k".into(), revision: written, ..Default::default() };
                let answer = kv.range(now).await.expect("the present").into_inner();
                assert_eq!(answer.kvs[0].value, format!("{round} 9").as_bytes());
            }
            // The next round under another leader.
            let leads = leader(&servers).await;
            servers[leads].stop();
            servers[leads].start();
            leader(&servers).await;
        }
    });
}
