//! Who runs and who watches, counted as it is: the tasks' own steps, in the order in which hand-overs make them.

use casemate_platform_systrap::cores::{Cores, Seat};
use loom::sync::Arc;
use loom::thread;

fn check(bound: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(bound);
    model.check(body);
}

/// Runs `tasks` at the same time; when all have ended, nobody counts any more. That no count ever fell below zero is asserted
/// where it is changed.
fn together(cpus: u32, tasks: &[fn(&Seat, &Cores)]) {
    let cores = Arc::new(Cores::timeless(cpus));
    let mut bodies = tasks.iter().map(|&task| {
        let cores = Arc::clone(&cores);
        move || {
            let seat = Seat::default();
            seat.wake(&cores);
            task(&seat, &cores);
            seat.sleep(&cores);
            assert!(!seat.is_watching(), "a task that sleeps does not watch");
        }
    });
    let first = bodies.next();
    let threads: Vec<_> = bodies.map(thread::spawn).collect();
    first.into_iter().for_each(|body| body());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(cores.counts(), [0; 3], "an idle sandbox has nobody who runs, watches, or would");
    assert!(!cores.are_wanted());
}

/// Watches if there is a place.
fn watches(seat: &Seat, cores: &Cores) {
    if seat.watch(cores) {
        let [_, watching, _] = cores.counts();
        assert!(watching <= 1, "two cores each");
        seat.be_quick(cores, true);
    }
}

/// As above, and is made to sleep and wakes again meanwhile.
fn sleeps_between(seat: &Seat, cores: &Cores) {
    watches(seat, cores);
    seat.sleep(cores);
    seat.wake(cores);
}

/// Loses its place, as when nothing came.
fn gives_up(seat: &Seat, cores: &Cores) {
    watches(seat, cores);
    seat.stop_watching(cores);
    seat.be_quick(cores, false);
    cores.offer();
}

/// Would watch, and waits until it may.
fn insists(seat: &Seat, cores: &Cores) {
    seat.be_quick(cores, true);
    let granted = seat.watch(cores) || seat.wait_for_turn(cores);
    assert!(granted && seat.is_watching(), "a wait without an end ends with a turn");
}

/// Computes.
fn computes(_: &Seat, _: &Cores) {}

#[test]
fn counts_are_zero_again_when_all_sleep() {
    for tasks in [[watches as fn(&Seat, &Cores), sleeps_between], [gives_up, watches], [gives_up, computes]] {
        check(2, move || together(2, &tasks));
    }
    check(2, || together(1, &[watches, sleeps_between]));
}

/// Two who would watch on cores for one: each gets its turn, however they meet.
#[test]
fn whoever_waits_for_a_place_gets_it() {
    check(2, || together(2, &[insists, insists]));
}

/// Who computes takes the cores that another waits for; when it sleeps they are offered.
#[test]
fn a_task_that_sleeps_leaves_its_core_to_those_who_wait() {
    check(2, || together(2, &[insists, computes]));
    check(2, || together(2, &[insists, sleeps_between]));
}
