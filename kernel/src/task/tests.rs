//! Processes on the fake platform: fork, wait, exit, orphans, groups, stops, signals, exec.

use std::sync::Arc;

use abi::clone::CloneFlags;
use abi::wait::WaitOptions;
use usermem::Addr;

use super::group::ExitStatus;
use super::{CloneRequest, ExecRequest, ExecTarget, WaitRequest, WaitWhich};
use crate::error::{SysErr, SysResult};
use crate::fdtable::CloseOnExec;
use crate::harness::{Log, Op, Sandbox, call, exit, fork, handler};
use crate::ids::Pid;
use crate::rlimit::{Resource, Rlimit};
use crate::signal::types::{AltStack, SaFlags, SigAction, SigSet, Signal};
use crate::signal::{MaskChange, SignalTarget};
use crate::task::{Patience, Subreaper, Task};
use crate::time::{ClockId, IntervalTimer, ItimerWhich, SleepRequest};

fn wait_any(task: &mut Task, options: WaitOptions) -> SysResult<Option<super::WaitOutcome>> {
    task.wait(&WaitRequest { which: WaitWhich::Any, options: options | WaitOptions::WEXITED })
}

/// Waits for a child and logs pid-independent facts.
fn wait_op(log: &Log, options: WaitOptions) -> Op {
    let log = log.clone();
    call(move |task| match wait_any(task, options) {
        Ok(Some(out)) => {
            log.add(format!("code {} status {:#x}", out.code, out.wait_status));
            Ok(u64::from(out.pid.0))
        }
        Ok(None) => {
            log.add("nothing");
            Ok(0)
        }
        Err(SysErr::Errno(e)) => {
            log.add(format!("{e:?}"));
            Ok(0)
        }
        Err(other) => Err(other),
    })
}

fn log_op(log: &Log, text: &'static str) -> Op {
    let log = log.clone();
    call(move |_| {
        log.add(text);
        Ok(1)
    })
}

fn sigaction(signal: Signal, action: SigAction) -> Op {
    call(move |task| Ok(task.sigaction(signal, Some(action)).map(|_| 1)?))
}

fn kill_parent(signal: Signal) -> Op {
    call(move |task| {
        let parent = task.ppid();
        task.kill(SignalTarget::Process(parent), Some(signal))?;
        Ok(1)
    })
}

fn sleep_op(ms: u64) -> Op {
    call(move |task| task.nanosleep(ClockId::Monotonic, SleepRequest::For(ms * 1_000_000), None))
}

#[test]
fn an_exit_code_comes_out() {
    assert_eq!(Sandbox::new(vec![exit(7)]).run(), ExitStatus::Exited(7));
}

#[test]
fn a_parent_waits_for_its_child() {
    let log = Log::new();
    let program = vec![
        fork(),
        Op::JumpIfZero(5),
        wait_op(&log, WaitOptions::empty()),
        wait_op(&log, WaitOptions::empty()),
        exit(0),
        exit(42),
    ];
    assert_eq!(Sandbox::new(program).run(), ExitStatus::Exited(0));
    assert_eq!(log.take(), ["code 1 status 0x2a00", "ECHILD"]);
}

#[test]
fn vfork_waits_and_shares_memory() {
    let log = Log::new();
    let program = vec![
        call(|task| task.clone_task(&CloneRequest::vfork())),
        Op::JumpIfZero(5),
        log_op(&log, "parent"),
        wait_op(&log, WaitOptions::empty()),
        exit(0),
        sleep_op(20),
        log_op(&log, "child"),
        exit(1),
    ];
    Sandbox::new(program).run();
    assert_eq!(log.take(), ["child", "parent", "code 1 status 0x100"]);
}

#[test]
fn the_sandbox_ends_with_its_command_and_takes_the_rest_along() {
    let program = vec![fork(), Op::JumpIfZero(3), exit(3), Op::Spin];
    assert_eq!(Sandbox::new(program).run(), ExitStatus::Exited(3));
}

#[test]
fn the_pids_limit_is_eagain() {
    let log = Log::new();
    let l = log.clone();
    let program = vec![
        call(move |task| match task.clone_task(&CloneRequest::fork()) {
            Err(SysErr::Errno(e)) => {
                l.add(format!("{e:?}"));
                Ok(1)
            }
            other => other,
        }),
        Op::JumpIfZero(0),
        wait_op(&log, WaitOptions::empty()),
        exit(0),
    ];
    Sandbox::with_pids(program, 5).run();
    assert_eq!(log.take().first().map(String::as_str), Some("EAGAIN"));
}

