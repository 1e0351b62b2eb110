//! Steps of the KV service.

use anyhow::{Context, Result, bail};
use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, DeleteResponse, GetOptions, GetResponse, PutOptions,
    PutResponse, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use serde_json::{Map, Value, json};

use crate::Run;
use crate::fields::{Fields, bytes, lease, revision};
use crate::names::Names;

impl Run {
    pub(crate) async fn kv(&self, mut client: Client, mut step: Fields) -> Result<Value> {
        let names = &self.names;
        match step.kind() {
            "put" => {
                let (key, value, options) = put(&mut step, names)?;
                step.finish()?;
                Ok(show_put(names, &client.put(key, value, Some(options)).await?))
            }
            "get" => {
                let (key, options) = get(&mut step, names)?;
                step.finish()?;
                Ok(show_get(names, &client.get(key, Some(options)).await?))
            }
            "get_stream" => {
                let (key, options) = get(&mut step, names)?;
                step.finish()?;
                let mut pieces = client.kv_client().get_stream(key, Some(options)).await?;
                let mut shown = json!({ "kvs": [] });
                // Every piece has keys; the last one has everything else.
                while let Some(piece) = pieces.message().await? {
                    let mut kvs: Vec<Value> = serde_json::from_value(shown["kvs"].take())?;
                    shown = show_get(names, &piece);
                    kvs.append(shown["kvs"].as_array_mut().context("kvs")?);
                    shown["kvs"] = json!(kvs);
                }
                Ok(shown)
            }
            "delete" => {
                let (key, options) = delete(&mut step)?;
                step.finish()?;
                Ok(show_delete(names, &client.delete(key, Some(options)).await?))
            }
            "txn" => {
                let txn = txn(&mut step, names)?;
                step.finish()?;
                Ok(show_txn(names, &client.txn(txn).await?))
            }
            _ => {
                let at = names.at(step.revision("revision")?);
                let options = step.flag("physical").then(|| CompactionOptions::new().with_physical());
                step.finish()?;
                let answer = client.compact(at, options).await?;
                Ok(json!({ "revision": names.header(answer.header()) }))
            }
        }
    }
}

fn key(step: &mut Fields) -> Result<Vec<u8>> {
    step.bytes("key")?.with_context(|| format!("{} has no key", step.kind()))
}

fn put(step: &mut Fields, names: &Names) -> Result<(Vec<u8>, Vec<u8>, PutOptions)> {
    let mut options = PutOptions::new();
    if let Some(lease) = step.lease("lease") {
        options = options.with_lease(names.lease_id(&lease)?);
    }
    if step.flag("prev_kv") {
        options = options.with_prev_key();
    }
    if step.flag("ignore_value") {
        options = options.with_ignore_value();
    }
    if step.flag("ignore_lease") {
        options = options.with_ignore_lease();
    }
    Ok((key(step)?, step.bytes("value")?.unwrap_or_default(), options))
}

fn get(step: &mut Fields, names: &Names) -> Result<(Vec<u8>, GetOptions)> {
    let mut options = GetOptions::new()
        .with_limit(step.number("limit")?.unwrap_or_default())
        .with_revision(names.at(step.revision("revision")?))
        .with_min_mod_revision(names.at(step.revision("min_mod")?))
        .with_max_mod_revision(names.at(step.revision("max_mod")?))
        .with_min_create_revision(names.at(step.revision("min_create")?))
        .with_max_create_revision(names.at(step.revision("max_create")?));
    if let Some(end) = step.bytes("range_end")? {
        options = options.with_range(end);
    }
    if step.flag("prefix") {
        options = options.with_prefix();
    }
    if step.flag("from_key") {
        options = options.with_from_key();
    }
    if let Some(sort) = step.value("sort") {
        options = options.with_sort(sort_target(&sort[0])?, sort_order(&sort[1])?);
    }
    if step.flag("serializable") {
        options = options.with_serializable();
    }
    if step.flag("keys_only") {
        options = options.with_keys_only();
    }
    if step.flag("count_only") {
        options = options.with_count_only();
    }
    Ok((key(step)?, options))
}

fn sort_target(value: &Value) -> Result<SortTarget> {
    Ok(match value.as_str() {
        Some("key") => SortTarget::Key,
        Some("version") => SortTarget::Version,
        Some("create") => SortTarget::Create,
        Some("mod") => SortTarget::Mod,
        Some("value") => SortTarget::Value,
        _ => bail!("keys cannot be sorted by {value}"),
    })
}

fn sort_order(value: &Value) -> Result<SortOrder> {
    Ok(match value.as_str() {
        Some("none") => SortOrder::None,
        Some("ascend") => SortOrder::Ascend,
        Some("descend") => SortOrder::Descend,
        _ => bail!("keys cannot be sorted {value}"),
    })
}

