//! Run states: what a task does next, as a value that owns what that needs, and which state may follow which.
//!
//! ARCHITECTURE.md has the drawing; a test holds it against [`Kind::next`], and debug builds hold each step of each task
//! against that. A system call cannot name any state: [`Leave`] is what it may lead to instead of a result.
//!
//! **Invariant.** What must survive a stop is in a state (or a restart block), never on a host stack: at the boundary
//! between two steps nothing else is left of a task but [`super::Task`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use usermem::platform::FaultInfo;

use super::exec::PreparedExec;
use super::group::ExitStatus;
use crate::error::{Restart, SysResult};
use crate::ids::Tid;
use crate::signal::deliver::Delivery;

/// What a task does next.
pub(crate) enum RunState {
    /// Runs guest code.
    App,
    /// Serves the call in the registers.
    SyscallEnter,
    /// Gives the guest the result of its call.
    SyscallExit(SysResult),
    /// Serves the call in the registers again, which a signal without handler had interrupted.
    SyscallReinvoke,
    /// Resolves a CPU exception.
    Fault(FaultInfo),
    /// Looks at signals, stops and the end; `restart` is what an interrupted call asked for.
    Interrupt { restart: Option<Restart> },
    /// Runs a handler.
    SignalDeliver(Box<Delivery>),
    /// Stands still until the kernel itself ends that.
    Stop(Stop),
    /// Ends.
    Exit(ExitStatus),
}

/// An internal stop: the kernel begins it and ends it. Each is killable, which means that the end of its thread
/// ([`stops::Work::KILL`]) ends it too, and no signal does. (A ptrace(2) stop belongs here, as one more.) External
/// stops are no states: see [`stops::Pauses`].
pub(crate) enum Stop {
    /// Job control: until the process is continued. Pauses and further stops may come meanwhile.
    Group { restart: Option<Restart> },
    /// vfork(2): until the child lets go of the address space.
    Vfork { child: Tid, done: Arc<VforkDone> },
    /// execve(2): until the other threads are gone, then the task becomes the new program.
    Exec(Box<PreparedExec>),
}

/// Where a system call leads instead of to a result.
pub(crate) enum Leave {
    Stop(Stop),
    Exit(ExitStatus),
}

impl Leave {
    pub(crate) fn into_state(self) -> RunState {
        match self {
            Self::Stop(stop) => RunState::Stop(stop),
            Self::Exit(status) => RunState::Exit(status),
        }
    }
}

/// A [`RunState`] without its data, each stop by itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    App,
    SyscallEnter,
    SyscallExit,
    SyscallReinvoke,
    Fault,
    Interrupt,
    SignalDeliver,
    GroupStop,
    VforkWait,
    ExecWait,
    Exit,
}

