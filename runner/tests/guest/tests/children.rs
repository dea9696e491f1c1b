//! Waiting for children in all variants, and who is whose child: wait4(2), waitid(2), subreapers, orphans, stops.

use casemate_guest_tests::{child, in_child, inside, pipe, steps, sys, wait_status};

type Info = [i32; 32];

fn number(value: Result<i64, i32>) -> i32 {
    i32::try_from(value.unwrap()).unwrap()
}

/// A child that waits to be killed, also when its parent is gone.
fn idle() -> i32 {
    child(|| {
        let _ = sys!(prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        loop {
            let _ = sys!(pause);
        }
    })
}

fn kill(pid: i32, signal: i32) {
    assert_eq!(sys!(kill, pid, signal), Ok(0));
}

/// waitid(2): what it gives and what it tells of.
fn waitid(which: u32, id: i32, options: i32) -> (Result<i64, i32>, [i32; 3]) {
    let mut info: Info = [-1; 32];
    let result = sys!(waitid, which, id, info.as_mut_ptr(), options, 0);
    (result, [info[2], info[4], info[6]])
}

const NOTHING: [i32; 3] = [0, 0, 0];

#[test]
fn each_change_is_told_once_and_only_to_who_asks() {
    in_child(|| {
        let pid = idle();
        let none = waitid(libc::P_PID, pid, libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG);
        kill(pid, libc::SIGSTOP);
        // Looked at first, then taken.
        let look = waitid(libc::P_PID, pid, libc::WSTOPPED | libc::WNOWAIT);
        let stopped_only = waitid(libc::P_PID, pid, libc::WEXITED | libc::WCONTINUED | libc::WNOHANG);
        let stop = waitid(libc::P_ALL, 0, libc::WSTOPPED);
        let stop_again = waitid(libc::P_PID, pid, libc::WSTOPPED | libc::WNOHANG);
        kill(pid, libc::SIGCONT);
        let cont = waitid(libc::P_PID, pid, libc::WCONTINUED | libc::WNOWAIT);
        let mut status = 0;
        let cont_taken = sys!(wait4, pid, &raw mut status, libc::WCONTINUED, 0);
        let continued = libc::WIFCONTINUED(status);
        let cont_again = waitid(libc::P_PID, pid, libc::WCONTINUED | libc::WNOHANG);
        // A further stop after a continuation that nobody has waited for hides it.
        kill(pid, libc::SIGSTOP);
        let _ = waitid(libc::P_PID, pid, libc::WSTOPPED | libc::WNOWAIT);
        kill(pid, libc::SIGCONT);
        let _ = waitid(libc::P_PID, pid, libc::WCONTINUED | libc::WNOWAIT);
        let hidden = waitid(libc::P_PID, pid, libc::WSTOPPED | libc::WNOHANG);
        kill(pid, libc::SIGKILL);
        let end = waitid(libc::P_PID, pid, libc::WEXITED | libc::WNOWAIT);
        let end_hidden = waitid(libc::P_PID, pid, libc::WSTOPPED | libc::WNOHANG);
        // wait4 knows exits without being asked.
        let taken = sys!(wait4, -1_i64, &raw mut status, 0, 0);
        let gone = waitid(libc::P_PID, pid, libc::WEXITED);
        steps(&[
            none == (Ok(0), NOTHING),
            look == (Ok(0), [libc::CLD_STOPPED, pid, libc::SIGSTOP]),
            stopped_only == (Ok(0), NOTHING),
            stop == look,
            stop_again == (Ok(0), NOTHING),
            cont == (Ok(0), [libc::CLD_CONTINUED, pid, libc::SIGCONT]),
            cont_taken == Ok(pid.into()) && continued && cont_again == (Ok(0), NOTHING),
            hidden == (Ok(0), NOTHING),
            end == (Ok(0), [libc::CLD_KILLED, pid, libc::SIGKILL]),
            // What has ended changes in no other way.
            end_hidden.0 == Err(libc::ECHILD),
            taken == Ok(pid.into()) && libc::WTERMSIG(status) == libc::SIGKILL,
            gone.0 == Err(libc::ECHILD),
        ])
    });
}

#[test]
fn children_are_chosen_by_number_group_and_descriptor() {
    in_child(|| {
        let (first, second) = (idle(), idle());
        let moved = sys!(setpgid, second, second);
        let own = number(sys!(getpgrp));
        let descriptor = number(sys!(pidfd_open, second, 0));
        let nonblocking = number(sys!(pidfd_open, first, libc::O_NONBLOCK));
        let would_block = waitid(libc::P_PIDFD, nonblocking, libc::WEXITED);
        let bad = waitid(libc::P_PIDFD, 0x3fff, libc::WEXITED);
        let (read, write) = pipe(0);
        let no_pidfd = waitid(libc::P_PIDFD, read, libc::WEXITED);
        let _ = (sys!(close, read), sys!(close, write));
        kill(first, libc::SIGKILL);
        kill(second, libc::SIGKILL);
        let by_group = waitid(libc::P_PGID, second, libc::WEXITED | libc::WNOWAIT);
        let by_descriptor = waitid(libc::P_PIDFD, descriptor, libc::WEXITED | libc::WNOWAIT);
        let mut status = 0;
        let negative = sys!(wait4, -i64::from(second), &raw mut status, 0, 0);
        let none_left = waitid(libc::P_PGID, second, libc::WEXITED);
        // Group 0 is the caller's own.
        let by_own = waitid(libc::P_PGID, 0, libc::WEXITED | libc::WNOWAIT);
        let by_zero = sys!(wait4, 0, &raw mut status, 0, 0);
        steps(&[
            moved == Ok(0) && own != second,
            would_block.0 == Err(libc::EAGAIN),
            bad.0 == Err(libc::EBADF) && no_pidfd.0 == Err(libc::EBADF),
            by_group == (Ok(0), [libc::CLD_KILLED, second, libc::SIGKILL]),
            by_descriptor == by_group,
            negative == Ok(second.into()),
            none_left.0 == Err(libc::ECHILD),
            by_own == (Ok(0), [libc::CLD_KILLED, first, libc::SIGKILL]),
            by_zero == Ok(first.into()),
            sys!(wait4, i64::from(i32::MIN), 0, 0, 0) == Err(libc::ESRCH),
            sys!(wait4, -1_i64, 0, 0x4000, 0) == Err(libc::EINVAL),
            waitid(libc::P_ALL, 0, libc::WNOHANG).0 == Err(libc::EINVAL),
            waitid(libc::P_ALL, 0, libc::WEXITED | 0x4000).0 == Err(libc::EINVAL),
            waitid(libc::P_PID, 0, libc::WEXITED).0 == Err(libc::EINVAL),
            waitid(libc::P_PID, -1, libc::WEXITED).0 == Err(libc::EINVAL),
            waitid(libc::P_PGID, -1, libc::WEXITED).0 == Err(libc::EINVAL),
            waitid(9, 0, libc::WEXITED).0 == Err(libc::EINVAL),
        ])
    });
}

#[test]
fn threads_wait_for_each_other_s_children_unless_they_say_no() {
    in_child(|| {
        let pid = idle();
        let other = std::thread::spawn(move || {
            let none = sys!(wait4, pid, 0, libc::WNOHANG | libc::__WNOTHREAD, 0);
            kill(pid, libc::SIGKILL);
            let mut status = 0;
            let taken = sys!(wait4, pid, &raw mut status, 0, 0);
            (none, taken, status)
        });
        let (none, taken, status) = other.join().unwrap();
        // What a thread has made goes to another when it ends, which is a little after it can be joined.
        let (orphan, maker) = std::thread::spawn(|| {
            let orphan = child(|| {
                loop {
                    let _ = sys!(pause);
                }
            });
            (orphan, sys!(gettid).unwrap())
        })
        .join()
        .unwrap();
        while sys!(tgkill, sys!(getpid).unwrap(), maker, 0) == Ok(0) {
            std::thread::yield_now();
        }
        kill(orphan, libc::SIGKILL);
        let inherited = sys!(wait4, orphan, 0, libc::__WNOTHREAD, 0);
        steps(&[
            none == Err(libc::ECHILD),
            taken == Ok(pid.into()) && libc::WTERMSIG(status) == libc::SIGKILL,
            inherited == Ok(orphan.into()),
        ])
    });
}

#[test]
fn unwanted_children_leave_nothing_and_waits_for_them_end() {
    in_child(|| {
        // SAFETY: 1. sigaction is plain data.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_flags = libc::SA_NOCLDWAIT;
        // SAFETY: 1. `action` lives across the call.
        let _ = unsafe { libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut()) };
        let (first, second) = (child(|| 3), idle());
        // Until all are gone, and then there is nothing to tell.
        kill(second, libc::SIGKILL);
        let result = sys!(wait4, -1_i64, 0, 0, 0);
        let gone = |pid: i32| sys!(kill, pid, 0) == Err(libc::ESRCH);
        steps(&[result == Err(libc::ECHILD), gone(first), gone(second)])
    });
}

