//! Timers of a process: interval timers (setitimer(2)) and POSIX timers (timer_create(2)).
//!
//! A wall-clock timer is a deadline on the timer thread. A CPU-time timer is looked at whenever the process could have
//! used the time that is left: a deadline makes its threads look ([`Work::CPU_TIMERS`]) and whoever still runs arms the
//! next. A process that sleeps uses no CPU time and arms nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use abi::Errno;
use sync::Mutex;

use stops::{Member, Work};

use super::{ClockId, NS_PER_SEC, TimerHandle, TimerTarget};
use crate::ids::Tid;
use crate::kernel::Kernel;
use crate::lock::GROUP_TIMERS;
use crate::rlimit::{INFINITY, Resource};
use crate::signal::info::{SI_TIMER, SigData, SigInfo};
use crate::signal::send::Origin;
use crate::signal::types::Signal;
use crate::task::Task;
use crate::task::group::ThreadGroup;
use crate::task::thread::{CpuTimes, Thread};

/// Which interval timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ItimerWhich {
    /// Wall clock; SIGALRM.
    Real,
    /// CPU time in guest code; SIGVTALRM.
    Virtual,
    /// CPU time; SIGPROF.
    Prof,
}

/// An interval timer's setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IntervalTimer {
    /// Until the next expiration; 0 is disarmed.
    pub value_ns: u64,
    /// Between further ones; 0 for none.
    pub interval_ns: u64,
}

/// What a POSIX timer does when it expires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerNotify {
    /// Nothing (SIGEV_NONE).
    None,
    /// A signal to the process, or to one of its threads (SIGEV_THREAD_ID).
    Signal { signal: Signal, value: u64, thread: Option<Tid> },
}

/// What timer_create(2) is asked for. Without a `notify` value of its own, `sival` is the timer's id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PosixTimerSpec {
    /// Its clock.
    pub clock: ClockId,
    /// What happens; `None` is SIGALRM with the timer's id.
    pub notify: Option<TimerNotify>,
}

/// What a timer counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Counts {
    Wall,
    Cpu,
    UserCpu,
}

#[derive(Debug)]
struct Timer {
    counts: Counts,
    interval_ns: u64,
    /// On the clock that it counts; `None` is disarmed.
    due_ns: Option<u64>,
    handle: Option<TimerHandle>,
    /// Distinguishes armings, so that a late expiration of an old one is recognised.
    generation: u32,
    /// Whose CPU time it counts, if not that of the whole process.
    thread: Option<Weak<Thread>>,
}

impl Timer {
    const fn new(counts: Counts) -> Self {
        Self { counts, interval_ns: 0, due_ns: None, handle: None, generation: 0, thread: None }
    }

    /// What its clock shows.
    fn clock(&self, now: &Now) -> u64 {
        match &self.thread {
            None => now.of(self.counts),
            // The clock of one that has ended stands.
            Some(thread) => thread.upgrade().map_or(0, |thread| thread.cpu_times().total()),
        }
    }

    /// Whether its clock can still go on.
    fn is_alive(&self) -> bool {
        self.thread.as_ref().is_none_or(|thread| thread.strong_count() > 0)
    }

    fn left(&self, now: &Now) -> IntervalTimer {
        let value_ns = self.due_ns.map_or(0, |due| due.saturating_sub(self.clock(now)).max(1));
        IntervalTimer { value_ns, interval_ns: self.interval_ns }
    }

    /// After an expiration at `now`: when the next is due, and how many were missed.
    fn advance(&mut self, now: u64) -> u64 {
        let Some(due) = self.due_ns else { return 0 };
        if self.interval_ns == 0 {
            self.due_ns = None;
            return 0;
        }
        let missed = now.saturating_sub(due) / self.interval_ns;
        let step = self.interval_ns.saturating_mul(missed.saturating_add(1));
        self.due_ns = Some(due.saturating_add(step));
        missed
    }
}

struct Posix {
    timer: Timer,
    clock: ClockId,
    notify: TimerNotify,
    /// Of the last signal that was taken (timer_getoverrun(2)).
    overrun: i32,
}

struct Now {
    wall: u64,
    cpu: CpuTimes,
}

impl Now {
    fn of(&self, counts: Counts) -> u64 {
        match counts {
            Counts::Wall => self.wall,
            Counts::Cpu => self.cpu.total(),
            Counts::UserCpu => self.cpu.user_ns,
        }
    }
}

