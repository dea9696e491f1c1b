//! CPU clocks of host threads and processes: what the host's scheduler has given them so far.

/// Kinds in the low bits of a clock id (linux/posix-timers.h): what the scheduler counts, of a process or one thread.
const CPUCLOCK_SCHED: i32 = 2;
const CPUCLOCK_PERTHREAD: i32 = 4;

/// The calling thread's number in its pid namespace.
pub fn host_tid() -> i32 {
    // SAFETY: gettid only answers.
    unsafe { libc::gettid() }
}

/// CPU time of a thread of this process, in nanoseconds; `None` once it is gone.
pub fn thread_cpu_ns(tid: i32) -> Option<u64> {
    read(tid, CPUCLOCK_SCHED | CPUCLOCK_PERTHREAD)
}

/// CPU time of a process of this pid namespace, in nanoseconds; `None` once it has been waited for.
pub fn process_cpu_ns(pid: i32) -> Option<u64> {
    read(pid, CPUCLOCK_SCHED)
}

/// clock_getcpuclockid(3): the complement of the number above three bits of kind. Number 0 would be the caller.
fn read(number: i32, kind: i32) -> Option<u64> {
    // Far past any pid; larger ones would not fit above the bits of the kind.
    if number <= 0 || number >= 1 << 28 {
        return None;
    }
    let clock = (!number) << 3 | kind;
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a live timespec that the call fills; a clock that is not there is an error.
    let ret = unsafe { libc::clock_gettime(clock, &mut now) };
    let ns = (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64);
    (ret == 0).then_some(ns)
}

#[cfg(test)]
mod tests {
    use super::{host_tid, process_cpu_ns, thread_cpu_ns};

    #[test]
    fn a_thread_that_sleeps_uses_nothing_and_a_busy_one_does() {
        let (tx, rx) = std::sync::mpsc::channel();
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let sleeper = std::thread::spawn(move || {
            tx.send(host_tid()).unwrap();
            let _ = wait.recv();
        });
        let theirs = rx.recv().unwrap();
        let own = host_tid();
        let (before, asleep) = (thread_cpu_ns(own).unwrap(), thread_cpu_ns(theirs).unwrap());
        while thread_cpu_ns(own).unwrap() < before + 20_000_000 {}
        assert!(thread_cpu_ns(theirs).unwrap() - asleep < 10_000_000);
        assert!(process_cpu_ns(std::process::id().cast_signed()).unwrap() >= before + 20_000_000);
        end.send(()).unwrap();
        sleeper.join().unwrap();
        assert_eq!(thread_cpu_ns(0), None);
        assert_eq!(thread_cpu_ns(i32::MAX), None);
    }
}
