//! Extended state (x87, SSE, AVX, AVX-512: whatever the CPU has) is nobody's but the program's: it survives calls of every
//! kind, faults, signals at any instruction, and moves between CPUs. Twenty thousand rounds, or ten million with
//! `CASEMATE_LONG`.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use casemate_guest_tests::sys;

/// x87, SSE, AVX, and the three components of AVX-512. Not: protection keys, tiles.
const COMPONENTS: u64 = 0b1110_0111;
const HEADER: usize = 512;
const FIRST_EXTENDED: usize = 576;
const AREA: usize = 4096;
/// Longest time of a long run, for machines where each call takes its time.
const LONGEST: Duration = Duration::from_secs(100);

/// What xsave and xrstor use.
#[repr(C, align(64))]
struct Area([u8; AREA]);

impl Area {
    fn zeroed() -> Self {
        Self([0; AREA])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// The components that this CPU and kernel have, and where the bytes of each are that a program can set freely.
struct Layout {
    components: u64,
    free: Vec<std::ops::Range<usize>>,
}

impl Layout {
    fn probe() -> Option<Self> {
        if !std::is_x86_feature_detected!("xsave") {
            return None;
        }
        let (low, high): (u32, u32);
        // SAFETY: 1. the CPU has xsave and the kernel has enabled it.
        unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
        let components = (u64::from(high) << 32 | u64::from(low)) & COMPONENTS;
        // The x87 registers, ten bytes each, then the SSE registers.
        let mut free: Vec<_> = (0..8).map(|register| 32 + register * 16..42 + register * 16).collect();
        free.push(160..416);
        for component in (2..8).filter(|component| components & (1 << component) != 0) {
            let leaf = __cpuid_count(0xd, component);
            let (start, len) = (leaf.ebx as usize, leaf.eax as usize);
            assert!(start >= FIRST_EXTENDED && start + len <= AREA);
            free.push(start..start + len);
        }
        Some(Self { components, free })
    }

    /// A state that says which round it is in each of its words.
    fn state(&self, area: &mut Area, round: u64) {
        // Control words as at the start of a program; all x87 registers in use.
        area.put(0, &0x37f_u16.to_le_bytes());
        area.put(4, &[0xff]);
        area.put(24, &0x1f80_u32.to_le_bytes());
        area.put(HEADER, &self.components.to_le_bytes());
        for (index, range) in self.free.iter().enumerate() {
            let seed = round.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index as u64 + 1);
            for (word, bytes) in area.0[range.clone()].chunks_mut(8).enumerate() {
                let value = seed.rotate_left(word as u32).wrapping_add(word as u64) | 1;
                bytes.copy_from_slice(&value.to_le_bytes()[..bytes.len()]);
            }
        }
    }

    /// The first byte in which two states differ.
    fn difference(&self, left: &Area, right: &Area) -> Option<usize> {
        let same = |range: &std::ops::Range<usize>| left.0[range.clone()] == right.0[range.clone()];
        let range = self.free.iter().find(|range| !same(range))?;
        range.clone().find(|at| left.0[*at] != right.0[*at])
    }
}

/// What happens while the state is in the registers.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Between {
    /// A call that kernels may patch.
    Call,
    /// A call that none can: a jump onto the next instruction follows.
    RawCall,
    /// A page that has to be brought in.
    Fault,
    /// A trap with a handler.
    Trap,
    /// The CPU is given away.
    Yield,
}

/// Loads `state`, lets `between` happen, and saves what there is then.
fn carry(state: &Area, after: &mut Area, components: u64, between: Between, page: *mut u8) {
    let (low, high) = (components as u32, (components >> 32) as u32);
    macro_rules! around {
        ($($code:literal),+; $($operand:tt)*) => {
            // SAFETY: 1. both areas are aligned and as long as the CPU's; 2. the state is valid; 3. the code between takes no
            // pointer but `page`, a mapped page; 4. all vector and x87 registers are clobbered, and empty at the end.
            unsafe {
                asm!(
                    "xrstor64 [r8]", "push rax", "push rdx", $($code,)+ "pop rdx", "pop rax", "xsave64 [r9]", "fninit",
                    in("r8") state, in("r9") after, in("eax") low, in("edx") high, $($operand)*
                    lateout("rcx") _, lateout("r11") _, out("r10") _, clobber_abi("C"),
                )
            }
        };
    }
    match between {
        Between::Call => around!("mov eax, 72", "syscall", "mov r10, rax"; in("rdi") 1, in("rsi") libc::F_GETFD,),
        Between::RawCall => {
            around!("mov eax, 72", "syscall", "jmp 2f", "2:"; in("rdi") 1, in("rsi") libc::F_GETFD,);
        }
        Between::Yield => around!("mov eax, 24", "syscall", "mov r10, rax";),
        Between::Fault => around!("mov byte ptr [r12], 1"; in("r12") page,),
        Between::Trap => around!("int3";),
    }
}

