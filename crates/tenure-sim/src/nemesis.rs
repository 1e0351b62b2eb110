//! Lets things go wrong, as the seed says: several at once, each for a while, and in the end all of them over.

use std::collections::BTreeMap;
use std::time::Duration;

use tenure_raft::log::Keep;

use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::net::{Gone, Weather};
use crate::trace::Trace;
use tenure_raft::sim::{Kept, Step};

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One member's process is killed.
    Kill,
    /// The leader's is.
    KillLeader,
    /// A majority are, or all.
    KillMany,
    /// A member's computer loses power.
    PowerCut,
    /// It loses power just before its disk does one particular thing.
    PowerCutAtPoint,
    /// All computers lose power.
    PowerCutAll,
    /// A member stands still, for less or more than an election timeout.
    Pause,
    /// The leader does.
    PauseLeader,
    /// The members are cut into two groups.
    Partition,
    /// The leader is cut off.
    CutOffLeader,
    /// One direction of some links is cut.
    OneWay,
    /// Two members do not reach each other, all others reach both.
    Bridge,
    /// A member's disk is slow.
    SlowDisk,
    /// All messages are slow, some are lost, and some come twice.
    Storm,
    /// A client does not reach some members.
    CutClients,
}

impl Kind {
    /// All of them, with how often each is drawn.
    pub const ALL: [(u32, Kind); 15] = [
        (3, Kind::Kill),
        (4, Kind::KillLeader),
        (2, Kind::KillMany),
        (3, Kind::PowerCut),
        (4, Kind::PowerCutAtPoint),
        (1, Kind::PowerCutAll),
        (3, Kind::Pause),
        (4, Kind::PauseLeader),
        (3, Kind::Partition),
        (3, Kind::CutOffLeader),
        (3, Kind::OneWay),
        (2, Kind::Bridge),
        (3, Kind::SlowDisk),
        (3, Kind::Storm),
        (1, Kind::CutClients),
    ];
}

/// Something that ends a fault.
#[derive(Clone, Copy, Debug)]
enum Remedy {
    Start(usize),
    Resume(usize),
    /// Unless links were disturbed again since the disturbance of this number.
    HealLinks(u32),
    FastDisk(usize),
}

/// See the module's header.
pub struct Nemesis {
    dice: Dice,
    trace: Trace,
    next: Duration,
    due: Vec<(Duration, Remedy)>,
    /// How often links were disturbed.
    disturbances: u32,
    /// How often each fault was done.
    pub done: BTreeMap<Kind, u32>,
}

impl Nemesis {
    /// One that begins a moment later.
    pub fn new(seed: u64, trace: &Trace) -> Nemesis {
        let mut dice = Dice::new(seed, "nemesis");
        let next = trace.now() + dice.millis(200, 2_000);
        Nemesis { dice, trace: trace.clone(), next, due: Vec::new(), disturbances: 0, done: BTreeMap::new() }
    }

    /// Does what is due.
    pub async fn act(&mut self, cluster: &mut Cluster) {
        self.remedy(cluster);
        self.end_those_without_power(cluster).await;
        if self.trace.now() >= self.next {
            self.next = self.trace.now() + self.dice.millis(100, 3_000);
            let kind = self.dice.weighted(&Kind::ALL);
            if self.inflict(kind, cluster).await {
                *self.done.entry(kind).or_default() += 1;
            }
        }
    }

    /// Ends everything at once.
    pub async fn end(&mut self, cluster: &mut Cluster) {
        self.end_those_without_power(cluster).await;
        cluster.net.heal();
        for node in &mut cluster.nodes {
            node.clockwork.set_disk(None);
            node.machine.stay_on();
            node.resume();
            if !node.is_running() {
                node.start();
            }
        }
        self.due.clear();
    }

    fn remedy(&mut self, cluster: &mut Cluster) {
        let now = self.trace.now();
        let (due, later) = std::mem::take(&mut self.due).into_iter().partition(|(at, _)| *at <= now);
        self.due = later;
        let due: Vec<(Duration, Remedy)> = due;
        for (_, remedy) in due {
            match remedy {
                Remedy::Start(place) if !cluster.nodes[place].is_running() => cluster.nodes[place].start(),
                Remedy::Start(_) => {}
                Remedy::Resume(place) => cluster.nodes[place].resume(),
                Remedy::HealLinks(disturbance) if disturbance != self.disturbances => {}
                Remedy::HealLinks(_) => {
                    self.trace.note("links heal");
                    cluster.net.heal();
                }
                Remedy::FastDisk(place) => cluster.nodes[place].clockwork.set_disk(None),
            }
        }
    }

    async fn end_those_without_power(&mut self, cluster: &mut Cluster) {
        for place in 0..cluster.size() {
            if cluster.nodes[place].is_running() && cluster.nodes[place].machine.off() {
                self.cut_power(cluster, place).await;
            }
        }
    }

    fn later(&mut self, least_ms: u64, most_ms: u64, remedy: Remedy) {
        let at = self.trace.now() + self.dice.millis(least_ms, most_ms);
        self.due.push((at, remedy));
    }

