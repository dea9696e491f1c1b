//! Guest pointers: allegations that become accesses only through [`UserMemory`].
//!
//! A [`UserPtr`] or [`UserBuf`] is what a guest said, made of a register or a structure and not checked yet: Linux, too,
//! complains about a bad pointer only when it uses it, after the errors of the other arguments. There is no `Deref`; each
//! access may fail with `EFAULT`, late. What is read is read once, into the kernel's own memory.

use std::fmt;
use std::marker::PhantomData;

use abi::Errno;
use smallvec::SmallVec;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::addr::{Addr, AddrRange, PAGE_SIZE};

/// First address that no guest program can use: one page short of the lower half (x86-64's TASK_SIZE_MAX).
pub const USER_END: Addr = Addr(0x7fff_ffff_f000);

/// Most buffers in one vectored call, IOV_MAX.
pub const IOV_MAX: usize = 1024;

/// Most bytes that one read or write moves, MAX_RW_COUNT of read(2).
pub const MAX_RW_COUNT: usize = 0x7fff_f000;

/// How often an atomic update is tried against other threads: see [`UserMemory::fetch_update_u32`].
const UPDATE_TRIES: usize = 1 << 16;

/// The memory of a guest process, as its own loads and stores would see it: page faults are resolved, protections hold.
///
/// Implementations must not hold locks of their own across the copy. The provided methods are what most callers want.
pub trait UserMemory: Send + Sync {
    /// Copies from `addr` into a prefix of `buf`; says how many bytes, at least 1. `EFAULT` when the first byte cannot be
    /// read. For an empty `buf`, 0.
    fn read_partial(&self, addr: Addr, buf: &mut [u8]) -> Result<usize, Errno>;
    /// Copies a prefix of `bytes` to `addr`; as [`UserMemory::read_partial`].
    fn write_partial(&self, addr: Addr, bytes: &[u8]) -> Result<usize, Errno>;
    /// Sets a prefix of `len` bytes at `addr` to zero; as [`UserMemory::write_partial`].
    fn zero_partial(&self, addr: Addr, len: usize) -> Result<usize, Errno>;
    /// Loads the aligned word at `addr`; `EINVAL` if it is not aligned.
    fn load_u32(&self, addr: Addr) -> Result<u32, Errno>;
    /// Stores `new` at the aligned word `addr` if `old` is there. `Ok(Ok(old))` if it did, `Ok(Err(found))` if not.
    fn cmpxchg_u32(&self, addr: Addr, old: u32, new: u32) -> Result<Result<u32, u32>, Errno>;

    /// Stores the aligned word at `addr`.
    fn store_u32(&self, addr: Addr, value: u32) -> Result<(), Errno> {
        self.fetch_update_u32(addr, &|_| value).map(drop)
    }

    /// Replaces the aligned word at `addr` by what `f` makes of it; says what was there. `EAGAIN` when other threads keep
    /// changing it.
    fn fetch_update_u32(&self, addr: Addr, f: &dyn Fn(u32) -> u32) -> Result<u32, Errno> {
        let mut found = self.load_u32(addr)?;
        for _ in 0..UPDATE_TRIES {
            match self.cmpxchg_u32(addr, found, f(found))? {
                Ok(old) => return Ok(old),
                Err(now) => found = now,
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Copies `buf.len()` bytes from `addr`, or `EFAULT`.
    fn read(&self, addr: Addr, buf: &mut [u8]) -> Result<(), Errno> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.read_partial(offset(addr, done)?, rest)? {
                0 => return Err(Errno::EFAULT),
                n => done += n,
            }
        }
        Ok(())
    }

    /// Copies `bytes` to `addr`, or `EFAULT` (perhaps after a prefix).
    fn write(&self, addr: Addr, bytes: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match self.write_partial(offset(addr, done)?, rest)? {
                0 => return Err(Errno::EFAULT),
                n => done += n,
            }
        }
        Ok(())
    }

    /// Sets `len` bytes at `addr` to zero, or `EFAULT` (perhaps after a prefix).
    fn zero(&self, addr: Addr, len: usize) -> Result<(), Errno> {
        let mut done = 0;
        while done < len {
            match self.zero_partial(offset(addr, done)?, len - done)? {
                0 => return Err(Errno::EFAULT),
                n => done += n,
            }
        }
        Ok(())
    }

