//! HashKV between members: equal while they hold the same, different once one of them does not.

use std::ops::ControlFlow;

use tenure_core::Revision;
use tenure_server::node::Node;
use tenure_storage::engine::{Batch, Bounds, Direction, Engine, Table};

use crate::support::cluster::{Cluster, settled};
use crate::support::history::{Fate, History};
use crate::support::member::Settings;
use crate::support::requests::put;
use crate::support::{run, within};

/// Changes one byte of a value that is in history and nowhere else.
fn flip_a_byte(engine: &dyn Engine, value: &[u8]) {
    let mut batch = Batch::new();
    let scanned = engine.snapshot().scan(Table::History, Bounds::ALL, Direction::Ascending, &mut |key, row| {
        let Some(at) = row.windows(value.len()).position(|window| window == value) else {
            return ControlFlow::Continue(());
        };
        let mut row = row.to_vec();
        row[at] ^= 1;
        batch.put(Table::History, key, &row);
        ControlFlow::Break(())
    });
    scanned.expect("history can be read");
    assert!(!batch.is_empty(), "the value is in history");
    engine.write(&batch).expect("the engine takes it");
}

async fn write(history: &History, node: &Node, key: &str, value: &str) {
    let fate = within("a write", history.write(node, put(key, value.to_owned()))).await;
    assert!(matches!(fate, Fate::Acked(_)), "{fate:?}");
}

async fn hashes(nodes: &[Node], revision: Revision) -> Vec<u32> {
    settled(nodes).await;
    let mut hashes = Vec::new();
    for node in nodes {
        hashes.push(node.hash_kv(revision).await.expect("a hash").result.hash);
    }
    hashes
}

#[test]
fn a_flipped_byte_in_one_members_old_version_makes_its_hash_differ() {
    run(async {
        let history = History::default();
        let (cluster, nodes) = Cluster::running(3, &Settings::default()).await;
        for value in ["first version", "second version", "third version"] {
            write(&history, &nodes[0], "key", value).await;
        }
        let before = hashes(&nodes, Revision(4)).await;
        assert!(before.iter().all(|hash| *hash == before[0]), "{before:?}");
        flip_a_byte(&*cluster.members[1].engine(), b"second version");
        // A view shows what the engine held when it was made: the next write makes one that holds the flipped byte.
        write(&history, &nodes[0], "other", "x").await;
        let after = hashes(&nodes, Revision(4)).await;
        assert_eq!(after[0], before[0]);
        assert_eq!(after[2], before[0]);
        assert_ne!(after[1], before[0], "the member with the flipped byte answers another hash");
    });
}
