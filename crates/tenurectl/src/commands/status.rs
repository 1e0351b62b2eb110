//! `status`: one line per member, whatever state it is in.
//!
//! Nothing here needs a leader or a majority, because this is what a person runs when there is none.

use futures::future::{join, join_all};
use serde::Serialize;
use tenure_proto::etcdserverpb as pb;

use super::Session;
use super::member::addresses;
use super::view::size;
use crate::arguments::ClusterArgs;
use crate::client::{Client, ClientError, Endpoint, ServerVersion, Setback};
use crate::failure::Failure;
use crate::ids::{MemberId, Revision};
use crate::output::{Format, Report};
use crate::table::Table;

pub(super) async fn run(session: &Session, whom: ClusterArgs) -> Result<(), Failure> {
    let (client, known) = whom_to_ask(session, whom).await;
    let asked = join_all(client.endpoints().cloned().enumerate().map(|(at, endpoint)| ask(&client, at, endpoint)));
    let (rows, members) = match known {
        Some(members) => (asked.await, members),
        None => {
            let (rows, members) = join(asked, client.members_from_any()).await;
            (rows, members.map(|answer| answer.members).unwrap_or_default())
        }
    };
    let statuses = Statuses::new(rows, &members);
    if statuses.endpoints.iter().all(|row| row.up.is_none()) {
        if session.output.format == Format::Json {
            session.output.show(&statuses)?;
        }
        return Err(Failure::Client(ClientError::Unreachable(statuses.setbacks)));
    }
    session.output.show(&statuses)?;
    if statuses.problems.is_empty() { Ok(()) } else { Err(Failure::Unhealthy(statuses.problems.join("; "))) }
}

/// A client of the endpoints that are meant, and the members if they had to be asked for: all of them when that is wanted,
/// or when nobody named any.
pub(super) async fn whom_to_ask(session: &Session, whom: ClusterArgs) -> (Client, Option<Vec<pb::Member>>) {
    let given = || session.client.with_endpoints(session.client.endpoints().cloned().collect());
    if !whom.cluster && !session.are_defaults {
        return (given(), None);
    }
    let mut members = session.client.members_from_any().await.map(|answer| answer.members).unwrap_or_default();
    members.sort_by(|one, other| one.name.cmp(&other.name));
    let addresses = addresses(&members);
    (if addresses.is_empty() { given() } else { session.client.with_endpoints(addresses) }, Some(members))
}

async fn ask(client: &Client, at: usize, endpoint: Endpoint) -> (Endpoint, Result<Answer, String>) {
    let (status, version) = join(client.status_at(at), client.version_at(at)).await;
    (endpoint, status.map(|status| (status, version)).map_err(|error| reason(&error)))
}

type Answer = (pb::StatusResponse, ServerVersion);

/// Why one endpoint did not answer, without its name.
pub(crate) fn reason(error: &ClientError) -> String {
    match error {
        ClientError::Unreachable(setbacks) | ClientError::NoLeader(setbacks) | ClientError::NoAnswer(setbacks) => {
            setbacks.first().map_or_else(|| error.to_string(), |setback| setback.reason.clone())
        }
        _ => error.to_string(),
    }
}

/// What all endpoints said.
#[derive(Debug, Serialize)]
struct Statuses {
    endpoints: Vec<Row>,
    problems: Vec<String>,
    #[serde(skip)]
    setbacks: Vec<Setback>,
    #[serde(skip)]
    summary: String,
}

#[derive(Debug, Serialize)]
struct Row {
    endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    up: Option<Up>,
}

/// A member that answers.
#[derive(Debug, Serialize)]
struct Up {
    member: MemberId,
    name: String,
    role: &'static str,
    leader: Option<MemberId>,
    tenure: Option<String>,
    etcd_api: String,
    term: u64,
    revision: Revision,
    raft_index: u64,
    applied_index: u64,
    db_bytes: i64,
    db_in_use_bytes: i64,
    quota_bytes: i64,
    errors: Vec<String>,
    #[serde(skip)]
    cluster: u64,
}

