//! An application thread of a stub, as the kernel sees it: a listener to wait on and a slab to edit.
//!
//! Between two runs of guest code the thread waits in its hand-over, inside a signal handler. The guest's registers lie in
//! the signal frame on its alternate stack, in the slab, and we edit them in place. All of it is memory that other threads
//! of the same guest process can write: positions are checked against the slab before use, values go to the kernel as the
//! guest's own claims, each word read once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arch::Regs;
use usermem::Addr;
use usermem::platform::{Access, Exit, FaultInfo};

use crate::Calls;
use crate::cores::Seat;
use crate::handover::{Handover, Lost};
use crate::layout::{ALTSTACK, KICK_SIGNAL, SLAB, frame, line};
use crate::machine::Machine;

/// Flags that a program can set with popf; the rest is the host's.
const USER_FLAGS: u64 = 0x24_4dd5 | 0x1_0000;
/// Flags with which the fast exit must not be taken: it restores flags before rip, and TF would trap in between.
pub(crate) const SLOW_FLAGS: u64 = 0x100 | 0x4000 | 0x1_0000;
/// RF, which faults set.
const RESUME_FLAG: u64 = 0x1_0000;
/// Interrupts enabled, and the bit that is always one.
pub(crate) const FIXED_FLAGS: u64 = 0x202;

pub(crate) const CODE_64: u16 = 0x33;
const CODE_32: u16 = 0x23;
const DATA: u64 = 0x2b;

/// Late kicks that may come between an order to save the extended state and its being carried out.
const MAX_LATE_KICKS: usize = 8;

/// End of the lower canonical half.
const USER_END: u64 = 1 << 47;
/// The vsyscall page.
const VSYSCALL: std::ops::Range<u64> = 0xffff_ffff_ff60_0000..0xffff_ffff_ff60_1000;

/// `SI_KERNEL`.
const SI_KERNEL: i32 = 0x80;
/// `SYS_SECCOMP`, the code of a SIGSYS that a filter sent.
pub(crate) const SYS_SECCOMP: i32 = 1;
/// `AUDIT_ARCH_X86_64`.
pub(crate) const ARCH_X86_64: u32 = 0xc000_003e;
/// -ENOSYS.
const ENOSYS: u64 = (-(libc::ENOSYS as i64)) as u64;
/// General protection.
const TRAP_GP: u32 = 13;
/// Page fault.
const TRAP_PF: u32 = 14;

/// Where the general registers begin in a frame; they end with the segments.
const FIRST_REGISTER: u64 = frame::R8;
const REGISTERS: usize = 19;
static_assertions::const_assert!(FIRST_REGISTER + 8 * (REGISTERS as u64 - 1) == frame::SEGMENTS);

/// What a thread said when it handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// Guest code stopped by itself.
    Exit(Exit),
    /// A kick arrived.
    Kicked,
}

/// Something that no honest stub does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Impossible(pub(crate) &'static str);

/// An application thread.
#[derive(Debug)]
pub(crate) struct Thread {
    machine: Arc<Machine>,
    handover: Handover,
    /// Offset of its slab in the slab file.
    slab: u64,
    /// Address of its slab in the stub.
    address: u64,
    /// Thread id in our pid namespace.
    pub(crate) tid: i32,
    /// Offset of the `ucontext` in the slab; checked.
    frame: u64,
    /// What the frame's registers were when we last read or wrote them.
    known: [u64; REGISTERS],
    /// FS and GS base that the CPU has for the thread, when known.
    bases: Option<(u64, u64)>,
    /// The guest's extended state is in the CPU, not in the frame.
    live: bool,
}

impl Thread {
    /// Takes over a new thread when it has reached its first hand-over. `tid` counts where the host does not tell.
    pub(crate) fn adopt(
        machine: Arc<Machine>,
        mut handover: Handover,
        slab: u64,
        address: u64,
        tid: i32,
    ) -> io::Result<Self> {
        let first = handover.first(&machine, slab).map_err(|_| io::Error::other("a new stub thread died"))?;
        let tid = first.unwrap_or(tid);
        let mut thread =
            Self { machine, handover, slab, address, tid, frame: 0, known: [0; REGISTERS], bases: None, live: false };
        thread.find_frame().map_err(|Impossible(why)| io::Error::other(why))?;
        thread.known = thread.registers().each_ref().map(|word| word.load(Ordering::Relaxed));
        Ok(thread)
    }

