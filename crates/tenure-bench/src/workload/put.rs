//! `put`: a value at a key.

use std::rc::Rc;

use bytes::Bytes;
use http::Uri;
use tenure_proto::etcdserverpb as pb;

use super::PUT;
use crate::caller::{Caller, framed};
use crate::drive::{Client, Scope};
use crate::failure::{Error, Failure};
use crate::keys::{Keys, Values};
use crate::report::Report;

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct Put {
    pub keys: Keys,
    pub value_bytes: usize,
    /// Whether every put has a value of its own, which no engine can compress against another.
    pub fresh_values: bool,
}

pub(crate) struct Putter {
    caller: Caller,
    uri: Uri,
    keys: Rc<Keys>,
    values: Values,
}

impl Put {
    pub(crate) async fn run(&self, scope: &Rc<Scope>) -> Result<Report, Error> {
        let clients = self.clients(scope)?;
        Ok(scope.measure("put", clients).await.0)
    }

    pub(crate) fn clients(&self, scope: &Scope) -> Result<Vec<Putter>, Error> {
        let (keys, values) = (Rc::new(self.keys.clone()), Values::new(self.value_bytes, self.fresh_values));
        let client = |at| Putter::new(scope.caller(at), keys.clone(), values.clone());
        (0..scope.settings.clients).map(client).collect::<Result<_, _>>().map_err(Error::preparing("preparing"))
    }
}

impl Putter {
    pub(crate) fn new(caller: Caller, keys: Rc<Keys>, values: Values) -> Result<Putter, Failure> {
        let uri = caller.uri(PUT)?;
        Ok(Putter { caller, uri, keys, values })
    }

    pub(crate) async fn put(&self, key: Bytes, value: Bytes) -> Result<(), Failure> {
        let request = framed(&pb::PutRequest { key, value, ..pb::PutRequest::default() });
        match self.caller.send(&self.uri, request).await?.end().await? {
            0 => Err(Failure::answer("an answer without a message")),
            _ => Ok(()),
        }
    }
}

impl Client for Putter {
    async fn operate(&mut self, number: u64) -> Result<(), Failure> {
        self.put(self.keys.of(number), self.values.of(number)).await
    }
}
