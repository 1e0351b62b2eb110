//! Writers that change a few keys in all ways, and remember what each revision that they were promised did.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_proto::etcdserverpb::request_op::Request as Op;
use tenure_proto::etcdserverpb::response_op::Response as OpAnswer;
use tenure_proto::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse, PutRequest, RequestOp, TxnRequest};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::requests::Request;
use crate::watch_chaos::Stage;
use crate::wire::{Answer, Wire};

/// The keys that all writers write.
pub const KEYS: u32 = 40;
/// Keys of large values, which are written and deleted together.
const LARGE_KEYS: u32 = 4;
const LARGE_BYTES: usize = 300 << 10;
/// How often, in writes of the one writer that does.
const LARGE_EVERY: u32 = 40;
const MEDIUM_BYTES: usize = 8 << 10;
/// Between two writes of one writer: what is to be checked must be read back, too.
const PACE: Duration = Duration::from_millis(15);
const WRITE_PATIENCE: Duration = Duration::from_millis(400);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(5);

/// A write that was answered, with what it did in order: keys, and values or nothing for a delete.
#[derive(Clone, Debug)]
pub struct Ack {
    pub revision: i64,
    pub changes: Vec<(String, Option<String>)>,
}

/// What stands for a value in records: its name and its length.
pub fn digest(value: &[u8]) -> String {
    let name = value.split(|byte| *byte == b':').next().unwrap_or_default();
    format!("{}:{}", String::from_utf8_lossy(name), value.len())
}

/// The name of an ordinary key.
pub fn key(number: u32) -> String {
    format!("w/{number:02}")
}

/// See the module's header.
#[derive(Debug)]
pub struct Writer {
    id: usize,
    rng: StdRng,
    stage: Arc<Stage>,
    stop: watch::Receiver<bool>,
    values: u64,
    rounds: u32,
}

impl Writer {
    /// A writer that writes until it is told to stop.
    pub fn new(id: usize, seed: u64, stage: Arc<Stage>, stop: watch::Receiver<bool>) -> Self {
        let rng = StdRng::seed_from_u64(seed ^ (id as u64) << 8);
        Self { id, rng, stage, stop, values: 0, rounds: 0 }
    }

    /// Writes, and returns what was promised.
    pub async fn run(mut self) -> Vec<Ack> {
        let mut acks = Vec::new();
        let mut at = self.id;
        while !*self.stop.borrow() {
            at = (at + 1) % self.stage.endpoints.len();
            let endpoint = self.stage.endpoints[at].clone();
            if let Ok(Ok(wire)) = timeout(WRITE_PATIENCE, Wire::connect(&endpoint)).await {
                self.write_until_error(wire, &mut acks).await;
            }
            sleep(PAUSE_AFTER_ERROR).await;
        }
        acks
    }

    async fn write_until_error(&mut self, mut wire: Wire, acks: &mut Vec<Ack>) {
        while !*self.stop.borrow() {
            for request in self.requests() {
                let Ok(answer) = timeout(WRITE_PATIENCE, wire.send(&request)).await else { return };
                let Some(ack) = ack_of(&request, &answer) else { return };
                self.stage.acked.fetch_add(1, Ordering::SeqCst);
                // What deleted nothing made no revision.
                if !ack.changes.is_empty() {
                    acks.push(ack);
                }
                sleep(PACE).await;
            }
        }
    }

    fn requests(&mut self) -> Vec<Request> {
        self.rounds += 1;
        // One writer alone deals with the large values: their deletes must find them.
        if self.id == 0 && self.rounds.is_multiple_of(LARGE_EVERY) {
            return self.large();
        }
        match self.rng.random_range(0..200) {
            0..120 => vec![Request::Put(self.put(0))],
            120..126 => vec![Request::Put(self.put(MEDIUM_BYTES))],
            126..146 => vec![Request::Delete(self.delete(1))],
            146..156 => {
                let keys = self.rng.random_range(2..6);
                vec![Request::Delete(self.delete(keys))]
            }
            _ => vec![self.txn()],
        }
    }

    fn value(&mut self, bytes: usize) -> Bytes {
        self.values += 1;
        Bytes::from(format!("{}-{}:{}", self.id, self.values, "x".repeat(bytes)))
    }

    fn put(&mut self, bytes: usize) -> PutRequest {
        let key = key(self.rng.random_range(0..KEYS)).into();
        PutRequest { key, value: self.value(bytes), ..Default::default() }
    }

    fn delete(&mut self, keys: u32) -> DeleteRangeRequest {
        let first = self.rng.random_range(0..KEYS);
        DeleteRangeRequest { key: key(first).into(), range_end: key(first + keys).into(), prev_kv: true }
    }

    /// Puts and deletes of different keys, in an order that is not that of the keys.
    fn txn(&mut self) -> Request {
        let first = self.rng.random_range(0..KEYS);
        let numbers = [first + 3, first, first + 7].map(|number| number % KEYS);
        let ops = numbers.into_iter().map(|number| {
            let key: Bytes = key(number).into();
            if self.rng.random_ratio(1, 3) {
                return Op::RequestDeleteRange(DeleteRangeRequest { key, prev_kv: true, ..Default::default() });
            }
            Op::RequestPut(PutRequest { key, value: self.value(0), ..Default::default() })
        });
        let success = ops.map(|op| RequestOp { request: Some(op) }).collect();
        Request::Txn(TxnRequest { success, ..Default::default() })
    }

    fn large(&mut self) -> Vec<Request> {
        let mut requests: Vec<Request> = (0..LARGE_KEYS)
            .map(|number| {
                let (key, value) = (format!("z/{number}").into(), self.value(LARGE_BYTES));
                Request::Put(PutRequest { key, value, ..Default::default() })
            })
            .collect();
        let all = DeleteRangeRequest { key: "z/".into(), range_end: "z0".into(), prev_kv: true };
        requests.push(Request::Delete(all));
        requests
    }
}

/// What an answer promises; nothing if it is an error.
fn ack_of(request: &Request, answer: &Answer) -> Option<Ack> {
    let revision = answer.revision()?;
    let changes = match (request, answer) {
        (Request::Put(put), Answer::Put(_)) => vec![change_of(put)],
        (Request::Delete(_), Answer::Delete(answer)) => deleted(answer),
        (Request::Txn(txn), Answer::Txn(answer)) => {
            let ops = txn.success.iter().zip(&answer.responses);
            let changes = ops.flat_map(|(op, answer)| match (&op.request, &answer.response) {
                (Some(Op::RequestPut(put)), _) => vec![change_of(put)],
                (_, Some(OpAnswer::ResponseDeleteRange(answer))) => deleted(answer),
                _ => Vec::new(),
            });
            changes.collect()
        }
        _ => return None,
    };
    Some(Ack { revision, changes })
}

fn change_of(put: &PutRequest) -> (String, Option<String>) {
    (String::from_utf8_lossy(&put.key).into_owned(), Some(digest(&put.value)))
}

fn deleted(answer: &DeleteRangeResponse) -> Vec<(String, Option<String>)> {
    answer.prev_kvs.iter().map(|kv| (String::from_utf8_lossy(&kv.key).into_owned(), None)).collect()
}
