//! Pieces of host files that the kernel reads again and again: strings among a program's constants, above all the paths
//! that it hands over (`fstat` of glibc passes an empty one from libc's).
//!
//! Such a piece is mapped, which shows what the file has, as a `pread` would, for a tenth of what that costs. What is too
//! short, too long or gone is left to the caller.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use sync::{LockClass, Mutex};
use usermem::host::FileView;

/// Innermost: nothing is taken while it is held.
const VIEWS: LockClass = LockClass::new("mm.views", 30_030);

/// Size of a piece; also its alignment.
const PIECE: u64 = 64 << 10;

/// Longest read that is served.
const MAX_READ: usize = 512;

/// Pieces of an address space that are watched at a time.
const PIECES: usize = 4;

/// Reads of a piece after which it is mapped: about what mapping it costs.
const WORTH: u32 = 8;

/// A piece that was read lately.
struct Piece {
    file: Arc<OwnedFd>,
    start: u64,
    reads: u32,
    view: Option<FileView>,
}

/// The pieces of one address space.
pub(crate) struct Views {
    pieces: Mutex<[Option<Piece>; PIECES]>,
}

impl Views {
    pub(crate) const fn new() -> Self {
        Self { pieces: Mutex::new(VIEWS, [const { None }; PIECES]) }
    }

    /// Reads `buf` from `offset` of `file`, if that lies in a piece that is mapped. Says whether it did.
    pub(crate) fn read(&self, file: &Arc<OwnedFd>, offset: u64, buf: &mut [u8]) -> bool {
        let start = offset & !(PIECE - 1);
        let at = offset - start;
        if buf.len() > MAX_READ || at + buf.len() as u64 > PIECE {
            return false;
        }
        let mut pieces = self.pieces.lock();
        let known = pieces.iter().position(|piece| {
            piece.as_ref().is_some_and(|piece| piece.start == start && Arc::ptr_eq(&piece.file, file))
        });
        let Some(piece) = known.and_then(|known| pieces.get_mut(known)?.as_mut()) else {
            // In place of what was read least.
            let least = pieces.iter_mut().min_by_key(|piece| piece.as_ref().map_or(0, |piece| piece.reads));
            let fresh = Piece { file: Arc::clone(file), start, reads: 1, view: None };
            let old = least.and_then(|slot| slot.replace(fresh));
            for piece in pieces.iter_mut().flatten() {
                piece.reads -= piece.reads / 4;
            }
            drop(pieces);
            drop(old);
            return false;
        };
        piece.reads = piece.reads.saturating_add(1);
        if piece.view.is_none() && piece.reads == WORTH {
            piece.view = FileView::new(file.as_fd(), start, PIECE as usize).ok();
        }
        piece.view.as_ref().is_some_and(|view| view.read(at as usize, buf).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::sync::Arc;

    use usermem::host::{memfd, set_len};

    use super::{MAX_READ, PIECE, PIECES, Views, WORTH};

    #[test]
    fn what_is_read_often_is_mapped_and_stays_what_the_file_has() {
        usermem::safecopy::install();
        let file = Arc::new(memfd(c"t").unwrap());
        set_len(file.as_fd(), 2 * PIECE).unwrap();
        let views = Views::new();
        let mut buf = [1; 4];
        assert!((1..WORTH).all(|_| !views.read(&file, 100, &mut buf)));
        assert!(views.read(&file, 100, &mut buf));
        assert_eq!(buf, [0; 4]);
        assert!(!views.read(&file, PIECE - 2, &mut buf), "two pieces");
        assert!(!views.read(&file, 0, &mut vec![0; MAX_READ + 1]));
        let copy = Arc::new(file.try_clone().unwrap());
        assert!(!views.read(&copy, 100, &mut buf), "another opening counts by itself");
        set_len(file.as_fd(), 0).unwrap();
        assert!(!views.read(&file, 100, &mut buf), "gone");
    }

    #[test]
    fn pieces_make_room_for_others() {
        usermem::safecopy::install();
        let file = Arc::new(memfd(c"t").unwrap());
        set_len(file.as_fd(), 64 * PIECE).unwrap();
        let views = Views::new();
        let mut buf = [1; 4];
        for at in 0..64 {
            for _ in 1..WORTH {
                views.read(&file, at * PIECE, &mut buf);
            }
            assert!(views.read(&file, at * PIECE, &mut buf), "{at}");
        }
        let held = views.pieces.lock().iter().flatten().filter(|piece| piece.view.is_some()).count();
        assert!(held <= PIECES);
    }
}
