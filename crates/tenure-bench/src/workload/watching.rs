//! What the workloads that watch have in common: opening a watch, and values that tell when they were sent.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tenure_proto::etcdserverpb as pb;
use tokio::time::Instant;

use super::WATCH;
use crate::caller::{Answers, Caller, Requests};
use crate::failure::Failure;

/// A moment and a number.
const STAMP_BYTES: usize = 16;

/// A request for a watch.
pub(crate) fn create(watch: pb::WatchCreateRequest) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(watch)) }
}

/// Opens a stream with watches, and waits until all of them are there.
pub(crate) async fn open(
    caller: &Caller,
    watches: Vec<pb::WatchCreateRequest>,
) -> Result<(Requests, Answers), Failure> {
    let (mut requests, mut answers) = caller.stream(WATCH).await?;
    let count = watches.len();
    for watch in watches {
        requests.send(&create(watch))?;
    }
    let mut created = 0;
    while created < count {
        let answer = answers.next::<pb::WatchResponse>().await?;
        let answer = answer.ok_or_else(|| Failure::answer("a watch stream has ended"))?;
        judge(&answer)?;
        created += usize::from(answer.created);
    }
    Ok((requests, answers))
}

/// A cancelled watch is a failure.
pub(crate) fn judge(answer: &pb::WatchResponse) -> Result<(), Failure> {
    if answer.canceled {
        return Err(Failure::answer(format!("a watch was cancelled: {}", answer.cancel_reason)));
    }
    Ok(())
}

/// What a value has in front: when it was sent, and by which operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub sent: Instant,
    pub number: u64,
}

impl Stamp {
    /// A value of at least the stamp's size.
    pub(crate) fn value(self, base: Instant, filling: &[u8]) -> Bytes {
        let mut value = BytesMut::with_capacity(filling.len().max(STAMP_BYTES));
        value.put_u64(u64::try_from(self.sent.saturating_duration_since(base).as_nanos()).unwrap_or(u64::MAX));
        value.put_u64(self.number);
        value.put_slice(filling.get(STAMP_BYTES..).unwrap_or_default());
        value.freeze()
    }

    /// Reads it back; nothing if it is somebody else's value.
    pub(crate) fn read(value: &[u8], base: Instant) -> Option<Stamp> {
        let mut value = value.get(..STAMP_BYTES)?;
        let sent = base.checked_add(Duration::from_nanos(value.get_u64()))?;
        Some(Stamp { sent, number: value.get_u64() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_its_value() {
        let base = Instant::now();
        let stamp = Stamp { sent: base + Duration::from_micros(1234), number: 7 };
        for filling in [0, 8, 256] {
            let value = stamp.value(base, &vec![1; filling]);
            assert_eq!(value.len(), filling.max(STAMP_BYTES));
            assert_eq!(Stamp::read(&value, base), Some(stamp));
        }
        assert_eq!(Stamp::read(b"short", base), None);
    }
}
