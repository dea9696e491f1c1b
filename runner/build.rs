//! Refuses targets other than the one that Casemate is written for, in one line, and says when the result is not the
//! binary that can be given away.

fn main() {
    let setting = |key: &str| std::env::var(key).unwrap_or_default();
    let target = Target {
        os: &setting("CARGO_CFG_TARGET_OS"),
        arch: &setting("CARGO_CFG_TARGET_ARCH"),
        features: &setting("CARGO_CFG_TARGET_FEATURE"),
        profile: &setting("PROFILE"),
    };
    if let Some(line) = directive(&target) {
        println!("{line}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}

/// What is built, in cargo's words.
pub(crate) struct Target<'a> {
    pub(crate) os: &'a str,
    pub(crate) arch: &'a str,
    /// Separated by commas.
    pub(crate) features: &'a str,
    pub(crate) profile: &'a str,
}

/// What to tell cargo, if anything; `tests/targets.rs` asks too.
pub(crate) fn directive(target: &Target<'_>) -> Option<&'static str> {
    if target.os != "linux" || target.arch != "x86_64" {
        return Some("cargo::error=Casemate needs Linux (5.15 or newer) on x86-64");
    }
    let is_static = target.features.split(',').any(|feature| feature == "crt-static");
    if target.profile == "release" && !is_static {
        return Some("cargo::warning=not static; `cargo xtask build --release` makes the one file that runs anywhere");
    }
    None
}
