//! The frame that this machine's kernel makes, read with our structures.

use std::mem::{MaybeUninit, size_of};
use std::sync::atomic::{AtomicBool, Ordering};

use abi::ucontext::{FP_XSTATE_MAGIC1, FP_XSTATE_MAGIC2, FPX_SW_BYTES_OFFSET, FpxSwBytes, RtSigframe, UcFlags};
use casemate_arch::Regs;
use casemate_arch::x86_64::sigframe;
use casemate_arch::x86_64::xsave::XsaveLayout;
use zerocopy::FromBytes;

static SEEN: AtomicBool = AtomicBool::new(false);

fn at<T: FromBytes>(address: u64) -> T {
    let mut bytes = vec![0_u8; size_of::<T>()];
    // SAFETY: the kernel put a readable structure of at least this size there, and bytes have no invalid values.
    unsafe { std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len()) };
    T::read_from_bytes(&bytes).unwrap()
}

extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let address = context as u64 - 8;
    assert_eq!(address % 16, 8);
    assert_eq!(info as u64, address + 312);
    let frame: RtSigframe = at(address);
    assert_eq!(frame.info.si_signo, signal);
    let expected = UcFlags::UC_FP_XSTATE | UcFlags::UC_SIGCONTEXT_SS | UcFlags::UC_STRICT_RESTORE_SS;
    assert_eq!(frame.uc.uc_flags, expected.bits());
    let context = frame.uc.uc_mcontext;
    assert_eq!((context.cs, context.ss), (0x33, 0x2b));
    assert_eq!(context.fpstate % 64, 0);
    let notes: FpxSwBytes = at(context.fpstate + FPX_SW_BYTES_OFFSET as u64);
    assert_eq!(notes.magic1, FP_XSTATE_MAGIC1);
    let magic2: u32 = at(context.fpstate + u64::from(notes.xstate_size));
    assert_eq!(magic2, FP_XSTATE_MAGIC2);

    // Our own reading of it: the same registers, and state that we take for sound.
    let layout = XsaveLayout::host();
    assert_eq!((layout.size, layout.features), (notes.xstate_size as usize, notes.xfeatures));
    let current = Regs { rsp: address + 8, ..Regs::for_exec(1, address + 8) };
    let mut read = |from: u64, buf: &mut [u8]| {
        // SAFETY: only addresses of the frame and its extended state are asked for, both of which the kernel wrote.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, buf.as_mut_ptr(), buf.len()) };
        Ok(())
    };
    let restored = sigframe::parse(&current, layout, &mut read).unwrap();
    assert_eq!((restored.regs.rip, restored.regs.rsp), (context.ip, context.sp));
    assert!(address + sigframe::max_len(layout) >= context.fpstate + u64::from(notes.extended_size));
    SEEN.store(true, Ordering::Relaxed);
}

#[test]
fn this_kernels_frame_has_our_layout() {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zero is a valid `sigaction`.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the action is valid; its handler touches only its own frame.
    assert_eq!(unsafe { libc::sigaction(libc::SIGUSR1, action, std::ptr::null_mut()) }, 0);
    // SAFETY: raising a signal that has a handler.
    assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
    assert!(SEEN.load(Ordering::Relaxed));
}
