//! From a queue to a handler's frame, and back: what a signal does to a task (signal(7), "Execution of signal handlers").

use abi::signal::{SsFlags, StackT};
use arch::x86_64::sigframe::{self, FrameRequest, HandlerStack, TrapInfo};
use usermem::Addr;
use usermem::ptr::UserMemory;
use zerocopy::FromBytes;

use stops::Work;

use super::info::{SigData, SigInfo};
use super::send;
use super::types::{AltStack, AutoDisarm, DefaultAction, SaFlags, SigAction, SigSet, Signal};
use crate::error::{Restart, SysErr, SysResult};
use crate::task::Task;
use crate::task::group::ExitStatus;
use crate::task::state::{Leave, RunState, Stop};

/// A signal with a handler, taken from its queue.
pub(crate) struct Delivery {
    info: SigInfo,
    action: SigAction,
    /// What the interrupted call, if any, asked for.
    restart: Option<Restart>,
}

/// What is next for a task that has been interrupted.
enum Next {
    Deliver(SigInfo, SigAction),
    Stop,
    End(ExitStatus),
    Nothing,
}

/// Length of the `syscall` instruction.
const SYSCALL_LEN: u64 = 2;

impl Task {
    /// Looks at everything that wants the task.
    pub(crate) fn run_interrupt(&mut self, restart: Option<Restart>) -> RunState {
        let work = self.thread().attention().work();
        if work.contains(Work::KILL) {
            return RunState::Exit(self.death());
        }
        if work.contains(Work::CPU_TIMERS) {
            self.thread().attention().clear_work(Work::CPU_TIMERS);
            self.check_cpu_timers();
        }
        if work.contains(Work::TIDINGS) {
            crate::event::sigio::tell();
        }
        if self.thread().attention().work().contains(Work::STOP) {
            return RunState::Stop(Stop::Group { restart });
        }
        match self.next_signal() {
            Next::Deliver(info, action) => RunState::SignalDeliver(Box::new(Delivery { info, action, restart })),
            Next::Stop => RunState::Stop(Stop::Group { restart }),
            Next::End(status) => self.kill_group(status),
            Next::Nothing => {
                self.restore_mask();
                // A mask that came back may have made a signal deliverable.
                if self.thread().attention().work().intersects(Work::SIGNAL | Work::KILL | Work::STOP) {
                    return RunState::Interrupt { restart };
                }
                self.restart_silently(restart)
            }
        }
    }

    /// How a thread ends that was told to.
    fn death(&self) -> ExitStatus {
        let signals = self.group().lock_signals();
        // Without an end of the group, another thread executes a program, and this one ends for it.
        signals.stops.exiting().unwrap_or(ExitStatus::Exited(0))
    }

    /// Takes signals until one has an effect on the run state.
    fn next_signal(&mut self) -> Next {
        loop {
            let mut signals = self.group().lock_signals();
            let mut own = self.thread().signals.lock();
            let mask = own.mask.get();
            let taken = match (own.pending.next(mask), signals.pending.next(mask)) {
                // Exceptions of this thread first; else its own queue before the group's, as on Linux.
                (Some(signal), _) => own.pending.take(signal),
                (None, Some(signal)) => signals.pending.take(signal),
                (None, None) => None,
            };
            if taken.is_none() {
                own.reopen(&signals.pending);
            }
            drop(own);
            let Some(info) = taken else {
                self.thread().attention().clear_work(Work::SIGNAL);
                // It may have been chosen for a signal that it has blocked since.
                send::retarget(&signals, self.thread(), mask);
                return Next::Nothing;
            };
            let signal = info.signal;
            let action = signals.handlers.get(signal);
            if action.handler == SigAction::IGNORE {
                continue;
            }
            if action.is_handler() {
                if action.flags.contains(SaFlags::RESETHAND) {
                    signals.handlers.set(signal, SigAction { handler: SigAction::DEFAULT, ..action });
                }
                return Next::Deliver(info, action);
            }
            match signal.default_action() {
                DefaultAction::Ignore | DefaultAction::Continue => {}
                DefaultAction::Stop => {
                    drop(signals);
                    if self.stop_group(signal) {
                        return Next::Stop;
                    }
                }
                DefaultAction::Terminate if signals.immune => {}
                DefaultAction::Core if signals.immune => {}
                DefaultAction::Terminate => return Next::End(ExitStatus::Killed(signal)),
                DefaultAction::Core => {
                    log::debug!("task {}: {signal:?} at {:#x}", self.tid(), self.user.regs.rip);
                    return Next::End(self.core_status(signal));
                }
            }
        }
    }

