//! `explain`: why things are as they are, told from what the cluster recorded.

use std::collections::BTreeMap;

use serde::Serialize;
use tenure_proto::tenure::v1 as pb;
use tenure_proto::tenure::v1::lease_end::{Cause, Client};

use super::Session;
use super::view::{count, span};
use crate::failure::Failure;
use crate::ids::{LeaseId, MemberId, Revision};
use crate::output::Report;
use crate::text::one_line;

/// The members' names, as far as they are known.
type Names = BTreeMap<u64, String>;

pub(super) async fn lease(session: &Session, id: LeaseId) -> Result<(), Failure> {
    let answer = session.client.lease_explain(id).await?;
    // Names are for people. Without them there are ids.
    let members = session.client.members_from_any().await.map(|answer| answer.members).unwrap_or_default();
    let names = members.into_iter().map(|member| (member.id, member.name)).collect();
    session.output.show(&Explained::new(&answer, &names))
}

/// Why a lease is not there, in one sentence, if that is recorded.
pub(crate) fn why_gone(answer: &pb::LeaseExplainResponse) -> Option<String> {
    let Explained { alive: None, ended: Some(ended), .. } = Explained::new(answer, &Names::new()) else { return None };
    Some(format!("it {}, {} ago", ended.what_happened(), span(ended.ended_ms_ago)))
}

/// What became of a lease.
#[derive(Debug, Serialize)]
struct Explained {
    id: LeaseId,
    /// `alive`, `expired`, `revoked` or `unknown`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    alive: Option<Alive>,
    /// How the last lease of this id ended; there may be another one now.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Ended>,
    ends_kept: u64,
    ends_dropped: u64,
}

#[derive(Debug, Serialize)]
struct Alive {
    ttl_ms: u64,
    remaining_ms: u64,
    renewals: u64,
    renewed_ms_ago: u64,
    granted_index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<Holder>,
}

/// Whom a lease is for.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Holder {
    name: String,
    text: String,
}

impl Holder {
    /// On one line.
    pub(super) fn line(&self) -> String {
        let (name, text) = (one_line(&self.name), one_line(&self.text));
        if name.is_empty() || text.is_empty() { format!("{name}{text}") } else { format!("{name}: {text}") }
    }
}

impl From<pb::LeaseHolder> for Holder {
    fn from(holder: pb::LeaseHolder) -> Holder {
        Holder { name: holder.name, text: holder.text }
    }
}

#[derive(Debug, Serialize)]
struct Ended {
    cause: &'static str,
    ended_ms_ago: u64,
    renewed_ms_before: u64,
    late_ms: u64,
    ttl_ms: u64,
    renewals: u64,
    keys: u64,
    revision: Revision,
    index: u64,
    term: u64,
    granted_index: u64,
    member: MemberId,
    #[serde(skip_serializing_if = "Option::is_none")]
    member_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    holder_name: String,
}

const EXPIRED: &str = "expired";

impl Explained {
    fn new(answer: &pb::LeaseExplainResponse, names: &Names) -> Explained {
        let ended = answer.ended.as_ref().map(|end| Ended::new(end, names));
        let alive = answer.alive.as_ref().map(|lease| Alive {
            ttl_ms: lease.ttl_ms,
            remaining_ms: lease.remaining_ms,
            renewals: lease.renewals,
            renewed_ms_ago: lease.renewed_ms_ago,
            granted_index: lease.granted_index,
            holder: lease.holder.clone().map(Holder::from),
        });
        let state = match (&alive, &ended) {
            (Some(_), _) => "alive",
            (None, Some(ended)) => ended.cause,
            (None, None) => "unknown",
        };
        let (ends_kept, ends_dropped) = (answer.ends_kept, answer.ends_dropped);
        Explained { id: LeaseId(answer.id), state, alive, ended, ends_kept, ends_dropped }
    }
}

impl Ended {
    fn new(end: &pb::LeaseEnd, names: &Names) -> Ended {
        let (mut certificate_name, mut address) = (None, None);
        match end.client.clone() {
            Some(Client::CertificateName(name)) => certificate_name = Some(name),
            Some(Client::Address(from)) => address = Some(from),
            None => {}
        }
        Ended {
            cause: if end.cause() == Cause::Expired { EXPIRED } else { "revoked" },
            ended_ms_ago: end.ended_ms_ago,
            renewed_ms_before: end.renewed_ms_before,
            late_ms: end.late_ms,
            ttl_ms: end.ttl_ms,
            renewals: end.renewals,
            keys: end.keys,
            revision: Revision(end.revision),
            index: end.index,
            term: end.term,
            granted_index: end.granted_index,
            member: MemberId(end.member_id),
            member_name: names.get(&end.member_id).filter(|name| !name.is_empty()).cloned(),
            certificate_name,
            address,
            holder_name: end.holder_name.clone(),
        }
    }

