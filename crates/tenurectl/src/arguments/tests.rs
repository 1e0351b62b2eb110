//! What the command line accepts and refuses.

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};

use super::{Arguments, Command, DiscoveryCommand, LeaseCommand, LockCommand, TxnOperation};
use crate::ids::{LeaseId, Revision};
use crate::output::Format;

fn read(line: &[&str]) -> Result<Arguments, ErrorKind> {
    Arguments::try_parse_from([&["tenurectl"], line].concat()).map_err(|error| error.kind())
}

#[test]
fn the_definition_is_sound() {
    Arguments::command().debug_assert();
    <TxnOperation as clap::CommandFactory>::command().debug_assert();
}

#[test]
fn global_options_may_stand_before_and_after_the_command() {
    for line in [
        &["--endpoints", "n1:1,n2:2", "-o", "json", "get", "k"][..],
        &["get", "k", "--endpoints=n1:1,n2:2", "--output=json"],
        &["get", "--endpoints=n1:1,n2:2", "k", "-ojson"],
    ] {
        let arguments = read(line).expect("a command line");
        assert_eq!(arguments.connection.endpoints.map(|list| list.0.len()), Some(2), "{line:?}");
        assert_eq!(arguments.display.output, Format::Json, "{line:?}");
    }
}

#[test]
fn etcdctls_spellings_work() {
    for line in [
        &["get", "a", "z", "--order=DESCEND", "--sort-by=MODIFY", "--limit=3", "--consistency=s", "--print-value-only"]
            [..],
        &["get", "", "--prefix", "--keys-only", "--rev=7"],
        &["get", "", "--from-key", "--count-only"],
        &["put", "k", "v", "--lease=694d8f1e2a3b4c05", "--prev-kv"],
        &["put", "k", "--ignore-value", "--lease=1"],
        &["put", "k", "v", "--ignore-lease"],
        &["put", "k", "--", "-v"],
        &["put", "k", "-5"],
        &["del", "a", "z", "--prev-kv"],
        &["del", "", "--from-key"],
        &["watch", "k", "--prefix", "--rev=3", "--prev-kv", "--progress-notify"],
        &["compaction", "7", "--physical"],
        &["lease", "keep-alive", "1f", "--once"],
        &["lease", "keepalive", "1f"],
        &["lease", "timetolive", "1f", "--keys"],
        &["move-leader", "8e9e05c52164694d"],
        &["alarm", "disarm"],
        &["snapshot", "save", "backup.db"],
        &["endpoint", "health", "--cluster"],
        &["endpoint", "hashkv", "--rev=7"],
        &["member", "list"],
        &["completions", "bash"],
        &["txn"],
        &["lock", "a", "--ttl=60"],
    ] {
        assert!(read(line).is_ok(), "{line:?}: {:?}", read(line).err());
    }
}

#[test]
fn instances_are_listed_by_kind_and_registered_with_metadata() {
    let command = |line: &[&str]| read(&[&["discovery"], line].concat()).expect("a command line").command;
    let kinds = ["list", "prod", "--kind=room", "--kind", "bot"];
    assert!(
        matches!(command(&kinds), Command::Discovery(DiscoveryCommand::List(args)) if args.kinds == ["room", "bot"])
    );
    assert!(command(&["watch", "prod"]).is_endless() && !command(&["list", "prod"]).is_endless());
    let line = ["register", "prod", "room", "room-7", "--addr=10.0.0.7:80", "--meta", "seats=8", "--meta=mode=ranked"];
    let Command::Discovery(DiscoveryCommand::Register(args)) = command(&line) else { panic!("another command") };
    assert_eq!(args.meta, [("seats".to_owned(), 8.into()), ("mode".to_owned(), "ranked".into())]);
    assert_eq!((args.ttl.as_secs(), args.no_replace, args.drain), (15, false, None));
    for line in [&["register", "prod", "room"][..], &["register", "prod", "room", "7", "--meta=x"], &["list"]] {
        assert!(read(&[&["discovery"], line].concat()).is_err(), "{line:?}");
    }
}

