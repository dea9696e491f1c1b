//! Measures single calls, faults and forks from within: natively, inside Casemate and inside runsc the same program.
//!
//! `bench-calls run NAME…` prints one line per measure: name, median, lowest and highest of its batches, in nanoseconds
//! per operation, separated by tabs. `count N … NAME` does the operation of one measure N times. `list` prints the names. `time CMD…` runs a program and prints how long it took from
//! fork to wait; `serve` does so for each line of standard input, which makes it the driver inside a running sandbox.
//! `threads N` keeps N threads asleep until its standard input ends, `processes N PROGRAM` so many static processes.
//!
//! [`measure`] calibrates and repeats; each other module holds the measures of one family.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool speaks on its streams")]

mod calls;
mod files;
mod measure;
mod memory;
mod serve;
mod sites;
mod storm;
mod tasks;
mod wakes;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use measure::{Harness, Measure};

/// All measures, cheap ones first, those that grow the process last.
fn measures() -> impl Iterator<Item = &'static Measure> {
    [
        calls::MEASURES,
        sites::MEASURES,
        files::MEASURES,
        wakes::MEASURES,
        memory::MEASURES,
        tasks::MEASURES,
        storm::MEASURES,
    ]
    .into_iter()
    .flatten()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["list"] => {
            measures().for_each(|measure| println!("{}", measure.name));
            Ok(())
        }
        ["run", budget_ms, static_program, names @ ..] => {
            budget_ms.parse().map_err(io::Error::other).and_then(|budget_ms| {
                run(
                    &Harness {
                        budget: Duration::from_millis(budget_ms),
                        static_program: static_program.into(),
                        exactly: None,
                    },
                    names,
                )
            })
        }
        ["count", operations, static_program, name] => operations.parse().map_err(io::Error::other).and_then(|count| {
            run(
                &Harness { budget: Duration::MAX, static_program: static_program.into(), exactly: Some(count) },
                &[name],
            )
        }),
        ["time", command @ ..] => serve::time(command).map(|taken| println!("{}", taken.as_nanos())),
        ["serve"] => serve::serve(),
        ["processes", count, program] => {
            count.parse().map_err(io::Error::other).and_then(|count| tasks::sleeping_processes(count, program))
        }
        ["threads", count] => count.parse().map_err(io::Error::other).and_then(tasks::sleepers),
        _ => Err(io::Error::other(
            "list | run BUDGET-MS STATIC-PROGRAM NAME… | count N STATIC-PROGRAM NAME | time CMD… | serve | threads N | \
             processes N STATIC-PROGRAM",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-calls: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the measures called `names`, or all of them when there is none; one that fails says so and is left out.
fn run(harness: &Harness, names: &[&str]) -> io::Result<()> {
    for measure in measures().filter(|measure| names.is_empty() || names.contains(&measure.name)) {
        match (measure.run)(harness) {
            Ok(sample) => {
                println!("{}\t{:.1}\t{:.1}\t{:.1}", measure.name, sample.median, sample.low, sample.high);
            }
            Err(error) => eprintln!("bench-calls: {}: {error}", measure.name),
        }
    }
    Ok(())
}
