//! The clock that deadlines are counted on.
//!
//! A lease runs out while its holder's machine is suspended. [`std::time::Instant`] stands still then, and wall time jumps;
//! so everything here is counted on `CLOCK_BOOTTIME`, and the standard library's clocks are not used. Timers are another
//! matter: after a suspension, or a pause of the process, they fire late. Whoever relies on a deadline compares
//! [`Clock::now`] with it as well, and does not take a timer that has not fired for time that is left.
//!
//! The clock is a trait, for simulations: they feed it by hand, and make its randomness repeatable.

use std::fmt::{self, Debug};
use std::future::Future;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Either, select};
use rustix::time::{ClockId, clock_gettime};
use thiserror::Error;

/// The longest that [`BootClock`] sleeps without a look at the clock. After a suspension its timers are late by at most this.
const SLICE: Duration = Duration::from_secs(1);

/// A moment on a [`Clock`]: how long after an origin that is the clock's own. Moments of different clocks do not compare.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// The clock's origin.
    pub const ORIGIN: Instant = Instant(Duration::ZERO);
    /// Later than any moment that comes.
    pub const FAR_FUTURE: Instant = Instant(Duration::MAX);

    /// The moment that is so long after the clock's origin.
    pub const fn since_origin(span: Duration) -> Instant {
        Instant(span)
    }

    /// How long after the clock's origin this is.
    pub const fn to_origin(self) -> Duration {
        self.0
    }

    /// How long after `earlier` this is; zero if it is before.
    pub const fn saturating_duration_since(self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// How long after `earlier` this is; none if it is before.
    pub fn checked_duration_since(self, earlier: Instant) -> Option<Duration> {
        self.0.checked_sub(earlier.0)
    }

    /// So much later; none if that cannot be told.
    pub fn checked_add(self, span: Duration) -> Option<Instant> {
        self.0.checked_add(span).map(Instant)
    }

    /// So much later, or [`Instant::FAR_FUTURE`].
    pub const fn saturating_add(self, span: Duration) -> Instant {
        Instant(self.0.saturating_add(span))
    }

    /// So much earlier, or [`Instant::ORIGIN`].
    pub const fn saturating_sub(self, span: Duration) -> Instant {
        Instant(self.0.saturating_sub(span))
    }
}

/// As [`Instant::saturating_add`]: a deadline that cannot be told is never reached.
impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, span: Duration) -> Instant {
        self.saturating_add(span)
    }
}

/// As [`Instant::saturating_duration_since`].
impl Sub<Instant> for Instant {
    type Output = Duration;

    fn sub(self, earlier: Instant) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

impl Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{:?}", self.0)
    }
}

/// What a client takes time and chance from.
pub trait Clock: Send + Sync + Debug + 'static {
    /// The moment that it is now. Never earlier than one that was told before.
    fn now(&self) -> Instant;

    /// Ends when it is that late, or soon after. The future needs a runtime with time.
    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()>;

    /// A number that nobody foresees: for jitter, not for secrets.
    fn random(&self) -> u64;
}

/// A deadline passed before a future was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("deadline passed")]
pub struct Elapsed;

impl dyn Clock {
    /// Ends after that long.
    pub fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.now() + span)
    }

    /// Drives a future until it is ready or it is that late. A future that is ready late is ready: only one that is not
    /// ready is dropped.
    ///
    /// # Errors
    ///
    /// [`Elapsed`] if the deadline passed first.
    pub async fn timeout<F: Future>(&self, at: Instant, future: F) -> Result<F::Output, Elapsed> {
        let future = std::pin::pin!(future);
        match select(future, self.sleep_until(at)).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right(((), future)) => future.now_or_never().ok_or(Elapsed),
        }
    }

    /// A span between `low` and `high`, each as likely as the next.
    pub fn between(&self, low: Duration, high: Duration) -> Duration {
        let width = u64::try_from(high.saturating_sub(low).as_nanos()).unwrap_or(u64::MAX);
        low.saturating_add(Duration::from_nanos(self.random().checked_rem(width).unwrap_or(0)))
    }

    /// The span, up to a fraction longer or shorter: `jittered(1 s, 0.1)` is between 0.9 s and 1.1 s.
    pub fn jittered(&self, span: Duration, fraction: f64) -> Duration {
        let fraction = fraction.clamp(0.0, 1.0);
        self.between(span.mul_f64(1.0 - fraction), span.mul_f64(1.0 + fraction))
    }
}