    /// signal(7): core dumps are subject to RLIMIT_CORE; with none the status does not say that one was made.
    fn core_status(&self, signal: Signal) -> ExitStatus {
        if self.group().limit(crate::rlimit::Resource::Core).soft == 0 {
            ExitStatus::Killed(signal)
        } else {
            ExitStatus::Dumped(signal)
        }
    }

    /// Starts a group stop unless `signal` came from the terminal's side and the process group is orphaned (POSIX 2.4.3).
    fn stop_group(&self, signal: Signal) -> bool {
        if signal != Signal::STOP {
            let tree = self.kernel().tasks().lock();
            let orphaned = tree.entry(self.pid()).map_or(true, |e| tree.is_orphaned(e.pgrp));
            if orphaned {
                return false;
            }
        }
        let mut signals = self.group().lock_signals();
        signals.stops.begin_stop(signal);
        true
    }

    /// Settles the interrupted call and makes the handler's frame.
    pub(crate) fn run_deliver(&mut self, delivery: Delivery) -> RunState {
        let Delivery { mut info, action, restart } = delivery;
        let signal = info.signal;
        if let SigData::Timer { id, overrun, .. } = &mut info.data {
            *overrun = self.group().timers.delivered(*id, *overrun);
        }
        if let Some(restart) = restart {
            let mut answer = abi::Errno::EINTR;
            let again = match restart {
                Restart::Sys => action.flags.contains(SaFlags::RESTART),
                Restart::NoIntr => true,
                Restart::NoHand => false,
                Restart::Block(ref block) => {
                    answer = self.sleep_interrupted(block);
                    false
                }
            };
            if again {
                self.user.regs.rax = self.user.regs.orig_rax;
                self.user.regs.rip = self.user.regs.rip.wrapping_sub(SYSCALL_LEN);
            } else {
                self.set_errno(answer);
            }
            self.restart_block = None;
        }
        if self.push_frame(&info, &action).is_err() {
            // sigaction(2): no room for the frame is a SIGSEGV, which kills when it is what could not be delivered.
            if signal == Signal::SEGV {
                let signals = self.group().lock_signals();
                signals.handlers.set(Signal::SEGV, SigAction::default());
            }
            self.kernel().force(self.thread(), SigInfo::kernel(Signal::SEGV));
        }
        RunState::Interrupt { restart: None }
    }

    /// Writes the frame and enters the handler. Errors: the stack cannot take it, or the platform is gone.
    fn push_frame(&mut self, info: &SigInfo, action: &SigAction) -> Result<(), ()> {
        self.ctx.pull_full(&mut self.user).map_err(drop)?;
        let visible = self.mm().visible_ip(Addr(self.user.regs.rip));
        self.move_ip(visible);
        let layout = self.kernel().cpu().xsave;
        let old_mask = self.saved_mask.take().unwrap_or_else(|| self.signal_mask());
        let on_alt = self.on_alt_stack();
        let stack = if action.flags.contains(SaFlags::ONSTACK) && !on_alt && self.altstack.size != 0 {
            HandlerStack::Alternate { base: self.altstack.base, size: self.altstack.size }
        } else {
            HandlerStack::Current { alternate: on_alt.then_some((self.altstack.base, self.altstack.size)) }
        };
        let fault = self.last_fault;
        let trap = fault.map_or(TrapInfo::default(), |f| TrapInfo {
            trapno: u64::from(f.trapno),
            error_code: u64::from(f.error_code),
            cr2: f.addr.0,
        });
        let bytes = info.to_bytes();
        let abi_info = abi::signal::SigInfo::read_from_bytes(&bytes).map_err(drop)?;
        let abi_action = abi::signal::SigAction {
            handler: action.handler,
            flags: action.flags.bits(),
            restorer: action.restorer,
            mask: abi::signal::SigSet(action.mask.0),
        };
        let frame = sigframe::build(&FrameRequest {
            regs: &self.user.regs,
            fpu: &self.user.fpu,
            layout,
            signal: info.signal.number(),
            info: &abi_info,
            action: &abi_action,
            mask: abi::signal::SigSet(old_mask.0),
            // As it was set: whether it is in use is no part of it.
            altstack: stack_t(&self.altstack, false),
            stack,
            trap,
        });
        let frame = frame.ok_or(())?;
        self.mem().write(Addr(frame.address), &frame.bytes).map_err(drop)?;
        self.user.regs = frame.regs;
        self.user.fpu = layout.initial();
        self.ctx.set_full(&self.user).map_err(drop)?;
        let mut blocked = self.signal_mask().union(action.mask);
        if !action.flags.contains(SaFlags::NODEFER) {
            blocked = blocked.with(info.signal);
        }
        self.change_signal_mask(super::MaskChange::Set(blocked));
        if self.altstack.autodisarm == AutoDisarm::Yes {
            self.altstack = AltStack::default();
        }
        Ok(())
    }