    async fn inflict(&mut self, kind: Kind, cluster: &mut Cluster) -> bool {
        let size = cluster.size();
        let any = self.dice.below(size);
        let leader = cluster.leader().map(|(place, _)| place);
        let running: Vec<usize> =
            cluster.nodes.iter().filter(|node| node.is_running()).map(|node| node.place).collect();
        self.trace.note(format_args!("{kind:?}"));
        match kind {
            Kind::Kill => return self.kill(cluster, any).await,
            Kind::KillLeader => {
                let Some(leader) = leader else { return false };
                return self.kill(cluster, leader).await;
            }
            Kind::KillMany => {
                let count = if self.dice.chance(0.4) { size } else { cluster.majority() };
                for place in running.into_iter().take(count) {
                    self.kill(cluster, place).await;
                }
            }
            Kind::PowerCut => {
                if !cluster.nodes[any].is_running() {
                    return false;
                }
                self.cut_power(cluster, any).await;
            }
            Kind::PowerCutAtPoint => {
                let steps = [Step::Write, Step::Name, Step::Sync, Step::SyncDir, Step::Commit, Step::Flush];
                let (step, number) = (*self.dice.pick(&steps), self.dice.below(30) as u64);
                cluster.nodes[any].machine.go_off_before(step, number);
            }
            Kind::PowerCutAll => {
                for place in running {
                    self.cut_power(cluster, place).await;
                }
            }
            Kind::Pause => return self.pause(cluster, any),
            Kind::PauseLeader => {
                let Some(leader) = leader else { return false };
                return self.pause(cluster, leader);
            }
            Kind::SlowDisk => {
                let least = self.dice.millis(1, 40);
                let most = least + self.dice.millis(1, 120);
                cluster.nodes[any].clockwork.set_disk(Some((least, most)));
                self.later(500, 8_000, Remedy::FastDisk(any));
            }
            Kind::Partition | Kind::CutOffLeader | Kind::OneWay | Kind::Bridge | Kind::Storm | Kind::CutClients => {
                self.disturb(kind, cluster, leader);
                self.disturbances += 1;
                // Too short for another leader, or long enough.
                let (least, most) = *self.dice.pick(&[(100, 1_000), (2_000, 6_000), (2_000, 6_000)]);
                self.later(least, most, Remedy::HealLinks(self.disturbances));
            }
        }
        true
    }

    fn disturb(&mut self, kind: Kind, cluster: &Cluster, leader: Option<usize>) {
        let size = cluster.size();
        match kind {
            Kind::Partition => {
                let side = self.dice.some_of(size);
                let others: Vec<usize> = (0..size).filter(|place| !side.contains(place)).collect();
                for (a, b) in side.iter().flat_map(|a| others.iter().map(move |b| (*a, *b))) {
                    cluster.net.cut_peers(a, b);
                    cluster.net.cut_peers(b, a);
                }
            }
            Kind::CutOffLeader => {
                let leader = leader.unwrap_or_else(|| self.dice.below(size));
                let (out, back) = *self.dice.pick(&[(true, true), (true, true), (true, false), (false, true)]);
                for other in (0..size).filter(|other| *other != leader) {
                    if out {
                        cluster.net.cut_peers(leader, other);
                    }
                    if back {
                        cluster.net.cut_peers(other, leader);
                    }
                }
            }
            Kind::OneWay => {
                for _ in 0..=self.dice.below(3) {
                    let (from, to) = (self.dice.below(size), self.dice.below(size));
                    if from != to {
                        cluster.net.cut_peers(from, to);
                    }
                }
            }
            Kind::Bridge => {
                let pair = (self.dice.below(size), 1 + self.dice.below(size - 1));
                let (a, b) = (pair.0, (pair.0 + pair.1) % size);
                cluster.net.cut_peers(a, b);
                cluster.net.cut_peers(b, a);
            }
            Kind::Storm => {
                let most = self.dice.millis(5, 250);
                let (loss, twice) = (*self.dice.pick(&[0.0, 0.02, 0.1]), *self.dice.pick(&[0.0, 0.1, 0.5]));
                cluster.net.set_weather(Weather { delay: (Duration::from_micros(100), most), loss, twice });
            }
            _ => {
                use crate::net::End;
                let member = self.dice.below(size);
                for client in (0..64).filter(|client| client % 2 == 0) {
                    cluster.net.cut(End::Client(client), End::Server(member));
                    cluster.net.cut(End::Server(member), End::Client(client));
                }
            }
        }
    }

    async fn kill(&mut self, cluster: &mut Cluster, place: usize) -> bool {
        if !cluster.nodes[place].is_running() {
            return false;
        }
        cluster.nodes[place].end(Gone::Killed, Keep::Everything, Kept::All).await;
        self.later(50, 4_000, Remedy::Start(place));
        true
    }

    async fn cut_power(&mut self, cluster: &mut Cluster, place: usize) {
        let seed = self.dice.number();
        let keep = *self.dice.pick(&[Keep::Nothing, Keep::Torn(seed), Keep::Holes(seed)]);
        let kept = *self.dice.pick(&[Kept::None, Kept::Half, Kept::All]);
        cluster.nodes[place].end(Gone::Dark, keep, kept).await;
        self.later(200, 5_000, Remedy::Start(place));
    }

    fn pause(&mut self, cluster: &mut Cluster, place: usize) -> bool {
        if !cluster.nodes[place].is_running() || cluster.nodes[place].paused {
            return false;
        }
        cluster.nodes[place].pause();
        let (least, most) = *self.dice.pick(&[(50, 900), (1_000, 4_000)]);
        self.later(least, most, Remedy::Resume(place));
        true
    }
}
