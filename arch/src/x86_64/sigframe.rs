//! Signal frames: what Linux 6.12 leaves on the stack of a handler, and what `rt_sigreturn(2)` makes of it.
//!
//! [`build`] turns an interrupted context into bytes to write and registers to continue with; [`parse`] does the
//! reverse with whatever the guest made of those bytes. From high to low addresses: extended state (64-byte aligned)
//! with its closing magic, siginfo, ucontext, return address; the stack pointer is 8 below a multiple of 16.

use alloc::vec;
use alloc::vec::Vec;

use abi::Errno;
use abi::signal::{SigAction, SigInfo, SigSet, StackT};
use abi::ucontext::{
    FP_XSTATE_MAGIC1, FP_XSTATE_MAGIC2, FP_XSTATE_MAGIC2_SIZE, FPX_SW_BYTES_OFFSET, FpxSwBytes, RtSigframe, Sigcontext,
    UcFlags, Ucontext,
};
use zerocopy::{FromZeros, IntoBytes, TryFromBytes};

use super::regs::{FpuState, Regs, USER_CS, USER_SS, flags};
use super::xsave::{FPSSE, HEADER_END, LEGACY_LEN, XSTATE_BV, XsaveLayout, get_u32, get_u64, put};

/// Bytes below the stack pointer that belong to the interrupted function (System V ABI).
const RED_ZONE: u64 = 128;
const FRAME_LEN: u64 = size_of::<RtSigframe>() as u64;
const STATE_ALIGN: u64 = 64;
const FRAME_ALIGN: u64 = 16;

/// The CPU's last exception, as the frame reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TrapInfo {
    /// Vector.
    pub trapno: u64,
    /// Error code.
    pub error_code: u64,
    /// Faulting address of the last page fault.
    pub cr2: u64,
}

/// Copies guest memory from an address; it may stop at a fault.
pub type Read<'a> = dyn FnMut(u64, &mut [u8]) -> Result<(), Errno> + 'a;

/// Which stack the handler runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandlerStack {
    /// The interrupted one; with the bounds of the alternate stack when the task is already on it.
    Current { alternate: Option<(u64, u64)> },
    /// The alternate one, `[base, base + size)`, from its top.
    Alternate { base: u64, size: u64 },
}

/// A signal to deliver.
#[derive(Clone, Copy, Debug)]
pub struct FrameRequest<'a> {
    /// Interrupted registers, system-call restart already settled.
    pub regs: &'a Regs,
    /// Interrupted extended state, as `pull_full` gave it.
    pub fpu: &'a FpuState,
    /// Components of `fpu`.
    pub layout: XsaveLayout,
    /// Number of the signal.
    pub signal: i32,
    /// What the handler is told.
    pub info: &'a SigInfo,
    /// What the guest asked for.
    pub action: &'a SigAction,
    /// Mask to restore on return.
    pub mask: SigSet,
    /// Alternate stack as `sigaltstack(2)` would report it, to restore on return.
    pub altstack: StackT,
    /// Where the frame goes.
    pub stack: HandlerStack,
    /// The last exception.
    pub trap: TrapInfo,
}

/// A frame to write, and how the handler starts. The extended state at its start is [`XsaveLayout::initial`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Where `bytes` go.
    pub address: u64,
    /// The frame and the extended state above it.
    pub bytes: Vec<u8>,
    /// Registers at the handler's first instruction.
    pub regs: Regs,
}

/// What `rt_sigreturn(2)` restores.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    /// Sanitized registers, `orig_rax` outside a call.
    pub regs: Regs,
    /// Extended state.
    pub fpu: FpuState,
    /// Signal mask, still with whatever the guest put in it.
    pub mask: SigSet,
    /// Argument for the `sigaltstack(2)` that the return implies; its errors are ignored.
    pub altstack: StackT,
}

/// Largest frame for `layout`: `AT_MINSIGSTKSZ`.
pub fn max_len(layout: XsaveLayout) -> u64 {
    let padding = STATE_ALIGN - 1 + FRAME_ALIGN + 8;
    (FRAME_LEN + padding + layout.size as u64 + FP_XSTATE_MAGIC2_SIZE as u64 + RED_ZONE).next_multiple_of(FRAME_ALIGN)
}

