//! Watch requests and messages: what each field of the wire becomes.

use bytes::Bytes;
use prost::Message;
use tenure_core::command::KeyRange;
use tenure_core::outcome::KeyValue;
use tenure_core::row::{EventRow, KeyMeta};
use tenure_core::{EventId, LeaseId, Revision};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::watch_request::RequestUnion;
use tenure_proto::mvccpb;

use crate::grpc::convert::{event_wire_bytes, watch_request, watch_response};
use crate::node::watch::{CreateWatch, Kinds, Scope, WatchEvent, WatchId, WatchMessage, WatchRefusal, WatchRequest};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn asked(request: RequestUnion) -> Option<WatchRequest> {
    watch_request(pb::WatchRequest { request_union: Some(request) })
}

fn created(request: pb::WatchCreateRequest) -> CreateWatch {
    match asked(RequestUnion::CreateRequest(request)) {
        Some(WatchRequest::Create(create)) => create,
        other => panic!("{other:?}"),
    }
}

#[test]
fn keys_and_ends_name_the_ranges_of_etcd() {
    let range = |key: &str, range_end: &str| {
        created(pb::WatchCreateRequest { key: bytes(key), range_end: bytes(range_end), ..Default::default() })
            .scope
            .range
    };
    assert_eq!(range("k", ""), KeyRange::One(bytes("k")));
    assert_eq!(range("k", "\0"), KeyRange::From(bytes("k")));
    assert_eq!(range("k", "m"), KeyRange::Between(bytes("k"), bytes("m")));
    assert_eq!(range("", ""), KeyRange::One(bytes("\0")), "no key is the smallest one");
    assert_eq!(range("", "\0"), KeyRange::From(bytes("\0")));
    assert!(range("k", "k").is_empty() && range("k", "a").is_empty());
}

#[test]
fn every_option_arrives() {
    let plain = created(pb::WatchCreateRequest { key: bytes("k"), ..Default::default() });
    let scope = Scope { range: KeyRange::One(bytes("k")), kinds: Kinds::ALL, prev_kv: false, fragment: false };
    assert_eq!(plain, CreateWatch { id: None, start: Revision(0), scope, progress_notify: false });
    let full = created(pb::WatchCreateRequest {
        key: bytes("k"),
        start_revision: -7,
        progress_notify: true,
        filters: vec![1, 1, 99],
        prev_kv: true,
        watch_id: -2,
        fragment: true,
        ..Default::default()
    });
    assert_eq!((full.id, full.start, full.progress_notify), (Some(WatchId(-2)), Revision(-7), true));
    assert_eq!(full.scope.kinds, Kinds { puts: true, deletes: false }, "filters nobody knows leave nothing out");
    assert!(full.scope.prev_kv && full.scope.fragment);
    let cancel = asked(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 3 }));
    assert_eq!(cancel, Some(WatchRequest::Cancel(WatchId(3))));
    assert_eq!(asked(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})), Some(WatchRequest::Progress));
    assert_eq!(watch_request(pb::WatchRequest { request_union: None }), None);
}

fn answer(message: WatchMessage) -> pb::WatchResponse {
    watch_response(message, |revision| pb::ResponseHeader { revision: revision.0, ..Default::default() })
}

