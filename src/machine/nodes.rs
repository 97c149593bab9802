//! Which NUMA nodes memory may lie on. Uses `list`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use super::list::{field, list};

/// The nodes that have memory which this process may use, as they were at first; one, or none, on most machines.
pub(crate) fn memory_nodes() -> &'static [usize] {
    static NODES: OnceLock<Vec<usize>> = OnceLock::new();
    NODES.get_or_init(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        read(&status, Path::new("/sys/devices/system/node")).unwrap_or_default()
    })
}

/// Those that a process's `status` allows, with the machine's in the folder `nodes`.
fn read(status: &str, nodes: &Path) -> Option<Vec<usize>> {
    let numbers = |text: &str| Some(list(text)?.into_iter().flatten().collect::<BTreeSet<_>>());
    let allowed = numbers(field(status, "Mems_allowed_list:")?)?;
    let present = numbers(&fs::read_to_string(nodes.join("has_memory")).ok()?)?;
    Some(allowed.intersection(&present).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_have_memory_and_are_allowed_count() {
        let nodes = std::env::temp_dir().join(format!("grok1-nodes-{}", std::process::id()));
        fs::create_dir_all(&nodes).unwrap();
        fs::write(nodes.join("has_memory"), "0-1,4\n").unwrap();
        let found =
            |allowed: &str| read(&format!("Mems_allowed:\t1\nMems_allowed_list:\t{allowed}\n"), &nodes);
        let cases = [found("0-7"), found("1-3"), found("2"), found("?")];
        fs::remove_dir_all(&nodes).unwrap();
        assert_eq!(cases, [Some(vec![0, 1, 4]), Some(vec![1]), Some(vec![]), None]);
    }
}
