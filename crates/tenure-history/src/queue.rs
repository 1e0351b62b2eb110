//! Did every item of a queue come out once, oldest first, and was none lost?
//!
//! The workload: items that are never used twice are put under a prefix, one key each. To take one, a client reads the
//! oldest key by create revision and deletes it in a transaction that compares the key's create revision. So the revisions of
//! both transactions order everything, and a take of unknown outcome is about one known item.

use core::fmt;
use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::ids::{ClientId, Moment, Revision};
use crate::verdict::{Verdict, Violation};

const CHECKER: &str = "queue";

/// One item put into a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enqueue {
    /// Which queue.
    pub queue: String,
    /// Who.
    pub client: ClientId,
    /// What: no other has the same.
    pub item: String,
    /// Just before it was sent.
    pub called: Moment,
    /// When the client knew how it ended, or gave up.
    pub returned: Moment,
    /// How it ended.
    pub outcome: Done,
}

/// One try to take the oldest item: the transaction that deletes it, or the read that found the queue empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dequeue {
    /// Which queue.
    pub queue: String,
    /// Who.
    pub client: ClientId,
    /// Which item it tried to take; none if the queue was read empty, at the revision of the outcome.
    pub item: Option<String>,
    /// Just before it was sent.
    pub called: Moment,
    /// When the client knew how it ended, or gave up.
    pub returned: Moment,
    /// How it ended.
    pub outcome: Done,
}

/// What is in a queue at the end of a run, by a linearizable read after everything of unknown outcome has settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// Which queue.
    pub queue: String,
    /// The revision of the answer's header.
    pub revision: Revision,
    /// The items, in any order.
    pub items: Vec<String>,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// It was acked at this revision.
    Acked(Revision),
    /// It certainly did not happen, for instance because its compare did not hold.
    Failed,
    /// It may have happened, or may still happen.
    Unknown,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Queues.
    pub queues: usize,
    /// Acked enqueues.
    pub enqueued: usize,
    /// Acked dequeues.
    pub dequeued: usize,
    /// Reads of an empty queue.
    pub empty: usize,
    /// Enqueues of unknown outcome, and those of them that are known to have happened.
    pub enqueues_unknown: (usize, usize),
    /// Dequeues of unknown outcome.
    pub dequeues_unknown: usize,
    /// Items left at the end.
    pub left: usize,
    /// Acked enqueues whose item can be anywhere, because the run did not read the rest of its queue.
    pub unread: usize,
}

type Wrong = Result<(), Box<Violation>>;

/// Checks all queues of a run.
pub fn check(enqueues: &[Enqueue], dequeues: &[Dequeue], rests: &[Rest]) -> Verdict<Counts> {
    let mut queues: BTreeMap<&str, Queue<'_>> = BTreeMap::new();
    for enqueue in enqueues {
        queues.entry(&enqueue.queue).or_default().enqueues.push(enqueue);
    }
    for dequeue in dequeues {
        queues.entry(&dequeue.queue).or_default().dequeues.push(dequeue);
    }
    for rest in rests {
        queues.entry(&rest.queue).or_default().rest = Some(rest);
    }
    let mut counts = Counts { queues: queues.len(), ..Counts::default() };
    for queue in queues.values_mut() {
        if let Err(violation) = queue.check(&mut counts) {
            return Verdict::Violation(violation);
        }
    }
    Verdict::Ok(counts)
}

#[derive(Default)]
struct Queue<'a> {
    enqueues: Vec<&'a Enqueue>,
    dequeues: Vec<&'a Dequeue>,
    rest: Option<&'a Rest>,
}

/// What is known of an item.
struct Item<'a> {
    enqueue: &'a Enqueue,
    taken: Option<(Revision, &'a Dequeue)>,
    maybe_taken: bool,
    left: bool,
}

impl<'a> Queue<'a> {
    fn check(&mut self, counts: &mut Counts) -> Wrong {
        self.enqueues.sort_by_key(|enqueue| enqueue.called);
        self.dequeues.sort_by_key(|dequeue| dequeue.called);
        let items = self.items()?;
        for enqueue in &self.enqueues {
            items.get(&enqueue.item[..]).map_or(Ok(()), |item| self.one_life(item))?;
        }
        in_order(&items)?;
        self.empty(&items)?;
        self.count(&items, counts);
        Ok(())
    }

