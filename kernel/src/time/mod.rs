//! Time: clocks, timers, sleeping.
//!
//! - [`ClockId`] names a clock; [`crate::kernel::Kernel`] reads the system's, a task its own CPU clocks.
//! - [`queue`]: the heap of deadlines, pure, time as an argument. `thread`: one host thread that sleeps until the
//!   earliest, and for ever when there is none: an idle sandbox wakes never.
//! - `group`: interval timers and POSIX timers of a process. `sleep`: nanosleep.
//!
//! **Invariants.** All deadlines are nanoseconds of CLOCK_MONOTONIC; CLOCK_REALTIME ones are converted when they are set
//! (nothing in the sandbox can set the clock). A timer that fires is looked up by id, so that one that was disarmed
//! meanwhile does nothing.

mod clock;
mod group;
pub mod queue;
mod sleep;
pub(crate) mod thread;
pub(crate) mod vdso;

pub use clock::{ClockId, timespec_to_ns, timeval_to_ns};
pub use group::{GroupTimers, IntervalTimer, ItimerWhich, PosixTimerSpec, TimerNotify, TimerStart};
pub use sleep::SleepRequest;
pub use thread::{TimerHandle, TimerTarget};

/// Nanoseconds in a second.
pub const NS_PER_SEC: u64 = 1_000_000_000;
