//! Compiles the vDSO: `vdso/vdso.rs` → object → `vdso.so`, linked with no library, padded to whole pages.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const PAGE_SIZE: usize = 4096;

fn main() {
    println!("cargo::rerun-if-changed=vdso");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CC");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let linker = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let object = out.join("vdso.o");
    let shared = out.join("vdso.so");

    // Flags of its own, none of the workspace's: this is code for guest processes, and it must not call anything.
    run(Command::new(rustc)
        .args(["--edition=2024", "--crate-name=vdso", "--crate-type=lib", "--emit=obj"])
        .args(["--target=x86_64-unknown-linux-gnu"])
        .args(["-Copt-level=2", "-Ccodegen-units=1", "-Cpanic=abort", "-Crelocation-model=pic"])
        .args(["-Cdebuginfo=0", "-Cdebug-assertions=off", "-Coverflow-checks=off", "-Cforce-unwind-tables=yes"])
        .arg("-o")
        .arg(&object)
        .arg("vdso/vdso.rs"));
    run(Command::new(linker)
        .args(["-shared", "-nostdlib", "-nostartfiles", "-Wl,-soname,linux-vdso.so.1", "-Wl,--hash-style=both"])
        .args(["-Wl,--no-undefined", "-Wl,-Bsymbolic", "-Wl,--build-id=sha1", "-Wl,--eh-frame-hdr", "-Wl,-s"])
        .args(["-Wl,-z,max-page-size=4096", "-Wl,-z,noexecstack", "-Wl,-z,norelro"])
        .args(["-Wl,-T,vdso/vdso.lds", "-Wl,--version-script=vdso/vdso.map"])
        .arg("-o")
        .arg(&shared)
        .arg(&object));

    let mut image = fs::read(&shared).expect("the linker wrote the vDSO");
    image.resize(image.len().next_multiple_of(PAGE_SIZE), 0);
    fs::write(out.join("vdso.img"), image).expect("OUT_DIR is writable");
}

fn run(command: &mut Command) {
    let status = command.status();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "building the vDSO: {command:?}: {status:?}");
}