#[test]
fn zombies_count_against_the_pids_limit() {
    let log = Log::new();
    let l = log.clone();
    let made = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let program = vec![
        call(move |task| match task.clone_task(&CloneRequest::fork()) {
            Err(SysErr::Errno(e)) => {
                let made = made.load(std::sync::atomic::Ordering::Relaxed);
                l.add(format!("{e:?} after {made}"));
                task.exit_group(0)
            }
            result => {
                made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                result
            }
        }),
        Op::JumpIfZero(3),
        Op::Jump(0),
        exit(0),
    ];
    Sandbox::with_pids(program, 5).run();
    assert_eq!(log.take(), ["EAGAIN after 4"]);
}

#[test]
fn signals_kill_with_their_number() {
    let program = vec![call(|task| {
        task.kill(SignalTarget::OwnGroup, Some(Signal::TERM))?;
        Ok(0)
    })];
    assert_eq!(Sandbox::new(program).run(), ExitStatus::Killed(Signal::TERM));
}

#[test]
fn a_handler_runs_and_returns() {
    let log = Log::new();
    let program = vec![
        sigaction(Signal::USR1, handler(5, SaFlags::empty())),
        call(|task| {
            task.kill(SignalTarget::OwnGroup, Some(Signal::USR1))?;
            Ok(9)
        }),
        log_op(&log, "after"),
        exit(0),
        exit(1),
        log_op(&log, "handler"),
        Op::Return,
    ];
    assert_eq!(Sandbox::new(program).run(), ExitStatus::Exited(0));
    assert_eq!(log.take(), ["handler", "after"]);
}

#[test]
fn a_blocked_signal_waits_and_comes_with_the_mask() {
    let log = Log::new();
    let l = log.clone();
    let program = vec![
        sigaction(Signal::USR1, handler(7, SaFlags::empty())),
        call(|task| {
            task.change_signal_mask(MaskChange::Block(SigSet::of(&[Signal::USR1])));
            task.kill(SignalTarget::OwnGroup, Some(Signal::USR1))?;
            Ok(1)
        }),
        call(move |task| {
            l.add(format!("{:?}", task.pending_signals()));
            Ok(1)
        }),
        // Interrupted by the handler; the old mask is back afterwards.
        call(|task| task.sigsuspend(SigSet::EMPTY)),
        call(|task| Ok(u64::from(task.signal_mask() != SigSet::of(&[Signal::USR1])))),
        Op::JumpIfZero(9),
        exit(1),
        log_op(&log, "handler"),
        Op::Return,
        exit(0),
    ];
    assert_eq!(Sandbox::new(program).run(), ExitStatus::Exited(0));
    assert_eq!(log.take(), ["{SIGUSR1}", "handler"]);
}

/// A child signals its sleeping parent; what the sleep answers depends on the action.
fn interrupted_wait(flags: SaFlags) -> Vec<String> {
    let log = Log::new();
    let program = vec![
        sigaction(Signal::USR1, handler(8, flags)),
        fork(),
        Op::JumpIfZero(10),
        wait_op(&log, WaitOptions::empty()),
        log_op(&log, "waited"),
        exit(0),
        exit(1),
        exit(1),
        log_op(&log, "handler"),
        Op::Return,
        sleep_op(30),
        kill_parent(Signal::USR1),
        sleep_op(30),
        exit(5),
    ];
    assert_eq!(Sandbox::new(program).run(), ExitStatus::Exited(0));
    log.take()
}

#[test]
fn sa_restart_decides_about_repeating() {
    assert_eq!(interrupted_wait(SaFlags::RESTART), ["handler", "code 1 status 0x500", "waited"]);
    assert_eq!(interrupted_wait(SaFlags::empty()), ["handler", "waited"]);
}

#[test]
fn an_ignored_signal_does_not_end_a_sleep() {
    let log = Log::new();
    let l = log.clone();
    let program = vec![
        fork(),
        Op::JumpIfZero(4),
        call(move |task| {
            let since = sync::monotonic_now_ns();
            let result = task.nanosleep(ClockId::Monotonic, SleepRequest::For(60_000_000), None);
            if result.is_ok() {
                let slept = sync::monotonic_now_ns() - since;
                l.add(if slept >= 10_000_000 { "slept" } else { "short" });
            }
            result
        }),
        exit(0),
        sleep_op(10),
        kill_parent(Signal::CONT),
        kill_parent(Signal::CHLD),
        exit(0),
    ];
    assert_eq!(Sandbox::new(program).run(), ExitStatus::Exited(0));
    assert_eq!(log.take(), ["slept"]);
}

