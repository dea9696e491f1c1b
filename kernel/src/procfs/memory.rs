//! A process's memory, mapping by mapping: `maps`, `smaps`, `smaps_rollup`, `numa_maps`, `pagemap`, `clear_refs`.
//!
//! Who may open them, [`super::process`] has asked.

use std::fmt::Write as _;
use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use auth::{Gid, Uid};
use fs::Context;
use fs::kernfs::{Content, Owned, Special};
use fs::vfs::{File, FileOps, Position};
use mm::{Mm, Sharing, VmaInfo};
use usermem::bytes::IoDst;
use usermem::platform::Prot;
use usermem::{Addr, AddrRange, PAGE_SIZE};

use super::process::Subject;

/// The first line of a mapping in `maps` and `smaps`.
fn map_line(text: &mut String, vma: &VmaInfo) {
    use fs::vfs::{major, minor};
    let bit = |prot, letter| if vma.prot.contains(prot) { letter } else { '-' };
    let start = text.len();
    let _ = write!(
        text,
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {}",
        vma.range.start.0,
        vma.range.end.0,
        bit(Prot::READ, 'r'),
        bit(Prot::WRITE, 'w'),
        bit(Prot::EXEC, 'x'),
        if vma.sharing == Sharing::Shared { 's' } else { 'p' },
        vma.offset,
        major(vma.dev),
        minor(vma.dev),
        vma.ino,
    );
    if !vma.name.is_empty() {
        // The name stands in column 74.
        let width = text.len() - start;
        text.extend(std::iter::repeat_n(' ', 73_usize.saturating_sub(width).max(1)));
        text.push_str(&String::from_utf8_lossy(&vma.name).replace('\n', "\\012"));
    }
    text.push('\n');
}

/// `maps`.
pub(super) fn maps(subject: &Subject, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let mut text = String::new();
    for vma in subject.mm()?.map(|mm| mm.vmas()).unwrap_or_default() {
        map_line(&mut text, &vma);
    }
    Ok(text.into_bytes())
}

/// The figures of a mapping, or of all, in `smaps` and `smaps_rollup`.
fn figures(text: &mut String, rss: u64, anonymous: u64, locked: u64) {
    let kib = |bytes: u64| bytes / 1024;
    let clean = rss.saturating_sub(anonymous);
    for (name, bytes) in [
        ("Rss", rss),
        ("Pss", rss),
        ("Shared_Clean", 0),
        ("Shared_Dirty", 0),
        ("Private_Clean", clean),
        ("Private_Dirty", anonymous),
        ("Referenced", rss),
        ("Anonymous", anonymous),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", locked),
    ] {
        let _ = writeln!(text, "{:<16}{:>8} kB", format!("{name}:"), kib(bytes));
    }
}

/// `smaps`.
pub(super) fn smaps(subject: &Subject, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let mut text = String::new();
    for vma in subject.mm()?.map(|mm| mm.vmas_with_usage()).unwrap_or_default() {
        map_line(&mut text, &vma);
        let _ = writeln!(text, "{:<16}{:>8} kB", "Size:", vma.range.len() / 1024);
        let _ = writeln!(text, "{:<16}{:>8} kB\n{:<16}{:>8} kB", "KernelPageSize:", 4, "MMUPageSize:", 4);
        figures(&mut text, vma.rss, vma.anonymous, if vma.locked { vma.rss } else { 0 });
        let _ = writeln!(text, "VmFlags: {}", vma.vm_flags);
    }
    Ok(text.into_bytes())
}

/// `smaps_rollup`.
pub(super) fn smaps_rollup(subject: &Subject, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let vmas = subject.mm()?.map(|mm| mm.vmas_with_usage()).unwrap_or_default();
    let (Some(first), Some(last)) = (vmas.first(), vmas.last()) else { return Ok(Vec::new()) };
    let mut text = format!("{:08x}-{:08x} ---p 00000000 00:00 0 [rollup]\n", first.range.start.0, last.range.end.0);
    let locked = vmas.iter().filter(|vma| vma.locked).map(|vma| vma.rss).sum();
    figures(&mut text, vmas.iter().map(|vma| vma.rss).sum(), vmas.iter().map(|vma| vma.anonymous).sum(), locked);
    Ok(text.into_bytes())
}

