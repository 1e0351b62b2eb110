//! Reading a range bit by bit, all of it as of one revision.
//!
//! The first page is an ordinary read and tells the revision. The rest is one stream, where the server has such (etcd 3.7, Tenure), or
//! page after page. When a member fails, the read goes on at another, after the last key that came.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream};
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tonic::Streaming;

use super::{Get, KeyRange, KeyValue, Strange, from_wire};
use crate::call::What;
use crate::client::Client;
use crate::error::{Error, Refusal, Verdict};
use crate::ids::Revision;
use crate::transport::Link;

/// About so much is read at a time, page by page.
const PAGE_BYTES: usize = 1 << 20;
/// The size of the first page in keys, when nothing is known of the values.
const PAGE_KEYS_FIRST: i64 = 128;
const PAGE_KEYS_MAX: usize = 10_000;
/// So many streams in a row may break without a key between.
const BREAKS_MAX: u32 = 16;

/// The key-values of a range, in pages: from [`Get::stream`]. All pages are of the revision of the first.
///
/// It is also a [`Stream`] of them; after an error it has ended.
///
/// # Errors
///
/// As the read itself. [`Refusal::Compacted`] may come late, if the revision is compacted meanwhile.
///
/// # Cancellation
///
/// [`RangeStream::next_page`] can be dropped: what it was about to tell is told next time.
#[must_use = "a stream does nothing unless it is polled"]
pub struct RangeStream {
    state: State,
}

enum State {
    Idle(Box<Reading>),
    Busy(BoxFuture<'static, (Box<Reading>, Page)>),
    Ended,
}

type Page = Result<Option<Vec<KeyValue>>, Error>;

struct Reading {
    client: Client,
    get: Get,
    /// As of which revision, once that is known.
    revision: Revision,
    /// The limit that is left, unless there is none.
    left: Option<u64>,
    page_keys: i64,
    stream: Option<(Link, Streaming<pb::RangeStreamResponse>)>,
    /// The server has no streams, or the request is one that streams do not serve.
    is_paging: bool,
    breaks: u32,
    is_done: bool,
}

impl RangeStream {
    pub(super) fn new(client: Client, get: Get) -> RangeStream {
        let wire = get.wire();
        let is_sorted = wire.sort_order != 0;
        let has_bounds =
            [wire.min_mod_revision, wire.max_mod_revision, wire.min_create_revision, wire.max_create_revision]
                .iter()
                .any(|bound| *bound != 0);
        let reading = Reading {
            client,
            revision: Revision(wire.revision),
            left: u64::try_from(wire.limit).ok().filter(|limit| *limit > 0),
            page_keys: PAGE_KEYS_FIRST,
            stream: None,
            is_paging: has_bounds,
            breaks: 0,
            is_done: false,
            get,
        };
        if is_sorted {
            let error = Error::Invalid("a range that is read bit by bit comes in the order of its keys".to_owned());
            let failed: Page = Err(error);
            return RangeStream { state: State::Busy(std::future::ready((Box::new(reading), failed)).boxed()) };
        }
        RangeStream { state: State::Idle(Box::new(reading)) }
    }

    /// The revision that is read; none before the first page, unless the read named one.
    pub fn revision(&self) -> Option<Revision> {
        match &self.state {
            State::Idle(reading) => Some(reading.revision).filter(|revision| *revision != Revision::NONE),
            State::Busy(_) | State::Ended => None,
        }
    }

    /// The next key-values, at least one; none at the end.
    ///
    /// # Errors
    ///
    /// See [`RangeStream`]. After one there is nothing more.
    pub async fn next_page(&mut self) -> Page {
        std::future::poll_fn(|cx| self.poll_page(cx)).await
    }

    fn poll_page(&mut self, cx: &mut Context<'_>) -> Poll<Page> {
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return Poll::Ready(Ok(None)),
                State::Idle(mut reading) => {
                    let read = async move {
                        let page = reading.page().await;
                        (reading, page)
                    };
                    self.state = State::Busy(read.boxed());
                }
                State::Busy(mut busy) => match busy.poll_unpin(cx) {
                    Poll::Pending => {
                        self.state = State::Busy(busy);
                        return Poll::Pending;
                    }
                    Poll::Ready((reading, page)) => {
                        if matches!(page, Ok(Some(_))) {
                            self.state = State::Idle(reading);
                        }
                        return Poll::Ready(page);
                    }
                },
            }
        }
    }
}

impl Stream for RangeStream {
    type Item = Result<Vec<KeyValue>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_page(cx).map(Result::transpose)
    }
}

