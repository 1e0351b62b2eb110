//! `discovery list`, `watch` and `register`: the instances of a registry, by the client library.
//!
//! These go by the library's own connections, and not by this program's small client: what a registry's keys and values mean, and how a
//! registration survives, is to be written down once.

use std::time::Duration;

use serde::Serialize;
use tenure_client::discovery::{
    DiscoveryError, Entry, Event, Filter, Instance, RegisterOptions, Registration, RegistrationFailure,
    RegistrationState, RemovedWhy, StaleWhy,
};
use tenure_client::{Client, ConnectOptions};

use super::Session;
use crate::arguments::{DiscoveryKindsArgs, DiscoveryRegisterArgs};
use crate::client::ClientError;
use crate::failure::Failure;
use crate::ids::{LeaseId, Revision};
use crate::output::{Format, Report};
use crate::stop;
use crate::table::Table;
use crate::text::one_line;

pub(super) async fn list(session: &Session, args: &DiscoveryKindsArgs) -> Result<(), Failure> {
    let client = connect(session).await?;
    let listed = client.registry(&args.registry).list(filter(args)).await.map_err(failure)?;
    let instances = listed.entries().map(Row::new).collect();
    session.output.show(&Listed { revision: Revision(listed.revision().0), instances })
}

pub(super) async fn watch(session: &Session, args: &DiscoveryKindsArgs) -> Result<(), Failure> {
    let client = connect(session).await?;
    // Everything is shown as it happens: nothing is held back here.
    let cache = client.registry(&args.registry).cache().kinds(filter(args)).protection(None);
    let cache = cache.start().await.map_err(failure)?;
    let mut events = cache.subscribe();
    let snapshot = events.snapshot().clone();
    show(session, &Told::Started { revision: Revision(snapshot.revision().0), instances: snapshot.len() })?;
    while let Some(event) = events.next().await {
        if let Some(told) = Told::new(&event) {
            show(session, &told)?;
        }
    }
    Err(Failure::Local("the watch ended".to_owned()))
}

pub(super) async fn register(session: &Session, args: &DiscoveryRegisterArgs) -> Result<(), Failure> {
    let mut instance = Instance::new(&args.id);
    if let Some(addr) = &args.addr {
        instance = instance.addr(addr);
    }
    for (name, value) in &args.meta {
        instance = instance.meta(name, value.clone());
    }
    let client = connect(session).await?;
    let drain = args.drain.unwrap_or(Duration::ZERO);
    let options = RegisterOptions { ttl: args.ttl, drain, replace: !args.no_replace, ..RegisterOptions::default() };
    let registering = Box::pin(client.registry(&args.registry).kind(&args.kind).register(instance, options));
    let registration = registering.await.map_err(failure)?;
    let ended = tokio::select! {
        ended = follow(session, &registration) => ended,
        () = stop::asked() => Ok(()),
    };
    let patience = session.client.timeouts().command + drain;
    if let Err(error) = registration.deregister(patience).await {
        session.output.note(&format!("it ends within {} s: {error}", args.ttl.as_secs()));
    }
    ended
}

/// Tells how a registration stands until it fails.
async fn follow(session: &Session, registration: &Registration) -> Result<(), Failure> {
    let mut states = registration.state();
    let mut shown = None;
    loop {
        let state = states.borrow_and_update().clone();
        match state {
            RegistrationState::Registered { revision, lease } => {
                // Written again for an update, or after a loss: worth a line each.
                if shown != Some(revision) {
                    shown = Some(revision);
                    let key = one_line(registration.key());
                    let (revision, lease) = (Revision(revision.0), LeaseId(lease.0));
                    session.output.show(&Registered { key, revision, lease })?;
                }
            }
            RegistrationState::Reregistering { attempt } => {
                session.output.note(&format!("the registration was lost; try {attempt} to register again"));
            }
            RegistrationState::Failed { why: RegistrationFailure::GaveUp { last } } => {
                return Err(failure(DiscoveryError::Client(last)));
            }
            RegistrationState::Failed { .. } => {
                return Err(Failure::Ended("another process registered this instance after this one".to_owned()));
            }
            _ => return Ok(()),
        }
        if states.changed().await.is_err() {
            return Ok(());
        }
    }
}

