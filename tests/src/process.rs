//! Processes of this machine by their ids: signals, and what `/proc` tells of them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Linux counts process times in ticks of 1/100 s on every platform that we build for.
pub const TICK: Duration = Duration::from_millis(10);

/// Sends a signal.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("no process has this id")?;
    Ok(kill_process(pid, signal)?)
}

/// User and system CPU time so far, in whole ticks.
pub fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in parentheses and may hold spaces: count from behind it.
    let (_, rest) = stat.rsplit_once(')').context("unexpected /proc/PID/stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let [user, system] = [11, 12].map(|at| fields.get(at).and_then(|field| field.parse::<u32>().ok()));
    let ticks = user.zip(system).map(|(user, system)| user + system).context("unexpected /proc/PID/stat")?;
    Ok(TICK * ticks)
}

/// The memory that it has at the moment.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    Ok(line.context("unexpected /proc/PID/status")?.parse::<u64>()? * 1024)
}
