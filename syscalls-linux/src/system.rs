//! The system and the process's relation to it: names, figures, random numbers, `prctl(2)`.

use abi::Errno;
use abi::ioctl::GetrandomFlags;
use abi::mm::{MEMBARRIER_CMD_QUERY, MembarrierCmd};
use abi::prctl as p;
use abi::prctl::{Securebits, TASK_COMM_LEN};
use abi::sysinfo::Sysinfo;
use abi::utsname::{FIELD_LEN, UTS_LEN, Utsname};
use auth::{Caps, Creds};
use kernel::signal::Signal;
use kernel::syscalls;
use kernel::task::attributes::persona;
use kernel::task::{Comm, Dumpable, NoNewPrivs, Subreaper, Task, ThreadGroup};
use usermem::Addr;

use crate::args::{ArchPrctlOp, Flags, Hex, InBuf, Out, OutBuf, PrctlOp};
use crate::mem;

syscalls! {
    pub(crate) const ROWS;

    /// Name and version of the system.
    uname [63, 160] Full("system::uname_is_linux");
    /// Sets the host name.
    sethostname [170, 161] Full("host::names_are_set_by_root");
    /// Sets the domain name.
    setdomainname [171, 162] Full("host::names_are_set_by_root");
    /// Figures of the system.
    sysinfo [99, 179] Full("kept::the_load_is_told");
    /// Random bytes.
    getrandom [318, 278] Full("host::random_bytes_come_as_asked");
    /// Current CPU and node.
    getcpu [309, 168] Full("schedule::processors_are_checked");
    /// Barriers on other threads.
    membarrier [324, 283] Full("kept::barriers_are_registered_for");
    /// Registers restartable sequences.
    rseq [334, 293] Unsupported(ENOSYS, "as without CONFIG_RSEQ")(Addr, Uint, Hex, Hex);
    /// Sets the execution domain.
    personality [135, 92] Partial("no zero page, no legacy layouts: those flags are only kept");
    /// Operations on the process.
    prctl [157, 167] Partial("as without checkpointing, KSM, core scheduling and names of mappings; no PR_SET_MDWE, no user dispatch");
    /// Segment bases and other state of the architecture.
    arch_prctl [158, -] Full("kept::the_architecture_tells_its_state");
    /// Continues an interrupted call.
    restart_syscall [219, 128] Full("host::nothing_to_restart_is_an_interruption");
    /// What a user-space probe's trampoline calls.
    uretprobe [335, -] Unsupported(ENOSYS, "as without CONFIG_UPROBES")();
}

fn field(text: &[u8]) -> [u8; FIELD_LEN] {
    let mut out = [0; FIELD_LEN];
    for (to, from) in out.iter_mut().zip(text.iter().take(UTS_LEN)) {
        *to = *from;
    }
    out
}

/// A release as Linux 2.6 would have it (`UNAME26`): the minor version from 40 or 60 on.
fn uname26(release: &str) -> String {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let base = if major < 4 { 40 } else { 60 };
    format!("2.6.{}", minor.saturating_add(base))
}

/// `uname(2)`.
fn uname(task: &mut Task, name: Out<Utsname>) -> Result<(), Errno> {
    let uts = task.kernel().uts();
    let persona = task.thread().attributes().persona();
    let machine = if persona & persona::PER_MASK == persona::PER_LINUX32 { "i686" } else { &uts.machine };
    let release = if persona & persona::UNAME26 == 0 { uts.release.clone() } else { uname26(&uts.release) };
    let value = Utsname {
        sysname: field(uts.sysname.as_bytes()),
        nodename: field(uts.nodename.as_bytes()),
        release: field(release.as_bytes()),
        version: field(uts.version.as_bytes()),
        machine: field(machine.as_bytes()),
        domainname: field(uts.domainname.as_bytes()),
    };
    name.write(task, &value)
}

