//! The platform contract, all of it, over each hand-over.

use std::sync::Arc;

use casemate_platform_systrap::{Handover, Systrap, SystrapConfig};
use usermem::contract::{self, Fixture};
use usermem::memfile::MemoryFile;

fn check(handover: Handover) {
    let memory = MemoryFile::on_memfd(1 << 30).expect("memory file");
    let mut config = SystrapConfig::new(memory.shared_fd(), memory.shared_read_only_fd());
    config.handover = handover;
    let platform = Arc::new(Systrap::new(&config).expect("platform"));
    let failed = contract::run_all(&Fixture { platform, memory });
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn the_contract_is_kept() {
    check(Handover::Auto);
}

#[test]
fn the_contract_is_kept_as_on_hosts_before_6_6() {
    check(Handover::NotifyUnsynced);
}

#[test]
fn the_contract_is_kept_without_listeners() {
    check(Handover::Futex);
}
