//! Descriptor tables: small numbers to open file descriptions (open(2), dup(2), close_range(2)).
//!
//! [`FdMap`] is the pure structure: lowest free number first, one close-on-exec bit per number. [`FdTable`] is a map that
//! tasks share (CLONE_FILES), behind one short lock; a lookup is the lock and one reference count. What is taken out of a
//! table is handed to the caller, so that files are closed without the lock.
//!
//! **Invariants.** `first_free` is not above the lowest free number. No entry is at or past the limit it was installed
//! under. The table never holds its lock while a file is flushed or dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use abi::Errno;
use fs::LockOwner;
use fs::vfs::File;
use sync::Mutex;

use crate::lock::FD_TABLE;

/// Whether exec closes a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CloseOnExec {
    /// It stays open.
    #[default]
    No,
    /// It is closed.
    Yes,
}

/// `fs.nr_open`: RLIMIT_NOFILE can not go beyond.
pub const NR_OPEN: u64 = 1_048_576;

#[derive(Clone, Debug)]
struct Entry<T> {
    file: T,
    cloexec: CloseOnExec,
}

/// Numbers to `T`, lowest free number first.
#[derive(Clone, Debug)]
pub struct FdMap<T> {
    entries: Vec<Option<Entry<T>>>,
    first_free: usize,
    len: usize,
}

impl<T> Default for FdMap<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), first_free: 0, len: 0 }
    }
}

fn index(fd: i32) -> Option<usize> {
    usize::try_from(fd).ok()
}

fn number(at: usize) -> Result<i32, Errno> {
    i32::try_from(at).map_err(|_| Errno::EMFILE)
}

impl<T: Clone> FdMap<T> {
    /// What `fd` is.
    pub fn get(&self, fd: i32) -> Option<&T> {
        self.entry(fd).map(|e| &e.file)
    }

    fn entry(&self, fd: i32) -> Option<&Entry<T>> {
        self.entries.get(index(fd)?)?.as_ref()
    }

    /// Its close-on-exec flag.
    pub fn cloexec(&self, fd: i32) -> Option<CloseOnExec> {
        self.entry(fd).map(|e| e.cloexec)
    }

    /// Sets its close-on-exec flag; says whether there is such a descriptor.
    pub fn set_cloexec(&mut self, fd: i32, cloexec: CloseOnExec) -> Option<()> {
        let entry = self.entries.get_mut(index(fd)?)?.as_mut()?;
        entry.cloexec = cloexec;
        Some(())
    }

    /// Puts `file` at the lowest free number from `min` on. `EMFILE` when that is `limit` or more.
    pub fn insert(&mut self, file: T, min: i32, limit: u64, cloexec: CloseOnExec) -> Result<i32, Errno> {
        let min = index(min).ok_or(Errno::EINVAL)?;
        let at = self.free_from(min);
        if u64::try_from(at).unwrap_or(u64::MAX) >= limit {
            return Err(Errno::EMFILE);
        }
        let fd = number(at)?;
        self.put(at, Entry { file, cloexec })?;
        if min <= self.first_free {
            self.first_free = at + 1;
        }
        Ok(fd)
    }

    /// The lowest free place from `min` on.
    fn free_from(&self, min: usize) -> usize {
        let start = min.max(self.first_free);
        let free = self.entries.iter().enumerate().skip(start).find_map(|(at, e)| e.is_none().then_some(at));
        free.unwrap_or_else(|| self.entries.len().max(start))
    }

    fn put(&mut self, at: usize, entry: Entry<T>) -> Result<Option<T>, Errno> {
        if at >= self.entries.len() {
            let more = at + 1 - self.entries.len();
            self.entries.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
            self.entries.resize_with(at + 1, || None);
        }
        let Some(slot) = self.entries.get_mut(at) else { return Err(Errno::EMFILE) };
        let old = slot.replace(entry).map(|e| e.file);
        if old.is_none() {
            self.len += 1;
        }
        Ok(old)
    }

    /// Puts `file` at `fd`, in place of whatever is there, which is given back. `EBADF` when `fd` is `limit` or more.
    pub fn replace(&mut self, file: T, fd: i32, limit: u64, cloexec: CloseOnExec) -> Result<Option<T>, Errno> {
        let at = index(fd).ok_or(Errno::EBADF)?;
        if u64::try_from(at).unwrap_or(u64::MAX) >= limit {
            return Err(Errno::EBADF);
        }
        self.put(at, Entry { file, cloexec })
    }

    /// Takes `fd` out.
    pub fn remove(&mut self, fd: i32) -> Option<T> {
        let at = index(fd)?;
        let entry = self.entries.get_mut(at)?.take()?;
        self.len -= 1;
        self.first_free = self.first_free.min(at);
        Some(entry.file)
    }

    /// Takes out all in `first..=last`.
    pub fn remove_range(&mut self, first: u32, last: u32) -> Vec<T> {
        self.range(first, last).into_iter().filter_map(|fd| self.remove(fd)).collect()
    }