    /// Reads a string up to its zero byte (not included). `ENAMETOOLONG` when there is none within `max` bytes; memory
    /// behind the zero need not be accessible.
    fn read_cstr(&self, addr: Addr, max: usize) -> Result<Vec<u8>, Errno> {
        let mut string = Vec::new();
        let mut at = addr;
        while string.len() < max {
            // To the end of the page: what follows it may not be there.
            let in_page = (PAGE_SIZE - at.page_offset()) as usize;
            let mut buf = [0; 256];
            let step = in_page.min(buf.len()).min(max - string.len());
            let Some(chunk) = buf.get_mut(..step) else { return Err(Errno::EFAULT) };
            let n = self.read_partial(at, chunk)?;
            let Some(read) = chunk.get(..n).filter(|read| !read.is_empty()) else { return Err(Errno::EFAULT) };
            if let Some(end) = read.iter().position(|&b| b == 0) {
                string.extend_from_slice(read.get(..end).unwrap_or_default());
                return Ok(string);
            }
            string.extend_from_slice(read);
            at = offset(at, n)?;
        }
        Err(Errno::ENAMETOOLONG)
    }
}

fn offset(addr: Addr, bytes: usize) -> Result<Addr, Errno> {
    addr.checked_add(bytes as u64).ok_or(Errno::EFAULT)
}

/// A guest's pointer to a `T`, or to an array of them; possibly null, possibly nonsense.
pub struct UserPtr<T> {
    addr: Addr,
    _target: PhantomData<fn() -> T>,
}

impl<T> Clone for UserPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for UserPtr<T> {}

impl<T> PartialEq for UserPtr<T> {
    fn eq(&self, other: &Self) -> bool {
        self.addr == other.addr
    }
}

impl<T> Eq for UserPtr<T> {}

impl<T> fmt::Debug for UserPtr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)
    }
}

impl<T> UserPtr<T> {
    /// The null pointer.
    pub const NULL: Self = Self::new(Addr(0));

    /// What the guest said.
    pub const fn new(addr: Addr) -> Self {
        Self { addr, _target: PhantomData }
    }

    /// The address.
    pub const fn addr(self) -> Addr {
        self.addr
    }

    /// Whether it is the null pointer.
    pub const fn is_null(self) -> bool {
        self.addr.0 == 0
    }

    /// Itself, or `None` for null.
    pub const fn non_null(self) -> Option<Self> {
        if self.is_null() { None } else { Some(self) }
    }

    /// The same address, said to hold something else.
    pub const fn cast<U>(self) -> UserPtr<U> {
        UserPtr::new(self.addr)
    }

    /// The pointer `bytes` further on.
    pub fn byte_add(self, bytes: u64) -> Result<Self, Errno> {
        self.addr.checked_add(bytes).map(Self::new).ok_or(Errno::EFAULT)
    }

    /// The `index`-th element of the array it points to.
    pub fn element(self, index: usize) -> Result<Self, Errno> {
        let bytes = index.checked_mul(size_of::<T>()).ok_or(Errno::EFAULT)?;
        self.byte_add(bytes as u64)
    }

    /// `EFAULT` if `count` elements from here reach past the guest's addresses (`access_ok`).
    pub fn check(self, count: usize) -> Result<(), Errno> {
        let len = count.checked_mul(size_of::<T>()).ok_or(Errno::EFAULT)?;
        UserBuf { addr: self.addr, len }.check()
    }
}

impl<T: FromBytes> UserPtr<T> {
    /// Reads the value.
    pub fn read<M: UserMemory + ?Sized>(self, mem: &M) -> Result<T, Errno> {
        let mut bytes: SmallVec<[u8; 256]> = SmallVec::from_elem(0, size_of::<T>());
        mem.read(self.addr, &mut bytes)?;
        T::read_from_bytes(&bytes).map_err(|_| Errno::EFAULT)
    }

    /// Reads an array of `count` values; `EINVAL` for more than `max`.
    pub fn read_slice<M: UserMemory + ?Sized>(self, mem: &M, count: usize, max: usize) -> Result<Vec<T>, Errno> {
        if count > max {
            return Err(Errno::EINVAL);
        }
        if size_of::<T>() == 0 {
            return Ok(Vec::new());
        }
        self.check(count)?;
        // In steps, so that a large count with no memory behind it costs nothing.
        const STEP_BYTES: usize = 64 * 1024;
        let step = (STEP_BYTES / size_of::<T>()).max(1);
        let mut values = Vec::new();
        let mut bytes = vec![0; step.min(count) * size_of::<T>()];
        while values.len() < count {
            let n = step.min(count - values.len());
            let Some(chunk) = bytes.get_mut(..n * size_of::<T>()) else { return Err(Errno::EFAULT) };
            mem.read(self.element(values.len())?.addr, chunk)?;
            for one in chunk.chunks_exact(size_of::<T>()) {
                values.push(T::read_from_bytes(one).map_err(|_| Errno::EFAULT)?);
            }
        }
        Ok(values)
    }
}

impl<T: IntoBytes + Immutable> UserPtr<T> {
    /// Writes the value.
    pub fn write<M: UserMemory + ?Sized>(self, mem: &M, value: &T) -> Result<(), Errno> {
        mem.write(self.addr, value.as_bytes())
    }

