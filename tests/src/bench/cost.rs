//! What a run costs the servers: CPU, bytes written, memory; all nodes together, read from `/proc`.

use std::cell::RefCell;
use std::fs;
use std::time::Duration;

use tenure_bench::{Failure, Observer};

/// Linux counts process times in ticks of 1/100 s on every platform that we build for.
const TICK: Duration = Duration::from_millis(10);

/// What processes have used up so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// By the scheduler, in nanoseconds, of the threads that still live.
    scheduled: Duration,
    /// User and system time, to a tick for each process.
    ticked: Duration,
    processes: u32,
    pub written_bytes: u64,
    pub resident_bytes: u64,
}

impl Cost {
    /// Of processes by their ids. What cannot be read counts as nothing: a process may have been killed by the work.
    pub fn of(pids: &[u32]) -> Cost {
        pids.iter().fold(Cost::default(), |sum, pid| {
            let one = Cost::of_one(*pid).unwrap_or_default();
            Cost {
                scheduled: sum.scheduled + one.scheduled,
                ticked: sum.ticked + one.ticked,
                processes: sum.processes + 1,
                written_bytes: sum.written_bytes + one.written_bytes,
                resident_bytes: sum.resident_bytes + one.resident_bytes,
            }
        })
    }

    fn of_one(pid: u32) -> Option<Cost> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
        let stat = read("stat")?;
        // The second field is the program's name in parentheses and may hold spaces: count from behind it.
        let (_, rest) = stat.rsplit_once(')')?;
        let ticks: u32 = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
        let number = |name: &str, key: &str| -> Option<u64> {
            let text = read(name)?;
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Cost {
            scheduled: scheduled(pid),
            ticked: TICK * ticks,
            processes: 1,
            // Not every kernel lets it be read.
            written_bytes: number("io", "write_bytes:").unwrap_or(0),
            resident_bytes: number("status", "VmRSS:")? * 1024,
        })
    }

    /// CPU time since an earlier reading.
    pub fn cpu_since(&self, before: &Cost) -> Duration {
        let scheduled = self.scheduled.saturating_sub(before.scheduled);
        // Threads that ended took their nanoseconds along; the ticks still have them.
        let ticked = self.ticked.saturating_sub(before.ticked);
        scheduled.max(ticked.saturating_sub(TICK * self.processes))
    }

    /// Bytes written since an earlier reading.
    pub fn written_since(&self, before: &Cost) -> u64 {
        self.written_bytes.saturating_sub(before.written_bytes)
    }
}

fn scheduled(pid: u32) -> Duration {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let nanos = tasks.flatten().filter_map(|task| {
        // A thread may end while it is looked at.
        let times = fs::read_to_string(task.path().join("schedstat")).ok()?;
        times.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Reads the cost of some processes at the begin and the end of a measurement.
#[derive(Debug, Default)]
pub struct Meter {
    pids: Vec<u32>,
    before: RefCell<Cost>,
    after: RefCell<Option<Cost>>,
}

impl Meter {
    pub fn new(pids: Vec<u32>) -> Meter {
        Meter { pids, ..Meter::default() }
    }

    /// Both readings, once the measurement is over.
    pub fn readings(&self) -> Option<(Cost, Cost)> {
        Some((*self.before.borrow(), (*self.after.borrow())?))
    }
}

impl Observer for Meter {
    fn begun(&self) {
        self.before.replace(Cost::of(&self.pids));
    }

    fn ended(&self) {
        self.after.replace(Some(Cost::of(&self.pids)));
    }

    fn first_failure(&self, failure: &Failure) {
        println!("  the first request that failed: {failure}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_costs_more_and_more() {
        let pids = [std::process::id()];
        let before = Cost::of(&pids);
        let mut number = 1_u64;
        while Cost::of(&pids).cpu_since(&before) < Duration::from_millis(20) {
            number = std::hint::black_box(number.wrapping_mul(31));
        }
        let after = Cost::of(&pids);
        assert!(after.resident_bytes > 100_000 && after.written_bytes >= before.written_bytes);
        assert_eq!(before.cpu_since(&after), Duration::ZERO);
    }

    #[test]
    fn a_process_that_is_gone_costs_nothing() {
        assert_eq!(Cost::of(&[u32::MAX]).resident_bytes, 0);
    }
}
