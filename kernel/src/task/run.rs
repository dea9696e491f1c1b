//! The run loop: one step after another, each from a state ([`super::state`]) to the next.
//!
//! A step takes the state by value and answers the next. Pauses are waited out between steps.

use std::cell::Cell;
use std::sync::Arc;

use abi::Errno;
use mm::CallSite;
use usermem::Addr;
use usermem::platform::{Exit, FaultInfo, PlatformError};
use usermem::ptr::UserPtr;

use stops::{Progress, stand_still};

use super::Task;
use super::block::Interruptible;
use super::group::ExitStatus;
use super::state::{Kind, RunState, Stop, VforkDone};
use super::thread::Activity;
use crate::error::{Restart, RestartBlock, SysErr, SysResult};
use crate::event::sigio;
use crate::futex::{Deadline, WaitRequest};
use crate::ids::Tid;
use crate::signal::info::SigInfo;
use crate::signal::types::Signal;

/// Sites that a task remembers as not to be patched.
pub(super) const SETTLED_SITES: usize = 16;

/// x86 vectors that the middle of a patched site raises.
const INVALID_OPCODE: u32 = 6;
const GENERAL_PROTECTION: u32 = 13;

/// Number of `restart_syscall`, the one call that the kernel itself makes a guest repeat.
const RESTART_SYSCALL: u64 = 219;

#[derive(Clone, Copy)]
struct Crash {
    tid: u32,
    call: Option<u64>,
    state: Kind,
}

thread_local! {
    static CRASH: Cell<Option<Crash>> = const { Cell::new(None) };
}

/// What this host thread is doing, for the line that a crash of ours prints: task, call, run state.
pub fn crash_context() -> String {
    match CRASH.try_with(Cell::get).ok().flatten() {
        None => "no task".to_owned(),
        Some(Crash { tid, call: Some(nr), state }) => format!("task {tid}, call {nr}, state {}", state.name()),
        Some(Crash { tid, call: None, state }) => format!("task {tid}, state {}", state.name()),
    }
}

impl Task {
    /// Runs until the task ends. Its host thread's main function.
    pub(crate) fn run(mut self, first: RunState) {
        let mut state = first;
        // A pause may have begun that did not see it.
        self.kernel().pauses().awake(self.thread().attention());
        self.thread().clock.begin();
        sigio::begin(self.thread());
        self.kernel().watchdog().notice(self.kernel());
        if let Some(addr) = self.set_child_tid.take() {
            // clone(2): CLONE_CHILD_SETTID; a bad address is the guest's loss, as on Linux.
            let _ = UserPtr::<u32>::new(addr).write(self.mem(), &self.tid().0);
        }
        self.publish_all();
        self.arm_cpu_limit();
        loop {
            let kind = state.kind();
            self.thread().set_state(kind);
            CRASH.set(Some(Crash { tid: self.tid().0, call: self.thread().current_call(), state: kind }));
            self.kernel().pauses().look(self.thread().attention(), || self.sleeper.settle());
            state = match state {
                RunState::Exit(status) => {
                    self.finish(status);
                    CRASH.set(None);
                    return;
                }
                other => self.step(other),
            };
            debug_assert!(kind.next().contains(&state.kind()), "from {kind:?} to {:?}", state.kind());
        }
    }

    fn step(&mut self, state: RunState) -> RunState {
        match state {
            RunState::App => self.run_app(),
            RunState::SyscallEnter | RunState::SyscallReinvoke => self.run_call(),
            RunState::SyscallExit(result) => self.finish_call(result),
            RunState::Fault(fault) => self.run_fault(fault),
            RunState::Interrupt { restart } => self.run_interrupt(restart),
            RunState::SignalDeliver(delivery) => self.run_deliver(*delivery),
            RunState::Stop(Stop::Group { restart }) => self.run_group_stop(restart),
            RunState::Stop(Stop::Vfork { child, done }) => self.run_vfork_wait(child, done),
            RunState::Stop(Stop::Exec(exec)) => self.run_exec_wait(exec),
            RunState::Exit(status) => RunState::Exit(status),
        }
    }

