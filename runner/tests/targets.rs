//! Which targets the build refuses: the build script's own function, asked about others than this one.

#[allow(dead_code, clippy::print_stdout, reason = "its main is for cargo, which reads it")]
#[path = "../build.rs"]
mod build;

use build::{Target, directive};

#[test]
fn other_targets_are_one_line() {
    for (os, arch) in [("linux", "aarch64"), ("linux", "x86"), ("linux", "riscv64"), ("macos", "x86_64"), ("", "")] {
        for profile in ["debug", "release"] {
            let line = directive(&Target { os, arch, features: "crt-static", profile }).expect("refused");
            assert!(line.starts_with("cargo::error=") && line.lines().count() == 1, "{line}");
            assert!(line.contains("5.15") && line.contains("x86-64"), "{line}");
        }
    }
}

#[test]
fn a_release_that_is_not_static_says_so() {
    let built = |features, profile| directive(&Target { os: "linux", arch: "x86_64", features, profile });
    assert_eq!(built("fxsr,sse,sse2", "debug"), None);
    assert_eq!(built("crt-static,fxsr,sse", "release"), None);
    assert!(built("fxsr,sse,sse2", "release").is_some_and(|line| line.contains("cargo xtask build")));
}
