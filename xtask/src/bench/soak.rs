//! All work of the bench, again and again in one sandbox; idle afterwards, it holds what it held before.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::processes::{Holdings, holdings, switches};
use super::session::Session;
use super::sides::{Side, Sides};
use super::{calls, programs};
use crate::progress::Progress;

/// How long a sandbox gets to put away what its last program left, and how long it must then sleep.
const SETTLE: Duration = Duration::from_secs(3);

/// How much more memory may be in use, in kB, at the best moment of the last rounds than at the worst of the first: two chunks.
/// Guests' memory comes in chunks of 2 MiB, and how many of them are partly in use when nobody works depends on the order of
/// things (17 to 28 MB from one round to another, without growth), so that two moments say nothing.
const SLACK_KB: u64 = 4096;

/// Works for `duration` inside `casemate`.
pub(super) fn run(casemate: &Path, duration: Duration) -> Result<()> {
    let guest = calls::build()?;
    let sides = Sides::new(casemate.to_owned(), None)?;
    let mut work = programs::commands(&sides)?;
    work.push(guest.command(Duration::from_millis(20), &[]));
    let mut session = Session::start(&sides, &guest, Side::Casemate, &["serve"])?;
    let mut progress = Progress::new();
    let mut rounds = 0_u32;
    let mut round = |session: &mut Session| -> Result<()> {
        rounds += 1;
        for command in &work {
            progress.show(&format!("soak: round {rounds}, {}", command.join(" ")));
            session.time(command).with_context(|| format!("{command:?} in round {rounds}"))?;
        }
        Ok(())
    };
    // Twice at first, which fills caches and pools.
    round(&mut session)?;
    round(&mut session)?;
    let before = idle(&session)?;
    let started = Instant::now();
    let mut memory = vec![before.file_kb];
    while started.elapsed() < duration {
        round(&mut session)?;
        memory.push(holdings(&session.processes()).file_kb);
    }
    let after = idle(&session)?;
    memory.push(after.file_kb);
    drop(progress);
    println!("{rounds} rounds of {} programs in {} s", work.len(), started.elapsed().as_secs());
    println!("before: {before:?}\nafter:  {after:?}\nmemory after each round, kB: {memory:?}");
    let mut more = grew(&before, &after);
    more.extend(memory_grew(&memory).then_some("memory"));
    ensure!(more.is_empty(), "the sandbox holds more than before: {}", more.join(", "));
    Ok(())
}

/// What the sandbox holds while it sleeps, which it must do.
fn idle(session: &Session) -> Result<Holdings> {
    std::thread::sleep(SETTLE);
    let before = switches(&session.processes());
    std::thread::sleep(SETTLE);
    let after = switches(&session.processes());
    let held = holdings(&session.processes());
    ensure!(held.runnable == 0, "{} threads run in an idle sandbox", held.runnable);
    ensure!(after.all <= before.all, "{} context switches in an idle sandbox", after.all - before.all);
    Ok(held)
}

/// Whether the last third of the rounds never held as little as the first third at most.
fn memory_grew(rounds: &[u64]) -> bool {
    let third = (rounds.len() / 3).max(1);
    let first = rounds.iter().take(third).max().copied().unwrap_or(0);
    let last = rounds.iter().rev().take(third).min().copied().unwrap_or(0);
    last > first + SLACK_KB
}

/// Names of what there is more of. The only threads and descriptors that may come and go are those of stubs that are kept with two
/// threads or with one.
fn grew(before: &Holdings, after: &Holdings) -> Vec<&'static str> {
    let pairs = [
        ("processes", after.processes > before.processes),
        ("threads", after.threads + before.spare_threads > before.threads + after.spare_threads),
        ("descriptors", after.descriptors + before.spare_threads > before.descriptors + after.spare_threads),
    ];
    pairs.into_iter().filter(|(_, more)| *more).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::{Holdings, SLACK_KB, grew, memory_grew};

    #[test]
    fn memory_grows_when_no_late_round_is_as_small_as_early_ones() {
        assert!(!memory_grew(&[17_000, 27_000, 18_000, 26_000, 27_500, 28_000]));
        assert!(!memory_grew(&[17_000, 17_000 + SLACK_KB, 17_000 + SLACK_KB]));
        assert!(memory_grew(&[17_000, 18_000, 20_000, 21_000, 23_000, 24_000]));
        assert!(!memory_grew(&[17_000]));
    }

    #[test]
    fn more_of_anything_is_growth() {
        let before =
            Holdings { processes: 3, threads: 9, descriptors: 40, file_kb: 5000, runnable: 0, spare_threads: 1 };
        assert_eq!(
            grew(&before, &Holdings { processes: 4, descriptors: 41, ..before.clone() }),
            ["processes", "descriptors"]
        );
        let kept = Holdings { threads: 11, descriptors: 42, spare_threads: 3, ..before.clone() };
        assert!(grew(&before, &kept).is_empty());
        assert_eq!(grew(&before, &Holdings { threads: 12, ..kept.clone() }), ["threads"]);
        assert_eq!(grew(&kept, &Holdings { spare_threads: 2, ..kept.clone() }), ["threads", "descriptors"]);
    }
}
