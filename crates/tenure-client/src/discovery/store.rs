//! What discovery asks the store for: a listing, a probe, one key, and a write that depends on what was found.
//!
//! All reads are linearizable. A listing of many keys is read in pages that are all of the first page's revision, so it is of one
//! moment however long it takes.

use bytes::Bytes;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use tenure_proto::etcdserverpb::request_op::Request;
use tenure_proto::etcdserverpb::response_op::Response;
use tenure_proto::mvccpb::KeyValue;

use super::cache::{Listing, Probe, Stored};
use super::record::Record;
use super::stamp::Found;
use crate::call::What;
use crate::{Client, Error, Refusal};

/// How many keys are read at once: with values of a kilobyte that is a quarter of what a message may hold.
const PAGE_KEYS: i64 = 1000;

/// The store as one client sees it.
#[derive(Clone, Debug)]
pub(super) struct Store(pub(super) Client);

/// What became of a write that depends on what was found.
#[derive(Debug)]
pub(super) enum Wrote {
    /// It was done, in this revision.
    Yes { revision: i64 },
    /// Something else was there.
    No { found: Found },
}

impl Store {
    /// All keys that begin with `prefix`, at one revision.
    pub(super) async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        loop {
            match self.list_once(prefix).await {
                // It was compacted between two pages: the next one is of a later revision.
                Err(error) if matches!(error.refusal(), Some(Refusal::Compacted)) => {}
                listed => return listed,
            }
        }
    }

    async fn list_once(&self, prefix: &str) -> Result<Listing, Error> {
        let (mut key, range_end) = self.range(prefix);
        let mut listing = Listing { revision: 0, stored: Vec::new() };
        loop {
            let page = pb::RangeRequest {
                key: key.clone(),
                range_end: range_end.clone(),
                revision: listing.revision,
                limit: PAGE_KEYS,
                ..pb::RangeRequest::default()
            };
            let page = self.read("discovery list", page).await?;
            if listing.revision == 0 {
                listing.revision = revision(page.header.as_ref());
            }
            let last = page.kvs.last().map(|kv| kv.key.clone());
            listing.stored.extend(page.kvs.into_iter().filter_map(|kv| self.stored(kv)));
            match last.filter(|_| page.more) {
                None => return Ok(listing),
                // The first key after it.
                Some(last) => key = [last.as_ref(), &[0]].concat().into(),
            }
        }
    }

    /// How many keys begin with `prefix`, and which of them was written last.
    pub(super) async fn probe(&self, prefix: &str) -> Result<Probe, Error> {
        let (key, range_end) = self.range(prefix);
        let request = pb::RangeRequest {
            key,
            range_end,
            limit: 1,
            keys_only: true,
            sort_order: SortOrder::Descend.into(),
            sort_target: SortTarget::Mod.into(),
            ..pb::RangeRequest::default()
        };
        let answer = self.read("discovery probe", request).await?;
        Ok(Probe {
            revision: revision(answer.header.as_ref()),
            keys: usize::try_from(answer.count).unwrap_or(0),
            mod_revision: answer.kvs.first().map_or(0, |kv| kv.mod_revision),
        })
    }

    /// What is at a key, and the store's revision.
    pub(super) async fn find(&self, key: &InstanceKey) -> Result<(i64, Option<KeyValue>), Error> {
        let request = pb::RangeRequest { key: self.0.namespace().wrap(key.key.clone()), ..pb::RangeRequest::default() };
        let mut answer = self.read("discovery find", request).await?;
        Ok((revision(answer.header.as_ref()), answer.kvs.pop()))
    }

    /// Puts a value on a lease if the key's mod revision is still the given one (0: if there is no key).
    ///
    /// If it is sent twice and done the first time, the second finds what the first wrote: so it may be sent again.
    pub(super) async fn put_if(
        &self,
        key: &InstanceKey,
        value: Vec<u8>,
        lease: i64,
        mod_revision: i64,
    ) -> Result<Wrote, Error> {
        let name = self.0.namespace().wrap(key.key.clone());
        let compare = pb::Compare {
            key: name.clone(),
            target: CompareTarget::Mod.into(),
            result: CompareResult::Equal.into(),
            target_union: Some(TargetUnion::ModRevision(mod_revision)),
            ..pb::Compare::default()
        };
        let put = pb::PutRequest { key: name.clone(), value: value.into(), lease, ..pb::PutRequest::default() };
        let get = pb::RangeRequest { key: name, ..pb::RangeRequest::default() };
        let txn = pb::TxnRequest {
            compare: vec![compare],
            success: vec![pb::RequestOp { request: Some(Request::RequestPut(put)) }],
            failure: vec![pb::RequestOp { request: Some(Request::RequestRange(get)) }],
        };
        let answer = self
            .0
            .call(What::idempotent("discovery register"), |link| {
                let txn = txn.clone();
                async move { KvClient::new(link).txn(txn).await }
            })
            .await?;
        if answer.succeeded {
            return Ok(Wrote::Yes { revision: revision(answer.header.as_ref()) });
        }
        let found = answer.responses.into_iter().find_map(|response| match response.response {
            Some(Response::ResponseRange(mut range)) => range.kvs.pop(),
            Some(Response::ResponsePut(_) | Response::ResponseDeleteRange(_) | Response::ResponseTxn(_)) | None => None,
        });
        Ok(Wrote::No { found: key.judge(found.as_ref()) })
    }

    async fn read(&self, name: &'static str, request: pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        let read = |link| {
            let request = request.clone();
            async move { KvClient::new(link).range(request).await }
        };
        self.0.call(What::read(name), read).await
    }

    fn range(&self, prefix: &str) -> (Bytes, Bytes) {
        let range = crate::KeyRange::prefix(prefix.to_owned());
        self.0.namespace().wrap_range(range.start().clone(), range.end().clone())
    }

    fn stored(&self, kv: KeyValue) -> Option<Stored> {
        Some(Stored {
            key: self.0.namespace().unwrap(&kv.key)?,
            value: kv.value,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            lease: kv.lease,
        })
    }
}

/// An instance's key, and the names in it.
#[derive(Clone, Debug)]
pub(super) struct InstanceKey {
    pub(super) kind: String,
    pub(super) id: String,
    pub(super) key: String,
}

impl InstanceKey {
    /// What stands there.
    pub(super) fn judge(&self, kv: Option<&KeyValue>) -> Found {
        kv.map_or(Found::Nothing, |kv| self.found(&kv.value, kv.mod_revision, kv.lease))
    }

    /// What a value that stands there is.
    pub(super) fn found(&self, value: &[u8], mod_revision: i64, lease: i64) -> Found {
        match Record::decode(&self.kind, &self.id, value) {
            Ok(Record { stamp, leaving, .. }) => Found::Registration { stamp, mod_revision, lease, leaving },
            Err(_) => Found::Unreadable { mod_revision },
        }
    }
}

fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}
