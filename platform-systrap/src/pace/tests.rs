//! The policy with a clock of its own.

use super::{Cores, Ended, MOST_FAILURES, Pace, Plan, STREAK, Scale, Seat, Ticks, WORTH};

/// One tick is a nanosecond.
fn cores(cpus: u32) -> Cores {
    let scale = Scale {
        quick: 16_000,
        patience: 20_000,
        first_patience: 200_000,
        nap: 20_000,
        long_nap: 150_000,
        asleep: 5_000,
        crowded: 100_000,
        gap: 15_000,
        longest: 8_000_000,
        penalty: 100_000,
        turn: 2_000_000,
        recount: 50_000_000,
        stub_looks: 500,
    };
    Cores::new(cpus, scale)
}

struct Task {
    pace: Pace,
    seat: Seat,
    now: Ticks,
}

impl Task {
    fn new(cores: &Cores) -> Self {
        let task = Self { pace: Pace::new(cores), seat: Seat::default(), now: 1_000_000 };
        task.seat.wake(cores);
        task
    }

    /// A call whose answer is planned at once; the next one comes `app` later. Returns the plan.
    fn call(&mut self, cores: &Cores, app: Ticks) -> Plan {
        self.seat.wake(cores);
        let plan = self.pace.plan(&self.seat, cores);
        self.pace.answered = self.now;
        self.now += app;
        self.pace.note_request(self.now, self.seat.is_watching(), cores);
        plan
    }

    /// Calls until watching begins; how many.
    fn until_begin(&mut self, cores: &Cores, app: Ticks) -> u32 {
        (0..10_000_000).find(|_| self.call(cores, app) == Plan::Begin).expect("it begins")
    }

    fn stop(&mut self, cores: &Cores, ended: Ended) {
        self.pace.stop(&self.seat, cores, ended, self.now);
    }
}

#[test]
fn quick_calls_begin_to_watch_and_slow_ones_do_not() {
    let cores = cores(2);
    let mut quick = Task::new(&cores);
    assert!((1..=STREAK).contains(&quick.until_begin(&cores, 5_000)));
    assert!((0..1000).all(|_| quick.call(&cores, 1_000) == Plan::Watch));
    quick.seat.sleep(&cores);
    let mut slow = Task::new(&cores);
    assert!((0..1000).all(|_| slow.call(&cores, 30_000) == Plan::Sleep));
}

#[test]
fn who_promises_many_calls_watches_at_once_until_that_is_in_vain_too_often() {
    let cores = cores(2);
    let mut begun = Vec::new();
    let mut child = |calls: u32| {
        let mut task = Task::new(&cores);
        task.pace.expect_calls();
        begun.push(task.call(&cores, 1_000) == Plan::Begin);
        for _ in 0..calls {
            task.call(&cores, 1_000);
        }
        task.seat.sleep(&cores);
        // What the sleep makes of the stretch.
        task.call(&cores, 1_000);
        task.seat.sleep(&cores);
    };
    (0..10).for_each(|_| child(2 * WORTH));
    (0..40).for_each(|_| child(2));
    let (good, bad) = begun.split_at(10);
    assert!(good.iter().all(|&at_once| at_once));
    let tried = bad.iter().filter(|&&at_once| at_once).count();
    assert!((4..10).contains(&tried), "{tried} of 40");
    // Nor is it believed while another task has the other core.
    let (mut busy, mut late) = (Task::new(&cores), Task::new(&cores));
    busy.call(&cores, 1_000);
    late.pace.expect_calls();
    assert_eq!(late.call(&cores, 1_000), Plan::Sleep);
}

#[test]
fn nobody_watches_without_a_free_core() {
    let one = cores(1);
    let mut alone = Task::new(&one);
    assert!((0..1000).all(|_| alone.call(&one, 1_000) == Plan::Sleep));
    let two = cores(2);
    let (mut first, mut second) = (Task::new(&two), Task::new(&two));
    assert!((0..1000).all(|_| first.call(&two, 1_000) == Plan::Sleep));
    // A task that sleeps leaves its core to the other, until it wakes.
    second.seat.sleep(&two);
    first.until_begin(&two, 1_000);
    assert_eq!(first.call(&two, 1_000), Plan::Watch);
    assert_eq!(second.call(&two, 1_000), Plan::Sleep);
    assert!(two.crowded());
    // It bears with that for a moment.
    let went_on = (0..1_000).take_while(|_| first.call(&two, 1_000) == Plan::Watch).count();
    assert!((50..200).contains(&went_on), "{went_on}");
    assert!(!two.crowded());
}

