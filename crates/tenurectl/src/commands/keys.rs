//! `get`, `put`, `del` and `compact`.

use std::fs::File;
use std::io;

use bytes::Bytes;
use serde::Serialize;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::range_request::{SortOrder, SortTarget};

use super::view::{KeyValue, count, revision, table};
use super::{Session, read_input};
use crate::arguments::{CompactArgs, Consistency, DelArgs, GetArgs, Order, PutArgs, SortBy};
use crate::failure::Failure;
use crate::ids::Revision;
use crate::output::{Format, Report};
use crate::text::{Blob, Style};

pub(super) async fn get(session: &Session, args: &GetArgs) -> Result<(), Failure> {
    let output = session.output;
    if args.raw && output.format == Format::Json {
        return Err(Failure::Usage("--raw is not JSON: the two exclude each other".to_owned()));
    }
    let request = range_request(args, output.style).map_err(Failure::Usage)?;
    let answer = session.client.range(request).await?;
    if args.raw {
        let value = answer.kvs.first().map(|kv| &kv.value);
        let value = value.ok_or_else(|| Failure::Local("the key does not exist".to_owned()))?;
        return output.raw(value);
    }
    let found = Found::new(args, output.style, &answer);
    if found.kvs.is_empty() && !args.count_only {
        let what = if args.range.is_single() { "the key does not exist" } else { "no keys there" };
        output.note(&format!("{what} (revision {})", found.revision));
    }
    output.show(&found)?;
    if found.more {
        output.note(&format!("more keys follow: these are {} of {}", found.kvs.len(), found.count));
    }
    Ok(())
}

/// The request that the arguments describe.
pub(super) fn range_request(args: &GetArgs, style: Style) -> Result<pb::RangeRequest, String> {
    let (key, range_end) = args.range.bounds(style)?;
    let order = match (args.order, args.sort_by) {
        (Some(Order::Descend), _) => SortOrder::Descend,
        (Some(Order::Ascend), _) | (None, Some(_)) => SortOrder::Ascend,
        (None, None) => SortOrder::None,
    };
    let target = match args.sort_by {
        None | Some(SortBy::Key) => SortTarget::Key,
        Some(SortBy::Version) => SortTarget::Version,
        Some(SortBy::Create) => SortTarget::Create,
        Some(SortBy::Modify) => SortTarget::Mod,
        Some(SortBy::Value) => SortTarget::Value,
    };
    Ok(pb::RangeRequest {
        key,
        range_end,
        limit: args.limit.into(),
        revision: args.rev.map_or(0, |revision| revision.0),
        sort_order: order.into(),
        sort_target: target.into(),
        serializable: args.consistency == Consistency::Serializable,
        keys_only: args.keys_only,
        count_only: args.count_only,
        ..pb::RangeRequest::default()
    })
}

/// What `get` found.
#[derive(Debug, Serialize)]
pub(super) struct Found {
    revision: Revision,
    count: i64,
    more: bool,
    kvs: Vec<KeyValue>,
    #[serde(skip)]
    form: Form,
}

/// How people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Page,
    Table { detail: bool },
    Keys,
    Values,
    Count,
}

impl Found {
    pub(super) fn new(args: &GetArgs, style: Style, answer: &pb::RangeResponse) -> Found {
        let mut kvs = KeyValue::all(style, &answer.kvs);
        if args.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = None);
        }
        let form = match (args.count_only, args.keys_only, args.detail) {
            (true, ..) => Form::Count,
            (_, true, false) => Form::Keys,
            (.., true) => Form::Table { detail: true },
            _ if args.range.is_single() => Form::Page,
            _ if args.value_only => Form::Values,
            _ => Form::Table { detail: false },
        };
        Found { revision: revision(answer.header.as_ref()), count: answer.count, more: answer.more, kvs, form }
    }
}

impl Report for Found {
    fn human(&self) -> String {
        let lines = |line: fn(&KeyValue) -> String| self.kvs.iter().map(|kv| line(kv) + "\n").collect();
        match self.form {
            Form::Count => format!("{}\n", self.count),
            Form::Keys => lines(|kv| kv.key.line()),
            Form::Page => self.kvs.first().and_then(|kv| kv.value.as_ref()).map(ended_page).unwrap_or_default(),
            Form::Values => lines(KeyValue::value_line),
            Form::Table { .. } if self.kvs.is_empty() => String::new(),
            Form::Table { detail } => table(&self.kvs, detail),
        }
    }
}

