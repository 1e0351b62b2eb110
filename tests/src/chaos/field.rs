//! The cluster that faults are done to: processes, their failpoints and links, and what may be expected of them.
//!
//! It knows what was done to each member, so that faults may overlap: a link that is cut stays cut when its process starts
//! again, a failpoint of a process that stands still is taken away when it goes on, and a process that ends without a
//! reason is a finding.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tenure_history::report::{NodeState, Note, StateSeen};
use tenure_history::{Moment, NodeId};
use tokio::time::sleep;

use super::leaders::Leaders;
use crate::binaries::Program;
use crate::cluster::Cluster;
use crate::fault_port::FaultPort;
use crate::node::POLL;
use tenure_workload::recorder::Recorder;

/// A faults port that should be there answers within this, on a busy machine too.
const PORT_PATIENCE: Duration = Duration::from_secs(15);
/// A process whose failpoint has struck ends within this. It closes its storage engine, which writes what it has in memory to
/// a disk that others may keep busy.
const END_PATIENCE: Duration = Duration::from_secs(30);
/// Lines of a log that are shown when its process ended.
const LINES_SHOWN: usize = 12;

/// What was done to one member.
#[derive(Debug, Default)]
struct Member {
    id: u64,
    port: Option<FaultPort>,
    paused: bool,
    /// Whether it may end by itself.
    may_end: bool,
    clock_ms: u64,
    /// A failpoint by which its process ends, armed in this life of it.
    deadly: Option<&'static str>,
    /// Whether its process was told of links that are cut.
    told_of_cut: bool,
    /// Failpoints to take away once it goes on.
    to_disarm: Vec<&'static str>,
}

/// See the module's header.
#[derive(Debug)]
pub struct Field {
    pub cluster: Cluster,
    pub recorder: Arc<Recorder>,
    leaders: Leaders,
    members: Vec<Member>,
    cut: BTreeSet<(usize, usize)>,
    pub states: Vec<StateSeen>,
    pub notes: Vec<Note>,
    /// When a clock jumped, and whose.
    pub jumps: Vec<(Moment, usize)>,
    /// What no fault explains.
    pub complaints: Vec<String>,
}

impl Field {
    /// Starts a cluster under `home`; with fault ports, if the program has them.
    pub async fn start(program: Program, size: usize, home: &Path, recorder: Arc<Recorder>) -> Result<Field> {
        let (mut cluster, ports) = match program {
            Program::TenuredFaults => {
                let (cluster, ports) = Cluster::with_faults(size, home, &[])?;
                (cluster, ports.into_iter().map(Some).collect())
            }
            _ => (Cluster::new(program, size, home)?, vec![None; size]),
        };
        let mut members: Vec<Member> = ports.into_iter().map(|port| Member { port, ..Member::default() }).collect();
        cluster.start_all().await?;
        for (at, member) in members.iter_mut().enumerate() {
            member.id = cluster.status(at).await?.header().context("a status without a header")?.member_id();
        }
        let leaders = Leaders::ask(&cluster.endpoints(), &recorder);
        let mut field = Field {
            cluster,
            recorder,
            leaders,
            members,
            cut: BTreeSet::new(),
            states: Vec::new(),
            notes: Vec::new(),
            jumps: Vec::new(),
            complaints: Vec::new(),
        };
        (0..size).for_each(|at| field.note_state(at, NodeState::Up));
        Ok(field)
    }

    /// How many members there are.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// A member's name.
    pub fn name(&self, at: usize) -> &str {
        &self.cluster.nodes[at].name
    }

    /// Where a member's data lies.
    pub fn data_dir(&self, at: usize) -> PathBuf {
        self.cluster.nodes[at].data_dir.clone()
    }

    /// Who says that it leads, and can have something done to it.
    pub fn leader(&self) -> Option<usize> {
        self.leaders.leader()
    }

    /// The leaders seen so far.
    pub fn leaders(&self) -> &Leaders {
        &self.leaders
    }

    /// This member, or the next that runs, is awake and is not about to end.
    pub fn usable(&self, at: usize) -> usize {
        let usable = |at: &usize| {
            let member = &self.members[*at];
            self.cluster.nodes[*at].is_started() && !member.paused && !member.may_end
        };
        (0..self.size()).map(|more| (at + more) % self.size()).find(usable).unwrap_or(at)
    }

    /// Says something for the timeline.
    pub fn note(&mut self, at: Option<usize>, text: impl Into<String>) {
        let node = at.and_then(|at| u32::try_from(at).ok()).map(NodeId);
        self.notes.push(Note { at: self.recorder.now(), node, text: text.into() });
    }

    fn note_state(&mut self, at: usize, state: NodeState) {
        let Ok(node) = u32::try_from(at).map(NodeId) else { return };
        self.states.push(StateSeen { at: self.recorder.now(), node, state });
    }