    fn items(&self) -> Result<HashMap<&'a str, Item<'a>>, Box<Violation>> {
        let mut items: HashMap<&str, Item<'a>> = HashMap::new();
        for enqueue in self.enqueues.iter().copied() {
            let item = Item { enqueue, taken: None, maybe_taken: false, left: false };
            if let Some(other) = items.insert(&enqueue.item, item) {
                let detail = format!("the run enqueued {} twice: nothing can be said", enqueue.item);
                let lines = vec![other.enqueue.to_string(), enqueue.to_string()];
                return Err(violation("history is sound", detail, lines));
            }
        }
        for dequeue in self.dequeues.iter().copied() {
            let Some(name) = &dequeue.item else { continue };
            let Some(item) = items.get_mut(&name[..]) else {
                let detail = format!("{name} came out, and nobody put it in");
                return Err(violation("only what was put in", detail, vec![dequeue.to_string()]));
            };
            match (dequeue.outcome, item.taken) {
                (Done::Acked(_), Some((_, first))) => {
                    let lines = vec![first.to_string(), dequeue.to_string()];
                    return Err(violation("delivered once", format!("{name} was delivered twice"), lines));
                }
                (Done::Acked(revision), None) => item.taken = Some((revision, dequeue)),
                (Done::Unknown, _) => item.maybe_taken = true,
                (Done::Failed, _) => {}
            }
        }
        for name in self.rest.into_iter().flat_map(|rest| &rest.items) {
            match items.get_mut(&name[..]) {
                Some(item) => item.left = true,
                None => {
                    let detail = format!("{name} is left, and nobody put it in");
                    return Err(violation("only what was put in", detail, Vec::new()));
                }
            }
        }
        Ok(items)
    }

    /// What is wrong with one item alone.
    fn one_life(&self, item: &Item<'_>) -> Wrong {
        let name = &item.enqueue.item;
        let mut lines = vec![item.enqueue.to_string()];
        lines.extend(item.taken.map(|(_, dequeue)| dequeue.to_string()));
        let seen = item.taken.is_some() || item.left;
        if item.enqueue.outcome == Done::Failed && seen {
            return wrong("only what was put in", format!("{name}: its enqueue certainly did not happen"), lines);
        }
        if let Some((taken, dequeue)) = item.taken {
            if dequeue.returned < item.enqueue.called || item.put().is_some_and(|put| put >= taken) {
                return wrong("taken after it was put", format!("{name} was taken before it was put in"), lines);
            }
            if item.left && self.rest.is_some_and(|rest| rest.revision >= taken) {
                return wrong("delivered once", format!("{name} was delivered and is still in the queue"), lines);
            }
        }
        let due = |put: Revision| self.rest.is_some_and(|rest| rest.revision >= put);
        if item.put().is_some_and(due) && !seen && !item.maybe_taken {
            return wrong("nothing is lost", format!("{name} was put in, never came out and is not there"), lines);
        }
        Ok(())
    }

    /// A queue that was read empty held nothing that must have been in it.
    fn empty(&self, items: &HashMap<&str, Item<'_>>) -> Wrong {
        let found_empty = self.dequeues.iter().filter(|dequeue| dequeue.item.is_none());
        let mut empty: Vec<(Revision, &Dequeue)> = found_empty
            .filter_map(|dequeue| match dequeue.outcome {
                Done::Acked(revision) => Some((revision, *dequeue)),
                Done::Failed | Done::Unknown => None,
            })
            .collect();
        empty.sort_by_key(|(revision, _)| *revision);
        for item in items.values() {
            let Some((from, until)) = item.surely_there() else { continue };
            let first = empty.partition_point(|(revision, _)| *revision < from);
            if let Some((at, dequeue)) = empty.get(first).filter(|(at, _)| *at < until) {
                let detail = format!("{} was in it at revision {at}", item.enqueue.item);
                return wrong("empty only if it is", detail, vec![item.enqueue.to_string(), dequeue.to_string()]);
            }
        }
        Ok(())
    }