#[test]
fn children_stop_and_continue() {
    let log = Log::new();
    let both = WaitOptions::WUNTRACED | WaitOptions::WCONTINUED;
    let child = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let c = Arc::clone(&child);
    let signal_child = move |signal: Signal| {
        let c = Arc::clone(&c);
        call(move |task| {
            let pid = Pid(c.load(std::sync::atomic::Ordering::Relaxed));
            task.kill(SignalTarget::Process(pid), Some(signal))?;
            Ok(1)
        })
    };
    let program = vec![
        call(move |task| {
            let pid = task.clone_task(&CloneRequest::fork())?;
            child.store(u32::try_from(pid).unwrap(), std::sync::atomic::Ordering::Relaxed);
            Ok(pid)
        }),
        Op::JumpIfZero(10),
        signal_child(Signal::STOP),
        wait_op(&log, both),
        wait_op(&log, both | WaitOptions::WNOHANG),
        signal_child(Signal::CONT),
        wait_op(&log, both),
        signal_child(Signal::KILL),
        wait_op(&log, both),
        exit(0),
        Op::Spin,
    ];
    assert_eq!(Sandbox::new(program).run(), ExitStatus::Exited(0));
    assert_eq!(log.take(), ["code 5 status 0x137f", "nothing", "code 6 status 0xffff", "code 2 status 0x9"]);
}

#[test]
fn ignoring_sigchld_leaves_no_zombies() {
    let log = Log::new();
    let ignore = SigAction { handler: SigAction::IGNORE, ..SigAction::default() };
    let program = vec![
        sigaction(Signal::CHLD, ignore),
        fork(),
        Op::JumpIfZero(5),
        wait_op(&log, WaitOptions::empty()),
        exit(0),
        exit(1),
    ];
    Sandbox::new(program).run();
    assert_eq!(log.take(), ["ECHILD"]);
}

#[test]
fn orphans_go_to_the_subreaper() {
    let log = Log::new();
    let program = vec![
        call(|task| {
            task.set_subreaper(Subreaper::Yes);
            Ok(1)
        }),
        fork(),
        Op::JumpIfZero(6),
        wait_op(&log, WaitOptions::empty()),
        wait_op(&log, WaitOptions::empty()),
        exit(0),
        // The child makes a grandchild and leaves it.
        fork(),
        Op::JumpIfZero(9),
        exit(1),
        sleep_op(30),
        exit(2),
    ];
    Sandbox::new(program).run();
    assert_eq!(log.take(), ["code 1 status 0x100", "code 1 status 0x200"]);
}

fn thread() -> Op {
    call(|task| {
        let flags = CloneFlags::CLONE_VM
            | CloneFlags::CLONE_FS
            | CloneFlags::CLONE_FILES
            | CloneFlags::CLONE_SIGHAND
            | CloneFlags::CLONE_THREAD;
        task.clone_task(&CloneRequest { flags, exit_signal: 0, ..CloneRequest::fork() })
    })
}

#[test]
fn exit_group_ends_threads_that_run_and_sleep() {
    let program = vec![
        thread(),
        Op::JumpIfZero(6),
        thread(),
        Op::JumpIfZero(7),
        sleep_op(10),
        exit(4),
        Op::Spin,
        call(|task| task.sigsuspend(SigSet::ALL)),
    ];
    assert_eq!(Sandbox::new(program).run(), ExitStatus::Exited(4));
}

#[test]
fn a_process_lives_until_its_last_thread_ends() {
    let log = Log::new();
    let program = vec![
        fork(),
        Op::JumpIfZero(4),
        wait_op(&log, WaitOptions::empty()),
        exit(0),
        thread(),
        Op::JumpIfZero(7),
        call(|task| task.exit_thread(3)),
        sleep_op(30),
        call(|task| task.exit_thread(9)),
    ];
    Sandbox::new(program).run();
    assert_eq!(log.take(), ["code 1 status 0x900"], "the last thread's status is the process's");
}

