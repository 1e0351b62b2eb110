//! `watch`: many watchers of what a few clients write.
//!
//! A writer in a closed loop would be as far ahead of the watchers as the server lets it, and the delay of an event would
//! say how long the run was. So it stays at most a number of puts ahead of the slowest watcher; with one, an
//! operation is a put that everybody has seen. In an open loop it goes by its rate.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tenure_proto::etcdserverpb as pb;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::put::Putter;
use super::watching::{Stamp, judge, open};
use crate::caller::Answers;
use crate::drive::{Client, Scope};
use crate::failure::{Error, Failure};
use crate::keys::{Keys, Values};
use crate::recorder::Recorder;
use crate::report::Report;

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct Watch {
    pub keys: Keys,
    pub value_bytes: usize,
    pub watchers: usize,
    /// What the watchers share.
    pub streams: usize,
    /// Every watcher watches all keys, instead of one.
    pub prefix: bool,
    /// How many puts may be under way to watchers in a closed loop.
    pub ahead: usize,
}

/// What writers and watchers share.
struct Board {
    base: Instant,
    recorder: Rc<Recorder>,
    /// Puts that not all watchers have seen, and how many have not.
    missing: RefCell<HashMap<u64, usize>>,
    seen_by_all: Notify,
}

struct Writer {
    putter: Putter,
    keys: Rc<Keys>,
    values: Values,
    board: Rc<Board>,
    /// How many watch each key.
    watchers_of: Rc<[usize]>,
    /// None in an open loop.
    ahead: Option<usize>,
}

impl Watch {
    pub(crate) async fn run(&self, scope: &Rc<Scope>) -> Result<Report, Error> {
        let key_count = usize::try_from(self.keys.count).unwrap_or(usize::MAX);
        if self.watchers == 0 || self.streams == 0 || self.ahead == 0 || key_count > self.watchers {
            return Err(Error::Settings(
                "watchers, streams and puts ahead start at one, and every key needs a watcher".to_owned(),
            ));
        }
        let board = Rc::new(Board {
            base: Instant::now(),
            recorder: scope.recorder.clone(),
            missing: RefCell::default(),
            seen_by_all: Notify::new(),
        });
        let mut tasks = Vec::new();
        scope.observer.stage("opening watches");
        for (at, watches) in self.watches().into_iter().enumerate() {
            let opened = timeout(scope.settings.patience, open(&scope.caller(at), watches)).await;
            let opened = opened.unwrap_or_else(|_| Err(Failure::answer("the watches are not there in time")));
            let (requests, answers) = opened.map_err(Error::preparing("opening watches"))?;
            let (scope, board) = (scope.clone(), board.clone());
            let task = spawn_local(async move {
                if let Err(failure) = read_loop(answers, &board).await {
                    scope.failed(&failure);
                }
            });
            tasks.push((requests, task));
        }
        let clients = self.writers(scope, &board).map_err(Error::preparing("preparing"))?;
        let settled = async || board.settle(scope.settings.patience, scope).await;
        let (report, _) = scope.measure_with("watch", clients, settled).await;
        tasks.iter().for_each(|(_, task)| task.abort());
        Ok(report)
    }

    /// The watches of each stream.
    fn watches(&self) -> Vec<Vec<pb::WatchCreateRequest>> {
        let watch = |watcher: usize| {
            let (key, range_end) = if self.prefix {
                (self.keys.prefix_start(), self.keys.prefix_end())
            } else {
                (self.keys.at(watcher as u64 % self.keys.count), Bytes::new())
            };
            pb::WatchCreateRequest { key, range_end, ..pb::WatchCreateRequest::default() }
        };
        let streams = self.streams.min(self.watchers);
        (0..streams).map(|stream| (stream..self.watchers).step_by(streams).map(watch).collect()).collect()
    }

    /// How many watchers see a put at each key.
    fn watchers_of(&self) -> Rc<[usize]> {
        let keys = usize::try_from(self.keys.count).unwrap_or(usize::MAX);
        let of_key = |key| if self.prefix { self.watchers } else { (key..self.watchers).step_by(keys).count() };
        (0..keys).map(of_key).collect()
    }

