//! A made-up run that looks like a real one: five nodes, eight workloads, a fault every four seconds, one broken promise.
//!
//! Nothing of it was measured; it is there to look at the page and to test it.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tenure_history::report::{
    Check, CheckOutcome, End, Fault, Figure, LeaderSeen, Liveness, Measured, Node, NodeState, Note, RunRecord, Sampler,
    Skipped, StateSeen,
};
use tenure_history::verdict::{Verdict, Violation, Window};
use tenure_history::{Moment, NodeId, Revision};

const NODES: u32 = 5;

/// Name, whether it hits the leader, shortest and longest in milliseconds, what it does.
type Kind = (&'static str, Hits, u64, u64, &'static str);

#[derive(Clone, Copy, PartialEq)]
enum Hits {
    Leader,
    Follower,
    Majority,
    Disk,
}

const KINDS: [Kind; 13] = [
    ("kill one", Hits::Follower, 800, 3_000, "SIGKILL, then started again"),
    ("kill leader", Hits::Leader, 800, 3_000, "SIGKILL, then started again"),
    ("kill majority", Hits::Majority, 1_500, 3_000, "SIGKILL of three, then started again"),
    ("kill all", Hits::Majority, 1_000, 2_000, "SIGKILL of all, then started again"),
    ("pause short", Hits::Follower, 100, 300, "SIGSTOP for less than the election timeout"),
    ("pause leader", Hits::Leader, 2_000, 5_000, "SIGSTOP for more than the election timeout"),
    ("partition", Hits::Leader, 2_000, 6_000, "the leader and one more cut off, both ways"),
    ("partition one-way", Hits::Follower, 2_000, 6_000, "it hears nobody and is heard"),
    ("bridge", Hits::Follower, 2_000, 6_000, "two halves that only one node joins"),
    ("fsync slow", Hits::Disk, 1_000, 4_000, "walBeforeSync sleeps for 60 ms"),
    ("fsync fails", Hits::Leader, 500, 1_500, "walBeforeSync returns an error; the node halts"),
    ("disk full", Hits::Follower, 1_000, 3_000, "raftBeforeSave: no space left on device"),
    ("clock offset", Hits::Follower, 3_000, 9_000, "its clock is 2.4 s ahead"),
];

const WORKLOADS: [(&str, &str, u64, u64); 8] = [
    ("kv mix", "put, get, delete and transactions over 40 keys", 1_100, 18),
    ("register", "compare-and-set of 5 registers", 1_500, 22),
    ("append", "each client appends to shared lists by transactions", 1_700, 26),
    ("queue", "producers and consumers of a queue of keys", 1_900, 30),
    ("leases", "grant, keep alive, attach, let expire", 1_300, 55),
    ("locks", "etcd's lock recipe around a fenced resource", 4_200, 70),
    ("reads", "serializable and linearizable gets", 600, 14),
    ("compaction", "compacts to the newest revision but 1,000", 2_500, 100),
];

struct Run {
    rng: StdRng,
    record: RunRecord,
    leader: u32,
    term: u64,
    /// No write is acked within.
    outages: Vec<(u64, u64)>,
    slow: Vec<(u64, u64)>,
}

/// A run of so many minutes.
pub(crate) fn record(seed: u64, minutes: u64) -> RunRecord {
    let length = minutes * 60_000;
    let mut record =
        RunRecord::new("chaos on real processes", seed, format!("make chaos PROFILE=standard SEED={seed}"));
    record.profile = "standard".into();
    record.program = "tenured 0.1.0 (made up)".into();
    record.began_unix_ms = Some(1_767_268_805_000);
    record.length = ms(length);
    record.nodes = (1..=NODES).map(|id| Node::new(NodeId(id), format!("n{id}"))).collect();
    let mut run =
        Run { rng: StdRng::seed_from_u64(seed), record, leader: 0, term: 1, outages: vec![(0, 900)], slow: Vec::new() };
    run.begin();
    run.faults(length - 35_000);
    let sampler = run.clients(length - 4_000);
    let mut record = run.record;
    record.take(&sampler, ms(900)..ms(length - 4_000), Duration::from_millis(300));
    record.liveness = Some(Liveness {
        begin: ms(length - 30_000),
        end: ms(length - 28_700),
        bound: ms(10_000),
        text: "then every member had to answer a write, a read and a watch".into(),
    });
    checks(&mut record);
    record
}

