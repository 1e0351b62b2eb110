//! A clock that runs on while the machine sleeps, and an alarm on it.
//!
//! A lease runs out while its holder's machine is suspended. The ordinary clock stands still then, and timers on it are late
//! by as long as the machine slept; this one's alarm rings when the machine wakes up.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd as _;
use std::time::Duration;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use tokio::net::unix::pipe::Receiver;

/// What is read from a timer: how often it rang.
const RINGS_BYTES: usize = 8;

/// A reading of the clock: how long ago the machine was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BootTime(Duration);

impl BootTime {
    pub(crate) fn now() -> BootTime {
        // It is never negative.
        BootTime(Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default())
    }

    pub(crate) fn plus(self, span: Duration) -> BootTime {
        BootTime(self.0.saturating_add(span))
    }

    /// How long after `earlier` this is; zero if it is before.
    pub(crate) fn since(self, earlier: BootTime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Alarm(Receiver);

impl Alarm {
    pub(crate) fn new() -> io::Result<Alarm> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // Not a pipe, but read like one.
        Ok(Alarm(Receiver::from_owned_fd_unchecked(timer)?))
    }

    /// Waits until then.
    pub(crate) async fn until(&self, at: BootTime) -> io::Result<()> {
        while BootTime::now() < at {
            let it_value = Timespec::try_from(at.0).map_err(io::Error::other)?;
            let once = Itimerspec { it_interval: Timespec::default(), it_value };
            timerfd_settime(self.0.as_fd(), TimerfdTimerFlags::ABSTIME, &once)?;
            self.0.readable().await?;
            match self.0.try_read(&mut [0; RINGS_BYTES]) {
                Ok(_) => {}
                // An earlier ring that nobody waited for any more.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! Readings that a test picks.

    use std::time::Duration;

    use super::BootTime;

    pub(in crate::locking) fn at_ms(ms: u64) -> BootTime {
        BootTime(Duration::from_millis(ms))
    }

    impl BootTime {
        pub(in crate::locking) fn ago(span: Duration) -> BootTime {
            BootTime(BootTime::now().0.saturating_sub(span))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_apart_by_what_lies_between_them() {
        let (early, late) = (testing::at_ms(1000), testing::at_ms(1500));
        assert_eq!(late.since(early), Duration::from_millis(500));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.plus(Duration::from_millis(500)), late);
    }

    #[tokio::test]
    async fn an_alarm_rings_when_it_is_time_and_can_be_set_again() {
        let alarm = Alarm::new().expect("an alarm");
        for _ in 0..3 {
            let at = BootTime::now().plus(Duration::from_millis(5));
            alarm.until(at).await.expect("it rings");
            assert!(BootTime::now() >= at);
        }
        // One that was given up does not ring for the next.
        let at = BootTime::now().plus(Duration::from_millis(20));
        tokio::select! {
            biased;
            _ = alarm.until(at.plus(Duration::from_secs(3600))) => panic!("an hour has passed"),
            () = tokio::task::yield_now() => {}
        }
        alarm.until(at).await.expect("it rings");
        assert!(BootTime::now() >= at);
        alarm.until(testing::at_ms(0)).await.expect("the past needs no waiting");
    }
}
