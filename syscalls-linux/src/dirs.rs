//! Directory entries and extended attributes.

use abi::Errno;
use abi::fs::{DIRENT_NAME_OFFSET, DIRENT64_NAME_OFFSET, XATTR_NAME_MAX, XATTR_SIZE_MAX, XattrFlags};
use fs::vfs::{DirSink, FileType, LookupFlags, Path};
use kernel::syscalls;
use kernel::task::Task;
use usermem::Addr;

use crate::args::{Fd, Flags, InBuf, OutBuf, PathArg, StrArg};
use crate::mem;
use crate::walk::{CWD, lookup, pathname};

syscalls! {
    pub(crate) const ROWS;

    /// Directory entries in the old form.
    getdents [78, -] Full("names::directory_records_tell_type_and_inode");
    /// Directory entries.
    getdents64 [217, 61] Full("names::directory_records_tell_type_and_inode");
    /// Sets an extended attribute.
    setxattr [188, 5] Full("names::extended_attributes_are_kept");
    /// Sets an extended attribute of a file or symbolic link.
    lsetxattr [189, 6] Full("names::extended_attributes_are_kept");
    /// Sets an extended attribute of an open file.
    fsetxattr [190, 7] Full("names::extended_attributes_are_kept");
    /// Gets an extended attribute.
    getxattr [191, 8] Full("names::extended_attributes_are_kept");
    /// Gets an extended attribute of a file or symbolic link.
    lgetxattr [192, 9] Full("names::extended_attributes_are_kept");
    /// Gets an extended attribute of an open file.
    fgetxattr [193, 10] Full("names::extended_attributes_are_kept");
    /// Lists extended attributes.
    listxattr [194, 11] Full("names::extended_attributes_are_kept");
    /// Lists extended attributes of a file or symbolic link.
    llistxattr [195, 12] Full("names::extended_attributes_are_kept");
    /// Lists extended attributes of an open file.
    flistxattr [196, 13] Full("names::extended_attributes_are_kept");
    /// Removes an extended attribute.
    removexattr [197, 14] Full("names::extended_attributes_are_kept");
    /// Removes an extended attribute of a file or symbolic link.
    lremovexattr [198, 15] Full("names::extended_attributes_are_kept");
    /// Removes an extended attribute of an open file.
    fremovexattr [199, 16] Full("names::extended_attributes_are_kept");
}

/// Most bytes of entries that one call answers; fewer than asked for are allowed.
const DENTS_CHUNK: usize = 64 << 10;

/// Which structure `getdents` fills.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `struct linux_dirent`: the type is the record's last byte.
    Old,
    /// `struct linux_dirent64`.
    New,
}

/// Collects entries as records, up to a size.
struct Records {
    form: Form,
    bytes: Vec<u8>,
    room: usize,
    refused: bool,
}

impl DirSink for Records {
    fn entry(&mut self, name: &[u8], ino: u64, file_type: FileType, next: u64) -> bool {
        let fixed = match self.form {
            Form::Old => DIRENT_NAME_OFFSET + 2,
            Form::New => DIRENT64_NAME_OFFSET + 1,
        };
        let length = (name.len() + fixed).next_multiple_of(8);
        if self.bytes.len() + length > self.room {
            self.refused = true;
            return false;
        }
        let Ok(reclen) = u16::try_from(length) else { return true };
        let end = self.bytes.len() + length;
        self.bytes.extend_from_slice(&ino.to_le_bytes());
        self.bytes.extend_from_slice(&next.to_le_bytes());
        self.bytes.extend_from_slice(&reclen.to_le_bytes());
        if self.form == Form::New {
            self.bytes.push(file_type.dirent_type());
        }
        self.bytes.extend_from_slice(name);
        self.bytes.resize(end, 0);
        if self.form == Form::Old
            && let Some(last) = self.bytes.last_mut()
        {
            *last = file_type.dirent_type();
        }
        true
    }
}