impl Reading {
    async fn page(&mut self) -> Page {
        loop {
            if self.is_done || self.left == Some(0) {
                return Ok(None);
            }
            let kvs = if self.revision == Revision::NONE || self.is_paging {
                self.read_page().await?
            } else {
                self.stream_page().await?
            };
            let Some(last) = kvs.last() else { continue };
            self.breaks = 0;
            self.go_on_after(&last.key.clone(), kvs.len());
            return Ok(Some(kvs));
        }
    }

    /// What is left of the range.
    fn go_on_after(&mut self, key: &Bytes, count: usize) {
        let end = self.get.range.end().clone();
        if end.is_empty() {
            self.is_done = true;
            return;
        }
        let mut next = BytesMut::with_capacity(key.len() + 1);
        next.put_slice(key);
        next.put_u8(0);
        self.get.range = KeyRange::between(next.freeze(), end);
        self.left = self.left.map(|left| left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX)));
    }

    async fn read_page(&mut self) -> Result<Vec<KeyValue>, Error> {
        let limit =
            self.left.map_or(self.page_keys, |left| self.page_keys.min(i64::try_from(left).unwrap_or(i64::MAX)));
        let page = self.get.clone().at(self.revision).limit(u64::try_from(limit).unwrap_or(1)).await?;
        if self.revision == Revision::NONE {
            self.revision = page.header.revision;
        }
        let bytes: usize = page.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        let average = bytes.checked_div(page.kvs.len()).unwrap_or(0).max(1);
        self.page_keys = i64::try_from((PAGE_BYTES / average).clamp(1, PAGE_KEYS_MAX)).unwrap_or(1);
        // Bounds drop key-values after the limit has counted them in etcd before 3.6, so an empty page says nothing by itself.
        self.is_done = !page.more || page.kvs.is_empty();
        Ok(page.kvs)
    }

    /// The next chunk of a stream, which is opened if there is none. Nothing if it broke, or cannot be had.
    async fn stream_page(&mut self) -> Result<Vec<KeyValue>, Error> {
        let (link, mut stream) = match self.stream.take() {
            Some(open) => open,
            None => match self.open().await {
                Ok(open) => open,
                Err(error) if error.refusal() == Some(Refusal::Unimplemented) => {
                    self.is_paging = true;
                    return Ok(Vec::new());
                }
                Err(error) => return Err(error),
            },
        };
        let client = self.client.clone();
        let at = client.clock().now() + client.options().timeout;
        let chunk = match client.clock().timeout(at, stream.message()).await {
            Ok(Ok(Some(chunk))) => chunk.range_response.unwrap_or_default(),
            Ok(Ok(None)) => {
                self.is_done = true;
                return Ok(Vec::new());
            }
            Ok(Err(status)) => {
                link.report(Err(&status));
                if status.code() == tonic::Code::Unimplemented {
                    self.is_paging = true;
                    return Ok(Vec::new());
                }
                let is_final = matches!(Verdict::of(&status, true), Verdict::Refused(_));
                return self.broken(Error::from_status(&link, false, &status), is_final);
            }
            Err(_) => {
                link.report_silence();
                return self.broken(client.nonsense("a stream that says nothing"), false);
            }
        };
        let kvs = from_wire(chunk.kvs, client.namespace()).map_err(|Strange| client.strange_key())?;
        self.stream = Some((link, stream));
        Ok(kvs)
    }

    fn broken(&mut self, error: Error, is_final: bool) -> Result<Vec<KeyValue>, Error> {
        self.breaks += 1;
        if is_final || self.breaks > BREAKS_MAX { Err(error) } else { Ok(Vec::new()) }
    }

    async fn open(&self) -> Result<(Link, Streaming<pb::RangeStreamResponse>), Error> {
        let mut request = self.get.clone().at(self.revision).into_wire(self.client.namespace());
        request.limit = self.left.map_or(0, |left| i64::try_from(left).unwrap_or(i64::MAX));
        let what = self.get.patience.of(What::read("range stream")).local(request.serializable);
        let mut opened = None;
        let stream = self.client.call(what, |link| {
            opened = Some(link.clone());
            let request = request.clone();
            async move { KvClient::new(link).max_decoding_message_size(usize::MAX).range_stream(request).await }
        });
        let stream = stream.await?;
        opened.map(|link| (link, stream)).ok_or(Error::Closed)
    }
}

impl fmt::Debug for RangeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RangeStream").field("revision", &self.revision()).finish_non_exhaustive()
    }
}
