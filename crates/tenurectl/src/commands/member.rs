//! `member list` and `move-leader`.

use futures::future::join_all;
use serde::Serialize;
use tenure_proto::etcdserverpb as pb;

use super::Session;
use crate::arguments::MoveLeaderArgs;
use crate::client::{Client, ClientError, Endpoint};
use crate::failure::Failure;
use crate::ids::MemberId;
use crate::output::Report;
use crate::table::Table;

pub(super) async fn list(session: &Session) -> Result<(), Failure> {
    let mut members = session.client.members().await?.members;
    members.sort_by(|one, other| one.name.cmp(&other.name));
    session.output.show(&MemberTable { members: members.iter().map(MemberRow::new).collect() })
}

#[derive(Debug, Serialize)]
struct MemberTable {
    members: Vec<MemberRow>,
}

#[derive(Debug, Serialize)]
struct MemberRow {
    id: MemberId,
    name: String,
    learner: bool,
    client_urls: Vec<String>,
    peer_urls: Vec<String>,
}

impl MemberRow {
    fn new(member: &pb::Member) -> MemberRow {
        MemberRow {
            id: MemberId(member.id),
            name: member.name.clone(),
            learner: member.is_learner,
            client_urls: member.client_ur_ls.clone(),
            peer_urls: member.peer_ur_ls.clone(),
        }
    }
}

impl Report for MemberTable {
    fn human(&self) -> String {
        let mut table = Table::new(&["ID", "NAME", "KIND", "CLIENTS", "PEERS"]);
        for member in &self.members {
            // A member that was added and has never run has told neither its name nor its addresses.
            let told = |text: String| if text.is_empty() { "-".to_owned() } else { text };
            table.row([
                member.id.to_string(),
                told(member.name.clone()),
                if member.learner { "learner" } else { "voter" }.to_owned(),
                told(member.client_urls.join(",")),
                told(member.peer_urls.join(",")),
            ]);
        }
        table.render()
    }
}

/// One address of every member that has told one.
pub(super) fn addresses(members: &[pb::Member]) -> Vec<Endpoint> {
    members.iter().filter_map(|member| member.client_ur_ls.iter().find_map(|url| url.parse().ok())).collect()
}

pub(super) async fn move_leader(session: &Session, args: &MoveLeaderArgs) -> Result<(), Failure> {
    let members = session.client.members().await?.members;
    let target = find(&members, &args.member)?;
    let (leader, client, at) = leader(session, &members).await?;
    if leader != MemberId(target.id) {
        client.move_leader_at(at, MemberId(target.id)).await?;
    }
    let named = |id: MemberId| {
        let name = members.iter().find(|member| member.id == id.0).map(|member| member.name.clone());
        Named { id, name: name.unwrap_or_default() }
    };
    session.output.show(&Moved { from: named(leader), to: named(MemberId(target.id)) })
}

/// The member that a person means: by its name, else by its id.
fn find<'a>(members: &'a [pb::Member], meant: &str) -> Result<&'a pb::Member, Failure> {
    let by_name = members.iter().find(|member| member.name == meant);
    let by_id = || {
        let MemberId(id) = meant.parse().ok()?;
        members.iter().find(|member| member.id == id)
    };
    by_name.or_else(by_id).ok_or_else(|| {
        let names: Vec<_> = members.iter().map(|member| format!("{} ({})", member.name, MemberId(member.id))).collect();
        Failure::Usage(format!("no member {meant:?}; the members are {}", names.join(", ")))
    })
}

/// The leader, and a client with the place of the leader's endpoint in it: only the leader can hand over.
async fn leader(session: &Session, members: &[pb::Member]) -> Result<(MemberId, Client, usize), Failure> {
    // An endpoint that was given may be reachable where the address that its member advertises is not.
    let mut endpoints: Vec<Endpoint> = session.client.endpoints().cloned().collect();
    for address in addresses(members) {
        if !endpoints.contains(&address) {
            endpoints.push(address);
        }
    }
    let client = session.client.with_endpoints(endpoints);
    let statuses = join_all((0..client.endpoints().count()).map(|at| client.status_at(at))).await;
    let mut known = None;
    for (at, status) in statuses.into_iter().enumerate() {
        let Ok(status) = status else { continue };
        let member = status.header.as_ref().map_or(0, |header| header.member_id);
        if status.leader != 0 && status.leader == member {
            return Ok((MemberId(member), client, at));
        }
        if status.leader != 0 {
            known = Some(MemberId(status.leader));
        }
    }
    Err(match known {
        Some(leader) => Failure::Local(format!("the leader, {leader}, cannot be reached from here; see `member list`")),
        None => Failure::Client(ClientError::NoLeader(Vec::new())),
    })
}

#[derive(Debug, Serialize)]
struct Moved {
    from: Named,
    to: Named,
}

#[derive(Debug, Serialize)]
struct Named {
    id: MemberId,
    name: String,
}

impl Report for Moved {
    fn human(&self) -> String {
        let Moved { from, to } = self;
        if from.id == to.id {
            return format!("{} ({}) leads already\n", to.name, to.id);
        }
        format!("leadership went from {} ({}) to {} ({})\n", from.name, from.id, to.name, to.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing::{human, json};

    fn members() -> Vec<pb::Member> {
        let started = pb::Member {
            id: 0x8e9e_05c5_2164_694d,
            name: "n1".into(),
            peer_ur_ls: vec!["http://127.0.0.1:2380".into()],
            client_ur_ls: vec!["http://127.0.0.1:2379".into()],
            is_learner: false,
        };
        let silent =
            pb::Member { id: 31, peer_ur_ls: vec!["http://b:1".into()], is_learner: true, ..Default::default() };
        vec![started, silent]
    }

    #[test]
    fn members_are_a_table() {
        let table = MemberTable { members: members().iter().map(MemberRow::new).collect() };
        assert_eq!(
            human(&table),
            "ID                NAME  KIND     CLIENTS                PEERS\n\
             8e9e05c52164694d  n1    voter    http://127.0.0.1:2379  http://127.0.0.1:2380\n\
             1f                -     learner  -                      http://b:1\n"
        );
        let one = MemberTable { members: members()[1..].iter().map(MemberRow::new).collect() };
        let expected =
            r#"{"members":[{"id":"1f","name":"","learner":true,"client_urls":[],"peer_urls":["http://b:1"]}]}"#;
        assert_eq!(json(&one), format!("{expected}\n"));
    }

    #[test]
    fn a_member_is_meant_by_its_name_or_its_id() {
        let members = members();
        let id = |meant| find(&members, meant).map(|member| member.id).map_err(|failure| failure.to_string());
        assert_eq!(id("n1"), Ok(0x8e9e_05c5_2164_694d));
        assert_eq!(id("0x1f"), Ok(31));
        assert_eq!(id("n2"), Err("no member \"n2\"; the members are n1 (8e9e05c52164694d),  (1f)".into()));
    }
}