async fn connect(session: &Session) -> Result<Client, Failure> {
    let timeouts = session.client.timeouts();
    let options = ConnectOptions::default().timeout(timeouts.command).dial_timeout(timeouts.dial).fail_fast();
    let endpoints = session.client.endpoints().map(ToString::to_string);
    Box::pin(Client::connect(endpoints, options)).await.map_err(|error| failure(error.into()))
}

fn filter(args: &DiscoveryKindsArgs) -> Filter {
    if args.kinds.is_empty() { Filter::All } else { Filter::allow(&args.kinds) }
}

fn failure(error: DiscoveryError) -> Failure {
    match error {
        DiscoveryError::Client(error) => match ClientError::of_library(&error) {
            Ok(error) => Failure::Client(error),
            Err(words) => Failure::Local(words),
        },
        DiscoveryError::BadName { .. } | DiscoveryError::BadOption(_) => Failure::Usage(error.to_string()),
        DiscoveryError::TimedOut => Failure::Client(ClientError::NoAnswer(Vec::new())),
        other => Failure::Ended(other.to_string()),
    }
}

/// For people only what happens to instances is a result.
fn show(session: &Session, told: &Told) -> Result<(), Failure> {
    let is_aside = !matches!(told, Told::Added { .. } | Told::Updated { .. } | Told::Removed { .. });
    if is_aside && session.output.format == Format::Human {
        session.output.note(told.human().trim_end());
        return Ok(());
    }
    session.output.show(told)
}

/// An instance as it describes itself.
#[derive(Clone, Debug, Serialize)]
struct Described {
    kind: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    addr: Option<String>,
    meta: serde_json::Value,
}

impl Described {
    fn new(instance: &Instance) -> Described {
        let meta = instance.all_meta().iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Described {
            kind: instance.kind().to_owned(),
            id: instance.id().to_owned(),
            addr: instance.addr_text().map(str::to_owned),
            meta: serde_json::Value::Object(meta),
        }
    }

    /// What it says besides its name, on one line.
    fn words(&self) -> String {
        let addr = self.addr.as_deref().map_or_else(|| "-".to_owned(), one_line);
        format!("{addr}  {}", self.meta_words()).trim_end().to_owned()
    }

    fn meta_words(&self) -> String {
        match &self.meta {
            serde_json::Value::Object(meta) if meta.is_empty() => String::new(),
            meta => one_line(&meta.to_string()),
        }
    }

    fn name(&self) -> String {
        format!("{}/{}", one_line(&self.kind), one_line(&self.id))
    }
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    instance: Described,
    create_revision: Revision,
    mod_revision: Revision,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseId>,
}

impl Row {
    fn new(entry: &Entry) -> Row {
        Row {
            instance: Described::new(entry.instance()),
            create_revision: Revision(entry.create_revision().0),
            mod_revision: Revision(entry.mod_revision().0),
            lease: Some(LeaseId(entry.lease().0)).filter(|lease| lease.0 != 0),
        }
    }
}

#[derive(Debug, Serialize)]
struct Listed {
    revision: Revision,
    instances: Vec<Row>,
}

impl Report for Listed {
    fn human(&self) -> String {
        if self.instances.is_empty() {
            return "no instances\n".to_owned();
        }
        let mut table = Table::new(&["KIND", "ID", "ADDRESS", "SINCE", "LEASE", "METADATA"]).right(&[3]);
        for row in &self.instances {
            let instance = &row.instance;
            table.row([
                one_line(&instance.kind),
                one_line(&instance.id),
                instance.addr.as_deref().map_or_else(|| "-".to_owned(), one_line),
                row.create_revision.to_string(),
                row.lease.map_or_else(|| "-".to_owned(), |lease| lease.to_string()),
                instance.meta_words(),
            ]);
        }
        table.render()
    }
}

#[derive(Debug, Serialize)]
struct Registered {
    key: String,
    revision: Revision,
    lease: LeaseId,
}

