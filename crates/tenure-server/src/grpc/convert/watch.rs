//! Watch requests and their messages.

use bytes::Bytes;
use prost::Message;
use tenure_core::Revision;
use tenure_core::outcome::KeyValue;
use tenure_core::row::EventRow;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::watch_create_request::FilterType;
use tenure_proto::etcdserverpb::watch_request::RequestUnion;
use tenure_proto::mvccpb;
use tenure_proto::mvccpb::event::EventType;

use super::request::range_from;
use super::response::key_value;
use crate::grpc::errors::cancel_reason;
use crate::node::watch::{CreateWatch, Kinds, Scope, WatchEvent, WatchId, WatchMessage, WatchRequest};

/// The id in messages that are about no watcher, or about one that was not made.
const NO_WATCHER: i64 = -1;

/// The revision in the header of a message that has none of its own.
const NO_REVISION: Revision = Revision(0);

/// A request, or nothing if it is of a kind that is not known: etcd passes over those, too.
pub fn watch_request(request: pb::WatchRequest) -> Option<WatchRequest> {
    match request.request_union? {
        RequestUnion::CreateRequest(create) => Some(WatchRequest::Create(create_watch(create))),
        RequestUnion::CancelRequest(cancel) => Some(WatchRequest::Cancel(WatchId(cancel.watch_id))),
        RequestUnion::ProgressRequest(_) => Some(WatchRequest::Progress),
    }
}

fn create_watch(request: pb::WatchCreateRequest) -> CreateWatch {
    let leaves_out = |filter: FilterType| request.filters.contains(&filter.into());
    let kinds = Kinds { puts: !leaves_out(FilterType::Noput), deletes: !leaves_out(FilterType::Nodelete) };
    // Unlike in a read, no key is the smallest key there is.
    let key = if request.key.is_empty() { Bytes::from_static(b"\0") } else { request.key };
    let range = range_from(key, request.range_end);
    CreateWatch {
        id: Some(WatchId(request.watch_id)).filter(|id| id.0 != 0),
        start: Revision(request.start_revision),
        scope: Scope { range, kinds, prev_kv: request.prev_kv, fragment: request.fragment },
        progress_notify: request.progress_notify,
    }
}

/// A message. `header` makes the header for a revision.
pub fn watch_response(message: WatchMessage, header: impl Fn(Revision) -> pb::ResponseHeader) -> pb::WatchResponse {
    let about = |id: i64, revision: Revision| pb::WatchResponse {
        header: Some(header(revision)),
        watch_id: id,
        ..pb::WatchResponse::default()
    };
    match message {
        WatchMessage::Created { id, revision } => pb::WatchResponse { created: true, ..about(id.0, revision) },
        WatchMessage::Refused { refusal, revision } => pb::WatchResponse {
            created: true,
            canceled: true,
            cancel_reason: cancel_reason(refusal),
            ..about(NO_WATCHER, revision)
        },
        WatchMessage::Canceled { id, revision } => pb::WatchResponse { canceled: true, ..about(id.0, revision) },
        WatchMessage::Compacted { id, compacted } => {
            pb::WatchResponse { canceled: true, compact_revision: compacted.0, ..about(id.0, NO_REVISION) }
        }
        WatchMessage::Failed { id, refusal, revision } => {
            pb::WatchResponse { canceled: true, cancel_reason: cancel_reason(refusal), ..about(id.0, revision) }
        }
        WatchMessage::Events { id, revision, events, fragment } => {
            let events = events.into_iter().map(event).collect();
            pb::WatchResponse { events, fragment, ..about(id.0, revision) }
        }
        WatchMessage::Progress { id, revision } => about(id.map_or(NO_WATCHER, |id| id.0), revision),
    }
}

fn event(WatchEvent { event, previous }: WatchEvent) -> mvccpb::Event {
    let kind = if event.meta.is_tombstone() { EventType::Delete } else { EventType::Put };
    let EventRow { key, meta, value, .. } = event;
    // A tombstone has neither creation, version, value nor lease, and the message of a delete tells none.
    let kv = key_value(KeyValue::of(key, &meta, value));
    mvccpb::Event { r#type: kind.into(), kv: Some(kv), prev_kv: previous.map(key_value) }
}

/// What an event takes in a message.
pub fn event_wire_bytes(row: &EventRow, previous: Option<&KeyValue>) -> usize {
    let length = event(WatchEvent { event: row.clone(), previous: previous.cloned() }).encoded_len();
    // The field's number and length come before it.
    1 + prost::length_delimiter_len(length) + length
}
