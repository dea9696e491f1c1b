//! CPU load by other processes, for what is to be right on a busy machine too.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

/// What a busy process does: it ends by itself, soon, when its parent does not end it.
const BUSY: &str = "while kill -0 $PPID; do i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; done 2>/dev/null";

/// Keeps every CPU busy until it is dropped, with processes of its own.
pub(crate) struct Load(Vec<Child>);

impl Load {
    /// A process per CPU that we may use.
    pub(crate) fn start() -> Result<Self> {
        let mut load = Self(Vec::new());
        for _ in 0..std::thread::available_parallelism().map_or(2, std::num::NonZero::get) {
            let mut busy = Command::new("/bin/sh");
            busy.args(["-c", BUSY]).stdin(Stdio::null());
            load.0.push(busy.spawn().context("cannot start a busy process")?);
        }
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for busy in &mut self.0 {
            // One that is gone needs no end.
            let _ = busy.kill();
            let _ = busy.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Load;

    #[test]
    fn what_is_busy_ends_with_it() {
        let load = Load::start().unwrap();
        let pids: Vec<u32> = load.0.iter().map(std::process::Child::id).collect();
        let runs = |pid: &u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
        assert!(!pids.is_empty() && pids.iter().all(runs));
        drop(load);
        assert!(!pids.iter().any(runs));
    }
}
