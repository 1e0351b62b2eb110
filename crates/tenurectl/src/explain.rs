//! Failures in words: what happened, what was found out about it, and what to do.
//!
//! Finding out means asking the members a question or two more, with little patience: which of them answer, who leads, where
//! readable history begins. An error that a person can act on is worth a second.

use std::time::Duration;

use futures::future::join_all;
use serde::Serialize;
use tenure_proto::etcdserverpb::StatusResponse;
use tokio::time::timeout;

use crate::arguments::Command;
use crate::client::{Client, ClientError, Endpoint, Refusal, Refused, Setback, Timeouts, Update, WatchSpec, Watcher};
use crate::commands::{Session, size, why_gone};
use crate::failure::Failure;
use crate::ids::{LeaseId, MemberId, Revision};
use crate::output::{Format, Output, complain};

/// For questions asked only to explain.
const PATIENCE: Duration = Duration::from_secs(1);

const NO_LEASE: &str =
    "It was revoked, or nobody renewed it in time. `tenurectl lease list` shows those that are left.";

/// A failure as it is told.
#[derive(Debug, Default, Serialize, PartialEq, Eq)]
pub(crate) struct Explanation {
    /// For programs to tell failures apart.
    kind: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    exit_code: u8,
}

impl Explanation {
    /// Writes it to stderr.
    pub(crate) fn print(&self, output: Output) {
        let json = (output.format == Format::Json).then(|| serde_json::to_string(&Wrapped { error: self }).ok());
        complain(json.flatten().unwrap_or_else(|| self.human()).as_str());
    }

    fn human(&self) -> String {
        let mut text = format!("tenurectl: {}", self.message);
        for detail in &self.details {
            text += &format!("\n  {detail}");
        }
        if let Some(hint) = &self.hint {
            text += &format!("\n{hint}");
        }
        text
    }
}

#[derive(Serialize)]
struct Wrapped<'a> {
    error: &'a Explanation,
}

/// Explains without asking anybody.
pub(crate) fn plain(failure: &Failure) -> Explanation {
    let kind = match failure {
        Failure::Usage(_) => "usage",
        Failure::Local(_) => "local",
        Failure::NoLease(_) => "lease_not_found",
        Failure::Ended(_) => "ended",
        Failure::Unhealthy(_) => "unhealthy",
        Failure::LockBusy(_) => "lock_busy",
        Failure::LockFree(_) => "lock_free",
        Failure::LockLost(_) => "lock_lost",
        Failure::NotRun { .. } => "not_run",
        Failure::Passed(_) => "passed",
        Failure::ClosedPipe => "closed_pipe",
        Failure::Client(error) => client_kind(error),
    };
    let hint = match failure {
        Failure::NoLease(_) => Some(NO_LEASE.to_owned()),
        _ => None,
    };
    Explanation { kind, message: failure.to_string(), hint, exit_code: failure.exit_code(), ..Explanation::default() }
}

fn client_kind(error: &ClientError) -> &'static str {
    match error {
        ClientError::Unreachable(_) => "unreachable",
        ClientError::NoLeader(_) => "no_leader",
        ClientError::NoAnswer(_) => "no_answer",
        ClientError::Unknown(_) => "unknown_outcome",
        ClientError::WatchCompacted { .. } => "compacted",
        ClientError::WatchRefused(_) => "watch_refused",
        ClientError::Refused(refused) => match refused.refusal {
            Refusal::Compacted => "compacted",
            Refusal::FutureRevision => "future_revision",
            Refusal::NoSpace => "no_space",
            Refusal::LeaseNotFound => "lease_not_found",
            Refusal::LeaseExists => "lease_exists",
            Refusal::KeyNotFound => "key_not_found",
            Refusal::NoLeader => "no_leader",
            Refusal::NotLeader => "not_leader",
            Refusal::TooManyRequests => "too_many_requests",
            Refusal::TooLarge => "too_large",
            Refusal::TimedOut => "no_answer",
            Refusal::Unimplemented => "unimplemented",
            Refusal::LockFinished | Refusal::LockTimeOver | Refusal::LockTakenAway | Refusal::Other => "refused",
        },
    }
}

