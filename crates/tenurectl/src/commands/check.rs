//! `endpoint health` and `endpoint hashkv`: checks of members one by one.

use std::time::Instant;

use futures::future::join_all;
use serde::Serialize;
use tenure_proto::etcdserverpb as pb;

use super::Session;
use super::status::{plain, reason, whom_to_ask};
use super::view::revision;
use crate::arguments::{ClusterArgs, HashArgs};
use crate::client::{Client, ClientError, Endpoint};
use crate::failure::Failure;
use crate::ids::Revision;
use crate::output::Report;
use crate::table::Table;

/// The key that etcdctl reads for its check. It need not exist.
const HEALTH_KEY: &str = "health";

pub(super) async fn health(session: &Session, whom: ClusterArgs) -> Result<(), Failure> {
    let (client, _) = whom_to_ask(session, whom).await;
    let asked = client.endpoints().cloned().enumerate().map(|(at, endpoint)| ask_health(&client, at, endpoint));
    let endpoints = join_all(asked).await;
    let sick = endpoints.iter().filter(|health| !health.healthy).count();
    let verdict = format!("{sick} of {} endpoints not healthy", endpoints.len());
    session.output.show(&Healths { endpoints })?;
    if sick == 0 { Ok(()) } else { Err(Failure::Unhealthy(verdict)) }
}

async fn ask_health(client: &Client, at: usize, endpoint: Endpoint) -> Health {
    let begin = Instant::now();
    let request = pb::RangeRequest { key: HEALTH_KEY.into(), ..pb::RangeRequest::default() };
    let error = match client.range_at(at, request).await {
        Ok(_) => match client.status_at(at).await {
            Ok(status) => status.errors.first().map(|error| plain(error)),
            Err(error) => Some(reason(&error)),
        },
        Err(error) => Some(reason(&error)),
    };
    let took_ms = (begin.elapsed().as_secs_f64() * 1e6).round() / 1e3;
    Health { endpoint: endpoint.to_string(), healthy: error.is_none(), took_ms, error }
}

#[derive(Debug, Serialize)]
struct Healths {
    endpoints: Vec<Health>,
}

