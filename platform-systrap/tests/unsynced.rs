//! The platform with notifications that wake on any CPU, as on hosts before 6.6.

mod common;
mod suite;

const HANDOVER: casemate_platform_systrap::Handover = casemate_platform_systrap::Handover::NotifyUnsynced;
