//! What the commands do: one file per group, each asking the client and showing a report.

mod alarm;
mod bench;
mod bench_view;
mod check;
mod completions;
mod discovery;
mod election;
mod explain;
mod keys;
mod lease;
mod lock;
mod locks;
mod member;
mod snapshot;
mod status;
mod txn;
mod txn_text;
mod version;
mod view;
mod watch;

pub(crate) use explain::why_gone;
pub(crate) use status::reason;
pub(crate) use view::{size, span};

use std::future::Future;
use std::io::{Read, Take};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::arguments::{
    AlarmCommand, Command, DiscoveryCommand, EndpointCommand, ExplainCommand, LeaseCommand, MemberCommand,
    SnapshotCommand,
};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;

/// What is read from stdin or a file for one request. Servers take 1.5 MiB unless told otherwise.
const INPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What one run of the program works with.
#[derive(Debug)]
pub(crate) struct Session {
    pub client: Client,
    pub output: Output,
    /// Nobody named the endpoints: they are those of a local cluster.
    pub are_defaults: bool,
    pub command: Command,
}

/// Runs the session's command.
pub(crate) async fn run(session: Arc<Session>) -> Result<(), Failure> {
    dispatch(&session).await
}

/// Boxed: the commands' futures are of very different sizes.
fn dispatch(session: &Session) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + '_>> {
    match &session.command {
        Command::Status(whom) | Command::Endpoint(EndpointCommand::Status(whom)) => {
            Box::pin(status::run(session, *whom))
        }
        Command::Endpoint(EndpointCommand::Health(whom)) => Box::pin(check::health(session, *whom)),
        Command::Endpoint(EndpointCommand::Hashkv(args)) => Box::pin(check::hash(session, args)),
        Command::Member(MemberCommand::List) => Box::pin(member::list(session)),
        Command::MoveLeader(args) => Box::pin(member::move_leader(session, args)),
        Command::Get(args) => Box::pin(keys::get(session, args)),
        Command::Put(args) => Box::pin(keys::put(session, args)),
        Command::Del(args) => Box::pin(keys::del(session, args)),
        Command::Compact(args) => Box::pin(keys::compact(session, args)),
        Command::Watch(args) => Box::pin(watch::run(session, args)),
        Command::Txn => Box::pin(txn::run(session)),
        Command::Lease(LeaseCommand::Grant(args)) => Box::pin(lease::grant(session, args)),
        Command::Lease(LeaseCommand::KeepAlive(args)) => Box::pin(lease::keep_alive(session, args)),
        Command::Lease(LeaseCommand::Revoke { id }) => Box::pin(lease::revoke(session, *id)),
        Command::Lease(LeaseCommand::List(args)) => Box::pin(lease::list(session, args)),
        Command::Lease(LeaseCommand::Show(args)) => Box::pin(lease::show(session, args)),
        Command::Elect(args) => Box::pin(election::elect(session, args)),
        Command::Observe(args) => Box::pin(election::observe(session, args)),
        Command::Resign(args) => Box::pin(election::resign(session, args)),
        Command::Lock(args) => Box::pin(lock::lock(session, args)),
        Command::TryLock(args) => Box::pin(lock::try_lock(session, args)),
        Command::Locks(args) => Box::pin(locks::list(session, args)),
        Command::Unlock(args) => Box::pin(locks::unlock(session, args)),
        Command::Discovery(DiscoveryCommand::List(args)) => Box::pin(discovery::list(session, args)),
        Command::Discovery(DiscoveryCommand::Watch(args)) => Box::pin(discovery::watch(session, args)),
        Command::Discovery(DiscoveryCommand::Register(args)) => Box::pin(discovery::register(session, args)),
        Command::Explain(ExplainCommand::Lease { id }) => Box::pin(explain::lease(session, *id)),
        Command::Alarm(AlarmCommand::List) => Box::pin(alarm::list(session)),
        Command::Alarm(AlarmCommand::Disarm) => Box::pin(alarm::disarm(session)),
        Command::Snapshot(SnapshotCommand::Save { file }) => Box::pin(snapshot::save(session, file)),
        Command::Version(whom) => Box::pin(version::run(session, *whom)),
        Command::Bench(args) => Box::pin(bench::run(session, args)),
        Command::Completions { shell } => Box::pin(std::future::ready(completions::run(session, *shell))),
    }
}

/// Reads all of a file or of stdin, up to a limit.
fn read_input(name: &str, input: impl Read) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    let mut limited: Take<_> = input.take(INPUT_BYTES_MAX + 1);
    limited.read_to_end(&mut bytes).map_err(|error| Failure::Local(format!("cannot read {name}: {error}")))?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(Failure::Local(format!("{name} holds more than {} MiB", INPUT_BYTES_MAX >> 20)));
    }
    Ok(Bytes::from(bytes))
}
