//! Memory devices (`null(4)`, `random(4)`) and the layout of `/dev`.
//!
//! Terminals are kernel's: it registers their numbers in [`Devices`]; until it does, opening their nodes is `ENXIO`.

use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use usermem::bytes::{IoDst, IoSrc};
use usermem::memmap::Mappable;
use usermem::safecopy;

use crate::Context;
use crate::anon::SharedMemory;
use crate::vfs::{
    At, DeviceKind, DeviceOpener, Devices, File, FileOps, LookupFlags, NodeKind, Path, Position, makedev, minor,
};

/// Major number of the memory devices.
const MEM_MAJOR: u32 = 1;
/// Major number of `/dev/tty` and `/dev/console`.
const TTYAUX_MAJOR: u32 = 5;
/// Most bytes of randomness fetched at once.
const RANDOM_STEP: usize = 256;

/// The memory devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Null,
    Zero,
    Full,
    Random,
}

impl Kind {
    const fn of_minor(minor: u32) -> Option<Self> {
        match minor {
            3 => Some(Self::Null),
            5 => Some(Self::Zero),
            7 => Some(Self::Full),
            8 | 9 => Some(Self::Random),
            _ => None,
        }
    }
}

struct Opener {
    memory: Arc<SharedMemory>,
}

impl DeviceOpener for Opener {
    fn open(&self, _ctx: &Context<'_>, rdev: u64, _flags: OpenFlags, _path: &Path) -> Result<Arc<dyn FileOps>, Errno> {
        let kind = Kind::of_minor(minor(rdev)).ok_or(Errno::ENXIO)?;
        Ok(Arc::new(MemDevice { kind, memory: Arc::clone(&self.memory) }))
    }
}

struct MemDevice {
    kind: Kind,
    memory: Arc<SharedMemory>,
}

impl FileOps for MemDevice {
    fn read(&self, _ctx: &Context<'_>, _file: &File, dst: &mut dyn IoDst, _offset: u64) -> Result<usize, Errno> {
        let step: usize = match self.kind {
            Kind::Null => return Ok(0),
            Kind::Zero | Kind::Full => 1 << 20,
            Kind::Random => RANDOM_STEP,
        };
        let mut done = 0;
        while dst.remaining() > 0 {
            let moved = dst.fill(step, &mut |slices| {
                if self.kind != Kind::Random {
                    return safecopy::zero_slices(slices, step);
                }
                let mut bytes = [0; RANDOM_STEP];
                let n = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
                    .map_err(|_| Errno::EIO)?;
                safecopy::write_slices(slices, bytes.get(..n).unwrap_or_default())
            });
            match moved {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write(&self, _ctx: &Context<'_>, _file: &File, src: &mut dyn IoSrc, _offset: u64) -> Result<usize, Errno> {
        if self.kind == Kind::Full {
            return if src.remaining() == 0 { Ok(0) } else { Err(Errno::ENOSPC) };
        }
        // Used up without being looked at; memory that is not there makes no difference, as on Linux.
        let total = src.remaining();
        while src.remaining() > 0 {
            let all = &mut |slices: &[usermem::VolatileSlice<'_>]| Ok(slices.iter().map(|slice| slice.len()).sum());
            if !matches!(src.drain(usize::MAX, all), Ok(n) if n > 0) {
                break;
            }
        }
        Ok(total)
    }

    fn position(&self) -> Position {
        Position::Ignored
    }

    fn mappable(&self, _file: &File) -> Result<Arc<dyn Mappable>, Errno> {
        match self.kind {
            // A new object each time: two mappings share nothing.
            Kind::Zero => Ok(self.memory.object(i64::MAX.unsigned_abs() & !0xfff)),
            _ => Err(Errno::ENODEV),
        }
    }
}

/// Registers the memory devices.
pub fn register(devices: &Devices, memory: &Arc<SharedMemory>) {
    devices.register(DeviceKind::Char, MEM_MAJOR, 0..=255, Arc::new(Opener { memory: Arc::clone(memory) }));
}

/// Makes the nodes, links and directories of `/dev` in the directory that `at` starts from (a fresh tmpfs).
pub fn populate(at: &At<'_>) -> Result<(), Errno> {
    let nodes: &[(&[u8], u32, u32)] = &[
        (b"null", MEM_MAJOR, 3),
        (b"zero", MEM_MAJOR, 5),
        (b"full", MEM_MAJOR, 7),
        (b"random", MEM_MAJOR, 8),
        (b"urandom", MEM_MAJOR, 9),
        (b"tty", TTYAUX_MAJOR, 0),
        (b"console", TTYAUX_MAJOR, 1),
    ];
    for (name, major, minor) in nodes {
        let node = at.mknod(name, NodeKind::CharDevice(makedev(*major, *minor)), 0o666)?;
        node.chmod(at.ctx, if *name == b"console" { 0o600 } else { 0o666 })?;
    }
    let links: &[(&[u8], &[u8])] = &[
        (b"/proc/self/fd", b"fd"),
        (b"/proc/self/fd/0", b"stdin"),
        (b"/proc/self/fd/1", b"stdout"),
        (b"/proc/self/fd/2", b"stderr"),
        (b"pts/ptmx", b"ptmx"),
    ];
    for (target, name) in links {
        at.symlink(target, name)?;
    }
    for (name, mode) in [(&b"shm"[..], 0o1777), (b"pts", 0o755), (b"mqueue", 0o1777)] {
        at.mkdir(name, 0o755)?;
        at.lookup(name, LookupFlags::empty())?.chmod(at.ctx, mode)?;
    }
    Ok(())
}
