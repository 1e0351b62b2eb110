//! One whole run: a cluster, its rounds, the judgement of each, and what is written down.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::Serialize;
use tenure_history::report::{Fault, Figure, Liveness, Node, RunRecord, Sampler, Skipped};
use tenure_history::run::{Finding, Run};
use tenure_history::{Initial, Moment, NodeId};

use super::director::play;
use super::ending::{Ended, SERVE_MAX, end};
use super::faults::Kind;
use super::field::Field;
use super::judge::{self, Round, finding};
use super::outcome;
use super::script::Script;
use super::settings::Settings;
use crate::binaries::Program;
use tenure_workload::connect::Sockets;
use tenure_workload::recorder::{Recorder, Seen};
use tenure_workload::stage::Stage;
use tenure_workload::workloads::{Holding, Resources, Tasks, Workload};

/// A gap without an acked write that is worth telling.
const GAP_MIN: Duration = Duration::from_millis(300);

/// Where a run's files are.
pub const REPORT: &str = "report.html";

/// A run on its way.
struct Running<'a> {
    settings: &'a Settings,
    field: Field,
    script: Script,
    resources: Arc<Resources>,
    sampler: Sampler,
    faults: Vec<Fault>,
    skipped: Vec<Skipped>,
    rounds: Vec<Vec<Finding>>,
    /// What the next round begins with.
    initial: Initial,
    liveness: Option<Liveness>,
    /// When clients were at work, in each round.
    under_load: Vec<Range<Moment>>,
    slowest_judgement: Duration,
}

/// Makes the run; writes the report and everything else to `settings.out`.
pub async fn run(settings: &Settings) -> Result<RunRecord> {
    if settings.out.exists() {
        fs::remove_dir_all(&settings.out).context("what an earlier run left cannot be deleted")?;
    }
    let home = settings.out.join("nodes");
    fs::create_dir_all(&home)?;
    let home = home.canonicalize()?;
    let (program, kinds, skipped) = possible(&settings.kinds);
    for Skipped { what, reason } in &skipped {
        println!("{what} is left out: {reason}");
    }
    let began_unix_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis()).ok();
    let recorder = Arc::new(Recorder::default());
    let field = Field::start(program, settings.nodes, &home, recorder.clone()).await?;
    let mut running = Running {
        settings,
        field,
        script: Script::new(settings.seed, &kinds),
        resources: Arc::default(),
        sampler: Sampler::default(),
        faults: Vec::new(),
        skipped,
        rounds: Vec::new(),
        initial: Initial::default(),
        liveness: None,
        under_load: Vec::new(),
        slowest_judgement: Duration::ZERO,
    };
    for length in settings.rounds() {
        running.round(length).await?;
    }
    let mut record = running.record(&kinds);
    record.began_unix_ms = began_unix_ms;
    record.program = program.label().to_owned();
    write_events(&settings.out, &record)?;
    fs::write(settings.out.join("record.json"), record.to_json()?)?;
    fs::write(settings.out.join(REPORT), tenure_history::report::html(&record))?;
    Ok(record)
}

/// What can be done with the programs that are there.
fn possible(kinds: &[Kind]) -> (Program, Vec<Kind>, Vec<Skipped>) {
    let needs = |kind: &Kind| kind.needs_faults_port();
    if !kinds.iter().any(needs) {
        return (Program::Tenured, kinds.to_vec(), Vec::new());
    }
    match Program::TenuredFaults.path() {
        Ok(_) => (Program::TenuredFaults, kinds.to_vec(), Vec::new()),
        Err(error) => {
            let (left_out, kept) = kinds.iter().partition::<Vec<Kind>, _>(|kind| needs(kind));
            let skip = |kind: Kind| Skipped { what: kind.name().to_owned(), reason: format!("{error:#}") };
            (Program::Tenured, kept, left_out.into_iter().map(skip).collect())
        }
    }
}