/// The machine's clock: `CLOCK_BOOTTIME`, which runs on while the machine is suspended.
///
/// ```
/// use tenure_client::clock::{BootClock, Clock};
///
/// let clock = BootClock::default();
/// let before = clock.now();
/// assert!(clock.now() >= before);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Instant {
        // It is never negative.
        Instant(Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default())
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        async move {
            loop {
                let left = at.saturating_duration_since(BootClock.now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(SLICE)).await;
            }
        }
        .boxed()
    }

    fn random(&self) -> u64 {
        rand::random()
    }
}

/// tokio's clock, which tests can pause, with randomness from a seed: for tests and simulations. It does not run on while
/// the machine is suspended, so it is no clock for a program that holds locks.
#[derive(Clone, Debug)]
pub struct TokioClock {
    origin: tokio::time::Instant,
    random: Arc<AtomicU64>,
}

impl TokioClock {
    /// A clock that shows zero now. Needs a runtime at hand if time is paused.
    pub fn seeded(seed: u64) -> TokioClock {
        TokioClock { origin: tokio::time::Instant::now(), random: Arc::new(AtomicU64::new(seed)) }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        Instant(self.origin.elapsed())
    }

    fn sleep_until(&self, at: Instant) -> BoxFuture<'static, ()> {
        match self.origin.checked_add(at.0) {
            Some(at) => tokio::time::sleep_until(at).boxed(),
            None => std::future::pending().boxed(),
        }
    }

    /// Splitmix64: each number of the sequence, whoever takes it.
    fn random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.random.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_saturate_and_never_wrap() {
        let early = Instant::since_origin(Duration::from_secs(1));
        let late = early + Duration::from_secs(2);
        assert_eq!(late - early, Duration::from_secs(2));
        assert_eq!(early - late, Duration::ZERO);
        assert_eq!(early.checked_duration_since(late), None);
        assert_eq!(early + Duration::MAX, Instant::FAR_FUTURE);
        assert_eq!(early.checked_add(Duration::MAX), None);
        assert_eq!(early.saturating_sub(Duration::from_secs(9)), Instant::ORIGIN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_drops_what_is_late_and_returns_what_is_ready() {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::seeded(1));
        let at = clock.now() + Duration::from_secs(5);
        assert_eq!(clock.timeout(at, std::future::pending::<()>()).await, Err(Elapsed));
        assert!(clock.now() >= at);
        assert_eq!(clock.timeout(at, async { 7 }).await, Ok(7), "ready is ready, however late");
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_seed_gives_the_same_jitter() {
        let spans = |seed| {
            let clock: Arc<dyn Clock> = Arc::new(TokioClock::seeded(seed));
            (0..100).map(|_| clock.jittered(Duration::from_secs(1), 0.2)).collect::<Vec<_>>()
        };
        assert_eq!(spans(7), spans(7));
        assert_ne!(spans(7), spans(8));
        assert!(spans(7).iter().all(|span| (800..=1200).contains(&span.as_millis())));
    }

    #[tokio::test]
    async fn the_boot_clock_goes_forward_and_its_sleep_ends() {
        let clock = BootClock;
        let at = clock.now() + Duration::from_millis(5);
        clock.sleep_until(at).await;
        assert!(clock.now() >= at);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_cannot_be_told_is_never_reached() {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::seeded(1));
        let day = clock.now() + Duration::from_secs(86_400);
        assert_eq!(clock.timeout(day, clock.sleep_until(Instant::FAR_FUTURE)).await, Err(Elapsed));
    }
}
