//! Descriptors in messages (SCM_RIGHTS): how many are on their way, and those that nobody can receive any more.
//!
//! Sockets whose descriptors lie in each other's queues keep each other alive when no process has them open. What is on
//! its way is therefore counted, and from time to time searched for such groups: a socket is garbage when every
//! reference to its file is one on its way, and lies in the queue of another that is garbage. Their queues are emptied.
//!
//! **Locks.** `socket.in_flight` is a leaf, taken under a channel's lock; the search takes it and channels in turn and
//! does nothing if something moved meanwhile. No file is dropped under a lock of sockets, and a file dropped while
//! another is being dropped waits for that one ([`bury`]): a chain of queues does not nest on the stack.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use abi::Errno;
use fs::vfs::File;
use hashbrown::{HashMap, HashSet};
use sync::{LockClass, Mutex};

use super::Socket;
use super::address::Space;

const IN_FLIGHT: LockClass = LockClass::leaf("socket.in_flight");

/// Descriptors on their way at most, also of those whom no limit holds: no table counts what they keep in memory.
const MAX_IN_FLIGHT: usize = 65_536;

#[derive(Default)]
struct Registry {
    /// Descriptors on their way.
    all: usize,
    /// Those by the user who sent them.
    by_user: HashMap<u32, usize>,
    /// Sockets among them, by the file's number, and how often.
    sockets: HashMap<u64, (Weak<File>, usize)>,
    /// Counts changes.
    changes: u64,
    /// Sockets sent, and sockets closed, since the last search: any of them may have become garbage.
    since: usize,
    /// Sockets on their way that the last search left.
    left: usize,
}

/// A search is not worth while for less than this has happened since the last.
const FEW: usize = 16;

impl Registry {
    fn is_due(&self) -> bool {
        !self.sockets.is_empty() && self.since > self.left.max(FEW)
    }
}

/// All descriptors on their way.
pub(super) struct InFlight {
    registry: Mutex<Registry>,
}

/// Who sends descriptors, and how many may be on their way: `None` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// The user.
    pub uid: u32,
    /// RLIMIT_NOFILE, unless privileged.
    pub limit: Option<u64>,
}

/// Descriptors that are on their way while this exists.
pub struct Rights {
    files: Vec<Arc<File>>,
    uid: u32,
    space: Arc<Space>,
}

impl std::fmt::Debug for Rights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} descriptors", self.files.len())
    }
}

impl Rights {
    /// Sends `files` on their way; `ETOOMANYREFS` when too many of the user's are, or of all.
    pub fn new(space: &Arc<Space>, files: Vec<Arc<File>>, allowance: Allowance) -> Result<Self, Errno> {
        {
            let mut registry = space.in_flight.registry.lock();
            let all = registry.all.saturating_add(files.len());
            if all > MAX_IN_FLIGHT {
                return Err(Errno::ETOOMANYREFS);
            }
            let count = registry.by_user.entry(allowance.uid).or_default();
            if allowance.limit.is_some_and(|limit| *count as u64 > limit) {
                return Err(Errno::ETOOMANYREFS);
            }
            *count += files.len();
            registry.all = all;
            for file in files.iter().filter(|file| file.ops_as::<Socket>().is_some()) {
                registry.sockets.entry(file.id()).or_insert_with(|| (Arc::downgrade(file), 0)).1 += 1;
                registry.since += 1;
            }
            registry.changes += 1;
        }
        let rights = Self { files, uid: allowance.uid, space: Arc::clone(space) };
        space.search_if_due();
        Ok(rights)
    }

    /// The files.
    pub fn files(&self) -> &[Arc<File>] {
        &self.files
    }

    /// The files, which have arrived.
    pub fn arrive(mut self) -> Vec<Arc<File>> {
        self.forget();
        std::mem::take(&mut self.files)
    }

    fn forget(&self) {
        let mut registry = self.space.in_flight.registry.lock();
        registry.all = registry.all.saturating_sub(self.files.len());
        if let Some(count) = registry.by_user.get_mut(&self.uid) {
            *count = count.saturating_sub(self.files.len());
            if *count == 0 {
                registry.by_user.remove(&self.uid);
            }
        }
        for file in self.files.iter().filter(|file| file.ops_as::<Socket>().is_some()) {
            if let Some((_, count)) = registry.sockets.get_mut(&file.id()) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    registry.sockets.remove(&file.id());
                }
            }
        }
        registry.changes += 1;
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        if !self.files.is_empty() {
            self.forget();
            bury(std::mem::take(&mut self.files));
        }
    }
}