    fn writers(&self, scope: &Scope, board: &Rc<Board>) -> Result<Vec<Writer>, Failure> {
        let (keys, values) = (Rc::new(self.keys.clone()), Values::new(self.value_bytes, true));
        let watchers_of = self.watchers_of();
        let ahead = scope.settings.rate.is_none().then_some(self.ahead);
        let writer = |at| {
            let putter = Putter::new(scope.caller(at), keys.clone(), values.clone())?;
            let (keys, values) = (keys.clone(), values.clone());
            Ok(Writer { putter, keys, values, board: board.clone(), watchers_of: watchers_of.clone(), ahead })
        };
        (0..scope.settings.clients).map(writer).collect()
    }
}

impl Client for Writer {
    async fn operate(&mut self, number: u64) -> Result<(), Failure> {
        let index = self.keys.index(number);
        let watchers = self.watchers_of.get(usize::try_from(index).unwrap_or(usize::MAX)).copied().unwrap_or(0);
        let sent = Instant::now();
        let value = Stamp { sent, number }.value(self.board.base, &self.values.of(number));
        self.board.missing.borrow_mut().insert(number, watchers);
        if let Err(failure) = self.putter.put(self.keys.at(index), value).await {
            self.board.missing.borrow_mut().remove(&number);
            return Err(failure);
        }
        self.board.recorder.part("put", sent);
        if let Some(ahead) = self.ahead {
            self.board.wait_fewer_than(ahead).await;
        }
        Ok(())
    }
}

impl Board {
    async fn wait_fewer_than(&self, count: usize) {
        while self.missing.borrow().len() >= count {
            self.seen_by_all.notified().await;
        }
    }

    /// Waits for what is still on its way. What does not come is a failure.
    async fn settle(&self, patience: Duration, scope: &Scope) {
        if timeout(patience, self.wait_fewer_than(1)).await.is_err() {
            let events: usize = self.missing.borrow().values().sum();
            scope.failed(&Failure::answer(format!("{events} events did not come")));
        }
    }

    /// Notes an event that has come.
    fn seen(&self, value: &[u8], now: Instant) {
        let Some(stamp) = Stamp::read(value, self.base) else { return };
        self.recorder.part_until("delivery", stamp.sent, now);
        let mut missing = self.missing.borrow_mut();
        if let Some(left) = missing.get_mut(&stamp.number) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                missing.remove(&stamp.number);
                self.seen_by_all.notify_waiters();
            }
        }
    }
}

async fn read_loop(mut answers: Answers, board: &Board) -> Result<(), Failure> {
    while let Some(answer) = answers.next::<pb::WatchResponse>().await? {
        let now = Instant::now();
        take(&answer, board, now)?;
        // What came with it came at the same time.
        while let Some(answer) = answers.ready::<pb::WatchResponse>()? {
            take(&answer, board, now)?;
        }
    }
    Err(Failure::answer("a watch stream has ended"))
}

fn take(answer: &pb::WatchResponse, board: &Board, now: Instant) -> Result<(), Failure> {
    judge(answer)?;
    for kv in answer.events.iter().filter_map(|event| event.kv.as_ref()) {
        board.seen(&kv.value, now);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Order;

    fn watch(watchers: usize, streams: usize, prefix: bool) -> Watch {
        Watch { keys: Keys::new("w/", 4, 3, Order::Sequential), value_bytes: 16, watchers, streams, prefix, ahead: 1 }
    }

    #[test]
    fn watchers_are_dealt_out_to_streams_and_keys() {
        let watch = watch(7, 2, false);
        let sizes: Vec<usize> = watch.watches().iter().map(Vec::len).collect();
        assert_eq!((sizes, &watch.watchers_of()[..]), (vec![4, 3], &[3, 2, 2][..]));
        let keys: Vec<Bytes> = watch.watches().concat().into_iter().map(|watch| watch.key).collect();
        assert_eq!(keys.iter().filter(|key| &key[..] == b"w/00").count(), 3);
    }

    #[test]
    fn a_watcher_of_the_prefix_sees_every_key() {
        let watch = watch(5, 9, true);
        assert_eq!((watch.watches().len(), &watch.watchers_of()[..]), (5, &[5, 5, 5][..]));
    }
}