    /// Writes an array.
    pub fn write_slice<M: UserMemory + ?Sized>(self, mem: &M, values: &[T]) -> Result<(), Errno> {
        mem.write(self.addr, values.as_bytes())
    }
}

/// A guest's buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UserBuf {
    /// Where it starts.
    pub addr: Addr,
    /// How many bytes it has.
    pub len: usize,
}

impl UserBuf {
    /// What the guest said.
    pub const fn new(addr: Addr, len: usize) -> Self {
        Self { addr, len }
    }

    /// `EFAULT` if it reaches past the guest's addresses (`access_ok`).
    pub fn check(self) -> Result<(), Errno> {
        match self.addr.checked_add(self.len as u64) {
            Some(end) if end <= USER_END => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }

    /// The addresses, if they do not wrap.
    pub fn range(self) -> Result<AddrRange, Errno> {
        AddrRange::of_len(self.addr, self.len as u64).ok_or(Errno::EFAULT)
    }

    /// At most the first `max` bytes.
    pub fn first(self, max: usize) -> Self {
        Self { addr: self.addr, len: self.len.min(max) }
    }
}

/// The buffers of a vectored call, checked as Linux checks them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IoVecs {
    bufs: SmallVec<[UserBuf; 8]>,
    total: usize,
}

impl IoVecs {
    /// One buffer: read(2), write(2). Cut at [`MAX_RW_COUNT`].
    pub fn single(buf: UserBuf) -> Result<Self, Errno> {
        let mut vecs = Self::default();
        vecs.push(buf)?;
        Ok(vecs)
    }

    /// Reads `count` `struct iovec` at `addr`. As readv(2): `EINVAL` for more than [`IOV_MAX`] or a negative length,
    /// `EFAULT` for a buffer outside the guest's addresses; the sum is cut at [`MAX_RW_COUNT`].
    pub fn import<M: UserMemory + ?Sized>(mem: &M, addr: Addr, count: usize) -> Result<Self, Errno> {
        let raw = UserPtr::<[u64; 2]>::new(addr).read_slice(mem, count, IOV_MAX)?;
        if raw.iter().any(|[_, len]| i64::try_from(*len).is_err()) {
            return Err(Errno::EINVAL);
        }
        let mut vecs = Self::default();
        for [base, len] in raw {
            let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
            vecs.push(UserBuf::new(Addr(base), len))?;
        }
        Ok(vecs)
    }

    fn push(&mut self, buf: UserBuf) -> Result<(), Errno> {
        buf.check()?;
        let buf = buf.first(MAX_RW_COUNT - self.total);
        self.total += buf.len;
        if buf.len > 0 {
            self.bufs.push(buf);
        }
        Ok(())
    }

    /// The buffers, in order; none is empty.
    pub fn bufs(&self) -> &[UserBuf] {
        &self.bufs
    }

    /// Bytes in all.
    pub fn total(&self) -> usize {
        self.total
    }
}

/// Plain bytes as guest memory at address 0, for tests of code that only needs the trait.
#[doc(hidden)]
pub mod flat {
    use std::sync::Mutex;

    use abi::Errno;

    use super::{Addr, UserMemory};

    /// Memory from address 0 up.
    pub struct Flat(pub Mutex<Vec<u8>>);

    impl Flat {
        /// `len` zero bytes.
        pub fn new(len: usize) -> Self {
            Self(Mutex::new(vec![0; len]))
        }

        fn with(&self, addr: Addr, len: usize, f: impl FnOnce(&mut [u8])) -> Result<usize, Errno> {
            if len == 0 {
                return Ok(0);
            }
            let mut bytes = self.0.lock().map_err(|_| Errno::EFAULT)?;
            let start = usize::try_from(addr.0).map_err(|_| Errno::EFAULT)?;
            let end = start.saturating_add(len).min(bytes.len());
            let part = bytes.get_mut(start..end).filter(|part| !part.is_empty()).ok_or(Errno::EFAULT)?;
            let n = part.len();
            f(part);
            Ok(n)
        }
    }

    impl UserMemory for Flat {
        fn read_partial(&self, addr: Addr, buf: &mut [u8]) -> Result<usize, Errno> {
            self.with(addr, buf.len(), |part| buf[..part.len()].copy_from_slice(part))
        }
        fn write_partial(&self, addr: Addr, bytes: &[u8]) -> Result<usize, Errno> {
            self.with(addr, bytes.len(), |part| part.copy_from_slice(&bytes[..part.len()]))
        }
        fn zero_partial(&self, addr: Addr, len: usize) -> Result<usize, Errno> {
            self.with(addr, len, |part| part.fill(0))
        }
        fn load_u32(&self, addr: Addr) -> Result<u32, Errno> {
            let mut word = [0; 4];
            self.read(addr, &mut word)?;
            Ok(u32::from_le_bytes(word))
        }
        fn cmpxchg_u32(&self, addr: Addr, old: u32, new: u32) -> Result<Result<u32, u32>, Errno> {
            let found = self.load_u32(addr)?;
            if found != old {
                return Ok(Err(found));
            }
            self.write(addr, &new.to_le_bytes())?;
            Ok(Ok(old))
        }
    }
}