    /// Sets the flag of all in `first..=last`.
    pub fn set_cloexec_range(&mut self, first: u32, last: u32) {
        for fd in self.range(first, last) {
            let _ = self.set_cloexec(fd, CloseOnExec::Yes);
        }
    }

    fn range(&self, first: u32, last: u32) -> Vec<i32> {
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let last = usize::try_from(last).unwrap_or(usize::MAX);
        let used = self.entries.iter().enumerate().skip(first).take_while(|(at, _)| *at <= last);
        used.filter(|(_, e)| e.is_some()).filter_map(|(at, _)| i32::try_from(at).ok()).collect()
    }

    /// Takes out what exec closes.
    pub fn remove_cloexec(&mut self) -> Vec<T> {
        let numbers = self.numbers();
        let closing = numbers.into_iter().filter(|&fd| self.cloexec(fd) == Some(CloseOnExec::Yes));
        let closing: Vec<_> = closing.collect();
        closing.into_iter().filter_map(|fd| self.remove(fd)).collect()
    }

    /// The numbers in use, ascending.
    pub fn numbers(&self) -> Vec<i32> {
        self.range(0, u32::MAX)
    }

    /// How many are in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Size of the table as `/proc/[pid]/status` says it (FDSize).
    pub fn capacity(&self) -> usize {
        self.entries.len().next_power_of_two().max(64)
    }
}

/// A descriptor table that tasks may share.
pub struct FdTable {
    id: u64,
    map: Mutex<FdMap<Arc<File>>>,
    /// Tasks that use it; others may hold it to look at it. Relaxed counts, but for the last drop: see `release`.
    users: AtomicUsize,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Default for FdTable {
    fn default() -> Self {
        Self::new()
    }
}

impl FdTable {
    /// An empty table.
    pub fn new() -> Self {
        Self::with(FdMap::default())
    }

    fn with(map: FdMap<Arc<File>>) -> Self {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self { id, map: Mutex::new(FD_TABLE, map), users: AtomicUsize::new(1) }
    }

    /// Who owns POSIX locks taken through this table (fcntl(2)).
    pub fn lock_owner(&self) -> LockOwner {
        LockOwner(self.id)
    }

