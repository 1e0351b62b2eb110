//! Queues: producers put items, one key each; consumers take the oldest by create revision, by a transaction that only one
//! of them can win.

use anyhow::Result;
use bytes::Bytes;
use rand::RngExt;
use tenure_history::Revision;
use tenure_history::request::{Compare, DeleteRange, KeyRange, Put, Range, Relation, Request, Target, Txn, TxnOp};

use super::{behind, kvs, put_if};
use crate::client::Client;

/// What the keys of all queues begin with.
pub const QUEUES: &str = "queue/";
const COUNT: u32 = 3;
/// Producers wait for so many of the workload's paces: a consumer needs two requests an item, and may have to try again.
const PACES: u32 = 3;

/// Puts items until the round's work is over.
pub(super) async fn produce(mut client: Client) -> Result<()> {
    let mut count = 0_u64;
    // Items of different rounds differ, too.
    let round = client.stage.first;
    while client.stage.is_working() {
        count += 1;
        let queue = client.rng.random_range(0..COUNT);
        // Their names do not stand in the order in which they are put.
        let key = Bytes::from(format!("{QUEUES}{queue}/{}-{round}-{count}", client.id()));
        let new = Compare {
            keys: KeyRange::one(key.clone()),
            relation: Relation::Equal,
            target: Target::Create(Revision(0)),
        };
        let put = Put { key, value: format!("item {count}").into(), ..Put::default() };
        client.ask(put_if(new, put)).await;
        for _ in 0..PACES {
            client.pace().await;
        }
    }
    Ok(())
}

/// Takes items until the round's work is over.
pub(super) async fn consume(mut client: Client) -> Result<()> {
    while client.stage.is_working() {
        let queue = client.rng.random_range(0..COUNT);
        let prefix = format!("{QUEUES}{queue}/");
        let keys = KeyRange::between(prefix.clone(), behind(&prefix));
        let items = client.answer(Request::Range(Range { keys, ..Range::default() })).await;
        client.pace().await;
        let Some(items) = items else { continue };
        let Some(oldest) = kvs(&items).iter().min_by_key(|kv| kv.create) else { continue };
        client.ask(take(&oldest.key, oldest.create)).await;
        client.pace().await;
    }
    Ok(())
}

/// Deletes the item if it is still there.
fn take(key: &Bytes, create: Revision) -> Request {
    let keys = KeyRange::one(key.clone());
    let there = Compare { keys: keys.clone(), relation: Relation::Equal, target: Target::Create(create) };
    let delete = TxnOp::DeleteRange(DeleteRange { keys, prev_kv: true });
    Request::Txn(Txn { compares: vec![there], success: vec![delete], failure: Vec::new() })
}
