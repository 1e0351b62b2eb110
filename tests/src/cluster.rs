//! A cluster of server processes on loopback, started with etcd's flags.
//!
//! It works for both programs alike. Who leads is asked over the wire, of the nodes themselves, because that is what an
//! operator sees; nothing is read from a node's inside.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use etcd_client::{Client, ConnectOptions, StatusResponse};
use tokio::time::{sleep, timeout};

use crate::binaries::Program;
use crate::fault_port::FaultPort;
use crate::node::{Node, POLL, READY_PATIENCE};
use crate::ports::free_port;

/// Longest that a fault-free cluster may take to agree on a leader.
pub const LEADER_PATIENCE: Duration = Duration::from_secs(15);
const STATUS_PATIENCE: Duration = Duration::from_millis(500);

/// The nodes of one cluster and how they were started.
#[derive(Debug)]
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub program: Program,
    home: PathBuf,
    token: String,
    extra_flags: Vec<String>,
}

impl Cluster {
    /// Lays out `size` nodes under `home` without starting them.
    pub fn new(program: Program, size: usize, home: &Path) -> Result<Self> {
        Self::with_flags(program, size, home, &[])
    }

    /// Like [`Cluster::new`], with more flags for every node.
    pub fn with_flags(program: Program, size: usize, home: &Path, extra_flags: &[&str]) -> Result<Self> {
        fs::create_dir_all(home)?;
        let token = format!("test-{}", free_port()?);
        let mut nodes = Vec::with_capacity(size);
        for at in 1..=size {
            nodes.push(Node::new(program, &format!("n{at}"), home, free_port()?, free_port()?));
        }
        let extra_flags = extra_flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut cluster = Self { nodes, program, home: home.to_owned(), token, extra_flags };
        for at in 0..size {
            let flags = cluster.flags_of(at);
            cluster.nodes[at].set_flags(flags);
        }
        Ok(cluster)
    }

    /// Like [`Cluster::with_flags`], of servers that faults can be injected into, and where.
    pub fn with_faults(size: usize, home: &Path, extra_flags: &[&str]) -> Result<(Self, Vec<FaultPort>)> {
        let mut cluster = Self::with_flags(Program::TenuredFaults, size, home, extra_flags)?;
        let mut ports = Vec::with_capacity(size);
        for at in 0..size {
            let port = FaultPort(free_port()?);
            let mut flags = cluster.flags_of(at);
            flags.push(port.flag());
            cluster.nodes[at].set_flags(flags);
            ports.push(port);
        }
        Ok((cluster, ports))
    }

    /// Lays out a cluster, starts it and waits until it has a leader.
    pub async fn start(program: Program, size: usize, home: &Path) -> Result<Self> {
        let mut cluster = Self::new(program, size, home)?;
        cluster.start_all().await?;
        Ok(cluster)
    }

    /// The directory that holds the nodes' data and logs.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The flags of one node, in etcd's spelling.
    pub fn flags_of(&self, at: usize) -> Vec<String> {
        let node = &self.nodes[at];
        let client = node.endpoint();
        let peer = format!("http://127.0.0.1:{}", node.peer_port);
        let members: Vec<String> =
            self.nodes.iter().map(|node| format!("{}=http://127.0.0.1:{}", node.name, node.peer_port)).collect();
        let mut flags = vec![
            format!("--name={}", node.name),
            format!("--data-dir={}", node.data_dir.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}", members.join(",")),
            "--initial-cluster-state=new".to_owned(),
            format!("--initial-cluster-token={}", self.token),
        ];
        flags.extend(self.extra_flags.iter().cloned());
        flags
    }

    /// Starts every node that does not run and waits for a leader that all of them follow.
    pub async fn start_all(&mut self) -> Result<()> {
        for node in self.nodes.iter_mut().filter(|node| !node.is_started()) {
            node.start()?;
        }
        for node in &mut self.nodes {
            node.wait_ready(READY_PATIENCE).await?;
        }
        self.wait_leader(LEADER_PATIENCE).await?;
        Ok(())
    }

    /// Starts one node again on its own data and waits until it serves.
    pub async fn restart(&mut self, at: usize) -> Result<()> {
        self.nodes[at].start()?;
        self.nodes[at].wait_ready(READY_PATIENCE).await
    }

    /// The client URLs of all nodes.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(Node::endpoint).collect()
    }

    /// A client that talks to this node only.
    pub async fn client(&self, at: usize) -> Result<Client> {
        connect(&self.nodes[at].endpoint(), Duration::from_secs(10)).await
    }

    /// Any node that does not lead.
    pub async fn follower(&mut self) -> Result<usize> {
        let leader = self.wait_leader(LEADER_PATIENCE).await?;
        (0..self.nodes.len()).find(|at| *at != leader).context("a single node has no follower")
    }

    /// Waits until every running node names the same leader, which is one of them.
    pub async fn wait_leader(&mut self, patience: Duration) -> Result<usize> {
        let everyone: Vec<usize> = (0..self.nodes.len()).filter(|at| self.nodes[*at].is_started()).collect();
        self.wait_leader_among(&everyone, patience).await
    }

    /// Like [`Cluster::wait_leader`] when some nodes are known not to answer.
    pub async fn wait_leader_among(&mut self, members: &[usize], patience: Duration) -> Result<usize> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(leader) = self.agreed_leader(members).await {
                return Ok(leader);
            }
            if Instant::now() > deadline {
                bail!("nodes {members:?} agree on no leader after {patience:?}");
            }
            sleep(POLL).await;
        }
    }

    async fn agreed_leader(&self, members: &[usize]) -> Option<usize> {
        let mut named = None;
        let mut leader_at = None;
        for at in members {
            let status = self.status(*at).await.ok()?;
            let leader = status.leader();
            if leader == 0 || named.is_some_and(|other| other != leader) {
                return None;
            }
            named = Some(leader);
            if status.header().is_some_and(|header| header.member_id() == leader) {
                leader_at = Some(*at);
            }
        }
        leader_at
    }

    /// Maintenance.Status of one node.
    pub async fn status(&self, at: usize) -> Result<StatusResponse> {
        let mut client = connect(&self.nodes[at].endpoint(), STATUS_PATIENCE).await?;
        let status = timeout(STATUS_PATIENCE, client.status()).await.context("no status in time")??;
        Ok(status)
    }

    /// CPU time of all running nodes together.
    pub fn cpu(&self) -> Result<Duration> {
        self.nodes.iter().filter(|node| node.is_started()).map(Node::cpu).sum()
    }

    /// Kills whatever still runs.
    pub fn kill_all(&mut self) -> Result<()> {
        self.nodes.iter_mut().filter(|node| node.is_started()).try_for_each(Node::kill)
    }
}

/// A stock client for one endpoint; every request ends within `patience`.
pub async fn connect(endpoint: &str, patience: Duration) -> Result<Client> {
    let options =
        ConnectOptions::new().with_connect_timeout(patience.min(Duration::from_secs(1))).with_timeout(patience);
    Ok(Client::connect([endpoint], Some(options)).await?)
}
