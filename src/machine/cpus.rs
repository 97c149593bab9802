//! Which processors this thread may use. Uses `list`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::list::{field, list};

/// Processors that may be used, core by core: several of one core share its arithmetic.
#[derive(Debug, PartialEq)]
pub(crate) struct Cpus {
    cores: Vec<Vec<usize>>, // none is empty
}

impl Cpus {
    /// Those of the calling thread; `None` where the system does not say.
    pub(crate) fn allowed() -> Option<Self> {
        let status = fs::read_to_string("/proc/thread-self/status").ok()?;
        Self::read(&status, Path::new("/sys/devices/system/cpu"))
    }

    /// Those that a thread's `status` allows, with the topology in the folder `cpus`.
    fn read(status: &str, cpus: &Path) -> Option<Self> {
        let mut cores = BTreeMap::<usize, Vec<usize>>::new();
        for cpu in list(field(status, "Cpus_allowed_list:")?)?.into_iter().flatten() {
            let topology = cpus.join(format!("cpu{cpu}/topology"));
            // The second is what kernels before 5.3 have.
            let siblings = ["core_cpus_list", "thread_siblings_list"]
                .iter()
                .find_map(|name| fs::read_to_string(topology.join(name)).ok());
            let first = siblings.and_then(|siblings| Some(*list(&siblings)?.first()?.start()));
            cores.entry(first.unwrap_or(cpu)).or_default().push(cpu);
        }
        (!cores.is_empty()).then(|| Self { cores: cores.into_values().collect() })
    }

    /// Those of these that are on a NUMA node; `None` if there are none, or the system does not say.
    pub(crate) fn of_node(&self, node: usize) -> Option<Self> {
        self.in_list(&fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist")).ok()?)
    }

    /// Those of these that are in a list as the system writes it.
    fn in_list(&self, text: &str) -> Option<Self> {
        let there = list(text)?;
        let of_core = |core: &Vec<usize>| -> Vec<usize> {
            core.iter().copied().filter(|cpu| there.iter().any(|range| range.contains(cpu))).collect()
        };
        let cores: Vec<_> = self.cores.iter().map(of_core).filter(|core| !core.is_empty()).collect();
        (!cores.is_empty()).then_some(Self { cores })
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = usize> {
        self.cores.iter().flatten().copied()
    }

    /// Number of cores.
    pub(crate) fn cores(&self) -> usize {
        self.cores.len()
    }

    /// Where thread `index` is to run: on a core of its own while there are any, then beside another.
    pub(crate) fn place(&self, index: usize) -> Option<usize> {
        let core = self.cores.get(index % self.cores.len())?;
        core.get(index / self.cores.len() % core.len()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine's files, gone when this is dropped.
    struct Machine(std::path::PathBuf);

    impl Machine {
        /// One whose processor `i` has the siblings `siblings[i]`.
        fn new(name: &str, file: &str, siblings: &[&str]) -> Self {
            let root = std::env::temp_dir().join(format!("grok1-cpus-{name}-{}", std::process::id()));
            for (cpu, siblings) in siblings.iter().enumerate() {
                let topology = root.join(format!("cpu{cpu}/topology"));
                fs::create_dir_all(&topology).unwrap();
                fs::write(topology.join(file), siblings).unwrap();
            }
            Self(root)
        }

        fn cores(&self, allowed: &str) -> Vec<Vec<usize>> {
            let status = format!("Name:\tgrok1\nCpus_allowed:\tff\nCpus_allowed_list:\t{allowed}\n");
            Cpus::read(&status, &self.0).unwrap().cores
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn processors_of_a_core_are_one_core_however_they_are_numbered() {
        let halves = Machine::new("halves", "core_cpus_list", &["0,2\n", "1,3\n", "0,2\n", "1,3\n"]);
        assert_eq!(halves.cores("0-3"), [[0, 2], [1, 3]]);
        let pairs = Machine::new("pairs", "thread_siblings_list", &["0-1\n", "0-1\n", "2-3\n", "2-3\n"]);
        assert_eq!(pairs.cores("0-3"), [[0, 1], [2, 3]]);
    }

    #[test]
    fn only_allowed_processors_count() {
        let machine = Machine::new("allowed", "core_cpus_list", &["0,2\n", "1,3\n", "0,2\n", "1,3\n"]);
        assert_eq!(machine.cores("1-2"), [[2], [1]]);
        assert_eq!(machine.cores("1,3"), [[1, 3]]);
    }

    #[test]
    fn without_a_topology_each_processor_is_a_core() {
        let machine = Machine::new("bare", "core_cpus_list", &[]);
        assert_eq!(machine.cores("0,4-5"), [[0], [4], [5]]);
    }

    #[test]
    fn threads_get_cores_of_their_own_before_they_share() {
        let cpus = Cpus { cores: vec![vec![0, 4], vec![1, 5], vec![2]] };
        let places: Vec<_> = (0..7).filter_map(|index| cpus.place(index)).collect();
        assert_eq!(places, [0, 1, 2, 4, 5, 2, 0]);
    }

    #[test]
    fn a_node_has_those_of_its_list() {
        let cpus = Cpus { cores: vec![vec![0, 4], vec![1, 5], vec![2, 6]] };
        assert_eq!(cpus.in_list("1-2,5\n").unwrap().cores, [vec![1, 5], vec![2]]);
        assert_eq!(cpus.in_list("7-9\n"), None);
        assert_eq!(cpus.in_list("nodes"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_thread_may_use_some() {
        assert!(Cpus::allowed().unwrap().cores() > 0);
    }
}
