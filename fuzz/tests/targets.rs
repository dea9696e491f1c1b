//! The corpus, and bytes near it and far from it: no target panics or hangs.

use casemate_fuzz::mutate::{Numbers, input};
use casemate_fuzz::{TARGETS, target};
use proptest::prelude::{any, proptest};
use proptest::test_runner::Config;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn the_corpus_passes() {
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        assert!(corpus.len() >= 3, "{name} has {} files", corpus.len());
        for bytes in corpus {
            target(&bytes);
        }
    }
}

#[test]
fn what_is_near_the_corpus_passes() {
    for (name, target) in TARGETS {
        let (corpus, mut numbers) = (corpus(name), Numbers::new(7));
        for _ in 0..if *name == "calls" { 150 } else { 1000 } {
            target(&input(&corpus, &mut numbers));
        }
    }
}

proptest! {
    #![proptest_config(Config::with_cases(300))]
    #[test]
    fn any_bytes_pass(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0..3_usize) {
        TARGETS[at].1(&bytes);
    }

    #[test]
    fn any_path_of_a_few_letters_passes(
        op in any::<[u8; 3]>(),
        path in proptest::collection::vec(proptest::sample::select(&b"/abfl.up\0"[..]), 0..200),
    ) {
        target("path").unwrap()(&[&op[..], &path].concat());
    }
}

proptest! {
    #![proptest_config(Config::with_cases(60))]
    #[test]
    fn any_calls_pass(
        calls in proptest::collection::vec(any::<[u8; 14]>(), 1..=16),
        data in proptest::collection::vec(any::<u8>(), 0..4096),
    ) {
        let count = [u8::try_from(calls.len() - 1).unwrap()];
        target("calls").unwrap()(&[&count[..], &calls.concat(), &data].concat());
    }
}
