//! The peer's settings, and ours as they are told to it.

use crate::error::{ConnectionError, Reason};
use crate::flow::WINDOW_MAX;
use crate::frame;

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;

/// Longer frames are not sent, even to who would take them: others want their turn.
const FRAME_BYTES_MAX: usize = 64 * 1024;

const SETTING_BYTES: usize = 6;

/// The window that streams and connections begin with.
pub(crate) const DEFAULT_WINDOW: u32 = 65_535;

/// What the peer set, as far as a server has to heed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerSettings {
    pub(crate) header_table_bytes: usize,
    pub(crate) initial_window: u32,
    pub(crate) frame_bytes_max: usize,
}

impl Default for PeerSettings {
    fn default() -> PeerSettings {
        PeerSettings { header_table_bytes: 4096, initial_window: DEFAULT_WINDOW, frame_bytes_max: 16_384 }
    }
}

impl PeerSettings {
    /// Takes over what a SETTINGS frame says. Later values of the same setting win.
    pub(crate) fn apply(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        let (settings, rest) = payload.as_chunks::<SETTING_BYTES>();
        if !rest.is_empty() {
            return Err(ConnectionError::new(Reason::FRAME_SIZE_ERROR, "SETTINGS of an odd length"));
        }
        for &[i0, i1, v0, v1, v2, v3] in settings {
            let value = u32::from_be_bytes([v0, v1, v2, v3]);
            match u16::from_be_bytes([i0, i1]) {
                HEADER_TABLE_SIZE => self.header_table_bytes = usize::try_from(value).unwrap_or(usize::MAX),
                ENABLE_PUSH if value > 1 => return Err(ConnectionError::protocol("ENABLE_PUSH is no boolean")),
                INITIAL_WINDOW_SIZE if value > WINDOW_MAX => {
                    return Err(ConnectionError::new(Reason::FLOW_CONTROL_ERROR, "an initial window too large"));
                }
                INITIAL_WINDOW_SIZE => self.initial_window = value,
                MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => {
                    return Err(ConnectionError::protocol("MAX_FRAME_SIZE out of range"));
                }
                MAX_FRAME_SIZE => {
                    self.frame_bytes_max = usize::try_from(value).unwrap_or(usize::MAX).min(FRAME_BYTES_MAX);
                }
                // The rest is for clients, or unknown: it has to be ignored.
                _ => {}
            }
        }
        Ok(())
    }
}

/// Writes the SETTINGS that a connection begins with.
pub(crate) fn put_own(out: &mut Vec<u8>, streams_max: u32, stream_window: u32, header_list_bytes_max: u32) {
    let settings = [
        (MAX_CONCURRENT_STREAMS, streams_max),
        (INITIAL_WINDOW_SIZE, stream_window),
        (MAX_HEADER_LIST_SIZE, header_list_bytes_max),
    ];
    frame::put_head(out, settings.len() * SETTING_BYTES, frame::SETTINGS, 0, 0);
    for (name, value) in settings {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_and_the_last_of_a_name_wins() {
        let mut peer = PeerSettings::default();
        peer.apply(&[0, 4, 0, 0, 0, 1, 0, 4, 0, 0, 0, 2, 0, 99, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0]).expect("valid");
        assert_eq!((peer.initial_window, peer.header_table_bytes), (2, 0));
        let reason = |payload: &[u8]| PeerSettings::default().apply(payload).expect_err("invalid").reason;
        assert_eq!(reason(&[0, 4, 0, 0, 0]), Reason::FRAME_SIZE_ERROR);
        assert_eq!(reason(&[0, 4, 0x80, 0, 0, 0]), Reason::FLOW_CONTROL_ERROR);
        assert_eq!(reason(&[0, 2, 0, 0, 0, 2]), Reason::PROTOCOL_ERROR);
        assert_eq!(reason(&[0, 5, 0, 0, 0, 2]), Reason::PROTOCOL_ERROR);
        assert_eq!(reason(&[0, 5, 1, 0, 0, 0]), Reason::PROTOCOL_ERROR);
    }
}
