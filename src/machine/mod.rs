//! What the operating system says about the machine; on other systems than Linux, that is little. Uses nothing.

mod cpus;
mod list;
mod memory;
#[cfg(target_os = "linux")]
mod nodes;

pub(crate) use self::cpus::Cpus;
pub use self::memory::memory;
#[cfg(target_os = "linux")]
pub(crate) use self::nodes::memory_nodes;