/// Builds the frame for a handler; `None` when the stack has no room for it at any address or would leave the alternate
/// stack, which Linux answers with SIGSEGV.
pub fn build(request: &FrameRequest<'_>) -> Option<Frame> {
    let (top, bounds) = match request.stack {
        HandlerStack::Current { alternate } => (request.regs.rsp.checked_sub(RED_ZONE)?, alternate),
        HandlerStack::Alternate { base, size } => (base.checked_add(size)?, Some((base, size))),
    };
    let state = state_bytes(request.fpu, request.layout);
    let state_at = top.checked_sub(state.len() as u64)? & !(STATE_ALIGN - 1);
    let address = (state_at.checked_sub(FRAME_LEN)? & !(FRAME_ALIGN - 1)).checked_sub(8)?;
    if let Some((base, size)) = bounds {
        // Same test as Linux's `__on_sig_stack`: strictly above the base.
        if !(address > base && address - base <= size) {
            return None;
        }
    }

    let regs = request.regs;
    let mut uc_flags = UcFlags::UC_SIGCONTEXT_SS | UcFlags::UC_STRICT_RESTORE_SS;
    if request.layout.size >= HEADER_END {
        uc_flags |= UcFlags::UC_FP_XSTATE;
    }
    let frame = RtSigframe {
        pretcode: request.action.restorer,
        uc: Ucontext {
            uc_flags: uc_flags.bits(),
            uc_link: 0,
            uc_stack: request.altstack,
            uc_mcontext: sigcontext(regs, request, state_at),
            uc_sigmask: request.mask,
        },
        info: *request.info,
    };
    let mut bytes = vec![0; usize::try_from(state_at - address).ok()?];
    put(&mut bytes, 0, frame.as_bytes());
    bytes.extend_from_slice(&state);

    let frame_field = |offset: usize| address + offset as u64;
    let handler = Regs {
        rdi: u64::from(request.signal.unsigned_abs()),
        rsi: frame_field(core::mem::offset_of!(RtSigframe, info)),
        rdx: frame_field(core::mem::offset_of!(RtSigframe, uc)),
        rax: 0,
        rip: request.action.handler,
        rsp: address,
        cs: USER_CS,
        ss: USER_SS,
        eflags: regs.eflags & !(flags::DF | flags::RF | flags::TF),
        orig_rax: Regs::NO_SYSCALL,
        ..*regs
    };
    Some(Frame { address, bytes, regs: handler })
}

fn sigcontext(regs: &Regs, request: &FrameRequest<'_>, fpstate: u64) -> Sigcontext {
    Sigcontext {
        r8: regs.r8,
        r9: regs.r9,
        r10: regs.r10,
        r11: regs.r11,
        r12: regs.r12,
        r13: regs.r13,
        r14: regs.r14,
        r15: regs.r15,
        di: regs.rdi,
        si: regs.rsi,
        bp: regs.rbp,
        bx: regs.rbx,
        dx: regs.rdx,
        ax: regs.rax,
        cx: regs.rcx,
        sp: regs.rsp,
        ip: regs.rip,
        flags: regs.eflags,
        cs: USER_CS as u16,
        gs: 0,
        fs: 0,
        ss: USER_SS as u16,
        err: request.trap.error_code,
        trapno: request.trap.trapno,
        oldmask: request.mask.0,
        cr2: request.trap.cr2,
        fpstate,
        reserved1: [0; 8],
    }
}

/// The extended state as it lies in memory, with its notes and magics.
fn state_bytes(fpu: &FpuState, layout: XsaveLayout) -> Vec<u8> {
    let mut bytes = if fpu.image.len() >= LEGACY_LEN { fpu.image.clone() } else { layout.initial().image };
    bytes.resize(layout.size, 0);
    if layout.size < HEADER_END {
        return bytes;
    }
    // A handler may look at x87 and SSE state whether or not it was in its initial configuration.
    let present = get_u64(&bytes, XSTATE_BV).unwrap_or(0) | FPSSE;
    put(&mut bytes, XSTATE_BV, &present.to_le_bytes());
    let size = u32::try_from(layout.size).unwrap_or(u32::MAX);
    let notes = FpxSwBytes {
        magic1: FP_XSTATE_MAGIC1,
        extended_size: size.saturating_add(FP_XSTATE_MAGIC2_SIZE as u32),
        xfeatures: layout.features,
        xstate_size: size,
        padding: [0; 7],
    };
    put(&mut bytes, FPX_SW_BYTES_OFFSET, notes.as_bytes());
    bytes.extend_from_slice(&FP_XSTATE_MAGIC2.to_le_bytes());
    bytes
}

