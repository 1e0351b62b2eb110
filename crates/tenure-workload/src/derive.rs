//! Appends and queue operations as their checkers want them, out of the requests that the workloads sent.

use tenure_history::append::{Append, Appended, Look};
use tenure_history::queue::{Dequeue, Done, Enqueue, Rest};
use tenure_history::request::{Request, TxnOp};
use tenure_history::response::{Body, KeyValue, Outcome, RangeBody};
use tenure_history::run::Run;
use tenure_history::{ClientId, Moment, Operation};

use crate::recorder::Recorded;
use crate::workloads::{LISTS, QUEUES, Workload};

/// Adds what the operations of the append and queue workloads were about, in a store that begins as in the run's history.
pub fn add(run: &mut Run, operations: &[Recorded]) {
    before(run);
    for Recorded { workload, operation } in operations {
        match workload {
            Workload::Append => append(run, operation),
            Workload::Queue => queue(run, operation),
            Workload::Ending => ending(run, operation),
            _ => {}
        }
    }
}

/// Items that an earlier round left count as put in before this one.
fn before(run: &mut Run) {
    let left = run.history.initial.kvs.iter().filter_map(|kv| Some((item(&kv.key)?, kv.create)));
    let put_in = left.map(|((queue, item), create)| Enqueue {
        queue,
        client: ClientId(u32::MAX),
        item,
        called: Moment(0),
        returned: Moment(0),
        outcome: Done::Acked(create),
    });
    run.enqueues = put_in.collect();
}

/// Whether a list is of this round: clients of another round have other lists.
fn is_of_round(list: &[u8], run: &Run) -> bool {
    text(list).strip_prefix(LISTS).and_then(|rest| rest.split('/').nth(1)?.parse().ok())
        == Some(run.history.initial.revision.0)
}