#[test]
fn a_zombie_is_there_until_it_is_waited_for() {
    in_child(|| {
        let pid = child(|| 7);
        let look = waitid(libc::P_PID, pid, libc::WEXITED | libc::WNOWAIT);
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let descriptor = sys!(pidfd_open, pid, 0);
        let signalled = sys!(kill, pid, libc::SIGKILL);
        let group = sys!(getpgid, pid);
        // [getrusage] of what it used goes to its parent with it.
        let mut usage = [0_i64; 18];
        let mut status = 0;
        let taken = sys!(wait4, pid, &raw mut status, 0, usage.as_mut_ptr());
        steps(&[
            look == (Ok(0), [libc::CLD_EXITED, pid, 7]),
            stat.contains(") Z "),
            descriptor.is_ok() && signalled == Ok(0) && group == sys!(getpgrp),
            taken == Ok(pid.into()) && libc::WEXITSTATUS(status) == 7 && usage[4] > 0,
            sys!(kill, pid, 0) == Err(libc::ESRCH) && sys!(getpgid, pid) == Err(libc::ESRCH),
        ])
    });
}

/// A child whose leader ends while another thread lives; a byte to `end` ends that one, with status 9.
fn headless(end: i32) -> i32 {
    child(move || {
        std::thread::spawn(move || {
            let mut byte = 0_u8;
            let _ = sys!(read, end, &raw mut byte, 1);
            let _ = sys!(exit, 9);
        });
        // The leader alone.
        let _ = sys!(exit, 5);
        0
    })
}