fn read_dir(task: &Task, fd: Fd, buf: Addr, count: u32, form: Form) -> Result<usize, Errno> {
    let file = task.fd(fd.0)?;
    // The length is an int: a negative one has room for nothing.
    let room = usize::try_from(count.cast_signed()).unwrap_or(0).min(DENTS_CHUNK);
    if file.inode().file_type() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    let mut records = Records { form, bytes: Vec::new(), room, refused: false };
    let before = file.position();
    file.readdir(&task.fs_context(), &mut records)?;
    if records.bytes.is_empty() && records.refused {
        return Err(Errno::EINVAL);
    }
    if let Err(error) = mem::write_bytes(task, buf, &records.bytes) {
        // What did not arrive is read again.
        let before = i64::try_from(before).map_err(|_| Errno::EOVERFLOW)?;
        file.seek(&task.fs_context(), before, fs::vfs::Whence::Set)?;
        return Err(error);
    }
    Ok(records.bytes.len())
}

/// `getdents(2)`.
fn getdents(task: &mut Task, fd: Fd, buf: Addr, count: u32) -> Result<usize, Errno> {
    read_dir(task, fd, buf, count, Form::Old)
}

/// `getdents64(2)`.
fn getdents64(task: &mut Task, fd: Fd, buf: Addr, count: u32) -> Result<usize, Errno> {
    read_dir(task, fd, buf, count, Form::New)
}

/// An attribute's name: 1 to `XATTR_NAME_MAX` bytes, else `ERANGE`.
fn attribute_name(task: &Task, name: StrArg) -> Result<Vec<u8>, Errno> {
    let name = mem::c_string(task, name.0, XATTR_NAME_MAX + 1, Errno::ERANGE)?;
    if name.is_empty() { Err(Errno::ERANGE) } else { Ok(name) }
}

fn place(task: &Task, path: PathArg, flags: LookupFlags) -> Result<Path, Errno> {
    let path = pathname(task, path)?;
    lookup(task, CWD, &path, flags)
}

fn of_fd(task: &Task, fd: Fd) -> Result<Path, Errno> {
    Ok(task.fd(fd.0)?.path().clone())
}

fn set(
    task: &Task,
    place: impl FnOnce(&Task) -> Result<Path, Errno>,
    name: StrArg,
    value: InBuf,
    size: usize,
    flags: Flags<XattrFlags>,
) -> Result<(), Errno> {
    let flags = flags.known()?;
    let name = attribute_name(task, name)?;
    if size > XATTR_SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    let value = mem::read_bytes(task, value.0, size)?;
    place(task)?.set_xattr(&task.fs_context(), &name, &value, flags)
}

/// Stores an answer of `getxattr` or `listxattr`: size 0 asks only for the length.
fn answer(task: &Task, bytes: &[u8], buf: OutBuf, size: usize) -> Result<usize, Errno> {
    if size == 0 {
        return Ok(bytes.len());
    }
    if bytes.len() > size {
        return Err(Errno::ERANGE);
    }
    mem::write_bytes(task, buf.0, bytes)?;
    Ok(bytes.len())
}

fn get(
    task: &Task,
    place: impl FnOnce(&Task) -> Result<Path, Errno>,
    name: StrArg,
    buf: OutBuf,
    size: usize,
) -> Result<usize, Errno> {
    let name = attribute_name(task, name)?;
    let value = place(task)?.get_xattr(&task.fs_context(), &name)?;
    answer(task, &value, buf, size)
}

/// `setxattr(2)`.
fn setxattr(
    task: &mut Task,
    path: PathArg,
    name: StrArg,
    value: InBuf,
    size: usize,
    flags: Flags<XattrFlags>,
) -> Result<(), Errno> {
    set(task, |task| place(task, path, LookupFlags::FOLLOW), name, value, size, flags)
}

/// `lsetxattr(2)`.
fn lsetxattr(
    task: &mut Task,
    path: PathArg,
    name: StrArg,
    value: InBuf,
    size: usize,
    flags: Flags<XattrFlags>,
) -> Result<(), Errno> {
    set(task, |task| place(task, path, LookupFlags::empty()), name, value, size, flags)
}