/// Undoes [`build`] for a task whose registers are `current`, at its `rt_sigreturn(2)`; `read` copies guest memory.
///
/// An error (the frame cannot be read, or holds extended state that a CPU refuses) means SIGSEGV for the task.
pub fn parse(current: &Regs, layout: XsaveLayout, read: &mut Read<'_>) -> Result<Restored, Errno> {
    // The handler's return popped the return address.
    let address = current.rsp.checked_sub(8).ok_or(Errno::EFAULT)?;
    let mut frame = RtSigframe::new_zeroed();
    read(address, frame.as_mut_bytes())?;
    let context = &frame.uc.uc_mcontext;
    let mut regs = Regs {
        r15: context.r15,
        r14: context.r14,
        r13: context.r13,
        r12: context.r12,
        rbp: context.bp,
        rbx: context.bx,
        r11: context.r11,
        r10: context.r10,
        r9: context.r9,
        r8: context.r8,
        rax: context.ax,
        rcx: context.cx,
        rdx: context.dx,
        rsi: context.si,
        rdi: context.di,
        rip: context.ip,
        eflags: context.flags,
        rsp: context.sp,
        orig_rax: Regs::NO_SYSCALL,
        ..*current
    };
    // Only 64-bit code runs here, so a frame that asks for another mode cannot be honoured.
    if context.cs | 3 != USER_CS as u16 {
        return Err(Errno::EFAULT);
    }
    regs.sanitize(current, flags::SIGRETURN);
    let fpu = match context.fpstate {
        0 => layout.initial(),
        state => parse_state(state, layout, read)?,
    };
    Ok(Restored { regs, fpu, mask: frame.uc.uc_sigmask, altstack: frame.uc.uc_stack })
}

fn parse_state(at: u64, layout: XsaveLayout, read: &mut Read<'_>) -> Result<FpuState, Errno> {
    let mut bytes = vec![0; LEGACY_LEN];
    read(at, &mut bytes)?;
    let notes = bytes.get(FPX_SW_BYTES_OFFSET..).and_then(|tail| FpxSwBytes::try_read_from_bytes(tail).ok());
    // Without sound notes the frame holds an FXSAVE image and nothing more.
    let whole = notes.filter(|notes| {
        let size = notes.xstate_size as usize;
        notes.magic1 == FP_XSTATE_MAGIC1
            && (HEADER_END..=layout.size).contains(&size)
            && notes.xstate_size <= notes.extended_size
    });
    let mut wanted = FPSSE;
    if let Some(notes) = whole {
        let size = notes.xstate_size as usize;
        let mut rest = vec![0; size + FP_XSTATE_MAGIC2_SIZE - LEGACY_LEN];
        read(at.checked_add(LEGACY_LEN as u64).ok_or(Errno::EFAULT)?, &mut rest)?;
        if get_u32(&rest, size - LEGACY_LEN) == Some(FP_XSTATE_MAGIC2) {
            rest.truncate(size - LEGACY_LEN);
            bytes.append(&mut rest);
            bytes.resize(layout.size, 0);
            wanted = notes.xfeatures & layout.features;
        }
    }
    layout.accept(&bytes, wanted).map_err(|_| Errno::EFAULT)
}

#[cfg(test)]
mod tests {
    use super::{Frame, FrameRequest, HandlerStack, TrapInfo, build, max_len, parse};
    use crate::x86_64::regs::{Regs, flags};
    use crate::x86_64::xsave::{XSTATE_BV, XsaveLayout};
    use abi::Errno;
    use abi::signal::{SIGSEGV, SigAction, SigInfo, SigSet, StackT};

    const LAYOUT: XsaveLayout = XsaveLayout { features: 7, size: 832 };
    const ACTION: SigAction = SigAction { handler: 0x40_1000, flags: 0, restorer: 0x40_2000, mask: SigSet::EMPTY };

    fn interrupted() -> Regs {
        let mut regs = Regs::for_exec(0x40_3000, 0x7000_0013);
        regs.r15 = 15;
        regs.rax = 7;
        regs.eflags |= flags::DF | flags::ZF;
        regs.fs_base = 0x1234_0000;
        regs
    }

