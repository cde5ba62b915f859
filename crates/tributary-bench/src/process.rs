//! CPU time and memory of processes, from `/proc`.

use std::fs;

/// Ticks per second of the times in `/proc/PID/stat`; the same on every Linux architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Resources of one or several processes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// User and system CPU time, in seconds.
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
}

/// The sum over these processes; `None` if there are none or if one cannot be read.
pub(super) fn usage(processes: &[u32]) -> Option<Usage> {
    let mut sum = Usage::default();
    for process in processes {
        let one = of(*process)?;
        sum.cpu_seconds += one.cpu_seconds;
        sum.resident_bytes += one.resident_bytes;
    }
    (!processes.is_empty()).then_some(sum)
}

fn of(process: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = resident.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(Usage { cpu_seconds: cpu_seconds(&stat)?, resident_bytes: kib * 1024 })
}

/// Fields 14 and 15 of the line. Field 2 is a name in parentheses that may contain spaces and
/// parentheses, so fields are counted from the last parenthesis.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = |field: Option<&str>| field?.parse::<f64>().ok();
    Some((ticks(fields.next())? + ticks(fields.next())?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_parsed_after_any_process_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 9 9 20 0 4 0 1 2 3";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (a) S 1"), None);
    }
}