struct State {
    itimers: [Timer; 3],
    posix: BTreeMap<i32, Posix>,
    next_id: i32,
    target: Option<Arc<Target>>,
    /// The deadline at which threads look at CPU timers.
    cpu_check: Option<TimerHandle>,
    /// CPU time, in whole seconds, at which SIGXCPU was last sent; 0 is never.
    warned_at_secs: u64,
}

/// The timers of a process.
pub struct GroupTimers {
    state: Mutex<State>,
}

struct Target {
    group: Weak<ThreadGroup>,
    kernel: Weak<Kernel>,
}

/// A period shorter than this is counted in full but fires no oftener: a guest cannot keep the timer thread busy.
const SHORTEST_NS: u64 = 50_000;
const TOKEN_CPU: u64 = u64::MAX;
const ITIMER_IDS: u64 = 1 << 31;

impl TimerTarget for Target {
    fn expired(&self, token: u64, _now_ns: u64) {
        let (Some(group), Some(kernel)) = (self.group.upgrade(), self.kernel.upgrade()) else { return };
        if token == TOKEN_CPU {
            group.timers.state.lock().cpu_check = None;
            for thread in group.threads() {
                thread.kick(Work::CPU_TIMERS);
            }
            return;
        }
        group.timers.wall_expired(&kernel, &group, token);
    }
}

impl GroupTimers {
    pub(crate) fn new() -> Self {
        let itimers = [Timer::new(Counts::Wall), Timer::new(Counts::UserCpu), Timer::new(Counts::Cpu)];
        let state =
            State { itimers, posix: BTreeMap::new(), next_id: 0, target: None, cpu_check: None, warned_at_secs: 0 };
        Self { state: Mutex::new(GROUP_TIMERS, state) }
    }

    /// Disarms everything, at the end of the process.
    pub(crate) fn disarm_all(&self, kernel: &Kernel) {
        self.disarm_posix(kernel);
        let mut state = self.state.lock();
        for timer in &mut state.itimers {
            disarm(kernel, timer);
        }
        if let Some(handle) = state.cpu_check.take() {
            kernel.timers().disarm(handle);
        }
    }

    /// Deletes POSIX timers, at exec (timer_create(2)).
    pub(crate) fn disarm_posix(&self, kernel: &Kernel) {
        let mut state = self.state.lock();
        for posix in state.posix.values_mut() {
            disarm(kernel, &mut posix.timer);
        }
        state.posix.clear();
    }

    /// The POSIX timers, as `/proc/[pid]/timers` tells of them.
    pub(crate) fn listing(&self) -> Vec<(i32, PosixTimerSpec)> {
        let state = self.state.lock();
        let spec = |posix: &Posix| PosixTimerSpec { clock: posix.clock, notify: Some(posix.notify) };
        state.posix.iter().map(|(id, posix)| (*id, spec(posix))).collect()
    }

    fn wall_expired(&self, kernel: &Arc<Kernel>, group: &Arc<ThreadGroup>, token: u64) {
        let id = token & u64::from(u32::MAX);
        let generation = u32::try_from(token >> 32).unwrap_or(0);
        let now = sync::monotonic_now_ns();
        let fired = {
            let mut state = self.state.lock();
            let Some(target) = state.target.clone() else { return };
            if id == ITIMER_IDS {
                let [real, ..] = &mut state.itimers;
                if real.generation != generation || real.due_ns.is_none() {
                    return;
                }
                real.advance(now);
                real.handle = None;
                arm_wall(kernel, &target, real, id, now.saturating_add(SHORTEST_NS));
                Fired::Itimer(Signal::ALRM)
            } else {
                let Ok(key) = i32::try_from(id) else { return };
                let Some(posix) = state.posix.get_mut(&key) else { return };
                let Some(due) = posix.timer.due_ns.filter(|_| posix.timer.generation == generation) else { return };
                posix.timer.handle = None;
                if due > now {
                    // A signal that was taken meanwhile has counted it.
                    return arm_wall(kernel, &target, &mut posix.timer, id, 0);
                }
                let missed = posix.timer.advance(now);
                arm_wall(kernel, &target, &mut posix.timer, id, now.saturating_add(SHORTEST_NS));
                Fired::Posix(key, posix.notify, missed)
            }
        };
        fired.send(kernel, group);
    }

