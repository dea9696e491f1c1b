//! Clock parameters: time as a linear function of the time-stamp counter, valid for a second.
//!
//! The kernel answers its own `clock_gettime(2)` from the same parameters, so that a guest that mixes calls and vDSO
//! never sees `CLOCK_MONOTONIC` step back. Rate and bases come from samples of the host's clocks, which the host steers;
//! a difference between what we said and what the host says is worked off over the next period.

/// Longest validity of parameters, in nanoseconds.
const MAX_PERIOD: u64 = 1_000_000_000;
/// Shortest distance of two samples that gives a rate, in nanoseconds.
const MIN_BASELINE: u64 = 2_000_000;
/// From this distance on, a sample replaces the older one as the start of the baseline.
const FULL_BASELINE: u64 = 500_000_000;
/// Parameters hold at most this many times as long as the baseline they were measured over.
const TRUST: u64 = 8;
/// Being ahead of the host by more than this means that the counter is no clock.
const MAX_AHEAD: u64 = 5_000_000;

/// The host's clocks at one value of the time-stamp counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Time-stamp counter.
    pub tsc: u64,
    /// The clocks then.
    pub clocks: Reading,
}

/// The clocks at one moment, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    pub monotonic_ns: u64,
    pub realtime_ns: u64,
    pub boottime_ns: u64,
}

impl Reading {
    const fn later_by(self, ns: u64) -> Self {
        Self {
            monotonic_ns: self.monotonic_ns.wrapping_add(ns),
            realtime_ns: self.realtime_ns.wrapping_add(ns),
            boottime_ns: self.boottime_ns.wrapping_add(ns),
        }
    }
}

/// Time as a function of the time-stamp counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClockParams {
    /// Counter value at which `base` holds.
    pub base_tsc: u64,
    /// First counter value that is not covered.
    pub expires_tsc: u64,
    /// Nanoseconds per tick, times 2^32.
    pub mult: u64,
    /// The clocks at `base_tsc`.
    pub base: Reading,
}

impl ClockParams {
    /// The clocks at `tsc`, as the vDSO computes them; `None` when the parameters do not cover it.
    pub fn at(&self, tsc: u64) -> Option<Reading> {
        (tsc < self.expires_tsc).then(|| self.extrapolate(tsc))
    }

    fn extrapolate(&self, tsc: u64) -> Reading {
        let ticks = u128::from(tsc.saturating_sub(self.base_tsc));
        let elapsed = (ticks * u128::from(self.mult)) >> 32;
        self.base.later_by(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }
}

/// Makes [`ClockParams`] from samples.
#[derive(Debug, Default)]
pub struct Timekeeper {
    /// Start of the baseline that the rate is measured over.
    start: Option<Sample>,
    params: Option<ClockParams>,
}

impl Timekeeper {
    /// The clocks at `tsc`, if the current parameters cover it. Otherwise take a sample and call [`Timekeeper::renew`].
    pub fn read(&self, tsc: u64) -> Option<Reading> {
        self.params?.at(tsc)
    }

    /// Takes a new sample, of which `tsc` is not older than any value seen before. Returns the clocks at the sample, which
    /// never run behind what was said before, and the parameters to publish, `None` while there are none.
    pub fn renew(&mut self, sample: Sample) -> (Reading, Option<ClockParams>) {
        let params = self.fit(&sample);
        if params.is_none() && self.params.is_some() {
            self.start = None;
        }
        self.params = params;
        let now = params.map_or(sample.clocks, |params| params.base);
        (now, params)
    }