/// `numa_maps`: there is one node.
pub(super) fn numa_maps(subject: &Subject, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let mut text = String::new();
    for vma in subject.mm()?.map(|mm| mm.vmas_with_usage()).unwrap_or_default() {
        let _ = write!(text, "{:08x} default", vma.range.start.0);
        match &*vma.name {
            b"[heap]" => text.push_str(" heap"),
            b"[stack]" => text.push_str(" stack"),
            name if vma.ino != 0 => {
                let _ = write!(text, " file={}", String::from_utf8_lossy(name).replace('\n', "\\012"));
            }
            _ => {}
        }
        let (all, anonymous) = (vma.rss / PAGE_SIZE, vma.anonymous / PAGE_SIZE);
        if anonymous > 0 {
            let _ = write!(text, " anon={anonymous} dirty={anonymous}");
        }
        if all > anonymous {
            let _ = write!(text, " mapped={all}");
        }
        if all > 0 {
            let _ = write!(text, " N0={all} kernelpagesize_kB=4");
        }
        text.push('\n');
    }
    Ok(text.into_bytes())
}

/// `clear_refs`: nobody keeps which pages were used, but the largest resident set begins anew (5).
pub(super) struct ClearRefs {
    pub(super) subject: Subject,
}

impl Owned for ClearRefs {
    fn owner(&self) -> (Uid, Gid) {
        self.subject.ids()
    }
}

impl Content for ClearRefs {
    fn render(&self, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
        Err(Errno::EINVAL)
    }

    fn write(&self, _ctx: &Context<'_>, bytes: &[u8]) -> Result<(), Errno> {
        let text = std::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
        let what: u32 = text.trim().parse().map_err(|_| Errno::EINVAL)?;
        match what {
            1..=4 => {}
            5 => {
                if let Some(mm) = self.subject.mm()? {
                    mm.forget_peak();
                }
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}

/// `pagemap`: eight bytes for each page of the address space. Frame numbers are nobody's to know.
pub(super) struct PageMap {
    pub(super) subject: Subject,
}

impl Owned for PageMap {
    fn owner(&self) -> (Uid, Gid) {
        self.subject.ids()
    }
}

impl Special for PageMap {
    fn open(&self, ctx: &Context<'_>, _flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
        self.subject.inspect(ctx)?;
        Ok(Arc::new(OpenPageMap { mm: self.subject.mm()? }))
    }
}

struct OpenPageMap {
    mm: Option<Arc<Mm>>,
}

const ENTRY: u64 = 8;
/// Pages of which a read learns at once.
const PAGES_AT_ONCE: u64 = 4096;
const PRESENT: u64 = 1 << 63;
/// Of a file, or shared.
const OF_FILE: u64 = 1 << 61;
const EXCLUSIVE: u64 = 1 << 56;

impl FileOps for OpenPageMap {
    fn position(&self) -> Position {
        Position::Offsets
    }

    fn read(&self, _ctx: &Context<'_>, _file: &File, dst: &mut dyn IoDst, offset: u64) -> Result<usize, Errno> {
        let Some(mm) = &self.mm else { return Ok(0) };
        // Offsets and lengths are whole entries.
        if !offset.is_multiple_of(ENTRY) || !(dst.remaining() as u64).is_multiple_of(ENTRY) {
            return Err(Errno::EINVAL);
        }
        let first = offset / ENTRY;
        let last = mm.user_range().end.0 / PAGE_SIZE;
        let count = (dst.remaining() as u64 / ENTRY).min(last.saturating_sub(first)).min(PAGES_AT_ONCE);
        let start = first.saturating_mul(PAGE_SIZE);
        let range = AddrRange { start: Addr(start), end: Addr(start.saturating_add(count.saturating_mul(PAGE_SIZE))) };
        let pages = mm.present_pages(range);
        let entry = |page: &mm::PageState| match page {
            mm::PageState::Absent => 0,
            mm::PageState::Private => PRESENT | EXCLUSIVE,
            mm::PageState::Shared => PRESENT | OF_FILE,
        };
        let bytes: Vec<u8> = pages.iter().flat_map(|page| entry(page).to_le_bytes()).collect();
        dst.put(&bytes)
    }
}
