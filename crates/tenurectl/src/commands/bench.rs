//! `bench`: turns the command line into a run of the load generator, and shows how far it is.
//!
//! The run has a thread of its own. Meanwhile this one waits for Ctrl-C: the first ends the run before its time, with a
//! report of what was done until then; the second ends the program.

use std::io::{IsTerminal as _, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tenure_bench::workload::{
    Failover, LeaseExpire, LeaseGrant, LeaseKeepalive, LeaseRevoke, Lock, LockApi, Put, Range, Restart, Trigger,
    TxnMixed, TxnPut, Watch, WatchCatchUp, WatchLatency,
};
use tenure_bench::{Amount, Error, Keys, Observer, Order, Progress, Settings, Workload};

use super::Session;
use super::bench_view::Measured;
use crate::arguments::bench::{BenchArgs, BenchCommand, DataArgs, KeyOrder, LoadArgs, LockWay, ReadConsistency};
use crate::failure::Failure;
use crate::output::Output;
use crate::stop;

/// Ended by Ctrl-C, as shells say it.
const INTERRUPTED: u8 = 130;

pub(super) async fn run(session: &Session, args: &BenchArgs) -> Result<(), Failure> {
    let workload = workload(&args.workload);
    let settings = settings(session, load(&args.workload))?;
    let is_stopped = Arc::new(AtomicBool::new(false));
    let observer = Bar::new(session.output, is_stopped.clone());
    let measuring = tokio::task::spawn_blocking(move || tenure_bench::run_on_thread(workload, settings, observer));
    let stopping = async {
        stop::asked().await;
        is_stopped.store(true, Ordering::Relaxed);
        stop::asked().await;
    };
    let measured = tokio::select! {
        measured = measuring => measured,
        () = stopping => return Err(Failure::Passed(INTERRUPTED)),
    };
    let report = match measured {
        Ok(report) => report.map_err(failure)?,
        Err(error) => return Err(Failure::Local(format!("the run ended without a report: {error}"))),
    };
    let (failed, all) = (report.failed, report.failed + report.operations);
    session.output.show(&Measured(report))?;
    if failed == 0 { Ok(()) } else { Err(Failure::Unhealthy(format!("{failed} of {all} operations failed"))) }
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Settings(words) => Failure::Usage(words),
        Error::Preparation { .. } | Error::Local(_) => Failure::Local(error.to_string()),
    }
}

fn settings(session: &Session, load: &LoadArgs) -> Result<Settings, Failure> {
    let endpoints: Vec<String> = session.client.endpoints().map(ToString::to_string).collect();
    if let Some(socket) = endpoints.iter().find(|endpoint| endpoint.starts_with("unix:")) {
        return Err(Failure::Usage(format!("{socket}: bench speaks to HOST:PORT alone")));
    }
    Ok(Settings {
        endpoints,
        leader_only: load.leader_only,
        clients: load.clients,
        connections: load.conns.unwrap_or(load.clients.div_ceil(10)),
        amount: load.total.map_or(Amount::Time(load.seconds), Amount::Total),
        warm_up: load.warm_up,
        rate: load.rate,
        patience: load.patience,
    })
}

fn load(command: &BenchCommand) -> &LoadArgs {
    match command {
        BenchCommand::Put(args) => &args.load,
        BenchCommand::Range(args) => &args.load,
        BenchCommand::TxnPut(args) => &args.load,
        BenchCommand::TxnMixed(args) => &args.load,
        BenchCommand::LeaseGrant(args) => &args.load,
        BenchCommand::LeaseKeepalive(args) => &args.load,
        BenchCommand::LeaseExpire(args) => &args.load,
        BenchCommand::LeaseRevoke(args) => &args.load,
        BenchCommand::Lock(args) => &args.load,
        BenchCommand::Watch(args) => &args.load,
        BenchCommand::WatchLatency(args) => &args.load,
        BenchCommand::WatchCatchUp(args) => &args.load,
        BenchCommand::Failover(args) => &args.load,
        BenchCommand::Restart(args) => &args.load,
    }
}

