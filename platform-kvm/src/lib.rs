//! Says whether this host's `/dev/kvm` could run guests.
//!
//! A `/dev/kvm` that opens proves nothing: some are software back ends on which a ring switch misbehaves. So the probe
//! goes from the cheap to the telling and stops at the first step that fails; the last steps run guest code. The caller
//! runs it in a child process with a deadline, because a broken `KVM_RUN` may never return.

mod probe;
mod selftest;

pub use probe::{Report, probe};