    /// When processes were started, and whose. Going on after a pause is no start.
    pub fn starts(&self) -> Vec<(Moment, NodeId)> {
        let before = |at: usize, node| self.states[..at].iter().rev().find(|other| other.node == node);
        let starts = self.states.iter().enumerate().filter(|(at, seen)| {
            let went_on = before(*at, seen.node).is_some_and(|last| last.state == NodeState::Paused);
            seen.state == NodeState::Up && !went_on
        });
        starts.map(|(_, seen)| (seen.at, seen.node)).collect()
    }

    /// A member may end by itself from now on.
    pub fn allow_end(&mut self, at: usize) {
        self.members[at].may_end = true;
    }

    /// It has no reason to end any more.
    pub fn forbid_end(&mut self, at: usize) {
        self.members[at].may_end = false;
    }

    /// SIGKILL, if it runs.
    pub fn kill(&mut self, at: usize) -> Result<()> {
        if self.is_running(at)? {
            self.cluster.nodes[at].kill()?;
            self.note_state(at, NodeState::Down);
        }
        let member = &mut self.members[at];
        member.paused = false;
        member.to_disarm.clear();
        Ok(())
    }

    /// SIGSTOP, if it runs.
    pub fn pause(&mut self, at: usize) -> Result<()> {
        if self.is_running(at)? {
            self.cluster.nodes[at].pause()?;
            self.members[at].paused = true;
            self.note_state(at, NodeState::Paused);
        }
        Ok(())
    }

    /// SIGCONT, if it stands still; what could not be said to it meanwhile is said now.
    pub async fn resume(&mut self, at: usize) -> Result<()> {
        if !self.members[at].paused {
            return Ok(());
        }
        self.members[at].paused = false;
        if !self.is_running(at)? {
            return Ok(());
        }
        self.cluster.nodes[at].resume()?;
        self.note_state(at, NodeState::Up);
        for point in std::mem::take(&mut self.members[at].to_disarm) {
            self.disarm(at, point).await?;
        }
        self.push_cut(at).await
    }

    /// Whether its process lives. One that ended without a reason is a finding.
    pub fn is_running(&mut self, at: usize) -> Result<bool> {
        let node = &mut self.cluster.nodes[at];
        if !node.is_started() {
            return Ok(false);
        }
        if node.is_running()? {
            return Ok(true);
        }
        let (said, name) = (node.log_tail(LINES_SHOWN), node.name.clone());
        let last = said.lines().last().unwrap_or_default().to_owned();
        self.note_state(at, NodeState::Down);
        self.note(Some(at), format!("ended by itself: {last}"));
        self.members[at].paused = false;
        if !self.members[at].may_end {
            self.complaints.push(format!("{name} ended by itself without a reason:\n{said}"));
        }
        Ok(false)
    }

    /// Starts it if it does not run. It need not serve yet, but what is cut is cut for it, too.
    pub async fn ensure_running(&mut self, at: usize) -> Result<()> {
        if self.is_running(at)? {
            return Ok(());
        }
        self.cluster.nodes[at].start()?;
        let member = &mut self.members[at];
        (member.clock_ms, member.told_of_cut, member.deadly) = (0, false, None);
        member.to_disarm.clear();
        self.note_state(at, NodeState::Up);
        self.push_cut(at).await
    }

    /// Waits until a member has refused to run; anything else is a finding.
    pub async fn expect_refusal(&mut self, at: usize, patience: Duration, words: &[&str]) -> Result<()> {
        let deadline = Instant::now() + patience;
        while self.is_running(at)? && Instant::now() < deadline {
            sleep(POLL).await;
        }
        let name = self.name(at).to_owned();
        if self.is_running(at)? {
            self.complaints.push(format!("{name} was wiped and still runs after {patience:?}"));
            return self.kill(at);
        }
        let said = self.cluster.nodes[at].log();
        let silent = words.iter().find(|word| !said.to_lowercase().contains(**word));
        if let Some(word) = silent {
            let tail = self.cluster.nodes[at].log_tail(LINES_SHOWN);
            self.complaints.push(format!("{name} was wiped and ended without speaking of {word:?}:\n{tail}"));
        }
        Ok(())
    }

    /// Arms a failpoint.
    pub async fn arm(&mut self, at: usize, point: &'static str, term: &str) -> Result<()> {
        self.tell(at, "PUT", point, term).await
    }

    /// Arms a failpoint by which its process ends, sooner or later.
    pub async fn arm_deadly(&mut self, at: usize, point: &'static str, term: &str) -> Result<()> {
        self.allow_end(at);
        self.members[at].deadly = Some(point);
        self.arm(at, point, term).await
    }