fn kvs(operation: &Operation) -> Option<&[KeyValue]> {
    match &operation.response()?.body {
        Body::Range(RangeBody { kvs, .. }) => Some(kvs),
        _ => None,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn tokens(kv: &KeyValue) -> Vec<String> {
    text(&kv.value).split_whitespace().map(str::to_owned).collect()
}

fn append(run: &mut Run, operation: &Operation) {
    let (client, called) = (operation.client, operation.called);
    let Some(returned) = operation.returned else { return };
    match &operation.request {
        Request::Range(range) => {
            let Some(kvs) = kvs(operation) else { return };
            let (list, tokens) = (text(&range.keys.key), kvs.first().map(tokens).unwrap_or_default());
            let Some(revision) = operation.response().map(|response| response.revision) else { return };
            run.looks.push(Look { list, client, called, returned, revision, tokens });
        }
        Request::Txn(txn) => {
            let Some(TxnOp::Put(put)) = txn.success.first() else { return };
            let value = text(&put.value);
            let Some(token) = value.split_whitespace().last().map(str::to_owned) else { return };
            let outcome = match done(operation) {
                Done::Acked(revision) => Appended::Acked(revision),
                Done::Failed => Appended::Failed,
                Done::Unknown => Appended::Unknown,
            };
            run.appends.push(Append { list: text(&put.key), client, token, called, returned, outcome });
        }
        _ => {}
    }
}

/// How a transaction that does something only if its conditions hold ended.
fn done(operation: &Operation) -> Done {
    match &operation.outcome {
        Outcome::Ok(response) if matches!(response.body, Body::Txn { succeeded: true, .. }) => {
            Done::Acked(response.revision)
        }
        Outcome::Ok(_) | Outcome::Refused(_) | Outcome::Failed(_) => Done::Failed,
        Outcome::Unknown => Done::Unknown,
    }
}

/// A queue's name and the item's, of its key.
fn item(key: &[u8]) -> Option<(String, String)> {
    let (queue, item) = text(key).strip_prefix(QUEUES)?.split_once('/').map(|(q, i)| (q.to_owned(), i.to_owned()))?;
    Some((queue, item))
}

fn queue(run: &mut Run, operation: &Operation) {
    let (client, called) = (operation.client, operation.called);
    let Some(returned) = operation.returned else { return };
    match &operation.request {
        Request::Range(range) => {
            let empty = kvs(operation).is_some_and(<[KeyValue]>::is_empty);
            let Some(response) = operation.response().filter(|_| empty) else { return };
            let Some((queue, _)) = item(&range.keys.key) else { return };
            let outcome = Done::Acked(response.revision);
            run.dequeues.push(Dequeue { queue, client, item: None, called, returned, outcome });
        }
        Request::Txn(txn) => {
            let outcome = done(operation);
            match txn.success.first() {
                Some(TxnOp::Put(put)) => {
                    let Some((queue, item)) = item(&put.key) else { return };
                    run.enqueues.push(Enqueue { queue, client, item, called, returned, outcome });
                }
                Some(TxnOp::DeleteRange(delete)) => {
                    let Some((queue, item)) = item(&delete.keys.key) else { return };
                    run.dequeues.push(Dequeue { queue, client, item: Some(item), called, returned, outcome });
                }
                _ => {}
            }
        }
        _ => {}
    }
}

/// The reads of everything at the end show what is in the lists and what is left in the queues.
fn ending(run: &mut Run, operation: &Operation) {
    let (Some(kvs), Some(response), Some(returned)) = (kvs(operation), operation.response(), operation.returned) else {
        return;
    };
    let (client, called, revision) = (operation.client, operation.called, response.revision);
    let lists: Vec<&KeyValue> = kvs.iter().filter(|kv| is_of_round(&kv.key, run)).collect();
    for kv in lists {
        run.looks.push(Look { list: text(&kv.key), client, called, returned, revision, tokens: tokens(kv) });
    }
    let names: std::collections::BTreeSet<String> = run
        .enqueues
        .iter()
        .map(|enqueue| enqueue.queue.clone())
        .chain(run.dequeues.iter().map(|dequeue| dequeue.queue.clone()))
        .collect();
    run.rests.clear();
    for queue in names {
        let items = kvs.iter().filter_map(|kv| item(&kv.key)).filter(|(name, _)| *name == queue).map(|(_, item)| item);
        run.rests.push(Rest { items: items.collect(), queue, revision });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tenure_history::Revision;
    use tenure_history::request::{KeyRange, Put, Txn};
    use tenure_history::response::Response;

    use super::*;

    fn recorded(workload: Workload, request: Request, outcome: Outcome) -> Recorded {
        let operation = Operation::invoke(ClientId(4), None, Moment(1), request).complete(Moment(2), outcome);
        Recorded { workload, operation }
    }

    fn put(key: &'static str, value: &'static str) -> Request {
        let put = TxnOp::Put(Put { key: key.into(), value: value.into(), ..Put::default() });
        Request::Txn(Txn { compares: Vec::new(), success: vec![put], failure: Vec::new() })
    }

    fn ok(revision: i64, succeeded: bool) -> Outcome {
        let body = Body::Txn { succeeded, responses: vec![Body::Put { prev_kv: None }] };
        Outcome::Ok(Response { revision: Revision(revision), body })
    }

    fn read(kvs: Vec<(&'static str, &'static str)>) -> Outcome {
        let kv = |(key, value): (&'static str, &'static str)| KeyValue {
            key: Bytes::from(key),
            value: value.into(),
            ..KeyValue::default()
        };
        let kvs: Vec<KeyValue> = kvs.into_iter().map(kv).collect();
        let count = i64::try_from(kvs.len()).unwrap();
        Outcome::Ok(Response { revision: Revision(9), body: Body::Range(RangeBody { kvs, count, more: false }) })
    }

    #[test]
    fn appends_looks_and_items_are_read_off_the_requests() {
        let everything = Request::Range(tenure_history::request::Range { keys: KeyRange::all(), ..Default::default() });
        let operations = [
            recorded(Workload::Append, put("append/0/1/00000", "a-1 b-1"), ok(5, true)),
            recorded(Workload::Append, put("append/0/1/00000", "a-1 b-1 c-1"), ok(6, false)),
            recorded(Workload::Queue, put("queue/2/x-1-1", "item"), ok(7, true)),
            recorded(Workload::Queue, put("queue/2/x-1-2", "item"), Outcome::Unknown),
            recorded(Workload::Ending, everything, read(vec![("append/0/1/00000", "a-1 b-1"), ("queue/2/x-1-1", "i")])),
        ];
        let mut run = Run::default();
        add(&mut run, &operations);
        let appends: Vec<_> = run.appends.iter().map(|append| (&append.token[..], append.outcome)).collect();
        assert_eq!(appends, [("b-1", Appended::Acked(Revision(5))), ("c-1", Appended::Failed)]);
        assert_eq!(run.looks[0].tokens, ["a-1", "b-1"]);
        let items: Vec<_> = run.enqueues.iter().map(|enqueue| (&enqueue.item[..], enqueue.outcome)).collect();
        assert_eq!(items, [("x-1-1", Done::Acked(Revision(7))), ("x-1-2", Done::Unknown)]);
        assert_eq!(run.rests[0].items, ["x-1-1"]);
    }

    #[test]
    fn what_an_earlier_round_left_was_put_in_and_its_lists_are_not_looked_at() {
        let everything = Request::Range(tenure_history::request::Range { keys: KeyRange::all(), ..Default::default() });
        let kvs = vec![("append/0/1/00000", "a-1"), ("append/0/9/00000", "b-1"), ("queue/2/x-1-1", "i")];
        let Outcome::Ok(response) = read(kvs.clone()) else { panic!() };
        let Body::Range(body) = response.body else { panic!() };
        let mut run = Run::default();
        run.history.initial.revision = Revision(9);
        run.history.initial.kvs = body.kvs;
        add(&mut run, &[recorded(Workload::Ending, everything, read(kvs))]);
        assert_eq!(run.looks.iter().map(|look| &look.list[..]).collect::<Vec<_>>(), ["append/0/9/00000"]);
        assert_eq!((&run.enqueues[0].item[..], &run.rests[0].items[0][..]), ("x-1-1", "x-1-1"));
    }
}
