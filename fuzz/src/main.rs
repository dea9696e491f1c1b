//! `casemate-fuzz NAME SECONDS [SEED]`: runs a target on mutations of its corpus; an input that breaks it is left in a file.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, reason = "it tells how it goes")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use casemate_fuzz::mutate::{Numbers, input};
use casemate_fuzz::{TARGETS, target};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let names: Vec<&str> = TARGETS.iter().map(|target| target.0).collect();
    let Some(target) = target(word(0)) else {
        eprintln!("targets: {}", names.join(" "));
        return ExitCode::from(2);
    };
    // A file to run once, or seconds.
    if let Ok(bytes) = std::fs::read(word(1)) {
        target(&bytes);
        return ExitCode::SUCCESS;
    }
    let limit = Duration::from_secs(word(1).parse().unwrap_or(10));
    let corpus = corpus(word(0));
    let clock = std::time::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_secs());
    let seed = word(2).parse().unwrap_or(clock);
    let mut numbers = Numbers::new(seed);
    let started = Instant::now();
    let kept = std::env::temp_dir().join(format!("casemate-fuzz-{}", word(0)));
    eprintln!("seed {seed}, {} files of corpus; the input that runs is in {}", corpus.len(), kept.display());
    let mut runs = 0_u64;
    while started.elapsed() < limit {
        let bytes = input(&corpus, &mut numbers);
        // Written before it runs: a panic ends this process.
        let _ = std::fs::write(&kept, &bytes);
        target(&bytes);
        runs += 1;
    }
    let _ = std::fs::remove_file(&kept);
    eprintln!("{runs} runs in {:.1} s", started.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).map(|list| list.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    files.sort();
    let mut corpus: Vec<Vec<u8>> = files.iter().filter_map(|file| std::fs::read(file).ok()).collect();
    if name == "elf"
        && let Ok(mut program) = std::fs::read("/bin/true")
    {
        program.truncate(8192);
        corpus.push(program);
    }
    corpus
}