    /// Once all faults of a scene are healed: a process whose failpoint has struck must end, though not at once; then
    /// nobody may end any more.
    pub async fn settle(&mut self) -> Result<()> {
        for at in 0..self.size() {
            if let (Some(point), Some(port)) = (self.members[at].deadly.take(), self.members[at].port)
                && self.is_running(at)?
                // If it does not answer any more, it is about to end.
                && port.count(point).await.map_or(true, |count| count > 0)
            {
                let deadline = Instant::now() + END_PATIENCE;
                while self.is_running(at)? && Instant::now() < deadline {
                    sleep(POLL).await;
                }
                if self.is_running(at)? {
                    let name = self.name(at).to_owned();
                    self.complaints.push(format!("{name} still runs {END_PATIENCE:?} after {point} struck"));
                }
            }
            self.ensure_running(at).await?;
            self.forbid_end(at);
        }
        Ok(())
    }

    /// Takes a failpoint away; later if the member stands still, and not at all if its process is gone.
    pub async fn disarm(&mut self, at: usize, point: &'static str) -> Result<()> {
        if self.members[at].paused {
            self.members[at].to_disarm.push(point);
            return Ok(());
        }
        if !self.is_running(at)? {
            return Ok(());
        }
        let told = self.tell(at, "DELETE", point, "").await;
        // It may have ended by this very point meanwhile.
        if told.is_err() && !self.is_running(at)? { Ok(()) } else { told }
    }

    /// Puts a member's clock ahead.
    pub async fn jump_clock(&mut self, at: usize, by: Duration) -> Result<()> {
        let ahead = self.members[at].clock_ms + u64::try_from(by.as_millis())?;
        self.jumps.push((self.recorder.now(), at));
        self.tell(at, "PUT", "clock", &ahead.to_string()).await?;
        self.members[at].clock_ms = ahead;
        Ok(())
    }

    /// Cuts links.
    pub async fn cut(&mut self, links: &[(usize, usize)]) -> Result<()> {
        self.cut.extend(links);
        self.push_cuts(links).await
    }

    /// Joins them again.
    pub async fn join(&mut self, links: &[(usize, usize)]) -> Result<()> {
        self.cut.retain(|link| !links.contains(link));
        self.push_cuts(links).await
    }

    async fn push_cuts(&mut self, links: &[(usize, usize)]) -> Result<()> {
        let ends: BTreeSet<usize> = links.iter().flat_map(|(from, to)| [*from, *to]).collect();
        for at in ends {
            if !self.members[at].paused && self.is_running(at)? {
                self.push_cut(at).await?;
            }
        }
        Ok(())
    }

    /// Tells a member which of its links are cut. Each end of a link withholds what goes over it.
    async fn push_cut(&mut self, at: usize) -> Result<()> {
        if self.members[at].port.is_none() {
            return Ok(());
        }
        let id = |at: usize| format!("{:x}", self.members[at].id);
        let to: Vec<String> = self.cut.iter().filter(|link| link.0 == at).map(|link| id(link.1)).collect();
        let from: Vec<String> = self.cut.iter().filter(|link| link.1 == at).map(|link| id(link.0)).collect();
        if to.is_empty() && from.is_empty() && !self.members[at].told_of_cut {
            return Ok(());
        }
        self.members[at].told_of_cut = true;
        let body = json!({ "block_to": to, "block_from": from }).to_string();
        let told = self.tell(at, "PUT", "partition", &body).await;
        if told.is_err() && !self.is_running(at)? { Ok(()) } else { told }
    }

    /// Asks a member's fault port, which is there soon after its process began.
    async fn tell(&mut self, at: usize, method: &str, path: &str, body: &str) -> Result<()> {
        let port = self.members[at].port.context("this server has no fault port")?;
        let deadline = Instant::now() + PORT_PATIENCE;
        loop {
            let Err(error) = port.change(method, path, body).await else { return Ok(()) };
            ensure!(self.is_running(at)?, "{} is gone: {error:#}", self.name(at));
            ensure!(Instant::now() < deadline, "{} does not do it: {error:#}", self.name(at));
            sleep(POLL).await;
        }
    }

    /// Takes back whatever may still be there.
    pub async fn heal_everything(&mut self) -> Result<()> {
        self.cut.clear();
        for at in 0..self.size() {
            self.resume(at).await?;
            self.ensure_running(at).await?;
            if self.members[at].port.is_some() {
                self.tell(at, "DELETE", "failpoints", "").await?;
                self.push_cut(at).await?;
            }
        }
        self.settle().await
    }

    /// Looks for what a process must never do.
    pub fn inspect(&mut self) -> Result<()> {
        for at in 0..self.size() {
            if !self.is_running(at)? {
                let name = self.name(at).to_owned();
                self.complaints.push(format!("{name} does not run at the end"));
            }
        }
        Ok(())
    }
}
