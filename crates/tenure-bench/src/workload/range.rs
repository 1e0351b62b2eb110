//! `range`: one key or all of them, in one answer or in pages, as of now or of an old revision.

use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use http::Uri;
use tenure_proto::etcdserverpb as pb;
use tokio::time::Instant;

use super::RANGE;
use super::fill::Filling;
use crate::caller::{Caller, framed};
use crate::drive::{Client, Scope};
use crate::failure::{Error, Failure};
use crate::keys::{Keys, Values};
use crate::recorder::Recorder;
use crate::report::Report;

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct Range {
    pub keys: Keys,
    /// Of the values that it writes beforehand.
    pub value_bytes: usize,
    /// Whether it writes all keys beforehand; without, answers may be empty.
    pub fill: bool,
    /// What the asked member has, without a question to the others.
    pub serializable: bool,
    /// All keys of the prefix in every operation, instead of one.
    pub whole: bool,
    pub keys_only: bool,
    pub count_only: bool,
    /// With `whole`: how many keys an answer has; an operation then takes as many requests as it needs.
    pub page: Option<u32>,
    /// Read as of before a second writing of all keys, which is done beforehand.
    pub old_revision: bool,
    /// Read as of this revision.
    pub revision: Option<i64>,
}

/// Answers are at least this much, and hold so many keys, or the server did less than it was asked for.
#[derive(Clone, Copy, Debug)]
struct Expected {
    bytes: usize,
    keys: u64,
}

pub(crate) struct Reader {
    caller: Caller,
    uri: Uri,
    range: Rc<Range>,
    revision: i64,
    expected: Expected,
    recorder: Rc<Recorder>,
}

impl Range {
    pub(crate) async fn run(&self, scope: &Rc<Scope>) -> Result<Report, Error> {
        let clients = self.clients(scope).await?;
        Ok(scope.measure("range", clients).await.0)
    }

    pub(crate) async fn clients(&self, scope: &Rc<Scope>) -> Result<Vec<Reader>, Error> {
        if self.page.is_some() && (!self.whole || self.count_only) {
            return Err(Error::Settings("pages are parts of a list of all keys, and a count has none".to_owned()));
        }
        let revision = self.prepare(scope).await?;
        let range = Rc::new(self.clone());
        let client = |at| {
            let caller = scope.caller(at);
            let uri = caller.uri(RANGE)?;
            let (range, recorder) = (range.clone(), scope.recorder.clone());
            Ok(Reader { caller, uri, range, revision, expected: self.expected(), recorder })
        };
        (0..scope.settings.clients).map(client).collect::<Result<_, _>>().map_err(Error::preparing("preparing"))
    }

    /// Writes what is read, and answers as of when it is read.
    async fn prepare(&self, scope: &Scope) -> Result<i64, Error> {
        let values = Values::new(self.value_bytes, true);
        let filled = if self.fill { Filling::new(&self.keys, &values).run(scope).await? } else { 0 };
        if self.old_revision {
            if !self.fill {
                return Err(Error::Settings("an old revision is made by filling; name a revision instead".to_owned()));
            }
            Filling::new(&self.keys, &values).salted(1 << 40).run(scope).await?;
            return Ok(filled);
        }
        Ok(self.revision.unwrap_or(0))
    }

    fn expected(&self) -> Expected {
        if !self.fill {
            return Expected { bytes: 1, keys: 0 };
        }
        let keys = if self.whole { self.keys.count } else { 1 };
        let key_bytes = self.keys.prefix.len() + self.keys.digits;
        let each = match (self.count_only, self.keys_only) {
            (true, _) => 0,
            (false, true) => key_bytes,
            (false, false) => key_bytes + self.value_bytes,
        };
        Expected { bytes: (each * usize::try_from(keys).unwrap_or(0)).max(1), keys }
    }
}

impl Reader {
    fn request(&self, key: Bytes, range_end: Bytes) -> pb::RangeRequest {
        pb::RangeRequest {
            key,
            range_end,
            limit: self.range.page.map_or(0, i64::from),
            revision: self.revision,
            serializable: self.range.serializable,
            keys_only: self.range.keys_only,
            count_only: self.range.count_only,
            ..pb::RangeRequest::default()
        }
    }

    /// One answer, of which only the size is looked at.
    async fn read(&self, request: &pb::RangeRequest) -> Result<(), Failure> {
        let bytes = self.caller.send(&self.uri, framed(request)).await?.end().await?;
        if bytes < self.expected.bytes {
            return Err(Failure::answer(format!("{bytes} bytes instead of {}", self.expected.bytes)));
        }
        Ok(())
    }

    /// All keys, page by page, each from behind the last of the one before, at the revision of the first.
    async fn read_pages(&self) -> Result<(), Failure> {
        let end = self.range.keys.prefix_end();
        let mut request = self.request(self.range.keys.prefix_start(), end);
        let mut keys = 0;
        loop {
            let started = Instant::now();
            let answers = self.caller.send(&self.uri, framed(&request)).await?;
            let page: pb::RangeResponse = answers.only().await?;
            self.recorder.part("page", started);
            keys += page.kvs.len() as u64;
            let Some(last) = page.kvs.last().filter(|_| page.more) else { break };
            request.key = after(&last.key);
            if request.revision == 0 {
                request.revision = page.header.map_or(0, |header| header.revision);
            }
        }
        if keys < self.expected.keys {
            return Err(Failure::answer(format!("{keys} keys instead of {}", self.expected.keys)));
        }
        Ok(())
    }
}

impl Client for Reader {
    async fn operate(&mut self, number: u64) -> Result<(), Failure> {
        let range = &self.range;
        if range.page.is_some() {
            return self.read_pages().await;
        }
        let request = if range.whole {
            self.request(range.keys.prefix_start(), range.keys.prefix_end())
        } else {
            self.request(range.keys.of(number), Bytes::new())
        };
        self.read(&request).await
    }
}

/// The key that follows immediately.
fn after(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}
