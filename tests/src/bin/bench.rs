//! `bench load`: one run of the load generator against servers that run already.
//! `bench compare`: three nodes of etcd and three of tenured, one cluster after the other, the same loads, one table.
//!
//! In `compare` every program gets a fresh cluster per round and the rounds alternate, because a machine's speed drifts
//! by more within an hour than many differences that one wants to see. The table shows medians and, in brackets, the range.
#![expect(clippy::print_stdout, reason = "the table is the product")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tenure_tests::binaries::Program;
use tenure_tests::cluster::{Cluster, LEADER_PATIENCE};
use tenure_tests::load::{self, Load, Operation, Report};

const HELP: &str = "\
usage: bench load    [--endpoints HOST:PORT,…] [--clients 1000] [--conns 100] [--total 100000]
                     [--key-size 8] [--val-size 256] [--keys 1000000] [--op put|range|mixed]
       bench compare [--rounds 3] [--total 60000] [--total-one 2000] [--programs etcd,tenured] [--dir DIR]
                     [--key-size 8] [--val-size 256] [--flags '--x=y …' for tenured]

compare takes the programs from ETCD_BIN and TENURED_BIN.";

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match mode.as_str() {
        "load" => runtime.block_on(run_load(&Options::parse(arguments)?)),
        "compare" => runtime.block_on(run_compare(&Options::parse(arguments)?)),
        "--help" | "-h" | "help" => {
            println!("{HELP}");
            Ok(())
        }
        _ => bail!("{HELP}"),
    }
}

/// Flags of the form `--name value`.
struct Options(BTreeMap<String, String>);

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        const KNOWN: [&str; 13] = [
            "endpoints",
            "clients",
            "conns",
            "total",
            "total-one",
            "key-size",
            "val-size",
            "keys",
            "op",
            "rounds",
            "programs",
            "dir",
            "flags",
        ];
        let mut options = BTreeMap::new();
        let mut arguments = arguments;
        while let Some(flag) = arguments.next() {
            let name = flag.strip_prefix("--").filter(|name| KNOWN.contains(name));
            let name = name.with_context(|| format!("unknown option {flag}\n{HELP}"))?;
            let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
            options.insert(name.to_owned(), value);
        }
        Ok(Self(options))
    }

    fn text(&self, name: &str, default: &str) -> String {
        self.0.get(name).cloned().unwrap_or_else(|| default.to_owned())
    }

    fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T> {
        match self.0.get(name) {
            None => Ok(default),
            Some(text) => text.parse().ok().with_context(|| format!("--{name} {text}: not a number in range")),
        }
    }
}

async fn run_load(options: &Options) -> Result<()> {
    let endpoints = options.text("endpoints", "127.0.0.1:2379");
    let load = Load {
        endpoints: endpoints.split(',').map(|endpoint| endpoint.trim_start_matches("http://").to_owned()).collect(),
        clients: options.number("clients", 1_000)?,
        connections: options.number("conns", 100)?,
        total: options.number("total", 100_000)?,
        key_bytes: options.number("key-size", 8)?,
        value_bytes: options.number("val-size", 256)?,
        fresh_values: false,
        keys: options.number("keys", 1_000_000)?,
        operation: match options.text("op", "put").as_str() {
            "put" => Operation::Put,
            "range" => Operation::Range,
            "mixed" => Operation::Mixed,
            other => bail!("--op {other}: put, range or mixed"),
        },
    };
    let report = load::run(&load).await?;
    println!(
        "{} requests in {:.2} s: {:.0}/s, mean {:.2} ms, p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms, client CPU {:.1} us each",
        report.requests,
        report.elapsed.as_secs_f64(),
        report.rate(),
        millis(report.mean),
        millis(report.p50),
        millis(report.p99),
        millis(report.max),
        report.client_cpu.as_secs_f64() * 1e6
    );
    Ok(())
}

/// One workload of the comparison.
struct Work {
    label: &'static str,
    clients: usize,
    connections: usize,
    total: u64,
    operation: Operation,
}

/// One measured cell.
#[derive(Clone, Copy)]
struct Sample {
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
    server_cpu_us: f64,
    client_cpu_us: f64,
}