/// Explains a command's failure, asking the cluster what it needs to know.
pub(crate) async fn explain(session: &Session, failure: &Failure) -> Explanation {
    let explanation = plain(failure);
    if let Failure::NoLease(id) = failure {
        return no_lease(session, explanation, *id).await;
    }
    let Failure::Client(error) = failure else { return explanation };
    match error {
        ClientError::Unreachable(tried) => unreachable(session, explanation, tried),
        ClientError::NoLeader(_) | ClientError::NoAnswer(_) | ClientError::Unknown(_) => {
            let states = states(&session.client).await;
            without_answer(explanation, error, &states)
        }
        ClientError::WatchCompacted { oldest } => watch_compacted(session, explanation, *oldest),
        ClientError::Refused(refused) => refused_by_server(session, explanation, refused).await,
        ClientError::WatchRefused(_) => explanation,
    }
}

fn unreachable(session: &Session, explanation: Explanation, tried: &[Setback]) -> Explanation {
    let hint = if session.are_defaults {
        "These are the addresses of a local cluster: `make cluster` starts one. Name others with --endpoints or \
         TENURE_ENDPOINTS."
    } else {
        "Check that the servers run, that these are the addresses of their --listen-client-urls, and that nothing between \
         here and there keeps them apart."
    };
    Explanation { details: aligned(tried), hint: Some(hint.to_owned()), ..explanation }
}

fn aligned(setbacks: &[Setback]) -> Vec<String> {
    let width = setbacks.iter().map(|setback| setback.endpoint.to_string().len()).max().unwrap_or(0);
    setbacks.iter().map(|setback| format!("{:width$}  {}", setback.endpoint.to_string(), setback.reason)).collect()
}

type State = (Endpoint, Result<StatusResponse, ClientError>);

/// What every endpoint says of itself now.
async fn states(client: &Client) -> Vec<State> {
    let timeouts = Timeouts { dial: PATIENCE, command: PATIENCE };
    let client = Client::new(client.endpoints().cloned().collect(), timeouts);
    let asked = client.endpoints().cloned().enumerate();
    join_all(asked.map(async |(at, endpoint)| (endpoint, client.status_at(at).await))).await
}

fn without_answer(explanation: Explanation, error: &ClientError, states: &[State]) -> Explanation {
    let setbacks: Vec<Setback> =
        states.iter().map(|(endpoint, status)| Setback { endpoint: endpoint.clone(), reason: state(status) }).collect();
    let leaders = states.iter().filter(|(_, status)| status.as_ref().is_ok_and(|status| status.leader != 0)).count();
    let unknown = matches!(error, ClientError::Unknown(_));
    let mut hint = match (unknown, leaders) {
        (true, _) => "Look whether it happened before you do it again.",
        (false, 0) => {
            "A majority of the members must run and reach each other. Start those that are down; a new leader is there \
             about a second later."
        }
        (false, _) => "There is a leader now: try again. --command-timeout makes a command wait for longer.",
    }
    .to_owned();
    if unknown && leaders == 0 {
        hint += " No member that answers knows a leader: a majority must run and reach each other.";
    }
    Explanation { details: aligned(&setbacks), hint: Some(hint), ..explanation }
}

fn state(status: &Result<StatusResponse, ClientError>) -> String {
    match status {
        Ok(status) => {
            let member = status.header.as_ref().map_or(0, |header| header.member_id);
            match status.leader {
                0 => format!("up, knows no leader (term {})", status.raft_term),
                leader if leader == member => format!("up, leads (term {})", status.raft_term),
                leader => format!("up, follows {} (term {})", MemberId(leader), status.raft_term),
            }
        }
        Err(error) => crate::commands::reason(error),
    }
}

fn watch_compacted(session: &Session, explanation: Explanation, oldest: Revision) -> Explanation {
    let asked = session.command.revision().map_or_else(String::new, |revision| format!(" {revision}"));
    Explanation {
        message: format!("the watch from revision{asked} cannot go on: history before {oldest} has been compacted"),
        hint: Some(format!("--rev {oldest} watches what is left; the changes before it are gone.")),
        ..explanation
    }
}

async fn refused_by_server(session: &Session, explanation: Explanation, refused: &Refused) -> Explanation {
    match refused.refusal {
        Refusal::Compacted => compacted(session, explanation).await,
        Refusal::FutureRevision => future(session, explanation).await,
        Refusal::NoSpace => no_space(explanation, &states(&session.client).await),
        Refusal::LeaseNotFound => {
            let hint = Some(NO_LEASE.to_owned());
            match session.command.lease() {
                Some(id) => {
                    let message = format!("there is no lease {id}");
                    no_lease(session, Explanation { message, hint, ..explanation }, id).await
                }
                None => Explanation { message: "there is no lease".to_owned(), hint, ..explanation },
            }
        }
        other => Explanation { hint: advice(other).map(str::to_owned), ..explanation },
    }
}