#[test]
fn a_process_outlives_its_leader() {
    in_child(|| {
        let (read, write) = pipe(0);
        let pid = headless(read);
        let mut state;
        loop {
            state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if state.contains(") Z ") {
                break;
            }
            std::thread::yield_now();
        }
        // Its leader is a zombie, and it is none.
        let lives = sys!(wait4, pid, 0, libc::WNOHANG, 0) == Ok(0) && sys!(kill, pid, 0) == Ok(0);
        let stopped = {
            kill(pid, libc::SIGSTOP);
            let stop = waitid(libc::P_PID, pid, libc::WSTOPPED);
            kill(pid, libc::SIGCONT);
            stop == (Ok(0), [libc::CLD_STOPPED, pid, libc::SIGSTOP])
        };
        let _ = sys!(write, write, c"x".as_ptr(), 1);
        // The status is that of the thread which ended last, unless all were told to end; before Linux 6 the leader's.
        let status = wait_status(pid);
        let (read, _write) = pipe(0);
        let killed = headless(read);
        kill(killed, libc::SIGTERM);
        steps(&[
            lives,
            stopped,
            libc::WIFEXITED(status) && (libc::WEXITSTATUS(status) == 9 || !inside() && libc::WEXITSTATUS(status) == 5),
            libc::WTERMSIG(wait_status(killed)) == libc::SIGTERM,
        ])
    });
}