    fn count(&self, items: &HashMap<&str, Item<'_>>, counts: &mut Counts) {
        for item in items.values() {
            match item.enqueue.outcome {
                Done::Acked(_) => {
                    counts.enqueued += 1;
                    let known = item.taken.is_some() || self.rest.is_some();
                    counts.unread += usize::from(!known);
                }
                Done::Unknown => {
                    counts.enqueues_unknown.0 += 1;
                    counts.enqueues_unknown.1 += usize::from(item.taken.is_some() || item.left);
                }
                Done::Failed => {}
            }
            counts.left += usize::from(item.left);
        }
        for dequeue in &self.dequeues {
            match (&dequeue.item, dequeue.outcome) {
                (Some(_), Done::Acked(_)) => counts.dequeued += 1,
                (None, Done::Acked(_)) => counts.empty += 1,
                (Some(_), Done::Unknown) => counts.dequeues_unknown += 1,
                (None, Done::Unknown) | (_, Done::Failed) => {}
            }
        }
    }
}

impl Item<'_> {
    /// The revision that surely put it in.
    fn put(&self) -> Option<Revision> {
        match self.enqueue.outcome {
            Done::Acked(revision) => Some(revision),
            Done::Failed | Done::Unknown => None,
        }
    }

    /// From which revision up to, not including, which other it must have been in the queue.
    fn surely_there(&self) -> Option<(Revision, Revision)> {
        let until = match self.taken {
            Some((taken, _)) => taken,
            None if self.maybe_taken => return None,
            None => Revision(i64::MAX),
        };
        Some((self.put()?, until))
    }
}

/// Nobody took an item while an older one was surely there. Enqueues and takes are walked in the order of their revisions.
fn in_order(items: &HashMap<&str, Item<'_>>) -> Wrong {
    let mut puts: Vec<(Revision, &Item<'_>)> = items.values().filter_map(|item| Some((item.put()?, item))).collect();
    puts.sort_by_key(|(put, _)| *put);
    let mut takes: Vec<(Revision, Revision, &Item<'_>)> =
        puts.iter().filter_map(|(put, item)| Some((item.taken?.0, *put, *item))).collect();
    takes.sort_by_key(|(taken, ..)| *taken);
    // The items that are surely there, oldest first; what may have been taken is never among them.
    let mut there: BTreeMap<Revision, &Item<'_>> = BTreeMap::new();
    let mut puts = puts.into_iter().peekable();
    for (taken, put, item) in takes {
        while let Some((put, item)) = puts.next_if(|(put, _)| *put < taken) {
            if !item.maybe_taken {
                there.insert(put, item);
            }
        }
        if let Some((older, first)) = there.first_key_value()
            && *older < put
        {
            let detail = format!("{} was taken, {} was older", item.enqueue.item, first.enqueue.item);
            let lines = [first.enqueue.to_string(), item.enqueue.to_string()].into_iter();
            let dequeue = item.taken.map(|(_, dequeue)| dequeue.to_string());
            return wrong("oldest first", detail, lines.chain(dequeue).collect());
        }
        there.remove(&put);
    }
    Ok(())
}

fn wrong(promise: &'static str, detail: String, evidence: Vec<String>) -> Wrong {
    Err(violation(promise, detail, evidence))
}

fn violation(promise: &'static str, detail: String, evidence: Vec<String>) -> Box<Violation> {
    Box::new(Violation { checker: CHECKER, promise, detail, evidence })
}

impl fmt::Display for Enqueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Enqueue { queue, client, item, called, returned, outcome } = self;
        write!(f, "client {client} {called} – {returned} put {item} into {queue}: {outcome}")
    }
}

impl fmt::Display for Dequeue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dequeue { queue, client, item, called, returned, outcome } = self;
        match item {
            Some(item) => write!(f, "client {client} {called} – {returned} took {item} from {queue}: {outcome}"),
            None => write!(f, "client {client} {called} – {returned} found {queue} empty: {outcome}"),
        }
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Done::Acked(revision) => write!(f, "acked @{revision}"),
            Done::Failed => f.write_str("failed"),
            Done::Unknown => f.write_str("unknown"),
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { queues, enqueued, dequeued, empty, enqueues_unknown, dequeues_unknown, left, unread } = self;
        let (unknown, happened) = enqueues_unknown;
        write!(
            f,
            "{queues} queues, {enqueued} items put in, {dequeued} taken, {left} left ({unread} never looked for), {empty} times \
             empty; unknown: {unknown} enqueues ({happened} of them happened), {dequeues_unknown} dequeues"
        )
    }
}