    /// What follows "lease N".
    fn what_happened(&self) -> String {
        if self.cause == EXPIRED {
            let done = if self.renewals > 0 { "renewed" } else { "granted" };
            let (before, ttl) = (span(self.renewed_ms_before), span(self.ttl_ms));
            return format!("expired: its time is {ttl}, and it was last {done} {before} before its end");
        }
        match (&self.certificate_name, &self.address) {
            (Some(name), _) => format!("was revoked by the client whose certificate is for {}", one_line(name)),
            (None, Some(address)) => format!("was revoked by the client at {}", one_line(address)),
            (None, None) => "was revoked by a client on the member's own machine".to_owned(),
        }
    }

    fn member(&self) -> String {
        match &self.member_name {
            Some(name) => format!("{} ({})", one_line(name), self.member),
            None => self.member.to_string(),
        }
    }

    fn lines(&self) -> Vec<String> {
        let (member, term, index) = (self.member(), self.term, self.index);
        let who = if self.cause == EXPIRED {
            format!("{} ago, by member {member} as the leader of term {term}", span(self.ended_ms_ago))
        } else {
            format!("{} ago, through member {member}, in term {term}", span(self.ended_ms_ago))
        };
        let keys = match self.keys {
            0 => format!("none were attached; the store was at revision {}", self.revision),
            keys => format!("{} deleted in revision {}", count(keys, "key"), self.revision),
        };
        let renewed = format!("{}, the last {} before its end", self.renewals, span(self.renewed_ms_before));
        let mut lines = vec![
            format!("ended     {who}"),
            format!("keys      {keys}"),
            format!("renewals  {}", if self.renewals > 0 { renewed } else { "none".to_owned() }),
            format!("log       granted at entry {}, ended at entry {index}", self.granted_index),
        ];
        if self.cause == EXPIRED {
            lines
                .push(format!("late      by {}, of which a hundredth of its time is always given", span(self.late_ms)));
        }
        if !self.holder_name.is_empty() {
            lines.push(format!("holder    {}", one_line(&self.holder_name)));
        }
        lines
    }
}

impl Alive {
    fn lines(&self) -> Vec<String> {
        let renewed = format!("{}, the last {} ago", self.renewals, span(self.renewed_ms_ago));
        let granted = format!("none; it was granted {} ago", span(self.renewed_ms_ago));
        let mut lines = vec![
            format!("renewals  {}", if self.renewals > 0 { renewed } else { granted }),
            format!("log       granted at entry {}", self.granted_index),
        ];
        if let Some(holder) = &self.holder {
            lines.push(format!("holder    {}", holder.line()));
        }
        lines
    }
}