    fn fit(&mut self, sample: &Sample) -> Option<ClockParams> {
        let Some(start) = self.start else {
            self.start = Some(*sample);
            return None;
        };
        let ticks = sample.tsc.checked_sub(start.tsc).filter(|&ticks| ticks > 0)?;
        let baseline = sample.clocks.monotonic_ns.checked_sub(start.clocks.monotonic_ns)?;
        if baseline < MIN_BASELINE {
            // Too early to tell; what was published before is gone all the same, for it has expired.
            return self.params.filter(|params| sample.tsc < params.expires_tsc);
        }
        let host_mult =
            u64::try_from((u128::from(baseline) << 32) / u128::from(ticks)).ok().filter(|&mult| mult > 0)?;
        // Readers have seen the old parameters only as far as they were valid.
        let said = self.params.map_or(0, |old| old.extrapolate(sample.tsc.min(old.expires_tsc)).monotonic_ns);
        let ahead = said.saturating_sub(sample.clocks.monotonic_ns);
        if ahead > MAX_AHEAD {
            return None;
        }
        let period = MAX_PERIOD.min(baseline.saturating_mul(TRUST));
        let period_ticks = u64::try_from((u128::from(period) << 32) / u128::from(host_mult)).ok()?;
        let expires_tsc = sample.tsc.checked_add(period_ticks)?;
        let catching_up = period - ahead.min(period / 10);
        let mult = u64::try_from(u128::from(host_mult) * u128::from(catching_up) / u128::from(period)).ok()?;
        if baseline >= FULL_BASELINE {
            self.start = Some(*sample);
        }
        Some(ClockParams { base_tsc: sample.tsc, expires_tsc, mult, base: sample.clocks.later_by(ahead) })
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_PERIOD, Reading, Sample, Timekeeper};
    use proptest::prelude::{prop_assert, proptest};

    fn sample(tsc: u64, monotonic_ns: u64) -> Sample {
        let clocks = Reading {
            monotonic_ns,
            realtime_ns: monotonic_ns + 1_700_000_000_000_000_000,
            boottime_ns: monotonic_ns + 5,
        };
        Sample { tsc, clocks }
    }

    #[test]
    fn two_samples_give_a_clock_that_expires() {
        let mut keeper = Timekeeper::default();
        assert_eq!(keeper.renew(sample(1000, 500)).1, None);
        let (now, params) = keeper.renew(sample(1000 + 3_000_000_000, 500 + 1_000_000_000));
        let params = params.unwrap();
        assert_eq!(now.monotonic_ns, 1_000_000_500);
        let later = params.at(params.base_tsc + 300).unwrap();
        assert!((99..=100).contains(&(later.monotonic_ns - now.monotonic_ns)));
        assert_eq!(later.boottime_ns, later.monotonic_ns + 5);
        assert_eq!(params.at(params.expires_tsc), None);
        let covered = params.extrapolate(params.expires_tsc).monotonic_ns - now.monotonic_ns;
        assert!(covered.abs_diff(MAX_PERIOD) < 10);
    }

    #[test]
    fn a_counter_that_jumps_back_is_given_up() {
        let mut keeper = Timekeeper::default();
        keeper.renew(sample(1000, 0));
        assert!(keeper.renew(sample(4_000_000_000, 1_000_000_000)).1.is_some());
        assert_eq!(keeper.renew(sample(50, 2_000_000_000)).1, None);
        assert_eq!(keeper.read(60), None);
        assert_eq!(keeper.renew(sample(100, 2_000_000_100)).1, None);
        assert!(keeper.renew(sample(1_000_000_100, 3_000_000_100)).1.is_some(), "and tried again");
    }

    proptest! {
        #[test]
        fn monotonic_time_never_steps_back(
            steps in proptest::collection::vec((1_u64..3_000_000_000, 990_u64..1010, 0_u64..200), 1..60)
        ) {
            let mut keeper = Timekeeper::default();
            let (mut tsc, mut host, mut last) = (7_u64, 1_000_u64, 0_u64);
            for (ticks, permille, noise) in steps {
                tsc += ticks;
                host += ticks * permille / 1000;
                let now = match keeper.read(tsc) {
                    Some(now) => now,
                    None => keeper.renew(sample(tsc, host + noise)).0,
                };
                // A counter given up may lose what the host says; within the parameters' trust it never happens.
                if now.monotonic_ns < last {
                    prop_assert!(last - now.monotonic_ns > super::MAX_AHEAD, "{} < {}", now.monotonic_ns, last);
                }
                last = now.monotonic_ns;
            }
        }
    }
}