fn workload(command: &BenchCommand) -> Workload {
    match command {
        BenchCommand::Put(args) => {
            let fresh_values = !args.same_value;
            Workload::Put(Put { keys: keys(&args.data), value_bytes: args.data.val_size, fresh_values })
        }
        BenchCommand::Range(args) => Workload::Range(Range {
            keys: keys(&args.data),
            value_bytes: args.data.val_size,
            fill: !args.no_fill,
            serializable: args.consistency == ReadConsistency::Serializable,
            whole: args.prefix,
            keys_only: args.keys_only,
            count_only: args.count_only,
            page: args.limit,
            old_revision: args.old_revision,
            revision: args.rev,
        }),
        BenchCommand::TxnPut(args) => {
            let (keys, value_bytes) = (keys(&args.data), args.data.val_size);
            Workload::TxnPut(TxnPut { keys, value_bytes, fresh_values: true, operations: args.ops })
        }
        BenchCommand::TxnMixed(args) => Workload::TxnMixed(TxnMixed {
            keys: keys(&args.data),
            value_bytes: args.data.val_size,
            read_share: args.read_share,
            serializable: args.consistency == ReadConsistency::Serializable,
            compare: args.compare,
            fill: !args.no_fill,
        }),
        BenchCommand::Lock(args) => {
            let api = match args.api {
                LockWay::V3lock => LockApi::V3lock,
                LockWay::Recipe => LockApi::Recipe,
                LockWay::Native => LockApi::Native,
            };
            Workload::Lock(Lock { api, locks: args.locks, prefix: args.name_prefix.clone(), ttl: args.ttl })
        }
        other => lease_or_watch(other),
    }
}

fn lease_or_watch(command: &BenchCommand) -> Workload {
    match command {
        BenchCommand::LeaseGrant(args) => Workload::LeaseGrant(LeaseGrant { ttl: args.ttl }),
        BenchCommand::LeaseKeepalive(args) => {
            Workload::LeaseKeepalive(LeaseKeepalive { ttl: args.ttl, streams: args.streams })
        }
        BenchCommand::LeaseExpire(args) => {
            // One key for each lease, so at least as many as there are leases.
            let keys = Keys::new(&args.data.key_prefix, args.data.key_size, u64::MAX, Order::Sequential);
            Workload::LeaseExpire(LeaseExpire { keys, ttl: args.ttl })
        }
        BenchCommand::LeaseRevoke(args) => Workload::LeaseRevoke(LeaseRevoke {
            keys: keys(&args.data),
            value_bytes: args.data.val_size,
            attached: args.attached,
        }),
        BenchCommand::Watch(args) => Workload::Watch(Watch {
            keys: keys(&DataArgs { keys: args.watched_keys, ..args.data.clone() }),
            value_bytes: args.data.val_size,
            watchers: args.watchers,
            streams: args.streams,
            prefix: args.prefix,
            ahead: args.ahead,
        }),
        BenchCommand::WatchLatency(args) => {
            Workload::WatchLatency(WatchLatency { keys: keys(&args.data), value_bytes: args.data.val_size })
        }
        BenchCommand::WatchCatchUp(args) => {
            let (keys, value_bytes) = (keys(&args.data), args.data.val_size);
            Workload::WatchCatchUp(WatchCatchUp { keys, value_bytes, history: args.history })
        }
        BenchCommand::Failover(args) => Workload::Failover(Failover {
            keys: keys(&args.data),
            value_bytes: args.data.val_size,
            trigger: Trigger::Command(args.command.clone()),
            after: args.after,
            probe_interval: args.probe_interval,
            attempt: args.attempt,
        }),
        BenchCommand::Restart(args) => {
            Workload::Restart(Restart { trigger: Trigger::Command(args.command.clone()), key: args.key.clone() })
        }
        BenchCommand::Put(_)
        | BenchCommand::Range(_)
        | BenchCommand::TxnPut(_)
        | BenchCommand::TxnMixed(_)
        | BenchCommand::Lock(_) => workload(command),
    }
}