#[test]
fn every_message_has_etcds_shape() {
    let header = |revision| Some(pb::ResponseHeader { revision, ..Default::default() });
    let (id, revision) = (WatchId(5), Revision(9));
    let base = pb::WatchResponse { header: header(9), watch_id: 5, ..Default::default() };
    let of_none = pb::WatchResponse { watch_id: -1, ..base.clone() };
    let made = answer(WatchMessage::Created { id, revision });
    assert_eq!(made, pb::WatchResponse { created: true, ..base.clone() });
    let ended = answer(WatchMessage::Canceled { id, revision });
    assert_eq!(ended, pb::WatchResponse { canceled: true, ..base.clone() });
    let compacted = answer(WatchMessage::Compacted { id, compacted: Revision(7) });
    let canceled = pb::WatchResponse { canceled: true, ..base.clone() };
    assert_eq!(compacted, pb::WatchResponse { header: header(0), compact_revision: 7, ..canceled.clone() });
    assert_eq!(answer(WatchMessage::Progress { id: Some(id), revision }), base);
    assert_eq!(answer(WatchMessage::Progress { id: None, revision }), of_none);
    for (refusal, reason) in [
        (WatchRefusal::NegativeStart, "etcdserver: mvcc: required revision has been compacted"),
        (WatchRefusal::EmptyRange, "mvcc: watcher range is empty"),
        (WatchRefusal::DuplicateId, "mvcc: duplicate watch ID provided on the WatchStream"),
        (WatchRefusal::TooMany, "etcdserver: too many requests"),
        (WatchRefusal::TooLarge, "etcdserver: a revision is too large for one message, watch with fragments"),
    ] {
        let refused = pb::WatchResponse { created: true, canceled: true, ..of_none.clone() };
        let cancel_reason = reason.to_owned();
        assert_eq!(
            answer(WatchMessage::Refused { refusal, revision }),
            pb::WatchResponse { cancel_reason: cancel_reason.clone(), ..refused }
        );
        assert_eq!(
            answer(WatchMessage::Failed { id, refusal, revision }),
            pb::WatchResponse { cancel_reason, ..canceled.clone() }
        );
    }
}

fn row(version: i64, value: &str) -> EventRow {
    let modified = EventId { revision: Revision(9), sub: 2 };
    let create = Revision(if version == 0 { 0 } else { 4 });
    let lease = LeaseId(if version == 0 { 0 } else { 77 });
    EventRow {
        key: bytes("k"),
        meta: KeyMeta { create, modified, version, lease },
        value: bytes(value),
        previous: None,
        cause: None,
    }
}

#[test]
fn events_say_what_a_key_became_and_a_delete_only_which_it_was() {
    let before = KeyValue { key: bytes("k"), value: bytes("old"), version: 2, ..Default::default() };
    let events = vec![
        WatchEvent { event: row(3, "v"), previous: Some(before.clone()) },
        WatchEvent { event: row(0, ""), previous: None },
    ];
    let message = WatchMessage::Events { id: WatchId(0), revision: Revision(9), events, fragment: true };
    let told = answer(message);
    assert!(told.fragment && told.header.is_some_and(|header| header.revision == 9));
    let kv = mvccpb::KeyValue { key: bytes("k"), mod_revision: 9, ..Default::default() };
    let put = mvccpb::KeyValue { create_revision: 4, version: 3, value: bytes("v"), lease: 77, ..kv.clone() };
    let prev_kv = mvccpb::KeyValue { key: bytes("k"), value: bytes("old"), version: 2, ..Default::default() };
    let expected = [
        mvccpb::Event { r#type: 0, kv: Some(put), prev_kv: Some(prev_kv) },
        mvccpb::Event { r#type: 1, kv: Some(kv), prev_kv: None },
    ];
    assert_eq!(told.events, expected);
}

#[test]
fn events_are_measured_as_they_are_sent() {
    for (value, before) in [("", ""), ("v", "w"), (&"v".repeat(300)[..], &"w".repeat(70_000)[..])] {
        let row = row(1, value);
        let before = KeyValue { key: bytes("k"), value: bytes(before), ..Default::default() };
        let measured = event_wire_bytes(&row, Some(&before));
        let events = vec![WatchEvent { event: row, previous: Some(before) }];
        let message = answer(WatchMessage::Events { id: WatchId(0), revision: Revision(0), events, fragment: false });
        let without = pb::WatchResponse { events: vec![], ..message.clone() };
        assert_eq!(measured, message.encoded_len() - without.encoded_len());
    }
}
