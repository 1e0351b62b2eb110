//! Everything that the KV service can do, on a few keys: what linearizability is checked with.

use anyhow::Result;
use bytes::Bytes;
use rand::RngExt;
use tenure_history::request::{Compare, DeleteRange, KeyRange, Put, Range, Relation, Request, Target, Txn, TxnOp};
use tenure_history::response::Outcome;
use tenure_history::{LeaseId, Revision};

use crate::client::Client;

const KEYS: u32 = 30;
/// Reads of old revisions look back at most this far: on both sides of where the store is compacted.
const BACK_MAX: i64 = 60;

/// Works until the round's work is over.
pub(super) async fn run(client: Client) -> Result<()> {
    let mut mix = Mix { client, values: 0, newest: Revision(0) };
    while mix.client.stage.is_working() {
        let request = mix.request();
        let written = match &request {
            Request::Put(put) => Some(put.key.clone()),
            _ => None,
        };
        mix.ask(request).await;
        if let Some(key) = written.filter(|_| mix.below(4) == 0) {
            // At once, at the same member: what it has answered it shows.
            mix.ask(Request::Range(Range { keys: KeyRange::one(key), serializable: true, ..Range::default() })).await;
        }
        mix.client.pace().await;
    }
    Ok(())
}

struct Mix {
    client: Client,
    values: u64,
    newest: Revision,
}

impl Mix {
    async fn ask(&mut self, request: Request) {
        if let Outcome::Ok(response) = self.client.ask(request).await {
            self.newest = self.newest.max(response.revision);
        }
    }

    fn below(&mut self, limit: u32) -> u32 {
        self.client.rng.random_range(0..limit)
    }

    fn key(&mut self) -> Bytes {
        format!("mix/{:02}", self.below(KEYS)).into()
    }

    /// One key, or now and then several.
    fn keys(&mut self, several_percent: u32) -> KeyRange {
        if self.below(100) >= several_percent {
            return KeyRange::one(self.key());
        }
        let (from, count) = (self.below(KEYS), self.below(6) + 2);
        KeyRange::between(format!("mix/{from:02}"), format!("mix/{:02}", from + count))
    }

    fn request(&mut self) -> Request {
        match self.below(100) {
            0..30 => Request::Put(self.put()),
            30..58 => Request::Range(self.read()),
            58..68 => Request::Range(Range { serializable: true, ..self.read() }),
            68..74 => Request::Range(self.read_old()),
            74..83 => Request::DeleteRange(self.delete()),
            _ => Request::Txn(self.txn(1)),
        }
    }

    fn read(&mut self) -> Range {
        let (limit, count_only) = (i64::from(self.below(10) == 0) * 3, self.below(15) == 0);
        Range { keys: self.keys(25), limit, count_only, ..Range::default() }
    }

    fn read_old(&mut self) -> Range {
        let back = self.client.rng.random_range(0..BACK_MAX);
        Range { revision: Revision((self.newest.0 - back).max(1)), ..self.read() }
    }

    fn put(&mut self) -> Put {
        self.values += 1;
        let value = format!("{}-{}", self.client.id(), self.values).into();
        Put { key: self.key(), value, lease: LeaseId::NONE, prev_kv: self.below(3) == 0 }
    }

    fn delete(&mut self) -> DeleteRange {
        DeleteRange { keys: self.keys(20), prev_kv: self.below(2) == 0 }
    }

    fn txn(&mut self, depth: u32) -> Txn {
        let compares = (0..=self.below(2)).map(|_| self.compare()).collect();
        Txn { compares, success: self.ops(depth), failure: self.ops(depth) }
    }

    /// Operations of which no two write one key: servers refuse those that do.
    fn ops(&mut self, depth: u32) -> Vec<TxnOp> {
        let mut written: Vec<Bytes> = Vec::new();
        let mut ops = Vec::new();
        for _ in 0..self.below(4) {
            match self.below(10) {
                0..5 => {
                    let put = self.put();
                    if !written.contains(&put.key) {
                        written.push(put.key.clone());
                        ops.push(TxnOp::Put(put));
                    }
                }
                5..7 => ops.push(TxnOp::Range(self.read())),
                7..9 => {
                    let key = self.key();
                    if !written.contains(&key) {
                        written.push(key.clone());
                        ops.push(TxnOp::DeleteRange(DeleteRange { keys: KeyRange::one(key), prev_kv: true }));
                    }
                }
                _ if depth > 0 && written.is_empty() => return vec![TxnOp::Txn(self.txn(depth - 1))],
                _ => {}
            }
        }
        ops
    }

    fn compare(&mut self) -> Compare {
        let back = self.client.rng.random_range(0..BACK_MAX);
        let target = match self.below(4) {
            0 => Target::Version(i64::from(self.below(3))),
            1 => Target::Create(Revision(0)),
            2 => Target::Mod(Revision((self.newest.0 - back).max(0))),
            _ => Target::Lease(LeaseId::NONE),
        };
        let relation = match self.below(4) {
            0 => Relation::Equal,
            1 => Relation::Greater,
            2 => Relation::Less,
            _ => Relation::NotEqual,
        };
        Compare { keys: self.keys(15), relation, target }
    }
}
