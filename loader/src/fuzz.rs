//! Entry for fuzzing: any bytes as a program must give a plan or an error, and a plan must hold its promises.

use abi::Errno;
use usermem::addr::{Addr, AddrRange};

use crate::plan::{ExecFile, Identity, LoadRequest, MapSource, Randomness, Rseq, Vdso};

#[derive(Clone, Copy, Debug)]
struct Slice<'a>(&'a [u8]);

impl ExecFile for Slice<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.0.get(from..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
    }
}

/// Loads `bytes` as program and as its own interpreter.
///
/// # Panics
/// When a plan breaks one of its invariants.
pub fn elf(bytes: &[u8]) {
    let user = AddrRange { start: Addr(0x1_0000), end: Addr(0x7fff_ffff_f000) };
    let argv = [b"program".to_vec(), b"argument".to_vec()];
    let envp = [b"A=1".to_vec()];
    let request = LoadRequest {
        path: b"/bin/program",
        argv: &argv,
        envp: &envp,
        user,
        stack_limit: 8 << 20,
        identity: Identity::default(),
        random: Randomness { stack: 12345, stack_offset: 77, mmap: 99, exec: 4242, brk: 17, at_random: [7; 16] },
        hwcap: 0,
        hwcap2: 0,
        min_sigstack: 2048,
        vdso: Vdso::Mapped,
        rseq: Rseq::Announced,
    };
    let Ok(plan) = crate::load(&request, Slice(bytes), &mut |_| Ok(Slice(bytes))) else { return };
    for map in &plan.maps {
        assert!(map.range.is_page_aligned() && !map.range.is_empty() && user.contains_range(map.range));
        assert!(map.range.intersect(plan.stack.range).is_none());
        if let MapSource::File { file, offset } = map.source {
            assert!(file < plan.files.len() && Addr(offset).is_page_aligned());
        }
        if let Some(zero) = map.zero_from {
            assert!(map.range.contains(zero) && zero.page_up() == Some(map.range.end));
        }
    }
    assert!(user.contains_range(plan.stack.range) && plan.stack.range.is_page_aligned());
    assert!(plan.stack.rsp.0 % 16 == 0);
    assert_eq!(plan.stack.rsp.0 + plan.stack.bytes.len() as u64, plan.stack.range.end.0);
    assert!(user.contains(plan.entry));
}

/// Resolves the first line of `bytes` as a script; every interpreter is what follows the next NUL byte, so that scripts nest.
///
/// # Panics
/// When a `#!` line adds more arguments than it may.
pub fn script(bytes: &[u8]) {
    let mut files = bytes.split(|&byte| byte == 0).map(Slice);
    let first = files.next().unwrap_or(Slice(bytes));
    let argv = [b"program".to_vec(), b"argument".to_vec()];
    let mut opened = 0;
    let found = crate::script::resolve(first, b"/bin/program", &argv, &mut |path| {
        assert!(!path.is_empty() && path.len() < 256, "an interpreter's path is part of the first 256 bytes");
        opened += 1;
        files.next().ok_or(Errno::ENOENT)
    });
    let Ok(program) = found else { return };
    assert!(opened <= 5 && program.argv.len() <= argv.len() + 2 * opened);
    assert!(program.argv.iter().all(|word| word.len() < 256));
    assert_eq!(program.argv.last().map(Vec::as_slice), Some(&b"argument"[..]));
}
