//! Calibrates and repeats: how many operations make a batch that a clock can time, and the median of some batches.

use std::ffi::CString;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Batches whose median counts.
const BATCHES: usize = 9;

/// Fewest batches of something so slow that it exceeds its budget.
const FEWEST_BATCHES: usize = 3;

/// Most operations of one batch.
const LARGEST_BATCH: u32 = 1 << 20;

/// One measure: its name and how to take it.
pub(crate) struct Measure {
    /// The name, without blanks.
    pub(crate) name: &'static str,
    /// Takes it.
    pub(crate) run: fn(&Harness) -> io::Result<Sample>,
}

/// Nanoseconds per operation.
pub(crate) struct Sample {
    /// The middle batch.
    pub(crate) median: f64,
    /// The fastest batch.
    pub(crate) low: f64,
    /// The slowest batch.
    pub(crate) high: f64,
}

/// How long a measure may take, and what it needs from outside.
pub(crate) struct Harness {
    /// About how long all batches together take.
    pub(crate) budget: Duration,
    /// A static program that does nothing.
    pub(crate) static_program: PathBuf,
    /// One batch of just so many operations, for whoever counts from outside what they cost.
    pub(crate) exactly: Option<u32>,
}

impl Harness {
    /// The cost of `operation`, called in a loop.
    pub(crate) fn each(&self, mut operation: impl FnMut()) -> Sample {
        self.batches(|count| {
            let started = Instant::now();
            for _ in 0..count {
                operation();
            }
            started.elapsed()
        })
    }

    /// The cost of one of the `count` operations that `batch` is asked to time.
    pub(crate) fn batches(&self, mut batch: impl FnMut(u32) -> Duration) -> Sample {
        if let Some(count) = self.exactly {
            return Sample::of(vec![batch(count).as_nanos() as f64 / f64::from(count.max(1))]);
        }
        let slice = self.budget / (BATCHES as u32 + 2);
        let mut count = 1;
        let started = Instant::now();
        loop {
            let taken = batch(count);
            if taken * 2 >= slice || count >= LARGEST_BATCH || started.elapsed() >= self.budget {
                break;
            }
            let fits = slice.as_nanos() * u128::from(count) / taken.as_nanos().max(1);
            count = u32::try_from(fits).unwrap_or(u32::MAX).clamp(count * 2, count * 16).min(LARGEST_BATCH);
        }
        let started = Instant::now();
        let mut costs = Vec::new();
        while costs.len() < FEWEST_BATCHES || (costs.len() < BATCHES && started.elapsed() < self.budget) {
            costs.push(batch(count).as_nanos() as f64 / f64::from(count));
        }
        Sample::of(costs)
    }
}

impl Sample {
    /// Median and bounds of `costs`.
    pub(crate) fn of(mut costs: Vec<f64>) -> Self {
        costs.sort_by(f64::total_cmp);
        let at = |index: usize| costs.get(index).copied().unwrap_or(f64::NAN);
        Self { median: at(costs.len() / 2), low: at(0), high: at(costs.len().saturating_sub(1)) }
    }
}

/// The result of a libc call: its value, or the errno.
pub(crate) fn cvt(value: libc::c_int) -> io::Result<libc::c_int> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// A path for libc.
pub(crate) fn c_path(path: &std::path::Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt as _;
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}
