//! Flow control: what may still be sent and received, for a stream or for the connection.
//!
//! Windows that we grant are renewed once half of them is used up: an update for each frame would cost more than it
//! carries.

/// The largest window there may be.
pub(crate) const WINDOW_MAX: u32 = (1 << 31) - 1;

/// What the peer lets us send. A change of its settings may make it negative.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendWindow(i64);

/// A window would exceed what there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overflow;

impl SendWindow {
    pub(crate) fn new(size: u32) -> SendWindow {
        SendWindow(i64::from(size))
    }

    /// How much may be sent.
    pub(crate) fn open(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// Takes what is sent, which may not be more than is open.
    pub(crate) fn take(&mut self, count: usize) {
        debug_assert!(count <= self.open(), "more is sent than the peer allows");
        self.0 -= i64::try_from(count).unwrap_or(i64::MAX);
    }

    /// Adds what the peer grants.
    pub(crate) fn grant(&mut self, increment: u32) -> Result<(), Overflow> {
        self.shift(i64::from(increment))
    }

    /// Follows a change of the peer's initial window.
    pub(crate) fn shift(&mut self, by: i64) -> Result<(), Overflow> {
        let sum = self.0 + by;
        if sum > i64::from(WINDOW_MAX) {
            return Err(Overflow);
        }
        self.0 = sum;
        Ok(())
    }
}

/// What we let the peer send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiveWindow {
    size: u32,
    open: u32,
    /// Consumed, and not granted again yet.
    consumed: u32,
}

impl ReceiveWindow {
    pub(crate) fn new(size: u32) -> ReceiveWindow {
        ReceiveWindow { size: size.min(WINDOW_MAX), open: size.min(WINDOW_MAX), consumed: 0 }
    }

    /// Takes what was received.
    pub(crate) fn receive(&mut self, count: usize) -> Result<(), Overflow> {
        let count = u32::try_from(count).map_err(|_| Overflow)?;
        self.open = self.open.checked_sub(count).ok_or(Overflow)?;
        Ok(())
    }

    /// Gives back what was used, and answers an update that is due.
    pub(crate) fn release(&mut self, count: usize) -> Option<u32> {
        self.consumed = self.consumed.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        if self.consumed == 0 || self.consumed < self.size / 2 {
            return None;
        }
        let increment = self.consumed;
        self.consumed = 0;
        self.open = self.open.saturating_add(increment).min(WINDOW_MAX);
        Some(increment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_window_may_be_negative_but_not_too_large() {
        let mut window = SendWindow::new(10);
        window.take(10);
        assert_eq!(window.shift(-5), Ok(()));
        assert_eq!(window.open(), 0);
        assert_eq!(window.grant(6), Ok(()));
        assert_eq!(window.open(), 1);
        assert_eq!(window.grant(WINDOW_MAX), Err(Overflow));
    }

    #[test]
    fn a_receive_window_is_renewed_by_halves() {
        let mut window = ReceiveWindow::new(100);
        assert_eq!(window.receive(60), Ok(()));
        assert_eq!(window.release(49), None);
        assert_eq!(window.release(1), Some(50));
        assert_eq!(window.receive(91), Err(Overflow));
        assert_eq!(window.receive(90), Ok(()));
    }
}
