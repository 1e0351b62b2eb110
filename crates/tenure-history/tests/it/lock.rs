//! Holds of locks and uses of what they guard.

use tenure_history::lock::{Hold, Share, Use, Way, check, safe_end};
use tenure_history::{ClientId, History, LeaseId, Moment, Revision};

use crate::build::*;

fn hold(client: u32, token: i64, acquired: u64, until: u64) -> Hold {
    Hold {
        lock: "l".into(),
        client: ClientId(client),
        lease: LeaseId(i64::from(client)),
        way: Way::Recipe,
        share: Share::Alone,
        token: Revision(token),
        called: Moment(acquired - 1),
        acquired: Moment(acquired),
        until: Moment(until),
    }
}

fn used(client: u32, token: i64, called: u64, accepted: bool) -> Use {
    let (called, returned) = (Moment(called), Moment(called + 2));
    Use { lock: "l".into(), client: ClientId(client), token: Revision(token), called, returned, accepted }
}

#[test]
fn owners_never_overlap() {
    assert!(check(&[hold(1, 2, 10, 20), hold(2, 5, 20, 30)], &[]).is_ok());
    assert_eq!(broken(&check(&[hold(1, 2, 10, 20), hold(2, 5, 19, 30)], &[])), "mutual exclusion");
    // The long hold is not forgotten behind a short one of the same owner.
    let three = [hold(1, 2, 10, 50), hold(1, 2, 11, 12), hold(2, 5, 40, 60)];
    assert_eq!(broken(&check(&three, &[])), "mutual exclusion");
    let mut other = hold(2, 5, 15, 30);
    other.lock = "m".into();
    assert!(check(&[hold(1, 2, 10, 20), other], &[]).is_ok());
}

#[test]
fn tokens_rise() {
    assert_eq!(broken(&check(&[hold(1, 6, 10, 20), hold(2, 5, 25, 30)], &[])), "tokens rise");
    assert_eq!(broken(&check(&[hold(1, 5, 10, 20), hold(2, 5, 25, 30)], &[])), "tokens rise");
}

#[test]
fn an_old_token_never_passes_after_a_newer_one() {
    assert!(check(&[], &[used(1, 2, 10, true), used(2, 5, 20, true), used(1, 2, 30, false)]).is_ok());
    assert_eq!(broken(&check(&[], &[used(2, 5, 20, true), used(1, 2, 30, true)])), "fencing");
    assert!(check(&[], &[used(2, 5, 20, true), used(1, 2, 21, true)]).is_ok(), "they overlap");
}

#[test]
fn an_owner_is_safe_as_long_as_its_renewals_are_acked_in_time() {
    let history = History::of(vec![
        op(1, 0, 10, grant(7, 5), granted(1, 7, 5)),
        op(1, 3_000, 3_100, keep_alive(7), kept(1, 5)),
        // Its answer came only after the owner could no longer be sure.
        op(1, 7_000, 8_100, keep_alive(7), kept(1, 5)),
    ]);
    let ms = |ms: u64| Moment(ms * 1_000_000);
    assert_eq!(safe_end(&history, LeaseId(7), ms(100)), ms(8_000));
    assert_eq!(safe_end(&history, LeaseId(7), ms(8_200)), ms(12_000));
    assert_eq!(safe_end(&history, LeaseId(8), ms(100)), ms(100));
}

#[test]
fn those_who_may_share_a_lock_hold_it_together() {
    let shared = |share: Share, hold: Hold| Hold { share, ..hold };
    let both = |one, other| check(&[shared(one, hold(1, 2, 10, 20)), shared(other, hold(2, 5, 15, 30))], &[]);
    let of = |taken| Share::Permits { taken, limit: 3 };
    assert!(both(Share::Readers, Share::Readers).is_ok());
    assert!(both(of(1), of(2)).is_ok());
    assert_eq!(broken(&both(Share::Readers, Share::Alone)), "mutual exclusion");
    assert_eq!(broken(&both(Share::Alone, Share::Readers)), "mutual exclusion");
    assert_eq!(broken(&both(of(2), of(2))), "semaphore bound");
}
