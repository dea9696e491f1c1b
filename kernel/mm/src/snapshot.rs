//! What `/proc/[pid]/maps`, `smaps`, `statm` and `status` show.

use usermem::platform::Prot;
use usermem::{Addr, AddrRange, PAGE_SIZE};

use crate::Sharing;
use crate::mm::Mm;
use crate::pma::Place;
use crate::state::State;
use crate::vma::{Vma, VmaFlags};

/// One line of `/proc/[pid]/maps`.
#[derive(Clone, Debug)]
pub struct VmaInfo {
    /// Addresses.
    pub range: AddrRange,
    /// Protection as asked for.
    pub prot: Prot,
    /// Private or shared.
    pub sharing: Sharing,
    /// Offset in the file; 0 if there is none.
    pub offset: u64,
    /// Device number of the file; 0 if there is none.
    pub dev: u64,
    /// Inode number of the file; 0 if there is none.
    pub ino: u64,
    /// Path of the file, or a name like `[stack]`; may be empty.
    pub name: Vec<u8>,
    /// `VmFlags` of smaps: two letters each, with spaces.
    pub vm_flags: String,
    /// Bytes present, as [`Mm::vmas_with_usage`] counts them, else 0.
    pub rss: u64,
    /// Of these, private copies and anonymous pages.
    pub anonymous: u64,
    /// Locked.
    pub locked: bool,
}

/// What is at a page, as `/proc/[pid]/pagemap` tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageState {
    /// Nothing yet.
    Absent,
    /// A page of the process's own.
    Private,
    /// A file's, or shared memory's.
    Shared,
}

/// Sums in bytes, for `/proc/[pid]/statm` and `status`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct MemoryStat {
    /// All that is mapped: VmSize.
    pub total: u64,
    /// Private, writable, no stack: VmData.
    pub data: u64,
    /// Stacks: VmStk.
    pub stack: u64,
    /// Executable: VmExe and VmLib.
    pub exec: u64,
    /// Locked: VmLck.
    pub locked: u64,
    /// Present: VmRSS.
    pub rss: u64,
    /// The most that has been seen of `rss`, here and at earlier looks: VmHWM, `ru_maxrss`.
    pub peak_rss: u64,
    /// Of these, anonymous: RssAnon.
    pub anonymous: u64,
    /// Of these, of shared memory and files in memory: RssShmem.
    pub shmem: u64,
    /// The most that was mapped: VmPeak.
    pub peak_total: u64,
    /// Number of mappings.
    pub count: usize,
}

impl Mm {
    /// All mappings, in order of address.
    pub fn vmas(&self) -> Vec<VmaInfo> {
        let found: Vec<_> = {
            let state = self.lock();
            state.visible().map(|(range, vma)| Found::new(range, vma)).collect()
        };
        // Names are asked for without the lock: files have locks of their own.
        found.into_iter().map(Found::describe).collect()
    }

    /// As [`Mm::vmas`], with the bytes present counted.
    pub fn vmas_with_usage(&self) -> Vec<VmaInfo> {
        let found: Vec<_> = {
            let state = self.lock();
            let find = |(range, vma): (AddrRange, &Vma)| {
                let (rss, anonymous) = state.present(range);
                Found { rss, anonymous, ..Found::new(range, vma) }
            };
            state.visible().map(find).collect()
        };
        found.into_iter().map(Found::describe).collect()
    }

    /// The mapping that holds `addr`.
    pub fn vma_at(&self, addr: Addr) -> Option<VmaInfo> {
        let state = self.lock();
        let found = state.vmas.get(addr).filter(|(_, vma)| !vma.flags.contains(VmaFlags::HIDDEN));
        let found = found.map(|(range, vma)| Found::new(range, vma));
        drop(state);
        found.map(Found::describe)
    }

    /// The sums.
    pub fn stat(&self) -> MemoryStat {
        let mut state = self.lock();
        let (rss, anonymous) = state.present(state.layout.user);
        let shmem = state.shared_present(state.layout.user);
        state.peak_rss = state.peak_rss.max(rss);
        let usage = state.usage;
        MemoryStat {
            total: usage.total,
            data: usage.data,
            stack: usage.stack,
            exec: usage.exec,
            locked: usage.locked,
            rss,
            peak_rss: state.peak_rss,
            anonymous,
            shmem,
            peak_total: usage.peak_total,
            count: state.visible().count(),
        }
    }

    /// Addresses that programs may have.
    pub fn user_range(&self) -> AddrRange {
        self.lock().layout.user
    }

    /// The largest resident set begins anew, with what is present now.
    pub fn forget_peak(&self) {
        self.lock().peak_rss = 0;
    }