/// `fsetxattr(2)`.
fn fsetxattr(
    task: &mut Task,
    fd: Fd,
    name: StrArg,
    value: InBuf,
    size: usize,
    flags: Flags<XattrFlags>,
) -> Result<(), Errno> {
    set(task, |task| of_fd(task, fd), name, value, size, flags)
}

/// `getxattr(2)`.
fn getxattr(task: &mut Task, path: PathArg, name: StrArg, buf: OutBuf, size: usize) -> Result<usize, Errno> {
    get(task, |task| place(task, path, LookupFlags::FOLLOW), name, buf, size)
}

/// `lgetxattr(2)`.
fn lgetxattr(task: &mut Task, path: PathArg, name: StrArg, buf: OutBuf, size: usize) -> Result<usize, Errno> {
    get(task, |task| place(task, path, LookupFlags::empty()), name, buf, size)
}

/// `fgetxattr(2)`.
fn fgetxattr(task: &mut Task, fd: Fd, name: StrArg, buf: OutBuf, size: usize) -> Result<usize, Errno> {
    get(task, |task| of_fd(task, fd), name, buf, size)
}

/// `listxattr(2)`.
fn listxattr(task: &mut Task, path: PathArg, buf: OutBuf, size: usize) -> Result<usize, Errno> {
    let names = place(task, path, LookupFlags::FOLLOW)?.list_xattr(&task.fs_context())?;
    answer(task, &names, buf, size)
}

/// `llistxattr(2)`.
fn llistxattr(task: &mut Task, path: PathArg, buf: OutBuf, size: usize) -> Result<usize, Errno> {
    let names = place(task, path, LookupFlags::empty())?.list_xattr(&task.fs_context())?;
    answer(task, &names, buf, size)
}

/// `flistxattr(2)`.
fn flistxattr(task: &mut Task, fd: Fd, buf: OutBuf, size: usize) -> Result<usize, Errno> {
    let names = of_fd(task, fd)?.list_xattr(&task.fs_context())?;
    answer(task, &names, buf, size)
}

/// `removexattr(2)`.
fn removexattr(task: &mut Task, path: PathArg, name: StrArg) -> Result<(), Errno> {
    let name = attribute_name(task, name)?;
    place(task, path, LookupFlags::FOLLOW)?.remove_xattr(&task.fs_context(), &name)
}

/// `lremovexattr(2)`.
fn lremovexattr(task: &mut Task, path: PathArg, name: StrArg) -> Result<(), Errno> {
    let name = attribute_name(task, name)?;
    place(task, path, LookupFlags::empty())?.remove_xattr(&task.fs_context(), &name)
}

/// `fremovexattr(2)`.
fn fremovexattr(task: &mut Task, fd: Fd, name: StrArg) -> Result<(), Errno> {
    let name = attribute_name(task, name)?;
    of_fd(task, fd)?.remove_xattr(&task.fs_context(), &name)
}

#[cfg(test)]
mod tests {
    use fs::vfs::{DirSink as _, FileType};

    use super::{Form, Records};

    #[test]
    fn records_have_linuxs_layout() {
        let mut new = Records { form: Form::New, bytes: Vec::new(), room: 40, refused: false };
        assert!(new.entry(b"abc", 7, FileType::Directory, 1));
        assert_eq!(new.bytes.len(), 24);
        assert_eq!(new.bytes[16..24], [24, 0, 4, b'a', b'b', b'c', 0, 0]);
        assert!(!new.entry(b"defg", 8, FileType::Regular, 2));
        assert!(new.refused);
        let mut old = Records { form: Form::Old, bytes: Vec::new(), room: 40, refused: false };
        assert!(old.entry(b"abc", 7, FileType::Symlink, 1));
        assert_eq!(old.bytes[16..24], [24, 0, b'a', b'b', b'c', 0, 0, 10]);
    }
}