static SIGNALS: AtomicU64 = AtomicU64::new(0);

/// Leaves nothing in the registers that was there before.
extern "C" fn clobber(_signal: i32) {
    let mut initial = Area::zeroed();
    initial.put(24, &0x1f80_u32.to_le_bytes());
    let all = COMPONENTS as u32;
    // SAFETY: 1. the area is aligned and long enough, and says that everything is in its initial state; 2. so do the ABI's
    // rules at a function's return.
    unsafe { asm!("xrstor64 [{}]", in(reg) &raw const initial, in("eax") all, in("edx") 0, options(nostack)) };
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

fn handle(signal: i32) {
    // SAFETY: 1. sigaction is plain data.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = clobber as extern "C" fn(i32) as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: 1. `action` lives across the call and names a handler of the right type.
    assert_eq!(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }, 0);
}

#[test]
fn extended_state_survives_whatever_comes_between() {
    let Some(layout) = Layout::probe() else { return };
    let long = std::env::var_os("CASEMATE_LONG").is_some();
    let rounds: u64 = if long { 10_000_000 } else { 20_000 };
    handle(libc::SIGUSR1);
    handle(libc::SIGTRAP);
    let page =
        sys!(mmap, 0, 4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, u64::MAX, 0);
    let page = page.expect("a page") as *mut u8;
    let (pid, tid) = (sys!(getpid).unwrap(), sys!(gettid).unwrap());
    let done = AtomicBool::new(false);
    let mut sent = 0_u64;
    std::thread::scope(|scope| {
        let done = &done;
        // Signals at any instruction, and now and then another CPU.
        let sender = scope.spawn(move || {
            let mut sent = 0_u64;
            while !done.load(Ordering::Relaxed) {
                assert_eq!(sys!(tgkill, pid, tid, libc::SIGUSR1), Ok(0));
                sent += 1;
                if sent.is_multiple_of(16) {
                    let cpus: u64 = if sent.is_multiple_of(48) { u64::MAX } else { 1 << (sent / 16 % 2) };
                    // A machine with one CPU refuses the other.
                    let _ = sys!(sched_setaffinity, tid, 8, &raw const cpus);
                }
                std::thread::sleep(Duration::from_micros(sent % if long { 4_000 } else { 400 }));
            }
            sent
        });
        let begun = Instant::now();
        let (mut state, mut after) = (Area::zeroed(), Area::zeroed());
        for round in 0..rounds {
            let between = match round % 64 {
                1 | 33 => Between::RawCall,
                7 => Between::Fault,
                13 => Between::Trap,
                21 => Between::Yield,
                _ => Between::Call,
            };
            if between == Between::Fault {
                assert_eq!(sys!(madvise, page, 4096, libc::MADV_DONTNEED), Ok(0));
            }
            layout.state(&mut state, round);
            carry(&state, &mut after, layout.components, between, page);
            if let Some(at) = layout.difference(&state, &after) {
                done.store(true, Ordering::Relaxed);
                panic!("round {round}, {between:?}: byte {at} is {:#x}, was {:#x}", after.0[at], state.0[at]);
            }
            if round.is_multiple_of(4096) && begun.elapsed() > LONGEST {
                assert!(round > rounds / 20, "{round} rounds in {LONGEST:?}");
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        sent = sender.join().unwrap();
    });
    let handled = SIGNALS.load(Ordering::Relaxed);
    assert!(sent > 0 && handled >= rounds.min(20_000) / 64, "{handled} handled, {sent} sent");
}
