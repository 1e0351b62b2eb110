//! The services: each keeps a key alive by a lease, until it is told to stop.
//!
//! What is shown of a lease is what its client may rely on: it ends its time to live after the last acknowledged renewal
//! was *sent*. The server may let it live a little longer, never shorter.

use std::time::Duration;

use crate::clock::Moment;
use crate::model::{EventLog, Kind};

/// Leases that end together are told in one line if each follows the last within this.
const BURST: Duration = Duration::from_secs(2);

/// How a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceState {
    /// It has no lease yet, or not again.
    Away,
    Kept,
    /// It does not renew any more, and its lease has not ended yet.
    Stopped,
    /// Its lease has ended.
    Ended,
}

/// One service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    pub state: ServiceState,
    /// When the last acknowledged grant or renewal was sent.
    sent: Moment,
    ttl: Duration,
}

impl Service {
    /// When the lease may end.
    pub fn due(&self) -> Moment {
        self.sent + self.ttl
    }

    /// How much of its time is left, in thousandths.
    pub fn left_permille(&self, now: Moment) -> u16 {
        if self.ttl.is_zero() || matches!(self.state, ServiceState::Away | ServiceState::Ended) {
            return 0;
        }
        let left = self.due().saturating_sub(now).as_millis() * 1_000 / self.ttl.as_millis().max(1);
        u16::try_from(left.min(1_000)).unwrap_or(1_000)
    }
}

/// All of them.
#[derive(Clone, Debug)]
pub struct ServicesModel {
    pub services: Vec<Service>,
    /// Leases that ended as they should: nobody renewed them.
    pub ran_out: u64,
    /// Leases that ended although their service renewed them.
    pub lost: u64,
    lost_together: Option<(Moment, u64)>,
}

impl ServicesModel {
    pub(crate) fn new(count: usize) -> Self {
        let away = Service { state: ServiceState::Away, sent: Moment::ZERO, ttl: Duration::ZERO };
        Self { services: vec![away; count], ran_out: 0, lost: 0, lost_together: None }
    }

    /// A service's name. They count from one.
    pub fn name(service: usize) -> String {
        format!("svc-{:03}", service + 1)
    }

    /// How many are in this state.
    pub fn count(&self, state: ServiceState) -> usize {
        self.services.iter().filter(|service| service.state == state).count()
    }

    /// The one whose lease ends next among those that do not renew.
    pub fn next_to_end(&self) -> Option<(usize, Service)> {
        let stopped = self.services.iter().copied().enumerate();
        stopped.filter(|(_, service)| service.state == ServiceState::Stopped).min_by_key(|(_, service)| service.due())
    }

    /// One that could stop renewing: spread over the whole field by a stride that visits everyone.
    pub fn next_to_stop(&self) -> Option<usize> {
        let count = self.services.len();
        let stopped_so_far = usize::try_from(self.ran_out).unwrap_or(0) + self.count(ServiceState::Stopped);
        let start = (stopped_so_far + 1) * 61 % count.max(1);
        (0..count).map(|step| (start + step) % count).find(|at| self.services[*at].state == ServiceState::Kept)
    }

    pub(crate) fn granted(&mut self, service: usize, sent: Moment, ttl: Duration) {
        if let Some(service) = self.services.get_mut(service) {
            *service = Service { state: ServiceState::Kept, sent, ttl };
        }
    }

    pub(crate) fn renewed(&mut self, service: usize, sent: Moment, ttl: Duration) {
        let renewing = |service: &&mut Service| matches!(service.state, ServiceState::Kept | ServiceState::Stopped);
        if let Some(service) = self.services.get_mut(service).filter(renewing) {
            service.sent = service.sent.max(sent);
            service.ttl = ttl;
        }
    }

    pub(crate) fn stopped(&mut self, now: Moment, service: usize, events: &mut EventLog) {
        let Some(stopping) = self.services.get_mut(service) else { return };
        stopping.state = ServiceState::Stopped;
        let left = stopping.due().saturating_sub(now).as_secs_f64();
        let name = Self::name(service);
        events.add(now, Kind::Lease, format!("{name} stops renewing: its lease has {left:.1} s left"));
    }

    pub(crate) fn ended(&mut self, now: Moment, overdue_from: Moment, service: usize, events: &mut EventLog) {
        let Some(ended) = self.services.get_mut(service) else { return };
        let before = std::mem::replace(&mut ended.state, ServiceState::Ended);
        let late = now.saturating_sub(overdue_from);
        let early = ended.due().saturating_sub(now);
        let name = Self::name(service);
        match before {
            ServiceState::Away | ServiceState::Ended => {}
            _ if !early.is_zero() => {
                self.lost += 1;
                let text = format!("{name} lost its lease {:.2} s before its time", early.as_secs_f64());
                events.add(now, Kind::Problem, text);
            }
            ServiceState::Stopped => {
                self.ran_out += 1;
                let text = format!("{name}'s lease ran out, {:.2} s after its time", late.as_secs_f64());
                events.add(now, Kind::Lease, text);
            }
            ServiceState::Kept => self.lost_in_outage(now, &name, events),
        }
    }

    fn lost_in_outage(&mut self, now: Moment, name: &str, events: &mut EventLog) {
        self.lost += 1;
        let running = self.lost_together.filter(|(last, _)| now.saturating_sub(*last) < BURST);
        let together = running.map_or(1, |(_, count)| count + 1);
        self.lost_together = Some((now, together));
        if together == 1 {
            events.add(now, Kind::Problem, format!("{name}'s lease ran out: no renewal was acknowledged in its time"));
        } else {
            events.add_over(now, Kind::Problem, format!("{together} leases ran out for lack of acknowledged renewals"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    #[test]
    fn the_bar_counts_from_when_the_renewal_was_sent() {
        let mut model = ServicesModel::new(1);
        model.granted(0, Duration::from_secs(1), TTL);
        model.renewed(0, Duration::from_secs(5), TTL);
        assert_eq!(model.services[0].left_permille(Duration::from_secs(10)), 500);
        assert_eq!(model.services[0].left_permille(Duration::from_secs(99)), 0);
        // Answers of an older request may come last, over another stream.
        model.renewed(0, Duration::from_secs(2), TTL);
        assert_eq!(model.services[0].due(), Duration::from_secs(15));
    }

    #[test]
    fn an_early_end_is_a_problem_and_a_late_one_is_not() {
        let mut events = EventLog::default();
        let mut model = ServicesModel::new(2);
        for service in 0..2 {
            model.granted(service, Duration::ZERO, TTL);
            model.stopped(Duration::ZERO, service, &mut events);
        }
        model.ended(Duration::from_millis(9_500), TTL, 0, &mut events);
        model.ended(Duration::from_millis(10_250), TTL, 1, &mut events);
        let kinds: Vec<_> = events.iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [Kind::Lease, Kind::Lease, Kind::Problem, Kind::Lease]);
        assert_eq!((model.lost, model.ran_out), (1, 1));
        assert!(events.iter().last().unwrap().text.contains("0.25 s after its time"));
    }

    #[test]
    fn those_who_stop_are_spread_and_everyone_has_a_turn() {
        let mut events = EventLog::default();
        let mut model = ServicesModel::new(200);
        assert_eq!(model.next_to_stop(), None);
        (0..200).for_each(|service| model.granted(service, Duration::ZERO, TTL));
        let mut stopped = Vec::new();
        while let Some(service) = model.next_to_stop() {
            model.stopped(Duration::ZERO, service, &mut events);
            stopped.push(service);
        }
        assert_eq!(stopped[..4], [61, 122, 183, 44]);
        assert_eq!(stopped.len(), 200);
    }
}
