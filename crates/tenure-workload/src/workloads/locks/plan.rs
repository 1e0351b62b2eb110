//! What a native contender is going to do: drawn before it begins, so that one place shows all that may happen.

use std::time::Duration;

use rand::RngExt;
use tenure_history::lock::Share;

use super::Locks;
use super::session::draw;
use crate::client::Client;

/// See the module's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) share: Share,
    /// Do not wait.
    pub(super) only_try: bool,
    /// The deadline that the server is told.
    pub(super) wait_max: Option<Duration>,
    /// When its own patience is over.
    pub(super) patience: Duration,
    pub(super) delay: Duration,
    /// How often it takes the lock; re-entrant if that is more than once.
    pub(super) holds: u32,
    pub(super) waiting: Waiting,
    pub(super) granted: Granted,
    pub(super) end: End,
    /// A try that comes when all is over.
    pub(super) late_try: bool,
    /// Uses of the resource.
    pub(super) uses: u32,
    /// Whether nothing goes wrong any more, so that it waits on when the work is over.
    pub(super) calm: bool,
}

/// What it does while it waits, after a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// It waits.
    On,
    /// It breaks the stream off and asks again elsewhere, at once.
    Reattach,
    /// It asks again elsewhere, and breaks the first stream off when the second is there.
    TakeOver,
    /// It breaks the stream off, and lives on for a while.
    Leave,
    /// It cancels by a call, at another member.
    Cancel,
    /// It gives its lease back.
    Revoke,
}

/// What it does when it has the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Granted {
    /// It uses it.
    Use,
    /// It asks again, as if the answer had been lost.
    AskAgain,
    /// It cancels instead of releasing.
    Cancel,
    /// It sleeps past its lease, writes with what it has, and never lets go.
    Oversleep,
}

/// How it lets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Release,
    Revoke,
    RunOut,
}

impl Plan {
    /// Any.
    pub(super) fn draw(client: &mut Client, lock: u32) -> Plan {
        let share = Locks::share(client, lock);
        let waiting = [
            (8, Waiting::On),
            (4, Waiting::Reattach),
            (6, Waiting::TakeOver),
            (3, Waiting::Leave),
            (3, Waiting::Cancel),
            (1, Waiting::Revoke),
        ];
        let granted = [(8, Granted::Use), (4, Granted::AskAgain), (2, Granted::Cancel), (2, Granted::Oversleep)];
        let end = [(8, End::Release), (2, End::Revoke), (2, End::RunOut)];
        let ms = |client: &mut Client, from: u64, to: u64| Duration::from_millis(client.rng.random_range(from..to));
        let granted = draw(client, &granted);
        // Those that oversleep are whom a delay is for.
        let delays = if granted == Granted::Oversleep { 2 } else { 5 };
        Plan {
            share,
            only_try: client.rng.random_ratio(1, 8),
            wait_max: client.rng.random_ratio(1, 6).then(|| ms(client, 200, 2_500)),
            patience: ms(client, 3_000, 12_000),
            delay: if client.rng.random_ratio(1, delays) { ms(client, 300, 1_500) } else { Duration::ZERO },
            holds: draw(client, &[(4, 1), (1, 2)]),
            waiting: draw(client, &waiting),
            granted,
            end: draw(client, &end),
            late_try: client.rng.random_ratio(1, 3),
            uses: client.rng.random_range(1..4),
            calm: false,
        }
    }

    /// One by which everybody gets the lock soon.
    pub(super) fn calm(client: &mut Client, lock: u32) -> Plan {
        let waiting = [(6, Waiting::On), (3, Waiting::Reattach), (2, Waiting::Leave), (1, Waiting::Cancel)];
        Plan {
            share: Locks::share(client, lock),
            only_try: false,
            wait_max: None,
            patience: Duration::from_secs(25),
            delay: Duration::ZERO,
            holds: 1,
            waiting: draw(client, &waiting),
            granted: Granted::Use,
            end: End::Release,
            late_try: false,
            uses: 0,
            calm: true,
        }
    }
}
