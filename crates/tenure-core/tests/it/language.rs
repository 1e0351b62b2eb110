//! The words of the golden scripts: operations, ranges, compares, transactions, from whitespace-separated tokens.
//!
//! ```text
//! range    a   one key        a..c   [a, c)        a..   from a on      all   everything
//! op       put KEY VALUE [lease=N] [prev] [ignore_value] [ignore_lease]
//!          get RANGE [limit=N] [rev=N] [order=asc|desc] [by=key|version|create|mod|value] [keys] [count]
//!                    [min_mod=N] [max_mod=N] [min_create=N] [max_create=N]
//!          del RANGE [prev]
//!          grant LEASE MS [holder=NAME] [text=TEXT]
//!          revoke LEASE [by=MEMBER] [certificate=NAME] [address=TEXT]
//!          acquire NAME LEASE NUMBER [lowest=N] [attach=N] [try] [mode=shared|PERMITS/LIMIT] [owner=TEXT] [value=TEXT]
//!                  [holds=N] [delay=MS]
//!          cancel NAME LEASE NUMBER [lowest=N] [attach=N]      release NAME LEASE TOKEN [NUMBER]
//!          force KEY TOKEN [reason=TEXT] [by=MEMBER]           lapse LEASE KEY REVISION
//!          guarded KEY TOKEN LEASE put … | del …
//!          { [if TARGET RANGE OP VALUE [and …]] [then OP ; …] [else OP ; …] }
//! ```

use bytes::Bytes;
use tenure_core::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, Guarded, GuardedWrite, KeyRange, LeaseGrant,
    LeaseRevoke, LockAcquire, LockCancel, LockDelayEnd, LockForce, LockGuard, LockRelease, LockRequest, Op, Put, Range,
    SortOrder, SortTarget, Txn,
};
use tenure_core::lock::LockMode;
use tenure_core::row::{ClientName, LeaseHolder, RevokedBy};
use tenure_core::{LeaseId, MemberId, Revision};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub(crate) fn key_range(token: &str) -> KeyRange {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    if token == "all" {
        return KeyRange::From(Bytes::new());
    }
    match token.split_once("..") {
        None => KeyRange::One(bytes(token)),
        Some((start, "")) => KeyRange::From(bytes(start)),
        Some((start, end)) => KeyRange::Between(bytes(start), bytes(end)),
    }
}

/// The tokens of one operation or command.
pub(crate) struct Tokens<'a> {
    tokens: &'a [String],
}

impl<'a> Tokens<'a> {
    pub(crate) fn new(tokens: &'a [String]) -> Tokens<'a> {
        Tokens { tokens }
    }

    fn peek(&self) -> Option<&'a str> {
        self.tokens.first().map(String::as_str)
    }