/// Adds why a lease is gone, if the server has a record of it. etcd has none.
async fn no_lease(session: &Session, explanation: Explanation, id: LeaseId) -> Explanation {
    let timeouts = Timeouts { dial: PATIENCE, command: PATIENCE };
    let client = Client::new(session.client.endpoints().cloned().collect(), timeouts);
    let Ok(Some(reason)) = client.lease_explain(id).await.map(|answer| why_gone(&answer)) else { return explanation };
    let hint =
        format!("`tenurectl explain lease {id}` tells all about its end; `tenurectl lease list` shows what is left.");
    Explanation { details: vec![reason], hint: Some(hint), ..explanation }
}

/// What to do about refusals that need no further question.
fn advice(refusal: Refusal) -> Option<&'static str> {
    match refusal {
        Refusal::LeaseExists => Some("Pick another id, or leave --id out."),
        Refusal::KeyNotFound => {
            Some("--ignore-value and --ignore-lease keep what is there; the key does not exist yet.")
        }
        Refusal::NotLeader => Some("Leadership moved meanwhile. Try again."),
        Refusal::TooManyRequests => {
            Some("Nothing was done. More is arriving than the cluster can commit: try again later.")
        }
        Refusal::TooLarge => Some("The server's --max-request-bytes is the limit, 1.5 MiB by default."),
        Refusal::Unimplemented => Some("This server does not offer it. `tenurectl version` shows what it is."),
        Refusal::Compacted
        | Refusal::FutureRevision
        | Refusal::NoSpace
        | Refusal::LeaseNotFound
        | Refusal::NoLeader
        | Refusal::TimedOut
        | Refusal::LockFinished
        | Refusal::LockTimeOver
        | Refusal::LockTakenAway
        | Refusal::Other => None,
    }
}

async fn compacted(session: &Session, explanation: Explanation) -> Explanation {
    let asked =
        session.command.revision().map_or_else(|| "the revision".to_owned(), |asked| format!("revision {asked}"));
    let Some(oldest) = oldest_readable(session).await else { return explanation };
    let message = if matches!(session.command, Command::Compact(_)) {
        format!("{asked} is compacted already: the oldest revision that can be read is {oldest}")
    } else {
        format!("{asked} has been compacted: the oldest revision that can be read is {oldest}")
    };
    Explanation { message, ..explanation }
}

/// Where history begins. No request tells it, but a watch from the beginning is refused with it.
async fn oldest_readable(session: &Session) -> Option<Revision> {
    let spec = WatchSpec { key: "\0".into(), start: Some(Revision(1)), ..WatchSpec::default() };
    let mut watcher = Watcher::new(&session.client, spec);
    let asked = async {
        loop {
            match watcher.next().await {
                Err(ClientError::WatchCompacted { oldest }) => return Some(oldest),
                Ok(Update::Started { .. }) => {}
                Ok(_) | Err(_) => return None,
            }
        }
    };
    timeout(PATIENCE, asked).await.ok().flatten()
}

async fn future(session: &Session, explanation: Explanation) -> Explanation {
    let states = states(&session.client).await;
    let newest = states.iter().filter_map(|(_, status)| Some(status.as_ref().ok()?.header.as_ref()?.revision)).max();
    let (Some(asked), Some(newest)) = (session.command.revision(), newest) else { return explanation };
    Explanation { message: format!("revision {asked} is in the future: the store is at {newest}"), ..explanation }
}

fn no_space(explanation: Explanation, states: &[State]) -> Explanation {
    let fullest = states.iter().filter_map(|(_, status)| status.as_ref().ok()).max_by_key(|status| status.db_size);
    let mut explanation = explanation;
    let mut compact = "`tenurectl compact REVISION`".to_owned();
    if let Some(status) = fullest {
        let revision = status.header.as_ref().map_or(0, |header| header.revision);
        compact = format!("`tenurectl compact {revision}`");
        let quota = match status.db_size_quota {
            0 => String::new(),
            quota => format!(" of {}", size(quota)),
        };
        explanation.details = vec![format!(
            "{}{quota} used, {} of it by current data",
            size(status.db_size),
            size(status.db_size_in_use)
        )];
    }
    explanation.hint = Some(format!(
        "Nothing was written. Make room: {compact} drops history, `tenurectl del` drops keys. Then `tenurectl alarm disarm` \
         lets writes in again. The servers' --quota-backend-bytes is the limit."
    ));
    explanation
}

#[cfg(test)]
mod tests;