#[derive(Debug, Serialize)]
struct Health {
    endpoint: String,
    healthy: bool,
    took_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Report for Healths {
    fn human(&self) -> String {
        let mut table = Table::new(&["ENDPOINT", "HEALTHY", "TOOK", "ERROR"]).right(&[2]);
        for health in &self.endpoints {
            let healthy = if health.healthy { "yes" } else { "no" };
            let took = format!("{:.1} ms", health.took_ms);
            table.row([health.endpoint.clone(), healthy.to_owned(), took, health.error.clone().unwrap_or_default()]);
        }
        table.render()
    }
}

pub(super) async fn hash(session: &Session, args: &HashArgs) -> Result<(), Failure> {
    let (client, _) = whom_to_ask(session, args.whom).await;
    let count = client.endpoints().count();
    let at_revision = match args.rev.filter(|revision| revision.0 > 0) {
        Some(revision) => revision,
        None => newest_common(&client, count).await?,
    };
    let hashes = join_all((0..count).map(|at| client.hash_at(at, at_revision))).await;
    let rows = client.endpoints().zip(hashes).map(|(endpoint, answer)| Hashed::new(endpoint, answer));
    let hashes = Hashes { revision: at_revision, endpoints: rows.collect() };
    session.output.show(&hashes)?;
    hashes.verdict().map_or(Ok(()), |problem| Err(Failure::Unhealthy(problem)))
}

/// The newest revision that every member which answers has.
async fn newest_common(client: &Client, count: usize) -> Result<Revision, Failure> {
    let statuses = join_all((0..count).map(|at| client.status_at(at))).await;
    let mut setbacks = Vec::new();
    let mut newest: Option<Revision> = None;
    for status in statuses {
        match status {
            Ok(status) => {
                let revision = revision(status.header.as_ref());
                newest = Some(newest.map_or(revision, |newest| newest.min(revision)));
            }
            Err(ClientError::Unreachable(setback)) => setbacks.extend(setback),
            Err(_) => {}
        }
    }
    newest.ok_or(Failure::Client(ClientError::Unreachable(setbacks)))
}

#[derive(Debug, Serialize)]
struct Hashes {
    revision: Revision,
    endpoints: Vec<Hashed>,
}

#[derive(Debug, Serialize)]
struct Hashed {
    endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compacted: Option<Revision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Hashed {
    fn new(endpoint: &Endpoint, answer: Result<pb::HashKvResponse, ClientError>) -> Hashed {
        let endpoint = endpoint.to_string();
        match answer {
            Ok(answer) => Hashed {
                endpoint,
                hash: Some(answer.hash),
                compacted: Some(Revision(answer.compact_revision)),
                error: None,
            },
            Err(error) => Hashed { endpoint, hash: None, compacted: None, error: Some(reason(&error)) },
        }
    }
}

impl Hashes {
    /// What is wrong, if anything is.
    fn verdict(&self) -> Option<String> {
        let told: Vec<_> = self.endpoints.iter().filter_map(|row| Some((row.hash?, row.compacted?))).collect();
        let silent = self.endpoints.len() - told.len();
        let Some(first) = told.first() else { return Some("no endpoint told a hash".to_owned()) };
        if told.iter().any(|(_, compacted)| *compacted != first.1) {
            // A hash begins where history begins.
            return Some("the members are compacted to different revisions; ask again in a moment".to_owned());
        }
        if told.iter().any(|(hash, _)| *hash != first.0) {
            return Some(format!("the members hold different data at revision {}", self.revision));
        }
        (silent > 0).then(|| format!("{silent} of {} endpoints told no hash", self.endpoints.len()))
    }
}

impl Report for Hashes {
    fn human(&self) -> String {
        let mut table = Table::new(&["ENDPOINT", "REVISION", "COMPACTED", "HASH", "ERROR"]).right(&[1, 2, 3]);
        for row in &self.endpoints {
            let told = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
            table.row([
                row.endpoint.clone(),
                self.revision.to_string(),
                told(row.compacted.map(|revision| revision.to_string())),
                told(row.hash.map(|hash| hash.to_string())),
                row.error.clone().unwrap_or_default(),
            ]);
        }
        let verdict = if self.verdict().is_none() { "all the same\n" } else { "" };
        table.render() + verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing::{human, json};

    fn hashes(told: &[Option<(u32, i64)>]) -> Hashes {
        let row = |(port, told): (usize, &Option<(u32, i64)>)| Hashed {
            endpoint: format!("n1:{port}"),
            hash: told.map(|(hash, _)| hash),
            compacted: told.map(|(_, compacted)| Revision(compacted)),
            error: told.is_none().then(|| "connection refused".to_owned()),
        };
        Hashes { revision: Revision(12), endpoints: told.iter().enumerate().map(row).collect() }
    }

    #[test]
    fn equal_hashes_are_all_the_same() {
        let same = hashes(&[Some((4_000_000_000, -1)), Some((4_000_000_000, -1))]);
        assert_eq!(
            human(&same),
            "ENDPOINT  REVISION  COMPACTED        HASH  ERROR\n\
             n1:0            12         -1  4000000000\n\
             n1:1            12         -1  4000000000\n\
             all the same\n"
        );
        assert_eq!(same.verdict(), None);
    }

    #[test]
    fn what_differs_or_is_silent_is_named() {
        let verdict = |told| hashes(told).verdict().expect("a problem");
        assert_eq!(verdict(&[Some((1, 5)), Some((2, 5))]), "the members hold different data at revision 12");
        assert!(verdict(&[Some((1, 5)), Some((2, 6))]).contains("compacted to different revisions"));
        assert_eq!(verdict(&[Some((1, 5)), None]), "1 of 2 endpoints told no hash");
        assert_eq!(verdict(&[None]), "no endpoint told a hash");
        let expected = concat!(
            r#"{"revision":12,"endpoints":[{"endpoint":"n1:0","hash":1,"compacted":5},"#,
            r#"{"endpoint":"n1:1","error":"connection refused"}]}"#,
            "\n"
        );
        assert_eq!(json(&hashes(&[Some((1, 5)), None])), expected);
    }

    #[test]
    fn health_is_a_table() {
        let row = |healthy, took_ms, error: Option<&str>| Health {
            endpoint: "n1:1".into(),
            healthy,
            took_ms,
            error: error.map(str::to_owned),
        };
        let healths =
            Healths { endpoints: vec![row(true, 1.26, None), row(false, 2000.0, Some("no answer within 2s"))] };
        assert_eq!(
            human(&healths),
            "ENDPOINT  HEALTHY       TOOK  ERROR\n\
             n1:1      yes         1.3 ms\n\
             n1:1      no       2000.0 ms  no answer within 2s\n"
        );
    }
}
