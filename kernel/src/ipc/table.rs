//! Objects by id and by key.

use abi::Errno;
use auth::Creds;

use super::perm::{Existing, Perm, Wanted};

/// Most objects of a family; an id is a slot's index plus a multiple of this.
pub const IPCMNI: i32 = 32_768;

/// Multiples of [`IPCMNI`] that ids are made with.
const GENERATIONS: i32 = i32::MAX / IPCMNI;

/// An object that has a key and permissions.
pub(super) trait Object {
    /// These.
    fn perm(&self) -> &Perm;
}

/// An object as others name it.
#[derive(Clone, Copy, Debug)]
pub struct Named<T> {
    /// Its id.
    pub id: i32,
    /// What is told of it.
    pub info: T,
}

struct Slot<T> {
    id: i32,
    object: T,
}

/// The objects of one family.
pub(super) struct Table<T> {
    slots: Vec<Option<Slot<T>>>,
    generation: i32,
    /// The slot that was filled last: filling it or one before it begins a new generation.
    last: Option<usize>,
    used: usize,
    /// Most objects that may be made, as `/proc/sys/kernel` has it; at most `most`.
    limit: usize,
    most: usize,
    /// The id that the next object is to get, for a restorer (`/proc/sys/kernel/*_next_id`).
    wanted: Option<i32>,
}

/// What `/proc/sys/kernel` shows of a table and lets one change.
pub(super) trait Settings {
    /// Most objects that may be made.
    fn limit(&self) -> usize;

    /// Changes it; those that are there stay. `EINVAL` for more than there can be.
    fn set_limit(&mut self, limit: usize) -> Result<(), Errno>;

    /// The id that the next object is to get, if somebody asked for one.
    fn wanted_id(&self) -> Option<i32>;

    /// Asks that the next object get this id, or one after it if its slot is taken.
    fn want_id(&mut self, id: Option<i32>);
}

impl<T> Settings for Table<T> {
    fn limit(&self) -> usize {
        self.limit
    }

    fn set_limit(&mut self, limit: usize) -> Result<(), Errno> {
        if limit > self.most {
            return Err(Errno::EINVAL);
        }
        self.limit = limit;
        Ok(())
    }

    fn wanted_id(&self) -> Option<i32> {
        self.wanted
    }

    fn want_id(&mut self, id: Option<i32>) {
        self.wanted = id.filter(|&id| id >= 0);
    }
}

impl<T: Object> Table<T> {
    /// An empty one, for at most `most` objects.
    pub(super) const fn new(most: usize) -> Self {
        Self { slots: Vec::new(), generation: 0, last: None, used: 0, limit: most, most, wanted: None }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// The object that `key` names, if there has to be none newly made: `None` means to make one.
    ///
    /// Errors: `ENOENT`, `EEXIST`; `EINVAL` if it does not do for `fits`; `EACCES`.
    pub(super) fn find(
        &self,
        key: i32,
        existing: Existing,
        mode: u32,
        creds: &Creds,
        fits: impl Fn(&T) -> bool,
    ) -> Result<Option<i32>, Errno> {
        if key == abi::ipc::IPC_PRIVATE {
            return Ok(None);
        }
        let Some(slot) = self.slots.iter().flatten().find(|slot| slot.object.perm().key == key) else {
            return if existing == Existing::Needed { Err(Errno::ENOENT) } else { Ok(None) };
        };
        if existing == Existing::Refused {
            return Err(Errno::EEXIST);
        }
        if !fits(&slot.object) {
            return Err(Errno::EINVAL);
        }
        slot.object.perm().check(creds, Wanted::Mode(mode & 0o777))?;
        Ok(Some(slot.id))
    }

    /// Adds an object; `ENOSPC` when there are as many as may be. `make` gets its id.
    pub(super) fn insert(&mut self, make: impl FnOnce(i32) -> T) -> Result<i32, Errno> {
        if self.used >= self.limit {
            return Err(Errno::ENOSPC);
        }
        let wanted = self.wanted.take();
        let first = wanted.map_or(Ok(0), index)?;
        let free = self.slots.iter().skip(first).position(Option::is_none).and_then(|at| at.checked_add(first));
        let index = free.unwrap_or(self.slots.len().max(first));
        let base = i32::try_from(index).ok().filter(|&index| index < IPCMNI).ok_or(Errno::ENOSPC)?;
        let generation = if let Some(id) = wanted {
            id / IPCMNI
        } else {
            if self.last.is_some_and(|last| index <= last) {
                self.generation = (self.generation + 1) % GENERATIONS;
            }
            self.last = Some(index);
            self.generation
        };
        let id = generation * IPCMNI + base;
        if self.slots.len() < index {
            self.slots.resize_with(index, || None);
        }
        let slot = Some(Slot { id, object: make(id) });
        match self.slots.get_mut(index) {
            Some(empty) => *empty = slot,
            None => self.slots.push(slot),
        }
        self.used += 1;
        Ok(id)
    }

    /// The object with this id; `EINVAL`.
    pub(super) fn get(&mut self, id: i32) -> Result<&mut T, Errno> {
        let index = index(id)?;
        let slot = self.slots.get_mut(index).and_then(Option::as_mut).filter(|slot| slot.id == id);
        slot.map(|slot| &mut slot.object).ok_or(Errno::EINVAL)
    }

    /// The object in a slot, and its id; `EINVAL`. For `*_STAT`.
    pub(super) fn at(&mut self, index: i32) -> Result<(i32, &mut T), Errno> {
        let index = usize::try_from(index).map_err(|_| Errno::EINVAL)?;
        let slot = self.slots.get_mut(index).and_then(Option::as_mut).ok_or(Errno::EINVAL)?;
        Ok((slot.id, &mut slot.object))
    }

    /// Takes an object out; `EINVAL`.
    pub(super) fn remove(&mut self, id: i32) -> Result<T, Errno> {
        let index = index(id)?;
        let slot = self.slots.get_mut(index).ok_or(Errno::EINVAL)?;
        let taken = slot.take_if(|slot| slot.id == id).ok_or(Errno::EINVAL)?;
        self.used = self.used.saturating_sub(1);
        Ok(taken.object)
    }

    /// Takes out those for which `keep` says no.
    pub(super) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        for slot in &mut self.slots {
            if slot.take_if(|slot| !keep(&slot.object)).is_some() {
                self.used = self.used.saturating_sub(1);
            }
        }
    }

