//! Text whose system calls do not trap: per executable file, copies of the runs that hold hot `syscall` instructions, with
//! these turned into jumps ([`arch::x86_64::patch`]), and the slots they jump to. Shared by all processes of a sandbox and
//! kept for later ones.
//!
//! ```text
//! address space:  | text | rodata | data | bss |     ...     | slots |        slots: a hidden mapping far from the file's own
//! memory file:      └ some runs: copies with jumps              └ one area per file
//! ```
//! - A site is known only because it was executed; after [`THRESHOLD`] traps it is patched. A hostile program may execute the
//!   middle of an instruction, so processes learn only from those with the same credentials ([`Learner`]).
//! - The slots lie at the same distance from the text in every process, so that the copies are the same everywhere: that
//!   distance is part of the key. Where there is no room for them, or the guest touches them, text stays as it is.
//! - Copies are never changed once mapped: one more site makes a new copy of its run. No code is modified under a thread.
//! - What has not changed for a while is joined: neighbouring copies, and the file's text between them, become one copy, for
//!   each mapping costs every process that begins or ends.
//! - What is patched is private, executable, not writable, and in a host file; the key holds the file's identity and times.
//!   The kernel's own reads (`/proc/[pid]/mem`, write(2)) see the file.
//!
//! **Locks.** An image's lock is taken inside that of an address space, the map's alone.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use arch::x86_64::patch::{JUMP_LEN, SITE_WINDOW, SLOT_CALLED, SLOT_MAX, Site, Slot, jump};
use hashbrown::HashMap;
use sync::{LockClass, Mutex};
use usermem::host::FileIdentity;
use usermem::memfile::MemoryFile;
use usermem::{Addr, PAGE_SIZE};

use crate::pool::Pool;

/// Text is copied in aligned runs of this size.
pub(crate) const TEXT_RUN: u64 = 8 * PAGE_SIZE;

/// Size of a file's slots: every second byte of a displacement occurs once, so that each site finds legal ones.
pub(crate) const SLOTS_LEN: u64 = 64 << 10;

/// Processes that take over an image's copies as they are, after which these are joined.
const SETTLED: u32 = 8;

/// Longest piece of the file's own text between two copies that are joined, and longest joined copy.
const MOST_BETWEEN: u64 = 512 << 10;
const MOST_JOINED: u64 = 2 << 20;

/// Traps after which a site is patched.
const THRESHOLD: u8 = 8;

/// Most files that are remembered.
const MAX_IMAGES: usize = 256;

/// Most sites that are remembered of a file.
const MAX_SITES: usize = 4096;

/// `rt_sigreturn` never returns to its site.
const RT_SIGRETURN: u64 = 15;

const IMAGES: LockClass = LockClass::new("mm.text images", 30_010);
const IMAGE: LockClass = LockClass::new("mm.text image", 30_020);

/// Slots of 256 bytes, in which the second byte of a displacement is the same or the next.
const WINDOW: u32 = 256;
const WINDOWS: usize = (SLOTS_LEN / WINDOW as u64) as usize;

/// Where the entry's address lies in the slots.
const ENTRY: u32 = 0;

/// Credentials with which a program teaches others what is a call site, and learns from them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Learner {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Permitted capabilities.
    pub capabilities: u64,
}

/// What patched text an address space shares, and with whom.
#[derive(Clone, Debug)]
pub struct SharedText {
    /// The sandbox's.
    pub cache: Arc<TextCache>,
    /// Who it was when the program started: it teaches only as long as it still is.
    pub learner: Learner,
    /// The program has more rights than who started it (AT_SECURE), whose other programs do not teach it.
    pub secure: bool,
}

/// Which text: a file in a state, the distance from its first byte to its slots, and whose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key {
    pub(crate) file: FileIdentity,
    pub(crate) distance: u64,
    pub(crate) learner: Learner,
    pub(crate) secure: bool,
}

/// The patched text of a sandbox.
pub struct TextCache {
    pool: Pool,
    entry: Addr,
    images: Mutex<Images>,
}

#[derive(Default)]
struct Images {
    map: HashMap<Key, (u64, Arc<Image>)>,
    clock: u64,
}

impl TextCache {
    /// An empty cache. Patched sites will jump to `entry` ([`usermem::platform::Platform::call_entry`]).
    pub fn new(memory: Arc<MemoryFile>, entry: Addr) -> Arc<Self> {
        Arc::new(Self { pool: Pool::new(memory), entry, images: Mutex::new(IMAGES, Images::default()) })
    }

