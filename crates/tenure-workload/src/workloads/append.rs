//! Lists to which several clients append: read, then write the longer list if nobody was faster.
//!
//! An append that was acknowledged stands in the list for ever after, once. A list that is long enough is left alone, and
//! the next one begun.

use anyhow::Result;
use bytes::Bytes;
use rand::RngExt;
use tenure_history::Revision;
use tenure_history::request::Put;

use super::{get, kvs, put_if, unchanged};
use crate::client::Client;

/// What the keys of all lists begin with.
pub const LISTS: &str = "append/";
const COLUMNS: u32 = 2;
/// Longer lists would make the history large without showing more.
const LENGTH_MAX: usize = 40;

/// Works until the round's work is over.
pub(super) async fn run(mut client: Client) -> Result<()> {
    let mut lists = [0_u32; COLUMNS as usize];
    let mut count = 0_u64;
    // Tokens of different rounds differ, too.
    let round = client.stage.first;
    while client.stage.is_working() {
        let column = client.rng.random_range(0..COLUMNS);
        let list = &mut lists[column as usize];
        let key = Bytes::from(format!("{LISTS}{column}/{round}/{list:05}"));
        let read = client.answer(get(&key)).await;
        client.pace().await;
        let Some(read) = read else { continue };
        let kv = kvs(&read).first();
        let text = kv.map_or_else(String::new, |kv| String::from_utf8_lossy(&kv.value).into_owned());
        if text.split_whitespace().count() >= LENGTH_MAX {
            *list += 1;
            continue;
        }
        count += 1;
        let value = format!("{text} {}-{count}", client.id()).trim_start().to_owned();
        let modified = kv.map_or(Revision(0), |kv| kv.modified);
        let put = Put { key: key.clone(), value: value.into(), ..Put::default() };
        client.ask(put_if(unchanged(&key, modified), put)).await;
        client.pace().await;
    }
    Ok(())
}
