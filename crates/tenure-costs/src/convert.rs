//! Protobuf to commands and back: from the bytes of a request's message to those that are proposed, and from an outcome to
//! the bytes of the answer.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tenure_core::command::Command;
use tenure_core::memory::MemoryState;
use tenure_core::outcome::Outcome;
use tenure_core::range::read_range;
use tenure_core::row::{EventRow, KeyMeta};
use tenure_core::{EventId, LeaseId, Revision};
use tenure_proto::etcdserverpb as pb;
use tenure_server::grpc::convert::{
    Limits, put_answer, put_command, range_call, range_response, txn_answer, txn_call, watch_response,
};
use tenure_server::node::watch::{WatchEvent, WatchId, WatchMessage};

use crate::commands::{apply, group, key, put, txn, value};
use crate::{Piece, Run};

const OPERATIONS: u64 = 1000;
const WATCHERS: i64 = 1000;

pub(crate) const PIECES: &[Piece] = &[
    Piece { name: "convert: put to command", operations: OPERATIONS, prepare: put_requests },
    Piece { name: "convert: put's outcome to answer", operations: OPERATIONS, prepare: put_answers },
    Piece { name: "convert: txn of 10 puts to command", operations: OPERATIONS, prepare: txn_requests },
    Piece { name: "convert: txn's outcome to answer", operations: OPERATIONS, prepare: txn_answers },
    Piece { name: "convert: range of 1 key to read and answer", operations: OPERATIONS, prepare: ranges },
    Piece { name: "convert: an event to 1000 watchers", operations: 1, prepare: watchers },
];

fn header() -> pb::ResponseHeader {
    pb::ResponseHeader { cluster_id: 1, member_id: 2, revision: 0, raft_term: 3 }
}

fn put_request(number: u64) -> pb::PutRequest {
    pb::PutRequest { key: key(number), value: value(), ..pb::PutRequest::default() }
}

/// Decodes messages and hands them to what encodes the command.
fn requests<M: Message + Default + 'static>(message: &M, command: fn(M) -> Bytes) -> Run {
    let bytes = Bytes::from(message.encode_to_vec());
    Box::new(move || {
        for _ in 0..OPERATIONS {
            black_box(command(M::decode(bytes.clone()).expect("it was encoded")));
        }
    })
}

fn put_requests() -> Run {
    requests(&put_request(1), |request| put_command(request, &Limits::default()).expect("a sound request").encode())
}

fn txn_requests() -> Run {
    let op = |number| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put_request(number))) };
    let request = pb::TxnRequest { success: (0..10).map(op).collect(), ..pb::TxnRequest::default() };
    requests(&request, |request| {
        let call = txn_call(request, &Limits::default()).expect("a sound request");
        assert!(!call.read_only);
        Command::Txn(call.txn).encode()
    })
}

/// Encodes what becomes of a command's outcome, into a buffer that stays.
fn answers<M: Message + 'static>(command: Command, answer: fn(Outcome) -> M) -> Run {
    let outcome = apply(&mut MemoryState::default(), 1, &group([command])).remove(0);
    let outcomes: Vec<_> = (0..OPERATIONS).map(|_| outcome.clone()).collect();
    let mut given = Some(outcomes);
    let mut out = BytesMut::with_capacity(1 << 16);
    Box::new(move || {
        for outcome in given.take().into_iter().flatten() {
            out.clear();
            answer(outcome).encode(&mut out).expect("there is room");
            black_box(&out);
        }
    })
}

fn put_answers() -> Run {
    answers(put(1), |outcome| put_answer(header(), outcome).expect("it answers a put"))
}

fn txn_answers() -> Run {
    answers(txn(1), |outcome| txn_answer(header(), outcome).expect("it answers a transaction"))
}

fn ranges() -> Run {
    let mut state = MemoryState::default();
    apply(&mut state, 1, &group([put(1)]));
    let bytes = Bytes::from(pb::RangeRequest { key: key(1), ..pb::RangeRequest::default() }.encode_to_vec());
    let mut out = BytesMut::with_capacity(1 << 16);
    Box::new(move || {
        for _ in 0..OPERATIONS {
            let request = pb::RangeRequest::decode(bytes.clone()).expect("it was encoded");
            let call = range_call(request).expect("a sound request");
            let result = read_range(&state, &call.range).expect("the state is sound").expect("nothing is refused");
            out.clear();
            range_response(header(), result).encode(&mut out).expect("there is room");
            black_box(&out);
        }
    })
}

/// What is left of a fan-out after the hub has matched: a message for each watcher.
fn watchers() -> Run {
    let modified = EventId { revision: Revision(2), sub: 0 };
    let meta = KeyMeta { create: Revision(2), modified, version: 1, lease: LeaseId::NONE };
    let event = EventRow { key: key(1), meta, value: value(), previous: None, cause: None };
    let mut out = BytesMut::with_capacity(1 << 20);
    Box::new(move || {
        out.clear();
        for id in 0..WATCHERS {
            let events = vec![WatchEvent { event: event.clone(), previous: None }];
            let message = WatchMessage::Events { id: WatchId(id), revision: Revision(2), events, fragment: false };
            let response = watch_response(message, |revision| pb::ResponseHeader { revision: revision.0, ..header() });
            response.encode(&mut out).expect("there is room");
        }
        black_box(&out);
    })
}