    fn run_app(&mut self) -> RunState {
        if self.thread().attention().enter_guest().is_err() {
            return RunState::Interrupt { restart: None };
        }
        self.thread().clock.enter_guest();
        let exit = match self.sleeper.later() {
            None => self.ctx.switch(&mut self.user),
            Some(later) => self.ctx.switch_or(&mut self.user, &mut || later.now()),
        };
        self.thread().clock.leave_guest();
        self.thread().attention().leave_guest();
        match exit {
            Ok(Exit::Syscall) => {
                self.note_call();
                RunState::SyscallEnter
            }
            Ok(Exit::Call) => RunState::SyscallEnter,
            Ok(Exit::Fault(fault)) => RunState::Fault(fault),
            Ok(Exit::Interrupted) => {
                self.thread().count_preemption();
                RunState::Interrupt { restart: None }
            }
            Err(error) => self.platform_failed(&error),
        }
    }

    /// A call has trapped: its site may be worth patching.
    fn note_call(&mut self) {
        let (next, nr) = (self.user.regs.rip, self.user.regs.orig_rax);
        let Some(settled) = self.settled_sites.get_mut((next >> 1) as usize % SETTLED_SITES) else { return };
        if *settled == next {
            return;
        }
        let learner = super::exec::learner(&self.creds);
        if self.mm.note_call(Addr(next), nr, learner) == CallSite::Settled {
            *settled = next;
        }
    }

    /// The platform lost the address space: its process is killed.
    fn platform_failed(&mut self, error: &PlatformError) -> RunState {
        log::warn!("task {}: {error}", self.tid());
        self.kill_group(ExitStatus::Killed(Signal::KILL))
    }

    /// Ends the whole process; how this task ends with it.
    pub(crate) fn end_group(&mut self, status: ExitStatus) -> ExitStatus {
        let mut signals = self.group().lock_signals();
        signals.stops.begin_exit(status);
        signals.stops.exiting().unwrap_or(status)
    }

    /// As [`Self::end_group`], as a state.
    pub(crate) fn kill_group(&mut self, status: ExitStatus) -> RunState {
        RunState::Exit(self.end_group(status))
    }