#[test]
fn quick_tasks_take_turns_on_too_few_cores() {
    let cores = cores(2);
    let mut first = Task::new(&cores);
    let mut second = Task::new(&cores);
    // While the other might compute, nobody watches.
    assert!((0..100).all(|_| first.call(&cores, 5_000) == Plan::Sleep));
    assert_eq!(
        (0..100).find_map(|_| Some(second.call(&cores, 5_000)).filter(|plan| *plan != Plan::Sleep)),
        Some(Plan::Begin)
    );
    assert!(cores.crowded());
    assert_eq!(first.call(&cores, 5_000), Plan::Wait);
    let waits = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            // A machine that is busy for longer than its patience makes it come again.
            let granted = (0..1_000).any(|_| first.pace.wait(&first.seat, &cores) == Plan::Begin);
            waits.store(false, std::sync::atomic::Ordering::Relaxed);
            granted
        });
        while waits.load(std::sync::atomic::Ordering::Relaxed) {
            if cores.are_wanted() && second.call(&cores, 1_000) == Plan::Wait {
                second.seat.sleep(&cores);
            }
        }
        assert!(waiter.join().unwrap());
    });
    assert!(first.seat.is_watching() && !second.seat.is_watching());
    assert!(second.now > 2_000_000, "a turn was as long as it should");
    [&first, &second].into_iter().for_each(|task| task.seat.sleep(&cores));
    assert_eq!(cores.counts(), [0; 3]);
}

#[test]
fn every_core_comes_back() {
    let cores = cores(8);
    let mut tasks: Vec<Task> = (0..4).map(|_| Task::new(&cores)).collect();
    for task in &mut tasks {
        task.until_begin(&cores, 1_000);
    }
    assert_eq!(cores.counts()[0], 8);
    for (task, ended) in tasks.iter_mut().zip([Ended::InVain, Ended::Gap, Ended::Crowded, Ended::Late]) {
        task.stop(&cores, ended);
        task.stop(&cores, ended);
    }
    assert_eq!(cores.counts()[0], 4);
    tasks.iter().for_each(|task| task.seat.sleep(&cores));
    tasks.iter().for_each(|task| task.seat.sleep(&cores));
    assert_eq!(cores.counts()[0], 0);
}

#[test]
fn a_stretch_that_did_not_pay_is_followed_by_a_longer_sleep() {
    let cores = cores(2);
    let mut task = Task::new(&cores);
    let mut before = task.until_begin(&cores, 8_000);
    // Fast calls, but each time our thread loses its core for three milliseconds.
    for _ in 0..MOST_FAILURES.div_ceil(2) {
        (0..100).for_each(|_| assert_eq!(task.call(&cores, 1_000), Plan::Watch));
        task.now += 3_000_000;
        task.stop(&cores, Ended::Gap);
        assert_eq!(task.call(&cores, 8_000), Plan::Sleep);
        let now = task.until_begin(&cores, 8_000);
        assert!(now > before, "{now} after {before}");
        before = now;
    }
    // 50 ms' worth.
    assert!((4_000..8_000).contains(&before), "{before}");
    // Stretches that pay bring it back.
    for _ in 0..MOST_FAILURES {
        (0..10_000).for_each(|_| assert_eq!(task.call(&cores, 1_000), Plan::Watch));
        task.stop(&cores, Ended::Gap);
        task.until_begin(&cores, 8_000);
    }
    assert_eq!(task.pace.failures, 0);
}

#[test]
fn long_computing_does_not_count_against_a_stretch() {
    let cores = cores(2);
    let mut task = Task::new(&cores);
    for _ in 0..20 {
        let begun = task.until_begin(&cores, 5_000);
        assert!(begun <= STREAK, "{begun}");
        (0..100).for_each(|_| assert_eq!(task.call(&cores, 500), Plan::Watch));
        task.now += 60_000;
        task.stop(&cores, Ended::InVain);
        task.now += 2_000_000;
        task.pace.note_request(task.now, false, &cores);
    }
    assert_eq!(task.pace.failures, 0);
}

