//! Registers that are read, and written only if nobody was faster.

use anyhow::Result;
use bytes::Bytes;
use rand::RngExt;
use tenure_history::Revision;
use tenure_history::request::{Compare, KeyRange, Put, Relation, Target, Txn, TxnOp};
use tenure_history::request::{Range, Request};

use super::{get, kvs, put_if, succeeded, unchanged};
use crate::client::Client;

const REGISTERS: u32 = 3;

/// Works until the round's work is over.
pub(super) async fn run(mut client: Client) -> Result<()> {
    let mut count = 0_u64;
    while client.stage.is_working() {
        let key = Bytes::from(format!("register/{}", client.rng.random_range(0..REGISTERS)));
        let read = client.answer(get(&key)).await;
        client.pace().await;
        let Some(read) = read else { continue };
        let kv = kvs(&read).first();
        count += 1;
        let value = Bytes::from(format!("{}-{count}", client.id()));
        let put = Put { key: key.clone(), value, prev_kv: true, ..Put::default() };
        let request = match kv {
            // By value as well as by revision: they are decided in different places.
            Some(kv) if count.is_multiple_of(2) => by_value(&key, kv.value.clone(), put),
            _ => put_if(unchanged(&key, kv.map_or(Revision(0), |kv| kv.modified)), put),
        };
        if client.answer(request).await.is_some_and(|response| !succeeded(&response)) {
            count += 1;
        }
        client.pace().await;
    }
    Ok(())
}

/// A write if the value is this, else a read.
fn by_value(key: &Bytes, value: Bytes, put: Put) -> Request {
    let keys = KeyRange::one(key.clone());
    let compare = Compare { keys: keys.clone(), relation: Relation::Equal, target: Target::Value(value) };
    let read = TxnOp::Range(Range { keys, ..Range::default() });
    Request::Txn(Txn { compares: vec![compare], success: vec![TxnOp::Put(put)], failure: vec![read] })
}
