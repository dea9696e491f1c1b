//! Who maps an object, to be told when its bytes go or move.

use std::sync::{Arc, Weak};

use sync::Mutex;
use usermem::memmap::{MappingObserver, Truncated};

use crate::lockclass;

/// The address spaces that map an object, each with how often.
pub(crate) struct Observers {
    list: Mutex<Vec<(Weak<dyn MappingObserver>, usize)>>,
}

impl Observers {
    pub(crate) const fn new() -> Self {
        Self { list: Mutex::new(lockclass::OBSERVERS, Vec::new()) }
    }

    pub(crate) fn attach(&self, observer: &Arc<dyn MappingObserver>) {
        let weak = Arc::downgrade(observer);
        let mut list = self.list.lock();
        match list.iter_mut().find(|(known, _)| known.ptr_eq(&weak)) {
            Some((_, count)) => *count += 1,
            None => list.push((weak, 1)),
        }
    }

    pub(crate) fn detach(&self, observer: &Arc<dyn MappingObserver>) {
        let weak = Arc::downgrade(observer);
        let mut list = self.list.lock();
        if let Some(at) = list.iter().position(|(known, _)| known.ptr_eq(&weak))
            && let Some((_, count)) = list.get_mut(at)
        {
            *count -= 1;
            if *count == 0 {
                list.swap_remove(at);
            }
        }
    }

    /// Whether anyone maps the object.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.lock().is_empty()
    }

    fn tell(&self, object: u64, offset: u64, len: u64, truncated: Truncated) {
        // An observer takes its address space's lock, which stands outside ours: no lock is held here.
        let all: Vec<_> = self.list.lock().iter().filter_map(|(weak, _)| weak.upgrade()).collect();
        for observer in all {
            observer.invalidate(object, offset, len, truncated);
        }
    }

    /// Bytes from `offset` on are gone.
    pub(crate) fn truncated(&self, object: u64, offset: u64, len: u64) {
        self.tell(object, offset, len, Truncated::Yes);
    }
}
