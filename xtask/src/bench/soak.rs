//! All work of the bench, again and again in one sandbox; idle afterwards, it holds what it held before.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::processes::{Holdings, holdings, switches};
use super::progress::Progress;
use super::session::Session;
use super::sides::{Side, Sides};
use super::{calls, programs};

/// How long a sandbox gets to put away what its last program left, and how long it must then sleep.
const SETTLE: Duration = Duration::from_secs(3);

/// How much more memory may be in use, in kB: guests' memory comes in chunks of 2 MiB, and how many of them are partly in use
/// when everybody sleeps depends on the order of things (17.8 to 28.3 MB in soaks without growth).
const SLACK_KB: u64 = 8192;

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
    while started.elapsed() < duration {
        round(&mut session)?;
    }
    let after = idle(&session)?;
    drop(progress);
    println!("{rounds} rounds of {} programs in {} s", work.len(), started.elapsed().as_secs());
    println!("before: {before:?}\nafter:  {after:?}");
    ensure!(
        grew(&before, &after).is_empty(),
        "the sandbox holds more than before: {}",
        grew(&before, &after).join(", ")
    );
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

/// Names of what there is more of. The only threads and descriptors that may come and go are those of stubs that are kept with two
/// threads or with one.
fn grew(before: &Holdings, after: &Holdings) -> Vec<&'static str> {
    let pairs = [
        ("processes", after.processes > before.processes),
        ("threads", after.threads + before.spare_threads > before.threads + after.spare_threads),
        ("descriptors", after.descriptors + before.spare_threads > before.descriptors + after.spare_threads),
        ("memory", after.file_kb > before.file_kb + SLACK_KB),
    ];
    pairs.into_iter().filter(|(_, more)| *more).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::{Holdings, SLACK_KB, grew};

    #[test]
    fn more_of_anything_but_a_little_memory_is_growth() {
        let before =
            Holdings { processes: 3, threads: 9, descriptors: 40, file_kb: 5000, runnable: 0, spare_threads: 1 };
        assert!(grew(&before, &Holdings { file_kb: 5000 + SLACK_KB, ..before.clone() }).is_empty());
        assert_eq!(grew(&before, &Holdings { file_kb: 19_000, ..before.clone() }), ["memory"]);
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
