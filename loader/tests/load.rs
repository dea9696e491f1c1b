//! Programs of this machine and made-up ones, loaded.

use std::fs;
use std::path::Path;

use abi::Errno;
use casemate_loader as loader;
use loader::{ExecFile, Identity, LoadPlan, LoadRequest, MapSource, Randomness, Rseq, StackAccess, Vdso};
use proptest::prelude::{ProptestConfig, any, proptest};
use usermem::addr::{Addr, AddrRange};

#[derive(Clone, Debug)]
struct Bytes(Vec<u8>);

impl ExecFile for Bytes {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let rest = self.0.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

const RANDOM: [u8; 16] = *b"0123456789abcdef";

fn request<'a>(path: &'a [u8], argv: &'a [Vec<u8>], envp: &'a [Vec<u8>]) -> LoadRequest<'a> {
    LoadRequest {
        path,
        argv,
        envp,
        user: AddrRange { start: Addr(0x1_0000), end: Addr(0x7fff_ffff_f000) },
        stack_limit: 8 << 20,
        identity: Identity { uid: 1, euid: 2, gid: 3, egid: 4, secure: false },
        random: Randomness::none(RANDOM),
        hwcap: 5,
        hwcap2: 2,
        min_sigstack: 3632,
        vdso: Vdso::Mapped,
        rseq: Rseq::Announced,
    }
}

fn open(path: &[u8]) -> Result<Bytes, Errno> {
    fs::read(Path::new(std::str::from_utf8(path).unwrap())).map(Bytes).map_err(|_| Errno::ENOENT)
}

fn word(plan: &LoadPlan<Bytes>, at: u64) -> u64 {
    let index = usize::try_from(at - plan.stack.rsp.0).unwrap();
    u64::from_le_bytes(plan.stack.bytes[index..index + 8].try_into().unwrap())
}

fn string(plan: &LoadPlan<Bytes>, at: u64) -> &[u8] {
    let index = usize::try_from(at - plan.stack.rsp.0).unwrap();
    plan.stack.bytes[index..].split(|&byte| byte == 0).next().unwrap()
}

fn aux(plan: &LoadPlan<Bytes>, key: u64) -> Option<u64> {
    plan.auxv.chunks_exact(16).find_map(|entry| {
        let (k, v) = entry.split_at(8);
        (u64::from_le_bytes(k.try_into().unwrap()) == key).then(|| u64::from_le_bytes(v.try_into().unwrap()))
    })
}

#[test]
fn a_dynamic_program_gets_its_interpreter_and_a_linux_stack() {
    let argv = [b"bash".to_vec(), b"-c".to_vec(), b"".to_vec()];
    let envp = [b"PATH=/bin".to_vec(), b"X=".to_vec()];
    let request = request(b"/bin/bash", &argv, &envp);
    let plan = loader::load(&request, open(b"/bin/bash").unwrap(), &mut open).unwrap();
    assert_eq!(plan.files.len(), 2);
    assert_eq!(plan.comm, b"bash");
    assert_eq!(plan.stack.access, StackAccess::NoExec);
    let rsp = plan.stack.rsp.0;
    assert_eq!(word(&plan, rsp), 3);
    assert_eq!(string(&plan, word(&plan, rsp + 8)), b"bash");
    assert_eq!(string(&plan, word(&plan, rsp + 16)), b"-c");
    assert_eq!(string(&plan, word(&plan, rsp + 24)), b"");
    assert_eq!(word(&plan, rsp + 32), 0);
    assert_eq!(string(&plan, word(&plan, rsp + 40)), b"PATH=/bin");
    assert_eq!(string(&plan, word(&plan, rsp + 48)), b"X=");
    assert_eq!(word(&plan, rsp + 56), 0);
    let auxv_at = rsp + 64;
    let index = usize::try_from(auxv_at - rsp).unwrap();
    assert_eq!(&plan.stack.bytes[index..index + plan.auxv.len()], plan.auxv);
    assert_eq!(string(&plan, aux(&plan, abi::auxv::AT_EXECFN).unwrap()), b"/bin/bash");
    assert_eq!(string(&plan, aux(&plan, abi::auxv::AT_PLATFORM).unwrap()), b"x86_64");
    let random = usize::try_from(aux(&plan, abi::auxv::AT_RANDOM).unwrap() - rsp).unwrap();
    assert_eq!(plan.stack.bytes[random..random + 16], RANDOM);
    assert_eq!(aux(&plan, abi::auxv::AT_EUID), Some(2));
    assert_eq!(aux(&plan, abi::auxv::AT_NULL), Some(0));
    // Linux without randomisation puts programs here.
    assert!(plan.layout.start_code.0 >> 32 == 0x5555, "{:?}", plan.layout);
    let base = aux(&plan, abi::auxv::AT_BASE).unwrap();
    let first_of_interpreter =
        plan.maps.iter().find(|map| matches!(map.source, MapSource::File { file: 1, .. })).unwrap();
    assert_eq!(first_of_interpreter.range.start, Addr(base));
    assert!(plan.maps.iter().any(|map| map.range.contains(plan.entry)));
    assert_eq!(plan.vdso.map(|vdso| vdso.0), aux(&plan, abi::auxv::AT_SYSINFO_EHDR));
    let phdr = aux(&plan, abi::auxv::AT_PHDR).unwrap();
    assert!(plan.maps.iter().any(|map| map.range.contains(Addr(phdr))));
}