fn ended_page(value: &Blob) -> String {
    let page = value.page();
    if page.ends_with('\n') { page } else { page + "\n" }
}

pub(super) async fn put(session: &Session, args: &PutArgs) -> Result<(), Failure> {
    let style = session.output.style;
    let value = match (&args.value, &args.file) {
        (Some(value), _) if value == "-" => read_input("stdin", io::stdin().lock())?,
        (Some(value), _) => style.read(value).map_err(Failure::Usage)?,
        (None, Some(path)) => {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|error| Failure::Local(format!("cannot open {name}: {error}")))?;
            read_input(&name, file)?
        }
        (None, None) => Bytes::new(),
    };
    let request = put_request(args, style, value).map_err(Failure::Usage)?;
    let answer = session.client.put(request).await?;
    session.output.show(&Written::new(style, &answer))
}

/// The request that the arguments describe, with a value that was read already.
pub(super) fn put_request(args: &PutArgs, style: Style, value: Bytes) -> Result<pb::PutRequest, String> {
    Ok(pb::PutRequest {
        key: style.read(&args.key)?,
        value,
        lease: args.lease.map_or(0, |lease| lease.0),
        prev_kv: args.prev_kv,
        ignore_value: args.ignore_value,
        ignore_lease: args.ignore_lease,
    })
}

/// What `put` did.
#[derive(Debug, Serialize)]
pub(super) struct Written {
    revision: Revision,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_kv: Option<KeyValue>,
}

impl Written {
    pub(super) fn new(style: Style, answer: &pb::PutResponse) -> Written {
        let prev_kv = answer.prev_kv.as_ref().map(|kv| KeyValue::new(style, kv));
        Written { revision: revision(answer.header.as_ref()), prev_kv }
    }

    /// The text without the revision, for the parts of a transaction, which share one.
    pub(super) fn part(&self) -> String {
        self.prev_kv.as_ref().map(|kv| table(std::slice::from_ref(kv), true)).unwrap_or_default()
    }
}

impl Report for Written {
    fn human(&self) -> String {
        let before = if self.prev_kv.is_some() { ", before:" } else { "" };
        format!("written at revision {}{before}\n{}", self.revision, self.part())
    }
}

pub(super) async fn del(session: &Session, args: &DelArgs) -> Result<(), Failure> {
    let style = session.output.style;
    let answer = session.client.delete(delete_request(args, style).map_err(Failure::Usage)?).await?;
    session.output.show(&Deleted::new(style, &answer))
}

/// The request that the arguments describe.
pub(super) fn delete_request(args: &DelArgs, style: Style) -> Result<pb::DeleteRangeRequest, String> {
    let (key, range_end) = args.range.bounds(style)?;
    Ok(pb::DeleteRangeRequest { key, range_end, prev_kv: args.prev_kv })
}

/// What `del` did.
#[derive(Debug, Serialize)]
pub(super) struct Deleted {
    revision: Revision,
    deleted: i64,
    prev_kvs: Vec<KeyValue>,
}

impl Deleted {
    pub(super) fn new(style: Style, answer: &pb::DeleteRangeResponse) -> Deleted {
        let prev_kvs = KeyValue::all(style, &answer.prev_kvs);
        Deleted { revision: revision(answer.header.as_ref()), deleted: answer.deleted, prev_kvs }
    }

    /// The text without the revision.
    pub(super) fn part(&self) -> String {
        let kvs = if self.prev_kvs.is_empty() { String::new() } else { table(&self.prev_kvs, true) };
        format!("{}\n{kvs}", count(self.deleted, "key"))
    }
}

impl Report for Deleted {
    fn human(&self) -> String {
        let part = self.part();
        let (keys, kvs) = part.split_once('\n').unwrap_or((&part, ""));
        format!("deleted {keys} (revision {})\n{kvs}", self.revision)
    }
}

pub(super) async fn compact(session: &Session, args: &CompactArgs) -> Result<(), Failure> {
    let request = pb::CompactionRequest { revision: args.revision.0, physical: args.physical };
    session.client.compact(request).await?;
    session.output.show(&Compacted { compacted: args.revision })
}

/// What `compact` did.
#[derive(Debug, Serialize)]
struct Compacted {
    compacted: Revision,
}

impl Report for Compacted {
    fn human(&self) -> String {
        format!("compacted: the oldest revision that can be read is {}\n", self.compacted)
    }
}