impl Up {
    fn new((status, version): Answer, members: &[pb::Member]) -> Up {
        let header = status.header.unwrap_or_default();
        let role = match status.leader {
            0 => "no leader",
            leader if leader == header.member_id => "leader",
            _ if status.is_learner => "learner",
            _ => "follower",
        };
        Up {
            member: MemberId(header.member_id),
            name: name(members, header.member_id),
            role,
            leader: (status.leader != 0).then_some(MemberId(status.leader)),
            tenure: version.tenure,
            etcd_api: status.version,
            term: status.raft_term,
            revision: Revision(header.revision),
            raft_index: status.raft_index,
            applied_index: status.raft_applied_index,
            db_bytes: status.db_size,
            db_in_use_bytes: status.db_size_in_use,
            quota_bytes: status.db_size_quota,
            errors: status.errors.iter().map(|error| plain(error)).collect(),
            cluster: header.cluster_id,
        }
    }

    fn label(&self) -> String {
        if self.name.is_empty() { self.member.to_string() } else { self.name.clone() }
    }
}

fn name(members: &[pb::Member], id: u64) -> String {
    members.iter().find(|member| member.id == id).map(|member| member.name.clone()).unwrap_or_default()
}

/// An error of a status in fewer words than etcd's. Alarms come as `memberID:123 alarm:NOSPACE `.
pub(crate) fn plain(error: &str) -> String {
    match error.trim().split_once(" alarm:") {
        Some((_, alarm)) => format!("alarm {alarm}"),
        None => error.strip_prefix("etcdserver: ").unwrap_or(error).trim().to_owned(),
    }
}

impl Statuses {
    fn new(answers: Vec<(Endpoint, Result<Answer, String>)>, members: &[pb::Member]) -> Statuses {
        let mut setbacks = Vec::new();
        let endpoints: Vec<Row> = answers
            .into_iter()
            .map(|(endpoint, answer)| match answer {
                Ok(answer) => Row { endpoint: endpoint.to_string(), error: None, up: Some(Up::new(answer, members)) },
                Err(reason) => {
                    setbacks.push(Setback { endpoint: endpoint.clone(), reason: reason.clone() });
                    Row { endpoint: endpoint.to_string(), error: Some(reason), up: None }
                }
            })
            .collect();
        let problems = problems(&endpoints);
        let ups: Vec<&Up> = endpoints.iter().filter_map(|row| row.up.as_ref()).collect();
        let leader = ups.iter().find_map(|up| up.leader);
        let leader = leader.map_or_else(String::new, |id| {
            let name = name(members, id.0);
            format!("; {} leads", if name.is_empty() { id.to_string() } else { name })
        });
        let summary = format!("{} of {} up{leader}", ups.len(), endpoints.len());
        Statuses { endpoints, problems, setbacks, summary }
    }
}

/// What a person should know about the answers taken together.
fn problems(rows: &[Row]) -> Vec<String> {
    let ups: Vec<&Up> = rows.iter().filter_map(|row| row.up.as_ref()).collect();
    let mut problems: Vec<String> =
        rows.iter().filter(|row| row.up.is_none()).map(|row| format!("{} does not answer", row.endpoint)).collect();
    for up in &ups {
        problems.extend(up.errors.iter().map(|error| format!("{}: {error}", up.label())));
        let said_already = up.errors.iter().any(|error| error.contains("no leader"));
        if up.leader.is_none() && !said_already {
            problems.push(format!("{}: no leader", up.label()));
        }
    }
    if ups.iter().any(|up| up.cluster != ups[0].cluster) {
        problems.push("the endpoints belong to different clusters".to_owned());
    } else {
        let mut leaders: Vec<_> = ups.iter().filter_map(|up| up.leader).collect();
        leaders.dedup();
        if leaders.len() > 1 {
            problems.push("the members name different leaders; ask again in a second".to_owned());
        }
    }
    problems
}

