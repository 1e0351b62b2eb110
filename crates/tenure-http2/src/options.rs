//! What may be set of a connection, with defaults that suit a server of small calls.

use std::time::Duration;

/// How a connection is served.
#[derive(Clone, Debug)]
pub struct Options {
    /// Streams that a client may have open; beyond it they are refused.
    pub concurrent_streams_max: u32,
    /// What a client may send on a stream before it was read, at least the 65,535 bytes that it may assume.
    pub stream_window_bytes: u32,
    /// What a client may send on all streams before it was read.
    pub connection_window_bytes: u32,
    /// The longest list of header fields, counted as RFC 9113 does; a request with a longer one is answered with 431.
    pub header_list_bytes_max: u32,
    /// The largest message of a unary call; see [`crate::Service::oversized`].
    pub message_bytes_max: usize,
    /// What the messages of unary calls that are not there as a whole may take together; the call that exceeds it is reset.
    pub unfinished_bytes_max: usize,
    /// What may wait until the client takes it. Beyond half of it, new streams are refused; beyond all of it, streams of unary
    /// calls are reset when they are answered. One answer may be larger.
    pub unsent_bytes_max: usize,
    /// How long a client may take to begin to speak HTTP/2.
    pub handshake_timeout: Duration,
    /// A client that has been silent for so long is sent a ping.
    pub keepalive_interval: Option<Duration>,
    /// How long the answer to that ping may take.
    pub keepalive_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            concurrent_streams_max: u32::MAX,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 4 << 20,
            header_list_bytes_max: 16 * 1024,
            message_bytes_max: 4 << 20,
            unfinished_bytes_max: 64 << 20,
            unsent_bytes_max: 64 << 20,
            handshake_timeout: Duration::from_secs(10),
            keepalive_interval: None,
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}