/// A run in which nothing ever worked.
pub(crate) fn void() -> RunRecord {
    let mut record = RunRecord::new("simulated cluster", 0, "make sim SEED=0");
    record.length = ms(30_000);
    record.nodes = (1..=3).map(|id| Node::new(NodeId(id), format!("n{id}"))).collect();
    record.states = (1..=3).map(|id| StateSeen { at: ms(0), node: NodeId(id), state: NodeState::Up }).collect();
    record.void = Some("0 of at least 500 operations succeeded; no leader was elected within 30 s.".into());
    let promise = "One order of all operations respects real time and explains every answer.";
    let outcome = CheckOutcome::Void { reason: "there is no operation".into() };
    record.checks.push(Check { name: "linearize".into(), promise: promise.into(), outcome });
    record.skipped.push(Skipped { what: "all faults".into(), reason: "the cluster never served".into() });
    record
}

fn ms(ms: u64) -> Moment {
    Moment(ms * 1_000_000)
}

impl Run {
    fn begin(&mut self) {
        for id in 1..=NODES {
            self.state(150 + u64::from(id) * 20, id, NodeState::Up);
        }
        self.elect(900, 1);
    }

    fn state(&mut self, at: u64, node: u32, state: NodeState) {
        self.record.states.push(StateSeen { at: ms(at), node: NodeId(node), state });
    }

    fn elect(&mut self, at: u64, node: u32) {
        self.leader = node;
        self.term += self.rng.random_range(1..=2);
        self.record.leaders.push(LeaderSeen { at: ms(at), node: Some(NodeId(node)), term: self.term });
    }

    fn faults(&mut self, until: u64) {
        let mut at = 6_000;
        while at < until - 12_000 {
            if at % 60_000 < 4_000 {
                let text = format!("round {} begins", at / 60_000 + 1);
                self.record.notes.push(Note { at: ms(at), node: None, text });
            }
            let kind = KINDS[self.rng.random_range(0..KINDS.len())];
            let end = at + self.rng.random_range(kind.2..kind.3);
            self.fault(kind, at, end);
            let pause = self.rng.random_range(200..2_500);
            // Some faults overlap.
            at = if self.rng.random_bool(0.15) && kind.1 != Hits::Majority { at + 700 } else { end + pause };
        }
    }

    fn fault(&mut self, kind: Kind, at: u64, end: u64) {
        let (name, hits, _, _, text) = kind;
        let follower = (self.leader + self.rng.random_range(0..NODES - 1)) % NODES + 1;
        let target = if hits == Hits::Leader { self.leader } else { follower };
        let stopped = if name.starts_with("pause") { NodeState::Paused } else { NodeState::Down };
        let stops = name.starts_with("kill") || name.starts_with("pause") || name == "fsync fails";
        let nodes: Vec<u32> = match name {
            "kill all" => (1..=NODES).collect(),
            "kill majority" => (0..3).map(|n| (self.leader - 1 + n) % NODES + 1).collect(),
            _ => vec![target],
        };
        if stops {
            nodes.iter().for_each(|node| self.state(at, *node, stopped));
            nodes.iter().for_each(|node| self.state(end, *node, NodeState::Up));
        }
        let took = self.rng.random_range(550..1_900);
        match hits {
            Hits::Leader => {
                let next = self.leader % NODES + 1;
                self.outages.push((at, at + took));
                self.elect(at + took - 40, next);
            }
            Hits::Majority => {
                self.outages.push((at, end + took));
                self.record.leaders.push(LeaderSeen { at: ms(at + 10), node: None, term: self.term });
                self.elect(end + took - 40, target);
            }
            Hits::Disk => self.slow.push((at, end)),
            Hits::Follower => {}
        }
        let names: Vec<String> = nodes.iter().map(|node| format!("n{node}")).collect();
        self.record.faults.push(Fault::new(name, names.join(" "), ms(at)..ms(end), text));
    }

    fn clients(&mut self, until: u64) -> Sampler {
        let mut sampler = Sampler::default();
        for (place, (name, about, usual_us, pause_ms)) in WORKLOADS.into_iter().enumerate() {
            let workload = sampler.workload(name, about);
            let mut at = 900_000 + u64::try_from(place).unwrap_or(0) * 777;
            while at < until * 1_000 {
                let (took, end) = self.operation(at, usual_us, name == "reads");
                let write = name != "reads" && name != "leases";
                let operation =
                    Measured { called: Moment(at * 1_000), returned: Some(Moment((at + took) * 1_000)), end, write };
                sampler.note(workload, operation);
                at += took + self.rng.random_range(pause_ms * 100..pause_ms * 1_800);
            }
        }
        sampler
    }

