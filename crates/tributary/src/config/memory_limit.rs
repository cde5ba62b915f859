//! The memory that this process may use: that of the machine, or the limit of a control group.

use std::fs;
use std::path::Path;

/// The assumed memory of a machine that does not report it: 1 GiB.
const MACHINE_MEMORY_DEFAULT: usize = 1 << 30;
/// The folders of the control groups of version 2, and their limits. `high` slows a process down.
const VERSION_2: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
const LIMITS_2: [&str; 2] = ["memory.max", "memory.high"];
/// The same for version 1.
const VERSION_1: &str = "/sys/fs/cgroup/memory";
const LIMIT_1: &str = "memory.limit_in_bytes";

/// The memory that this process may use, in bytes.
pub(super) fn machine_memory() -> usize {
    memory(|path| fs::read_to_string(path).ok())
}

/// `read` returns the text of a file.
fn memory(read: impl Fn(&Path) -> Option<String>) -> usize {
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| {
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        total.trim().trim_end_matches("kB").trim().parse::<usize>().ok()
    });
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    // A line is `0::/path` in version 2, and `4:memory:/path` in version 1.
    let limits = groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or_default(), fields.next());
        let path = path.unwrap_or("/").trim_start_matches('/');
        let is_memory = controllers.split(',').any(|name| name == "memory");
        let (roots, names): (&[&str], &[&str]) = match controllers {
            "" => (&VERSION_2, &LIMITS_2),
            _ if is_memory => (&[VERSION_1], &[LIMIT_1]),
            _ => (&[], &[]),
        };
        roots
            .iter()
            .flat_map(|root| limits_of(&read, Path::new(root), path, names))
            .collect::<Vec<_>>()
    });
    // In a container the path may be that of the host, although only the own group is visible.
    let machine = machine.map(|kib| kib << 10);
    limits.chain(machine).min().unwrap_or(MACHINE_MEMORY_DEFAULT)
}

/// The limits of a group and of all groups that contain it. `max`, which means none, is no number.
fn limits_of(
    read: impl Fn(&Path) -> Option<String>,
    root: &Path,
    path: &str,
    names: &[&str],
) -> Vec<usize> {
    let group = root.join(path);
    let groups = group.ancestors().take_while(|group| group.starts_with(root));
    let files = groups.flat_map(|group| names.iter().map(|name| group.join(name)));
    files.filter_map(|file| read(&file)?.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(files: &[(&str, &str)]) -> usize {
        memory(|path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn the_smallest_limit_around_the_process_counts() {
        let machine = ("/proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\n");
        assert_eq!(with(&[]), MACHINE_MEMORY_DEFAULT);
        assert_eq!(with(&[machine]), 16_384 << 10);
        let own = ("/proc/self/cgroup", "0::/system.slice/tributary.service\n");
        let limit = "/sys/fs/cgroup/system.slice/tributary.service/memory.max";
        assert_eq!(with(&[machine, own, (limit, "max\n")]), 16_384 << 10);
        assert_eq!(with(&[machine, own, (limit, "300000\n")]), 300_000);
        let slice = ("/sys/fs/cgroup/system.slice/memory.high", "200000\n");
        assert_eq!(with(&[machine, own, (limit, "300000\n"), slice]), 200_000);
        let of_other = ("/sys/fs/cgroup/user.slice/memory.max", "1000\n");
        assert_eq!(with(&[machine, own, of_other]), 16_384 << 10);

        let own = ("/proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/docker/ab\n0::/\n");
        let unlimited = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(with(&[machine, own, unlimited]), 16_384 << 10);
        let limit = ("/sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes", "400000\n");
        assert_eq!(with(&[machine, own, unlimited, limit]), 400_000);
        // Only the own group is visible, at the place of the root.
        let root = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "500000\n");
        assert_eq!(with(&[machine, own, root]), 500_000);
    }
}