impl Report for Registered {
    fn human(&self) -> String {
        format!("registered as {} at revision {}; Ctrl-C ends it\n", self.key, self.revision)
    }
}

/// A line of JSON, or a line for people.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Told {
    Started { revision: Revision, instances: usize },
    Added { instance: Described },
    Updated { old: Described, new: Described },
    Removed { instance: Described, why: &'static str },
    Skipped { key: String, why: String },
    Stale { staleness_ms: u64 },
    Fresh,
}

impl Told {
    fn new(event: &Event) -> Option<Told> {
        Some(match event {
            Event::Added(instance) => Told::Added { instance: Described::new(instance) },
            Event::Updated { old, new } => Told::Updated { old: Described::new(old), new: Described::new(new) },
            Event::Removed { instance, why } => Told::Removed { instance: Described::new(instance), why: reason(*why) },
            Event::Skipped { key, why } => Told::Skipped { key: key.clone(), why: why.clone() },
            Event::Stale(StaleWhy::NoContact { staleness }) => {
                Told::Stale { staleness_ms: u64::try_from(staleness.as_millis()).unwrap_or(u64::MAX) }
            }
            Event::Fresh => Told::Fresh,
            _ => return None,
        })
    }
}

fn reason(why: RemovedWhy) -> &'static str {
    match why {
        RemovedWhy::Deregistered => "deregistered",
        RemovedWhy::Expired => "expired",
        RemovedWhy::Deleted => "deleted",
        RemovedWhy::Unreadable => "unreadable",
        _ => "unknown",
    }
}

impl Report for Told {
    fn human(&self) -> String {
        match self {
            Told::Started { revision, instances } => {
                format!("{instances} instances at revision {revision}; Ctrl-C ends it\n")
            }
            Told::Added { instance } => format!("ADD     {}  {}\n", instance.name(), instance.words()),
            Told::Updated { new, .. } => format!("UPDATE  {}  {}\n", new.name(), new.words()),
            Told::Removed { instance, why } => format!("REMOVE  {}  {why}\n", instance.name()),
            Told::Skipped { key, why } => format!("skipped {}: {}\n", one_line(key), one_line(why)),
            Told::Stale { staleness_ms } => format!("the cluster has not answered for {staleness_ms} ms\n"),
            Told::Fresh => "the cluster answers again\n".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::output::testing::{human, json};

    fn room(addr: &str) -> Arc<Instance> {
        Arc::new(Instance::new("room\n7").addr(addr).meta("seats", 8))
    }

    fn told(event: &Event) -> Told {
        Told::new(event).expect("something to tell")
    }

    #[test]
    fn events_are_lines_for_people_and_objects_for_programs() {
        let added = told(&Event::Added(room("a:1")));
        assert_eq!(human(&added), "ADD     /room\\n7  a:1  {\"seats\":8}\n");
        let expected = "{\"type\":\"added\",\"instance\":{\"kind\":\"\",\"id\":\"room\\n7\",\"addr\":\"a:1\",\"meta\":{\"seats\":8}}}\n";
        assert_eq!(json(&added), expected);
        let updated = told(&Event::Updated { old: room("a:1"), new: room("b:1") });
        assert_eq!(human(&updated), "UPDATE  /room\\n7  b:1  {\"seats\":8}\n");
        let removed = told(&Event::Removed { instance: room("b:1"), why: RemovedWhy::Expired });
        assert_eq!(human(&removed), "REMOVE  /room\\n7  expired\n");
        assert_eq!(json(&told(&Event::Fresh)), "{\"type\":\"fresh\"}\n");
    }

    #[test]
    fn a_list_is_a_table_and_an_instance_without_an_address_has_a_dash() {
        let row = Row {
            instance: Described::new(&Instance::new("7")),
            create_revision: Revision(4),
            mod_revision: Revision(9),
            lease: None,
        };
        let listed = Listed { revision: Revision(9), instances: vec![row] };
        assert_eq!(human(&listed), "KIND  ID  ADDRESS  SINCE  LEASE  METADATA\n      7   -            4  -\n");
        assert_eq!(human(&Listed { revision: Revision(9), instances: vec![] }), "no instances\n");
    }
}