impl RunState {
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::App => Kind::App,
            Self::SyscallEnter => Kind::SyscallEnter,
            Self::SyscallExit(_) => Kind::SyscallExit,
            Self::SyscallReinvoke => Kind::SyscallReinvoke,
            Self::Fault(_) => Kind::Fault,
            Self::Interrupt { .. } => Kind::Interrupt,
            Self::SignalDeliver(_) => Kind::SignalDeliver,
            Self::Stop(Stop::Group { .. }) => Kind::GroupStop,
            Self::Stop(Stop::Vfork { .. }) => Kind::VforkWait,
            Self::Stop(Stop::Exec(_)) => Kind::ExecWait,
            Self::Exit(_) => Kind::Exit,
        }
    }
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::App,
        Self::SyscallEnter,
        Self::SyscallExit,
        Self::SyscallReinvoke,
        Self::Fault,
        Self::Interrupt,
        Self::SignalDeliver,
        Self::GroupStop,
        Self::VforkWait,
        Self::ExecWait,
        Self::Exit,
    ];

    pub(super) fn from_raw(raw: u8) -> Self {
        Self::ALL.get(usize::from(raw)).copied().unwrap_or(Self::App)
    }

    /// The states that may follow this one.
    pub(crate) const fn next(self) -> &'static [Self] {
        match self {
            // Exit: the platform has lost the address space.
            Self::App => &[Self::SyscallEnter, Self::Fault, Self::Interrupt, Self::Exit],
            Self::SyscallEnter | Self::SyscallReinvoke => &[Self::SyscallExit],
            // VforkWait, ExecWait, Exit: what `Leave` says.
            Self::SyscallExit => &[Self::App, Self::Interrupt, Self::VforkWait, Self::ExecWait, Self::Exit],
            // Exit: there is no memory, and this process is chosen.
            Self::Fault => &[Self::App, Self::Interrupt, Self::Exit],
            // Interrupt: one thing at a time, until nothing wants the task.
            Self::Interrupt => {
                &[Self::App, Self::SyscallReinvoke, Self::SignalDeliver, Self::GroupStop, Self::Interrupt, Self::Exit]
            }
            // Further signals may be due, a SIGSEGV for the frame among them.
            Self::SignalDeliver => &[Self::Interrupt],
            Self::GroupStop => &[Self::Interrupt],
            // Interrupt: it is killed.
            Self::VforkWait => &[Self::SyscallExit, Self::Interrupt],
            Self::ExecWait => &[Self::App, Self::Exit],
            Self::Exit => &[],
        }
    }

    /// For the line that a crash of ours prints, and the watchdog's.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::App => "App",
            Self::SyscallEnter => "SyscallEnter",
            Self::SyscallExit => "SyscallExit",
            Self::SyscallReinvoke => "SyscallReinvoke",
            Self::Fault => "Fault",
            Self::Interrupt => "Interrupt",
            Self::SignalDeliver => "SignalDeliver",
            Self::GroupStop => "GroupStop",
            Self::VforkWait => "VforkWait",
            Self::ExecWait => "ExecWait",
            Self::Exit => "Exit",
        }
    }
}

/// Tells the parent of vfork(2) that its child uses its memory no more.
pub(crate) struct VforkDone {
    done: AtomicBool,
    parent: Arc<sync::Parker>,
}

impl VforkDone {
    pub(crate) fn new(parent: Arc<sync::Parker>) -> Arc<Self> {
        Arc::new(Self { done: AtomicBool::new(false), parent })
    }

    pub(crate) fn complete(&self) {
        // Release pairs with the load in `is_done`: the child's last access to the memory comes before.
        self.done.store(true, Ordering::Release);
        self.parent.unpark();
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Kind;

    const ALL: [Kind; 11] = Kind::ALL;

    #[test]
    fn numbers_name_states() {
        assert!(ALL.iter().all(|&kind| Kind::from_raw(kind as u8) == kind));
    }

    #[test]
    fn the_drawing_in_architecture_md_has_these_states_and_edges() {
        let text = include_str!("../../../ARCHITECTURE.md");
        let (_, drawing) = text.split_once("stateDiagram-v2\n").expect("a drawing");
        let (drawing, _) = drawing.split_once("```").expect("its end");
        let drawn: BTreeSet<(&str, &str)> = drawing
            .lines()
            .map(|line| line.split_once(':').map_or(line, |(edge, _)| edge))
            .map(|edge| edge.split_once("-->").map(|(from, to)| (from.trim(), to.trim())).expect("an edge"))
            .collect();
        let mut legal: BTreeSet<_> =
            ALL.iter().flat_map(|from| from.next().iter().map(|to| (from.name(), to.name()))).collect();
        legal.insert(("[*]", Kind::App.name()));
        legal.insert((Kind::Exit.name(), "[*]"));
        assert_eq!(drawn, legal);
    }

    #[test]
    fn every_state_is_reached_and_leads_to_the_end() {
        let mut reached = BTreeSet::from([Kind::App]);
        while let Some(next) =
            ALL.iter().find(|to| !reached.contains(to) && reached.iter().any(|from| from.next().contains(to)))
        {
            reached.insert(*next);
        }
        assert_eq!(reached.len(), ALL.len());
        let mut ending = BTreeSet::from([Kind::Exit]);
        while let Some(next) =
            ALL.iter().find(|from| !ending.contains(from) && from.next().iter().any(|to| ending.contains(to)))
        {
            ending.insert(*next);
        }
        assert_eq!(ending.len(), ALL.len());
    }
}