impl Report for Explained {
    fn human(&self) -> String {
        let indented = |lines: Vec<String>| lines.iter().map(|line| format!("  {line}\n")).collect::<String>();
        let mut text = String::new();
        if let Some(alive) = &self.alive {
            let left = match alive.remaining_ms {
                0 => "it is due, and can still be renewed until it is ended".to_owned(),
                left => format!("{} left of {}", span(left), span(alive.ttl_ms)),
            };
            text += &format!("lease {} is alive: {left}\n{}", self.id, indented(alive.lines()));
        }
        if let Some(ended) = &self.ended {
            let which = if self.alive.is_some() { "an earlier lease" } else { "lease" };
            text += &format!("{which} {} {}\n{}", self.id, ended.what_happened(), indented(ended.lines()));
        }
        if text.is_empty() {
            let (kept, dropped) = (count(self.ends_kept, "lease"), self.ends_dropped);
            text = format!("lease {} is not there, nor is it among the {kept} whose end is recorded\n", self.id);
            text += &match dropped {
                0 => "  so no lease of this id has ended since the cluster keeps that record\n".to_owned(),
                dropped => format!("  {dropped} earlier ends are forgotten, and it may be one of them\n"),
            };
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing::{human, json};

    fn expired() -> pb::LeaseEnd {
        pb::LeaseEnd {
            id: 31,
            cause: Cause::Expired.into(),
            ttl_ms: 60_000,
            renewals: 3,
            renewed_ms_before: 60_680,
            late_ms: 680,
            ended_ms_ago: 12_340,
            granted_index: 97,
            index: 118,
            term: 4,
            member_id: 0x8e9e,
            client: None,
            keys: 2,
            revision: 45,
            holder_name: "web\n1".into(),
        }
    }

    fn revoked(client: Option<Client>) -> pb::LeaseEnd {
        let cause = Cause::Revoked.into();
        pb::LeaseEnd { cause, client, renewals: 0, keys: 0, late_ms: 0, holder_name: String::new(), ..expired() }
    }

    fn explained(alive: Option<pb::LeaseState>, ended: Option<pb::LeaseEnd>, ends_dropped: u64) -> Explained {
        let answer =
            pb::LeaseExplainResponse { id: 31, alive, ended, ends_kept: 7, ends_dropped, ..Default::default() };
        Explained::new(&answer, &[(0x8e9e, "n1".to_owned())].into())
    }

    #[test]
    fn an_expired_lease_is_told_with_who_ended_it_and_when() {
        assert_eq!(
            human(&explained(None, Some(expired()), 0)),
            "lease 000000000000001f expired: its time is 1 min 0 s, and it was last renewed 1 min 0 s before its end\n  \
             ended     12.3 s ago, by member n1 (8e9e) as the leader of term 4\n  \
             keys      2 keys deleted in revision 45\n  \
             renewals  3, the last 1 min 0 s before its end\n  \
             log       granted at entry 97, ended at entry 118\n  \
             late      by 680 ms, of which a hundredth of its time is always given\n  \
             holder    web\\n1\n"
        );
        assert_eq!(
            json(&explained(None, Some(expired()), 0)),
            "{\"id\":\"000000000000001f\",\"state\":\"expired\",\"ended\":{\"cause\":\"expired\",\"ended_ms_ago\":12340,\
             \"renewed_ms_before\":60680,\"late_ms\":680,\"ttl_ms\":60000,\"renewals\":3,\"keys\":2,\"revision\":45,\
             \"index\":118,\"term\":4,\"granted_index\":97,\"member\":\"8e9e\",\"member_name\":\"n1\",\
             \"holder_name\":\"web\\n1\"},\"ends_kept\":7,\"ends_dropped\":0}\n"
        );
    }

    #[test]
    fn a_revoked_lease_is_told_with_who_asked() {
        for (client, who) in [
            (Some(Client::CertificateName("ops".into())), "by the client whose certificate is for ops"),
            (Some(Client::Address("10.0.0.7:4711".into())), "by the client at 10.0.0.7:4711"),
            (None, "by a client on the member's own machine"),
        ] {
            assert_eq!(
                human(&explained(None, Some(revoked(client)), 0)),
                format!(
                    "lease 000000000000001f was revoked {who}\n  \
                     ended     12.3 s ago, through member n1 (8e9e), in term 4\n  \
                     keys      none were attached; the store was at revision 45\n  \
                     renewals  none\n  \
                     log       granted at entry 97, ended at entry 118\n"
                )
            );
        }
    }

    #[test]
    fn a_lease_that_is_alive_is_told_and_the_end_of_an_earlier_one() {
        let alive = pb::LeaseState {
            id: 31,
            ttl_ms: 60_000,
            remaining_ms: 41_200,
            renewals: 2,
            renewed_ms_ago: 18_800,
            granted_index: 200,
            holder: Some(pb::LeaseHolder { name: "web-1".into(), text: "10.0.0.1".into() }),
        };
        let both = explained(Some(alive.clone()), Some(revoked(None)), 0);
        let text = human(&both);
        assert!(
            text.starts_with(
                "lease 000000000000001f is alive: 41.2 s left of 1 min 0 s\n  \
                 renewals  2, the last 18.8 s ago\n  \
                 log       granted at entry 200\n  \
                 holder    web-1: 10.0.0.1\n\
                 an earlier lease 000000000000001f was revoked by"
            ),
            "{text}"
        );
        assert!(
            json(&both).starts_with("{\"id\":\"000000000000001f\",\"state\":\"alive\",\"alive\":{\"ttl_ms\":60000,")
        );
        let due = pb::LeaseState { remaining_ms: 0, renewals: 0, holder: None, ..alive };
        assert!(human(&explained(Some(due), None, 0)).contains("is alive: it is due, and can still be renewed"));
    }

    #[test]
    fn what_is_not_recorded_is_said_to_be_so() {
        assert_eq!(
            human(&explained(None, None, 0)),
            "lease 000000000000001f is not there, nor is it among the 7 leases whose end is recorded\n  \
             so no lease of this id has ended since the cluster keeps that record\n"
        );
        assert!(
            human(&explained(None, None, 12))
                .contains("\n  12 earlier ends are forgotten, and it may be one of them\n")
        );
        assert!(json(&explained(None, None, 12)).contains("\"state\":\"unknown\",\"ends_kept\":7,\"ends_dropped\":12"));
    }

    #[test]
    fn an_error_names_the_reason_in_one_sentence() {
        let answer = pb::LeaseExplainResponse { id: 31, ended: Some(expired()), ..Default::default() };
        let reason = "it expired: its time is 1 min 0 s, and it was last renewed 1 min 0 s before its end, 12.3 s ago";
        assert_eq!(why_gone(&answer).as_deref(), Some(reason));
        let unknown = pb::LeaseExplainResponse { ended: None, ..answer };
        assert_eq!(why_gone(&unknown), None);
    }
}