    fn line_u32(&self, field: u64) -> u32 {
        self.machine.slabs.read_u32(self.slab + field)
    }

    fn line_u64(&self, field: u64) -> u64 {
        self.machine.slabs.read_u64(self.slab + field)
    }

    fn get(&self, field: u64) -> u64 {
        self.machine.slabs.read_u64(self.slab + self.frame + field)
    }

    /// The registers in the frame, in its order.
    fn registers(&self) -> &[AtomicU64; REGISTERS] {
        self.machine.slabs.atomic_words(self.slab + self.frame + FIRST_REGISTER)
    }

    /// Reads where the frame is, and checks it.
    fn find_frame(&mut self) -> Result<(), Impossible> {
        let offset = self.line_u64(line::FRAME).wrapping_sub(self.address);
        let fits = (ALTSTACK..=SLAB - frame::LEN).contains(&offset) && offset.is_multiple_of(8);
        if !fits {
            return Err(Impossible("signal frame outside the alternate stack"));
        }
        self.frame = offset;
        Ok(())
    }

    /// Offset of the XSAVE image in the slab file, checked.
    fn image(&self) -> Result<u64, Impossible> {
        let offset = self.get(frame::FPSTATE).wrapping_sub(self.address);
        let end = SLAB - self.machine.xsave.size as u64;
        if !(ALTSTACK..=end).contains(&offset) || !offset.is_multiple_of(64) {
            return Err(Impossible("extended state outside the alternate stack"));
        }
        Ok(self.slab + offset)
    }

    /// The extended state, normalised.
    pub(crate) fn read_image(&mut self, seat: &Seat) -> Result<Vec<u8>, Impossible> {
        self.save(seat)?;
        let at = self.image()?;
        let mut image = vec![0; self.machine.xsave.size];
        self.machine.slabs.read_bytes(at, &mut image);
        self.machine.xsave.normalise(&mut image);
        Ok(image)
    }

    /// Replaces the extended state; `image` need not be normal.
    pub(crate) fn write_image(&mut self, mut image: Vec<u8>) -> Result<(), Impossible> {
        let at = self.image()?;
        self.live = false;
        self.machine.xsave.normalise(&mut image);
        // The host's notes about the frame stay: nothing of ours reads them.
        self.machine.slabs.write_bytes(at, &image);
        Ok(())
    }

    /// Has the thread write its extended state to the frame.
    fn save(&mut self, seat: &Seat) -> Result<(), Impossible> {
        // A late kick makes it hand over before it has: once more, but not for a thread that plays tricks.
        for _ in 0..MAX_LATE_KICKS {
            if !self.live {
                return Ok(());
            }
            self.machine.slabs.write_u32(self.slab + line::FLAGS, line::SAVE | line::STILL_LIVE);
            self.machine.slabs.write_u64(self.slab + line::FRAME, self.address + self.frame);
            self.machine.slabs.write_u32(self.slab + line::KICKED, 0);
            self.handover.on_errand();
            self.run(seat, &mut || {}).map_err(|_| Impossible("the stub is gone"))?;
            let frame = self.frame;
            self.find_frame()?;
            if self.frame != frame {
                return Err(Impossible("another frame after saving"));
            }
            self.live = self.line_u32(line::LIVE) != 0;
        }
        Err(Impossible("extended state not saved"))
    }

