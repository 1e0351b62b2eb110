//! The life of a simulated node: its clock, its disk's pace, and every task that it ever started.
//!
//! A simulation runs several nodes in one thread, where a real node has a process of its own. What the process gives a
//! real node, its [`Life`] gives a simulated one: time of its own, a disk that takes time, an end at any moment that takes
//! all of its tasks with it, and a pause in which none of them moves while their timers run out. Whatever a node's task
//! starts through [`crate::runtime`] belongs to the same life, because the life is at hand while the task is polled.
//!
//! A real node has no life at hand, and everything here stands aside.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinHandle};

use super::BootInstant;

/// Finished tasks are forgotten whenever so many were started.
const TASKS_BETWEEN_SWEEPS: usize = 256;

/// What a simulated node's computer is like.
pub trait Computer: Send + Sync {
    /// Its number, from 1.
    fn number(&self) -> usize;

    /// The time since it booted, suspended or not.
    fn clock(&self) -> Duration;

    /// How long the disk takes for what is asked of it now.
    fn disk_time(&self) -> Duration;
}

/// See the module's header. Clones are handles of the same life.
#[derive(Clone)]
pub struct Life(Arc<Inner>);

struct Inner {
    computer: Box<dyn Computer>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tasks: Vec<AbortHandle>,
    swept_at: usize,
    paused: bool,
    over: bool,
    /// Tasks that were woken during a pause.
    woken: Vec<Waker>,
}

thread_local! {
    static AT_HAND: RefCell<Option<Life>> = const { RefCell::new(None) };
}

/// The life of the task that runs now, in a simulation.
pub fn at_hand() -> Option<Life> {
    AT_HAND.with_borrow(Clone::clone)
}

/// The node's clock, in a simulation.
pub(super) fn clock() -> Option<Duration> {
    AT_HAND.with_borrow(|life| life.as_ref().map(|life| life.0.computer.clock()))
}

impl Life {
    /// The life of a node on such a computer.
    pub fn new(computer: Box<dyn Computer>) -> Life {
        Life(Arc::new(Inner { computer, state: Mutex::default() }))
    }

    /// Starts a task of this life on the calling runtime.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let task = tokio::task::spawn(self.living(future));
        self.note(task.abort_handle());
        task
    }

    /// Does something as this node would.
    pub fn enter<T>(&self, act: impl FnOnce() -> T) -> T {
        let _at_hand = AtHand::new(self);
        act()
    }

    /// The number of the node's computer, from 1.
    pub fn number(&self) -> usize {
        self.0.computer.number()
    }

    /// The node's clock.
    pub fn now(&self) -> BootInstant {
        BootInstant(self.0.computer.clock())
    }

    /// How long the disk takes for what is asked of it now.
    pub fn disk_time(&self) -> Duration {
        self.0.computer.disk_time()
    }

    /// Lets none of the tasks move until [`Life::resume`].
    pub fn pause(&self) {
        self.state().paused = true;
    }

    /// Ends a pause.
    pub fn resume(&self) {
        let woken = {
            let mut state = self.state();
            state.paused = false;
            std::mem::take(&mut state.woken)
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// Ends all tasks where they are, and those that would begin later.
    pub fn end(&self) {
        let (tasks, woken) = {
            let mut state = self.state();
            state.over = true;
            (std::mem::take(&mut state.tasks), std::mem::take(&mut state.woken))
        };
        tasks.iter().for_each(AbortHandle::abort);
        drop(woken);
    }

    /// Whether the node has ended.
    pub fn is_over(&self) -> bool {
        self.state().over
    }

    /// A future as one of this life.
    pub(super) fn living<F: Future>(&self, future: F) -> Living<F> {
        Living { life: self.clone(), future: Some(Box::pin(future)) }
    }

    /// Remembers a task, to be ended with the life.
    pub(super) fn note(&self, task: AbortHandle) {
        let mut state = self.state();
        if state.over {
            return task.abort();
        }
        if state.tasks.len() >= state.swept_at + TASKS_BETWEEN_SWEEPS {
            state.tasks.retain(|task| !task.is_finished());
            state.swept_at = state.tasks.len();
        }
        state.tasks.push(task);
    }

    /// Whether a task may move; if not, it is woken once it may.
    fn may_move(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        if state.paused && !state.over {
            state.woken.push(waker.clone());
        }
        !state.paused && !state.over
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A future that is polled, and dropped, with its life at hand.
pub(super) struct Living<F> {
    life: Life,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Living<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if !self.life.may_move(cx.waker()) {
            return Poll::Pending;
        }
        let living = &mut *self;
        let _at_hand = AtHand::new(&living.life);
        match &mut living.future {
            Some(future) => future.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for Living<F> {
    fn drop(&mut self) {
        let _at_hand = AtHand::new(&self.life);
        self.future = None;
    }
}

/// Has a life at hand until it is dropped.
struct AtHand(Option<Life>);

impl AtHand {
    fn new(life: &Life) -> AtHand {
        AtHand(AT_HAND.replace(Some(life.clone())))
    }
}

impl Drop for AtHand {
    fn drop(&mut self) {
        AT_HAND.set(self.0.take());
    }
}
