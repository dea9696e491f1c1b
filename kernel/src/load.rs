//! Load averages without a tick: worked out from CPU time whenever somebody asks.
//!
//! Linux samples how many tasks run or wait for the disk every five seconds. An idle sandbox must not wake up, so here the
//! average number of tasks on a processor since the last question counts as the load of all of that span.

use std::time::Duration;

/// Spans of the averages, in seconds.
const SPANS: [f64; 3] = [60.0, 300.0, 900.0];
/// One, in the unit of sysinfo(2).
const UNIT: u128 = 65_536;

/// Averages as of the last question.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    at_ns: u64,
    used_ns: u64,
    averages: [f64; 3],
}

impl Load {
    /// The averages at `now_ns`, when all processes have used `used_ns` of CPU time; in units of 1/65536.
    pub(crate) fn read(&mut self, now_ns: u64, used_ns: u64) -> [u64; 3] {
        let passed = now_ns.saturating_sub(self.at_ns) as f64 / 1e9;
        // Questions in quick succession add up to one span.
        if passed >= 0.01 {
            let busy = used_ns.saturating_sub(self.used_ns) as f64 / 1e9 / passed;
            for (average, span) in self.averages.iter_mut().zip(SPANS) {
                let keep = (-passed / span).exp();
                *average = *average * keep + busy * (1.0 - keep);
            }
            self.at_ns = now_ns;
            self.used_ns = used_ns;
        }
        self.averages.map(to_units)
    }
}

fn to_units(average: f64) -> u64 {
    // As seconds: the library's conversion refuses what is out of range.
    let nanos = Duration::try_from_secs_f64(average).unwrap_or_default().as_nanos();
    u64::try_from(nanos * UNIT / 1_000_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::Load;

    #[test]
    fn a_busy_minute_counts_and_fades() {
        let mut load = Load::default();
        let second = 1_000_000_000;
        // Two tasks for a minute: 2 * (1 - 1/e).
        let [one, five, fifteen] = load.read(60 * second, 120 * second);
        assert!((one as f64 / 65_536.0 - 1.264).abs() < 0.01, "{one}");
        assert!(one > five && five > fifteen && fifteen > 0);
        let faded = load.read(600 * second, 120 * second);
        assert!(faded[0] < 100, "{faded:?}");
        assert_eq!(load.read(600 * second + 1, 120 * second), faded);
    }
}