    /// What is known of a text.
    pub(crate) fn image(&self, key: Key) -> Arc<Image> {
        let mut images = self.images.lock();
        images.clock += 1;
        let clock = images.clock;
        if let Some((used, image)) = images.map.get_mut(&key) {
            *used = clock;
            return Arc::clone(image);
        }
        if images.map.len() >= MAX_IMAGES
            && let Some(oldest) = images.map.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key)
        {
            images.map.remove(&oldest);
        }
        let image = Arc::new(Image {
            pool: self.pool.clone(),
            entry: self.entry,
            distance: key.distance,
            state: Mutex::new(IMAGE, Known::default()),
        });
        images.map.insert(key, (clock, Arc::clone(&image)));
        image
    }
}

impl std::fmt::Debug for TextCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextCache").field("entry", &self.entry).finish_non_exhaustive()
    }
}

/// What is known of one text.
pub(crate) struct Image {
    pool: Pool,
    entry: Addr,
    distance: u64,
    state: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Where the slots are in the memory file, once there are any.
    slots: Option<u64>,
    /// Bytes taken of each window of the slots.
    taken: Vec<u16>,
    /// By offset in the file.
    sites: BTreeMap<u64, SiteState>,
    /// By offset in the slots.
    patched: BTreeMap<u32, Patched>,
    /// The current copies, by offset in the file; whole runs of [`TEXT_RUN`].
    runs: BTreeMap<u64, Run>,
    /// How often they were taken over since one of them changed.
    uses: u32,
    /// How often some of them were joined.
    joins: u32,
}

/// A copy of a part of the file.
#[derive(Clone, Copy, Debug)]
struct Run {
    len: u64,
    /// Where it is in the memory file.
    copy: u64,
}

/// A copy of a part of the file, to take over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Copied {
    /// Offset in the file.
    pub(crate) start: u64,
    pub(crate) len: u64,
    /// Offset in the memory file.
    pub(crate) copy: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SiteState {
    /// It has trapped so often.
    Seen(u8),
    /// It stays as it is.
    Never,
    /// It jumps to the slot at this offset.
    Patched(u32),
}

/// A site and its slot.
#[derive(Clone, Copy, Debug)]
struct Patched {
    site: u64,
    /// Bytes from the site to the instruction behind the displaced one.
    len: u64,
    /// Bytes from the slot's start to the jump back, and to its end.
    tail: u32,
    end: u32,
    /// The second displaced instruction, if there is one: bytes to it from the site, and from the slot's start.
    second: Option<(u64, u32)>,
    /// The file's bytes from the site on.
    code: [u8; SITE_WINDOW],
}

/// An instruction that a jump has displaced.
pub(crate) struct Displaced {
    /// Offset of its copy in the slots.
    pub(crate) copy: u64,
    code: [u8; SITE_WINDOW],
    start: usize,
    end: usize,
}

impl Displaced {
    /// The file's bytes from it to the last displaced instruction's end.
    pub(crate) fn code(&self) -> &[u8] {
        self.code.get(self.start..self.end).unwrap_or_default()
    }
}

/// What a trap at a site means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trapped {
    /// Not yet.
    Counted,
    /// It will always trap.
    Settled,
    /// It is patched in the copy of its run.
    Patched,
}

impl Image {
    /// A site at `offset` in the file has trapped with call number `nr`. At the threshold it is patched, out of `source`.
    pub(crate) fn trapped(&self, offset: u64, nr: u64, source: &OwnedFd) -> Trapped {
        let mut known = self.state.lock();
        let seen = match known.sites.get(&offset) {
            Some(SiteState::Never) => return Trapped::Settled,
            Some(SiteState::Patched(_)) => return Trapped::Patched,
            Some(SiteState::Seen(seen)) => seen + 1,
            None if known.sites.len() >= MAX_SITES || nr == RT_SIGRETURN => return Trapped::Settled,
            None => 1,
        };
        if seen < THRESHOLD {
            known.sites.insert(offset, SiteState::Seen(seen));
            return Trapped::Counted;
        }
        if self.pool.is_full() {
            return Trapped::Counted;
        }
        if known.patch(self, offset, source).is_none() {
            known.sites.insert(offset, SiteState::Never);
            return Trapped::Settled;
        }
        Trapped::Patched
    }

    /// One more process has the copies as they are. When enough have, they are joined, with bytes of the file that `source`
    /// opens. Says how often that has happened.
    pub(crate) fn settle(&self, source: impl FnOnce() -> Option<Arc<OwnedFd>>) -> u32 {
        let mut known = self.state.lock();
        known.uses = known.uses.saturating_add(1);
        if known.uses == SETTLED
            && let Some(source) = source()
        {
            known.join(&self.pool, &source);
        }
        known.joins
    }

