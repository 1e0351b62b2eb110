//! `watch-latency`: from a client's put until its own watcher has it.

use std::rc::Rc;

use bytes::Bytes;
use tenure_proto::etcdserverpb as pb;
use tokio::time::Instant;

use super::put::Putter;
use super::watching::{Stamp, judge, open};
use crate::caller::{Answers, Caller, Requests};
use crate::drive::{Client, Scope};
use crate::failure::{Error, Failure};
use crate::keys::{Keys, Values};
use crate::recorder::Recorder;
use crate::report::Report;

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct WatchLatency {
    /// A client has one of its own.
    pub keys: Keys,
    pub value_bytes: usize,
}

struct Watcher {
    putter: Putter,
    /// Another connection than the one it writes on, if there is one.
    watches_on: Caller,
    key: Bytes,
    values: Values,
    base: Instant,
    stream: Option<(Requests, Answers)>,
    recorder: Rc<Recorder>,
}

impl WatchLatency {
    pub(crate) async fn run(&self, scope: &Rc<Scope>) -> Result<Report, Error> {
        let (keys, values, base) = (Rc::new(self.keys.clone()), Values::new(self.value_bytes, true), Instant::now());
        let client = |at: usize| {
            Ok(Watcher {
                putter: Putter::new(scope.caller(at), keys.clone(), values.clone())?,
                watches_on: scope.caller(at + 1),
                key: keys.at(at as u64 % keys.count),
                values: values.clone(),
                base,
                stream: None,
                recorder: scope.recorder.clone(),
            })
        };
        if scope.settings.clients as u64 > keys.count {
            return Err(Error::Settings("every client needs a key of its own".to_owned()));
        }
        let clients = (0..scope.settings.clients).map(client).collect::<Result<_, Failure>>();
        let clients = clients.map_err(Error::preparing("preparing"))?;
        Ok(scope.measure("watch-latency", clients).await.0)
    }
}

impl Client for Watcher {
    async fn operate(&mut self, number: u64) -> Result<(), Failure> {
        let (requests, mut answers) = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let watch = pb::WatchCreateRequest { key: self.key.clone(), ..pb::WatchCreateRequest::default() };
                open(&self.watches_on, vec![watch]).await?
            }
        };
        let sent = Instant::now();
        let value = Stamp { sent, number }.value(self.base, &self.values.of(number));
        let written = async {
            self.putter.put(self.key.clone(), value).await?;
            self.recorder.part("put", sent);
            Ok(())
        };
        let seen = async {
            loop {
                let answer = answers.next::<pb::WatchResponse>().await?;
                let answer = answer.ok_or_else(|| Failure::answer("a watch stream has ended"))?;
                judge(&answer)?;
                let mut stamps =
                    answer.events.iter().filter_map(|event| Stamp::read(&event.kv.as_ref()?.value, self.base));
                if stamps.any(|stamp| stamp.number == number) {
                    self.recorder.part("delivery", sent);
                    return Ok(());
                }
            }
        };
        tokio::try_join!(written, seen)?;
        self.stream = Some((requests, answers));
        Ok(())
    }
}
