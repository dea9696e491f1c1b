//! Where the bytes of a read go to and those of a write come from: guest memory or a kernel buffer, seen alike.
//!
//! One primitive per direction hands out *volatile slices* (memory that others may change meanwhile), so that file data
//! can move between a host file and guest memory once, without a bounce buffer.

use abi::Errno;
use vm_memory::VolatileSlice;

/// Takes bytes: the buffer of a `read`.
pub trait IoDst {
    /// Bytes of room left.
    fn remaining(&self) -> usize;
    /// Hands at most `max` bytes of the room, in order, to `f`, which fills a prefix and says how many bytes; the room
    /// shrinks by that. Guest memory that is not accessible ends the slices early, or is `EFAULT` when it comes first.
    /// With `max` or the room zero, `f` is not called and the answer is 0.
    fn fill(
        &mut self,
        max: usize,
        f: &mut dyn FnMut(&[VolatileSlice<'_>]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno>;

    /// Copies a prefix of `bytes` in; says how many.
    fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < bytes.len() && self.remaining() > 0 {
            let rest = &bytes[done..];
            let step = self.fill(rest.len(), &mut |slices| crate::safecopy::write_slices(slices, rest));
            match step {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}

/// Gives bytes: the buffer of a `write`.
pub trait IoSrc {
    /// Bytes left.
    fn remaining(&self) -> usize;
    /// Hands at most `max` of the bytes left, in order, to `f`, which uses a prefix and says how many bytes. Errors as
    /// for [`IoDst::fill`].
    fn drain(
        &mut self,
        max: usize,
        f: &mut dyn FnMut(&[VolatileSlice<'_>]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno>;

    /// Copies bytes out into a prefix of `buf`; says how many.
    fn take(&mut self, buf: &mut [u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < buf.len() && self.remaining() > 0 {
            let rest = &mut buf[done..];
            let step = self.drain(rest.len(), &mut |slices| crate::safecopy::read_slices(slices, rest));
            match step {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}

/// A kernel buffer as a destination.
pub struct KernelDst<'a> {
    buf: &'a mut [u8],
    done: usize,
}

impl<'a> KernelDst<'a> {
    /// All of `buf` is room.
    pub fn new(buf: &'a mut [u8]) -> Self {
        Self { buf, done: 0 }
    }

    /// Bytes filled so far.
    pub fn filled(&self) -> usize {
        self.done
    }
}

impl IoDst for KernelDst<'_> {
    fn remaining(&self) -> usize {
        self.buf.len() - self.done
    }

    fn fill(
        &mut self,
        max: usize,
        f: &mut dyn FnMut(&[VolatileSlice<'_>]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let len = max.min(self.remaining());
        if len == 0 {
            return Ok(0);
        }
        let n = f(&[VolatileSlice::from(&mut self.buf[self.done..self.done + len])])?.min(len);
        self.done += n;
        Ok(n)
    }
}

/// A kernel buffer as a source.
pub struct KernelSrc {
    buf: Vec<u8>,
    done: usize,
}

impl KernelSrc {
    /// All of `bytes` is to be given.
    pub fn new(bytes: &[u8]) -> Self {
        Self { buf: bytes.to_vec(), done: 0 }
    }
}

impl IoSrc for KernelSrc {
    fn remaining(&self) -> usize {
        self.buf.len() - self.done
    }

    fn drain(
        &mut self,
        max: usize,
        f: &mut dyn FnMut(&[VolatileSlice<'_>]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let len = max.min(self.remaining());
        if len == 0 {
            return Ok(0);
        }
        let n = f(&[VolatileSlice::from(&mut self.buf[self.done..self.done + len])])?.min(len);
        self.done += n;
        Ok(n)
    }
}
