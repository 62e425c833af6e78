//! CPU time of the servers, read from `/proc`: each process named, its children that ended, and
//! its living descendants (PostgreSQL runs a process for each session).

use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;

/// Clock ticks in a second as `/proc` counts them: `USER_HZ`, 100 on every Linux platform we meet.
const TICKS_PER_SECOND: f64 = 100.0;

/// Fields of `/proc/PID/stat` behind the command's closing parenthesis, counted from 0.
const FIELD_PARENT: usize = 1;
/// `utime`, `stime`, `cutime`, `cstime`.
const FIELDS_TIME: std::ops::Range<usize> = 11..15;

/// CPU time used up to one moment, by process named, in ticks; `None` if it cannot be read.
#[derive(Clone, Debug, Default)]
pub struct CpuSample(BTreeMap<u32, Option<u64>>);

/// CPU time of the servers while measuring.
#[derive(Clone, Debug, Serialize)]
pub struct CpuReport {
    /// Seconds of CPU of all servers together.
    pub seconds: f64,
    /// Milliseconds of CPU for each finished transaction.
    pub ms_per_transaction: f64,
    /// Processes whose time could not be read at the beginning or the end.
    pub unreadable_pids: Vec<u32>,
}

struct ProcStat {
    parent: u32,
    ticks: u64,
}

fn parse(stat: &str) -> Option<ProcStat> {
    // The command may contain anything, also parentheses and blanks: skip to the last one.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let parent = fields.get(FIELD_PARENT)?.parse().ok()?;
    let times = fields.get(FIELDS_TIME)?;
    let ticks = times.iter().map(|field| field.parse::<u64>().ok()).sum::<Option<u64>>()?;
    Some(ProcStat { parent, ticks })
}

fn all_processes() -> BTreeMap<u32, ProcStat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let read = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, parse(&stat)?))
    };
    pids.filter_map(read).collect()
}

/// Reads the CPU time of the processes named and all their descendants.
pub fn sample(pids: &[u32]) -> CpuSample {
    if pids.is_empty() {
        return CpuSample::default();
    }
    let processes = all_processes();
    let mut totals = CpuSample(pids.iter().map(|pid| (*pid, None)).collect());
    for (pid, stat) in &processes {
        let mut ancestor = *pid;
        // A process belongs to the nearest named ancestor; the chain is no longer than the list.
        for _ in 0..processes.len() {
            if let Some(total) = totals.0.get_mut(&ancestor) {
                *total = Some(total.unwrap_or(0) + stat.ticks);
                break;
            }
            match processes.get(&ancestor) {
                Some(up) if up.parent != 0 => ancestor = up.parent,
                _ => break,
            }
        }
    }
    totals
}

/// The CPU time between two samples; `None` if no process was named.
pub fn difference(before: &CpuSample, after: &CpuSample, transactions: u64) -> Option<CpuReport> {
    if before.0.is_empty() {
        return None;
    }
    let mut ticks = 0;
    let mut unreadable_pids = Vec::new();
    for (pid, start) in &before.0 {
        match (start, after.0.get(pid).copied().flatten()) {
            (Some(start), Some(end)) => ticks += end.saturating_sub(*start),
            _ => unreadable_pids.push(*pid),
        }
    }
    let seconds = ticks as f64 / TICKS_PER_SECOND;
    let ms_per_transaction =
        if transactions == 0 { 0.0 } else { seconds * 1000.0 / transactions as f64 };
    Some(CpuReport { seconds, ms_per_transaction, unreadable_pids })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_may_contain_parentheses() {
        let stat = "42 (a) R (b) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 99";
        let parsed = parse(stat).expect("parses");
        assert_eq!((parsed.parent, parsed.ticks), (7, 127));
        assert!(parse("42 (cut").is_none());
    }

    #[test]
    fn a_busy_process_uses_time_and_a_dead_one_is_named() {
        let own = std::process::id();
        let gone = u32::MAX;
        let before = sample(&[own, gone]);
        let mut sum = 0_u64;
        // Work until the kernel has charged us at least one tick more.
        let report = loop {
            sum = (0..1_000_000_u64).fold(sum, |a, b| a.wrapping_mul(31).wrapping_add(b));
            let report = difference(&before, &sample(&[own, gone]), 10).expect("pids were named");
            if report.seconds > 0.0 {
                break report;
            }
        };
        assert!(report.ms_per_transaction > 0.0, "{sum}");
        assert_eq!(report.unreadable_pids, [gone]);
        assert!(difference(&sample(&[]), &sample(&[]), 1).is_none());
    }
}
