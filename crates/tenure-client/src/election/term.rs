//! The end of a term, as an operator asks for it: a key beside the election, which the leader watches.
//!
//! It is not under the election's name, where it would be a candidate. A request is for who led at its revision. A token does not tell: that
//! is when its holder joined the queue, so a request may be newer than the token of one who only waited then.

use bytes::Bytes;

use super::oldest;
use crate::client::Client;
use crate::error::Refusal;
use crate::ids::Revision;
use crate::kv::KeyRange;
use crate::watch::WatchError;

/// What is before an election's name in the key of requests to end a term. `tenurectl put 'tenure/end-of-term/NAME' REASON` is one.
pub const END_OF_TERM_PREFIX: &str = "tenure/end-of-term/";

/// A request to end a term.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndOfTerm {
    /// Why, in the words of whoever asked.
    pub reason: Bytes,
    /// The revision of the request.
    pub revision: Revision,
}

pub(super) fn key(name: &[u8]) -> Bytes {
    [END_OF_TERM_PREFIX.as_bytes(), name].concat().into()
}

/// Waits for a request to the leader with this token, who leads by now.
pub(super) async fn requested(client: Client, name: &[u8], token: Revision) -> Result<EndOfTerm, WatchError> {
    let key = key(name);
    loop {
        let got = client.get(key.clone()).await?;
        if let Some(kv) = got.first().filter(|kv| kv.mod_revision > token)
            && led(&client, name, token, kv.mod_revision).await?
        {
            return Ok(EndOfTerm { reason: kv.value.clone(), revision: kv.mod_revision });
        }
        // What comes after this reading comes to who leads.
        match watched(&client, key.clone(), got.header.revision.next()).await {
            // What was compacted is in the key.
            Err(WatchError::Compacted { .. }) => {}
            told => return told,
        }
    }
}

/// Whether the candidate with this token led at a revision. What is not known any more is long ago, and was heard by its leader.
async fn led(client: &Client, name: &[u8], token: Revision, revision: Revision) -> Result<bool, WatchError> {
    match oldest(client, name).at(revision).await {
        Ok(got) => Ok(got.first().is_some_and(|kv| kv.create_revision == token)),
        Err(error) if error.refusal() == Some(Refusal::Compacted) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn watched(client: &Client, key: Bytes, from: Revision) -> Result<EndOfTerm, WatchError> {
    let mut watcher = Box::pin(client.watch(KeyRange::one(key)).from(from).open()).await?;
    loop {
        let batch = watcher.next().await?;
        if let Some(event) = batch.into_iter().find(|event| event.is_put()) {
            return Ok(EndOfTerm { reason: event.kv.value, revision: event.kv.mod_revision });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_no_candidate_of_the_election() {
        assert_eq!(key(b"a/b"), Bytes::from("tenure/end-of-term/a/b"));
        assert!(!key(b"a").starts_with(b"a/"));
    }
}
