//! What the operating system says about the machine.

/// The processor's name, or its architecture where the system does not say.
pub(crate) fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// CPUs this process may use.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes of physical memory, where the system says.
#[cfg(unix)]
pub(crate) fn memory() -> Option<u64> {
    // SAFETY: no arguments but a number, no effects.
    let [pages, size] = [libc::_SC_PHYS_PAGES, libc::_SC_PAGESIZE].map(|name| unsafe { libc::sysconf(name) });
    u64::try_from(pages).ok()?.checked_mul(u64::try_from(size).ok()?)
}

/// Bytes of physical memory, where the system says.
#[cfg(not(unix))]
pub(crate) fn memory() -> Option<u64> {
    None
}