    /// rt_sigreturn(2): goes back to what a handler interrupted. A bad frame is SIGSEGV.
    pub fn sigreturn(&mut self) -> SysResult {
        let layout = self.kernel().cpu().xsave;
        let mm = std::sync::Arc::clone(self.mm());
        let parsed = sigframe::parse(&self.user.regs, layout, &mut |addr, buf| mm.read(Addr(addr), buf));
        let Ok(restored) = parsed else {
            self.kernel().force(self.thread(), SigInfo::kernel(Signal::SEGV));
            return Err(SysErr::LeaveRegs);
        };
        self.user.regs = restored.regs;
        self.user.fpu = restored.fpu;
        if let Some(ip) = self.mm().displaced_ip(Addr(self.user.regs.rip)) {
            self.move_ip(ip);
        }
        if self.ctx.set_full(&self.user).is_err() {
            return Err(Leave::Exit(self.end_group(ExitStatus::Killed(Signal::KILL))).into());
        }
        self.change_signal_mask(super::MaskChange::Set(SigSet(restored.mask.0)));
        self.restore_alt_stack(&restored.altstack);
        Err(SysErr::LeaveRegs)
    }

    /// Changes the instruction pointer between its visible and its real place, and rcx where it is a copy of it.
    fn move_ip(&mut self, ip: Addr) {
        let regs = &mut self.user.regs;
        if regs.rcx == regs.rip {
            regs.rcx = ip.0;
        }
        regs.rip = ip.0;
    }

    fn restore_alt_stack(&mut self, stack: &StackT) {
        if let Ok(new) = alt_stack_of(stack) {
            // rt_sigreturn(2): errors of the implied sigaltstack are ignored.
            let _ = self.set_alt_stack(new);
        }
    }
}

/// As sigaltstack(2) reports it.
pub fn stack_t(stack: &AltStack, active: bool) -> StackT {
    let mut flags = SsFlags::empty();
    if stack.size == 0 {
        flags |= SsFlags::SS_DISABLE;
    } else if active {
        flags |= SsFlags::SS_ONSTACK;
    }
    if stack.autodisarm == AutoDisarm::Yes {
        flags |= SsFlags::SS_AUTODISARM;
    }
    StackT { ss_sp: stack.base, ss_flags: flags.bits(), _pad: 0, ss_size: stack.size }
}

/// What a guest asks of sigaltstack(2). `EINVAL` for unknown flags.
pub fn alt_stack_of(stack: &StackT) -> Result<AltStack, abi::Errno> {
    let flags = SsFlags::from_bits(stack.ss_flags).ok_or(abi::Errno::EINVAL)?;
    let autodisarm = if flags.contains(SsFlags::SS_AUTODISARM) { AutoDisarm::Yes } else { AutoDisarm::No };
    match flags.difference(SsFlags::SS_AUTODISARM) {
        f if f == SsFlags::SS_DISABLE => Ok(AltStack::default()),
        f if f.is_empty() || f == SsFlags::SS_ONSTACK => {
            Ok(AltStack { base: stack.ss_sp, size: stack.ss_size, autodisarm })
        }
        _ => Err(abi::Errno::EINVAL),
    }
}
