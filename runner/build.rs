//! Refuses targets other than the one that Casemate is written for, in one line, before anything else is compiled.

fn main() {
    let target = |key: &str| std::env::var(key).unwrap_or_default();
    if target("CARGO_CFG_TARGET_OS") != "linux" || target("CARGO_CFG_TARGET_ARCH") != "x86_64" {
        println!("cargo::error=Casemate needs Linux (5.15 or newer) on x86-64");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