thread_local! {
    /// Files to be dropped by the call of `bury` that is under way on this thread, if one is.
    static GRAVE: RefCell<Option<Vec<Arc<File>>>> = const { RefCell::new(None) };
}

/// Drops `files`; those that their end drops in turn are dropped here too, not deeper on the stack.
fn bury(files: Vec<Arc<File>>) {
    let nested = GRAVE.with_borrow_mut(|grave| match grave {
        Some(grave) => {
            grave.extend(files.iter().cloned());
            true
        }
        None => {
            *grave = Some(files.clone());
            false
        }
    });
    // Not the last references: those are in the grave.
    drop(files);
    if nested {
        return;
    }
    while let Some(file) = GRAVE.with_borrow_mut(|grave| grave.as_mut().and_then(Vec::pop)) {
        drop(file);
    }
    GRAVE.set(None);
}

impl InFlight {
    pub(super) fn new() -> Self {
        Self { registry: Mutex::new(IN_FLIGHT, Registry::default()) }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.registry.lock().all
    }
}

/// A socket's file all of whose references are on their way.
struct Suspect {
    file: Arc<File>,
    socket: Arc<Socket>,
    /// References on their way.
    sent: usize,
    /// Files of sockets in its queue.
    holds: Vec<u64>,
}

impl Space {
    /// A socket was closed: those in its queue, or itself on its way, may be garbage now.
    pub(super) fn socket_closed(&self) {
        self.in_flight.registry.lock().since += 1;
        self.search_if_due();
    }

    /// Searches when as much has happened as the last search left, so that the cost stays in proportion.
    fn search_if_due(&self) {
        let due = self.in_flight.registry.lock().is_due();
        if due {
            self.search();
        }
    }

    /// Finds sockets that only each other's queues keep, and empties those.
    pub(super) fn search(&self) {
        let (changes, mut suspects) = self.suspects();
        for suspect in suspects.values_mut() {
            suspect.holds = suspect.socket.sockets_in_queue();
        }
        let mut within: HashMap<u64, usize> = HashMap::new();
        for id in suspects.values().flat_map(|suspect| &suspect.holds) {
            *within.entry(*id).or_default() += 1;
        }
        // Alive: whoever lies in a queue outside, and all that lies in the queue of one alive.
        let mut alive: Vec<u64> = suspects
            .iter()
            .filter(|(id, suspect)| within.get(*id).copied().unwrap_or(0) < suspect.sent)
            .map(|(id, _)| *id)
            .collect();
        let mut seen: HashSet<u64> = alive.iter().copied().collect();
        while let Some(id) = alive.pop() {
            let held = suspects.get(&id).map(|suspect| suspect.holds.clone()).unwrap_or_default();
            alive.extend(held.into_iter().filter(|id| seen.insert(*id)));
        }
        suspects.retain(|id, _| !seen.contains(id));
        let still = self.in_flight.registry.lock().changes == changes;
        if still && suspects.values().all(Suspect::is_only_sent) {
            for suspect in suspects.values() {
                suspect.socket.empty_queue();
            }
        }
        // Before the suspects go, which closes sockets.
        let mut registry = self.in_flight.registry.lock();
        registry.left = registry.sockets.len();
        drop(registry);
        drop(suspects);
    }

    fn suspects(&self) -> (u64, HashMap<u64, Suspect>) {
        let mut registry = self.in_flight.registry.lock();
        registry.since = 0;
        let all = registry.sockets.iter().filter_map(|(&id, (file, sent))| {
            let file = file.upgrade()?;
            let socket = file.ops_arc::<Socket>()?;
            Some((id, Suspect { file, socket, sent: *sent, holds: Vec::new() }))
        });
        let all: Vec<_> = all.collect();
        let changes = registry.changes;
        drop(registry);
        (changes, all.into_iter().filter(|(_, suspect)| suspect.is_only_sent()).collect())
    }
}

impl Suspect {
    /// All references are on their way, but the one here.
    fn is_only_sent(&self) -> bool {
        Arc::strong_count(&self.file) == self.sent + 1
    }
}
