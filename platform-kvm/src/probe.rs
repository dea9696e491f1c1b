//! The steps before any guest code: device, version, capabilities, CPUID.

use std::fmt;

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Cap, Kvm};

use crate::selftest;

/// API version that every kernel since 2.6.22 reports.
const API_VERSION: i32 = 12;

/// Capabilities without which a platform cannot be built.
const NEEDED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
];

/// MSR whose value tells the PVM back end from hardware.
const PVM_SIGNATURE_MSR: u32 = 0x4b56_4d11;
/// Its value there.
const PVM_SIGNATURE: u64 = 0x4d_5650;

/// How far the probe came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Every step passed; what kind of back end it is.
    Works {
        /// `hardware` or the name of a software back end.
        flavour: &'static str,
    },
    /// The first step that failed, and how.
    Failed {
        /// Name of the step.
        step: &'static str,
        /// The host's words.
        why: String,
    },
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works { flavour } => write!(f, "ok: {flavour}, self-test passed"),
            Self::Failed { step, why } => write!(f, "{step}: {why}"),
        }
    }
}

/// A failed step.
pub(crate) struct Failure {
    pub(crate) step: &'static str,
    pub(crate) why: String,
}

/// Names the step of an error.
pub(crate) fn at<T, E: fmt::Display>(step: &'static str, result: Result<T, E>) -> Result<T, Failure> {
    result.map_err(|error| Failure { step, why: error.to_string() })
}

/// Probes `/dev/kvm`. May hang on a broken back end: run it in a process that can be killed.
pub fn probe() -> Report {
    match steps() {
        Ok(flavour) => Report::Works { flavour },
        Err(Failure { step, why }) => Report::Failed { step, why },
    }
}

fn steps() -> Result<&'static str, Failure> {
    let kvm = at("open /dev/kvm", Kvm::new())?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(Failure { step: "API version", why: format!("{version} instead of {API_VERSION}") });
    }
    for (capability, name) in NEEDED {
        if !kvm.check_extension(capability) {
            return Err(Failure { step: "capabilities", why: format!("{name} is missing") });
        }
    }
    check_cpuid(&kvm)?;
    let machine = selftest::Machine::new(&kvm)?;
    let flavour = if machine.msr(PVM_SIGNATURE_MSR) == Some(PVM_SIGNATURE) { "PVM back end" } else { "hardware" };
    selftest::run(machine)?;
    Ok(flavour)
}

fn check_cpuid(kvm: &Kvm) -> Result<(), Failure> {
    let step = "supported CPUID";
    let cpuid = at(step, kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES))?;
    let has = |function: u32, register: fn(&kvm_bindings::kvm_cpuid_entry2) -> u32, bit: u32| {
        cpuid
            .as_slice()
            .iter()
            .any(|entry| entry.function == function && entry.index == 0 && register(entry) & (1 << bit) != 0)
    };
    let features = [
        ("long mode", has(0x8000_0001, |entry| entry.edx, 29)),
        ("NX", has(0x8000_0001, |entry| entry.edx, 20)),
        ("SYSCALL", has(0x8000_0001, |entry| entry.edx, 11)),
        ("XSAVE", has(1, |entry| entry.ecx, 26)),
        ("FSGSBASE", has(7, |entry| entry.ebx, 0)),
    ];
    match features.iter().find(|(_, present)| !present) {
        Some((name, _)) => Err(Failure { step, why: format!("{name} is missing") }),
        None => Ok(()),
    }
}