#[test]
fn orphans_go_to_the_nearest_subreaper() {
    in_child(|| {
        let set = sys!(prctl, libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        let mut is = 0;
        let _ = sys!(prctl, libc::PR_GET_CHILD_SUBREAPER, &raw mut is, 0, 0, 0);
        let me = sys!(getpid).unwrap();
        let (read, write) = pipe(0);
        let middle = child(|| {
            // It is not inherited.
            let mut is = 9;
            let _ = sys!(prctl, libc::PR_GET_CHILD_SUBREAPER, &raw mut is, 0, 0, 0);
            let old = sys!(getpid).unwrap();
            let below = child(|| {
                while sys!(getppid) == Ok(old) {
                    std::thread::yield_now();
                }
                i32::from(sys!(getppid) != Ok(me)) + 40
            });
            let _ = sys!(write, write, &raw const below, 4);
            is
        });
        let mut below = 0_i32;
        let _ = sys!(read, read, &raw mut below, 4);
        let middle_status = wait_status(middle);
        // It is our child now, with SIGCHLD as its signal.
        let below_status = wait_status(below);
        steps(&[
            set == Ok(0) && is == 1,
            middle_status == 0,
            libc::WIFEXITED(below_status) && libc::WEXITSTATUS(below_status) == 40,
        ])
    });
}

#[test]
fn stops_and_continuations_take_each_other_back() {
    in_child(|| {
        // Pending ones of the other kind go, also where they are blocked.
        let set = 1_u64 << (libc::SIGTSTP - 1) | 1_u64 << (libc::SIGCONT - 1);
        let _ = sys!(rt_sigprocmask, libc::SIG_BLOCK, &raw const set, 0, 8);
        let me = number(sys!(getpid));
        let pending = || {
            let mut set = 0_u64;
            let _ = sys!(rt_sigpending, &raw mut set, 8);
            (set & 1 << (libc::SIGTSTP - 1) != 0, set & 1 << (libc::SIGCONT - 1) != 0)
        };
        kill(me, libc::SIGTSTP);
        let stop = pending();
        kill(me, libc::SIGCONT);
        let cont = pending();
        kill(me, libc::SIGTSTP);
        let stop_again = pending();
        // What is stopped takes nothing but SIGKILL and SIGCONT.
        let pid = idle();
        kill(pid, libc::SIGSTOP);
        let _ = waitid(libc::P_PID, pid, libc::WSTOPPED);
        kill(pid, libc::SIGTERM);
        let waits = waitid(libc::P_PID, pid, libc::WEXITED | libc::WNOHANG) == (Ok(0), NOTHING);
        kill(pid, libc::SIGCONT);
        let status = wait_status(pid);
        let killed = idle();
        kill(killed, libc::SIGSTOP);
        let _ = waitid(libc::P_PID, killed, libc::WSTOPPED);
        kill(killed, libc::SIGKILL);
        steps(&[
            stop == (true, false),
            cont == (false, true),
            stop_again == (true, false),
            waits && libc::WTERMSIG(status) == libc::SIGTERM,
            libc::WTERMSIG(wait_status(killed)) == libc::SIGKILL,
        ])
    });
}

#[test]
fn parents_that_do_not_care_hear_of_no_stop() {
    in_child(|| {
        let set = 1_u64 << (libc::SIGCHLD - 1);
        let _ = sys!(rt_sigprocmask, libc::SIG_BLOCK, &raw const set, 0, 8);
        // SAFETY: 1. sigaction is plain data.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_flags = libc::SA_NOCLDSTOP;
        // SAFETY: 1. `action` lives across the call.
        let _ = unsafe { libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut()) };
        let heard = || {
            let now = [0_i64, 0];
            sys!(rt_sigtimedwait, &raw const set, 0, now.as_ptr(), 8)
        };
        let pid = idle();
        kill(pid, libc::SIGSTOP);
        let stop = waitid(libc::P_PID, pid, libc::WSTOPPED);
        let of_stop = heard();
        kill(pid, libc::SIGCONT);
        let cont = waitid(libc::P_PID, pid, libc::WCONTINUED);
        let of_cont = heard();
        kill(pid, libc::SIGKILL);
        let end = waitid(libc::P_PID, pid, libc::WEXITED);
        steps(&[
            stop.1[0] == libc::CLD_STOPPED && of_stop == Err(libc::EAGAIN),
            cont.1[0] == libc::CLD_CONTINUED && of_cont == Err(libc::EAGAIN),
            end.1[0] == libc::CLD_KILLED && heard() == Ok(libc::SIGCHLD.into()),
        ])
    });
}

