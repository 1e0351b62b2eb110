//! The Maintenance service and the HTTP endpoints of a real etcd and of tenured, asked the same things in the same order.
//!
//! Three members of each. Members are named by their role, since ids come from ports and each cluster chooses its leader
//! for itself. Left out is what kills etcd (an unknown alarm type or action). etcd 3.7 is asked more than 3.5: the newer
//! health checks, and ranges in pieces.
#![expect(clippy::print_stdout, reason = "the counts are the figures that this comparison shows")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tenure_proto::etcdserverpb::alarm_request::AlarmAction;
use tenure_proto::etcdserverpb::kv_client::KvClient;
use tenure_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tenure_proto::etcdserverpb::{
    AlarmRequest, AlarmType, DefragmentRequest, DowngradeRequest, HashRequest, MoveLeaderRequest, PutRequest,
    RangeRequest, ResponseHeader, StatusRequest,
};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};
use tenure_tests::http1;
use tenure_tests::requests::Request;
use tenure_tests::scenario::{self, Scenario};
use tenure_tests::wire::Wire;
use tonic::transport::Channel;
use tonic::{Response, Status};

const HTTP_PATIENCE: Duration = Duration::from_secs(10);

const GET: i32 = AlarmAction::Get as i32;
const ACTIVATE: i32 = AlarmAction::Activate as i32;
const DEACTIVATE: i32 = AlarmAction::Deactivate as i32;
const NONE: i32 = AlarmType::None as i32;
const NOSPACE: i32 = AlarmType::Nospace as i32;
const CORRUPT: i32 = AlarmType::Corrupt as i32;

/// A member, by what it was at the start.
#[derive(Clone, Copy, Debug)]
enum Who {
    Leader,
    Follower,
    Other,
    Nobody,
    Stranger,
}

