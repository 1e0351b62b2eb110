//! A contender of Tenure's own kind, through all that may happen to one: streams that break, answers that are lost, tries
//! elsewhere under a higher attach number, cancels, ends of leases, and tries that come when all is over.

use std::time::Duration;

use rand::RngExt;
use tenure_history::contest::{Came, Claim, End, Ended, How, Try};
use tenure_history::lock::{Hold, Way};
use tenure_history::response::Outcome;
use tenure_history::{Moment, Revision};
use tokio::time::{sleep, timeout};

use super::own::{Owned, own, use_once};
use super::plan::{self, Granted, Plan, Waiting};
use super::session::Session;
use super::{Locks, Resources};
use crate::client::Client;
use crate::client::locks::{Asked, Attempt, Told};

/// How long somebody waits before it does what it has in mind.
const BROODS_MAX: Duration = Duration::from_millis(400);
/// How long somebody who left lives on: long enough for what is left of it to be seen.
const LINGERS: Duration = Duration::from_millis(2_500);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Tries of one request.
const TRIES_MAX: usize = 12;
/// Requests of one session.
const REQUESTS_MAX: u64 = 3;

/// Contends once, with a lease of its own.
pub(super) async fn contend(client: &mut Client, resources: &Resources, (locks, lock): (Locks, u32), plan: Plan) {
    let Some(session) = Session::begin(client, locks.ttl_secs()).await else { return };
    let name = Locks::name(lock);
    let key = session.key(&name);
    let asked = Asked {
        key: key.clone(),
        lease: session.id,
        number: 1,
        lowest_open: 1,
        share: plan.share,
        wait: !plan.only_try,
        wait_max: plan.wait_max,
        holds_max: if plan.holds > 1 { plan.holds } else { 0 },
        delay: plan.delay,
        lock: name,
    };
    let claim = asked.claim(client);
    let mut contender = Contender { client, session, plan, asked, claim, brooding: plan.waiting };
    let mut token = contender.acquire().await;
    while token.is_none() && contender.begins_anew() {
        token = contender.acquire().await;
    }
    if let Some(token) = token {
        contender.hold(resources, token).await;
    }
    let Contender { client, session, claim, mut plan, .. } = contender;
    if token.is_none() && !session.gone {
        // What a lost try may have left has to go.
        plan.end = plan::End::Revoke;
    }
    let mut claim = claim;
    if plan.end != plan::End::RunOut {
        let end = revoke(client, &session).await;
        claim.ends.push(end);
    }
    client.note_claim(claim, None);
    session.see_gone(client, &key).await;
}

async fn revoke(client: &mut Client, session: &Session) -> End {
    let called = client.now();
    let came = match session.revoke(client).await {
        Some(Outcome::Ok(response)) => Ended::Done(response.revision),
        _ => Ended::Unknown,
    };
    End { called, returned: client.now(), how: How::Revoke, came }
}

struct Contender<'a> {
    client: &'a mut Client,
    session: Session,
    plan: Plan,
    asked: Asked,
    claim: Claim,
    /// What it still has in mind to do while it waits.
    brooding: Waiting,
}

/// What follows from a try.
enum Next {
    Has(Revision),
    Again,
    Over,
}