    /// One more task uses it (CLONE_FILES).
    pub(crate) fn add_user(&self) {
        self.users.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether more than one task uses it.
    pub fn is_shared(&self) -> bool {
        self.users.load(Ordering::Relaxed) > 1
    }

    /// A task uses it no more; the last one gets all files to close.
    pub(crate) fn remove_user(&self) -> Vec<Arc<File>> {
        // AcqRel: the last user sees what the others installed; pairs with itself.
        if self.users.fetch_sub(1, Ordering::AcqRel) == 1 { self.remove_all() } else { Vec::new() }
    }

    /// A copy: the same descriptions under the same numbers, as after fork.
    pub fn fork(&self) -> Self {
        Self::with(self.map.lock().clone())
    }

    /// The file `fd`; `EBADF` if there is none.
    pub fn get(&self, fd: i32) -> Result<Arc<File>, Errno> {
        self.map.lock().get(fd).cloned().ok_or(Errno::EBADF)
    }

    /// The file and its close-on-exec flag.
    pub fn get_with_flags(&self, fd: i32) -> Result<(Arc<File>, CloseOnExec), Errno> {
        let map = self.map.lock();
        let file = map.get(fd).cloned().ok_or(Errno::EBADF)?;
        Ok((file, map.cloexec(fd).unwrap_or_default()))
    }

    /// Installs `file` at the lowest free number from `min` on; `EMFILE` past `limit` (RLIMIT_NOFILE).
    pub fn install(&self, file: Arc<File>, min: i32, limit: u64, cloexec: CloseOnExec) -> Result<i32, Errno> {
        self.map.lock().insert(file, min, limit, cloexec)
    }

    /// Whether one more file could be installed now; `EMFILE`.
    pub fn check_room(&self, limit: u64) -> Result<(), Errno> {
        let free = self.map.lock().free_from(0);
        if u64::try_from(free).unwrap_or(u64::MAX) < limit { Ok(()) } else { Err(Errno::EMFILE) }
    }

    /// Installs two files at once (pipe(2), socketpair(2)): both or none.
    pub fn install_pair(&self, files: [Arc<File>; 2], limit: u64, cloexec: CloseOnExec) -> Result<[i32; 2], Errno> {
        let [first, second] = files;
        let mut map = self.map.lock();
        let one = map.insert(first, 0, limit, cloexec)?;
        match map.insert(second, 0, limit, cloexec) {
            Ok(two) => Ok([one, two]),
            Err(e) => {
                let removed = map.remove(one);
                drop(map);
                drop(removed);
                Err(e)
            }
        }
    }

    /// Installs `file` at `fd`; gives back what was there, which the caller closes.
    pub fn replace(
        &self,
        file: Arc<File>,
        fd: i32,
        limit: u64,
        cloexec: CloseOnExec,
    ) -> Result<Option<Arc<File>>, Errno> {
        self.map.lock().replace(file, fd, limit, cloexec)
    }

    /// Takes `fd` out, for the caller to close; `EBADF` if there is none.
    pub fn remove(&self, fd: i32) -> Result<Arc<File>, Errno> {
        self.map.lock().remove(fd).ok_or(Errno::EBADF)
    }

    /// Takes out all in `first..=last` (close_range(2)).
    pub fn remove_range(&self, first: u32, last: u32) -> Vec<Arc<File>> {
        self.map.lock().remove_range(first, last)
    }

    /// Marks all in `first..=last` close-on-exec (CLOSE_RANGE_CLOEXEC).
    pub fn set_cloexec_range(&self, first: u32, last: u32) {
        self.map.lock().set_cloexec_range(first, last);
    }

    /// `F_SETFD`.
    pub fn set_cloexec(&self, fd: i32, cloexec: CloseOnExec) -> Result<(), Errno> {
        self.map.lock().set_cloexec(fd, cloexec).ok_or(Errno::EBADF)
    }

    /// Takes out what exec closes.
    pub fn remove_cloexec(&self) -> Vec<Arc<File>> {
        self.map.lock().remove_cloexec()
    }

    /// Takes out everything.
    fn remove_all(&self) -> Vec<Arc<File>> {
        self.map.lock().remove_range(0, u32::MAX)
    }

    /// The numbers in use, ascending.
    pub fn numbers(&self) -> Vec<i32> {
        self.map.lock().numbers()
    }

    /// Size as `/proc/[pid]/status` says it.
    pub fn capacity(&self) -> usize {
        self.map.lock().capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::{CloseOnExec, FdMap};
    use abi::Errno;

    const LIMIT: u64 = 16;

    fn map(n: i32) -> FdMap<i32> {
        let mut map = FdMap::default();
        for i in 0..n {
            assert_eq!(map.insert(i, 0, LIMIT, CloseOnExec::No), Ok(i));
        }
        map
    }

    #[test]
    fn the_lowest_free_number_is_taken() {
        let mut m = map(5);
        assert_eq!(m.remove(1), Some(1));
        assert_eq!(m.remove(3), Some(3));
        assert_eq!(m.insert(10, 0, LIMIT, CloseOnExec::No), Ok(1));
        assert_eq!(m.insert(11, 0, LIMIT, CloseOnExec::No), Ok(3));
        assert_eq!(m.insert(12, 0, LIMIT, CloseOnExec::No), Ok(5));
    }

    #[test]
    fn a_minimum_leaves_lower_numbers_free() {
        let mut m = map(2);
        assert_eq!(m.insert(7, 10, LIMIT, CloseOnExec::Yes), Ok(10));
        assert_eq!(m.insert(8, 10, LIMIT, CloseOnExec::No), Ok(11));
        assert_eq!(m.insert(9, 0, LIMIT, CloseOnExec::No), Ok(2));
        assert_eq!(m.cloexec(10), Some(CloseOnExec::Yes));
        assert_eq!(m.insert(9, -1, LIMIT, CloseOnExec::No), Err(Errno::EINVAL));
    }

    #[test]
    fn the_limit_holds_and_full_tables_say_so() {
        let mut m = map(16);
        assert_eq!(m.insert(0, 0, LIMIT, CloseOnExec::No), Err(Errno::EMFILE));
        assert_eq!(m.insert(0, 16, LIMIT, CloseOnExec::No), Err(Errno::EMFILE));
        assert_eq!(m.replace(0, 16, LIMIT, CloseOnExec::No), Err(Errno::EBADF));
        assert_eq!(m.replace(40, 15, LIMIT, CloseOnExec::No), Ok(Some(15)));
        assert_eq!(m.len(), 16);
    }

    #[test]
    fn ranges_and_close_on_exec() {
        let mut m = map(6);
        m.set_cloexec_range(4, u32::MAX);
        assert_eq!(m.remove_range(1, 2), [1, 2]);
        assert_eq!(m.remove_cloexec(), [4, 5]);
        assert_eq!(m.numbers(), [0, 3]);
        assert_eq!(m.insert(1, 0, LIMIT, CloseOnExec::No), Ok(1));
    }

    #[test]
    fn against_a_model() {
        // Deterministic pseudo-random walk compared with a sorted map.
        let mut model = std::collections::BTreeMap::new();
        let mut m: FdMap<u64> = FdMap::default();
        let mut x = 88172645463325252_u64;
        for _ in 0..20_000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let fd = i32::try_from((x >> 8) % 20).unwrap();
            match x % 3 {
                0 => {
                    let want = (fd / 2..16).find(|n| !model.contains_key(n));
                    let got = m.insert(x, fd / 2, LIMIT, CloseOnExec::No);
                    assert_eq!(got.ok(), want);
                    if let Some(n) = want {
                        model.insert(n, x);
                    }
                }
                1 => assert_eq!(m.remove(fd), model.remove(&fd)),
                _ => {
                    if fd < 16 {
                        assert_eq!(m.replace(x, fd, LIMIT, CloseOnExec::No), Ok(model.insert(fd, x)));
                    }
                }
            }
            assert_eq!(m.len(), model.len());
        }
        assert_eq!(m.numbers(), model.keys().copied().collect::<Vec<_>>());
    }
}