impl Running<'_> {
    async fn round(&mut self, length: Duration) -> Result<()> {
        let number = u32::try_from(self.rounds.len())?;
        let recorder = self.field.recorder.clone();
        let connect = Arc::new(Sockets::new(self.field.cluster.endpoints()));
        let stage = Stage::new(connect, recorder.clone(), self.settings.seed, number, self.initial.revision);
        let stage = Arc::new(stage);
        self.field.note(None, format!("round {} begins", number + 1));
        let began = recorder.now();
        let mut tasks = Tasks::default();
        Workload::start_observers(&stage, &mut tasks.watchers);
        for workload in &self.settings.workloads {
            match workload {
                Workload::Locks => {
                    let more = self.settings.contenders;
                    Workload::start_contenders(&stage, more, &self.resources, &mut tasks);
                }
                other => other.start(&stage, &self.resources, &mut tasks),
            }
        }
        Workload::start_holders(&stage, self.settings.leases, &Holding::RENEWED, &mut tasks);
        for scene in self.script.round(length) {
            play(&scene, &mut self.field, &mut self.faults).await?;
        }
        let ended = end(&mut self.field, &stage, tasks).await?;
        self.under_load.push(began..ended.served);
        self.field.note(None, format!("round {} is over", number + 1));
        self.note_liveness(&ended);
        let seen = recorder.take();
        self.judge(number, seen, ended).await
    }

    fn note_liveness(&mut self, ended: &Ended) {
        let took = |liveness: &Liveness| liveness.end.since(liveness.begin);
        let bound = Moment(0).after(SERVE_MAX);
        let text = "every member acks a write".to_owned();
        let liveness = Liveness { begin: ended.healed, end: ended.served, bound, text };
        if self.liveness.as_ref().is_none_or(|other| took(other) < took(&liveness)) {
            self.liveness = Some(liveness);
        }
    }

    async fn judge(&mut self, number: u32, seen: Seen, ended: Ended) -> Result<()> {
        for recorded in &seen.operations {
            let workload = self.sampler.workload(recorded.workload.name(), recorded.workload.about());
            self.sampler.note_operation(workload, &recorded.operation);
        }
        let (jumps, leaders) = (std::mem::take(&mut self.field.jumps), self.field.leaders().seen());
        let calm_from = ended.served;
        let (reconnections, last) = (seen.reconnections, ended.initial.revision);
        let initial = std::mem::replace(&mut self.initial, ended.initial);
        let run = judge::prepare(Round { initial, seen, last, calm_from, jumps, leaders, starts: self.field.starts() });
        let folder = self.settings.out.join(format!("round-{}", number + 1));
        write_round(&folder, &run)?;
        let began = std::time::Instant::now();
        // It computes for a while: other tasks go on meanwhile.
        let found = tokio::task::spawn_blocking(move || judge::decide(run)).await?;
        self.slowest_judgement = self.slowest_judgement.max(began.elapsed());
        let mut all = found.all;
        all.push(finding(
            "liveness",
            &format!("served again; {reconnections} times a watcher went on elsewhere"),
            &ended.complaints,
        ));
        all.push(finding("processes", "none ended without a reason", &std::mem::take(&mut self.field.complaints)));
        all.push(finding("elections", "no term had two leaders", &self.field.leaders().twice()));
        let text: Vec<String> = all.iter().map(|finding| format!("{finding}\n")).collect();
        fs::write(folder.join("findings.txt"), text.concat())?;
        println!("round {}:\n{}", number + 1, text.concat());
        self.rounds.push(all);
        Ok(())
    }

    fn record(mut self, kinds: &[Kind]) -> RunRecord {
        let Settings { profile, seed, command, workloads, strict, .. } = self.settings;
        let mut record = RunRecord::new("chaos on real processes", *seed, command);
        record.profile = profile.name().to_owned();
        record.length = self.field.recorder.now();
        let node = |(at, name): (u32, String)| Node::new(NodeId(at), name);
        let names = self.field.cluster.nodes.iter().map(|node| node.name.clone());
        record.nodes = (0..).zip(names).map(node).collect();
        record.states = std::mem::take(&mut self.field.states);
        record.notes = std::mem::take(&mut self.field.notes);
        record.leaders = self.field.leaders().seen();
        self.faults.sort_by_key(|fault| fault.begin);
        record.faults = self.faults;
        record.skipped = self.skipped;
        record.liveness = self.liveness;
        record.checks = outcome::checks(&self.rounds);
        let slowest = format!("{:.1} s", self.slowest_judgement.as_secs_f64());
        record.figures.push(Figure { name: "longest judgement of a round".to_owned(), value: slowest });
        record.take_rounds(&self.sampler, &self.under_load, GAP_MIN);
        let load = self.under_load.iter().map(|round| round.end.since(round.start)).sum();
        record.void = outcome::void(&record, workloads, kinds, load, *strict);
        record
    }
}

fn write_round(folder: &Path, run: &Run) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("history.jsonl"), run.history.to_json_lines()?)?;
    write_lines(&folder.join("watchers.jsonl"), &run.watchers)?;
    write_lines(&folder.join("holds.jsonl"), &run.holds)?;
    write_lines(&folder.join("uses.jsonl"), &run.uses)?;
    write_lines(&folder.join("claims.jsonl"), &run.contests.claims)?;
    write_lines(&folder.join("guarded.jsonl"), &run.contests.writes)?;
    write_lines(&folder.join("touched.jsonl"), &run.contests.touched)
}

/// Faults, states, leaders and notes, each kind in the order of time.
fn write_events(out: &Path, record: &RunRecord) -> Result<()> {
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Line<'a> {
        Fault(&'a Fault),
        State(&'a tenure_history::report::StateSeen),
        Leader(&'a tenure_history::report::LeaderSeen),
        Note(&'a tenure_history::report::Note),
    }
    let mut lines: Vec<(Moment, Line<'_>)> = Vec::new();
    lines.extend(record.faults.iter().map(|fault| (fault.begin, Line::Fault(fault))));
    lines.extend(record.states.iter().map(|state| (state.at, Line::State(state))));
    lines.extend(record.leaders.iter().map(|leader| (leader.at, Line::Leader(leader))));
    lines.extend(record.notes.iter().map(|note| (note.at, Line::Note(note))));
    lines.sort_by_key(|(at, _)| *at);
    let lines: Vec<Line<'_>> = lines.into_iter().map(|(_, line)| line).collect();
    write_lines(&out.join("events.jsonl"), &lines)
}

fn write_lines<T: Serialize>(path: &Path, lines: &[T]) -> Result<()> {
    let mut text = String::new();
    for line in lines {
        text.push_str(&serde_json::to_string(line)?);
        text.push('\n');
    }
    Ok(fs::write(path, text)?)
}
