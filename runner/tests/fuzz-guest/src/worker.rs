//! A worker: a process whose threads make random calls until each has made its share, or something has ended it.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use crate::args::{Gen, KICK};
use crate::random::Rng;
use crate::raw::{self, Call};
use crate::spec::{Kind, Spec};
use crate::{arena, ipc, tree};

/// Numbers that are counted.
pub(crate) const NUMBERS: usize = abi::nr::COUNT;

/// What workers tell the supervisor: it lies in memory that they share. All of it counts or shows, nothing is ordered by it.
pub(crate) struct Shared {
    /// Calls made by threads, by number.
    pub(crate) made: [AtomicU64; NUMBERS],
    /// Of those, the ones that got past argument checks.
    pub(crate) past: [AtomicU64; NUMBERS],
    /// Calls given to children, whose results nobody sees.
    pub(crate) given: [AtomicU64; NUMBERS],
    /// Calls of numbers without a row.
    pub(crate) odd: AtomicU64,
    /// All calls.
    pub(crate) total: AtomicU64,
    /// Threads of this worker that are not done.
    pub(crate) running: AtomicU32,
    /// The worker's threads.
    pub(crate) threads: [Thread; arena::THREADS as usize],
}

/// A thread, as the supervisor sees it.
pub(crate) struct Thread {
    /// Its number, 0 when there is none.
    pub(crate) tid: AtomicI32,
    /// Its calls so far.
    pub(crate) calls: AtomicU64,
}

/// Errors with which arguments are turned away: `EFAULT`, `EINVAL`, `EBADF`, `ENOSYS`, `EPERM`, `ESRCH`, `E2BIG`, `ENOTTY`,
/// `ENAMETOOLONG`, `ENOTSOCK`, `ENOPROTOOPT`, `EPROTONOSUPPORT`, `EOPNOTSUPP`, `EAFNOSUPPORT`. Everything else, a success or
/// an error, is from behind the checks.
pub(crate) const TURNED_AWAY: [i64; 14] = [14, 22, 9, 38, 1, 3, 7, 25, 36, 88, 92, 93, 95, 97];

/// What all workers of a run have in common.
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) threads: u64,
    /// Calls of each thread.
    pub(crate) calls: u64,
    pub(crate) specs: Vec<Spec>,
    /// Indexes into `specs`, each as often as its weight.
    pub(crate) weights: Vec<u16>,
    pub(crate) supervisor: i32,
}

fn counter(of: &[AtomicU64; NUMBERS], nr: u64) -> Option<&AtomicU64> {
    of.get(usize::try_from(nr).ok()?)
}

const FORKS: [u64; 4] = [56, 57, 58, 435];
const PAIRS: [u64; 3] = [22, 293, 53];

/// Runs worker number `batch` to its end. Called in a process of its own.
pub(crate) fn run(plan: &'static Plan, shared: &'static Shared, batch: u64) -> ! {
    let mut rng = Rng::new(&[plan.seed, batch]);
    prepare(&mut rng);
    let threads = plan.threads.min(arena::THREADS);
    shared.running.store(u32::try_from(threads).unwrap_or(1), Ordering::Relaxed);
    for index in 1..threads {
        let started = std::thread::Builder::new().stack_size(128 << 10);
        if started.spawn(move || thread(plan, shared, batch, index)).is_err() {
            shared.running.fetch_sub(1, Ordering::Relaxed);
        }
    }
    thread(plan, shared, batch, 0)
}

/// Own session, standard streams that nobody reads, descriptors and memory of every kind, a user with or without rights.
fn prepare(rng: &mut Rng) {
    // SAFETY: what stays is the supervisor's memory, which this process only shares for counting.
    let made = |nr: i64, args: [u64; 6]| unsafe { raw::call(nr.cast_unsigned(), args) };
    made(libc::SYS_setsid, [0; 6]);
    made(libc::SYS_close_range, [0, u32::MAX.into(), 0, 0, 0, 0]);
    for _ in 0..3 {
        made(libc::SYS_open, [c"/dev/null".as_ptr() as u64, 0o4002, 0, 0, 0, 0]);
    }
    let _ = std::env::set_current_dir(tree::ROOT);
    // Files and mappings that fill the sandbox's memory would leave none for the supervisor.
    let limits = [
        (libc::RLIMIT_CORE, 0),
        (libc::RLIMIT_NOFILE, 256),
        (libc::RLIMIT_CPU, 20),
        (libc::RLIMIT_FSIZE, 16 << 20),
        (libc::RLIMIT_AS, 512 << 20),
    ];
    for (which, value) in limits {
        let limit = [value, value];
        made(libc::SYS_setrlimit, [which.into(), limit.as_ptr() as u64, 0, 0, 0, 0]);
    }
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    tree::open_all();
    ipc::make_objects(rng);
    arena::set_up(tree::BIG, tree::HOST, rng);
    if rng.chance(40) {
        made(libc::SYS_setgroups, [0; 6]);
        made(libc::SYS_setresgid, [1000, 1000, 1000, 0, 0, 0]);
        made(libc::SYS_setresuid, [1000, 1000, 1000, 0, 0, 0]);
    }
}