    fn frame(regs: &Regs, stack: HandlerStack) -> Option<Frame> {
        let info = SigInfo::fault(SIGSEGV, 1, 0xdead);
        let altstack = StackT { ss_sp: 0x5000, ss_flags: 2, _pad: 0, ss_size: 0 };
        build(&FrameRequest {
            regs,
            fpu: &LAYOUT.initial(),
            layout: LAYOUT,
            signal: SIGSEGV,
            info: &info,
            action: &ACTION,
            mask: SigSet(5),
            altstack,
            stack,
            trap: TrapInfo { trapno: 14, error_code: 6, cr2: 0xdead },
        })
    }

    fn reader(frame: &Frame) -> impl FnMut(u64, &mut [u8]) -> Result<(), Errno> {
        move |at, buf| {
            let from = usize::try_from(at.checked_sub(frame.address).ok_or(Errno::EFAULT)?).unwrap();
            buf.copy_from_slice(frame.bytes.get(from..from + buf.len()).ok_or(Errno::EFAULT)?);
            Ok(())
        }
    }

    fn returning(frame: &Frame) -> Regs {
        Regs { rsp: frame.address + 8, fs_base: 0x1234_0000, ..frame.regs }
    }

    #[test]
    fn a_frame_is_aligned_and_below_the_red_zone() {
        let regs = interrupted();
        let frame = frame(&regs, HandlerStack::Current { alternate: None }).unwrap();
        assert_eq!(frame.regs.rsp % 16, 8);
        assert_eq!((frame.regs.rsi, frame.regs.rdx), (frame.address + 312, frame.address + 8));
        assert!(frame.address + frame.bytes.len() as u64 <= regs.rsp - 128);
        assert_eq!(frame.regs.eflags & flags::DF, 0);
        assert_eq!(frame.bytes[..8], ACTION.restorer.to_le_bytes());
        assert!(frame.bytes.len() as u64 <= max_len(LAYOUT));
    }

    #[test]
    fn returning_restores_everything() {
        let regs = interrupted();
        let frame = frame(&regs, HandlerStack::Current { alternate: None }).unwrap();
        let restored = parse(&returning(&frame), LAYOUT, &mut reader(&frame)).unwrap();
        assert_eq!(restored.regs, regs);
        assert_eq!(restored.mask, SigSet(5));
        assert_eq!(restored.altstack.ss_sp, 0x5000);
        assert_eq!(restored.fpu, LAYOUT.initial());
    }

    #[test]
    fn the_alternate_stack_has_bounds() {
        let regs = interrupted();
        let alternate = frame(&regs, HandlerStack::Alternate { base: 0x10_0000, size: 0x4000 }).unwrap();
        assert!(alternate.address > 0x10_0000 && alternate.address < 0x10_4000);
        assert_eq!(frame(&regs, HandlerStack::Alternate { base: 0x10_0000, size: 512 }), None);
        let nested = HandlerStack::Current { alternate: Some((regs.rsp - 600, 4096)) };
        assert_eq!(frame(&regs, nested), None);
        assert_eq!(frame(&Regs { rsp: 100, ..regs }, HandlerStack::Current { alternate: None }), None);
    }

    #[test]
    fn a_forged_frame_gains_nothing() {
        let regs = interrupted();
        let good = frame(&regs, HandlerStack::Current { alternate: None }).unwrap();
        let state = good.bytes.len() - LAYOUT.size - 4;
        let forge = |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad.bytes[at..at + bytes.len()].copy_from_slice(bytes);
            parse(&returning(&bad), LAYOUT, &mut reader(&bad))
        };
        let flags_at = 8 + 40 + 136;
        let forged = forge(flags_at, &u64::MAX.to_le_bytes()).unwrap();
        assert_eq!(forged.regs.eflags, flags::SIGRETURN | flags::IF | flags::RESERVED);
        assert_eq!(forge(8 + 40 + 144, &[0x10, 0]), Err(Errno::EFAULT), "kernel code segment");
        assert_eq!(forge(state + XSTATE_BV + 9, &[1]), Err(Errno::EFAULT), "compacted format");
        let legacy = forge(state + 464, &[0]).unwrap();
        assert_eq!(legacy.fpu.image[XSTATE_BV], 3, "no magic: the legacy region alone");
        let huge = forge(state + 464 + 16, &u32::MAX.to_le_bytes()).unwrap();
        assert_eq!(huge.fpu.image.len(), LAYOUT.size);
        assert_eq!(forge(8 + 40 + 184, &u64::MAX.to_le_bytes()), Err(Errno::EFAULT), "state outside memory");
        let none = forge(8 + 40 + 184, &[0; 8]).unwrap();
        assert_eq!(none.fpu, LAYOUT.initial());
    }
}
