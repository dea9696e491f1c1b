//! What people read: a table of measures, then one line per target.

use std::collections::BTreeMap;

use super::results::{Measure, Results, Unit};
use super::sides::Side;
use super::targets::{Outcome, Verdict};

/// Prints machine and measures; with `old`, also Casemate's figure there and the change since.
pub(super) fn table(results: &Results, old: Option<&Results>) {
    let machine = &results.machine;
    println!("{}, {} cores, Linux {}, casemate {}", machine.cpu, machine.cores, machine.kernel, machine.commit);
    println!("{}; medians of {} rounds", machine.runsc.as_deref().unwrap_or("without runsc"), results.rounds);
    print!(
        "{:<30} {:>10} {:>10} {:>10} {:>8} {:>8} {:>7}",
        "", "native", "casemate", "runsc", "×native", "×runsc", "spread"
    );
    println!("{}", if old.is_some() { format!(" {:>10} {:>7}", "before", "change") } else { String::new() });
    for measure in &results.measures {
        println!("{}", line(measure, old));
    }
}

fn line(measure: &Measure, old: Option<&Results>) -> String {
    let median = |side| measure.median(side);
    let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| show(value, measure.unit));
    let ratio = |side| match (median(Side::Casemate), median(side)) {
        (Some(ours), Some(theirs)) if theirs > 0.0 => format!("{:.2}", ours / theirs),
        _ => "-".to_owned(),
    };
    let spread = measure.sides.get(&Side::Casemate).and_then(|samples| samples.spread());
    let mut text = format!(
        "{:<30} {:>10} {:>10} {:>10} {:>8} {:>8} {:>7}",
        measure.name,
        figure(median(Side::Native)),
        figure(median(Side::Casemate)),
        figure(median(Side::Runsc)),
        ratio(Side::Native),
        ratio(Side::Runsc),
        spread.map_or_else(|| "-".to_owned(), |spread| format!("{:.0} %", spread * 100.0)),
    );
    if let Some(old) = old {
        let before = old.measure(&measure.name).and_then(|measure| measure.median(Side::Casemate));
        let change = match (before, median(Side::Casemate)) {
            (Some(before), Some(now)) if before > 0.0 => format!("{:+.0} %", (now / before - 1.0) * 100.0),
            _ => "-".to_owned(),
        };
        text.push_str(&format!(" {:>10} {change:>7}", figure(before)));
    }
    text
}

/// Prints what became of the targets, misses last.
pub(super) fn targets(outcomes: &[Outcome]) {
    if outcomes.is_empty() {
        return;
    }
    println!();
    let rank = |outcome: &&Outcome| match outcome.verdict {
        Verdict::Holds => 0,
        Verdict::Explained(_) => 1,
        Verdict::Unmeasured(_) => 2,
        Verdict::Missed => 3,
    };
    let mut sorted: Vec<&Outcome> = outcomes.iter().collect();
    sorted.sort_by_key(rank);
    let mut counts: BTreeMap<u8, usize> = BTreeMap::new();
    for outcome in sorted {
        *counts.entry(rank(&outcome)).or_default() += 1;
        println!("{outcome}");
    }
    let count = |rank: u8| counts.get(&rank).copied().unwrap_or(0);
    println!("{} hold, {} explained, {} without figures, {} missed", count(0), count(1), count(2), count(3));
}

/// A figure with a unit that fits its size.
pub(super) fn show(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Nanoseconds if value < 1e3 => format!("{value:.0} ns"),
        Unit::Nanoseconds if value < 1e6 => format!("{:.2} us", value / 1e3),
        Unit::Nanoseconds if value < 1e9 => format!("{:.2} ms", value / 1e6),
        Unit::Nanoseconds => format!("{:.2} s", value / 1e9),
        Unit::Kilobytes if value < 1e3 => format!("{value:.0} kB"),
        Unit::Kilobytes => format!("{:.2} MB", value / 1e3),
        Unit::PerSecond => format!("{value:.1} /s"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Unit, show};

    #[test]
    fn figures_have_units_that_fit() {
        assert_eq!(show(8.4, Unit::Nanoseconds), "8 ns");
        assert_eq!(show(1_500.0, Unit::Nanoseconds), "1.50 us");
        assert_eq!(show(20e6, Unit::Nanoseconds), "20.00 ms");
        assert_eq!(show(9_500.0, Unit::Kilobytes), "9.50 MB");
        assert_eq!(show(0.0, Unit::PerSecond), "0.0 /s");
    }
}
