//! Memory policies, `numa(7)`, on the machine that guests see: one node. Policies of threads are kept; those of ranges
//! are checked and have no effect, as nothing else could be chosen.

use abi::Errno;
use abi::mm::{
    MPOL_BIND, MPOL_DEFAULT, MPOL_F_ADDR, MPOL_F_MEMS_ALLOWED, MPOL_F_NODE, MPOL_INTERLEAVE, MPOL_LOCAL,
    MPOL_PREFERRED, MPOL_PREFERRED_MANY, MPOL_WEIGHTED_INTERLEAVE,
};
use kernel::syscalls;
use kernel::task::{MemoryPolicy, Task};
use usermem::{Addr, PAGE_SIZE};

use crate::args::Hex;
use crate::mem;

syscalls! {
    pub(crate) const ROWS;

    /// Sets the memory policy of a range.
    mbind [237, 235] Partial("one node; checked and without effect");
    /// Sets the thread's memory policy.
    set_mempolicy [238, 237] Full("system::memory_policies_know_one_node");
    /// Gets a memory policy.
    get_mempolicy [239, 236] Partial("one node; ranges have the default policy");
    /// Moves a process's pages between nodes.
    migrate_pages [256, 238] Partial("one node: there is nowhere to move to");
    /// Sets the node that a range prefers.
    set_mempolicy_home_node [450, 450] Partial("one node; checked and without effect");
}

/// `MPOL_F_STATIC_NODES`, `MPOL_F_RELATIVE_NODES`, `MPOL_F_NUMA_BALANCING`.
const STATIC: u32 = 1 << 15;
const RELATIVE: u32 = 1 << 14;
const BALANCING: u32 = 1 << 13;

/// `MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL`.
const MF_VALID: u32 = 7;
const MF_MOVE_ALL: u32 = 4;

/// Most nodes that a kernel of Debian's may have.
const MOST_NODES: u64 = 1024;

/// A set of nodes in guest memory: `max` is one more than its bits. `EINVAL` (too many, or nodes that cannot be),
/// `EFAULT`.
fn nodes(task: &Task, mask: Addr, max: u64) -> Result<u64, Errno> {
    let bits = max.saturating_sub(1);
    if mask == Addr(0) || bits == 0 {
        return Ok(0);
    }
    if bits > PAGE_SIZE * 8 {
        return Err(Errno::EINVAL);
    }
    let words = usize::try_from(bits.div_ceil(64)).map_err(|_| Errno::EINVAL)?;
    let mut mask = mem::read_array::<u64>(task, mask, words)?;
    if let (Some(last), rest) = (mask.last_mut(), bits % 64)
        && rest != 0
    {
        *last &= (1 << rest) - 1;
    }
    let kept = usize::try_from(MOST_NODES / 64).unwrap_or(0);
    if mask.iter().skip(kept).any(|&word| word != 0) {
        return Err(Errno::EINVAL);
    }
    // Nodes after the first do not exist: it matters only that some were named.
    let beyond = mask.iter().skip(1).any(|&word| word != 0);
    Ok(mask.first().copied().unwrap_or(0) | if beyond { 1 << 63 } else { 0 })
}

/// The policy that `mode` and `nodes` make; `EINVAL`.
fn policy(mode: u32, nodes: u64) -> Result<MemoryPolicy, Errno> {
    let flags = mode & (STATIC | RELATIVE | BALANCING);
    let mode = mode & !flags;
    let both = STATIC | RELATIVE;
    if mode > MPOL_WEIGHTED_INTERLEAVE || flags & both == both {
        return Err(Errno::EINVAL);
    }
    if flags & BALANCING != 0 && !matches!(mode, MPOL_BIND | MPOL_PREFERRED_MANY) {
        return Err(Errno::EINVAL);
    }
    let plain = flags & both == 0;
    match mode {
        MPOL_DEFAULT | MPOL_LOCAL if nodes != 0 || (mode == MPOL_LOCAL && !plain) => Err(Errno::EINVAL),
        MPOL_DEFAULT => Ok(MemoryPolicy::default()),
        MPOL_LOCAL => Ok(MemoryPolicy { mode, flags, nodes: 0 }),
        MPOL_PREFERRED if nodes == 0 => {
            if plain {
                Ok(MemoryPolicy { mode: MPOL_LOCAL, flags, nodes: 0 })
            } else {
                Err(Errno::EINVAL)
            }
        }
        // Node 0 has to be among them; relative ones fold onto it.
        _ if nodes & 1 != 0 || (nodes != 0 && flags & RELATIVE != 0) => Ok(MemoryPolicy { mode, flags, nodes: 1 }),
        _ => Err(Errno::EINVAL),
    }
}