#[test]
fn orphaned_groups_do_not_stop_and_are_told() {
    in_child(|| {
        let _ = sys!(prctl, libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        let (read, write) = pipe(0);
        // A session whose leader has a child in a group of its own, stopped: the leader's end orphans that.
        let leader = child(|| {
            let _ = sys!(setsid);
            let set = 1_u64 << (libc::SIGHUP - 1);
            let _ = sys!(rt_sigprocmask, libc::SIG_BLOCK, &raw const set, 0, 8);
            let member = child(|| {
                let _ = sys!(setpgid, 0, 0);
                let me = sys!(getpid).unwrap();
                let _ = sys!(kill, me, libc::SIGSTOP);
                // Continued, with a SIGHUP.
                let now = [0_i64, 0];
                let hup = sys!(rt_sigtimedwait, &raw const set, 0, now.as_ptr(), 8);
                // In an orphaned group the terminal's stops do nothing, but SIGSTOP does.
                let _ = sys!(kill, me, libc::SIGTSTP);
                let _ = sys!(kill, me, libc::SIGTTIN);
                let _ = sys!(kill, me, libc::SIGTTOU);
                if hup == Ok(libc::SIGHUP.into()) { 33 } else { 34 }
            });
            let _ = sys!(write, write, &raw const member, 4);
            let stop = waitid(libc::P_PID, member, libc::WSTOPPED);
            i32::from(stop.1[0] != libc::CLD_STOPPED)
        });
        let mut member = 0_i32;
        let _ = sys!(read, read, &raw mut member, 4);
        let leader_status = wait_status(leader);
        let mut status = 0;
        let taken = sys!(wait4, member, &raw mut status, libc::WUNTRACED, 0);
        steps(&[
            leader_status == 0,
            taken == Ok(member.into()) && libc::WIFEXITED(status),
            libc::WEXITSTATUS(status) == 33,
        ])
    });
}

#[test]
fn init_takes_no_signal_that_it_has_not_asked_for() {
    if !inside() {
        return;
    }
    for signal in [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV] {
        assert!(matches!(sys!(kill, 1, signal), Ok(0) | Err(libc::EPERM)));
    }
    assert!(matches!(sys!(kill, 1, 0), Ok(0) | Err(libc::EPERM)));
}

#[test]
fn a_thread_that_executes_becomes_the_leader() {
    in_child(|| {
        let (read, write) = pipe(0);
        let pid = child(move || {
            let _ = sys!(dup2, write, 1);
            // The leader sleeps, another thread sleeps, a third one executes.
            std::thread::spawn(|| {
                loop {
                    let _ = sys!(pause);
                }
            });
            let worker = std::thread::spawn(|| {
                let argv = [c"sh".as_ptr(), c"-c".as_ptr(), c"echo $$ $(ls /proc/$$/task)".as_ptr(), std::ptr::null()];
                let envp: [*const libc::c_char; 1] = [std::ptr::null()];
                sys!(execve, c"/bin/sh".as_ptr(), argv.as_ptr(), envp.as_ptr())
            });
            let _ = worker.join();
            1
        });
        assert_eq!(wait_status(pid), 0);
        let mut text = [0_u8; 256];
        let length = number(sys!(read, read, text.as_mut_ptr(), text.len()));
        let said = String::from_utf8_lossy(&text[..usize::try_from(length).unwrap()]).into_owned();
        steps(&[said.trim() == format!("{pid} {pid}")])
    });
}

#[test]
fn vfork_s_parent_waits_for_the_end_or_a_program_and_signals_wait_with_it() {
    in_child(|| {
        let me = number(sys!(getpid));
        static FLAG: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);
        extern "C" fn note(_signal: i32) {
            FLAG.store(1, std::sync::atomic::Ordering::SeqCst);
        }
        // SAFETY: 1. the handler only stores.
        unsafe { libc::signal(libc::SIGUSR1, note as extern "C" fn(i32) as usize) };
        // CLONE_VFORK alone: memory of its own, so that a closure may run.
        let pid = sys!(clone, libc::CLONE_VFORK | libc::SIGCHLD, 0, 0, 0, 0).unwrap();
        if pid == 0 {
            let _ = sys!(kill, me, libc::SIGUSR1);
            // The parent sleeps where only the end of this process wakes it.
            let stat = std::fs::read_to_string(format!("/proc/{me}/stat")).unwrap_or_default();
            let _ = sys!(exit_group, i32::from(!stat.contains(") D ")));
        }
        let ran = FLAG.load(std::sync::atomic::Ordering::SeqCst) == 1;
        let status = wait_status(i32::try_from(pid).unwrap());
        steps(&[ran, status == 0])
    });
}
