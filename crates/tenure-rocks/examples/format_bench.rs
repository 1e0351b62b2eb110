//! Measures the on-disk format: what the state machine and RocksDB cost together, through `apply_group` and commit.
//!
//! `cargo run --release -p tenured -p tenure-rocks --example format_bench -- DIR [name=value]…`
//!
//! DIR must not exist; it is filled and left for inspection. Settings: keys, value_bytes, group, inline_bytes,
//! meta_cache_mib, block_cache_mib, memtable_mib, block_kib, blob_bytes (0 is off), compression (0 or 1), phases (a
//! comma-separated choice of order, random, get, list, count, purge; order is always done). CPU is that of all threads,
//! flushes and compactions until the engine rests included; building the commands is left out.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use tenure_core::codec::GroupBuilder;
use tenure_core::command::{Command, EntryPosition, GroupHeader, KeyRange, Put, Range};
use tenure_core::range::read_range;
use tenure_core::state::StateRead;
use tenure_core::{LeaseId, LogIndex, Revision, Term, apply_group};
use tenure_rocks::{RocksEngine, RocksOptions};
use tenure_storage::engine::Engine;
use tenure_storage::purge::{PurgeProgress, PurgeWork};
use tenure_storage::store::{Applied, Options, StateStore};

const LIST_KEYS: u64 = 10_000;
const LIST_VALUE_BYTES: usize = 1024;
const GETS: u64 = 300_000;

struct Settings {
    dir: PathBuf,
    keys: u64,
    value_bytes: usize,
    group: u64,
    phases: String,
    store: Options,
    rocks: RocksOptions,
}

fn main() -> Result<()> {
    let settings = settings()?;
    let engine: Arc<dyn Engine> = Arc::new(RocksEngine::open(&settings.dir, &settings.rocks)?);
    let store = StateStore::open_with(Arc::clone(&engine), settings.store)?;
    let mut bench = Bench { engine, store, dice: 0x2545_f491_4f6c_dd1d, group: settings.group };
    let phase = |name| settings.phases.split(',').any(|wanted| wanted == name);

    bench.puts("put in key order", settings.keys, settings.value_bytes, |n, _| key(n))?;
    if phase("random") {
        let keys = settings.keys;
        bench.puts("put at random", keys, settings.value_bytes, |_, dice| key(dice % keys))?;
    }
    if phase("get") {
        bench.gets(settings.keys)?;
    }
    if phase("count") {
        bench.count(settings.keys)?;
    }
    if phase("list") {
        bench.lists()?;
    }
    if phase("purge") {
        bench.purge()?;
    }
    let stats = bench.engine.stats();
    let mib = |bytes: u64| bytes >> 20;
    let logical = bench.store.view().bytes().logical;
    say(&format!("on disk {} MiB, logical {} MiB, resident {}", mib(stats.bytes_on_disk), mib(logical), resident()))
}

fn settings() -> Result<Settings> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().context("which directory?")?);
    let mut settings = Settings {
        dir,
        keys: 1_000_000,
        value_bytes: 256,
        group: 128,
        phases: "random,get,count,list,purge".into(),
        store: Options::default(),
        rocks: RocksOptions::default(),
    };
    for argument in arguments {
        let (name, text) = argument.split_once('=').context("settings are name=value")?;
        if name == "phases" {
            settings.phases = text.into();
            continue;
        }
        let value: usize = text.parse().with_context(|| argument.clone())?;
        match name {
            "keys" => settings.keys = value as u64,
            "value_bytes" => settings.value_bytes = value,
            "group" => settings.group = value as u64,
            "inline_bytes" => settings.store.inline_value_bytes_max = value,
            "meta_cache_mib" => settings.store.meta_cache_bytes_max = value << 20,
            "block_cache_mib" => settings.rocks.block_cache_bytes = value << 20,
            "memtable_mib" => settings.rocks.memtable_bytes = value << 20,
            "block_kib" => settings.rocks.block_bytes = value << 10,
            "blob_bytes" => settings.rocks.blob_value_bytes_min = (value > 0).then_some(value as u64),
            "compression" => settings.rocks.compression = value != 0,
            _ => bail!("there is no setting {name}"),
        }
    }
    Ok(settings)
}

