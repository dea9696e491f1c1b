//! Loom runs making tasks look, pausing them, and stopping, ending and replacing processes through all interleavings:
//! `RUSTFLAGS="--cfg loom" cargo test -p casemate-stops --test loom --release`. What is lost is a deadlock, which loom reports.
#![cfg(loom)]

use std::sync::Arc;

use casemate_stops::{Attention, Busy, Interrupted, Member, Pauses, Progress, Remaining, Stops, Work};
use casemate_stops::{GroupStop, stand_still, wait_alone};
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use sync::{LockClass, Parker};

/// A deadline that never comes in a model; others come at once.
const NEVER: Option<u64> = Some(u64::MAX);

/// All interleavings with at most so many preemptions.
fn model(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// A task whose guest code runs until it is interrupted; interrupts that come late are remembered.
struct Task {
    attention: Attention,
    interrupted: Mutex<bool>,
    changed: Condvar,
    /// How many hold it paused: whenever it runs it looks whether somebody relies on its standing still.
    watched: AtomicUsize,
}

impl Member for Task {
    fn attention(&self) -> &Attention {
        &self.attention
    }

    fn interrupt(&self) {
        *self.interrupted.lock().unwrap() = true;
        self.changed.notify_one();
    }
}

impl Task {
    fn new() -> Arc<Self> {
        let (interrupted, changed) = (Mutex::new(false), Condvar::new());
        Arc::new(Self { attention: Attention::new(), interrupted, changed, watched: AtomicUsize::new(0) })
    }

    fn run_guest(&self) {
        if self.attention.enter_guest().is_err() {
            return;
        }
        let mut interrupted = self.interrupted.lock().unwrap();
        while !*interrupted {
            interrupted = self.changed.wait(interrupted).unwrap();
        }
        *interrupted = false;
        drop(interrupted);
        self.attention.leave_guest();
    }

    fn touch(&self) {
        assert_eq!(self.watched.load(Ordering::Relaxed), 0, "it runs while it is paused");
    }

    /// By a pauser, while it holds the task.
    fn look_at(&self) {
        self.watched.fetch_add(1, Ordering::Relaxed);
        self.watched.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sleeps until `ready`, the deadline, or until something wants it.
    fn wait(&self, pauses: &Pauses, ready: &AtomicBool, deadline: Option<u64>) -> Result<(), Interrupted> {
        while !ready.load(Ordering::SeqCst) {
            self.touch();
            let park = || {
                self.attention.parker().park(deadline);
            };
            self.attention.sleep_unless(Work::SIGNAL, || pauses.sleep(&self.attention, park))?;
            self.touch();
            if deadline != NEVER {
                break;
            }
        }
        Ok(())
    }
}

#[test]
fn a_kick_finds_guest_code() {
    loom::model(|| {
        let task = Task::new();
        let kicker = {
            let task = Arc::clone(&task);
            thread::spawn(move || task.kick(Work::SIGNAL))
        };
        while !task.attention.work().contains(Work::SIGNAL) {
            task.run_guest();
        }
        kicker.join().unwrap();
    });
}

/// Something to wake for, something that interrupts, and a pause: the task is woken or interrupted, and stands still in
/// between.
fn sleeps(deadline: Option<u64>) {
    model(2, move || {
        let (task, pauses, ready) = (Task::new(), Arc::new(Pauses::new()), Arc::new(AtomicBool::new(false)));
        let waker = {
            let (task, ready) = (Arc::clone(&task), Arc::clone(&ready));
            thread::spawn(move || {
                ready.store(true, Ordering::SeqCst);
                task.attention.parker().unpark();
            })
        };
        let kicker = {
            let task = Arc::clone(&task);
            thread::spawn(move || task.kick(Work::SIGNAL))
        };
        let pauser = {
            let (task, pauses) = (Arc::clone(&task), Arc::clone(&pauses));
            thread::spawn(move || {
                pauses.pause(|| vec![Arc::clone(&task)]);
                task.look_at();
                pauses.unpause();
            })
        };
        let interrupted = task.wait(&pauses, &ready, deadline).is_err();
        assert!(!interrupted || task.attention.work().contains(Work::SIGNAL));
        pauses.asleep(&task.attention);
        for thread in [waker, kicker, pauser] {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_sleeper_loses_neither_wake_nor_kick_nor_pause() {
    sleeps(NEVER);
}

#[test]
fn a_sleeper_with_a_deadline_goes_on() {
    sleeps(Some(0));
}

/// A pause of all and one of the task alone, over guest code, calls and sleep: it runs again only after both.
#[test]
fn pauses_nest_and_end() {
    model(2, || {
        let (task, pauses) = (Task::new(), Arc::new(Pauses::new()));
        let of_all = {
            let (task, pauses) = (Arc::clone(&task), Arc::clone(&pauses));
            thread::spawn(move || {
                pauses.pause(|| vec![Arc::clone(&task)]);
                task.look_at();
                pauses.unpause();
                task.kick(Work::SIGNAL);
            })
        };
        let of_one = {
            let (task, pauses) = (Arc::clone(&task), Arc::clone(&pauses));
            thread::spawn(move || {
                pauses.pause_task(&task);
                task.look_at();
                pauses.unpause_task(&task.attention);
            })
        };
        while !task.attention.work().contains(Work::SIGNAL) {
            pauses.look(&task.attention, || ());
            task.touch();
            task.run_guest();
        }
        task.touch();
        pauses.asleep(&task.attention);
        of_all.join().unwrap();
        of_one.join().unwrap();
    });
}

/// A task that is made while all are being paused stands still too.
#[test]
fn a_pause_holds_who_is_made_meanwhile() {
    model(3, || {
        let (parent, child, pauses) = (Task::new(), Task::new(), Arc::new(Pauses::new()));
        let all = Arc::new(Mutex::new(vec![Arc::clone(&parent)]));
        let pauser = {
            let (parent, child) = (Arc::clone(&parent), Arc::clone(&child));
            let (pauses, all) = (Arc::clone(&pauses), Arc::clone(&all));
            thread::spawn(move || {
                pauses.pause(|| all.lock().unwrap().clone());
                parent.look_at();
                child.look_at();
                pauses.unpause();
            })
        };
        let step = |task: &Task, pauses: &Pauses| {
            pauses.look(&task.attention, || ());
            task.touch();
        };
        step(&parent, &pauses);
        all.lock().unwrap().push(Arc::clone(&child));
        let born = {
            let (child, pauses) = (Arc::clone(&child), Arc::clone(&pauses));
            thread::spawn(move || {
                pauses.awake(&child.attention);
                step(&child, &pauses);
                pauses.asleep(&child.attention);
            })
        };
        step(&parent, &pauses);
        pauses.asleep(&parent.attention);
        born.join().unwrap();
        pauser.join().unwrap();
    });
}

/// A process: the tree's count of threads that exist, its stops inside, and its parent.
struct Process {
    live: sync::Mutex<usize>,
    stops: sync::Mutex<Stops<Task, u8, u8>>,
    parent: Parker,
}

impl Process {
    fn of(threads: &[&Arc<Task>]) -> Arc<Self> {
        let mut stops = Stops::default();
        for thread in threads {
            stops.join(Arc::clone(thread)).unwrap();
        }
        Arc::new(Self {
            live: sync::Mutex::new(LockClass::new("model.tree", 1), threads.len()),
            stops: sync::Mutex::new(LockClass::new("model.stops", 2), stops),
            parent: Parker::new(),
        })
    }

    fn tell(&self, progress: Progress) {
        if progress == Progress::Complete {
            self.parent.unpark();
        }
    }

    /// Does what the flags say; whether the task lives on.
    fn obey(&self, task: &Arc<Task>) -> bool {
        loop {
            let work = task.attention.work();
            if work.contains(Work::KILL) {
                return false;
            }
            if !work.contains(Work::STOP) {
                return true;
            }
            let count = || {
                let progress = self.stops.lock().count_stopped(task);
                self.tell(progress);
            };
            stand_still(&task.attention, count, || {
                task.attention.parker().park(NEVER);
            });
        }
    }

    /// Leaves its process, and then the tree.
    fn exit(&self, task: &Arc<Task>) {
        let left = self.stops.lock().leave(task);
        self.tell(left.stop);
        let waits = {
            let mut live = self.live.lock();
            *live -= 1;
            let stops = self.stops.lock();
            assert!(left.remaining == Remaining::Some || stops.threads().is_empty());
            stops.executing().cloned()
        };
        if let Some(waits) = waits {
            waits.attention.parker().unpark();
        }
    }

    /// A thread that runs until it has to exit.
    fn run(self: &Arc<Self>, task: &Arc<Task>) -> thread::JoinHandle<()> {
        let (process, task) = (Arc::clone(self), Arc::clone(task));
        thread::spawn(move || {
            while process.obey(&task) {
                task.run_guest();
            }
            process.exit(&task);
        })
    }

    /// execve(2); whether it came to be.
    fn execute(&self, task: &Arc<Task>) -> bool {
        loop {
            if !self.obey(task) {
                break;
            }
            if self.stops.lock().begin_exec(task) == Err(Busy) {
                // It comes again once the flags are looked at, which say why.
                continue;
            }
            let sleep = || {
                task.attention.sleep_unless(Work::KILL, || {
                    task.attention.parker().park(NEVER);
                })
            };
            if wait_alone(|| *self.live.lock() == 1, sleep).is_err() {
                break;
            }
            self.stops.lock().end_exec();
            return true;
        }
        self.exit(task);
        false
    }

    fn begin_stop(&self) {
        self.stops.lock().begin_stop(19);
    }

    fn resume(&self) {
        self.stops.lock().resume();
    }

    fn begin_exit(&self, status: u8) {
        self.stops.lock().begin_exit(status);
    }

    /// wait4(2) with WUNTRACED, by the parent.
    fn wait_stopped(&self) {
        while !matches!(self.stops.lock().stop(), GroupStop::Stopped { .. }) {
            self.parent.park(NEVER);
        }
    }

    fn is_gone(&self) -> bool {
        *self.live.lock() == 0 && self.stops.lock().threads().is_empty()
    }
}

#[test]
fn a_stop_a_continuation_and_an_end_leave_nobody_behind() {
    model(2, || {
        let (one, other) = (Task::new(), Task::new());
        let process = Process::of(&[&one, &other]);
        let threads = [process.run(&one), process.run(&other)];
        process.begin_stop();
        process.resume();
        process.begin_stop();
        process.begin_exit(1);
        assert_eq!(process.stops.lock().stop(), GroupStop::Running, "who ends has not stopped");
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(process.is_gone());
    });
}

/// One of two exits by itself while the process stops: the stop is complete when the other stands, or with its end.
#[test]
fn a_stop_is_complete_though_one_leaves() {
    model(2, || {
        let (one, other) = (Task::new(), Task::new());
        let process = Process::of(&[&one, &other]);
        let stays = process.run(&one);
        let leaves = {
            let (process, other) = (Arc::clone(&process), Arc::clone(&other));
            thread::spawn(move || process.exit(&other))
        };
        process.begin_stop();
        process.wait_stopped();
        process.resume();
        process.begin_exit(0);
        stays.join().unwrap();
        leaves.join().unwrap();
        assert!(process.is_gone());
    });
}

/// A stop and a continuation while one of two executes a program: it is alone in the end, whatever came first.
#[test]
fn a_stop_does_not_hold_an_execve_for_ever() {
    model(2, || {
        let (one, other) = (Task::new(), Task::new());
        let process = Process::of(&[&one, &other]);
        let runs = process.run(&other);
        let executes = {
            let (process, one) = (Arc::clone(&process), Arc::clone(&one));
            thread::spawn(move || assert!(process.execute(&one)))
        };
        process.begin_stop();
        process.resume();
        runs.join().unwrap();
        executes.join().unwrap();
        assert_eq!((*process.live.lock(), process.stops.lock().threads().len()), (1, 1));
    });
}

/// exit_group(2) by another thread, or a signal that kills: the program is executed before it or never.
#[test]
fn an_end_ends_an_execve() {
    model(3, || {
        let (one, other) = (Task::new(), Task::new());
        let process = Process::of(&[&one, &other]);
        let runs = process.run(&other);
        let executes = {
            let (process, one) = (Arc::clone(&process), Arc::clone(&one));
            thread::spawn(move || process.execute(&one))
        };
        process.begin_exit(9);
        runs.join().unwrap();
        if executes.join().unwrap() {
            // The new program is killed like the old one.
            assert!(!process.obey(&one));
            process.exit(&one);
        }
        assert!(process.is_gone());
    });
}

#[test]
fn of_two_who_execute_one_is_left() {
    model(3, || {
        let (one, other) = (Task::new(), Task::new());
        let process = Process::of(&[&one, &other]);
        let rival = {
            let (process, other) = (Arc::clone(&process), Arc::clone(&other));
            thread::spawn(move || process.execute(&other))
        };
        let won = process.execute(&one);
        assert_ne!(won, rival.join().unwrap());
        assert_eq!((*process.live.lock(), process.stops.lock().threads().len()), (1, 1));
    });
}

/// A thread makes another while the process ends: the new one ends too, or is not made.
#[test]
fn who_is_made_while_all_end_ends_too() {
    model(3, || {
        let (one, new) = (Task::new(), Task::new());
        let process = Process::of(&[&one]);
        let makes = {
            let process = Arc::clone(&process);
            thread::spawn(move || {
                let made = {
                    let mut live = process.live.lock();
                    let made = process.stops.lock().join(Arc::clone(&new)).is_ok();
                    *live += usize::from(made);
                    made
                };
                let child = made.then(|| process.run(&new));
                while process.obey(&one) {
                    one.run_guest();
                }
                process.exit(&one);
                child
            })
        };
        process.begin_exit(0);
        if let Some(child) = makes.join().unwrap() {
            child.join().unwrap();
        }
        assert!(process.is_gone());
    });
}

/// A thread that the host refuses has joined and leaves again while the process stops: the others are not waited for in vain.
#[test]
fn a_stop_does_not_wait_for_who_never_ran() {
    model(3, || {
        let (one, new) = (Task::new(), Task::new());
        let process = Process::of(&[&one]);
        let makes = {
            let process = Arc::clone(&process);
            thread::spawn(move || {
                if process.stops.lock().join(Arc::clone(&new)).is_ok() {
                    let left = process.stops.lock().leave(&new);
                    process.tell(left.stop);
                }
                while process.obey(&one) {
                    one.run_guest();
                }
                process.exit(&one);
            })
        };
        process.begin_stop();
        process.wait_stopped();
        process.resume();
        process.begin_exit(0);
        makes.join().unwrap();
        assert!(process.is_gone());
    });
}