    /// How long it takes, in microseconds, and how it ends.
    fn operation(&mut self, at: u64, usual: u64, read: bool) -> (u64, End) {
        let within = |stretches: &[(u64, u64)]| {
            // They come in the order of their begins, and few overlap.
            let begun = stretches.partition_point(|(from, _)| from * 1_000 <= at);
            let near = &stretches[begun.saturating_sub(4)..begun];
            near.iter().find(|(_, to)| at < to * 1_000).map(|(_, to)| to * 1_000 - at)
        };
        let spread: f64 = self.rng.random_range(0.0..1.0);
        let factor = 0.7 + spread * 0.5 + 0.04 / (1.02 - spread);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "small"
        )]
        let usual = (usual as f64 * factor) as u64;
        if let Some(left) = within(&self.outages).filter(|_| !read || spread < 0.6) {
            return match self.rng.random_range(0..10) {
                0..4 => (left + usual, End::Acked),
                4..8 => (left.min(1_000_000) + usual * 3, End::Unknown),
                _ => (usual, End::Failed),
            };
        }
        match within(&self.slow) {
            Some(_) if !read => (usual + 60_000 + usual * 7, End::Acked),
            _ if spread < 0.002 => (usual, End::Refused),
            _ => (usual, End::Acked),
        }
    }
}

fn checks(record: &mut RunRecord) {
    let at = record.length.0 / 1_000_000_000 * 6 / 10;
    let moment = |ms: u64| format!("{}.{:03}000s", at + ms / 1_000, ms % 1_000);
    let evidence = vec![
        format!("client 11  {} – {}  put reg/3 = 8812 → @48211", moment(120), moment(123)),
        format!("client 4   {} – {}  range reg/3 → @48211 reg/3 = 8812 (mod 48211)", moment(131), moment(132)),
        format!("client 7   {} – …  put reg/3 = 9014 → unknown", moment(133)),
        format!("client 23  {} – {}  range reg/3 → @48190 reg/3 = 8790 (mod 48190)", moment(140), moment(1_902)),
    ];
    let stale = Violation {
        checker: "reads",
        promise: "stale read",
        detail:
            "a linearizable read at node n3 answered from revision 48190, but revision 48211 was acked before it began"
                .into(),
        evidence,
    };
    let held = |counts: &str| Verdict::Ok(counts.to_owned());
    let window = Window {
        from_revision: Revision(51_200),
        to_revision: Revision(51_244),
        from: ms(at * 1_100),
        to: ms(at * 1_100 + 2_400),
        unknown: 31,
        steps: 40_000_000,
    };
    let ok = |name, promise, counts| Check::of(name, promise, &held(counts));
    record.checks = vec![
        Check::of(
            "linearize",
            "One order of all operations respects real time and explains every answer.",
            &Verdict::<u64>::Undecided(window),
        ),
        Check::of("reads", "No read is older than it may be.", &Verdict::<u64>::Violation(Box::new(stale))),
        ok(
            "watch",
            "A watcher gets every event once, in order and in whole revisions, and no promise ahead of an event.",
            "160,381 events in 81,780 messages, 3,407 progress notes, 246 ends by compaction, 59,200 previous values right",
        ),
        ok(
            "lease",
            "No lease ends early, or later than the bound, or comes back.",
            "1,236 leases granted, 23,354 renewals acked, 1,101 leases seen gone, 1,101 held against the latest end",
        ),
        ok(
            "lock",
            "No two clients ever know to hold one lock at the same time; no old fencing token passes after a newer one.",
            "8 locks held 9,120 times with 9,112 handovers; 18,233 guarded uses passed, 14 were fenced off",
        ),
        ok("queue", "Nothing that was put in is lost or taken out twice.", "21,730 elements put, 21,730 taken"),
        Check {
            name: "state hashes".into(),
            promise: "All members have applied the same to the same.".into(),
            outcome: CheckOutcome::Skipped { reason: "the servers were built without the hash endpoint".into() },
        },
    ];
    record.figures.push(Figure { name: "acked writes lost".into(), value: "0".into() });
    record.skipped.push(Skipped {
        what: "a wiped node".into(),
        reason: "the profile leaves it to the tests of real processes".into(),
    });
}