struct Bench {
    engine: Arc<dyn Engine>,
    store: StateStore,
    dice: u64,
    group: u64,
}

impl Bench {
    fn roll(&mut self) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice
    }

    fn puts(
        &mut self,
        title: &str,
        count: u64,
        value_bytes: usize,
        mut key_of: impl FnMut(u64, u64) -> Bytes,
    ) -> Result<()> {
        let (cpu, wall) = (process_cpu(), wall_clock());
        let mut building = Duration::ZERO;
        let mut slowest = Duration::ZERO;
        let mut done = 0;
        while done < count {
            let start = thread_cpu();
            let commands: Vec<Command> = (done..count.min(done + self.group))
                .map(|number| {
                    let dice = self.roll();
                    put(key_of(number, dice), value(dice, value_bytes))
                })
                .collect();
            let group = group_of(&commands);
            building += thread_cpu() - start;
            let began = wall_clock();
            self.apply(&group)?;
            slowest = slowest.max(wall_clock() - began);
            done += commands.len() as u64;
        }
        let foreground = wall_clock() - wall;
        self.rest()?;
        let used = process_cpu() - cpu - building;
        say(&format!(
            "{title:<28} {:>6.2} us CPU  {:>6.2} us wall  slowest group {:>5.1} ms  ({count} x {value_bytes} B)",
            micros(used, count),
            micros(foreground, count),
            slowest.as_secs_f64() * 1e3
        ))
    }

    fn apply(&mut self, group: &Bytes) -> Result<()> {
        let mut applied: Applied = self.store.applied().clone();
        applied.index = LogIndex(applied.index.0 + 1);
        applied.term = Term(1);
        let mut run = self.store.begin();
        apply_group(&mut run, EntryPosition { index: applied.index, term: applied.term }, group)?;
        run.commit(applied)?;
        Ok(())
    }

    /// Flushes, and waits until compaction has nothing to do.
    fn rest(&mut self) -> Result<()> {
        self.engine.flush()?;
        let mut quiet = 0;
        while quiet < 3 {
            let before = process_cpu();
            std::thread::sleep(Duration::from_millis(100));
            let idle = process_cpu() - before < Duration::from_millis(5);
            quiet = if idle && self.engine.stats().bytes_pending_compaction == 0 { quiet + 1 } else { 0 };
        }
        Ok(())
    }

    fn gets(&mut self, keys: u64) -> Result<()> {
        for round in ["point get, first", "point get, again"] {
            let view = self.store.view();
            let (cpu, wall) = (process_cpu(), wall_clock());
            for _ in 0..GETS {
                let number = self.roll() % keys;
                view.current(&key(number))?.context("a key is missing")?;
            }
            say(&format!(
                "{round:<28} {:>6.2} us CPU  {:>6.2} us wall",
                micros(process_cpu() - cpu, GETS),
                micros(wall_clock() - wall, GETS)
            ))?;
        }
        Ok(())
    }

    fn count(&mut self, keys: u64) -> Result<()> {
        let view = self.store.view();
        let cpu = process_cpu();
        let mut request = range(b"key/", b"key0", Revision(0));
        request.count_only = true;
        let count = read_range(&*view, &request)?.map_err(anyhow::Error::new)?.count;
        anyhow::ensure!(count == i64::try_from(keys)?, "a count of {count}");
        say(&format!("{:<28} {:>6.2} us CPU per key", "count", micros(process_cpu() - cpu, keys)))
    }

    /// Keys written in a random order, so that the order of events is not the order of keys.
    fn lists(&mut self) -> Result<()> {
        let order = |n: u64| Bytes::from(format!("list/{:08}", n * 7919 % LIST_KEYS));
        self.puts("put of listed keys", LIST_KEYS, LIST_VALUE_BYTES, |n, _| order(n))?;
        let then = self.store.view().meta().revision;
        self.list("list 10,000 x 1 KiB now", Revision(0))?;
        self.puts("put of listed keys again", LIST_KEYS, LIST_VALUE_BYTES, |n, _| order(n * 3))?;
        self.list("list 10,000 x 1 KiB now", Revision(0))?;
        self.list("list 10,000 x 1 KiB then", then)
    }

    fn list(&mut self, title: &str, revision: Revision) -> Result<()> {
        let view = self.store.view();
        for round in ["first", "again"] {
            let (cpu, wall) = (process_cpu(), wall_clock());
            let kvs = read_range(&*view, &range(b"list/", b"list0", revision))?.map_err(anyhow::Error::new)?.kvs;
            anyhow::ensure!(kvs.len() as u64 == LIST_KEYS, "a list of {}", kvs.len());
            let (cpu, wall) = (process_cpu() - cpu, wall_clock() - wall);
            let (cpu, wall) = (cpu.as_secs_f64() * 1e3, wall.as_secs_f64() * 1e3);
            say(&format!("{title:<24} {round:<5} {cpu:>5.1} ms CPU  {wall:>5.1} ms wall"))?;
        }
        Ok(())
    }

    fn purge(&mut self) -> Result<()> {
        let now = self.store.view().meta().revision;
        self.apply(&group_of(&[Command::Compact(now)]))?;
        let before = self.store.view().bytes().logical;
        let (cpu, wall) = (process_cpu(), wall_clock());
        let mut slowest = Duration::ZERO;
        while let Some(mut work) = PurgeWork::plan(&self.store.view())? {
            loop {
                let began = wall_clock();
                let progress = self.store.purge_step(&mut work)?;
                slowest = slowest.max(wall_clock() - began);
                if progress != PurgeProgress::More {
                    break;
                }
            }
        }
        let foreground = wall_clock() - wall;
        self.rest()?;
        let events = u64::try_from(now.0 - 1)?;
        let freed = (before - self.store.view().bytes().logical) >> 20;
        say(&format!(
            "{:<28} {:>6.2} us CPU  {:>6.2} us wall per event, slowest step {:.1} ms, freed {freed} MiB",
            "compact and purge all",
            micros(process_cpu() - cpu, events),
            micros(foreground, events),
            slowest.as_secs_f64() * 1e3
        ))
    }
}