/// One thing to ask.
#[derive(Clone, Copy, Debug)]
enum Step {
    Alarm(Who, i32, Who, i32),
    MoveLeader(Who, Who),
    Hash(Who),
    Defragment(Who),
    StatusErrors(Who),
    Downgrade(i32, &'static str),
    Put,
    Http(Who, &'static str, &'static str),
    /// Puts this many keys.
    Fill(usize),
    /// A range in pieces, changed from one over everything.
    Stream(fn(&mut RangeRequest)),
}

fn steps() -> Vec<Step> {
    use Step::{Alarm, Defragment, Downgrade, Hash, Http, MoveLeader, Put, StatusErrors};
    use Who::{Follower, Leader, Nobody, Other, Stranger};
    let mut steps = vec![
        Put,
        Alarm(Leader, GET, Nobody, NONE),
        Alarm(Leader, ACTIVATE, Follower, NONE),
        Alarm(Leader, DEACTIVATE, Follower, NONE),
        Alarm(Follower, ACTIVATE, Follower, NOSPACE),
        Alarm(Leader, ACTIVATE, Follower, NOSPACE),
        Put,
        Http(Leader, "GET", "/health"),
        Http(Follower, "GET", "/health?exclude=NOSPACE"),
        Http(Follower, "GET", "/health?exclude=nospace"),
        StatusErrors(Follower),
        Alarm(Other, GET, Nobody, NONE),
        Alarm(Other, GET, Leader, NONE),
        Alarm(Other, GET, Nobody, NOSPACE),
        Alarm(Other, GET, Nobody, CORRUPT),
        Alarm(Other, GET, Nobody, 99),
        Alarm(Leader, DEACTIVATE, Nobody, NOSPACE),
        Alarm(Leader, DEACTIVATE, Follower, CORRUPT),
        Alarm(Leader, DEACTIVATE, Follower, 99),
        Alarm(Leader, DEACTIVATE, Follower, NOSPACE),
        Alarm(Leader, DEACTIVATE, Follower, NOSPACE),
        Alarm(Leader, ACTIVATE, Stranger, CORRUPT),
        Put,
        Http(Leader, "GET", "/health?exclude=NOSPACE"),
        Http(Leader, "GET", "/health?exclude=NOSPACE&exclude=CORRUPT"),
        StatusErrors(Leader),
        Alarm(Other, DEACTIVATE, Stranger, CORRUPT),
        Put,
        Hash(Leader),
        Hash(Follower),
        Defragment(Follower),
        MoveLeader(Follower, Other),
        MoveLeader(Follower, Stranger),
        MoveLeader(Leader, Stranger),
        MoveLeader(Leader, Nobody),
        MoveLeader(Leader, Leader),
        MoveLeader(Leader, Follower),
        MoveLeader(Leader, Other),
        MoveLeader(Follower, Leader),
        Put,
    ];
    steps.extend(["", "x", "3", "v3.4.0", "3.4.x", "3.4.0.1"].map(|version| Downgrade(0, version)));
    steps.extend(["", "-1.2", "9.9", "9.9.9"].map(|version| Downgrade(1, version)));
    steps.extend([Downgrade(9, "9.9"), Http(Leader, "GET", "/health?serializable=true")]);
    for path in ["/", "/health", "/health/", "/version", "/version/", "/metrics", "/nope"] {
        steps.extend(["GET", "POST", "PUT", "HEAD"].map(|method| Http(Follower, method, path)));
    }
    steps
}

/// What only etcd 3.7 can be asked.
fn steps_of_37() -> Vec<Step> {
    use Step::{Alarm, Fill, Http, Stream};
    use Who::{Follower, Leader, Stranger};
    let mut steps = Vec::new();
    let paths = [
        "/livez",
        "/livez?verbose",
        "/livez/serializable_read?verbose",
        "/livez/linearizable_read",
        "/livez/",
        "/readyz",
        "/readyz?verbose",
        "/readyz?verbose&exclude=linearizable_read&exclude=non_learner",
        "/readyz?exclude=nonsense&verbose=false",
        "/readyz/data_corruption",
        "/readyz/serializable_read?verbose",
        "/readyz/linearizable_read?exclude=linearizable_read&verbose",
        "/readyz/non_learner",
        "/readyz/nonsense",
    ];
    for member in [Leader, Follower] {
        steps.extend(paths.map(|path| Http(member, "GET", path)));
    }
    steps.extend(["POST", "HEAD", "DELETE"].map(|method| Http(Leader, method, "/readyz")));
    for alarm in [NOSPACE, CORRUPT] {
        steps.push(Alarm(Leader, ACTIVATE, Stranger, alarm));
        steps.extend(paths.map(|path| Http(Leader, "GET", path)));
        steps.push(Stream(|_| {}));
        steps.push(Alarm(Leader, DEACTIVATE, Stranger, alarm));
    }
    let streams: [fn(&mut RangeRequest); 15] = [
        |_| {},
        |range| range.limit = 1,
        |range| range.limit = 10,
        |range| range.limit = 31,
        |range| range.limit = 500,
        |range| range.revision = 100,
        |range| (range.revision, range.limit) = (100, 40),
        |range| range.revision = 1_000_000,
        |range| range.keys_only = true,
        |range| range.count_only = true,
        |range| (range.count_only, range.limit) = (true, 3),
        |range| range.sort_order = 1,
        |range| range.sort_order = 2,
        |range| range.max_mod_revision = 50,
        |range| (range.key, range.range_end) = ("nothing".into(), "".into()),
    ];
    steps.push(Stream(|_| {}));
    steps.push(Fill(300));
    steps.extend(streams.map(Stream));
    steps
}

/// A cluster under comparison.
struct Subject {
    cluster: Cluster,
    /// Leader, follower and other, as they were at the start: place, id and connection.
    members: [(usize, u64, Channel); 3],
}

impl Subject {
    async fn start(program: Program, scenario: &Scenario) -> Result<Subject> {
        let mut cluster = Cluster::start(program, 3, &scenario.home.join(program.label())).await?;
        let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
        let mut members = Vec::new();
        for at in [leader, (leader + 1) % 3, (leader + 2) % 3] {
            let channel = Wire::connect(&cluster.nodes[at].endpoint()).await?.channel();
            let status = MaintenanceClient::new(channel.clone()).status(StatusRequest::default()).await?.into_inner();
            members.push((at, status.header.context("a header")?.member_id, channel));
        }
        let members = members.try_into().ok().context("three members")?;
        Ok(Subject { cluster, members })
    }

    fn member(&self, who: Who) -> &(usize, u64, Channel) {
        match who {
            Who::Leader => &self.members[0],
            Who::Follower => &self.members[1],
            Who::Other | Who::Nobody | Who::Stranger => &self.members[2],
        }
    }

    fn id(&self, who: Who) -> u64 {
        match who {
            Who::Leader | Who::Follower | Who::Other => self.member(who).1,
            Who::Nobody => 0,
            Who::Stranger => 77,
        }
    }

    fn named(&self, text: &str) -> String {
        let roles = [Who::Leader, Who::Follower, Who::Other];
        roles
            .into_iter()
            .fold(text.to_owned(), |text, who| text.replace(&self.id(who).to_string(), &format!("{who:?}")))
    }