/// One thread's calls. It leaves without its library's knowledge, the last one ends the process.
fn thread(plan: &'static Plan, shared: &'static Shared, batch: u64, index: u64) -> ! {
    let slot = &shared.threads[usize::try_from(index).unwrap_or(0) % shared.threads.len()];
    // SAFETY: takes no pointers.
    slot.tid.store(unsafe { libc::gettid() }, Ordering::Relaxed);
    let rng = Rng::new(&[plan.seed, batch, index]);
    let mut state = State { plan, shared, slot, generator: Gen::new(rng, index, plan.supervisor), focus: Vec::new() };
    for step in 0..plan.calls {
        if step % 48 == 0 {
            state.focus = (0..6).map(|_| state.any()).collect();
        }
        state.step();
    }
    slot.tid.store(0, Ordering::Relaxed);
    let nr = if shared.running.fetch_sub(1, Ordering::Relaxed) == 1 { libc::SYS_exit_group } else { libc::SYS_exit };
    loop {
        // SAFETY: ends this thread, which holds nothing.
        unsafe { raw::call(nr.cast_unsigned(), [0; 6]) };
    }
}

struct State {
    plan: &'static Plan,
    shared: &'static Shared,
    slot: &'static Thread,
    generator: Gen,
    /// Calls that are made more often for a while, so that they meet each other's results.
    focus: Vec<u16>,
}

impl State {
    fn any(&mut self) -> u16 {
        self.generator.rng.pick(&self.plan.weights)
    }

    fn step(&mut self) {
        let rng = &mut self.generator.rng;
        if rng.chance(2) {
            raw::touch(arena::loose(rng) + rng.below(arena::PAGE), i32::from(rng.chance(50)));
        }
        if rng.chance(1) {
            return self.odd();
        }
        let at = if rng.chance(50) { rng.pick(&self.focus) } else { self.any() };
        let Some(spec) = self.plan.specs.get(usize::from(at)) else { return };
        let call = self.make(spec);
        if FORKS.contains(&call.nr) {
            self.fork(call, None);
        } else if spec.child_only && !(call.nr != 15 && self.generator.rng.chance(1)) {
            let fork = Call { nr: self.generator.rng.pick(&[57, 57, 58]), args: [0; 6] };
            self.fork(fork, Some(call));
        } else {
            let result = self.call(call);
            if result >= 0 && PAIRS.contains(&call.nr) {
                let at = call.args[if call.nr == 53 { 3 } else { 0 }];
                if self.generator.own.contains(at) {
                    for fd in arena::read_pair(at) {
                        self.generator.remember(i64::from(fd).cast_unsigned());
                    }
                }
            } else if result > 0 {
                self.generator.remember(result.cast_unsigned());
            }
        }
    }

    /// A call of `spec` with arguments, and anything in the registers that it does not take.
    fn make(&mut self, spec: &Spec) -> Call {
        let mut call = Call { nr: spec.nr.into(), args: [0; 6] };
        for (at, arg) in call.args.iter_mut().enumerate() {
            *arg = match spec.args.get(at) {
                Some(kind) => self.generator.arg(kind),
                None => self.generator.rng.interesting(),
            };
        }
        if call.nr == u64::from(abi::nr::rt_sigaction) && call.args[0] == KICK {
            call.args[0] = KICK + 1;
        }
        call
    }

    /// Makes `call` and judges its result.
    fn call(&mut self, call: Call) -> i64 {
        if let Some(made) = counter(&self.shared.made, call.nr) {
            made.fetch_add(1, Ordering::Relaxed);
        }
        self.begin();
        // SAFETY: whatever it does, the supervisor restarts this process.
        let result = unsafe { raw::call(call.nr, call.args) };
        if !TURNED_AWAY.contains(&-result)
            && let Some(past) = counter(&self.shared.past, call.nr)
        {
            past.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    fn begin(&self) {
        self.shared.total.fetch_add(1, Ordering::Relaxed);
        self.slot.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes `clone`; the child makes some calls, `last` the last of them.
    fn fork(&mut self, clone: Call, last: Option<Call>) {
        let mut list = Vec::new();
        for _ in 0..self.generator.rng.below(3) {
            let at = self.any();
            match self.plan.specs.get(usize::from(at)) {
                Some(spec) if !spec.sleeps && !FORKS.contains(&u64::from(spec.nr)) => list.push(self.make(spec)),
                _ => {}
            }
        }
        list.extend(last);
        for call in &list {
            if let Some(given) = counter(&self.shared.given, call.nr) {
                given.fetch_add(1, Ordering::Relaxed);
            }
            self.shared.total.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(made) = counter(&self.shared.made, clone.nr) {
            made.fetch_add(1, Ordering::Relaxed);
        }
        self.begin();
        let calls = self.generator.own.put_list(&list);
        // SAFETY: as `call`; the list is in the arena.
        let result = unsafe { raw::spawn(clone, calls, list.len()) };
        if !TURNED_AWAY.contains(&-result)
            && let Some(past) = counter(&self.shared.past, clone.nr)
        {
            past.fetch_add(1, Ordering::Relaxed);
        }
        if result > 0 {
            self.generator.remember(result.cast_unsigned());
        }
    }

    /// A number without a row, or of another ABI.
    fn odd(&mut self) {
        let rng = &mut self.generator.rng;
        let nr = match rng.below(4) {
            0 => rng.next(),
            1 => 0x4000_0000 | rng.below(470),
            2 => 468 + rng.below(600),
            _ => rng.interesting() | 1 << 32,
        };
        let args = std::array::from_fn(|_| self.generator.arg(&Kind::Int));
        self.shared.odd.fetch_add(1, Ordering::Relaxed);
        self.begin();
        // SAFETY: as `call`.
        unsafe { raw::call(nr, args) };
    }
}
