//! The bounds of everything that watching keeps, and why they are what they are.

use std::time::Duration;

use tenure_core::outcome::KeyValue;
use tenure_core::row::EventRow;

/// Recent events in memory, for all watchers together: some seconds of the fastest writing, so that a client that hangs
/// for a moment needs no read.
pub const RING_BYTES_MAX: usize = 64 << 20;

/// Watch streams of one process. Each takes some kilobytes.
pub(super) const STREAMS_MAX: usize = 1 << 18;

/// Watchers of one process. Each takes about 300 bytes beside its keys.
pub(super) const WATCHERS_MAX: usize = 1 << 20;

/// Watchers of one stream: a Go client puts all watches of a process on one.
pub(super) const STREAM_WATCHERS_MAX: usize = 1 << 17;

/// The keys of all watchers: a request can name two of a megabyte.
pub(super) const WATCHED_BYTES_MAX: u64 = 256 << 20;

/// Events that the hub's thread takes from the ring at once, unless a single run has more.
pub(super) const UNMATCHED_EVENTS_MAX: usize = 2 * 1024;

/// Events that are matched before streams get the registry, unless a single revision has more.
pub(super) const MATCHED_EVENTS_MAX: usize = 1024;

/// Ranges and watchers that are visited before streams get the registry, unless a single revision visits more: some
/// milliseconds.
pub(super) const MATCHED_VISITS_MAX: usize = 64 * 1024;

/// Reads of the history for watchers that go on at the same time: consensus and other readers need the cores, too.
pub(super) const CATCH_UP_READS_MAX: usize = 2;

/// Messages with many previous values that are gathered at the same time. They have places of their own, because those who
/// are up to date must not wait for all who are far behind.
pub(super) const GATHERS_MAX: usize = 2;

/// Revisions of one message. etcd's bound; clients have buffers for it.
const MESSAGE_REVISIONS_MAX: usize = 1000;

/// Keys and values of one message, unless a single revision has more: what a stream may hold while its client is slow.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Streams that may hold that much at the same time. The others make do with less, so that many clients that stand still
/// do not add up.
pub(super) const LARGE_HOLDERS_MAX: usize = 64;

/// Keys and values of one message of those others, unless a single revision has more.
const SMALL_MESSAGE_BYTES_MAX: usize = 16 << 10;

/// A revision that is sent whole. Beyond it, a watcher must take fragments; etcd's own bound is 2 GiB, which no server
/// should have to gather.
const WHOLE_REVISION_BYTES_MAX: usize = 512 << 20;

/// Rows of the history that one catch-up read looks at, unless a single revision has more: some milliseconds.
const CATCH_UP_ROWS_MAX: usize = 8 * 1024;

/// Watchers that one catch-up read serves.
const CATCH_UP_WATCHERS_MAX: usize = 1024;

/// Events of the ring that are looked through for one watcher before it is another one's turn, unless a single run has
/// more.
const TURN_EVENTS_MAX: usize = 1024;

/// Watchers that get a turn before a stream lets other tasks of its thread go on.
pub(super) const TURNS_MAX: usize = 64;

/// Previous values that are read on the thread that serves connections; more of them go to another thread.
const INLINE_PREV_KVS_MAX: usize = 8;

/// Previous values that are kept for other watchers of the same events.
pub(super) const PREV_KVS_BYTES_MAX: usize = 16 << 20;

/// How long a progress request waits for all watchers of its stream. After that, each that is up to date answers for
/// itself: kube-apiserver holds up its readers for as long as it hears nothing.
pub(super) const PROGRESS_PATIENCE: Duration = Duration::from_millis(200);

/// How much a stream gathers at once.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// See [`MESSAGE_REVISIONS_MAX`].
    pub(super) message_revisions: usize,
    /// See [`MESSAGE_BYTES_MAX`].
    pub(super) message_bytes: usize,
    /// See [`SMALL_MESSAGE_BYTES_MAX`].
    pub(super) small_message_bytes: usize,
    /// See [`WHOLE_REVISION_BYTES_MAX`].
    pub(super) whole_revision_bytes: usize,
    /// A fragment stays below this, unless a single event does not.
    pub(super) fragment_bytes: usize,
    /// What an event takes on the wire.
    pub(super) event_bytes: fn(&EventRow, Option<&KeyValue>) -> usize,
    /// See [`CATCH_UP_ROWS_MAX`].
    pub(super) catch_up_rows: usize,
    /// See [`CATCH_UP_WATCHERS_MAX`].
    pub(super) catch_up_watchers: usize,
    /// See [`TURN_EVENTS_MAX`].
    pub(super) turn_events: usize,
    /// See [`INLINE_PREV_KVS_MAX`].
    pub(super) inline_prev_kvs: usize,
}

impl StreamLimits {
    /// The limits of a server whose clients take messages of `fragment_bytes`, and where `event_bytes` tells what an
    /// event takes in one.
    pub fn new(fragment_bytes: usize, event_bytes: fn(&EventRow, Option<&KeyValue>) -> usize) -> StreamLimits {
        StreamLimits {
            message_revisions: MESSAGE_REVISIONS_MAX,
            message_bytes: MESSAGE_BYTES_MAX,
            small_message_bytes: SMALL_MESSAGE_BYTES_MAX,
            whole_revision_bytes: WHOLE_REVISION_BYTES_MAX,
            fragment_bytes,
            event_bytes,
            catch_up_rows: CATCH_UP_ROWS_MAX,
            catch_up_watchers: CATCH_UP_WATCHERS_MAX,
            turn_events: TURN_EVENTS_MAX,
            inline_prev_kvs: INLINE_PREV_KVS_MAX,
        }
    }

    /// The limits of a stream that may hold only little.
    pub(super) fn small(self) -> StreamLimits {
        StreamLimits { message_bytes: self.small_message_bytes.min(self.message_bytes), ..self }
    }
}