    /// All of them with their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (i32, &T)> {
        self.slots.iter().flatten().map(|slot| (slot.id, &slot.object))
    }

    /// The index of the last slot in use; 0 when there is none.
    pub(super) fn last_index(&self) -> i32 {
        let last = self.slots.iter().rposition(Option::is_some).unwrap_or(0);
        i32::try_from(last).unwrap_or(i32::MAX)
    }
}

fn index(id: i32) -> Result<usize, Errno> {
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    usize::try_from(id % IPCMNI).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use abi::Errno;
    use auth::Creds;

    use super::super::perm::{Existing, Perm};
    use super::{IPCMNI, Object, Settings as _, Table};

    struct Thing(Perm);

    impl Object for Thing {
        fn perm(&self) -> &Perm {
            &self.0
        }
    }

    fn thing(key: i32) -> Thing {
        Thing(Perm::new(key, 0o600, &Creds::root()))
    }

    #[test]
    fn an_id_is_not_given_again_at_once() {
        let mut table = Table::new(9);
        assert_eq!(table.insert(|_| thing(0)), Ok(0));
        assert_eq!(table.insert(|_| thing(0)), Ok(1));
        table.remove(0).unwrap();
        assert_eq!(table.insert(|_| thing(0)), Ok(IPCMNI));
        assert!(table.get(0).is_err() && table.get(-1).is_err() && table.get(IPCMNI).is_ok());
        assert_eq!((table.set_limit(10), table.set_limit(2)), (Err(Errno::EINVAL), Ok(())));
        assert_eq!(table.insert(|_| thing(0)), Err(Errno::ENOSPC));
        assert_eq!((table.len(), table.last_index()), (2, 1));
    }

    #[test]
    fn an_id_is_given_on_request() {
        let mut table = Table::new(9);
        table.want_id(Some(3 * IPCMNI + 5));
        assert_eq!(table.wanted_id(), Some(3 * IPCMNI + 5));
        assert_eq!(table.insert(|_| thing(0)), Ok(3 * IPCMNI + 5));
        assert_eq!((table.wanted_id(), table.insert(|_| thing(0))), (None, Ok(0)));
        // A taken one is not given twice.
        table.want_id(Some(3 * IPCMNI + 5));
        assert_eq!(table.insert(|_| thing(0)), Ok(3 * IPCMNI + 6));
        table.want_id(Some(i32::MAX));
        assert_eq!(table.insert(|_| thing(0)), Ok(i32::MAX));
        table.want_id(Some(i32::MAX));
        assert_eq!(table.insert(|_| thing(0)), Err(Errno::ENOSPC));
        table.want_id(Some(-1));
        assert_eq!(table.insert(|_| thing(0)), Ok(1));
    }

    #[test]
    fn keys_are_found_made_or_refused() {
        let mut table = Table::new(9);
        let root = Creds::root();
        let find = |table: &Table<Thing>, existing| table.find(7, existing, 0, &root, |_| true);
        assert_eq!(find(&table, Existing::Needed), Err(Errno::ENOENT));
        assert_eq!(find(&table, Existing::Welcome), Ok(None));
        let id = table.insert(|_| thing(7)).unwrap();
        assert_eq!(find(&table, Existing::Needed), Ok(Some(id)));
        assert_eq!(find(&table, Existing::Refused), Err(Errno::EEXIST));
        assert_eq!(table.find(7, Existing::Needed, 0, &root, |_| false), Err(Errno::EINVAL));
        assert_eq!(table.find(0, Existing::Refused, 0, &root, |_| true), Ok(None));
    }
}