fn group_of(commands: &[Command]) -> Bytes {
    let mut builder = GroupBuilder::new(GroupHeader::default());
    for command in commands {
        builder.push(&command.encode());
    }
    builder.finish()
}

fn put(key: Bytes, value: Bytes) -> Command {
    let lease = LeaseId::NONE;
    Command::Put(Put { key, value, lease, prev_kv: false, ignore_value: false, ignore_lease: false })
}

fn range(start: &'static [u8], end: &'static [u8], revision: Revision) -> Range {
    let range = KeyRange::Between(Bytes::from_static(start), Bytes::from_static(end));
    Range { revision, ..Range::of(range) }
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("key/{number:012}"))
}

/// Half of it compresses.
fn value(mut dice: u64, bytes: usize) -> Bytes {
    let mut value = vec![b'.'; bytes];
    for chunk in value.chunks_mut(16) {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let length = chunk.len().min(8);
        chunk[..length].copy_from_slice(&dice.to_le_bytes()[..length]);
    }
    Bytes::from(value)
}

fn process_cpu() -> Duration {
    clock(ClockId::ProcessCPUTime)
}

fn thread_cpu() -> Duration {
    clock(ClockId::ThreadCPUTime)
}

fn wall_clock() -> Duration {
    clock(ClockId::Monotonic)
}

fn clock(id: ClockId) -> Duration {
    Duration::try_from(clock_gettime(id)).expect("invariant: these clocks do not run before 0")
}

fn micros(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    line.map_or_else(|| "unknown".into(), |line| line.trim_start_matches("VmHWM:").trim().to_owned())
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
