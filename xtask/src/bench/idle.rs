//! What a sandbox costs that does nothing: memory of all its processes, their context switches, memory per thread and process.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Plan;
use super::calls::Guest;
use super::processes::{pss_kb, switches};
use super::results::{Results, Unit};
use super::session::Session;
use super::sides::{Side, Sides, interleaved};
use crate::progress::Progress;

/// How long after its last work a sandbox counts as idle.
const SETTLE: Duration = Duration::from_secs(2);

/// How long context switches are counted.
const WINDOW: Duration = Duration::from_secs(3);

/// Threads over which the memory of one is averaged.
const THREADS: u32 = 100;

/// Processes over which the memory of one is averaged.
const PROCESSES: u32 = 50;

/// Most rounds: these figures hardly vary, and waiting is all they do.
const ROUNDS: usize = 3;

/// Names and units, in the order of [`Idle`].
const MEASURES: [(&str, Unit); 5] = [
    ("idle/pss", Unit::Kilobytes),
    ("idle/pss-per-thread", Unit::Kilobytes),
    ("idle/pss-per-process", Unit::Kilobytes),
    ("idle/switches", Unit::PerSecond),
    ("idle/wake-ups", Unit::PerSecond),
];

/// One sample of each; memory of processes that are not ours to look at has none.
type Idle = [Option<f64>; 5];

/// Takes the wanted measures of group `idle`.
pub(super) fn measure(
    plan: &Plan,
    sides: &Sides,
    guest: &Guest,
    results: &mut Results,
    progress: &mut Progress,
) -> Result<()> {
    if !MEASURES.iter().any(|(name, _)| plan.wants(name)) {
        return Ok(());
    }
    let (samples, failed) = interleaved(&sides.all(), plan.rounds.min(ROUNDS), Duration::MAX, |side| {
        progress.show(&format!("idle: {side:?}"));
        sample(sides, guest, side)
    });
    for (side, error) in &failed {
        results.failed("idle", *side, error);
    }
    for (at, (name, unit)) in MEASURES.into_iter().enumerate() {
        if plan.wants(name) {
            let of = |idles: &Vec<Idle>| idles.iter().filter_map(|idle| idle.get(at).copied().flatten()).collect();
            results.add(name, unit, samples.iter().map(|(side, idles)| (*side, of(idles))).collect::<BTreeMap<_, _>>());
        }
    }
    Ok(())
}

fn sample(sides: &Sides, guest: &Guest, side: Side) -> Result<Idle> {
    let alone = Session::start(sides, guest, side, &["threads", "0"])?;
    std::thread::sleep(SETTLE);
    let (before, started) = (switches(&alone.processes()), Instant::now());
    std::thread::sleep(WINDOW);
    let (after, seconds) = (switches(&alone.processes()), started.elapsed().as_secs_f64());
    let pss = pss_kb(&alone.processes());
    drop(alone);
    let settled = |arguments: &[&str]| -> Result<_> {
        let crowd = Session::start(sides, guest, side, arguments)?;
        std::thread::sleep(SETTLE);
        Ok(pss_kb(&crowd.processes()))
    };
    let threads_pss = settled(&["threads", &THREADS.to_string()])?;
    let processes_pss = settled(&["processes", &PROCESSES.to_string(), &guest.exit])?;
    let per_second = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
    // As an ordinary user one may not look into processes that gave up more than oneself.
    if let Err(error) = &pss {
        eprintln!("bench: no memory figures ({side:?}): {error:#}");
    }
    let pss = pss.ok();
    let per = |count: u32, crowd: Result<f64>| Some((crowd.ok()? - pss?).max(0.0) / f64::from(count));
    Ok([
        pss,
        per(THREADS, threads_pss),
        per(PROCESSES, processes_pss),
        Some(per_second(before.all, after.all)),
        Some(per_second(before.voluntary, after.voluntary)),
    ])
}