    pub(crate) fn next(&mut self) -> Result<&'a str> {
        let (first, rest) = self.tokens.split_first().ok_or("a word is missing")?;
        self.tokens = rest;
        Ok(first)
    }

    fn skip(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(word);
        if found {
            self.tokens = &self.tokens[1..];
        }
        found
    }

    pub(crate) fn end(&self) -> Result<()> {
        self.peek().map_or(Ok(()), |word| Err(format!("what is {word}?").into()))
    }

    pub(crate) fn number(&mut self) -> Result<i64> {
        Ok(self.next()?.parse()?)
    }

    /// The options up to the end of the operation, each handed over as name and value (empty if it has none).
    fn options(&mut self, mut option: impl FnMut(&str, &str) -> Result<()>) -> Result<()> {
        while let Some(word) = self.peek() {
            if matches!(word, ";" | "}" | "else" | "{") {
                break;
            }
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            option(name, value)?;
            self.next()?;
        }
        Ok(())
    }

    pub(crate) fn put(&mut self) -> Result<Put> {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let mut put = Put {
            key: bytes(self.next()?),
            value: bytes(self.next()?),
            lease: LeaseId::NONE,
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        };
        self.options(|name, value| {
            match name {
                "lease" => put.lease = LeaseId(value.parse()?),
                "prev" => put.prev_kv = true,
                "ignore_value" => put.ignore_value = true,
                "ignore_lease" => put.ignore_lease = true,
                _ => return Err(format!("what is {name}?").into()),
            }
            Ok(())
        })?;
        Ok(put)
    }

    fn holder(&mut self) -> Result<LeaseHolder> {
        let mut holder = LeaseHolder::default();
        self.options(|name, value| {
            match name {
                "holder" => holder.name = value.into(),
                "text" => holder.text = value.into(),
                _ => return Err(format!("what is {name}?").into()),
            }
            Ok(())
        })?;
        Ok(holder)
    }

    /// Who wants a lease to end, if that is told.
    pub(crate) fn revoked_by(&mut self) -> Result<Option<RevokedBy>> {
        let mut by = None;
        self.options(|name, value| {
            let told: &mut RevokedBy = by.get_or_insert_default();
            match name {
                "by" => told.member = MemberId(value.parse()?),
                "certificate" => told.client = ClientName::Certificate(value.into()),
                "address" => told.client = ClientName::Address(value.into()),
                _ => return Err(format!("what is {name}?").into()),
            }
            Ok(())
        })?;
        Ok(by)
    }

    fn bytes(&mut self) -> Result<Bytes> {
        Ok(Bytes::copy_from_slice(self.next()?.as_bytes()))
    }

    fn acquire(&mut self) -> Result<LockAcquire> {
        let mut acquire = LockAcquire { name: self.bytes()?, wait: true, ..LockAcquire::default() };
        let (lease, number) = (LeaseId(self.number()?), self.next()?.parse()?);
        acquire.request = LockRequest { lease, number, lowest_open: 1, attach: 1 };
        self.options(|name, value| {
            match name {
                "lowest" => acquire.request.lowest_open = value.parse()?,
                "attach" => acquire.request.attach = value.parse()?,
                "try" => acquire.wait = false,
                "mode" => {
                    acquire.mode = match value.split_once('/') {
                        None if value == "shared" => LockMode::Shared,
                        None => return Err(format!("what is {value}?").into()),
                        Some((permits, limit)) => {
                            LockMode::Semaphore { permits: permits.parse()?, limit: limit.parse()? }
                        }
                    }
                }
                "owner" => acquire.owner = value.into(),
                "value" => acquire.metadata = Bytes::copy_from_slice(value.as_bytes()),
                "holds" => acquire.holds_max = value.parse()?,
                "delay" => acquire.delay_ms = value.parse()?,
                _ => return Err(format!("what is {name}?").into()),
            }
            Ok(())
        })?;
        Ok(acquire)
    }

    fn force(&mut self) -> Result<LockForce> {
        let (key, token) = (self.bytes()?, Revision(self.number()?));
        let mut force = LockForce { key, token, ..LockForce::default() };
        self.options(|name, value| {
            match name {
                "reason" => force.reason = value.into(),
                "by" => force.by.member = MemberId(value.parse()?),
                _ => return Err(format!("what is {name}?").into()),
            }
            Ok(())
        })?;
        Ok(force)
    }

    pub(crate) fn delete(&mut self) -> Result<DeleteRange> {
        let mut delete = DeleteRange { range: key_range(self.next()?), prev_kv: false };
        self.options(|name, _| {
            delete.prev_kv = name == "prev";
            if delete.prev_kv { Ok(()) } else { Err(format!("what is {name}?").into()) }
        })?;
        Ok(delete)
    }

    pub(crate) fn range(&mut self) -> Result<Range> {
        let mut range = Range::of(key_range(self.next()?));
        self.options(|name, value| set_range_option(&mut range, name, value))?;
        Ok(range)
    }

    pub(crate) fn txn(&mut self) -> Result<Txn> {
        let mut txn = Txn::default();
        if self.skip("if") {
            txn.compares.push(self.compare()?);
            while self.skip("and") {
                txn.compares.push(self.compare()?);
            }
        }
        if self.skip("then") {
            txn.success = self.ops()?;
        }
        if self.skip("else") {
            txn.failure = self.ops()?;
        }
        Ok(txn)
    }

    fn ops(&mut self) -> Result<Vec<Op>> {
        let mut ops = vec![self.op()?];
        while self.skip(";") {
            ops.push(self.op()?);
        }
        Ok(ops)
    }

    fn op(&mut self) -> Result<Op> {
        Ok(match self.next()? {
            "put" => Op::Put(self.put()?),
            "get" => Op::Range(self.range()?),
            "del" => Op::DeleteRange(self.delete()?),
            "{" => {
                let txn = self.txn()?;
                if !self.skip("}") {
                    return Err("a } is missing".into());
                }
                Op::Txn(txn)
            }
            word => return Err(format!("{word} is no operation").into()),
        })
    }

    fn compare(&mut self) -> Result<Compare> {
        let target = self.next()?;
        let range = key_range(self.next()?);
        let result = match self.next()? {
            "=" => CompareResult::Equal,
            "!=" => CompareResult::NotEqual,
            ">" => CompareResult::Greater,
            "<" => CompareResult::Less,
            word => return Err(format!("{word} is no relation").into()),
        };
        let target = match target {
            "version" => CompareTarget::Version(self.number()?),
            "create" => CompareTarget::Create(Revision(self.number()?)),
            "mod" => CompareTarget::Mod(Revision(self.number()?)),
            "lease" => CompareTarget::Lease(LeaseId(self.number()?)),
            "value" => CompareTarget::Value(Bytes::copy_from_slice(self.next()?.as_bytes())),
            word => return Err(format!("{word} is no compare target").into()),
        };
        Ok(Compare { range, result, target })
    }
}

