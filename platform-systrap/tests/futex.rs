//! The platform with futexes.

mod common;
mod suite;

const HANDOVER: casemate_platform_systrap::Handover = casemate_platform_systrap::Handover::Futex;
