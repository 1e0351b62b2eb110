//! Why a stream or a connection ended.
//!
//! An error of one stream is a [`Reason`] alone; one of a connection says in words too what the peer did, for the log.

use std::fmt;
use std::io;

/// An error code of HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub u32);

#[expect(missing_docs, reason = "the names of RFC 9113, section 7")]
impl Reason {
    pub const NO_ERROR: Reason = Reason(0x0);
    pub const PROTOCOL_ERROR: Reason = Reason(0x1);
    pub const INTERNAL_ERROR: Reason = Reason(0x2);
    pub const FLOW_CONTROL_ERROR: Reason = Reason(0x3);
    pub const SETTINGS_TIMEOUT: Reason = Reason(0x4);
    pub const STREAM_CLOSED: Reason = Reason(0x5);
    pub const FRAME_SIZE_ERROR: Reason = Reason(0x6);
    pub const REFUSED_STREAM: Reason = Reason(0x7);
    pub const CANCEL: Reason = Reason(0x8);
    pub const COMPRESSION_ERROR: Reason = Reason(0x9);
    pub const ENHANCE_YOUR_CALM: Reason = Reason(0xb);
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            "no error",
            "protocol error",
            "internal error",
            "flow control error",
            "settings timeout",
            "stream closed",
            "frame size error",
            "refused stream",
            "cancelled",
            "compression error",
            "connect error",
            "enhance your calm",
        ];
        match usize::try_from(self.0).ok().and_then(|code| names.get(code)) {
            Some(name) => f.write_str(name),
            None => write!(f, "error {}", self.0),
        }
    }
}

/// What the peer did that ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {what}")]
pub struct ConnectionError {
    /// What the peer is told.
    pub reason: Reason,
    /// What it did.
    pub what: &'static str,
}

impl ConnectionError {
    pub(crate) const fn new(reason: Reason, what: &'static str) -> ConnectionError {
        ConnectionError { reason, what }
    }

    pub(crate) const fn protocol(what: &'static str) -> ConnectionError {
        ConnectionError::new(Reason::PROTOCOL_ERROR, what)
    }
}

/// Why a connection is not served any more.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The peer broke the protocol, or was a nuisance.
    #[error(transparent)]
    Peer(#[from] ConnectionError),
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer did not begin to speak HTTP/2 in time.
    #[error("no preface in time")]
    HandshakeTimeout,
    /// The peer did not answer a ping in time.
    #[error("no answer to a ping in time")]
    KeepaliveTimeout,
}