fn lock(line: &[&str]) -> super::LockArgs {
    match read(&[&["lock"], line].concat()).expect("a command line").command {
        Command::Lock(args) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lock_may_be_called_like_the_commands_below_lock() {
    assert!(matches!(lock(&["show", "a"]).below, Some(LockCommand::Show { name }) if name == "a"));
    assert!(
        matches!(lock(&["why", "show", "--limit=3"]).below, Some(LockCommand::Why { name, limit: 3 }) if name == "show")
    );
    assert!(matches!(lock(&["-ojson", "show", "a"]).below, Some(LockCommand::Show { .. })));
    for line in [&["--name", "show"][..], &["--name=show", "--", "why", "me"], &["--name=--show"]] {
        let args = lock(line);
        assert!(args.below.is_none() && args.is_claim(), "{line:?}");
    }
    // What does not go together is noticed by the command.
    assert!(!lock(&["show", "a"]).is_claim());
    assert!(lock(&["--ttl=5s", "show", "a"]).is_claim() && lock(&["b", "show", "a"]).is_claim());
}

#[test]
fn what_follows_two_dashes_is_a_command_with_options_of_its_own() {
    let args = lock(&["--ttl=5s", "a", "--try", "--", "tar", "--try", "-o", "json", "--", "x"]);
    assert_eq!(args.wanted().map(|name| name.to_string_lossy().into_owned()).as_deref(), Some("a"));
    assert!(args.patience.at_once && args.claim.ttl.is_some());
    assert_eq!(args.run, ["tar", "--try", "-o", "json", "--", "x"]);
    let args = lock(&["--name=show", "--", "ls", "-l"]);
    assert_eq!((args.wanted().is_some(), args.run.len()), (true, 2));
    assert!(matches!(read(&["try-lock", "show", "--", "ls", "-l"]).expect("a command line").command,
        Command::TryLock(args) if args.name == "show" && args.run.len() == 2));
}

#[test]
fn what_makes_no_sense_is_refused() {
    use ErrorKind::{ArgumentConflict, InvalidSubcommand, MissingRequiredArgument, UnknownArgument, ValueValidation};
    for (line, kind) in [
        (&["put", "k"][..], MissingRequiredArgument),
        (&["put", "k", "v", "--file", "f"], ArgumentConflict),
        (&["put", "k", "v", "--ignore-value"], ArgumentConflict),
        (&["get"], MissingRequiredArgument),
        (&["get", "a", "z", "--prefix"], ArgumentConflict),
        (&["get", "a", "--prefix", "--from-key"], ArgumentConflict),
        (&["get", "a", "--prefix", "--raw"], ArgumentConflict),
        (&["get", "a", "--rev", "-1"], UnknownArgument),
        (&["get", "a", "--rev=-1"], ValueValidation),
        (&["get", "a", "--limit=-1"], ValueValidation),
        (&["lease", "revoke", "xyz"], ValueValidation),
        (&["lease", "grant", "soon"], ValueValidation),
        (&["--endpoints=https://n1:1", "status"], ValueValidation),
        (&["--command-timeout=0", "status"], ValueValidation),
        (&["watchh", "k"], InvalidSubcommand),
        (&["lock"], MissingRequiredArgument),
        (&["lock", "show"], MissingRequiredArgument),
        (&["lock", "--", "ls"], MissingRequiredArgument),
        (&["lock", "a", "ls"], UnknownArgument),
        (&["lock", "a", "--name=b"], ArgumentConflict),
        (&["lock", "a", "--try", "--wait=1s"], ArgumentConflict),
        (&["lock", "a", "--shared", "--limit=3"], ArgumentConflict),
        (&["lock", "a", "--permits=3"], MissingRequiredArgument),
        (&["lock", "a", "--ttl=0"], ValueValidation),
        (&["lock", "why", "a", "--limit=0"], ValueValidation),
        (&["try-lock", "a", "--wait=1s"], UnknownArgument),
        (&["unlock", "a", "--reason=x"], MissingRequiredArgument),
        (&["unlock", "a", "--force"], MissingRequiredArgument),
    ] {
        assert_eq!(read(line).expect_err("an error"), kind, "{line:?}");
    }
}

#[test]
fn commands_tell_what_errors_are_about() {
    let command = |line: &[&str]| read(line).expect("a command line").command;
    assert_eq!(command(&["put", "k", "v", "--lease=1f"]).lease(), Some(LeaseId(31)));
    assert_eq!(command(&["lease", "revoke", "1f"]).lease(), Some(LeaseId(31)));
    assert_eq!(command(&["get", "k", "--rev=7"]).revision(), Some(Revision(7)));
    assert_eq!(command(&["compact", "7"]).revision(), Some(Revision(7)));
    assert!(command(&["watch", "k"]).is_endless() && command(&["lease", "keep-alive", "1"]).is_endless());
    assert!(!command(&["lease", "keep-alive", "1", "--once"]).is_endless());
    assert!(matches!(command(&["lease", "list"]), Command::Lease(LeaseCommand::List(_))));
}

#[test]
fn the_document_has_every_command_and_every_option() {
    let document = include_str!("../../../../docs/TENURECTL.md");
    let mut missing = Vec::new();
    let mut commands = vec![("tenurectl".to_owned(), Arguments::command())];
    while let Some((path, command)) = commands.pop() {
        let below: Vec<_> = command.get_subcommands().filter(|below| below.get_name() != "help").cloned().collect();
        if below.is_empty() && !document.contains(&path) {
            missing.push(path.clone());
        }
        let options =
            command.get_arguments().filter(|option| !option.is_hide_set()).filter_map(|option| option.get_long());
        missing.extend(options.map(|name| format!("--{name}")).filter(|option| !document.contains(option)));
        commands.extend(below.into_iter().map(|below| (format!("{path} {}", below.get_name()), below)));
    }
    assert!(missing.is_empty(), "docs/TENURECTL.md does not have {missing:?}");
}

#[test]
fn the_document_has_the_exit_codes_of_the_help() {
    let document = include_str!("../../../../docs/TENURECTL.md");
    let codes = super::EXIT_CODES.lines().filter_map(|line| line.strip_prefix("  ")?.split_once("  "));
    let wrong: Vec<_> = codes.filter(|(code, _)| !document.contains(&format!("| {code} | "))).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let before_keys = document.split("\n## Keys\n").next().expect("a text");
    assert_eq!(before_keys.matches("\n| ").count(), 11, "a row for each code, and the titles");
}
