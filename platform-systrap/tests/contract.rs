//! The platform contract, all of it.

use std::sync::Arc;

use casemate_platform_systrap::{Systrap, SystrapConfig};
use usermem::contract::{self, Fixture};
use usermem::memfile::MemoryFile;

#[test]
fn the_contract_is_kept() {
    let memory = MemoryFile::on_memfd(1 << 30).expect("memory file");
    let config = SystrapConfig::new(memory.shared_fd(), memory.shared_read_only_fd());
    let platform = Arc::new(Systrap::new(&config).expect("platform"));
    let failed = contract::run_all(&Fixture { platform, memory });
    assert!(failed.is_empty(), "{failed:#?}");
}