    /// Notes that the signal of a POSIX timer was taken, which stood for `overrun` further expirations; says how many they
    /// are with those that nobody has noticed yet.
    pub(crate) fn delivered(&self, id: i32, overrun: i32) -> i32 {
        let mut state = self.state.lock();
        let Some(posix) = state.posix.get_mut(&id) else { return overrun };
        let now = sync::monotonic_now_ns();
        let late = posix.timer.counts == Counts::Wall
            && posix.timer.interval_ns != 0
            && posix.timer.due_ns.is_some_and(|due| due <= now);
        let more = if late { posix.timer.advance(now).saturating_add(1) } else { 0 };
        posix.overrun = overrun.saturating_add(i32::try_from(more).unwrap_or(i32::MAX));
        posix.overrun
    }
}

enum Fired {
    Itimer(Signal),
    Posix(i32, TimerNotify, u64),
}

impl Fired {
    fn send(self, kernel: &Arc<Kernel>, group: &Arc<ThreadGroup>) {
        match self {
            Self::Itimer(signal) => {
                kernel.send_to_group(group, SigInfo::kernel(signal), Origin::Kernel);
            }
            Self::Posix(id, TimerNotify::Signal { signal, value, thread }, missed) => {
                let overrun = i32::try_from(missed).unwrap_or(i32::MAX);
                let data = SigData::Timer { id, overrun, value };
                let info = SigInfo { signal, code: SI_TIMER, errno: 0, data };
                match thread.and_then(|tid| group.threads().into_iter().find(|t| t.tid() == tid)) {
                    Some(thread) => kernel.send_to_thread(&thread, info, Origin::Kernel),
                    None if thread.is_some() => return,
                    None => kernel.send_to_group(group, info, Origin::Kernel),
                };
            }
            Self::Posix(_, TimerNotify::None, _) => {}
        }
    }
}

fn disarm(kernel: &Kernel, timer: &mut Timer) {
    timer.due_ns = None;
    timer.generation = timer.generation.wrapping_add(1);
    if let Some(handle) = timer.handle.take() {
        kernel.timers().disarm(handle);
    }
}

/// Arms a deadline for when the timer is due, but not before `earliest_ns`.
fn arm_wall(kernel: &Kernel, target: &Arc<Target>, timer: &mut Timer, id: u64, earliest_ns: u64) {
    let Some(due) = timer.due_ns else { return };
    let weak: Weak<dyn TimerTarget> = Arc::downgrade(target) as _;
    let token = u64::from(timer.generation) << 32 | id;
    timer.handle = Some(kernel.timers().arm(due.max(earliest_ns), weak, token));
}

impl Task {
    fn timer_now(&self) -> Now {
        Now { wall: sync::monotonic_now_ns(), cpu: self.group().cpu_times() }
    }

    fn timer_target(&self, state: &mut State) -> Arc<Target> {
        let target = state.target.get_or_insert_with(|| {
            Arc::new(Target { group: Arc::downgrade(self.group()), kernel: Arc::downgrade(self.kernel()) })
        });
        Arc::clone(target)
    }

    /// Sets a timer: `value_ns` from now on its clock, 0 to disarm.
    fn set_timer(&self, timer: &mut Timer, target: &Arc<Target>, id: u64, due_ns: Option<u64>, interval_ns: u64) {
        disarm(self.kernel(), timer);
        timer.interval_ns = interval_ns;
        timer.due_ns = due_ns;
        if timer.counts == Counts::Wall {
            arm_wall(self.kernel(), target, timer, id, 0);
        }
    }

    /// getitimer(2).
    pub fn itimer(&self, which: ItimerWhich) -> IntervalTimer {
        let now = self.timer_now();
        let state = self.group().timers.state.lock();
        state.itimers.get(which as usize).map_or(IntervalTimer::default(), |t| t.left(&now))
    }

    /// setitimer(2), alarm(2); says what was left.
    pub fn set_itimer(&self, which: ItimerWhich, new: IntervalTimer) -> IntervalTimer {
        let now = self.timer_now();
        let mut state = self.group().timers.state.lock();
        let target = self.timer_target(&mut state);
        let Some(timer) = state.itimers.get_mut(which as usize) else { return IntervalTimer::default() };
        let old = timer.left(&now);
        let due = (new.value_ns != 0).then(|| timer.clock(&now).saturating_add(new.value_ns));
        let interval = if due.is_some() { new.interval_ns } else { 0 };
        self.set_timer(timer, &target, ITIMER_IDS, due, interval);
        self.arm_cpu_check(&mut state, &now);
        old
    }

