//! Whether a stream is still worth listening to: a pure state machine, fed with what is heard and what time it is.
//!
//! A connection can be dead without a sign, and a stream without events looks the same. So a stream that is silent is asked
//! something, and one that then stays silent is left. And a member can be alive and far behind the others: it is left if, for a
//! while, it does not reach a revision that the client already knew when that while began.
//!
//! It is asked for progress first, which also moves watches on that have nothing to tell. Because not every server answers that in
//! every state, it is asked something else before it is left (see [`super::table::Table::knock`]).

use std::time::Duration;

use crate::clock::Instant;
use crate::ids::Revision;

/// How patient a stream's client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchPatience {
    /// A stream that is silent for this long is asked whether it is there. 5 s unless set.
    pub silence: Duration,
    /// A stream that does not answer for this long is left for another endpoint. 5 s unless set.
    pub answer: Duration,
    /// A member that does not reach a known revision within this is left for another endpoint. 15 s unless set.
    pub lag: Duration,
}

impl Default for WatchPatience {
    fn default() -> WatchPatience {
        let secs = Duration::from_secs;
        WatchPatience { silence: secs(5), answer: secs(5), lag: secs(15) }
    }
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    AskProgress,
    Knock,
    /// It is silent.
    LeaveSilent,
    /// It is behind.
    LeaveBehind,
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Pulse {
    patience: WatchPatience,
    heard_at: Instant,
    asked: Asked,
    /// A revision that the member is to reach, and since when.
    goal: Option<(Revision, Instant)>,
    looked_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Progress,
    Knocked,
}

impl Pulse {
    /// A stream that is being opened now.
    pub(super) fn new(patience: WatchPatience, now: Instant) -> Pulse {
        Pulse { patience, heard_at: now, asked: Asked::Nothing, goal: None, looked_at: now }
    }

    /// Something came.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard_at = now;
        self.asked = Asked::Nothing;
    }

    /// The member has said how far it is.
    pub(super) fn stands_at(&mut self, revision: Revision, known: Revision, now: Instant) {
        self.looked_at = now;
        match self.goal {
            Some((goal, _)) if revision < goal => {}
            _ => self.goal = (revision < known).then_some((known, now)),
        }
    }

    /// What is due; at most one thing for each moment. `known` is the highest revision that the client has heard of from anyone.
    pub(super) fn beat(&mut self, now: Instant) -> Option<Beat> {
        if self.goal.is_some_and(|(_, since)| now >= since + self.patience.lag) {
            return Some(Beat::LeaveBehind);
        }
        if now >= self.silent_at() + self.patience.answer {
            return Some(Beat::LeaveSilent);
        }
        match self.asked {
            Asked::Nothing if now >= self.silent_at() => {
                self.asked = Asked::Progress;
                Some(Beat::AskProgress)
            }
            Asked::Progress if now >= self.knock_at() => {
                self.asked = Asked::Knocked;
                Some(Beat::Knock)
            }
            // Events may come without end from a member that is behind, so its silence is not waited for.
            _ if self.goal.is_some() && now >= self.looked_at + self.patience.silence => {
                self.looked_at = now;
                Some(Beat::Knock)
            }
            Asked::Nothing | Asked::Progress | Asked::Knocked => None,
        }
    }

    /// When [`Pulse::beat`] has something to say at the latest, if nothing is heard.
    pub(super) fn due(&self) -> Instant {
        let next = match self.asked {
            Asked::Nothing => self.silent_at(),
            Asked::Progress => self.knock_at(),
            Asked::Knocked => self.silent_at() + self.patience.answer,
        };
        match self.goal {
            Some((_, since)) => next.min(since + self.patience.lag).min(self.looked_at + self.patience.silence),
            None => next,
        }
    }

    fn silent_at(&self) -> Instant {
        self.heard_at + self.patience.silence
    }

    fn knock_at(&self) -> Instant {
        self.silent_at() + self.patience.answer / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Instant {
        Instant::since_origin(Duration::from_secs(secs))
    }

    fn pulse() -> Pulse {
        let secs = Duration::from_secs;
        Pulse::new(WatchPatience { silence: secs(10), answer: secs(4), lag: secs(30) }, at(0))
    }

    /// Everything that is due until a moment, with when.
    fn beats(pulse: &mut Pulse, until: u64) -> Vec<(u64, Beat)> {
        let mut beats = Vec::new();
        while pulse.due() <= at(until) {
            let now = pulse.due();
            let beat = pulse.beat(now).expect("what is due");
            beats.push((now.to_origin().as_secs(), beat));
            if matches!(beat, Beat::LeaveSilent | Beat::LeaveBehind) {
                break;
            }
        }
        beats
    }

    #[test]
    fn a_silent_stream_is_asked_twice_and_left() {
        let mut pulse = pulse();
        assert_eq!(beats(&mut pulse, 99), [(10, Beat::AskProgress), (12, Beat::Knock), (14, Beat::LeaveSilent)]);
    }

    #[test]
    fn an_answer_to_either_question_is_enough() {
        let mut pulse = pulse();
        assert_eq!(beats(&mut pulse, 11), [(10, Beat::AskProgress)]);
        pulse.heard(at(11));
        assert_eq!(beats(&mut pulse, 23), [(21, Beat::AskProgress), (23, Beat::Knock)]);
        pulse.heard(at(24));
        assert_eq!(beats(&mut pulse, 33), []);
    }

    #[test]
    fn a_stream_that_talks_is_asked_nothing() {
        let mut pulse = pulse();
        for second in 0..100 {
            pulse.heard(at(second));
            assert_eq!(pulse.beat(at(second)), None);
        }
    }

    #[test]
    fn a_member_that_does_not_reach_what_is_known_is_left_although_it_talks() {
        let mut pulse = pulse();
        pulse.stands_at(Revision(5), Revision(9), at(0));
        let mut left = None;
        for second in 0..100 {
            pulse.heard(at(second));
            match pulse.beat(at(second)) {
                // Each answer shows that it moves, and not enough.
                Some(Beat::Knock) => pulse.stands_at(Revision(8), Revision(100), at(second)),
                Some(Beat::LeaveBehind) => {
                    left = Some(second);
                    break;
                }
                other => assert_eq!(other, None),
            }
        }
        assert_eq!(left, Some(30));
    }

    #[test]
    fn a_member_that_follows_at_a_distance_stays() {
        let mut pulse = pulse();
        for second in 0..100 {
            let second_revision = i64::try_from(second).expect("small");
            pulse.heard(at(second));
            pulse.stands_at(Revision(second_revision), Revision(second_revision + 10), at(second));
            assert_eq!(pulse.beat(at(second)), None);
        }
    }

    #[test]
    fn after_a_pause_of_the_process_a_stream_is_left_and_not_trusted() {
        assert_eq!(pulse().beat(at(1000)), Some(Beat::LeaveSilent));
    }
}