#[test]
fn a_thread_that_executes_becomes_the_only_one() {
    let log = Log::new();
    let l = log.clone();
    let second = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let s = Arc::clone(&second);
    let program = vec![
        call(move |_| Ok(u64::from(!s.load(std::sync::atomic::Ordering::Relaxed)))),
        Op::JumpIfZero(6),
        thread(),
        Op::JumpIfZero(5),
        Op::Spin,
        call(move |task| {
            second.store(true, std::sync::atomic::Ordering::Relaxed);
            let target = ExecTarget::Path {
                start: task.fs().cwd(),
                path: b"prog".to_vec(),
                flags: fs::vfs::LookupFlags::FOLLOW,
                name: b"prog".to_vec(),
            };
            task.execve(&ExecRequest { target, argv: vec![b"again".to_vec()], envp: Vec::new() })
        }),
        call(move |task| {
            let threads = task.group().threads().len();
            l.add(format!("leader {} threads {threads}", task.thread().is_leader()));
            task.exit_group(6)
        }),
    ];
    assert_eq!(Sandbox::new(program).run(), ExitStatus::Exited(6));
    assert_eq!(log.take(), ["leader true threads 1"]);
}

#[test]
fn handlers_can_use_the_alternate_stack() {
    let log = Log::new();
    let l = log.clone();
    let program = vec![
        sigaction(Signal::USR1, handler(6, SaFlags::ONSTACK)),
        call(|task| {
            let len = 64 << 10;
            let request =
                mm::MapRequest::anonymous(len, usermem::platform::Prot::READ | usermem::platform::Prot::WRITE);
            let base = task.mm().map(&request)?;
            task.set_alt_stack(AltStack { base: base.0, size: len, ..AltStack::default() })?;
            Ok(1)
        }),
        call(|task| {
            task.kill(SignalTarget::OwnGroup, Some(Signal::USR1))?;
            Ok(1)
        }),
        call(|task| Ok(u64::from(task.on_alt_stack()))),
        Op::JumpIfZero(8),
        exit(1),
        call(move |task| {
            l.add(format!("on alternate stack: {}", task.on_alt_stack()));
            Ok(1)
        }),
        Op::Return,
        exit(0),
    ];
    assert_eq!(Sandbox::new(program).run(), ExitStatus::Exited(0));
    assert_eq!(log.take(), ["on alternate stack: true"]);
}

#[test]
fn timers_send_their_signals() {
    let log = Log::new();
    let program = vec![
        sigaction(Signal::ALRM, handler(4, SaFlags::empty())),
        call(|task| {
            let timer = IntervalTimer { value_ns: 10_000_000, interval_ns: 0 };
            task.set_itimer(ItimerWhich::Real, timer);
            Ok(1)
        }),
        call(|task| task.sigsuspend(SigSet::EMPTY)),
        exit(0),
        log_op(&log, "alarm"),
        Op::Return,
    ];
    assert_eq!(Sandbox::new(program).run(), ExitStatus::Exited(0));
    assert_eq!(log.take(), ["alarm"]);
}

#[test]
fn cpu_timers_count_cpu_time() {
    let program = vec![
        call(|task| {
            let timer = IntervalTimer { value_ns: 20_000_000, interval_ns: 0 };
            task.set_itimer(ItimerWhich::Prof, timer);
            Ok(1)
        }),
        Op::Spin,
    ];
    assert_eq!(Sandbox::new(program).run(), ExitStatus::Killed(Signal::PROF));
}

#[test]
fn the_cpu_limit_warns_and_then_kills() {
    let log = Log::new();
    let program = vec![
        sigaction(Signal::XCPU, handler(3, SaFlags::empty())),
        call(|task| {
            task.group().with_limits(|limits| limits.set_unchecked(Resource::Cpu, Rlimit { soft: 0, hard: 2 }));
            Ok(1)
        }),
        Op::Spin,
        log_op(&log, "warned"),
        Op::Return,
    ];
    assert_eq!(Sandbox::new(program).run(), ExitStatus::Killed(Signal::KILL));
    assert_eq!(log.take(), ["warned"]);
}