    async fn ask(&self, step: &Step) -> Result<String> {
        let client = |who| MaintenanceClient::new(self.member(who).2.clone());
        Ok(match *step {
            Step::Alarm(at, action, member, alarm) => {
                let request = AlarmRequest { action, member_id: self.id(member), alarm };
                self.told(client(at).alarm(request).await, |answer| {
                    let mut alarms: Vec<String> =
                        answer.alarms.iter().map(|a| self.named(&format!("{} {}", a.member_id, a.alarm))).collect();
                    alarms.sort();
                    format!("{} {alarms:?}", header(answer.header))
                })
            }
            Step::MoveLeader(at, target) => {
                let request = MoveLeaderRequest { target_id: self.id(target) };
                self.told(client(at).move_leader(request).await, |answer| header(answer.header))
            }
            Step::Hash(at) => self.told(client(at).hash(HashRequest::default()).await, |answer| header(answer.header)),
            Step::Defragment(at) => {
                self.told(client(at).defragment(DefragmentRequest::default()).await, |answer| header(answer.header))
            }
            Step::StatusErrors(at) => self.told(client(at).status(StatusRequest::default()).await, |answer| {
                // etcd 3.5 ends an alarm with a blank, as Tenure does, and 3.7 no more: its protobuf library changed.
                let errors: Vec<&str> = answer.errors.iter().map(|error| error.trim_end()).collect();
                self.named(&format!("{} {errors:?}", header(answer.header)))
            }),
            Step::Downgrade(action, version) => {
                let request = DowngradeRequest { action, version: version.to_owned() };
                self.told(client(Who::Leader).downgrade(request).await, |answer| header(answer.header))
            }
            Step::Put => {
                let put = PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() };
                let mut wire = Wire::connect(&self.cluster.nodes[self.member(Who::Other).0].endpoint()).await?;
                format!("{:?}", wire.send(&Request::Put(put)).await)
            }
            Step::Http(at, method, path) => {
                let port = self.cluster.nodes[self.member(at).0].client_port;
                let answer = http1::ask(port, method, path, HTTP_PATIENCE).await?;
                // These are each program's own.
                let is_own = path.starts_with("/metrics") || (path == "/version" && method == "GET");
                let mut lines: Vec<&str> = if is_own { Vec::new() } else { answer.body.lines().collect() };
                // etcd tells its checks in any order.
                lines.sort_unstable();
                let content_type = answer.content_type.map(|text| text.replace("; escaping=underscores", ""));
                format!("{} {content_type:?} {lines:?}", answer.status)
            }
            Step::Fill(count) => {
                let mut wire = Wire::connect(&self.cluster.nodes[self.member(Who::Other).0].endpoint()).await?;
                for number in 0..count {
                    let key = format!("key {number:04}").into();
                    wire.send(&Request::Put(PutRequest { key, value: "v".into(), ..PutRequest::default() })).await;
                }
                String::new()
            }
            Step::Stream(change) => {
                let mut range = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() };
                change(&mut range);
                let mut kv = KvClient::new(self.member(Who::Follower).2.clone());
                let mut pieces = Vec::new();
                let told = async {
                    let mut stream = kv.range_stream(range).await?.into_inner();
                    while let Some(message) = stream.message().await? {
                        let piece = message.range_response.unwrap_or_default();
                        let last = (piece.header.map(|header| header.revision), piece.more, piece.count);
                        pieces.push(format!("{last:?} {:?}", piece.kvs));
                    }
                    Ok(Response::new(pieces.join("\n")))
                };
                self.told(told.await, |pieces| pieces)
            }
        })
    }

    fn told<T>(&self, answer: Result<Response<T>, Status>, show: impl FnOnce(T) -> String) -> String {
        match answer {
            Ok(answer) => show(answer.into_inner()),
            Err(status) => self.named(&format!("{:?}: {}", status.code(), status.message())),
        }
    }
}

fn header(header: Option<ResponseHeader>) -> String {
    header.map_or("no header".to_owned(), |header| format!("revision {}", header.revision))
}

async fn compare(scenario: Scenario, program: Program, steps: Vec<Step>) -> Result<()> {
    let etcd = Subject::start(program, &scenario).await?;
    let tenured = Subject::start(Program::Tenured, &scenario).await?;
    let mut different = Vec::new();
    for step in &steps {
        let (expected, actual) = tokio::join!(etcd.ask(step), tenured.ask(step));
        let (expected, actual) = (expected?, actual?);
        if expected != actual {
            different.push(format!("{step:?}:\n   etcd: {expected}\ntenured: {actual}"));
        }
    }
    println!("{} questions, {} answered differently", steps.len(), different.len());
    ensure!(different.is_empty(), "{} answers differ:\n{}", different.len(), different.join("\n"));
    Ok(())
}

#[test]
fn maintenance_and_http_answer_as_etcd_does() {
    scenario::run("compat_maintenance", "maintenance_and_http_answer_as_etcd_does", |scenario| {
        compare(scenario, Program::Etcd, steps())
    });
}

#[test]
fn what_is_new_in_etcd_37_is_answered_as_it_does() {
    scenario::run("compat_maintenance", "what_is_new_in_etcd_37_is_answered_as_it_does", |scenario| {
        compare(scenario, Program::Etcd37, [steps(), steps_of_37()].concat())
    });
}
