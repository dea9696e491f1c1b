//! The sandbox process: from the fork in the launcher to the first guest instruction, then the order loop.
//!
//! It is pid 1 of its pid namespace, so its end is the end of every stub. It reports through the control socket; if that
//! fails the launcher is gone, and so is the reason to go on.

mod confine;
mod crash;
mod seccomp;

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::process::Signal;

pub(crate) use confine::{MemoryFiles, OomScore};

use crate::config::{Isolation, LogSink};
use crate::control::{Control, Order, Received, Report};
use crate::failure::{Doing, Failure, Outcome};
use crate::host;
use crate::launcher::{HostView, IdMap, Setup, TreeKind};

/// Continues as the sandbox process; never returns to the launcher's code.
pub(crate) fn main(setup: Setup, control: Control) -> ! {
    let control = Arc::new(control);
    crash::install(Arc::clone(&control));
    let status = match enter(setup, &control) {
        Ok(status) => {
            let _ = control.report(&Report::Ended { status });
            status
        }
        Err(failure) => {
            let report = Report::Failed { status: failure.status(), line: failure.to_string() };
            let _ = control.report(&report);
            failure.status()
        }
    };
    host::exit_now(status)
}

fn enter(mut setup: Setup, control: &Arc<Control>) -> Outcome<u8> {
    live_and_die_with_the_launcher(control)?;
    wait_for_go(control)?;
    let namespaces = setup.config.isolation == Isolation::Namespaces;
    let view = match setup.view.take() {
        Some(view) => view,
        None => mounting(HostView::collect(&setup.config))?,
    };
    log::info!("{} host trees, {} skeleton entries", view.trees.len(), view.skeleton.len());
    let memory =
        if namespaces { mounting(confine::memory_on_tmpfs(setup.config.memory))? } else { confine::memory_on_memfd()? };
    let oom = confine::OomScore::open();
    let resolver = crate::boot::ResolverFiles::read(&setup.config);
    let null = open_null().doing("/dev/null")?;
    if namespaces {
        mounting(confine::empty_root())?;
    }
    confine::close_descriptors(
        &null,
        kept_descriptors(&setup, &view, &memory, control, oom.as_ref().map(OomScore::descriptor)),
    )?;
    std::mem::forget(null);

    let all_ids = setup.ids == IdMap::All;
    let writable = view.trees.iter().any(|tree| tree.access == host::TreeAccess::ReadWrite);
    confine::drop_capabilities(confine::kept_capabilities(all_ids, writable))?;
    confine::set_process_attributes()?;
    // Changes of credentials clear it: set again after the last one.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).doing("prctl")?;
    if control.is_closed() {
        host::exit_now(crate::failure::STATUS_OURS);
    }
    let boot = crate::boot::Boot { setup, view, memory, resolver, oom, control: Arc::clone(control) };
    crate::room::with_room(move || boot.run())?
}

/// What a host that refuses to mount leaves to do.
fn mounting<T>(result: Outcome<T>) -> Outcome<T> {
    result.map_err(|failure| {
        Failure::from_parts(
            failure.status(),
            format!("{failure} (see `casemate doctor`; --isolation=seccomp runs without mounts and namespaces)"),
        )
    })
}

/// Installs the filter on all threads; after this, only the calls in the table are left.
pub(crate) fn install_filter(platform: &[usermem::platform::HostCallRule], debug: &LogSink) -> Outcome<()> {
    if *debug != LogSink::Off {
        host::report_refused_calls().doing("SIGSYS handler")?;
    }
    let refusal = if *debug == LogSink::Off { seccomp::Refusal::Kill } else { seccomp::Refusal::Report };
    seccomp::install(platform, refusal)
}

/// What 0 and 1 of the sandbox process become. Some hosts let nobody but root write to it.
fn open_null() -> std::io::Result<OwnedFd> {
    let open = |options: &mut std::fs::OpenOptions| options.open("/dev/null").map(OwnedFd::from);
    let mut options = std::fs::OpenOptions::new();
    open(options.read(true).write(true)).or_else(|_| open(std::fs::OpenOptions::new().read(true)))
}

fn live_and_die_with_the_launcher(control: &Control) -> Outcome<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).doing("prctl")?;
    // The launcher may have died before the call above.
    if control.is_closed() {
        host::exit_now(crate::failure::STATUS_OURS);
    }
    // Signals of the caller's terminal go to the launcher alone.
    rustix::process::setsid().doing("setsid")?;
    host::unblock_signals();
    Ok(())
}

fn wait_for_go(control: &Control) -> Outcome<()> {
    match control.next_order().doing("control socket")? {
        Received::Message(Order::Go) => Ok(()),
        Received::Message(_) => Err(Failure::ours("control socket: an order before the first")),
        Received::Closed => host::exit_now(crate::failure::STATUS_OURS),
    }
}

fn kept_descriptors(
    setup: &Setup,
    view: &HostView,
    memory: &MemoryFiles,
    control: &Arc<Control>,
    oom: Option<RawFd>,
) -> Vec<RawFd> {
    let mut kept = vec![memory.write.as_raw_fd(), memory.read_only.as_raw_fd(), control.as_fd().as_raw_fd()];
    kept.extend(oom);
    kept.extend(view.trees.iter().map(|tree| tree.fd.as_raw_fd()));
    kept.extend(setup.streams.iter().flatten().map(|stream| stream.fd.as_raw_fd()));
    kept.extend(setup.strace.iter().chain(&setup.debug).map(OwnedFd::as_raw_fd));
    kept.extend(crate::logging::descriptor());
    log::debug!("{} file trees", view.trees.iter().filter(|tree| tree.kind == TreeKind::File).count());
    kept
}