/// `set_mempolicy(2)`.
fn set_mempolicy(task: &mut Task, mode: u32, mask: Addr, max: u64) -> Result<(), Errno> {
    let nodes = nodes(task, mask, max)?;
    task.memory_policy = policy(mode, nodes)?;
    Ok(())
}

/// Stores a set of nodes, of which only the first can be a member.
fn store_nodes(task: &Task, mask: Addr, max: u64, nodes: u64) -> Result<(), Errno> {
    if mask == Addr(0) {
        return Ok(());
    }
    let words = usize::try_from(max.saturating_sub(1).div_ceil(64)).map_err(|_| Errno::EINVAL)?;
    if u64::try_from(words).unwrap_or(u64::MAX) > PAGE_SIZE / 8 {
        return Err(Errno::EINVAL);
    }
    let mut image = vec![0_u64; words];
    if let Some(first) = image.first_mut() {
        *first = nodes;
    }
    mem::write_array(task, mask, &image)
}

/// `get_mempolicy(2)`.
fn get_mempolicy(task: &mut Task, mode: Addr, mask: Addr, max: u64, addr: Addr, flags: u64) -> Result<(), Errno> {
    let flags = u32::try_from(flags).map_err(|_| Errno::EINVAL)?;
    if flags & !(MPOL_F_NODE | MPOL_F_ADDR | MPOL_F_MEMS_ALLOWED) != 0 || (mask != Addr(0) && max < 1) {
        return Err(Errno::EINVAL);
    }
    let (value, nodes) = if flags & MPOL_F_MEMS_ALLOWED != 0 {
        if flags & (MPOL_F_NODE | MPOL_F_ADDR) != 0 {
            return Err(Errno::EINVAL);
        }
        (0, 1)
    } else if flags & MPOL_F_ADDR != 0 {
        task.mm().vma_at(addr).ok_or(Errno::EFAULT)?;
        // The default policy, or the number of the only node.
        (0, 0)
    } else if addr != Addr(0) {
        return Err(Errno::EINVAL);
    } else {
        let own = task.memory_policy;
        if flags & MPOL_F_NODE != 0 {
            if !matches!(own.mode, MPOL_INTERLEAVE | MPOL_WEIGHTED_INTERLEAVE) {
                return Err(Errno::EINVAL);
            }
            (0, own.nodes)
        } else {
            (own.mode | own.flags, own.nodes)
        }
    };
    if mode != Addr(0) {
        mem::write(task, mode, &value)?;
    }
    store_nodes(task, mask, max, nodes)
}

/// Whether all of the pages from `start` on are mapped; `EINVAL`, `EFAULT`.
fn check_range(task: &Task, start: Addr, len: u64) -> Result<(), Errno> {
    if !start.is_page_aligned() {
        return Err(Errno::EINVAL);
    }
    let end = len.checked_next_multiple_of(PAGE_SIZE).and_then(|len| start.checked_add(len)).ok_or(Errno::EINVAL)?;
    let mut at = start;
    while at < end {
        at = task.mm().vma_at(at).ok_or(Errno::EFAULT)?.range.end;
    }
    Ok(())
}

/// `mbind(2)`.
fn mbind(task: &mut Task, start: Addr, len: u64, mode: u32, mask: Addr, max: u64, flags: u32) -> Result<(), Errno> {
    let nodes = nodes(task, mask, max)?;
    if flags & !MF_VALID != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & MF_MOVE_ALL != 0 && !task.creds().has(auth::Caps::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    policy(mode, nodes)?;
    check_range(task, start, len)
}

/// `migrate_pages(2)`: says how many pages could not be moved, which is none.
fn migrate_pages(task: &mut Task, pid: i32, max: u64, from: Addr, to: Addr) -> Result<i32, Errno> {
    nodes(task, from, max)?;
    let to = nodes(task, to, max)?;
    if pid != 0 {
        let pid = kernel::task::Pid::from_raw(pid).ok_or(Errno::ESRCH)?;
        task.kernel().tasks().describe(pid).ok_or(Errno::ESRCH)?;
    }
    if to & !1 != 0 && !task.creds().has(auth::Caps::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    if to & 1 == 0 { Err(Errno::EINVAL) } else { Ok(0) }
}

/// `set_mempolicy_home_node(2)`.
fn set_mempolicy_home_node(task: &mut Task, start: Addr, len: u64, node: u64, flags: Hex) -> Result<(), Errno> {
    if !start.is_page_aligned() || flags.0 != 0 || node != 0 {
        return Err(Errno::EINVAL);
    }
    let end = len.checked_next_multiple_of(PAGE_SIZE).and_then(|len| start.checked_add(len)).ok_or(Errno::EINVAL)?;
    let _ = (task, end);
    Ok(())
}