    /// Writes `regs` to the frame, so that the thread continues with them. `Err`: the CPU could not run with these, and
    /// this is the fault it would raise.
    pub(crate) fn load(&mut self, regs: &Regs) -> Result<(), Exit> {
        if regs.rip >= USER_END && !VSYSCALL.contains(&regs.rip) {
            return Err(PROTECTION_FAULT);
        }
        let eflags = (regs.eflags & USER_FLAGS) | FIXED_FLAGS;
        let code = if regs.cs == u64::from(CODE_32) { CODE_32 } else { CODE_64 };
        let wanted = [
            regs.r8,
            regs.r9,
            regs.r10,
            regs.r11,
            regs.r12,
            regs.r13,
            regs.r14,
            regs.r15,
            regs.rdi,
            regs.rsi,
            regs.rbp,
            regs.rbx,
            regs.rdx,
            regs.rax,
            regs.rcx,
            regs.rsp,
            regs.rip,
            eflags,
            u64::from(code) | DATA << 48,
        ];
        // Only what changed: each line of the frame that we write has to travel to the stub's core.
        for ((word, wanted), known) in self.registers().iter().zip(&wanted).zip(&self.known) {
            if known != wanted {
                word.store(*wanted, Ordering::Relaxed);
            }
        }
        self.known = wanted;

        let mut flags = 0;
        let own_gs = if self.machine.calls == Calls::Entered { self.address } else { 0 };
        let gs_base = if regs.gs_base == 0 { own_gs } else { canonical(regs.gs_base) };
        let bases = (canonical(regs.fs_base), gs_base);
        if self.bases != Some(bases) {
            flags |= line::SET_BASES;
            self.machine.slabs.write_u64(self.slab + line::FS_BASE, bases.0);
            self.machine.slabs.write_u64(self.slab + line::GS_BASE, bases.1);
        }
        let after_syscall = regs.rcx == regs.rip && regs.r11 == eflags && code == CODE_64;
        if after_syscall && eflags & SLOW_FLAGS == 0 {
            flags |= line::FAST_EXIT;
        }
        if self.live {
            flags |= line::STILL_LIVE;
        }
        self.bases = Some(bases);
        self.machine.slabs.write_u32(self.slab + line::FLAGS, flags);
        self.machine.slabs.write_u64(self.slab + line::FRAME, self.address + self.frame);
        self.machine.slabs.write_u32(self.slab + line::KICKED, 0);
        Ok(())
    }

    /// What was loaded last did not get to run: the thread's bases are not those that it was told to set.
    pub(crate) fn not_run(&mut self) {
        self.bases = None;
    }

    /// Lets the thread go and waits until it hands over again; `idle` is called before that wait becomes a sleep.
    pub(crate) fn run(&mut self, seat: &Seat, idle: &mut dyn FnMut()) -> Result<(), Lost> {
        self.handover.run(&self.machine, self.slab, self.tid, seat, idle)
    }

    /// Whether the thread, which has no context, is known to wait where honest threads do.
    pub(crate) fn settle(&mut self) -> bool {
        let handed = self.machine.handed();
        self.handover.settle(&self.machine, self.slab, handed)
    }

    /// Has a settled thread, whose slab was cleared, forget its guest: then it is as it was when it was new.
    pub(crate) fn restart(&mut self) -> Result<(), Impossible> {
        let handed = self.machine.handed();
        self.handover.restart(handed).map_err(|_| Impossible("a thread that does not forget its guest"))?;
        self.find_frame()?;
        self.known = self.registers().each_ref().map(|word| word.load(Ordering::Relaxed));
        (self.bases, self.live) = (None, false);
        // What the fault at the end of `renew` looks like. No guest code has run meanwhile that could have written it.
        let [.., rip, flags, _] = self.known;
        let forgotten = self.known[..REGISTERS - 3].iter().all(|&word| word == 0)
            && rip == self.machine.renewed()
            && flags & (SLOW_FLAGS & !RESUME_FLAG) == 0
            && self.line_u32(line::SIGNAL) as i32 == libc::SIGSEGV
            && self.line_u64(line::FS_BASE) | self.line_u64(line::GS_BASE) | self.get(frame::CR2) == 0
            && self.get(frame::TRAPNO) as u32 == TRAP_PF;
        if forgotten { Ok(()) } else { Err(Impossible("a thread that has not forgotten its guest")) }
    }

    /// Forgets how the thread's last context went about its calls.
    pub(crate) fn renew(&mut self) {
        self.handover.renew(&self.machine.cores);
    }

    /// Its guest is about to make many calls.
    pub(crate) fn expect_calls(&mut self) {
        self.handover.expect_calls();
    }

    /// Offset of its slab in the slab file.
    pub(crate) fn slab(&self) -> u64 {
        self.slab
    }