    /// timer_create(2); answers the timer's id. `EAGAIN` past RLIMIT_SIGPENDING, `EINVAL` for a clock without timers.
    pub fn timer_create(&self, spec: PosixTimerSpec) -> Result<i32, Errno> {
        let counts = match spec.clock {
            ClockId::Realtime | ClockId::Monotonic | ClockId::Boottime => Counts::Wall,
            ClockId::ProcessCpu(None) | ClockId::ThreadCpu(None) => Counts::Cpu,
            ClockId::RealtimeCoarse | ClockId::MonotonicCoarse | ClockId::MonotonicRaw => {
                return Err(Errno::EOPNOTSUPP);
            }
            ClockId::ProcessCpu(Some(_)) | ClockId::ThreadCpu(Some(_)) => return Err(Errno::EINVAL),
        };
        if let Some(TimerNotify::Signal { thread: Some(tid), .. }) = spec.notify
            && !self.group().threads().iter().any(|t| t.tid() == tid)
        {
            return Err(Errno::EINVAL);
        }
        let limit = self.group().limit(Resource::Sigpending).soft;
        let mut state = self.group().timers.state.lock();
        if state.posix.len() as u64 >= limit {
            return Err(Errno::EAGAIN);
        }
        let mut id = state.next_id;
        while state.posix.contains_key(&id) {
            id = id.checked_add(1).unwrap_or(0);
        }
        state.next_id = id.checked_add(1).unwrap_or(0);
        let value = u64::try_from(id).unwrap_or(0);
        let notify = spec.notify.unwrap_or(TimerNotify::Signal { signal: Signal::ALRM, value, thread: None });
        let mut timer = Timer::new(counts);
        if spec.clock == ClockId::ThreadCpu(None) {
            timer.thread = Some(Arc::downgrade(self.thread()));
        }
        state.posix.insert(id, Posix { timer, clock: spec.clock, notify, overrun: 0 });
        Ok(id)
    }

    /// timer_settime(2): `at` is absolute on the timer's clock if `absolute`; says what was left.
    pub fn timer_settime(&self, id: i32, new: IntervalTimer, start: TimerStart) -> Result<IntervalTimer, Errno> {
        let now = self.timer_now();
        let mut state = self.group().timers.state.lock();
        let target = self.timer_target(&mut state);
        let posix = state.posix.get_mut(&id).ok_or(Errno::EINVAL)?;
        let old = posix.timer.left(&now);
        let counts = posix.timer.counts;
        let due = (new.value_ns != 0).then(|| match (start, counts) {
            (TimerStart::FromNow, _) => posix.timer.clock(&now).saturating_add(new.value_ns),
            (TimerStart::At, Counts::Wall) => self.kernel().to_monotonic(posix.clock, new.value_ns),
            (TimerStart::At, _) => new.value_ns,
        });
        posix.overrun = 0;
        let key = u64::try_from(id).map_err(|_| Errno::EINVAL)?;
        self.set_timer(&mut posix.timer, &target, key, due, new.interval_ns);
        self.arm_cpu_check(&mut state, &now);
        Ok(old)
    }

    /// timer_gettime(2).
    pub fn timer_gettime(&self, id: i32) -> Result<IntervalTimer, Errno> {
        let now = self.timer_now();
        let state = self.group().timers.state.lock();
        let posix = state.posix.get(&id).ok_or(Errno::EINVAL)?;
        let left = posix.timer.left(&now);
        if posix.notify != TimerNotify::None || left.value_ns > 1 {
            return Ok(left);
        }
        // One that nobody is told of has expired when it is due, not when somebody has looked: timer_gettime(2).
        let over = posix.timer.due_ns.map_or(0, |due| posix.timer.clock(&now).saturating_sub(due));
        let value_ns = left.interval_ns.saturating_sub(over.checked_rem(left.interval_ns).unwrap_or(0));
        Ok(IntervalTimer { value_ns: if posix.timer.due_ns.is_some() { value_ns } else { 0 }, ..left })
    }

    /// timer_getoverrun(2).
    pub fn timer_getoverrun(&self, id: i32) -> Result<i32, Errno> {
        self.group().timers.state.lock().posix.get(&id).map(|p| p.overrun).ok_or(Errno::EINVAL)
    }

    /// timer_delete(2).
    pub fn timer_delete(&self, id: i32) -> Result<(), Errno> {
        let mut state = self.group().timers.state.lock();
        let mut posix = state.posix.remove(&id).ok_or(Errno::EINVAL)?;
        disarm(self.kernel(), &mut posix.timer);
        Ok(())
    }