#[test]
fn the_end_of_a_pipe_reaches_every_reader() {
    let log = Log::new();
    let reader = || {
        let l = log.clone();
        call(move |task| {
            let file = task.fd(3)?;
            let n = task.retry_blocking(&file, waiter::EventMask::IN, Patience::Wait, None, |task| {
                let mut byte = [0];
                let mut dst = usermem::bytes::KernelDst::new(&mut byte);
                Ok(file.read(&task.fs_context(), &mut dst)?)
            })?;
            l.add(format!("read {n}"));
            task.exit_group(0)
        })
    };
    let fork_reader = |at| [fork(), Op::JumpIfZero(at)];
    let mut program = vec![call(|task| {
        let (r, w) = fs::pipe::create(auth::Uid::ROOT, auth::Gid::ROOT, abi::fs::OpenFlags::empty());
        task.fds().replace(r, 3, 10, CloseOnExec::No)?;
        task.fds().replace(w, 4, 10, CloseOnExec::No)?;
        Ok(1)
    })];
    for _ in 0..4 {
        program.extend(fork_reader(13));
    }
    program.extend([
        sleep_op(30),
        call(|task| Ok(task.close_fd(4).map(|()| 1)?)),
        call(while_children),
        exit(0),
        call(|task| Ok(task.close_fd(4).map(|()| 1)?)),
        reader(),
    ]);
    assert_eq!(Sandbox::new(program).run(), ExitStatus::Exited(0));
    assert_eq!(log.take(), ["read 0"; 4]);
}

/// Waits for all children.
fn while_children(task: &mut Task) -> SysResult {
    loop {
        match wait_any(task, WaitOptions::empty()) {
            Ok(_) => {}
            Err(SysErr::Errno(_)) => return Ok(1),
            Err(other) => return Err(other),
        }
    }
}

#[test]
fn init_is_immune_and_hands_signals_on() {
    let program = vec![
        call(|task| {
            task.kill(SignalTarget::Process(Pid(1)), Some(Signal::KILL))?;
            task.kill(SignalTarget::Process(Pid(1)), Some(Signal::SEGV))?;
            Ok(1)
        }),
        call(|task| {
            task.kill(SignalTarget::Process(Pid(1)), Some(Signal::INT))?;
            Ok(1)
        }),
        Op::Spin,
    ];
    assert_eq!(Sandbox::new(program).run(), ExitStatus::Killed(Signal::INT));
}

#[test]
fn sessions_and_groups_follow_the_rules() {
    let log = Log::new();
    let l = log.clone();
    let program = vec![
        fork(),
        Op::JumpIfZero(4),
        wait_op(&log, WaitOptions::empty()),
        exit(0),
        call(move |task| {
            let own = task.pid();
            l.add(format!("{:?}", task.setpgid(None, Some(Pid(99))).err()));
            task.setpgid(None, None)?;
            l.add(format!("{}", task.getpgid(None)? == own));
            l.add(format!("{:?}", task.setsid().err()));
            task.setpgid(None, Some(task.ppid()))?;
            l.add(format!("{}", task.setsid()? == own));
            l.add(format!("{:?}", task.setpgid(None, None).err()));
            Ok(1)
        }),
        exit(0),
    ];
    Sandbox::new(program).run();
    let got = log.take();
    assert_eq!(got[..5], ["Some(EPERM)", "true", "Some(EPERM)", "true", "Some(EPERM)"]);
}

#[test]
fn pauses_stand_still_and_nest() {
    let log = Log::new();
    let l = log.clone();
    let program = vec![
        fork(),
        Op::JumpIfZero(4),
        sleep_op(5),
        Op::Jump(2),
        call(move |_| {
            l.add("tick");
            Ok(1)
        }),
        Op::Jump(4),
    ];
    let sandbox = Sandbox::new(program);
    sandbox.start();
    for _ in 0..50 {
        sandbox.kernel.pause();
        sandbox.kernel.pause();
        log.take();
        sandbox.kernel.unpause();
        std::thread::yield_now();
        assert!(log.take().is_empty(), "a paused task ran");
        sandbox.kernel.unpause();
    }
    sandbox.kernel.signal_main(Signal::KILL);
    assert_eq!(sandbox.finish(), ExitStatus::Killed(Signal::KILL));
}

