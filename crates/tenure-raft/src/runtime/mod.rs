//! The asynchronous runtime that openraft runs on: tokio, with two things of our own.
//!
//! Time is read from `CLOCK_BOOTTIME`, which goes on while a machine is suspended: a leader that slept through its
//! lease must find it expired, and `CLOCK_MONOTONIC` would tell it that no time had passed. Random numbers come from a
//! per-thread generator that can be seeded, so that a simulated run repeats.
//!
//! Everything of a node that runs beside something else is started here ([`spawn`], [`spawn_on`], [`blocking`],
//! [`spawn_loop`]), so that a simulation can keep it in one thread: see [`life`].

pub mod life;

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::thread;
use std::time::Duration;

use openraft::{AsyncRuntime, Instant, OptionalSend};
use rand::rngs::StdRng;
use rand::{SeedableRng, TryRng};
use rustix::time::{ClockId, clock_gettime};
use tokio::task::{JoinHandle, JoinSet};

pub use life::{Computer, Life};

type Tokio = openraft::TokioRuntime;

/// A reading of `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(Duration);

impl BootInstant {
    /// The present.
    pub fn now() -> BootInstant {
        let machine = || Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
        BootInstant(life::clock().unwrap_or_else(|| machine() + tenure_faults::clock_offset()))
    }

    /// How long ago this was; zero if it lies ahead.
    pub fn elapsed(self) -> Duration {
        BootInstant::now().0.saturating_sub(self.0)
    }

    fn until(self) -> Duration {
        self.0.saturating_sub(BootInstant::now().0)
    }
}

impl Add<Duration> for BootInstant {
    type Output = BootInstant;
    fn add(self, rhs: Duration) -> BootInstant {
        BootInstant(self.0.saturating_add(rhs))
    }
}

impl AddAssign<Duration> for BootInstant {
    fn add_assign(&mut self, rhs: Duration) {
        self.0 = self.0.saturating_add(rhs);
    }
}

impl Sub<Duration> for BootInstant {
    type Output = BootInstant;
    fn sub(self, rhs: Duration) -> BootInstant {
        BootInstant(self.0.saturating_sub(rhs))
    }
}

impl Sub<BootInstant> for BootInstant {
    type Output = Duration;
    fn sub(self, rhs: BootInstant) -> Duration {
        self.0.saturating_sub(rhs.0)
    }
}

impl SubAssign<Duration> for BootInstant {
    fn sub_assign(&mut self, rhs: Duration) {
        self.0 = self.0.saturating_sub(rhs);
    }
}

impl Instant for BootInstant {
    fn now() -> BootInstant {
        BootInstant::now()
    }
}

thread_local! {
    static RNG: RefCell<StdRng> = RefCell::new(StdRng::from_rng(&mut rand::rng()));
}

/// Makes this thread's random numbers (election timeouts, jitter) repeat from `seed`.
pub fn seed_thread_rng(seed: u64) {
    RNG.with_borrow_mut(|rng| *rng = StdRng::seed_from_u64(seed));
}

/// This thread's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadRng;

impl TryRng for ThreadRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        RNG.with_borrow_mut(TryRng::try_next_u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        RNG.with_borrow_mut(TryRng::try_next_u64)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        RNG.with_borrow_mut(|rng| rng.try_fill_bytes(bytes))
    }
}

/// Starts a task on the calling runtime.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match life::at_hand() {
        None => tokio::task::spawn(future),
        Some(life) => life.spawn(future),
    }
}

/// Starts a task of a set on the calling runtime.
pub fn spawn_on<F>(tasks: &mut JoinSet<F::Output>, future: F)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match life::at_hand() {
        None => drop(tasks.spawn(future)),
        Some(life) => life.note(tasks.spawn(life.living(future))),
    }
}

/// Does something that may block, on a thread that may.
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let Some(life) = life::at_hand() else {
        return tokio::task::spawn_blocking(work);
    };
    let time = life.disk_time();
    life.spawn(async move {
        tokio::time::sleep(time).await;
        work()
    })
}

/// Does something that takes a while and that nobody waits for, on a thread of its own.
pub(crate) fn in_background(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    match life::at_hand() {
        None => drop(thread::Builder::new().name(name.to_owned()).spawn(work)?),
        Some(life) if life.is_over() => {}
        Some(_) => drop(blocking(work)),
    }
    Ok(())
}

/// A loop that runs beside everything else; none by default.
#[derive(Debug, Default)]
pub struct Looping {
    name: &'static str,
    thread: Option<thread::JoinHandle<()>>,
}

/// Runs a loop on a thread of its own.
pub fn spawn_loop(name: &'static str, looping: impl Future<Output = ()> + Send + 'static) -> io::Result<Looping> {
    if let Some(life) = life::at_hand() {
        // It ends with what it waits for, or with the life.
        drop(life.spawn(looping));
        return Ok(Looping { name, thread: None });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(looping))?;
    Ok(Looping { name, thread: Some(thread) })
}

impl Looping {
    /// Waits for the end of a loop that was told to end.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread {} panicked", self.name);
        }
    }
}

/// openraft's runtime.
#[derive(Debug)]
pub struct Runtime(Tokio);

impl AsyncRuntime for Runtime {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = BootInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = ThreadRng;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = <Tokio as AsyncRuntime>::Watch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        tokio::time::sleep(duration)
    }

    fn sleep_until(deadline: BootInstant) -> Self::Sleep {
        tokio::time::sleep(deadline.until())
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        tokio::time::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: BootInstant, future: F) -> Self::Timeout<R, F> {
        tokio::time::timeout(deadline.until(), future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Tokio::is_panic(join_error)
    }

    fn thread_rng() -> ThreadRng {
        ThreadRng
    }

    fn new(threads: usize) -> Self {
        Runtime(Tokio::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_thread_repeats_its_numbers() {
        let draw = || [ThreadRng.try_next_u64(), ThreadRng.try_next_u64()].map(|n| n.expect("infallible"));
        seed_thread_rng(7);
        let first = draw();
        seed_thread_rng(7);
        assert_eq!(first, draw());
        assert_ne!(first[0], first[1]);
    }
}