    /// The copies of runs of `[start, end)` of the file; the caller owns a reference on each.
    pub(crate) fn runs(&self, start: u64, end: u64) -> Vec<Copied> {
        let known = self.state.lock();
        let before = known.runs.range(..end.max(start)).rev();
        let mut found: Vec<Copied> = before
            .take_while(|(at, run)| *at + run.len > start)
            .map(|(at, run)| Copied { start: *at, len: run.len, copy: run.copy })
            .filter(|run| self.pool.inc_ref(run.copy, run.len).is_ok())
            .collect();
        found.reverse();
        found
    }

    /// Where the slots are in the memory file; the caller owns a reference. `None`: there are none yet.
    pub(crate) fn slots(&self) -> Option<u64> {
        let slots = self.state.lock().slots?;
        self.pool.inc_ref(slots, SLOTS_LEN).ok()?;
        Some(slots)
    }

    /// The offset in the file that code at `offset` in the slots stands for.
    pub(crate) fn stands_for(&self, offset: u64) -> Option<u64> {
        let at = u32::try_from(offset).ok()?;
        let known = self.state.lock();
        let (start, patched) = known.patched.range(..=at).next_back()?;
        let within = at - start;
        Some(match within {
            _ if within >= patched.end => return None,
            _ if within < SLOT_CALLED as u32 => patched.site,
            _ if within >= patched.tail && patched.tail < patched.end => patched.site + patched.len,
            _ => match patched.second {
                Some((from_site, from_slot)) if within >= from_slot => patched.site + from_site,
                _ => patched.site + 2,
            },
        })
    }

    /// The displaced instruction that started at `offset` in the file.
    pub(crate) fn displaced(&self, offset: u64) -> Option<Displaced> {
        let known = self.state.lock();
        let (site, slot) = known.patched_before(offset)?;
        let patched = known.patched.get(&slot)?;
        let within = match (offset - site, patched.second) {
            (2, _) => SLOT_CALLED as u32,
            (from, Some((from_site, from_slot))) if from == from_site => from_slot,
            _ => return None,
        };
        Some(Displaced {
            copy: u64::from(slot) + u64::from(within),
            code: patched.code,
            start: usize::try_from(offset - site).ok()?,
            end: usize::try_from(patched.len).ok()?,
        })
    }
}

impl Known {
    /// The patched site before `offset` whose jump ends behind it, and its slot.
    fn patched_before(&self, offset: u64) -> Option<(u64, u32)> {
        let from = offset.saturating_sub(JUMP_LEN as u64 - 1);
        self.sites.range(from..offset).find_map(|(site, state)| match state {
            SiteState::Patched(slot) => Some((*site, *slot)),
            _ => None,
        })
    }

    /// Makes a slot for the site and a copy of its run with all known jumps. `None`: cannot be.
    fn patch(&mut self, image: &Image, offset: u64, source: &OwnedFd) -> Option<()> {
        let run = offset & !(TEXT_RUN - 1);
        let within = offset - run;
        // The jump does not cross a page: neighbouring pages may be copies of different ages, or none.
        if within % PAGE_SIZE + JUMP_LEN as u64 > PAGE_SIZE {
            return None;
        }
        // Nor do jumps overlap, where code is entered in the middle of what others execute.
        if self.patched_before(offset).or(self.patched_before(offset + JUMP_LEN as u64)).is_some() {
            return None;
        }
        let pool = &image.pool;
        let copy = pool.allocate(TEXT_RUN).ok()?;
        let done = self.fill(image, run, copy, offset, source);
        if done.is_none() {
            pool.dec_ref(copy, TEXT_RUN);
            return None;
        }
        self.cut_out(pool, run);
        self.runs.insert(run, Run { len: TEXT_RUN, copy });
        self.uses = 0;
        Some(())
    }

    /// Gives up the copy of the run at `run`; what it was joined with stays.
    fn cut_out(&mut self, pool: &Pool, run: u64) {
        let Some((start, old)) = self.runs.range(..=run).next_back().map(|(start, old)| (*start, *old)) else { return };
        let (end, old_end) = (run + TEXT_RUN, start + old.len);
        if old_end <= run {
            return;
        }
        self.runs.remove(&start);
        if start < run {
            self.runs.insert(start, Run { len: run - start, copy: old.copy });
        }
        if end < old_end {
            self.runs.insert(end, Run { len: old_end - end, copy: old.copy + (end - start) });
        }
        pool.dec_ref(old.copy + (run - start), TEXT_RUN);
    }