/// A host or domain name that the caller may set.
fn uts_name(task: &Task, name: InBuf, len: i32) -> Result<Vec<u8>, Errno> {
    if !task.creds().has(Caps::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let len = usize::try_from(len).ok().filter(|&len| len <= UTS_LEN).ok_or(Errno::EINVAL)?;
    mem::read_bytes(task, name.0, len)
}

/// `sethostname(2)`.
fn sethostname(task: &mut Task, name: InBuf, len: i32) -> Result<(), Errno> {
    let name = uts_name(task, name, len)?;
    task.kernel().set_hostname(&name)
}

/// `setdomainname(2)`.
fn setdomainname(task: &mut Task, name: InBuf, len: i32) -> Result<(), Errno> {
    let name = uts_name(task, name, len)?;
    task.kernel().set_domainname(&name)
}

/// `sysinfo(2)`.
fn sysinfo(task: &mut Task, info: Out<Sysinfo>) -> Result<(), Errno> {
    let kernel = task.kernel();
    let memory = kernel.memory_info();
    let (threads, _) = kernel.tasks().counts();
    let value = Sysinfo {
        uptime: i64::try_from(kernel.uptime_ns() / 1_000_000_000).unwrap_or(i64::MAX),
        loads: kernel.load_averages(),
        totalram: memory.total,
        freeram: memory.free,
        procs: u16::try_from(threads).unwrap_or(u16::MAX),
        mem_unit: 1,
        ..Sysinfo::default()
    };
    info.write(task, &value)
}

/// Bytes of randomness fetched at a time.
const RANDOM_CHUNK: usize = 4096;

/// `getrandom(2)`: there is always entropy, so the flags change nothing.
fn getrandom(task: &mut Task, buf: OutBuf, len: u64, flags: Flags<GetrandomFlags>) -> Result<usize, Errno> {
    let flags = flags.known()?;
    if flags.contains(GetrandomFlags::GRND_RANDOM | GetrandomFlags::GRND_INSECURE) {
        return Err(Errno::EINVAL);
    }
    let len = usize::try_from(len.min(abi::fs::MAX_RW_COUNT)).unwrap_or(0);
    let mut done: usize = 0;
    let mut bytes = vec![0; RANDOM_CHUNK.min(len)];
    while done < len {
        let step = len.saturating_sub(done).min(RANDOM_CHUNK);
        let Some(chunk) = bytes.get_mut(..step) else { break };
        task.kernel().fill_random(chunk);
        let stored =
            buf.0.checked_add(done as u64).ok_or(Errno::EFAULT).and_then(|at| mem::write_bytes(task, at, chunk));
        match stored {
            Ok(()) => done = done.saturating_add(step),
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
        if task.has_pending_signal() {
            break;
        }
    }
    Ok(done)
}

/// `getcpu(2)`: what is true of the host thread, folded to the CPUs we show.
fn getcpu(task: &mut Task, cpu: Out<u32>, node: Out<u32>, _cache: Addr) -> Result<(), Errno> {
    let now = rustix::thread::sched_getcpu() % task.kernel().machine().cpus.max(1);
    cpu.write_opt(task, &u32::try_from(now).unwrap_or(0))?;
    node.write_opt(task, &0)
}

/// `membarrier(2)`.
fn membarrier(task: &mut Task, command: u32, flags: u32, _cpu: i32) -> Result<u32, Errno> {
    use MembarrierCmd as M;
    let registrations = M::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED
        | M::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED
        | M::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE;
    // What passes a full barrier on a processor of ours has also entered and left a kernel, which serialises it. Without
    // restartable sequences there are no commands for them.
    let private = [
        (M::MEMBARRIER_CMD_PRIVATE_EXPEDITED, M::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED),
        (M::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, M::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE),
    ];
    let all = registrations
        | M::MEMBARRIER_CMD_GLOBAL
        | M::MEMBARRIER_CMD_GLOBAL_EXPEDITED
        | M::MEMBARRIER_CMD_PRIVATE_EXPEDITED
        | M::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE
        | M::MEMBARRIER_CMD_GET_REGISTRATIONS;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    if command == MEMBARRIER_CMD_QUERY {
        return Ok(all.bits());
    }
    let held = M::from_bits_retain(task.group().barriers());
    match M::from_bits_retain(command) {
        M::MEMBARRIER_CMD_GLOBAL => barrier_everywhere(task, |_| true),
        M::MEMBARRIER_CMD_GLOBAL_EXPEDITED => {
            let wanted = M::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED.bits();
            barrier_everywhere(task, |group| group.barriers() & wanted != 0)
        }
        M::MEMBARRIER_CMD_GET_REGISTRATIONS => Ok(held.bits()),
        command if registrations.contains(command) && command.bits().count_ones() == 1 => {
            task.group().set_barriers((held | command).bits());
            Ok(0)
        }
        command => match private.into_iter().find(|(barrier, _)| *barrier == command) {
            Some((_, register)) if held.contains(register) => task.mm().barrier().map(|()| 0),
            Some(_) => Err(Errno::EPERM),
            None => Err(Errno::EINVAL),
        },
    }
}

/// A barrier on every thread of the processes that `wanted` names.
fn barrier_everywhere(task: &Task, wanted: impl Fn(&ThreadGroup) -> bool) -> Result<u32, Errno> {
    for group in task.kernel().tasks().groups().into_iter().filter(|group| wanted(group)) {
        // One that ends meanwhile needs none.
        if let Some(mm) = group.threads().first().and_then(|thread| thread.mm()) {
            let _ = mm.barrier();
        }
    }
    Ok(0)
}

/// `personality(2)`: 0xffffffff asks.
fn personality(task: &mut Task, persona: u32) -> Result<u32, Errno> {
    let attributes = task.thread().attributes();
    Ok(if persona == u32::MAX { attributes.persona() } else { attributes.set_persona(persona) })
}

/// `XFEATURE_XTILE_DATA`: the last state that a program may ask for.
const TILE_DATA: u64 = 18;

/// `arch_prctl(2)`.
fn arch_prctl(task: &mut Task, ArchPrctlOp(op): ArchPrctlOp, arg: Hex) -> Result<u32, Errno> {
    let base = || if arg.0 < abi::mm::TASK_SIZE { Ok(arg.0) } else { Err(Errno::EPERM) };
    match op {
        p::ARCH_SET_FS => task.user.regs.fs_base = base()?,
        p::ARCH_SET_GS => task.user.regs.gs_base = base()?,
        p::ARCH_GET_FS => mem::write(task, Addr(arg.0), &task.user.regs.fs_base)?,
        p::ARCH_GET_GS => mem::write(task, Addr(arg.0), &task.user.regs.gs_base)?,
        // The CPUID instruction works and cannot be made to fault.
        p::ARCH_GET_CPUID => return Ok(1),
        p::ARCH_SET_CPUID => return Err(Errno::ENODEV),
        p::ARCH_GET_XCOMP_SUPP | p::ARCH_GET_XCOMP_PERM => {
            mem::write(task, Addr(arg.0), &task.kernel().extended_state())?;
        }
        // One state needs permission, the tiles of AMX, and all who ask have it.
        p::ARCH_REQ_XCOMP_PERM => match arg.0 {
            TILE_DATA if task.kernel().extended_state() >> TILE_DATA & 1 != 0 => {}
            0..=TILE_DATA => return Err(Errno::EOPNOTSUPP),
            _ => return Err(Errno::EINVAL),
        },
        p::ARCH_SHSTK_ENABLE | p::ARCH_SHSTK_DISABLE | p::ARCH_SHSTK_LOCK => return Err(Errno::EOPNOTSUPP),
        p::ARCH_SHSTK_STATUS => mem::write(task, Addr(arg.0), &0_u64)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// `restart_syscall(2)`.
fn restart_syscall(task: &mut Task) -> kernel::syscall::SysResult {
    match task.restart_syscall() {
        Err(kernel::error::SysErr::Errno(Errno::EINTR)) => match task.take_restart_block() {
            Some(block) => crate::poll::restart_poll(task, &block),
            None => Err(Errno::EINTR.into()),
        },
        result => result,
    }
}

/// `PR_MCE_KILL_CLEAR`, `PR_MCE_KILL_SET`.
const MCE_KILL_CLEAR: u64 = 0;
const MCE_KILL_SET: u64 = 1;
/// `PR_SPEC_L1D_FLUSH`: the last kind of speculation that can be asked about.
const LAST_SPECULATION: u64 = 2;

/// `prctl(2)`.
fn prctl(task: &mut Task, PrctlOp(op): PrctlOp, a: Hex, b: Hex, c: Hex, d: Hex) -> Result<u64, Errno> {
    let (a, rest) = (a.0, [b.0, c.0, d.0]);
    let unused = |used: bool| if used { Err(Errno::EINVAL) } else { Ok(()) };
    match op {
        p::PR_SET_PDEATHSIG => {
            let signal = i32::try_from(a).map_err(|_| Errno::EINVAL)?;
            if signal != 0 {
                Signal::new(signal).ok_or(Errno::EINVAL)?;
            }
            task.set_death_signal(signal);
        }
        p::PR_GET_PDEATHSIG => mem::write(task, Addr(a), &task.death_signal())?,
        p::PR_GET_DUMPABLE => return Ok(task.group().dumpable() as u64),
        p::PR_SET_DUMPABLE => task.group().set_dumpable(match a {
            0 => Dumpable::No,
            1 => Dumpable::Yes,
            _ => return Err(Errno::EINVAL),
        }),
        p::PR_SET_NAME => {
            let mut name = [0; TASK_COMM_LEN - 1];
            let got = mem::read_prefix(task, Addr(a), &mut name);
            let seen = name.get(..got).unwrap_or(&[]);
            let end = seen.iter().position(|&byte| byte == 0);
            if end.is_none() && got < name.len() {
                return Err(Errno::EFAULT);
            }
            task.thread().set_comm(Comm::new(seen.get(..end.unwrap_or(got)).unwrap_or(&[])));
        }
        p::PR_GET_NAME => {
            let mut name = [0; TASK_COMM_LEN];
            for (to, from) in name.iter_mut().zip(task.thread().comm().as_bytes()) {
                *to = *from;
            }
            mem::write(task, Addr(a), &name)?;
        }
        p::PR_SET_CHILD_SUBREAPER => task.set_subreaper(if a != 0 { Subreaper::Yes } else { Subreaper::No }),
        p::PR_GET_CHILD_SUBREAPER => {
            mem::write(task, Addr(a), &i32::from(task.subreaper() == Subreaper::Yes))?;
        }
        p::PR_SET_NO_NEW_PRIVS => {
            unused(a != 1 || rest != [0; 3])?;
            task.set_no_new_privs();
        }
        p::PR_GET_NO_NEW_PRIVS => {
            unused(a != 0 || rest != [0; 3])?;
            return Ok(u64::from(task.no_new_privs() == NoNewPrivs::Yes));
        }
        p::PR_GET_SECCOMP => return Ok(0),
        p::PR_GET_TIMERSLACK => return Ok(task.thread().attributes().slack_ns()),
        // What is not positive as a long is the default.
        p::PR_SET_TIMERSLACK => {
            task.thread().attributes().set_slack_ns(if a.cast_signed() <= 0 { 0 } else { a });
        }
        p::PR_GET_THP_DISABLE => {
            unused(a != 0 || rest != [0; 3])?;
            return Ok(u64::from(task.group().thp_disabled()));
        }
        p::PR_SET_THP_DISABLE => {
            unused(rest != [0; 3])?;
            task.group().set_thp_disabled(a != 0);
        }
        p::PR_GET_TSC => mem::write(task, Addr(a), &1_i32)?,
        p::PR_SET_TSC => unused(a != p::PR_TSC_ENABLE)?,
        p::PR_MCE_KILL_GET => {
            unused(a != 0 || rest != [0; 3])?;
            return Ok(u64::from(task.thread().attributes().machine_check()));
        }
        p::PR_MCE_KILL => {
            let [policy, c, d] = rest;
            unused(c != 0 || d != 0)?;
            let policy = match (a, policy) {
                (MCE_KILL_CLEAR, 0) => p::PR_MCE_KILL_DEFAULT,
                (MCE_KILL_SET, 0..=p::PR_MCE_KILL_DEFAULT) => policy,
                _ => return Err(Errno::EINVAL),
            };
            task.thread().attributes().set_machine_check(u32::try_from(policy).unwrap_or(0));
        }
        p::PR_GET_TIMING => return Ok(0),
        // Statistical accounting is the one way.
        p::PR_SET_TIMING => unused(a != 0)?,
        p::PR_GET_TID_ADDRESS => mem::write(task, Addr(a), &task.tid_address().map_or(0, |addr| addr.0))?,
        p::PR_SET_IO_FLUSHER | p::PR_GET_IO_FLUSHER => {
            if !task.creds().has(Caps::SYS_RESOURCE) {
                return Err(Errno::EPERM);
            }
            unused(rest != [0; 3])?;
            let attributes = task.thread().attributes();
            if op == p::PR_GET_IO_FLUSHER {
                unused(a != 0)?;
                return Ok(u64::from(attributes.io_flusher()));
            }
            unused(a > 1)?;
            attributes.set_io_flusher(u32::from(a == 1));
        }
        // No processor flaw is known to us, so nothing can be switched.
        p::PR_GET_SPECULATION_CTRL => {
            unused(rest != [0; 3])?;
            return if a <= LAST_SPECULATION { Ok(p::PR_SPEC_NOT_AFFECTED) } else { Err(Errno::ENODEV) };
        }
        p::PR_SET_SPECULATION_CTRL => {
            let [_, c, d] = rest;
            unused(c != 0 || d != 0)?;
            return Err(if a <= LAST_SPECULATION { Errno::ENXIO } else { Errno::ENODEV });
        }
        p::PR_GET_MDWE => {
            unused(a != 0 || rest != [0; 3])?;
            return Ok(0);
        }
        p::PR_GET_AUXV => {
            let [len, c, d] = rest;
            unused(c != 0 || d != 0)?;
            let image = task.group().image();
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            mem::write_bytes(task, Addr(a), image.auxv.get(..len).unwrap_or(&image.auxv))?;
            return Ok(image.auxv.len() as u64);
        }
        _ => return prctl_caps(task, op, a, rest),
    }
    Ok(0)
}

/// The operations of `prctl(2)` on capabilities.
fn prctl_caps(task: &mut Task, op: u32, a: u64, rest: [u64; 3]) -> Result<u64, Errno> {
    let creds = Creds::clone(task.creds());
    let capability = |number: u64| u32::try_from(number).ok().and_then(Caps::from_number).ok_or(Errno::EINVAL);
    let keep = Securebits::SECBIT_KEEP_CAPS.bits();
    match op {
        p::PR_CAPBSET_READ => Ok(u64::from(creds.bounding.contains(capability(a)?))),
        p::PR_CAPBSET_DROP => {
            if !creds.has(Caps::SETPCAP) {
                return Err(Errno::EPERM);
            }
            let bounding = creds.bounding.difference(capability(a)?);
            task.set_creds(Creds { bounding, ..creds });
            Ok(0)
        }
        p::PR_GET_KEEPCAPS => Ok(u64::from(creds.securebits & keep != 0)),
        p::PR_SET_KEEPCAPS => {
            if a > 1 {
                return Err(Errno::EINVAL);
            }
            if creds.securebits & Securebits::SECBIT_KEEP_CAPS_LOCKED.bits() != 0 {
                return Err(Errno::EPERM);
            }
            let securebits = if a == 1 { creds.securebits | keep } else { creds.securebits & !keep };
            task.set_creds(Creds { securebits, ..creds });
            Ok(0)
        }
        p::PR_GET_SECUREBITS => Ok(u64::from(creds.securebits)),
        p::PR_SET_SECUREBITS => {
            let securebits = securebits_change(&creds, a)?;
            task.set_creds(Creds { securebits, ..creds });
            Ok(0)
        }
        p::PR_CAP_AMBIENT => {
            let [which, c, d] = rest;
            if c != 0 || d != 0 {
                return Err(Errno::EINVAL);
            }
            ambient(task, creds, a, which)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// New securebits, `capabilities(7)`: a locked bit and a lock stay as they are.
fn securebits_change(creds: &Creds, asked: u64) -> Result<u32, Errno> {
    let asked = u32::try_from(asked).ok().and_then(Securebits::from_bits).ok_or(Errno::EPERM)?.bits();
    let locks = Securebits::SECBIT_NOROOT_LOCKED
        | Securebits::SECBIT_NO_SETUID_FIXUP_LOCKED
        | Securebits::SECBIT_KEEP_CAPS_LOCKED
        | Securebits::SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
    let held = creds.securebits & locks.bits();
    let frozen = held | (held >> 1);
    if (creds.securebits ^ asked) & frozen != 0 || !creds.has(Caps::SETPCAP) { Err(Errno::EPERM) } else { Ok(asked) }
}

/// `PR_CAP_AMBIENT`.
fn ambient(task: &mut Task, creds: Creds, op: u64, which: u64) -> Result<u64, Errno> {
    if op == p::PR_CAP_AMBIENT_CLEAR_ALL {
        if which != 0 {
            return Err(Errno::EINVAL);
        }
        task.set_creds(Creds { ambient: Caps::empty(), ..creds });
        return Ok(0);
    }
    let capability = u32::try_from(which).ok().and_then(Caps::from_number).ok_or(Errno::EINVAL)?;
    let ambient = match op {
        p::PR_CAP_AMBIENT_IS_SET => return Ok(u64::from(creds.ambient.contains(capability))),
        p::PR_CAP_AMBIENT_LOWER => creds.ambient.difference(capability),
        p::PR_CAP_AMBIENT_RAISE => {
            let forbidden = creds.securebits & Securebits::SECBIT_NO_CAP_AMBIENT_RAISE.bits() != 0;
            if forbidden || !creds.permitted.intersection(creds.inheritable).contains(capability) {
                return Err(Errno::EPERM);
            }
            creds.ambient.union(capability)
        }
        _ => return Err(Errno::EINVAL),
    };
    task.set_creds(Creds { ambient, ..creds });
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::{field, securebits_change};
    use abi::Errno;
    use auth::{Creds, Gid, Uid};

    #[test]
    fn names_are_cut_and_terminated() {
        assert_eq!(field(b"abc")[..4], *b"abc\0");
        assert_eq!(field(&[b'x'; 100])[64], 0);
    }

    #[test]
    fn locked_securebits_stay() {
        let mut creds = Creds::root();
        assert_eq!(securebits_change(&creds, 0x2f), Ok(0x2f));
        creds.securebits = 0b11;
        assert_eq!(securebits_change(&creds, 0), Err(Errno::EPERM));
        assert_eq!(securebits_change(&creds, 0x100), Err(Errno::EPERM));
        assert_eq!(securebits_change(&Creds::new(Uid(1), Gid(1), vec![]), 0), Err(Errno::EPERM));
    }
}