    /// What is at each page of `range`, which the caller bounds.
    pub fn present_pages(&self, range: AddrRange) -> Vec<PageState> {
        let count = usize::try_from(range.len() / PAGE_SIZE).unwrap_or(0);
        let mut pages = vec![PageState::Absent; count];
        let mut mark = |piece: AddrRange, what: PageState| {
            let from = piece.start.0.saturating_sub(range.start.0) / PAGE_SIZE;
            let len = piece.len() / PAGE_SIZE;
            let (Ok(from), Ok(len)) = (usize::try_from(from), usize::try_from(len)) else { return };
            for page in pages.iter_mut().skip(from).take(len) {
                *page = what;
            }
        };
        let state = self.lock();
        for (piece, installed) in state.installed.within(range) {
            if !matches!(installed.place, Place::Zero) {
                mark(piece, PageState::Shared);
            }
        }
        for (piece, _) in state.pmas.within(range).filter(|(_, pma)| !pma.text) {
            mark(piece, PageState::Private);
        }
        pages
    }

    /// Bytes mapped in all.
    pub fn total(&self) -> u64 {
        self.lock().usage.total
    }
}

/// A mapping before its file is asked for its name.
struct Found {
    range: AddrRange,
    vma: Vma,
    rss: u64,
    anonymous: u64,
}

impl Found {
    fn new(range: AddrRange, vma: &Vma) -> Self {
        Self { range, vma: vma.clone(), rss: 0, anonymous: 0 }
    }

    fn describe(self) -> VmaInfo {
        let Self { range, vma, rss, anonymous } = self;
        let (offset, dev, ino, name) = match &vma.file {
            Some(file) if vma.label.is_empty() => (file.offset, file.file.dev(), file.file.ino(), file.file.path()),
            _ if vma.label.is_empty() && vma.flags.contains(VmaFlags::STACK) => (0, 0, 0, b"[stack]".to_vec()),
            _ => (0, 0, 0, vma.label.as_bytes().to_vec()),
        };
        VmaInfo {
            range,
            prot: vma.prot,
            sharing: vma.sharing,
            offset,
            dev,
            ino,
            name,
            vm_flags: vm_flags(&vma),
            rss,
            anonymous,
            locked: vma.flags.contains(VmaFlags::LOCKED),
        }
    }
}

impl State {
    /// What the guest may know of.
    fn visible(&self) -> impl Iterator<Item = (AddrRange, &Vma)> {
        self.vmas.iter().filter(|(_, vma)| !vma.flags.contains(VmaFlags::HIDDEN))
    }

    /// Bytes present in `range`, and those of them that are private pages.
    fn present(&self, range: AddrRange) -> (u64, u64) {
        let anonymous: u64 = self.pmas.within(range).filter(|(_, pma)| !pma.text).map(|(piece, _)| piece.len()).sum();
        // What is mapped of files is taken as present.
        let files: u64 = self
            .installed
            .within(range)
            .filter(|(piece, installed)| match installed.place {
                Place::Host { .. } => true,
                Place::Memory { .. } => !self.pmas.overlaps(*piece),
                Place::Zero => false,
            })
            .map(|(piece, _)| piece.len())
            .sum();
        (anonymous.saturating_add(files), anonymous)
    }

    /// Bytes present in `range` of shared memory and of files in memory.
    fn shared_present(&self, range: AddrRange) -> u64 {
        let shared =
            |piece: AddrRange, place: &Place| matches!(place, Place::Memory { .. }) && !self.pmas.overlaps(piece);
        let pieces = self.installed.within(range).filter(|(piece, installed)| shared(*piece, &installed.place));
        pieces.map(|(piece, _)| piece.len()).sum()
    }
}

/// The two-letter names of `proc_pid_smaps(5)`.
fn vm_flags(vma: &Vma) -> String {
    let shared = !vma.is_private();
    let table = [
        (vma.prot.contains(Prot::READ), "rd"),
        (vma.prot.contains(Prot::WRITE), "wr"),
        (vma.prot.contains(Prot::EXEC), "ex"),
        (shared, "sh"),
        (vma.max_prot.contains(Prot::READ), "mr"),
        (vma.max_prot.contains(Prot::WRITE), "mw"),
        (vma.max_prot.contains(Prot::EXEC), "me"),
        (shared, "ms"),
        (vma.flags.contains(VmaFlags::GROWSDOWN), "gd"),
        (vma.flags.contains(VmaFlags::LOCKED), "lo"),
        (vma.flags.contains(VmaFlags::SEQUENTIAL), "sr"),
        (vma.flags.contains(VmaFlags::RANDOM), "rr"),
        (vma.flags.contains(VmaFlags::DONTFORK), "dc"),
        (vma.flags.contains(VmaFlags::SPECIAL), "de"),
        (!vma.flags.contains(VmaFlags::NORESERVE) && vma.is_private_writable(), "ac"),
        (vma.flags.contains(VmaFlags::NORESERVE), "nr"),
        (vma.flags.contains(VmaFlags::WIPEONFORK), "wf"),
        (vma.flags.contains(VmaFlags::DONTDUMP), "dd"),
        (vma.flags.contains(VmaFlags::HUGEPAGE), "hg"),
        (vma.flags.contains(VmaFlags::NOHUGEPAGE), "nh"),
        (vma.flags.contains(VmaFlags::SEALED), "sl"),
    ];
    let mut text = String::new();
    for (set, name) in table {
        if set {
            text.push_str(name);
            text.push(' ');
        }
    }
    text
}