#[test]
fn one_task_is_held_while_others_run() {
    let log = Log::new();
    let tick = |name: &'static str| {
        let l = log.clone();
        call(move |_| {
            l.add(name);
            Ok(1)
        })
    };
    let program = vec![
        fork(),
        Op::JumpIfZero(5),
        sleep_op(1),
        tick("parent"),
        Op::Jump(2),
        sleep_op(1),
        tick("child"),
        Op::Jump(5),
    ];
    let sandbox = Sandbox::new(program);
    let main = sandbox.start();
    let kernel = Arc::clone(&sandbox.kernel);
    let thread = kernel.tasks().thread(main.leader()).unwrap();
    let until = |name: &str| {
        while !log.take().iter().any(|line| line == name) {
            std::thread::yield_now();
        }
    };
    until("child");
    kernel.pause_task(&thread);
    kernel.pause_task(&thread);
    log.take();
    until("child");
    kernel.unpause_task(&thread);
    kernel.pause();
    kernel.unpause();
    let mut lines = Vec::new();
    while !lines.iter().any(|line| line == "child") {
        lines.extend(log.take());
        std::thread::yield_now();
    }
    assert!(!lines.iter().any(|line| line == "parent"), "a task that is held ran");
    kernel.unpause_task(&thread);
    until("parent");
    kernel.signal_main(Signal::KILL);
    assert_eq!(sandbox.finish(), ExitStatus::Killed(Signal::KILL));
}

#[test]
fn robust_memory_words_tell_of_a_threads_end() {
    // CLONE_CHILD_CLEARTID: the word is cleared and its waiter woken.
    let log = Log::new();
    let l = log.clone();
    const WORD: Addr = Addr(0x7000_0000);
    let program = vec![
        call(|task| {
            let request =
                mm::MapRequest::anonymous(4096, usermem::platform::Prot::READ | usermem::platform::Prot::WRITE);
            task.mm().map(&request.at(WORD))?;
            usermem::ptr::UserPtr::<u32>::new(WORD).write(task.mem(), &1)?;
            Ok(1)
        }),
        call(|task| {
            let flags = CloneFlags::CLONE_VM
                | CloneFlags::CLONE_SIGHAND
                | CloneFlags::CLONE_THREAD
                | CloneFlags::CLONE_CHILD_CLEARTID;
            let request = CloneRequest { flags, exit_signal: 0, child_tid: WORD, ..CloneRequest::fork() };
            task.clone_task(&request)
        }),
        Op::JumpIfZero(5),
        call(move |task| {
            let request = crate::futex::WaitRequest {
                addr: WORD,
                sharing: crate::futex::Sharing::Shared,
                value: 1,
                bitset: u32::MAX,
                deadline: crate::futex::Deadline::Never,
            };
            let result = task.futex_wait(request);
            let word: u32 = usermem::ptr::UserPtr::new(WORD).read(task.mem())?;
            l.add(format!("{} {word}", result.is_ok()));
            Ok(1)
        }),
        exit(0),
        sleep_op(20),
        call(|task| task.exit_thread(0)),
    ];
    assert_eq!(Sandbox::new(program).run(), ExitStatus::Exited(0));
    assert_eq!(log.take(), ["true 0"]);
}