    /// Makes the threads look when the first CPU timer could be due.
    fn arm_cpu_check(&self, state: &mut State, now: &Now) {
        if let Some(handle) = state.cpu_check.take() {
            self.kernel().timers().disarm(handle);
        }
        let timers = state.itimers.iter().chain(state.posix.values().map(|p| &p.timer));
        let left = timers
            .filter(|t| t.counts != Counts::Wall && t.is_alive())
            .filter_map(|t| Some(t.due_ns?.saturating_sub(t.clock(now))))
            .chain(self.cpu_limit_left(state.warned_at_secs, now))
            .min();
        let Some(left) = left else { return };
        let threads = self.group().threads().len().max(1) as u64;
        let wake = now.wall.saturating_add((left / threads).max(1_000_000));
        let target = self.timer_target(state);
        let weak: Weak<dyn TimerTarget> = Arc::downgrade(&target) as _;
        state.cpu_check = Some(self.kernel().timers().arm(wake, weak, TOKEN_CPU));
    }

    /// CPU time until RLIMIT_CPU has something to say: at the soft limit and each second after.
    fn cpu_limit_left(&self, warned_at_secs: u64, now: &Now) -> Option<u64> {
        let limit = self.group().limit(Resource::Cpu);
        if limit.soft == INFINITY {
            return None;
        }
        let next = limit.soft.max(warned_at_secs.saturating_add(1)).saturating_mul(NS_PER_SEC);
        Some(next.saturating_sub(now.cpu.total()))
    }

    /// Has the threads of a process that begins with RLIMIT_CPU look at it.
    pub(crate) fn arm_cpu_limit(&self) {
        if self.group().limit(Resource::Cpu).soft != INFINITY {
            let now = self.timer_now();
            self.arm_cpu_check(&mut self.group().timers.state.lock(), &now);
        }
    }

    /// RLIMIT_CPU: SIGKILL at the hard limit, SIGXCPU at the soft one and each second after (getrlimit(2)).
    fn check_cpu_limit(&self, state: &mut State, now: &Now) -> Option<Signal> {
        let limit = self.group().limit(Resource::Cpu);
        let used = now.cpu.total() / NS_PER_SEC;
        if used >= limit.hard {
            return Some(Signal::KILL);
        }
        if used < limit.soft.max(1) || used <= state.warned_at_secs {
            return None;
        }
        state.warned_at_secs = used;
        Some(Signal::XCPU)
    }

    /// Fires CPU timers that are due, and arms the next look.
    pub(crate) fn check_cpu_timers(&mut self) {
        let now = self.timer_now();
        let mut fired = Vec::new();
        {
            let mut state = self.group().timers.state.lock();
            let signals = [Signal::ALRM, Signal::VTALRM, Signal::PROF];
            for (timer, signal) in state.itimers.iter_mut().zip(signals) {
                if timer.counts != Counts::Wall && timer.due_ns.is_some_and(|due| now.of(timer.counts) >= due) {
                    timer.advance(now.of(timer.counts));
                    fired.push(Fired::Itimer(signal));
                }
            }
            for (id, posix) in &mut state.posix {
                let timer = &mut posix.timer;
                let clock = timer.clock(&now);
                if timer.counts != Counts::Wall && timer.due_ns.is_some_and(|due| clock >= due) {
                    let missed = timer.advance(clock);
                    fired.push(Fired::Posix(*id, posix.notify, missed));
                }
            }
            fired.extend(self.check_cpu_limit(&mut state, &now).map(Fired::Itimer));
            self.arm_cpu_check(&mut state, &now);
        }
        for one in fired {
            one.send(self.kernel(), self.group());
        }
    }
}

/// How timer_settime(2) counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerStart {
    /// From now.
    FromNow,
    /// TIMER_ABSTIME.
    At,
}

#[cfg(test)]
mod tests {
    use super::{Counts, Timer};

    #[test]
    fn periods_that_were_missed_count_once_each() {
        let mut t = Timer::new(Counts::Wall);
        t.due_ns = Some(100);
        t.interval_ns = 10;
        assert_eq!(t.advance(100), 0);
        assert_eq!(t.due_ns, Some(110));
        assert_eq!(t.advance(145), 3);
        assert_eq!(t.due_ns, Some(150));
        t.interval_ns = 0;
        assert_eq!(t.advance(150), 0);
        assert_eq!(t.due_ns, None);
    }
}
