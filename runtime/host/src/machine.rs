//! What the machine gives this process.

use std::fs;
use std::path::{Path, PathBuf};

/// How much memory guests may have where the machine does not say how much it has, in bytes.
const GUESTS_WHERE_UNKNOWN: u64 = 1 << 30;

/// How much memory guests may have where the manifest does not say: half of what this process may use, in bytes.
pub fn memory_for_guests() -> u64 {
    memory_bytes().map_or(GUESTS_WHERE_UNKNOWN, |bytes| bytes / 2)
}

/// How much memory this process may use, in bytes: the machine's, or what its control groups leave of it. `None` where
/// nobody says.
fn memory_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups).into_iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    limits.chain(machine).min()
}

/// The machine's memory as `/proc/meminfo` has it.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib.saturating_mul(1024))
}

/// Where limits on the memory of a process may be that is in these control groups, as `/proc/self/cgroup` has them: in each
/// group, and in those that it is in. In a container the path may be the one outside, so the root counts too.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|one| one == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let group = Path::new(group.trim_start_matches('/'));
        files.extend(group.ancestors().map(|group| Path::new(root).join(group).join(file)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::{limit_files, memory_bytes, total};

    #[test]
    fn the_machines_memory_is_read() {
        assert_eq!(total("MemTotal:       24684092 kB\nMemFree:        21344632 kB\n"), Some(25_276_510_208));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        if cfg!(target_os = "linux") {
            assert!(memory_bytes().is_some_and(|bytes| bytes > 0));
        }
    }

    #[test]
    fn limits_are_looked_for_in_all_groups_that_a_process_is_in() {
        let files = |groups: &str| -> Vec<String> {
            limit_files(groups).into_iter().map(|file| file.display().to_string()).collect()
        };
        let v2 =
            ["/sys/fs/cgroup/a.slice/b/memory.max", "/sys/fs/cgroup/a.slice/memory.max", "/sys/fs/cgroup/memory.max"];
        assert_eq!(files("0::/a.slice/b\n"), v2);
        assert_eq!(files("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
        let v1 = "12:cpu,cpuacct:/a\n4:memory:/docker\n1:name=systemd:/a\n";
        let v1_files =
            ["/sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
        assert_eq!(files(v1), v1_files);
        assert!(files("").is_empty());
    }
}
