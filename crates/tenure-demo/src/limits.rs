//! Every bound of the demo, with its reason.

use std::time::Duration;

/// Each is one line of the screen, and five lanes of ports lie between a low base port and the last of all ports.
pub const NODES_MAX: usize = 5;
/// Each is one cell of the screen, and each costs the server a renewal every few seconds: more is for a benchmark.
pub const SERVICES_MAX: usize = 4_000;
/// The queue of a lock is one line of the screen.
pub const CONTENDERS_MAX: usize = 20;
/// The demo shows that nothing is lost, not how fast the cluster is: `make bench` does that.
pub const WRITES_PER_SECOND_MAX: u32 = 2_000;
/// Writes are remembered until the end, 32 bytes each: 64 MB, and almost three hours at the default rate.
pub const WRITES_MAX: usize = 2_000_000;
/// Writers that each wait for one answer at a time. Enough for the highest rate at a few milliseconds a write.
pub const LANES: usize = 8;
/// Keys that one lane writes in turn, so that versions go up as well as revisions.
pub const KEYS_PER_LANE: u32 = 25;
/// What is remembered of the lock for the check at the end: a day of it.
pub const HOLDS_MAX: usize = 100_000;
/// Deleted service keys that are remembered: every one is a lease that ended.
pub const ENDED_MAX: usize = 100_000;

/// News on their way to the screen. A screen that stands still (a paused terminal) fills this; what comes then is
/// counted and dropped, because a demo that waits for its screen would let its leases run out.
pub const NEWS_QUEUE: usize = 8_192;
/// Commands from the keyboard on their way to the cluster: nobody types faster than they are taken.
pub const CONTROL_QUEUE: usize = 64;
/// Requests that wait in one open stream. The server takes them at once or the stream is given up.
pub const STREAM_QUEUE: usize = 64;
/// Lines of the event list that are kept: a tall terminal full, several times over.
pub const EVENTS_KEPT: usize = 500;

/// How long one request may take. Longer than an election, so that most requests outlive one.
pub const REQUEST_PATIENCE: Duration = Duration::from_secs(2);
/// How long a node may take to accept a connection.
pub const CONNECT_PATIENCE: Duration = Duration::from_millis(800);
/// How often nodes are asked for their status, and how long each may take to answer.
pub const STATUS_EVERY: Duration = Duration::from_millis(250);
pub const STATUS_PATIENCE: Duration = Duration::from_millis(600);
/// After a failed request, so that a cluster without a leader is not asked in a tight loop.
pub const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);
/// A stream on which this long nothing came although something was asked is given up for another node's.
pub const STREAM_SILENCE_MAX: Duration = Duration::from_millis(1_500);
/// How long a service stays away after its lease ended.
pub const SERVICE_AWAY: Duration = Duration::from_secs(6);
/// How long the last requests may take when the load ends.
pub const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long nodes may take to catch up before they are compared.
pub const CATCH_UP_PATIENCE: Duration = Duration::from_secs(30);
/// One answer may carry a long piece of history: etcd sends up to its request limit and a little more.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
