//! When the next operation begins: at once, or at its time.
//!
//! In a closed loop a client asks again as soon as it has its answer, so a server that stalls is asked less, and looks better
//! than it is. In an open loop operations are due at a fixed rate, whatever the server does, and a latency counts from
//! the moment at which its operation was *due*, not from when a client was free to send it. Clients are the bound
//! on how many are under way; what was due and found no free client before the end of the run is counted as missed.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

/// How exactly operations of an open loop are sent. Tokio's timers know milliseconds alone, which is more than some answers
/// take.
const TICK_MIN: Duration = Duration::from_micros(100);
/// At low rates the clock still looks this often whether the run is over.
const TICK_MAX: Duration = Duration::from_millis(10);

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// After so many operations.
    Total(u64),
    /// After so much time.
    Time(Duration),
}

/// What the clients of a run share.
#[derive(Debug)]
pub(crate) struct Pace {
    next: Cell<u64>,
    /// The first number that is too high.
    end: u64,
    until: Option<Instant>,
    open: Option<Open>,
    is_stopped: Cell<bool>,
}

#[derive(Debug)]
struct Open {
    interval: Duration,
    first: u64,
    started: Instant,
    /// One permit for each operation that is due.
    due: Semaphore,
    released: Cell<u64>,
}

/// The right to do one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub number: u64,
    /// What its latency counts from.
    pub due: Instant,
}

impl Pace {
    /// Numbers from `first` on, at once or at a rate per second.
    pub(crate) fn new(first: u64, amount: Amount, rate: Option<f64>) -> Rc<Pace> {
        let started = Instant::now();
        let (end, until) = match amount {
            Amount::Total(total) => (first.saturating_add(total), None),
            Amount::Time(time) => (u64::MAX, Some(started + time)),
        };
        let open = rate.map(|rate| Open {
            interval: Duration::from_secs_f64(1.0 / rate),
            first,
            started,
            due: Semaphore::new(0),
            released: Cell::new(0),
        });
        Rc::new(Pace { next: Cell::new(first), end, until, open, is_stopped: Cell::new(false) })
    }

    /// The next operation, when it is time for it; nothing at the end.
    pub(crate) async fn take(&self) -> Option<Ticket> {
        if let Some(open) = &self.open {
            open.due.acquire().await.ok()?.forget();
        }
        let number = self.next.get();
        if number >= self.end || self.is_stopped.get() {
            return None;
        }
        let now = Instant::now();
        let Some(open) = &self.open else {
            if self.until.is_some_and(|until| now >= until) {
                return None;
            }
            self.next.set(number + 1);
            return Some(Ticket { number, due: now });
        };
        self.next.set(number + 1);
        if number + 1 == self.end {
            open.due.close();
        }
        Some(Ticket { number, due: open.due_at(number - open.first) })
    }

    /// Ends the run before its time.
    pub(crate) fn stop(&self) {
        self.is_stopped.set(true);
        if let Some(open) = &self.open {
            open.due.close();
        }
    }

    /// The number after the last that was taken.
    pub(crate) fn next(&self) -> u64 {
        self.next.get()
    }

    /// Operations that were due, and for which no client was free before the end.
    pub(crate) fn missed(&self) -> u64 {
        let first = self.open.as_ref().map_or(0, |open| open.first);
        let released = self.open.as_ref().map_or(0, |open| open.released.get());
        released.saturating_sub(self.next.get() - first)
    }

    /// Lets operations of an open loop go when they are due, until the run ends.
    pub(crate) async fn release_loop(&self) {
        let Some(open) = &self.open else { return };
        let tick = open.interval.clamp(TICK_MIN, TICK_MAX);
        let mut ticks = Ticks::new(tick);
        while !open.due.is_closed() {
            let now = Instant::now();
            let is_over = self.until.is_some_and(|until| now >= until);
            // What would be due at the very end is none of the run's.
            let now = self.until.map_or(now, |until| now.min(until - Duration::from_nanos(1)));
            let wanted = open.due_by(now).min(self.end - open.first);
            let more = usize::try_from(wanted.saturating_sub(open.released.get())).unwrap_or(0);
            open.released.set(wanted);
            open.due.add_permits(more);
            if is_over {
                // Whoever was just let go is to get there before the door closes.
                yield_now().await;
                open.due.close();
                return;
            }
            ticks.wait().await;
        }
    }
}

