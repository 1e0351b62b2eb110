//! `watch`: prints changes as they come, until it is stopped.

use serde::Serialize;
use tenure_proto::mvccpb::Event;
use tenure_proto::mvccpb::event::EventType;

use super::Session;
use super::view::KeyValue;
use crate::arguments::WatchArgs;
use crate::client::{Update, WatchSpec, Watcher};
use crate::failure::Failure;
use crate::ids::Revision;
use crate::output::{Format, Report};
use crate::text::Style;

pub(super) async fn run(session: &Session, args: &WatchArgs) -> Result<(), Failure> {
    let output = session.output;
    let (key, range_end) = args.range.bounds(output.style).map_err(Failure::Usage)?;
    let start = args.rev.filter(|revision| revision.0 > 0);
    let spec = WatchSpec { key, range_end, start, prev_kv: args.prev_kv };
    let mut watcher = Watcher::new(&session.client, spec);
    loop {
        let told = Told::new(output.style, &watcher.next().await?);
        match &told {
            Told::Progress { .. } if !args.progress_notify => {}
            // For people these are not part of the result.
            Told::Started { .. } | Told::Lost { .. } | Told::Resumed { .. } if output.format == Format::Human => {
                output.note(told.human().trim_end());
            }
            _ => output.show(&told)?,
        }
    }
}

/// A line of JSON, or some lines for people.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Told {
    Started { endpoint: String, from_revision: Revision },
    Lost { endpoint: String, reason: String },
    Resumed { endpoint: String, from_revision: Revision },
    Events { events: Vec<Change> },
    Progress { revision: Revision },
}

/// One change of one key.
#[derive(Debug, Serialize)]
struct Change {
    revision: Revision,
    change: Kind,
    kv: KeyValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_kv: Option<KeyValue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Put,
    Delete,
}

impl Told {
    fn new(style: Style, update: &Update) -> Told {
        match update {
            Update::Started { endpoint, from } => {
                Told::Started { endpoint: endpoint.to_string(), from_revision: *from }
            }
            Update::Lost(setback) => {
                Told::Lost { endpoint: setback.endpoint.to_string(), reason: setback.reason.clone() }
            }
            Update::Resumed { endpoint, from } => {
                Told::Resumed { endpoint: endpoint.to_string(), from_revision: *from }
            }
            Update::Events(events) => {
                Told::Events { events: events.iter().filter_map(|event| Change::new(style, event)).collect() }
            }
            Update::Progress(revision) => Told::Progress { revision: *revision },
        }
    }
}

impl Change {
    fn new(style: Style, event: &Event) -> Option<Change> {
        let mut kv = KeyValue::new(style, event.kv.as_ref()?);
        let change = if event.r#type == i32::from(EventType::Delete) { Kind::Delete } else { Kind::Put };
        if change == Kind::Delete {
            kv.value = None;
        }
        let prev_kv = event.prev_kv.as_ref().map(|kv| KeyValue::new(style, kv));
        Some(Change { revision: kv.mod_revision, change, kv, prev_kv })
    }
}

impl Report for Told {
    fn human(&self) -> String {
        match self {
            Told::Started { endpoint, from_revision } => {
                format!("watching from revision {from_revision} at {endpoint}; Ctrl-C ends it\n")
            }
            Told::Lost { endpoint, reason } => format!("lost {endpoint}: {reason}; going on elsewhere\n"),
            Told::Resumed { endpoint, from_revision } => {
                format!("resumed from revision {from_revision} at {endpoint}\n")
            }
            Told::Progress { revision } => format!("{revision:>8}  nothing missing up to here\n"),
            Told::Events { events } => events.iter().map(human_change).collect(),
        }
    }
}

/// Not a table: its lines come one by one, so only the short columns have a width.
fn human_change(event: &Change) -> String {
    let key = event.kv.key.line();
    let mut line = match event.change {
        Kind::Put => format!("{:>8}  PUT     {key}  {}", event.revision, event.kv.value_line()),
        Kind::Delete => format!("{:>8}  DELETE  {key}", event.revision),
    };
    if let Some(before) = &event.prev_kv {
        line += &format!("  (before, at {}: {})", before.mod_revision, before.value_line());
    }
    line.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tenure_proto::mvccpb;

    use super::*;
    use crate::client::Setback;
    use crate::output::testing::{human, json};

    fn told() -> Told {
        let kv = |value: &'static [u8], revision, version| mvccpb::KeyValue {
            key: "service/web".into(),
            value: Bytes::from_static(value),
            create_revision: 7,
            mod_revision: revision,
            version,
            lease: 31,
        };
        let put = Event { r#type: EventType::Put.into(), kv: Some(kv(b"up\n", 7, 1)), prev_kv: None };
        let gone = mvccpb::KeyValue { key: "service/web".into(), mod_revision: 12, ..mvccpb::KeyValue::default() };
        let delete = Event { r#type: EventType::Delete.into(), kv: Some(gone), prev_kv: Some(kv(b"up\n", 7, 1)) };
        Told::new(Style::default(), &Update::Events(vec![put, delete]))
    }

    #[test]
    fn changes_are_lines_for_people() {
        assert_eq!(
            human(&told()),
            "       7  PUT     service/web  up\\n\n      12  DELETE  service/web  (before, at 7: up\\n)\n"
        );
    }

    #[test]
    fn changes_are_one_object_for_programs() {
        let expected = concat!(
            r#"{"type":"events","events":[{"revision":7,"change":"put","kv":{"key":"service/web","value":"up\n","#,
            r#""create_revision":7,"mod_revision":7,"version":1,"lease":"000000000000001f"}},"#,
            r#"{"revision":12,"change":"delete","kv":{"key":"service/web","create_revision":0,"#,
            r#""mod_revision":12,"version":0},"prev_kv":{"key":"service/web","value":"up\n","create_revision":7,"#,
            r#""mod_revision":7,"version":1,"lease":"000000000000001f"}}]}"#,
            "\n"
        );
        assert_eq!(json(&told()), expected);
    }

    #[test]
    fn the_way_of_a_watch_is_told() {
        let endpoint: crate::client::Endpoint = "n1:1".parse().expect("an address");
        let told = |update| Told::new(Style::default(), &update);
        let started = told(Update::Started { endpoint: endpoint.clone(), from: Revision(8) });
        assert_eq!(human(&started), "watching from revision 8 at n1:1; Ctrl-C ends it\n");
        assert_eq!(json(&started), "{\"type\":\"started\",\"endpoint\":\"n1:1\",\"from_revision\":8}\n");
        let lost = told(Update::Lost(Setback { endpoint: endpoint.clone(), reason: "connection reset".into() }));
        assert_eq!(human(&lost), "lost n1:1: connection reset; going on elsewhere\n");
        let resumed = told(Update::Resumed { endpoint, from: Revision(9) });
        assert_eq!(human(&resumed), "resumed from revision 9 at n1:1\n");
        assert_eq!(json(&told(Update::Progress(Revision(9)))), "{\"type\":\"progress\",\"revision\":9}\n");
    }
}