impl Report for Statuses {
    fn human(&self) -> String {
        let titles = ["ENDPOINT", "MEMBER", "ROLE", "VERSION", "TERM", "REVISION", "APPLIED", "DB SIZE", "NOTES"];
        let mut table = Table::new(&titles).right(&[4, 5, 6, 7]);
        for row in &self.endpoints {
            let dash = || "-".to_owned();
            let Some(up) = &row.up else {
                let down = ["down".to_owned(), dash(), dash(), dash(), dash(), dash()];
                let cells = [row.endpoint.clone(), dash()].into_iter().chain(down);
                table.row(cells.chain([row.error.clone().unwrap_or_default()]));
                continue;
            };
            let version = match &up.tenure {
                Some(tenure) => format!("{tenure} (etcd {})", up.etcd_api),
                None => format!("etcd {}", up.etcd_api),
            };
            table.row([
                row.endpoint.clone(),
                up.label(),
                up.role.to_owned(),
                version,
                up.term.to_string(),
                up.revision.to_string(),
                up.applied_index.to_string(),
                size(up.db_bytes),
                up.errors.join(", "),
            ]);
        }
        format!("{}{}\n", table.render(), self.summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing::{human, json};

    fn up(member: u64, leader: u64, errors: &[&str]) -> Result<Answer, String> {
        let header = pb::ResponseHeader { cluster_id: 5, member_id: member, revision: 12, raft_term: 2 };
        let status = pb::StatusResponse {
            header: Some(header),
            version: "3.7.1".into(),
            db_size: 20_992,
            db_size_in_use: 10_000,
            db_size_quota: 1 << 31,
            leader,
            raft_index: 31,
            raft_term: 2,
            raft_applied_index: 30,
            errors: errors.iter().map(|error| (*error).to_owned()).collect(),
            ..pb::StatusResponse::default()
        };
        let tenure = (member == 1).then(|| "0.1.0".to_owned());
        Ok((status, ServerVersion { etcd: Some("3.7.1".into()), tenure }))
    }

    fn statuses(answers: Vec<Result<Answer, String>>) -> Statuses {
        let members: Vec<_> =
            (1..=2).map(|id| pb::Member { id, name: format!("n{id}"), ..pb::Member::default() }).collect();
        let answers = answers
            .into_iter()
            .zip(1..)
            .map(|(answer, port)| (format!("127.0.0.1:{port}").parse().expect("an address"), answer));
        Statuses::new(answers.collect(), &members)
    }

    #[test]
    fn every_endpoint_has_a_line_also_when_it_is_down() {
        let shown =
            statuses(vec![up(1, 1, &[]), up(2, 1, &["memberID:2 alarm:NOSPACE "]), Err("connection refused".into())]);
        assert_eq!(
            human(&shown),
            "ENDPOINT     MEMBER  ROLE      VERSION             TERM  REVISION  APPLIED   DB SIZE  NOTES\n\
             127.0.0.1:1  n1      leader    0.1.0 (etcd 3.7.1)     2        12       30  20.5 KiB\n\
             127.0.0.1:2  n2      follower  etcd 3.7.1             2        12       30  20.5 KiB  alarm NOSPACE\n\
             127.0.0.1:3  -       down      -                      -         -        -         -  connection refused\n\
             2 of 3 up; n1 leads\n"
        );
        assert_eq!(shown.problems, ["127.0.0.1:3 does not answer", "n2: alarm NOSPACE"]);
    }

    #[test]
    fn programs_get_the_same_as_one_object() {
        let expected = concat!(
            r#"{"endpoints":[{"endpoint":"127.0.0.1:1","member":"1","name":"n1","role":"leader","leader":"1","#,
            r#""tenure":"0.1.0","etcd_api":"3.7.1","term":2,"revision":12,"raft_index":31,"applied_index":30,"#,
            r#""db_bytes":20992,"db_in_use_bytes":10000,"quota_bytes":2147483648,"errors":[]},"#,
            r#"{"endpoint":"127.0.0.1:2","error":"connection refused"}],"problems":["127.0.0.1:2 does not answer"]}"#,
            "\n"
        );
        assert_eq!(json(&statuses(vec![up(1, 1, &[]), Err("connection refused".into())])), expected);
    }

    #[test]
    fn what_is_wrong_is_said_once_each() {
        assert_eq!(statuses(vec![up(1, 1, &[]), up(2, 1, &[])]).problems, Vec::<String>::new());
        let leaderless = statuses(vec![up(1, 0, &["etcdserver: no leader"]), up(9, 0, &[])]);
        assert_eq!(leaderless.problems, ["n1: no leader", "9: no leader"]);
        assert!(human(&leaderless).ends_with("\n2 of 2 up\n"));
        let at_odds = statuses(vec![up(1, 1, &[]), up(2, 2, &[])]);
        assert_eq!(at_odds.problems, ["the members name different leaders; ask again in a second"]);
        let mut stranger = up(2, 2, &[]).expect("an answer");
        stranger.0.header = Some(pb::ResponseHeader { cluster_id: 6, member_id: 2, ..Default::default() });
        let strangers = statuses(vec![up(1, 1, &[]), Ok(stranger)]);
        assert_eq!(strangers.problems, ["the endpoints belong to different clusters"]);
    }
}