impl Contender<'_> {
    fn now(&self) -> Moment {
        self.client.now()
    }

    fn attach(&self) -> u64 {
        self.claim.tries.iter().map(|tried| tried.attach).max().unwrap_or(0) + 1
    }

    /// Asks by another number if the request was over before it could be taken over.
    fn begins_anew(&mut self) -> bool {
        let lost_the_race = self.claim.tries.last().is_some_and(|tried| tried.came == Came::Finished);
        if !lost_the_race || !self.claim.ends.is_empty() || self.session.gone || self.asked.number >= REQUESTS_MAX {
            return false;
        }
        self.asked.number += 1;
        self.asked.lowest_open = self.asked.number;
        let over = std::mem::replace(&mut self.claim, self.asked.claim(self.client));
        self.client.note_claim(over, None);
        true
    }

    fn is_wanted(&self, until: Moment) -> bool {
        let works = self.plan.calm || self.client.stage.is_working();
        works && !self.session.gone && self.now() < until && self.now() < self.session.sure_until
    }

    /// Asks until it has the lock, or is told that it will not get it, or has lost patience.
    async fn acquire(&mut self) -> Option<Revision> {
        let until = self.now().after(self.plan.patience);
        for _ in 0..TRIES_MAX {
            if !self.is_wanted(until) {
                break;
            }
            match self.ask(until).await {
                Next::Has(token) => return Some(token),
                Next::Again => {}
                Next::Over => return None,
            }
            self.session.renew(self.client).await;
        }
        self.cancel(self.attach()).await;
        self.ask_late().await;
        None
    }

    async fn ask(&mut self, until: Moment) -> Next {
        let attach = self.attach();
        match self.client.attempt(&self.asked, attach).await {
            Ok(attempt) => self.listen(attempt, until).await,
            Err(tried) => self.over(tried),
        }
    }

    fn over(&mut self, tried: Try) -> Next {
        let next = match tried.came {
            Came::Granted { token, .. } => Next::Has(token),
            Came::Lost | Came::Refused(_) | Came::Left => Next::Again,
            Came::Busy | Came::Finished | Came::TakenAway | Came::TimeOver | Came::NoLease => Next::Over,
        };
        self.claim.tries.push(tried);
        next
    }

    /// Reads a try's stream, renews the lease meanwhile, and does what it has in mind.
    async fn listen(&mut self, mut attempt: Attempt, until: Moment) -> Next {
        let brood = self.now().after(BROODS_MAX.mul_f64(self.client.rng.random_range(0.0..1.0)));
        let answered_by = self.now().after(self.client.patience());
        loop {
            let pause = self.session.idle(self.client).clamp(Duration::from_millis(1), LOOK_EVERY);
            let recorder = self.client.stage.recorder.clone();
            match timeout(pause, attempt.told(|| recorder.now())).await {
                Ok(Told::Over(came)) => {
                    let lost = came == Came::Lost;
                    let tried = attempt.over(self.now(), came);
                    drop(attempt);
                    self.client.heard(!lost).await;
                    return self.over(tried);
                }
                Ok(Told::Waits) | Err(_) => {}
            }
            let now = self.now();
            if attempt.waits.is_none() && now > answered_by {
                let tried = attempt.over(now, Came::Lost);
                drop(attempt);
                self.client.heard(false).await;
                return self.over(tried);
            }
            self.session.renew(self.client).await;
            let moved = self.client.member() != attempt.at;
            if moved || !self.is_wanted(until) {
                return self.leave(attempt);
            }
            if attempt.waits.is_some() && now >= brood {
                match std::mem::replace(&mut self.brooding, Waiting::On) {
                    Waiting::On => {}
                    Waiting::TakeOver => match self.take_over(attempt).await {
                        Ok(later) => attempt = later,
                        Err(next) => return next,
                    },
                    what => return self.end_waiting(what, attempt).await,
                }
            }
        }
    }

    fn leave(&mut self, attempt: Attempt) -> Next {
        let tried = attempt.over(self.now(), Came::Left);
        drop(attempt);
        self.over(tried)
    }

    /// Asks again elsewhere before it breaks the stream off.
    async fn take_over(&mut self, attempt: Attempt) -> Result<Attempt, Next> {
        self.client.go_elsewhere();
        let second = self.client.attempt(&self.asked, attempt.attach + 1).await;
        let left = attempt.over(self.now(), Came::Left);
        drop(attempt);
        self.claim.tries.push(left);
        second.map_err(|tried| self.over(tried))
    }

    async fn end_waiting(&mut self, what: Waiting, attempt: Attempt) -> Next {
        match what {
            Waiting::On | Waiting::TakeOver | Waiting::Reattach => {
                let next = self.leave(attempt);
                self.client.go_elsewhere();
                next
            }
            Waiting::Leave => {
                self.leave(attempt);
                self.linger().await;
                Next::Over
            }
            Waiting::Cancel => {
                self.client.go_elsewhere();
                self.cancel(attempt.attach).await;
                self.leave(attempt);
                self.ask_late().await;
                Next::Over
            }
            Waiting::Revoke => {
                let end = revoke(self.client, &self.session).await;
                self.claim.ends.push(end);
                // Nobody may be told now that it has the lock.
                self.hear_out(attempt).await
            }
        }
    }

    /// Reads a stream to its end, whose request is over.
    async fn hear_out(&mut self, mut attempt: Attempt) -> Next {
        let recorder = self.client.stage.recorder.clone();
        let told = timeout(self.client.patience(), async {
            loop {
                if let Told::Over(came) = attempt.told(|| recorder.now()).await {
                    return came;
                }
            }
        });
        let came = told.await.unwrap_or(Came::Left);
        let tried = attempt.over(self.now(), came);
        drop(attempt);
        match self.over(tried) {
            // It may have been granted before it was revoked. It does not hold it any more.
            Next::Has(_) | Next::Again | Next::Over => Next::Over,
        }
    }

    /// Lives on for a while, so that what is left of a waiter can be seen.
    async fn linger(&mut self) {
        let until = self.now().after(if self.plan.calm { 3 * LINGERS } else { LINGERS });
        while self.now() < until && !self.session.gone {
            sleep(LOOK_EVERY).await;
            self.session.renew(self.client).await;
            if self.session.look_for(self.client, &self.asked.key).await == Some(false) {
                return;
            }
        }
    }

    async fn cancel(&mut self, attach: u64) -> Ended {
        let end = self.client.cancel(&self.asked, attach).await;
        let came = end.came;
        self.claim.ends.push(end);
        came
    }

    /// A try of a request that is over, as one that was long on its way.
    async fn ask_late(&mut self) {
        let over = self.claim.ends.iter().any(|end| !matches!(end.came, Ended::Unknown | Ended::Stale(_)));
        if !self.plan.late_try || !over || self.claim.holds_max > 1 {
            return;
        }
        self.client.go_elsewhere();
        let attach = self.attach();
        let tried = self.client.try_once(&self.asked, attach).await;
        self.claim.tries.push(tried);
    }

    /// Has the lock.
    async fn hold(&mut self, resources: &Resources, token: Revision) {
        let (asked, key) = (self.claim.tries[0].called, self.asked.key.clone());
        let lock = self.asked.lock.clone();
        let owned = Owned { lock: &lock, key: &key, way: Way::Native, share: self.asked.share, token, asked };
        match self.plan.granted {
            Granted::Oversleep => return self.oversleep(resources, &owned).await,
            Granted::AskAgain => {
                if !self.ask_again().await {
                    // A stream that ends before it tells of the lock lets it go.
                    self.cancel(self.attach()).await;
                    return;
                }
            }
            Granted::Use | Granted::Cancel => {}
        }
        let more = if self.plan.holds > 1 { self.hold_more(token).await } else { Vec::new() };
        let mut hold = own(self.client, &mut self.session, resources, &owned, self.plan.uses).await;
        if self.plan.end == plan::End::RunOut {
            self.client.stage.recorder.note_hold(hold);
        } else {
            hold.until = hold.until.min(self.now());
            self.client.stage.recorder.note_hold(hold);
            self.let_go(token, &more).await;
        }
        more.into_iter().for_each(|claim| self.client.note_claim(claim, Some(token)));
    }

    /// As if the answer had been lost. Whether it still has the lock.
    async fn ask_again(&mut self) -> bool {
        if self.client.rng.random_ratio(1, 2) {
            self.client.go_elsewhere();
        }
        let until = self.now().after(self.client.patience());
        matches!(self.ask(until).await, Next::Has(_))
    }

    /// Takes the lock again, by another request.
    async fn hold_more(&mut self, token: Revision) -> Vec<Claim> {
        let first = self.asked.number;
        let again = Asked { number: first + 1, ..self.asked.clone() };
        let mut claim = again.claim(self.client);
        let tried = self.client.try_once(&again, 1).await;
        let granted = matches!(tried.came, Came::Granted { token: again, .. } if again == token);
        claim.tries.push(tried);
        if granted && self.client.rng.random_ratio(1, 2) {
            // It has it still: the first is not touched.
            let end = self.client.release(&again, token, again.number).await;
            claim.ends.push(end);
        }
        vec![claim]
    }

    async fn let_go(&mut self, token: Revision, more: &[Claim]) {
        if self.plan.end == plan::End::Revoke {
            return;
        }
        let end = if self.plan.granted == Granted::Cancel && more.is_empty() {
            let attach = self.attach() - 1;
            self.client.cancel(&self.asked, attach).await
        } else {
            self.client.release(&self.asked, token, 0).await
        };
        let is_over = end.came != Ended::Unknown;
        self.claim.ends.push(end);
        if is_over {
            self.ask_late().await;
        }
    }

    /// Sleeps past the lease and the delay, and then writes with the token that it has.
    async fn oversleep(&mut self, resources: &Resources, owned: &Owned<'_>) {
        let acquired = self.now();
        self.plan.end = plan::End::RunOut;
        let hold = Hold {
            lock: owned.lock.to_owned(),
            client: self.client.id(),
            lease: self.session.id,
            way: owned.way,
            share: owned.share,
            token: owned.token,
            called: owned.asked,
            acquired,
            until: self.session.sure_until.max(acquired),
        };
        self.client.stage.recorder.note_hold(hold);
        let asleep = self.session.ttl.mul_f64(self.client.rng.random_range(1.0..2.0));
        sleep(asleep).await;
        for _ in 0..2 {
            use_once(self.client, &self.session, resources, owned).await;
        }
    }
}
