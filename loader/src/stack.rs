//! The initial stack: strings, pointers and the auxiliary vector, laid out as `execve(2)` leaves them on Linux.
//!
//! From high to low addresses: eight zero bytes, the path, environment strings, argument strings, a random distance,
//! the platform's name, sixteen random bytes, and then, up from the stack pointer: argc, argv, NULL, envp, NULL, auxv.

use abi::Errno;
use abi::auxv as at;
use usermem::addr::{Addr, AddrRange, PAGE_SIZE};

use crate::plan::{Layout, LoadRequest, MmapDirection, PlannedStack, Rseq, StackAccess};

/// Longest single string in bytes, NUL included (`MAX_ARG_STRLEN`).
const MAX_STRING: usize = 32 * 4096;
/// Bytes that arguments and environment may always take (`ARG_MAX`).
const ARGUMENTS_FLOOR: u64 = 128 * 1024;
/// Bytes they may never pass: three quarters of the default stack.
const ARGUMENTS_CEILING: u64 = 6 * 1024 * 1024;
/// Stack kept mapped below the initial stack pointer.
const HEADROOM: u64 = 128 * 1024;
/// Random distance between strings and tables is below this.
const OFFSET_RANDOM: u64 = 8192;
/// `AT_PLATFORM`.
const PLATFORM: &[u8] = b"x86_64\0";
/// Entries of the auxiliary vector when all are present.
const MAX_AUX_ENTRIES: u64 = 24;

/// Where the strings go, known before anything else is placed.
pub(crate) struct Strings {
    /// The whole stack.
    pub(crate) range: AddrRange,
    args: Addr,
    envs: Addr,
    path: Addr,
    platform: Addr,
    random: Addr,
    tables: Addr,
}

/// What only the placement of the program can tell.
pub(crate) struct Auxiliary {
    pub(crate) vdso: Option<Addr>,
    pub(crate) phdr: Addr,
    pub(crate) phnum: u16,
    pub(crate) base: Addr,
    pub(crate) entry: Addr,
}

/// The finished stack.
pub(crate) struct Built {
    pub(crate) stack: PlannedStack,
    pub(crate) layout: Layout,
    pub(crate) auxv: Vec<u8>,
}

fn strings_len(strings: &[Vec<u8>]) -> Result<u64, Errno> {
    let mut sum = 0_u64;
    for string in strings {
        if string.len() >= MAX_STRING {
            return Err(Errno::E2BIG);
        }
        sum = sum.checked_add(string.len() as u64 + 1).ok_or(Errno::E2BIG)?;
    }
    Ok(sum)
}

/// `E2BIG` when path, arguments and environment with their pointers exceed what `execve(2)` accepts.
pub(crate) fn check_limits(argv: &[Vec<u8>], request: &LoadRequest<'_>) -> Result<(), Errno> {
    let pointers = (argv.len() as u64).saturating_add(request.envp.len() as u64).saturating_mul(8);
    let limit = (request.stack_limit / 4).clamp(ARGUMENTS_FLOOR, ARGUMENTS_CEILING);
    let room = limit.checked_sub(pointers).filter(|&room| room > 0).ok_or(Errno::E2BIG)?;
    let used = strings_len(argv)?
        .checked_add(strings_len(request.envp)?)
        .and_then(|sum| sum.checked_add(request.path.len() as u64 + 1))
        .ok_or(Errno::E2BIG)?;
    if used > room || request.path.len() >= MAX_STRING { Err(Errno::E2BIG) } else { Ok(()) }
}

/// Decides where everything goes on a stack that ends at `top`. The limits have been checked.
pub(crate) fn measure(top: Addr, argv: &[Vec<u8>], request: &LoadRequest<'_>) -> Result<Strings, Errno> {
    let down = |from: u64, len: u64| from.checked_sub(len).ok_or(Errno::ENOMEM);
    let path = down(top.0, 8 + request.path.len() as u64 + 1)?;
    let envs = down(path, strings_len(request.envp)?)?;
    let args = down(envs, strings_len(argv)?)?;
    let aligned = down(args, request.random.stack_offset % OFFSET_RANDOM)? & !15;
    let platform = down(aligned, PLATFORM.len() as u64)?;
    let random = down(platform, request.random.at_random.len() as u64)?;
    let words = 1 + (argv.len() as u64 + 1) + (request.envp.len() as u64 + 1);
    let tables = down(random, words * 8 + MAX_AUX_ENTRIES * 16)? & !15;

    let lowest = Addr(tables).page_down().0;
    let limit = (request.stack_limit & !(PAGE_SIZE - 1)).min(ARGUMENTS_CEILING * 4);
    let wanted = down(lowest, HEADROOM)?;
    let start = wanted.max(down(top.0, limit)?).min(lowest);
    let range = AddrRange::new(Addr(start), top).ok_or(Errno::ENOMEM)?;
    Ok(Strings {
        range,
        args: Addr(args),
        envs: Addr(envs),
        path: Addr(path),
        platform: Addr(platform),
        random: Addr(random),
        tables: Addr(tables),
    })
}

fn push_word(bytes: &mut Vec<u8>, word: u64) {
    bytes.extend_from_slice(&word.to_le_bytes());
}

