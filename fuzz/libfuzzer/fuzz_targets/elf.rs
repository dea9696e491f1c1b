//! The target `elf` under libFuzzer.
#![no_main]
#![forbid(unsafe_code)]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(target) = casemate_fuzz::target("elf") {
        target(bytes);
    }
});