    /// Reads why the thread handed over, and the guest's registers.
    pub(crate) fn read(&mut self, regs: &mut Regs) -> Result<Event, Impossible> {
        self.find_frame()?;
        let signal = self.line_u32(line::SIGNAL) as i32;
        self.known = self.registers().each_ref().map(|word| word.load(Ordering::Relaxed));
        let [r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags, segments] =
            self.known;
        *regs = Regs {
            r15,
            r14,
            r13,
            r12,
            rbp,
            rbx,
            r11,
            r10,
            r9,
            r8,
            rax,
            rcx,
            rdx,
            rsi,
            rdi,
            orig_rax: u64::MAX,
            rip,
            cs: segments & 0xffff,
            eflags,
            rsp,
            ss: DATA,
            fs_base: self.line_u64(line::FS_BASE),
            gs_base: self.line_u64(line::GS_BASE),
            ds: 0,
            es: 0,
            fs: 0,
            gs: 0,
        };
        self.bases = Some((regs.fs_base, regs.gs_base));
        self.live = self.line_u32(line::LIVE) != 0;
        if regs.gs_base == self.address {
            // What guest code without a GS base runs with.
            regs.gs_base = 0;
        }
        match signal {
            line::CALLED => {
                regs.cs = u64::from(CODE_64);
                regs.orig_rax = regs.rax;
                regs.rax = ENOSYS;
                Ok(Event::Exit(Exit::Call))
            }
            line::LOOK => {
                regs.cs = u64::from(CODE_64);
                Ok(Event::Exit(Exit::Interrupted))
            }
            libc::SIGSYS => self.syscall(regs),
            KICK_SIGNAL => {
                // The kick may have come before the exit wrote them.
                self.bases = None;
                Ok(Event::Kicked)
            }
            libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL | libc::SIGTRAP => self.fault(signal, regs),
            _ => Err(Impossible("unknown signal")),
        }
    }

    fn syscall(&self, regs: &mut Regs) -> Result<Event, Impossible> {
        let code = self.machine.slabs.read_u32(self.slab + self.frame + frame::INFO_CODE) as i32;
        if code != SYS_SECCOMP {
            return Err(Impossible("SIGSYS without a filter"));
        }
        if self.machine.slabs.read_u32(self.slab + self.frame + frame::INFO_ARCH) != ARCH_X86_64 {
            // int $0x80 and its kin, two bytes each: a Linux without 32-bit calls refuses the instruction.
            regs.rip = regs.rip.wrapping_sub(2);
            return Ok(Event::Exit(Exit::Fault(FaultInfo {
                signal: libc::SIGSEGV,
                code: SI_KERNEL,
                addr: Addr(0),
                trapno: TRAP_GP,
                error_code: 0x80 * 8 + 2,
                access: Access::Read,
            })));
        }
        regs.orig_rax = regs.rax;
        regs.rax = ENOSYS;
        Ok(Event::Exit(Exit::Syscall))
    }

    fn fault(&self, signal: i32, regs: &mut Regs) -> Result<Event, Impossible> {
        let text = self.machine.text();
        if text.contains(&regs.rip) {
            // Guest code that single-steps itself through a patched site goes by the instruction that traps.
            let before = self.machine.call_before(regs.rip, regs.rcx, regs.r11).filter(|_| signal == libc::SIGTRAP);
            regs.rip = before.ok_or(Impossible("fault in stub code"))?;
        }
        let slabs = &self.machine.slabs;
        let trapno = self.get(frame::TRAPNO) as u32;
        let error_code = self.get(frame::ERR) as u32;
        let access = match error_code {
            error if trapno == TRAP_PF && error & 0x10 != 0 => Access::Exec,
            error if trapno == TRAP_PF && error & 2 != 0 => Access::Write,
            _ => Access::Read,
        };
        let addr = if trapno == TRAP_PF {
            self.get(frame::CR2)
        } else {
            slabs.read_u64(self.slab + self.frame + frame::INFO_ADDR)
        };
        Ok(Event::Exit(Exit::Fault(FaultInfo {
            signal,
            code: slabs.read_u32(self.slab + self.frame + frame::INFO_CODE) as i32,
            addr: Addr(addr),
            trapno,
            error_code,
            access,
        })))
    }
}

/// The fault of a rip that is no address.
const PROTECTION_FAULT: Exit = Exit::Fault(FaultInfo {
    signal: libc::SIGSEGV,
    code: SI_KERNEL,
    addr: Addr(0),
    trapno: TRAP_GP,
    error_code: 0,
    access: Access::Exec,
});

/// A base that wrfsbase takes: what is not canonical becomes 0.
fn canonical(base: u64) -> u64 {
    let sign = (base as i64) >> 47;
    if sign == 0 || sign == -1 { base } else { 0 }
}
