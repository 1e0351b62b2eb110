//! What the kernel counts of this process, under the names that Prometheus' own client libraries give it. etcd has them too:
//! dashboards, and `etcdctl check datascale`, look for them.

use std::fs;

/// A value and its metric.
#[derive(Debug, PartialEq)]
pub(super) struct Reading {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) is_counter: bool,
    pub(super) value: f64,
}

/// What can be read; on a system without `/proc`, nothing.
pub(super) fn readings() -> Vec<Reading> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{file}")).unwrap_or_default();
    let mut readings = of_stat(
        &read("self/stat"),
        &read("stat"),
        rustix::param::clock_ticks_per_second(),
        rustix::param::page_size() as u64,
    );
    let files = fs::read_dir("/proc/self/fd").map(|entries| entries.count().saturating_sub(1));
    // The directory that is read is one of them.
    readings.extend(files.ok().map(|count| gauge("process_open_fds", "Open files and connections.", count as f64)));
    let max = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    readings.extend(max.map(|max| gauge("process_max_fds", "How many there may be.", max as f64)));
    readings
}

/// From the lines of `/proc/self/stat` and `/proc/stat`. None if they are not as they should be.
fn of_stat(of_process: &str, of_system: &str, ticks_per_second: u64, page_bytes: u64) -> Vec<Reading> {
    // The program's name stands in parentheses and may hold anything.
    let Some((_, fields)) = of_process.rsplit_once(") ") else { return Vec::new() };
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    // Numbered as in proc(5), where the state, which is the first here, is the third.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let seconds = |ticks: u64| ticks as f64 / ticks_per_second as f64;
    let booted = of_system.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok());
    let (Some(user), Some(system), Some(started)) = (field(14), field(15), field(22)) else { return Vec::new() };
    let (Some(virtual_bytes), Some(resident_pages)) = (field(23), field(24)) else { return Vec::new() };
    let cpu = Reading {
        name: "process_cpu_seconds_total",
        help: "User and system CPU time spent in seconds.",
        is_counter: true,
        value: seconds(user + system),
    };
    let resident = resident_pages.saturating_mul(page_bytes) as f64;
    let mut readings = vec![
        cpu,
        gauge("process_resident_memory_bytes", "Resident memory size in bytes.", resident),
        gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", virtual_bytes as f64),
    ];
    let since_epoch = booted.map(|booted| booted as f64 + seconds(started));
    let help = "Start time of the process since unix epoch in seconds.";
    readings.extend(since_epoch.map(|since| gauge("process_start_time_seconds", help, since)));
    readings
}

fn gauge(name: &'static str, help: &'static str, value: f64) -> Reading {
    Reading { name, help, is_counter: false, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 1000 8192000 300 18446744073709551615 1";

    #[test]
    fn the_fields_are_those_of_the_manual() {
        let readings = of_stat(STAT, "cpu 1 2\nbtime 1700000000\n", 100, 4096);
        let values: Vec<(&str, f64)> = readings.iter().map(|reading| (reading.name, reading.value)).collect();
        assert_eq!(
            values,
            [
                ("process_cpu_seconds_total", 3.0),
                ("process_resident_memory_bytes", 1_228_800.0),
                ("process_virtual_memory_bytes", 8_192_000.0),
                ("process_start_time_seconds", 1_700_000_010.0),
            ]
        );
        assert_eq!(of_stat(STAT, "", 100, 4096).len(), 3, "a system that does not say when it started");
        for cut in 0..STAT.len() - 30 {
            assert!(of_stat(&STAT[..cut], "btime x", 100, 4096).is_empty(), "{}", &STAT[..cut]);
        }
    }

    #[test]
    fn this_process_has_all_of_them() {
        let readings = readings();
        assert_eq!(readings.len(), 6, "{readings:?}");
        let of = |name: &str| readings.iter().find(|reading| reading.name == name).map_or(0.0, |reading| reading.value);
        assert!(of("process_resident_memory_bytes") > 1e6 && of("process_open_fds") > 2.0, "{readings:?}");
        assert!(of("process_start_time_seconds") > 1.7e9 && of("process_max_fds") > 2.0, "{readings:?}");
    }
}