    fn run_call(&mut self) -> RunState {
        let r = &self.user.regs;
        let nr = r.orig_rax;
        let args = [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
        let [a, b, c, d, e, f] = args;
        self.thread().call().enter(nr, [a, b, c, d, e, f, r.rsp, r.rip]);
        CRASH.set(Some(Crash { tid: self.tid().0, call: Some(nr), state: Kind::SyscallEnter }));
        // Taken, not cloned: no count that all tasks share is touched by each call.
        let dispatch = self.dispatch.take().unwrap_or_else(|| Arc::clone(self.kernel().dispatch()));
        let result = dispatch.dispatch(self, nr, args);
        self.dispatch = Some(dispatch);
        RunState::SyscallExit(result)
    }

    fn finish_call(&mut self, result: SysResult) -> RunState {
        self.thread().call().leave();
        // ppoll(2): the mask comes back before signals are looked at, unless one ended the call.
        if !matches!(result, Err(SysErr::Restart(_) | SysErr::Errno(Errno::EINTR))) {
            self.restore_mask();
        }
        match result {
            Ok(value) => self.user.regs.rax = value,
            Err(SysErr::Errno(errno)) => self.set_errno(errno),
            Err(SysErr::LeaveRegs) => {}
            Err(SysErr::Switch(transition)) => return transition.into_leave().into_state(),
            Err(SysErr::Restart(restart)) => return RunState::Interrupt { restart: Some(restart) },
        }
        if self.saved_mask.is_some() || !self.thread().attention().work().is_empty() {
            return RunState::Interrupt { restart: None };
        }
        RunState::App
    }

    pub(crate) fn set_errno(&mut self, errno: Errno) {
        self.user.regs.rax = u64::from(errno.raw()).wrapping_neg();
    }

    fn run_fault(&mut self, fault: FaultInfo) -> RunState {
        if matches!(fault.trapno, INVALID_OPCODE | GENERAL_PROTECTION)
            && let Some(ip) = self.mm().displaced_ip(Addr(self.user.regs.rip))
        {
            self.user.regs.rip = ip.0;
            return RunState::App;
        }
        self.thread().count_fault();
        let resolved = match Signal::new(fault.signal) {
            Some(Signal::SEGV) if fault.trapno == PAGE_FAULT => Some(self.mm().handle_fault(fault.addr, fault.access)),
            // An address that is not aligned, for a program that wants to hear of it (EFLAGS.AC), is not about memory.
            Some(Signal::BUS) if fault.trapno != ALIGNMENT_CHECK => {
                Some(self.mm().handle_bus(fault.addr, fault.access))
            }
            _ => None,
        };
        let info = match resolved {
            Some(Ok(())) => return RunState::App,
            Some(Err(mm::Fault::Dead)) => return self.kill_group(ExitStatus::Killed(Signal::KILL)),
            Some(Err(mm::Fault::Oom)) => return self.out_of_memory(fault.addr),
            Some(Err(mm::Fault::NotMapped)) => SigInfo::fault(Signal::SEGV, abi::signal::SEGV_MAPERR, fault.addr.0),
            Some(Err(mm::Fault::NotAllowed)) => SigInfo::fault(Signal::SEGV, abi::signal::SEGV_ACCERR, fault.addr.0),
            Some(Err(mm::Fault::Bus)) => SigInfo::fault(Signal::BUS, abi::signal::BUS_ADRERR, fault.addr.0),
            // A number that is no fault is a stub that lies to itself.
            None => SigInfo::fault(fault_signal(fault), fault.code, fault.addr.0),
        };
        self.last_fault = Some(fault);
        self.kernel().force(self.thread(), info);
        RunState::Interrupt { restart: None }
    }

    fn run_group_stop(&mut self, restart: Option<Restart>) -> RunState {
        self.thread().call().note_place(self.user.regs.rsp, self.user.regs.rip);
        let count = || {
            let progress = self.group().lock_signals().stops.count_stopped(self.thread());
            if progress == Progress::Complete {
                self.kernel().notify_parent_of_stop(self.group());
            }
        };
        stand_still(self.thread().attention(), count, || self.sleeper.park_as(Activity::Stopped, None));
        RunState::Interrupt { restart }
    }

    fn run_vfork_wait(&mut self, child: Tid, done: Arc<VforkDone>) -> RunState {
        while !done.is_done() {
            // vfork(2): signals wait; only the end of the caller ends the wait.
            if self.sleeper.park(None, Interruptible::Killable).is_err() {
                return RunState::Interrupt { restart: None };
            }
        }
        RunState::SyscallExit(Ok(u64::from(child.0)))
    }

    /// What a call that a signal or stop interrupted gives, when no handler runs.
    pub(crate) fn restart_silently(&mut self, restart: Option<Restart>) -> RunState {
        match restart {
            None => RunState::App,
            Some(Restart::Sys | Restart::NoIntr | Restart::NoHand) => RunState::SyscallReinvoke,
            Some(Restart::Block(block)) => {
                self.restart_block = Some(block);
                self.user.regs.orig_rax = RESTART_SYSCALL;
                RunState::SyscallReinvoke
            }
        }
    }

    /// restart_syscall(2) for the kernel's own sleeps; gives a block back that is the caller's to continue.
    pub fn restart_syscall(&mut self) -> SysResult {
        match self.restart_block.take() {
            Some(RestartBlock::Nanosleep { clock, deadline_ns, remain }) => {
                self.continue_nanosleep(clock, deadline_ns, remain)
            }
            Some(RestartBlock::Futex { addr, shared, value, bitset, deadline_ns }) => {
                let deadline = Deadline::Relative(deadline_ns);
                let request = WaitRequest { addr, sharing: shared, value, bitset, deadline };
                self.futex_wait(request).map(|()| 0)
            }
            block => {
                self.restart_block = block;
                Err(SysErr::Errno(Errno::EINTR))
            }
        }
    }
}

/// x86 vector of page faults.
const PAGE_FAULT: u32 = 14;

/// The CPU's number of an unaligned access.
const ALIGNMENT_CHECK: u32 = 17;

fn fault_signal(fault: FaultInfo) -> Signal {
    match Signal::new(fault.signal) {
        Some(s @ (Signal::SEGV | Signal::BUS | Signal::FPE | Signal::ILL | Signal::TRAP)) => s,
        _ => Signal::SEGV,
    }
}