#[test]
fn a_stub_that_lost_patience_once_is_watched_again() {
    let cores = cores(2);
    let mut task = Task::new(&cores);
    task.until_begin(&cores, 5_000);
    (0..WORTH).for_each(|_| assert_eq!(task.call(&cores, 500), Plan::Watch));
    assert_eq!(task.pace.late(&task.seat, &cores), Plan::Begin);
    assert!(task.seat.is_watching());
    assert_eq!(task.pace.late(&task.seat, &cores), Plan::Sleep, "but not one that always does");
    assert!(!task.seat.is_watching());
}

#[test]
fn tasks_that_sleep_often_do_not_watch() {
    let cores = cores(2);
    let mut task = Task::new(&cores);
    let mut begun = 0;
    for _ in 0..10_000 {
        for _ in 0..STREAK + 2 {
            begun += u32::from(task.call(&cores, 1_000) == Plan::Begin);
        }
        task.seat.sleep(&cores);
    }
    assert!(begun < 100, "{begun}");
}

#[test]
fn naps_in_vain_become_rare_and_short_sleeps_bring_them_back() {
    let cores = cores(2);
    let task = Task::new(&cores);
    let mut looked = 0;
    for _ in 0..4_000 {
        let before = looked;
        assert!(!task.seat.nap(&cores, || {
            looked += u32::from(looked == before);
            false
        }));
    }
    assert!((50..90).contains(&looked), "{looked}");
    let slept = (0..2_000).take_while(|_| !task.seat.nap(&cores, || true)).count();
    assert!(slept < 1 << super::MOST_VAIN_NAPS);
    assert!((0..100).all(|_| task.seat.nap(&cores, || true)));
    // Never while more tasks than cores run.
    let others = [Task::new(&cores), Task::new(&cores)];
    assert!(!task.seat.nap(&cores, || true));
    others.iter().for_each(|other| other.seat.sleep(&cores));
    assert!(task.seat.nap(&cores, || true));
}

#[test]
fn naps_in_vain_become_long_and_stay_so_while_that_is_worth_it() {
    let cores = cores(2);
    let Task { seat, .. } = Task::new(&cores);
    let patience = || seat.nap_patience(&cores.scale);
    for _ in 0..super::VAIN_NAPS {
        assert_eq!(patience(), 20_000);
        seat.note_nap(None);
    }
    assert_eq!(patience(), 150_000);
    // The other wakes up on a halted core: it is waited for from now on, ...
    seat.note_nap(Some(60_000));
    assert_eq!(patience(), 120_000);
    seat.note_nap(Some(100_000));
    assert_eq!(patience(), 150_000);
    // ... until it naps itself, ...
    seat.note_nap(Some(3_000));
    assert_eq!(patience(), 20_000);
    // ... or stays away.
    seat.note_nap(Some(60_000));
    seat.note_nap(None);
    assert_eq!(patience(), 20_000);
}

#[test]
fn watching_ends_when_nothing_comes() {
    let cores = Cores::new(2, Scale::measure());
    let task = Task::new(&cores);
    assert_eq!(task.pace.watch(&cores, || Some(7)), Ok(7));
    let begun = std::time::Instant::now();
    assert!(matches!(task.pace.watch(&cores, || None::<()>), Err(Ended::InVain | Ended::Gap)));
    assert!(begun.elapsed().as_secs() < 5);
}

#[test]
fn the_scale_is_plausible() {
    let scale = Scale::measure();
    assert!(scale.quick < scale.patience && scale.patience < scale.first_patience && scale.gap > 0);
    assert!((16..=1 << 20).contains(&scale.stub_looks));
}

#[test]
fn cores_that_are_taken_away_are_not_watched_on_and_may_come_back() {
    let cores = cores(2);
    let mut task = Task::new(&cores);
    task.until_begin(&cores, 1_000);
    cores.note(1);
    let went_on = (0..1_000).take_while(|_| task.call(&cores, 1_000) == Plan::Watch).count();
    assert!((50..200).contains(&went_on), "{went_on}");
    let mut asked = 0;
    for now in (0..1_000_000_000).step_by(1_000_000) {
        cores.recount(now, || {
            asked += 1;
            1
        });
        assert!(!task.seat.watch(&cores));
    }
    assert!((10..=20).contains(&asked), "{asked}");
    cores.recount(2_000_000_000, || 64);
    assert!(task.seat.watch(&cores), "as many as at the start");
    cores.recount(3_000_000_000, || unreachable!("none are missing"));
}