fn delete(step: &mut Fields) -> Result<(Vec<u8>, DeleteOptions)> {
    let mut options = DeleteOptions::new();
    if let Some(end) = step.bytes("range_end")? {
        options = options.with_range(end);
    }
    if step.flag("prefix") {
        options = options.with_prefix();
    }
    if step.flag("from_key") {
        options = options.with_from_key();
    }
    if step.flag("prev_kv") {
        options = options.with_prev_key();
    }
    Ok((key(step)?, options))
}

fn txn(step: &mut Fields, names: &Names) -> Result<Txn> {
    let compares = objects(step.value("if"))?.into_iter().map(|one| compare(one, names)).collect::<Result<Vec<_>>>()?;
    let then = objects(step.value("then"))?.into_iter().map(|one| op(one, names)).collect::<Result<Vec<_>>>()?;
    let otherwise = objects(step.value("else"))?.into_iter().map(|one| op(one, names)).collect::<Result<Vec<_>>>()?;
    Ok(Txn::new().when(compares).and_then(then).or_else(otherwise))
}

fn objects(list: Option<Value>) -> Result<Vec<Map<String, Value>>> {
    Ok(serde_json::from_value(list.unwrap_or_else(|| json!([])))?)
}

fn op(fields: Map<String, Value>, names: &Names) -> Result<TxnOp> {
    let mut step = Fields::new(fields);
    let op = match step.kind() {
        "put" => {
            let (key, value, options) = put(&mut step, names)?;
            TxnOp::put(key, value, Some(options))
        }
        "get" => {
            let (key, options) = get(&mut step, names)?;
            TxnOp::get(key, Some(options))
        }
        "delete" => {
            let (key, options) = delete(&mut step)?;
            TxnOp::delete(key, Some(options))
        }
        "txn" => TxnOp::txn(txn(&mut step, names)?),
        other => bail!("{other} is no operation of a transaction"),
    };
    step.finish()?;
    Ok(op)
}

fn compare(fields: Map<String, Value>, names: &Names) -> Result<Compare> {
    let mut step = Fields::new(fields);
    let key = key(&mut step)?;
    let to = step.value("to").context("nothing to compare with")?;
    let is = match step.need("is")?.as_str() {
        "=" => CompareOp::Equal,
        "!=" => CompareOp::NotEqual,
        ">" => CompareOp::Greater,
        "<" => CompareOp::Less,
        other => bail!("{other} is no comparison"),
    };
    let number = |to: &Value| revision(to).map(|number| names.at(Some(number)));
    let mut compare = match step.need("target")?.as_str() {
        "version" => Compare::version(key, is, number(&to)?),
        "create" => Compare::create_revision(key, is, number(&to)?),
        "mod" => Compare::mod_revision(key, is, number(&to)?),
        "value" => Compare::value(key, is, bytes(to.as_str().context("no value")?)?),
        "lease" => Compare::lease(key, is, names.lease_id(&lease(&to))?),
        other => bail!("{other} cannot be compared"),
    };
    if step.flag("prefix") {
        compare = compare.with_prefix();
    }
    if let Some(end) = step.bytes("range_end")? {
        compare = compare.with_range(end);
    }
    step.finish()?;
    Ok(compare)
}

fn show_put(names: &Names, answer: &PutResponse) -> Value {
    json!({ "revision": names.header(answer.header()), "prev_kv": names.kv(answer.prev_key()) })
}

fn show_get(names: &Names, answer: &GetResponse) -> Value {
    json!({
        "revision": names.header(answer.header()),
        "count": answer.count(),
        "more": answer.more(),
        "kvs": names.kvs(answer.kvs()),
    })
}

fn show_delete(names: &Names, answer: &DeleteResponse) -> Value {
    json!({
        "revision": names.header(answer.header()),
        "deleted": answer.deleted(),
        "prev_kvs": names.kvs(answer.prev_kvs()),
    })
}

fn show_txn(names: &Names, answer: &TxnResponse) -> Value {
    let responses = answer.op_responses();
    let shown = responses.iter().map(|response| match response {
        TxnOpResponse::Put(answer) => json!({ "put": show_put(names, answer) }),
        TxnOpResponse::Get(answer) => json!({ "get": show_get(names, answer) }),
        TxnOpResponse::Delete(answer) => json!({ "delete": show_delete(names, answer) }),
        TxnOpResponse::Txn(answer) => json!({ "txn": show_txn(names, answer) }),
    });
    json!({
        "revision": names.header(answer.header()),
        "succeeded": answer.succeeded(),
        "responses": shown.collect::<Vec<Value>>(),
    })
}

/// How many keys there are with this prefix.
pub(crate) async fn count(client: &mut Client, prefix: &str) -> Result<i64> {
    let options = GetOptions::new().with_prefix().with_count_only();
    Ok(client.get(bytes(prefix)?, Some(options)).await?.count())
}
