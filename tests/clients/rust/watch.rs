//! Steps of the Watch service.

use anyhow::{Context, Result, bail};
use etcd_client::{Client, Error, Event, EventType, WatchFilterType, WatchOptions, WatchResponse, WatchStream};
use serde_json::{Value, json};

use crate::Run;
use crate::fields::Fields;
use crate::names::Names;

/// A watch with what came from it and was not asked for yet.
pub(crate) struct Watch {
    stream: WatchStream,
    id: i64,
    events: Vec<Event>,
    noted: Vec<i64>,
    ended: Option<WatchResponse>,
}

impl Run {
    pub(crate) async fn watch(&mut self, client: Client, mut step: Fields) -> Result<Value> {
        if step.kind() == "watch" {
            let name = step.need("as")?;
            let watch = create(client, step, &self.names).await?;
            self.watches.insert(name, watch);
            return Ok(json!({}));
        }
        let name = step.need("watch")?;
        let (names, watch) = (&self.names, self.watches.get_mut(&name).with_context(|| format!("no watch {name}"))?);
        match step.kind() {
            "events" => {
                let count = usize::try_from(step.number("count")?.context("no count")?)?;
                step.finish()?;
                while watch.events.len() < count {
                    watch.next().await?;
                }
                let taken: Vec<Event> = watch.events.drain(..count).collect();
                Ok(json!({ "events": events(names, &taken) }))
            }
            "progress" => {
                step.finish()?;
                watch.stream.request_progress().await?;
                while watch.noted.is_empty() {
                    watch.next().await?;
                }
                let revision = watch.noted.remove(0);
                watch.noted.clear();
                Ok(json!({ "revision": names.revision(revision) }))
            }
            "cancel" => {
                step.finish()?;
                watch.stream.cancel(watch.id).await?;
                while watch.ended.is_none() {
                    watch.next().await?;
                }
                Ok(json!({ "left": events(names, &watch.events) }))
            }
            _ => {
                step.finish()?;
                while watch.ended.is_none() {
                    watch.next().await?;
                }
                let ended = watch.ended.as_ref().context("it ended")?;
                Ok(json!({
                    "compact_revision": names.revision(ended.compact_revision()),
                    "error": ended.cancel_reason(),
                    "left": events(names, &watch.events),
                }))
            }
        }
    }
}

impl Watch {
    async fn next(&mut self) -> Result<()> {
        let Some(answer) = self.stream.message().await? else { bail!("the watch's stream ended") };
        if answer.canceled() {
            self.ended = Some(answer);
        } else if answer.events().is_empty() {
            self.noted.push(answer.header().context("progress without a header")?.revision());
        } else {
            self.events.extend_from_slice(answer.events());
        }
        Ok(())
    }
}

async fn create(mut client: Client, mut step: Fields, names: &Names) -> Result<Watch> {
    let key = step.bytes("key")?.context("a watch has a key")?;
    let mut options = WatchOptions::new().with_start_revision(names.at(step.revision("revision")?));
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
    if step.flag("progress_notify") {
        options = options.with_progress_notify();
    }
    if step.flag("fragment") {
        options = options.with_fragment();
    }
    if let Some(filters) = step.value("filters") {
        let filters: Vec<String> = serde_json::from_value(filters)?;
        let filters = filters.iter().map(|filter| match filter.as_str() {
            "noput" => Ok(WatchFilterType::NoPut),
            "nodelete" => Ok(WatchFilterType::NoDelete),
            other => bail!("{other} is no filter"),
        });
        options = options.with_filters(filters.collect::<Result<Vec<_>>>()?);
    }
    step.finish()?;
    let mut stream = client.watch(key, Some(options)).await?;
    let first = stream.message().await?.context("the stream ended")?;
    if !first.created() {
        bail!("the first answer is not that the watch is created: {first:?}");
    }
    if first.canceled() {
        return Err(Error::WatchError(first.cancel_reason().to_owned()).into());
    }
    Ok(Watch { stream, id: first.watch_id(), events: Vec::new(), noted: Vec::new(), ended: None })
}

fn events(names: &Names, events: &[Event]) -> Value {
    let shown = events.iter().map(|event| {
        let kind = match event.event_type() {
            EventType::Put => "put",
            EventType::Delete => "delete",
        };
        json!({ "type": kind, "kv": names.kv(event.kv()), "prev_kv": names.kv(event.prev_kv()) })
    });
    shown.collect()
}
