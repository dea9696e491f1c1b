//! Room on the stack: the first thread has what the caller's limit gives it, which may be little.

use crate::failure::{Doing, Outcome};

/// What describing all options, or making a kernel, may take.
const ROOM: usize = 1 << 20;

/// Does `work`, where this thread's stack is small on one of its own, which is gone when it is done.
pub(crate) fn with_room<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Outcome<T> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Stack).current;
    if limit.is_none_or(|limit| limit >= ROOM as u64) {
        return Ok(work());
    }
    let thread = std::thread::Builder::new().stack_size(ROOM).spawn(work).doing("cannot start a thread")?;
    // A panic has said so, and ends the process in itself (`panic = "abort"`).
    Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}