    /// Makes one copy of several where little lies between them. What fails stays as it is.
    fn join(&mut self, pool: &Pool, source: &OwnedFd) {
        let mut groups: Vec<(u64, u64)> = Vec::new();
        for (start, run) in &self.runs {
            let end = start + run.len;
            match groups.last_mut() {
                Some((first, last)) if start - *last <= MOST_BETWEEN && end - *first <= MOST_JOINED => *last = end,
                _ => groups.push((*start, end)),
            }
        }
        for (start, end) in groups {
            let parts: Vec<(u64, Run)> = self.runs.range(start..end).map(|(at, run)| (*at, *run)).collect();
            if parts.len() < 2 {
                continue;
            }
            let Ok(copy) = pool.allocate(end - start) else { return };
            let mut at = start;
            let filled = parts.iter().try_for_each(|(from, run)| {
                pool.read_host(source, at, copy + (at - start), from - at)?;
                at = from + run.len;
                pool.copy(run.copy, copy + (from - start), run.len)
            });
            if filled.is_err() {
                pool.dec_ref(copy, end - start);
                return;
            }
            for (from, run) in parts {
                self.runs.remove(&from);
                pool.dec_ref(run.copy, run.len);
            }
            self.runs.insert(start, Run { len: end - start, copy });
            self.joins = self.joins.wrapping_add(1);
        }
    }

    fn fill(&mut self, image: &Image, run: u64, copy: u64, offset: u64, source: &OwnedFd) -> Option<()> {
        let pool = &image.pool;
        pool.read_host(source, run, copy, TEXT_RUN).ok()?;
        let mut code = [0; SITE_WINDOW];
        let left = TEXT_RUN - (offset - run);
        let len = usize::try_from(left).ok()?.min(SITE_WINDOW);
        pool.read(copy + (offset - run), code.get_mut(..len)?).ok()?;
        let site = Site::decode(code.get(..len)?)?;
        let slots = self.take_slots(image)?;
        let (at, slot) = self.take_slot(image, offset, &site)?;
        pool.write(slots + u64::from(at), slot.bytes()).ok()?;
        let end = u32::try_from(slot.bytes().len()).ok()?;
        let tail = u32::try_from(slot.tail).ok()?;
        let second = site.second().zip(slot.second).map(|(site, slot)| (site as u64, slot as u32));
        self.patched.insert(at, Patched { site: offset, len: site.len() as u64, tail, end, second, code });
        self.sites.insert(offset, SiteState::Patched(at));
        for (site, state) in self.sites.range(run..run + TEXT_RUN) {
            let SiteState::Patched(slot) = state else { continue };
            let jump = jump(*site, image.distance.wrapping_add(u64::from(*slot)))?;
            pool.write(copy + (site - run), &jump).ok()?;
        }
        Some(())
    }

    fn take_slots(&mut self, image: &Image) -> Option<u64> {
        if let Some(slots) = self.slots {
            return Some(slots);
        }
        let slots = image.pool.allocate(SLOTS_LEN).ok()?;
        if image.pool.write(slots + u64::from(ENTRY), &image.entry.0.to_le_bytes()).is_err() {
            image.pool.dec_ref(slots, SLOTS_LEN);
            return None;
        }
        self.taken = vec![0; WINDOWS];
        *self.taken.first_mut()? = 16;
        self.slots = Some(slots);
        Some(slots)
    }

    /// A free slot that the site can jump to, and its code.
    fn take_slot(&mut self, image: &Image, offset: u64, site: &Site) -> Option<(u32, Slot)> {
        let address = |at: u32| image.distance.wrapping_add(u64::from(at));
        for (window, taken) in self.taken.iter_mut().enumerate() {
            let at = u32::try_from(window).ok()? * WINDOW + u32::from(*taken);
            if usize::from(*taken) + SLOT_MAX > WINDOW as usize || site.jump(offset, address(at)).is_none() {
                continue;
            }
            let slot = site.slot(offset, address(at), address(ENTRY))?;
            *taken += u16::try_from(slot.bytes().len()).ok()?.next_multiple_of(8);
            return Some((at, slot));
        }
        None
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let known = self.state.get_mut();
        for run in known.runs.values() {
            self.pool.dec_ref(run.copy, run.len);
        }
        if let Some(slots) = known.slots {
            self.pool.dec_ref(slots, SLOTS_LEN);
        }
    }
}