#[cfg(test)]
mod tests {
    use abi::Errno;

    use super::flat::Flat;
    use super::{Addr, IOV_MAX, IoVecs, MAX_RW_COUNT, UserBuf, UserMemory, UserPtr};

    #[test]
    fn values_and_arrays() {
        let mem = Flat::new(8192);
        let ptr = UserPtr::<u64>::new(Addr(16));
        assert_eq!(ptr.write_slice(&mem, &[1, 2, 3]), Ok(()));
        assert_eq!(ptr.read(&mem), Ok(1));
        assert_eq!(ptr.element(2).unwrap().read(&mem), Ok(3));
        assert_eq!(ptr.read_slice(&mem, 3, 3), Ok(vec![1, 2, 3]));
        assert_eq!(ptr.read_slice(&mem, 4, 3), Err(Errno::EINVAL));
        assert_eq!(ptr.read_slice(&mem, usize::MAX, usize::MAX), Err(Errno::EFAULT));
        assert_eq!(ptr.read_slice(&mem, 1 << 40, usize::MAX), Err(Errno::EFAULT));
        assert_eq!(UserPtr::<u64>::new(Addr(8190)).read(&mem), Err(Errno::EFAULT));
        assert_eq!(UserPtr::<u64>::new(Addr(u64::MAX)).read(&mem), Err(Errno::EFAULT));
    }

    #[test]
    fn strings_end_at_zero_max_or_the_end_of_memory() {
        let mem = Flat::new(4096 + 100);
        let long = vec![b'x'; 300];
        mem.write(Addr(4096 - 200), &long[..296]).unwrap();
        assert_eq!(mem.read_cstr(Addr(4096 - 200), 4096), Ok(long[..296].to_vec()));
        assert_eq!(mem.read_cstr(Addr(4096 - 200), 296), Err(Errno::ENAMETOOLONG));
        mem.write(Addr(4096 - 200), &long).unwrap();
        assert_eq!(mem.read_cstr(Addr(4096 - 200), 4096), Err(Errno::EFAULT));
        assert_eq!(mem.read_cstr(Addr(0), 4096), Ok(vec![]));
    }

    #[test]
    fn updates_are_atomic_in_shape() {
        let mem = Flat::new(64);
        assert_eq!(mem.fetch_update_u32(Addr(8), &|v| v + 5), Ok(0));
        assert_eq!(mem.cmpxchg_u32(Addr(8), 4, 1), Ok(Err(5)));
        assert_eq!(mem.store_u32(Addr(8), 77), Ok(()));
        assert_eq!(mem.load_u32(Addr(8)), Ok(77));
        assert_eq!(mem.load_u32(Addr(63)), Err(Errno::EFAULT));
    }

    #[test]
    fn iovecs_are_checked_as_readv_does() {
        let mem = Flat::new(IOV_MAX * 16 + 32);
        let put = |index: usize, base: u64, len: u64| {
            UserPtr::<[u64; 2]>::new(Addr(0)).element(index).unwrap().write(&mem, &[base, len]).unwrap();
        };
        put(0, 0x1000, 10);
        put(1, 0x2000, 0);
        put(2, 0x3000, 0x7fff_ffff_e000);
        assert_eq!(IoVecs::import(&mem, Addr(0), 3), Err(Errno::EFAULT));
        put(2, 0x3000, 0x7000_0000_0000);
        let vecs = IoVecs::import(&mem, Addr(0), 3).unwrap();
        assert_eq!(vecs.total(), MAX_RW_COUNT);
        let second = UserBuf::new(Addr(0x3000), MAX_RW_COUNT - 10);
        assert_eq!(vecs.bufs(), [UserBuf::new(Addr(0x1000), 10), second]);
        put(2, 0, u64::MAX);
        assert_eq!(IoVecs::import(&mem, Addr(0), 3), Err(Errno::EINVAL));
        assert_eq!(IoVecs::import(&mem, Addr(0), IOV_MAX + 1), Err(Errno::EINVAL));
        assert_eq!(IoVecs::import(&mem, Addr(1 << 40), 1), Err(Errno::EFAULT));
        assert_eq!(IoVecs::import(&mem, Addr(1 << 40), 0).map(|v| v.total()), Ok(0));
    }
}
