//! Scripts that break and mend nodes while everything else goes on.
//!
//! A node is started by one script at a time: two would make two processes of it, and the file that names its process
//! would name the one that ends at once because the other has the ports.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::cluster::{self, Cluster};
use crate::load::Teller;
use crate::model::{Kind, News, Process, Verb};

/// The scripts at work.
#[derive(Debug)]
pub(crate) struct Controls {
    cluster: Arc<Cluster>,
    teller: Teller,
    running: JoinSet<(Verb, usize)>,
    starting: BTreeSet<usize>,
}

impl Controls {
    pub(crate) fn new(cluster: Arc<Cluster>, teller: Teller) -> Self {
        Self { cluster, teller, running: JoinSet::new(), starting: BTreeSet::new() }
    }

    /// Runs a script for a node.
    pub(crate) fn begin(&mut self, verb: Verb, node: usize) {
        if verb == Verb::Restart && !self.starting.insert(node) {
            let text = format!("{} is being started already", cluster::name(node));
            self.teller.tell(News::Said { kind: Kind::Node, text });
            return;
        }
        let (cluster, teller) = (Arc::clone(&self.cluster), self.teller.clone());
        self.running.spawn(async move {
            let line = cluster.line(verb, node);
            teller.tell_surely(News::CommandBegan { node, verb, line }).await;
            let problem = cluster.control(verb, node).await.err().map(|error| first_line(&error));
            teller.tell_surely(News::CommandEnded { node, verb, problem }).await;
            (verb, node)
        });
    }

    /// Waits for the end of any script; for ever if none is at work.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        let Some(ended) = self.running.join_next().await else { return std::future::pending().await };
        let (verb, node) = ended?;
        if verb == Verb::Restart {
            self.starting.remove(&node);
        }
        Ok(())
    }

    /// Brings all nodes back, when those that are being broken are. One that is being started may wait for the others, so
    /// all are started before any is waited for.
    pub(crate) async fn heal(&mut self, nodes: usize) -> anyhow::Result<()> {
        while self.running.len() > self.starting.len() {
            self.ended().await?;
        }
        for node in 0..nodes {
            match self.cluster.process(node) {
                Process::Running => {}
                Process::Paused => self.begin(Verb::Resume, node),
                Process::Gone if self.starting.contains(&node) => {}
                Process::Gone => self.begin(Verb::Restart, node),
            }
        }
        while !self.running.is_empty() {
            self.ended().await?;
        }
        self.cluster.start_rest().await
    }
}

/// The scripts say first what is wrong and then show the end of a log.
fn first_line(error: &anyhow::Error) -> String {
    error.to_string().lines().next().unwrap_or("the script failed without a word").to_owned()
}