impl Open {
    fn due_at(&self, index: u64) -> Instant {
        self.started + Duration::from_nanos(scaled(self.interval, index))
    }

    /// How many are due at a moment. The first is due at once.
    fn due_by(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.started).as_nanos();
        u64::try_from(passed / self.interval.as_nanos().max(1)).unwrap_or(u64::MAX).saturating_add(1)
    }
}

fn scaled(interval: Duration, times: u64) -> u64 {
    u64::try_from(interval.as_nanos().saturating_mul(u128::from(times))).unwrap_or(u64::MAX)
}

/// A clock that ticks.
struct Ticks {
    every: Duration,
    /// The kernel's timer, where it is to be had and time is real. It is waited for as if it were a pipe: the kind does not
    /// matter to the poll, nor to the read.
    timer: Option<Receiver>,
}

impl Ticks {
    fn new(every: Duration) -> Ticks {
        Ticks { every, timer: if cfg!(test) { None } else { timer(every).ok() } }
    }

    async fn wait(&mut self) {
        let Some(timer) = &self.timer else {
            sleep_until(Instant::now() + self.every).await;
            return;
        };
        // How often it ticked does not matter: what is due follows from the time.
        let mut ticked = [0; 8];
        let waited = timer.readable().await.map(|()| timer.try_read(&mut ticked));
        if waited.is_err() {
            self.timer = None;
        }
    }
}

fn timer(every: Duration) -> std::io::Result<Receiver> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let every = Timespec { tv_sec: 0, tv_nsec: every.subsec_nanos().into() };
    let times = Itimerspec { it_interval: every, it_value: every };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
    Receiver::from_owned_fd_unchecked(timer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::join;
    use tokio::task::{LocalSet, spawn_local};
    use tokio::time::sleep;

    const RATE: f64 = 100.0;
    const INTERVAL: Duration = Duration::from_millis(10);

    #[tokio::test]
    async fn a_closed_loop_hands_out_its_total() {
        let pace = Pace::new(5, Amount::Total(3), None);
        let mut numbers = Vec::new();
        while let Some(ticket) = pace.take().await {
            numbers.push(ticket.number);
        }
        assert_eq!((numbers, pace.next(), pace.missed()), (vec![5, 6, 7], 8, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_loop_ends_with_its_time() {
        let pace = Pace::new(0, Amount::Time(INTERVAL), None);
        assert!(pace.take().await.is_some());
        sleep(INTERVAL).await;
        assert_eq!(pace.take().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_loop_counts_from_the_intended_start() {
        let pace = Pace::new(0, Amount::Total(10), Some(RATE));
        let started = Instant::now();
        // The first operation takes as long as five are apart: the next ones are late, and their times say so.
        let client = async {
            let mut late = Vec::new();
            while let Some(ticket) = pace.take().await {
                assert_eq!(ticket.due, started + INTERVAL * u32::try_from(ticket.number).unwrap());
                late.push(ticket.due.elapsed().as_millis());
                if ticket.number == 0 {
                    sleep(INTERVAL * 5).await;
                }
            }
            late
        };
        let ((), late) = join!(pace.release_loop(), client);
        assert_eq!(late.len(), 10);
        assert!((39..=41).contains(&late[1]) && (29..=31).contains(&late[2]), "{late:?}");
        assert!(late[6..].iter().all(|late| *late <= 1), "{late:?}");
        assert_eq!(pace.missed(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_client_before_the_end_is_missed() {
        let pace = Pace::new(0, Amount::Time(INTERVAL * 10), Some(RATE));
        let client = async {
            let mut done = 0;
            while pace.take().await.is_some() {
                done += 1;
                sleep(INTERVAL * 4).await;
            }
            done
        };
        let ((), done) = join!(pace.release_loop(), client);
        assert_eq!((done, done + pace.missed()), (3, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_are_free_miss_nothing() {
        let local = LocalSet::new();
        let done = local.run_until(async {
            let pace = Pace::new(0, Amount::Time(INTERVAL * 10), Some(RATE));
            let clients: Vec<_> = (0..3)
                .map(|_| {
                    let pace = pace.clone();
                    spawn_local(async move {
                        let mut done = 0;
                        while pace.take().await.is_some() {
                            done += 1;
                        }
                        done
                    })
                })
                .collect();
            pace.release_loop().await;
            let mut done = 0;
            for client in clients {
                done += client.await.unwrap();
            }
            (done, pace.missed())
        });
        assert_eq!(done.await, (10, 0));
    }
}