/// Pointers to `strings`, which lie one after another from `at` on, and a NULL.
fn push_pointers(bytes: &mut Vec<u8>, at: Addr, strings: &[Vec<u8>]) {
    let mut next = at.0;
    for string in strings {
        push_word(bytes, next);
        next = next.saturating_add(string.len() as u64 + 1);
    }
    push_word(bytes, 0);
}

fn push_strings(bytes: &mut Vec<u8>, strings: &[Vec<u8>]) {
    for string in strings {
        bytes.extend_from_slice(string);
        bytes.push(0);
    }
}

fn auxv(strings: &Strings, request: &LoadRequest<'_>, auxiliary: &Auxiliary) -> Vec<u8> {
    let id = request.identity;
    let mut entries: Vec<(u64, u64)> = Vec::new();
    entries.extend(auxiliary.vdso.map(|vdso| (at::AT_SYSINFO_EHDR, vdso.0)));
    entries.extend([
        (at::AT_MINSIGSTKSZ, request.min_sigstack),
        (at::AT_HWCAP, request.hwcap),
        (at::AT_PAGESZ, PAGE_SIZE),
        (at::AT_CLKTCK, abi::time::USER_HZ.unsigned_abs()),
        (at::AT_PHDR, auxiliary.phdr.0),
        (at::AT_PHENT, size_of::<abi::elf::Phdr>() as u64),
        (at::AT_PHNUM, u64::from(auxiliary.phnum)),
        (at::AT_BASE, auxiliary.base.0),
        (at::AT_FLAGS, 0),
        (at::AT_ENTRY, auxiliary.entry.0),
        (at::AT_UID, u64::from(id.uid)),
        (at::AT_EUID, u64::from(id.euid)),
        (at::AT_GID, u64::from(id.gid)),
        (at::AT_EGID, u64::from(id.egid)),
        (at::AT_SECURE, u64::from(id.secure)),
        (at::AT_RANDOM, strings.random.0),
        (at::AT_HWCAP2, request.hwcap2),
        (at::AT_EXECFN, strings.path.0),
        (at::AT_PLATFORM, strings.platform.0),
    ]);
    if request.rseq == Rseq::Announced {
        entries.push((at::AT_RSEQ_FEATURE_SIZE, abi::rseq::RSEQ_FEATURE_SIZE));
        entries.push((at::AT_RSEQ_ALIGN, abi::rseq::RSEQ_ALIGN));
    }
    entries.push((at::AT_NULL, 0));
    let mut bytes = Vec::with_capacity(entries.len() * 16);
    for (key, value) in entries {
        push_word(&mut bytes, key);
        push_word(&mut bytes, value);
    }
    bytes
}

/// Writes everything to the places that [`measure`] chose.
pub(crate) fn build(
    strings: &Strings,
    argv: &[Vec<u8>],
    request: &LoadRequest<'_>,
    auxiliary: &Auxiliary,
    access: StackAccess,
) -> Result<Built, Errno> {
    let rsp = strings.tables;
    let top = strings.range.end;
    let auxv = auxv(strings, request, auxiliary);
    let total = usize::try_from(top.0 - rsp.0).map_err(|_| Errno::E2BIG)?;
    let mut bytes = Vec::with_capacity(total);
    push_word(&mut bytes, argv.len() as u64);
    push_pointers(&mut bytes, strings.args, argv);
    push_pointers(&mut bytes, strings.envs, request.envp);
    bytes.extend_from_slice(&auxv);
    for (to, content) in [(strings.random, request.random.at_random.as_slice()), (strings.platform, PLATFORM)] {
        fill_to(&mut bytes, rsp, to)?;
        bytes.extend_from_slice(content);
    }
    fill_to(&mut bytes, rsp, strings.args)?;
    push_strings(&mut bytes, argv);
    push_strings(&mut bytes, request.envp);
    bytes.extend_from_slice(request.path);
    fill_to(&mut bytes, rsp, top)?;

    let layout = Layout {
        mmap_base: Addr(0),
        mmap_direction: MmapDirection::TopDown,
        start_code: Addr(0),
        end_code: Addr(0),
        start_data: Addr(0),
        end_data: Addr(0),
        start_brk: Addr(0),
        start_stack: rsp,
        arg_start: strings.args,
        arg_end: strings.envs,
        env_start: strings.envs,
        env_end: strings.path,
    };
    Ok(Built { stack: PlannedStack { range: strings.range, access, rsp, bytes }, layout, auxv })
}

/// Extends `bytes`, which start at `base`, with zeros up to address `to`.
fn fill_to(bytes: &mut Vec<u8>, base: Addr, to: Addr) -> Result<(), Errno> {
    let len = to.0.checked_sub(base.0).and_then(|len| usize::try_from(len).ok()).ok_or(Errno::ENOMEM)?;
    // The tables were measured for the longest vector, so nothing written so far reaches past `to`.
    debug_assert!(bytes.len() <= len, "the stack image overlaps itself");
    bytes.resize(len, 0);
    Ok(())
}

/// The name of a task that runs `path`: its last component, at most 15 bytes.
pub(crate) fn comm(path: &[u8]) -> Vec<u8> {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    name.get(..name.len().min(abi::prctl::TASK_COMM_LEN - 1)).unwrap_or_default().to_vec()
}