async fn run_compare(options: &Options) -> Result<()> {
    let total: u64 = options.number("total", 60_000)?;
    let total_one: u64 = options.number("total-one", 2_000)?;
    let rounds: usize = options.number("rounds", 3)?;
    let work = [
        Work { label: "put, 1000 clients", clients: 1_000, connections: 100, total, operation: Operation::Put },
        Work { label: "put, 1 client", clients: 1, connections: 1, total: total_one, operation: Operation::Put },
        Work { label: "range, 1000 clients", clients: 1_000, connections: 100, total, operation: Operation::Range },
        Work { label: "range, 1 client", clients: 1, connections: 1, total: total_one, operation: Operation::Range },
    ];
    let mut programs = Vec::new();
    for name in options.text("programs", "etcd,tenured").split(',') {
        programs.push(match name {
            "etcd" => Program::Etcd,
            "tenured" => Program::Tenured,
            other => bail!("--programs {other}: etcd or tenured"),
        });
    }
    let mut samples: BTreeMap<(usize, &str), Vec<Sample>> = BTreeMap::new();
    for round in 1..=rounds {
        // What else the machine is doing: rates mean little beside other work, CPU per request still does.
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        println!("round {round} of {rounds}, load average {}", load.split_whitespace().next().unwrap_or("unknown"));
        for program in &programs {
            for (at, sample) in measure(*program, &work, options).await?.into_iter().enumerate() {
                println!("round {round}, {:8} {:20} {}", program.label(), work[at].label, sample.line());
                samples.entry((at, program.label())).or_default().push(sample);
            }
        }
    }
    print_table(&work, &programs, &samples);
    Ok(())
}

async fn measure(program: Program, work: &[Work], options: &Options) -> Result<Vec<Sample>> {
    let folder = match options.0.get("dir") {
        Some(dir) => tempfile::tempdir_in(PathBuf::from(dir))?,
        None => tempfile::tempdir()?,
    };
    let flags = options.text("flags", "");
    let flags: Vec<&str> = if program == Program::Tenured { flags.split_whitespace().collect() } else { Vec::new() };
    let mut cluster = Cluster::with_flags(program, 3, folder.path(), &flags)?;
    cluster.start_all().await?;
    let leader = cluster.wait_leader(LEADER_PATIENCE).await?;
    let mut load = Load {
        endpoints: vec![format!("127.0.0.1:{}", cluster.nodes[leader].client_port)],
        clients: 100,
        connections: 100,
        total: 5_000,
        key_bytes: options.number("key-size", 8)?,
        value_bytes: options.number("val-size", 256)?,
        fresh_values: false,
        keys: u64::MAX,
        operation: Operation::Put,
    };
    load::run(&load).await.context("warming up")?;
    let mut samples = Vec::new();
    for work in work {
        load.clients = work.clients;
        load.connections = work.connections;
        load.total = work.total;
        load.operation = work.operation;
        let before = cluster.cpu()?;
        let report = load::run(&load).await.with_context(|| format!("{}: {}", program.label(), work.label))?;
        samples.push(Sample::new(&report, cluster.cpu()?.saturating_sub(before)));
    }
    let leader_now = cluster.wait_leader(LEADER_PATIENCE).await?;
    if leader_now != leader {
        bail!("the leader of {} moved during the run: its figures are not comparable", program.label());
    }
    Ok(samples)
}

impl Sample {
    fn new(report: &Report, server_cpu: Duration) -> Self {
        let requests = f64::from(u32::try_from(report.requests).unwrap_or(u32::MAX));
        Self {
            rate: report.rate(),
            p50_ms: millis(report.p50),
            p99_ms: millis(report.p99),
            server_cpu_us: server_cpu.as_secs_f64() * 1e6 / requests,
            client_cpu_us: report.client_cpu.as_secs_f64() * 1e6,
        }
    }

    fn line(&self) -> String {
        format!(
            "{:8.0}/s  p50 {:7.2} ms  p99 {:7.2} ms  server CPU {:7.1} us  client CPU {:5.1} us",
            self.rate, self.p50_ms, self.p99_ms, self.server_cpu_us, self.client_cpu_us
        )
    }
}

fn print_table(work: &[Work], programs: &[Program], samples: &BTreeMap<(usize, &str), Vec<Sample>>) {
    println!(
        "\n| work | program | requests/s | p99 ms | server CPU us per request (all nodes) |\n|---|---|---|---|---|"
    );
    let columns: [fn(&Sample) -> f64; 3] = [|s| s.rate, |s| s.p99_ms, |s| s.server_cpu_us];
    for (at, work) in work.iter().enumerate() {
        let mut medians = Vec::new();
        for program in programs {
            let Some(cell) = samples.get(&(at, program.label())) else { continue };
            let sorted = columns.map(|column| {
                let mut values: Vec<f64> = cell.iter().map(column).collect();
                values.sort_by(f64::total_cmp);
                values
            });
            let [rate, p99, cpu] = sorted.each_ref().map(|values| values[values.len() / 2]);
            let [rates, p99s, cpus] =
                sorted.each_ref().map(|values| format!("({}–{})", figure(values[0]), figure(values[values.len() - 1])));
            println!(
                "| {} | {} | {} {rates} | {} {p99s} | {} {cpus} |",
                work.label,
                program.label(),
                figure(rate),
                figure(p99),
                figure(cpu)
            );
            medians.push([rate, p99, cpu]);
        }
        if let [etcd, tenured] = medians[..] {
            let [rate, p99, cpu] = [0, 1, 2].map(|column| tenured[column] / etcd[column]);
            println!("| | **ratio** | **{rate:.2} ×** | **{p99:.2} ×** | **{cpu:.2} ×** |");
        }
    }
}

fn figure(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