#[test]
fn randomness_moves_everything_and_keeps_alignment() {
    let argv = [b"bash".to_vec()];
    let mut request = request(b"/bin/bash", &argv, &[]);
    let plain = loader::load(&request, open(b"/bin/bash").unwrap(), &mut open).unwrap();
    request.random = Randomness { stack: 3, stack_offset: 4321, mmap: 5, exec: 7, brk: 9, at_random: RANDOM };
    let moved = loader::load(&request, open(b"/bin/bash").unwrap(), &mut open).unwrap();
    assert_eq!(plain.stack.range.end.0 - moved.stack.range.end.0, 3 * 4096);
    assert_eq!(plain.layout.mmap_base.0 - moved.layout.mmap_base.0, 5 * 4096);
    assert_eq!(moved.layout.start_code.0 - plain.layout.start_code.0, 7 * 4096);
    assert_eq!(moved.stack.rsp.0 % 16, 0);
    assert!(moved.layout.start_brk.0 - plain.layout.start_brk.0 == 16 * 4096);
}

#[test]
fn errors_are_linuxs() {
    let argv = [b"x".to_vec()];
    let request = request(b"/x", &argv, &[]);
    let load = |bytes: &[u8]| loader::load(&request, Bytes(bytes.to_vec()), &mut open).map(|_| ()).unwrap_err();
    assert_eq!(load(b""), Errno::ENOEXEC);
    assert_eq!(load(b"echo hi\n"), Errno::ENOEXEC);
    assert_eq!(load(b"#!/no/such/file\n"), Errno::ENOENT);
    let mut bash = fs::read("/bin/bash").unwrap();
    assert_eq!(load(&bash[..100]), Errno::ENOEXEC, "cut before its program headers");
    bash[18] = 183;
    assert_eq!(load(&bash), Errno::ENOEXEC, "another machine");
    bash[18] = 62;
    let request = LoadRequest { path: b"/x", ..request };
    let mut no_interpreter = |_: &[u8]| Err(Errno::ENOENT);
    let error = loader::load(&request, Bytes(bash.clone()), &mut no_interpreter).map(|_| ()).unwrap_err();
    assert_eq!(error, Errno::ENOENT);
    let mut text_interpreter = |_: &[u8]| Ok(Bytes(vec![b'a'; 4096]));
    let error = loader::load(&request, Bytes(bash), &mut text_interpreter).map(|_| ()).unwrap_err();
    assert_eq!(error, Errno::ELIBBAD);
}

#[test]
fn arguments_are_limited() {
    let bash = open(b"/bin/bash").unwrap();
    let long = [vec![b'a'; 131_072]];
    let result = loader::load(&request(b"/bin/bash", &long, &[]), bash.clone(), &mut open);
    assert_eq!(result.map(|_| ()), Err(Errno::E2BIG));
    let fits = [vec![b'a'; 131_071]];
    assert!(loader::load(&request(b"/bin/bash", &fits, &[]), bash.clone(), &mut open).is_ok());
    let many = vec![vec![b'a'; 100_000]; 21];
    assert_eq!(
        loader::load(&request(b"/bin/bash", &many, &[]), bash.clone(), &mut open).map(|_| ()),
        Err(Errno::E2BIG)
    );
    assert!(loader::load(&request(b"/bin/bash", &many[..20], &[]), bash, &mut open).is_ok());
}

#[test]
fn a_script_keeps_its_own_name() {
    let argv = [b"s".to_vec(), b"1".to_vec()];
    let plan = loader::load(&request(b"/tmp/s.sh", &argv, &[]), Bytes(b"#!/bin/sh -e\n".to_vec()), &mut open).unwrap();
    let rsp = plan.stack.rsp.0;
    let args: Vec<&[u8]> = (0..word(&plan, rsp)).map(|i| string(&plan, word(&plan, rsp + 8 + 8 * i))).collect();
    assert_eq!(args, [b"/bin/sh".as_slice(), b"-e", b"/tmp/s.sh", b"1"]);
    assert_eq!(plan.comm, b"s.sh");
    assert_eq!(string(&plan, aux(&plan, abi::auxv::AT_EXECFN).unwrap()), b"/tmp/s.sh");
}

/// A valid header and two program headers whose fields proptest then overwrites.
fn template() -> Vec<u8> {
    let mut bytes = fs::read("/bin/true").unwrap();
    bytes.truncate(8192);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn damaged_headers_never_break_an_invariant(changes in proptest::collection::vec((0..0x400_usize, any::<u8>()), 0..24)) {
        let mut bytes = template();
        for (at, value) in changes {
            bytes[at] = value;
        }
        loader::fuzz::elf(&bytes);
    }

    #[test]
    fn damaged_words_never_break_an_invariant(changes in proptest::collection::vec((4..0x60_usize, any::<u64>(), 0..64_u32), 0..4)) {
        let mut bytes = template();
        for (at, value, shift) in changes {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&(value >> shift).to_le_bytes());
        }
        loader::fuzz::elf(&bytes);
    }

    #[test]
    fn text_never_breaks_an_invariant(bytes in proptest::collection::vec(any::<u8>(), 0..600), script in any::<bool>()) {
        let mut file = if script { b"#!".to_vec() } else { Vec::new() };
        file.extend(bytes);
        loader::fuzz::elf(&file);
    }
}