fn keys(data: &DataArgs) -> Keys {
    let order = match data.order {
        KeyOrder::Sequential => Order::Sequential,
        KeyOrder::Random => Order::Random,
        KeyOrder::Zipf => Order::Zipf,
    };
    Keys::new(&data.key_prefix, data.key_size, data.keys, order)
}

/// Shows on stderr how far the run is, if that is a terminal.
struct Bar {
    bar: ProgressBar,
    output: Output,
    is_stopped: Arc<AtomicBool>,
}

impl Bar {
    fn new(output: Output, is_stopped: Arc<AtomicBool>) -> Bar {
        let target = if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(1), target);
        // A bar without its form still counts.
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}") {
            bar.set_style(style);
        }
        Bar { bar, output, is_stopped }
    }
}

impl Observer for Bar {
    fn stage(&self, words: &str) {
        self.bar.set_message(words.to_owned());
        self.bar.tick();
    }

    fn ended(&self) {
        self.bar.finish_and_clear();
    }

    fn progress(&self, progress: &Progress) {
        let (position, length) = match (progress.total, progress.time) {
            (Some(total), _) => (progress.operations + progress.failed, total),
            (None, time) => (millis(progress.elapsed), time.map_or(1, millis)),
        };
        self.bar.set_length(length.max(1));
        self.bar.set_position(position.min(length));
        let latest = progress.latest.map(|(rate, p99)| format!(", {rate} per s, p99 {p99:.2} ms"));
        let failed = (progress.failed > 0).then(|| format!(", {} failed", progress.failed));
        let words = [Some(format!("{} done", progress.operations)), latest, failed];
        self.bar.set_message(words.into_iter().flatten().collect::<String>());
    }

    fn first_failure(&self, failure: &tenure_bench::Failure) {
        let words = format!("tenurectl: the first request that failed: {failure}");
        self.bar.suspend(|| self.output.note(&words));
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::arguments::{Arguments, Command};

    fn read(line: &[&str]) -> (Workload, LoadArgs) {
        let arguments = Arguments::parse_from([&["tenurectl", "bench"], line].concat());
        let Command::Bench(args) = arguments.command else { panic!("another command") };
        (workload(&args.workload), load(&args.workload).clone())
    }

    #[test]
    fn every_workload_can_be_named() {
        for line in [
            &["put", "--clients=1000", "--conns=100", "--total=5", "--leader-only", "--order=zipf"][..],
            &["range", "--prefix", "--limit=500", "--old-revision", "--consistency=s"],
            &["txn-put", "--ops=10"],
            &["txn-mixed", "--read-share=0.5", "--compare"],
            &["lease-grant", "--ttl=10s"],
            &["lease-keepalive", "--streams=4"],
            &["lease-expire", "--total=100"],
            &["lease-revoke", "--total=100", "--attached=10"],
            &["lock", "--api=recipe", "--locks=1"],
            &["watch", "--watchers=10", "--streams=2", "--prefix"],
            &["watch-latency", "--rate=100"],
            &["watch-catch-up", "--history=10"],
            &["failover", "--command=true"],
            &["restart", "--command=true"],
        ] {
            let (workload, load) = read(line);
            let name = format!("{workload:?}").split(['(', ' ']).next().unwrap_or_default().to_lowercase();
            assert_eq!(name, line[0].replace('-', ""), "{line:?}");
            assert!(load.clients > 0);
        }
    }

    #[test]
    fn a_prefix_that_is_read_in_pages_is_what_it_says() {
        let (Workload::Range(range), _) = read(&["range", "--prefix", "--limit=500", "--keys=7"]) else {
            panic!("another workload")
        };
        assert_eq!((range.whole, range.page, range.keys.count, range.serializable), (true, Some(500), 7, false));
    }
}
