//! Our own crash: one line (task, call, run state, version) and status 125.

use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::control::{Control, Report};
use crate::failure::{STATUS_OURS, print_line};
use crate::host;

/// Set by the first panic: a second one, in another thread or in the hook itself, only ends the process.
static CRASHING: AtomicBool = AtomicBool::new(false);

/// Makes every panic of this process report to the launcher and end it.
pub(super) fn install(control: Arc<Control>) {
    std::panic::set_hook(Box::new(move |info| {
        // Relaxed: only the flag itself matters.
        if CRASHING.swap(true, Ordering::Relaxed) {
            host::exit_now(STATUS_OURS);
        }
        let line = describe(info);
        log::error!("{line}");
        if control.report(&Report::Failed { status: STATUS_OURS, line: line.clone() }).is_err() {
            print_line(&line);
        }
        host::exit_now(STATUS_OURS)
    }));
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic");
    let place = info.location().map(|place| format!(" at {}:{}", place.file(), place.line())).unwrap_or_default();
    format!(
        "internal error: {message}{place}; {}; casemate {}",
        crate::boot::crash_context(),
        env!("CARGO_PKG_VERSION")
    )
}
