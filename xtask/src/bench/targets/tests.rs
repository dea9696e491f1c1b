//! Targets are read and judged as the issues mean them.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::results::{Machine, Results, Unit};
use super::super::sides::Side;
use super::{FILE, Verdict, evaluate, parse, read};
use crate::cargo::root;

fn results() -> Results {
    let machine = Machine { cpu: "x".into(), cores: 2, kernel: "6".into(), commit: "c".into(), runsc: None };
    let mut results = Results { machine, rounds: 1, measures: Vec::new(), failures: Vec::new() };
    let sides = |native: f64, ours: f64, runsc: f64| {
        BTreeMap::from([(Side::Native, vec![native]), (Side::Casemate, vec![ours]), (Side::Runsc, vec![runsc])])
    };
    results.add("calls/a", Unit::Nanoseconds, sides(100.0, 150.0, 1000.0));
    results.add("calls/b", Unit::Nanoseconds, sides(100.0, 300.0, 3000.0));
    results.add("idle/pss", Unit::Kilobytes, sides(1.0, 9000.0, 40_000.0));
    results
}

/// The verdict of a target on `measure` with the given lines.
fn verdict(measure: &str, lines: &str) -> Verdict {
    let text = format!("[[target]]\nname = \"t\"\nissue = 5\nmeasures = [\"{measure}\"]\n{lines}\n");
    let targets = parse(&text).expect("the target is well-formed");
    let mut outcomes = evaluate(&targets, &results(), |_| true, root());
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0).verdict
}

#[test]
fn each_limit_is_compared_with_its_side() {
    assert_eq!(verdict("calls/a", "at-most.native = 1.5"), Verdict::Holds);
    assert_eq!(verdict("calls/a", "at-most.native = 1.49"), Verdict::Missed);
    assert_eq!(verdict("calls/a", "at-most.runsc = 0.15"), Verdict::Holds);
    assert_eq!(verdict("calls/a", "at-most.runsc = 0.14"), Verdict::Missed);
    assert_eq!(verdict("calls/a", "at-most.runsc = 0.05\nat-most.runsc-of = \"calls/b\""), Verdict::Holds);
    assert_eq!(verdict("calls/a", "at-most.absolute = \"0.1 us\""), Verdict::Missed);
    assert_eq!(verdict("idle/pss", "at-most.absolute = \"9 MB\""), Verdict::Holds);
}

#[test]
fn all_limits_must_hold_or_one_of_them() {
    assert_eq!(verdict("calls/a", "at-most = { native = 2, runsc = 0.1 }"), Verdict::Missed);
    assert_eq!(verdict("calls/a", "one-of = { native = 2, runsc = 0.1 }"), Verdict::Holds);
    assert_eq!(verdict("calls/a", "one-of = { native = 1, runsc = 0.1 }"), Verdict::Missed);
}

#[test]
fn a_miss_is_explained_by_a_record_that_exists() {
    let missed = "at-most.native = 1\nadr = ";
    let record = "docs/adr/0002-dependencies.md";
    assert_eq!(verdict("calls/a", &format!("{missed}{record:?}")), Verdict::Explained(record.into()));
    assert_eq!(verdict("calls/a", &format!("{missed}\"docs/adr/none.md\"")), Verdict::Missed);
}

#[test]
fn what_is_not_measured_does_not_hold() {
    assert!(matches!(verdict("calls/none", "at-most.native = 1"), Verdict::Unmeasured(_)));
    assert!(matches!(verdict("idle/pss", "at-most.absolute = \"9 ms\""), Verdict::Unmeasured(_)));
    let mut results = results();
    results.measures.iter_mut().for_each(|measure| drop(measure.sides.remove(&Side::Runsc)));
    let targets = parse("[[target]]\nname='t'\nissue=5\nmeasures=['calls/a']\nat-most.runsc=1").expect("well-formed");
    let outcomes = evaluate(&targets, &results, |_| true, Path::new("/"));
    assert!(outcomes.iter().all(|outcome| outcome.fails()));
    assert!(evaluate(&targets, &results, |_| false, Path::new("/")).is_empty());
}

#[test]
fn a_target_without_limit_or_with_a_misspelt_one_is_refused() {
    let target = |line: &str| parse(&format!("[[target]]\nname='t'\nissue=5\nmeasures=['m']\n{line}\n")).is_err();
    assert!(target(""));
    assert!(target("at-most.nativ = 1"));
    assert!(target("at-most.absolute = '3 lightyears'"));
    assert!(!target("at-most.native = 1"));
}

#[test]
fn the_targets_of_the_issues_are_well_formed() {
    let targets = read(&root().join(FILE)).expect("the file is readable");
    for target in &targets {
        assert!([3, 4, 5, 6].contains(&target.issue), "{}", target.name);
        let known = ["calls/", "start/", "inside/", "idle/"];
        assert!(target.measures.iter().all(|name| known.iter().any(|group| name.starts_with(group))));
    }
}