fn set_range_option(range: &mut Range, name: &str, value: &str) -> Result<()> {
    match (name, value) {
        ("limit", limit) => range.limit = limit.parse()?,
        ("rev", revision) => range.revision = Revision(revision.parse()?),
        ("order", "asc") => range.order = SortOrder::Ascend,
        ("order", "desc") => range.order = SortOrder::Descend,
        ("by", "key") => range.target = SortTarget::Key,
        ("by", "version") => range.target = SortTarget::Version,
        ("by", "create") => range.target = SortTarget::Create,
        ("by", "mod") => range.target = SortTarget::Mod,
        ("by", "value") => range.target = SortTarget::Value,
        ("keys", "") => range.keys_only = true,
        ("count", "") => range.count_only = true,
        ("min_mod", bound) => range.min_mod = Revision(bound.parse()?),
        ("max_mod", bound) => range.max_mod = Revision(bound.parse()?),
        ("min_create", bound) => range.min_create = Revision(bound.parse()?),
        ("max_create", bound) => range.max_create = Revision(bound.parse()?),
        _ => return Err(format!("what is {name}={value}?").into()),
    }
    Ok(())
}

/// A replicated command by its name, or none if the name is not one.
pub(crate) fn command(name: &str, tokens: &mut Tokens<'_>) -> Result<Option<Command>> {
    let command = match name {
        "put" => Command::Put(tokens.put()?),
        "del" => Command::DeleteRange(tokens.delete()?),
        "txn" => Command::Txn(tokens.txn()?),
        "compact" => Command::Compact(Revision(tokens.number()?)),
        "grant" => {
            let id = LeaseId(tokens.number()?);
            let ttl_ms = tokens.next()?.parse()?;
            Command::LeaseGrant(LeaseGrant { id, ttl_ms, holder: tokens.holder()? })
        }
        "revoke" => {
            let id = LeaseId(tokens.number()?);
            Command::LeaseRevoke(LeaseRevoke { id, expiry: None, by: tokens.revoked_by()? })
        }
        "renew" => Command::LeaseRenew(LeaseId(tokens.number()?)),
        "acquire" => Command::LockAcquire(tokens.acquire()?),
        "cancel" => {
            let LockAcquire { name, request, .. } = tokens.acquire()?;
            Command::LockCancel(LockCancel { name, request })
        }
        "release" => Command::LockRelease(LockRelease {
            name: tokens.bytes()?,
            lease: LeaseId(tokens.number()?),
            token: Revision(tokens.number()?),
            number: tokens.peek().map_or(Ok("0"), |_| tokens.next())?.parse()?,
        }),
        "force" => Command::LockForce(tokens.force()?),
        "lapse" => {
            let lease = LeaseId(tokens.number()?);
            Command::LockDelayEnd(LockDelayEnd { lease, key: tokens.bytes()?, modified: Revision(tokens.number()?) })
        }
        "guarded" => {
            let (key, token) = (tokens.bytes()?, Revision(tokens.number()?));
            let guard = LockGuard { key, token, lease: LeaseId(tokens.number()?) };
            let write = match tokens.next()? {
                "put" => GuardedWrite::Put(tokens.put()?),
                "del" => GuardedWrite::DeleteRange(tokens.delete()?),
                word => return Err(format!("{word} cannot be guarded").into()),
            };
            Command::Guarded(Guarded { guard, write })
        }
        _ => return Ok(None),
    };
    tokens.end()?;
    Ok(Some(command))
}
