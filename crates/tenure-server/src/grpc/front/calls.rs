//! The calls that clients make most, without what a general server does for each: from the message to the service, and from its
//! answer to the connection's output.
//!
//! The services are the same that tonic's routes have; here they are called by hand. What holds for every call holds here
//! too: the gate, deadlines of clients, and etcd's words for what is refused.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{Extensions, HeaderMap};
use prost::Message;
use tenure_http2::{Farewell, Head, Reply, Unary};
use tenure_proto::etcdserverpb::kv_server::Kv;
use tenure_proto::etcdserverpb::lease_server::Lease;
use tenure_proto::tenure::v1::locks_server::Locks;
use tenure_raft::accept::ClientInfo;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::super::gate::Admission;
use super::super::kv::{KvService, RangeAnswer};
use super::super::lease::LeaseService;
use super::super::locks::LocksService;
use super::deadline::{TIMEOUT, exceeded, timeout};
use super::spoken::{decode, farewell};

/// A call that is being served.
pub(super) type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Metadata that services read begins so.
const OWN_METADATA: &[u8] = b"tenure-";

/// See the module's header.
pub(in crate::grpc) struct Calls {
    admission: Admission,
    kv: Arc<KvService>,
    lease: Arc<LeaseService>,
    locks: Arc<LocksService>,
}

/// Which they are.
const PATHS: [&str; 10] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/DeleteRange",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.Lease/LeaseGrant",
    "/etcdserverpb.Lease/LeaseRevoke",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/tenure.v1.Locks/Release",
    "/tenure.v1.Locks/Cancel",
    "/tenure.v1.Locks/Inspect",
];

/// Whether a request is one of these calls, in plain gRPC. What is unusual about a request is for the routes.
pub(super) fn is_served(head: &Head) -> bool {
    PATHS.contains(&head.path()) && is_plain(head)
}

/// Whether a request is plain gRPC.
pub(super) fn is_plain(head: &Head) -> bool {
    head.method() == http::Method::POST
        && head.get("content-type").is_some_and(|kind| kind.starts_with(b"application/grpc"))
        && head.get("grpc-encoding").is_none_or(|encoding| encoding == b"identity")
}

impl Calls {
    pub(in crate::grpc) fn new(
        admission: Admission,
        kv: Arc<KvService>,
        lease: Arc<LeaseService>,
        locks: Arc<LocksService>,
    ) -> Calls {
        Calls { admission, kv, lease, locks }
    }

    /// Begins a call. Nothing is left to do if it was refused.
    pub(super) fn call(&self, call: Unary, client: &ClientInfo, reply: Reply) -> Option<Call> {
        if let Err(refusal) = self.admission.admit(|name| call.head.get(name)) {
            refuse(&refusal.into(), reply);
            return None;
        }
        let Calls { kv, lease, locks, .. } = self;
        let call = Begun { call, client: client.clone(), reply };
        Some(match call.call.head.path() {
            "/etcdserverpb.KV/Range" => with(kv, call, |kv, range| kv.range_answer(range), give_range),
            "/etcdserverpb.KV/Put" => with(kv, call, |kv, put| kv.put(put), give),
            "/etcdserverpb.KV/DeleteRange" => with(kv, call, |kv, delete| kv.delete_range(delete), give),
            "/etcdserverpb.KV/Txn" => with(kv, call, |kv, txn| kv.txn(txn), give),
            "/etcdserverpb.Lease/LeaseGrant" => with(lease, call, |lease, grant| lease.lease_grant(grant), give),
            "/etcdserverpb.Lease/LeaseRevoke" => with(lease, call, |lease, revoke| lease.lease_revoke(revoke), give),
            "/etcdserverpb.Lease/LeaseTimeToLive" => {
                with(lease, call, |lease, asked| lease.lease_time_to_live(asked), give)
            }
            "/tenure.v1.Locks/Release" => with(locks, call, |locks, release| locks.release(release), give),
            "/tenure.v1.Locks/Cancel" => with(locks, call, |locks, cancel| locks.cancel(cancel), give),
            "/tenure.v1.Locks/Inspect" => with(locks, call, |locks, inspect| locks.inspect(inspect), give),
            // Not among those that `is_served` lets through.
            _ => Box::pin(std::future::ready(())),
        })
    }
}

/// A call, who makes it, and where its answer goes.
struct Begun {
    call: Unary,
    client: ClientInfo,
    reply: Reply,
}

/// A method of a service, as tonic has it.
type Method<S, M, A> =
    for<'s> fn(&'s S, Request<M>) -> Pin<Box<dyn Future<Output = Result<Response<A>, Status>> + Send + 's>>;

fn with<S, M, A>(service: &Arc<S>, begun: Begun, method: Method<S, M, A>, give: fn(Response<A>, Reply)) -> Call
where
    S: Send + Sync + 'static,
    M: Message + Default + 'static,
    A: 'static,
{
    let service = service.clone();
    Box::pin(async move {
        let Begun { call, client, reply } = begun;
        let patience = call.head.get(TIMEOUT).and_then(timeout);
        let answer = match (request(call, client), patience) {
            (Err(status), _) => Err(status),
            (Ok(request), None) => method(&service, request).await,
            (Ok(request), Some(patience)) => {
                let answer = tokio::time::timeout(patience, method(&service, request)).await;
                answer.unwrap_or_else(|_| Err(exceeded()))
            }
        };
        match answer {
            Ok(answer) => give(answer, reply),
            Err(status) => refuse(&status, reply),
        }
    })
}

/// The request as services take it.
fn request<M: Message + Default>(call: Unary, client: ClientInfo) -> Result<Request<M>, Status> {
    let message = decode(call.message)?;
    let is_own = |(name, _): (&[u8], &[u8])| name.starts_with(OWN_METADATA);
    let metadata = if call.head.iter().any(is_own) { call.head.headers() } else { HeaderMap::new() };
    let mut extensions = Extensions::new();
    extensions.insert(client);
    Ok(Request::from_parts(MetadataMap::from_headers(metadata), extensions, message))
}

fn give<A: Message>(answer: Response<A>, reply: Reply) {
    let (metadata, message, _) = answer.into_parts();
    let length = message.encoded_len();
    let write = |out: &mut Vec<u8>| message.encode_raw(out);
    if metadata.is_empty() {
        reply.message(length, write);
    } else {
        reply.message_with(metadata.into_headers(), length, write);
    }
}

fn give_range(answer: Response<RangeAnswer>, reply: Reply) {
    let (metadata, answer, extensions) = answer.into_parts();
    match answer {
        RangeAnswer::Whole(message) => give(Response::from_parts(metadata, message, extensions), reply),
        RangeAnswer::Pieces(pieces) => reply.pieces(pieces),
    }
}

fn refuse(status: &Status, reply: Reply) {
    let Farewell { code, message, metadata } = farewell(status);
    match metadata {
        None => reply.error(code, message),
        Some(metadata) => reply.error_with(*metadata, code, message),
    }
}