/// A small generator: the tests need no better one, and the same seed gives the same choices.
fn next_random(state: &std::sync::atomic::AtomicU64) -> u64 {
    let mut x = state.fetch_add(0x9e37_79b9_7f4a_7c15, std::sync::atomic::Ordering::Relaxed);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn random_act(task: &mut Task, random: u64) -> SysResult {
    let signals = [Signal::STOP, Signal::CONT, Signal::USR1, Signal::USR2, Signal::CHLD, Signal::KILL, Signal::TSTP];
    let pick = usize::try_from(random >> 8).unwrap_or(0);
    match random % 20 {
        0..3 => task.clone_task(&CloneRequest::fork()),
        3 => task.clone_task(&CloneRequest::vfork()),
        4..7 => {
            let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_SIGHAND | CloneFlags::CLONE_THREAD;
            task.clone_task(&CloneRequest { flags, exit_signal: 0, ..CloneRequest::fork() })
        }
        7 => task.exit_thread(1),
        8 if pick % 4 == 0 => task.exit_group(2),
        9 | 10 => wait_any(task, WaitOptions::WNOHANG | WaitOptions::WUNTRACED).map(|_| 1),
        11 if pick % 3 == 0 => {
            let target = ExecTarget::Path {
                start: task.fs().cwd(),
                path: b"prog".to_vec(),
                flags: fs::vfs::LookupFlags::FOLLOW,
                name: b"prog".to_vec(),
            };
            task.execve(&ExecRequest { target, argv: vec![b"prog".to_vec()], envp: Vec::new() })
        }
        12 => task.nanosleep(ClockId::Monotonic, SleepRequest::For(random % 300_000), None).map(|_| 1),
        13 => {
            let set = SigSet::of(&[Signal::USR1, Signal::TSTP]);
            task.change_signal_mask(if pick % 2 == 0 { MaskChange::Block(set) } else { MaskChange::Unblock(set) });
            Ok(1)
        }
        14 => {
            task.set_itimer(ItimerWhich::Real, IntervalTimer { value_ns: 200_000, interval_ns: 0 });
            Ok(1)
        }
        15 => task.setpgid(None, None).map(|()| 1).map_err(SysErr::from),
        _ => {
            let groups = task.kernel().tasks().groups();
            let main = task.kernel().main_pid();
            let victim = groups.get(pick % groups.len()).map(|g| g.pid()).filter(|pid| Some(*pid) != main);
            let signal = signals.get(pick / 64 % signals.len()).copied();
            if let Some(victim) = victim.filter(|pid| pid.0 > 2) {
                let _ = task.kill(SignalTarget::Process(victim), signal);
            }
            Ok(1)
        }
    }
}

#[test]
fn a_storm_of_everything_ends() {
    let seed = Arc::new(std::sync::atomic::AtomicU64::new(1));
    let acts = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let done = Arc::clone(&acts);
    let program = vec![
        // The command keeps the storm going: it continues what stopped and begins anew when all have ended. It blocks
        // every signal, as the SIGHUP of an orphaned group with stopped members would end it. What a new program of
        // exec does is the storm.
        call(|task| {
            let is_command = task.kernel().main_pid() == Some(task.pid());
            if is_command {
                task.change_signal_mask(MaskChange::Set(SigSet::ALL));
            }
            Ok(u64::from(is_command))
        }),
        Op::JumpIfZero(5),
        call(|task| {
            let _ = task.kill(SignalTarget::All, Some(Signal::CONT));
            match wait_any(task, WaitOptions::WNOHANG) {
                Err(SysErr::Errno(abi::Errno::ECHILD)) => task.clone_task(&CloneRequest::fork()),
                Ok(None) => task.nanosleep(ClockId::Monotonic, SleepRequest::For(1_000_000), None).map(|_| 1),
                other => other.map(|_| 1),
            }
        }),
        Op::JumpIfZero(5),
        Op::Jump(2),
        sigaction(Signal::USR1, handler(12, SaFlags::RESTART)),
        sigaction(Signal::USR2, handler(12, SaFlags::empty())),
        sigaction(Signal::ALRM, handler(12, SaFlags::RESTART)),
        call(|task| {
            task.change_signal_mask(MaskChange::Unblock(SigSet::ALL));
            Ok(1)
        }),
        call(move |task| {
            acts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            match random_act(task, next_random(&seed)) {
                Err(SysErr::Errno(_)) => Ok(1),
                other => other,
            }
        }),
        Op::JumpIfZero(9),
        Op::Jump(9),
        call(|_| Ok(1)),
        Op::Return,
    ];
    let sandbox = Sandbox::new(program);
    sandbox.start();
    let end = std::time::Instant::now() + std::time::Duration::from_millis(1500);
    while std::time::Instant::now() < end {
        sandbox.kernel.pause();
        let (threads, _) = sandbox.kernel.tasks().counts();
        assert!(threads <= 100, "{threads} threads");
        sandbox.kernel.unpause();
        std::thread::yield_now();
    }
    sandbox.kernel.signal_main(Signal::KILL);
    let kernel = Arc::clone(&sandbox.kernel);
    assert_eq!(sandbox.finish(), ExitStatus::Killed(Signal::KILL));
    assert_eq!(kernel.tasks().counts(), (0, 0), "all are gone");
    let done = done.load(std::sync::atomic::Ordering::Relaxed);
    assert!(done > 500, "the storm died down after {done} acts");
}

#[test]
fn the_command_s_end_does_not_wait_for_a_task_that_the_host_holds_up() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let sandbox = Sandbox::new(vec![
        fork(),
        Op::JumpIfZero(3),
        exit(3),
        // The child: a host call that comes back when the test lets it.
        call(move |_| {
            let _ = held.lock().unwrap().recv();
            Ok(0)
        }),
        exit(0),
    ]);
    let kernel = Arc::clone(&sandbox.kernel);
    sandbox.start();
    assert_eq!(kernel.wait_command(), ExitStatus::Exited(3));
    release.send(()).unwrap();
    assert_eq!(sandbox.finish(), ExitStatus::Exited(3));
}
