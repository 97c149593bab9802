//! Large buffers: in huge pages, and on all NUMA nodes. Uses `machine`.

use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

#[cfg(target_os = "linux")]
use crate::machine::memory_nodes;

/// Bytes in pages of their own, zeros at first: huge pages where there are any, so that filling and reading them misses fewer addresses.
///
/// On a machine of several NUMA nodes, if none is named, pages lie on all nodes in turn: threads on every node read every weight, and
/// so get the bandwidth of all memories together, whichever thread filled them.
pub(crate) struct Buffer {
    map: MmapMut,
    len: usize,
}

impl Buffer {
    /// `len` zeros, on a node if one is named. They take memory when they are written.
    pub(crate) fn zeroed(len: usize, node: Option<usize>) -> io::Result<Self> {
        // No mapping is empty.
        let map = MmapMut::map_anon(len.max(1))?;
        #[cfg(not(target_os = "linux"))]
        let _ = node;
        #[cfg(target_os = "linux")]
        {
            // Hints: small pages, and pages anywhere, do too.
            let _ = map.advise(memmap2::Advice::HugePage);
            let placed = match (node, memory_nodes()) {
                // Where that one is full, another is better than none.
                (Some(node), _) => place(&map, libc::MPOL_PREFERRED, &[node]),
                (None, [] | [_]) => Ok(()),
                (None, nodes) => place(&map, libc::MPOL_INTERLEAVE, nodes),
            };
            if let Err(refused) = placed {
                log::debug!("{len} bytes lie on whichever NUMA node filled them: {refused}");
            }
        }
        Ok(Self { map, len })
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map[..self.len]
    }
}

/// Has the pages of `map`, none of which was written yet, made on `nodes` as `policy` says.
#[cfg(target_os = "linux")]
fn place(map: &MmapMut, policy: libc::c_int, nodes: &[usize]) -> io::Result<()> {
    const BITS: usize = libc::c_ulong::BITS as usize;
    let mut mask = [0 as libc::c_ulong; 1024 / BITS]; // more than kernels have
    for node in nodes {
        if let Some(word) = mask.get_mut(node / BITS) {
            *word |= 1 << (node % BITS);
        }
    }
    // SAFETY: the kernel reads the mask, of which it is told one bit more than it looks at, and changes nothing but where pages of a
    // mapping that exists will be made.
    let result = unsafe {
        let (start, len) = (map.as_ptr(), map.len());
        libc::syscall(libc::SYS_mbind, start, len, policy, mask.as_ptr(), mask.len() * BITS, 0)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_as_many_zeros_as_were_asked_for() {
        for len in [0, 1, 4096, 5 << 20] {
            let mut buffer = Buffer::zeroed(len, None).unwrap();
            assert!(buffer.len() == len && buffer.iter().all(|&byte| byte == 0));
            buffer.fill(7);
            assert!(buffer.iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn pages_go_to_nodes_that_there_are() {
        let map = MmapMut::map_anon(8 << 20).unwrap();
        match place(&map, libc::MPOL_INTERLEAVE, memory_nodes()) {
            Ok(()) => {
                place(&map, libc::MPOL_PREFERRED, &memory_nodes()[..1]).unwrap();
                assert!(place(&map, libc::MPOL_INTERLEAVE, &[1023]).is_err());
            }
            // A kernel without NUMA, or a container that forbids it.
            Err(refused) => {
                assert!(matches!(refused.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)), "{refused}")
            }
        }
    }
}
