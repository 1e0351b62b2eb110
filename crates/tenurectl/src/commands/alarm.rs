//! `alarm list` and `alarm disarm`.

use serde::Serialize;
use tenure_proto::etcdserverpb as pb;
use tenure_proto::etcdserverpb::AlarmType;
use tenure_proto::etcdserverpb::alarm_request::AlarmAction;

use super::Session;
use super::view::count;
use crate::failure::Failure;
use crate::ids::MemberId;
use crate::output::Report;
use crate::table::Table;

pub(super) async fn list(session: &Session) -> Result<(), Failure> {
    session.output.show(&Alarms { alarms: raised(session).await?, disarmed: false })
}

/// Alarms are cleared one by one, as they were raised: a request for all of them does nothing in etcd.
pub(super) async fn disarm(session: &Session) -> Result<(), Failure> {
    let alarms = raised(session).await?;
    for alarm in &alarms {
        session.client.alarm(request(AlarmAction::Deactivate, alarm.member.0, alarm.kind)).await?;
    }
    session.output.show(&Alarms { alarms, disarmed: true })
}

fn request(action: AlarmAction, member_id: u64, alarm: AlarmType) -> pb::AlarmRequest {
    pb::AlarmRequest { action: action.into(), member_id, alarm: alarm.into() }
}

async fn raised(session: &Session) -> Result<Vec<Alarm>, Failure> {
    let answer = session.client.alarm(request(AlarmAction::Get, 0, AlarmType::None)).await?;
    Ok(answer.alarms.iter().map(Alarm::new).collect())
}

#[derive(Debug, Serialize)]
struct Alarms {
    alarms: Vec<Alarm>,
    #[serde(skip)]
    disarmed: bool,
}

#[derive(Debug, Serialize)]
struct Alarm {
    member: MemberId,
    alarm: String,
    #[serde(skip)]
    kind: AlarmType,
}

impl Alarm {
    fn new(alarm: &pb::AlarmMember) -> Alarm {
        let kind = AlarmType::try_from(alarm.alarm).unwrap_or(AlarmType::None);
        Alarm { member: MemberId(alarm.member_id), alarm: kind.as_str_name().to_owned(), kind }
    }
}

impl Report for Alarms {
    fn human(&self) -> String {
        if self.alarms.is_empty() {
            return "no alarms\n".to_owned();
        }
        let mut table = Table::new(&["MEMBER", "ALARM"]);
        for alarm in &self.alarms {
            table.row([alarm.member.to_string(), alarm.alarm.clone()]);
        }
        let verdict =
            if self.disarmed { format!("disarmed {}\n", count(self.alarms.len(), "alarm")) } else { String::new() };
        table.render() + &verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing::{human, json};

    #[test]
    fn alarms_are_a_table() {
        let raised = || vec![Alarm::new(&pb::AlarmMember { member_id: 31, alarm: AlarmType::Nospace.into() })];
        let alarms = Alarms { alarms: raised(), disarmed: false };
        assert_eq!(human(&alarms), "MEMBER  ALARM\n1f      NOSPACE\n");
        assert_eq!(json(&alarms), "{\"alarms\":[{\"member\":\"1f\",\"alarm\":\"NOSPACE\"}]}\n");
        let disarmed = Alarms { alarms: raised(), disarmed: true };
        assert_eq!(human(&disarmed), "MEMBER  ALARM\n1f      NOSPACE\ndisarmed 1 alarm\n");
        assert_eq!(human(&Alarms { alarms: Vec::new(), disarmed: true }), "no alarms\n");
    }
}
