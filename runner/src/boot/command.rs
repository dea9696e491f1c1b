//! Finds the command in the guest's files, and words the errors of starting it as `docker run` does: 127 when it does
//! not exist, 126 when it cannot be executed.

use abi::Errno;
use fs::Context;
use fs::vfs::{At, FileType, LookupFlags, Path, Perm};

use crate::failure::{Failure, Outcome, describe};

/// Why one candidate is not it.
enum Unfit {
    Missing,
    Other(&'static str),
    Errno(Errno),
}

/// The path to execute for `name`: itself when it has a slash, else the first fit in `search`.
pub(super) fn find(ctx: &Context<'_>, root: &Path, cwd: &Path, search: &[Vec<u8>], name: &[u8]) -> Outcome<Vec<u8>> {
    let at = At { ctx, root, start: cwd };
    if name.contains(&b'/') {
        return match check(&at, name) {
            Ok(()) => Ok(name.to_vec()),
            Err(unfit) => Err(failure(name, &unfit)),
        };
    }
    let mut best = Unfit::Missing;
    if !name.is_empty() {
        for directory in search {
            let mut path = directory.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            match check(&at, &path) {
                Ok(()) => return Ok(path),
                // A directory that the user may not search is passed over.
                Err(Unfit::Missing | Unfit::Errno(Errno::EACCES)) => {}
                Err(unfit) => best = unfit,
            }
        }
    }
    Err(failure(name, &best))
}

/// What the kernel's refusal to execute `name` means.
pub(super) fn refused(name: &[u8], errno: Errno) -> Failure {
    match errno {
        // It was there a moment ago: its interpreter is not.
        Errno::ENOENT | Errno::ENOTDIR => {
            Failure::not_found(format!("{}: its interpreter does not exist", shown(name)))
        }
        Errno::ENOEXEC | Errno::ELIBBAD => {
            Failure::not_executable(format!("{}: not a program for this machine (Exec format error)", shown(name)))
        }
        // No fault of the program.
        errno @ (Errno::EAGAIN | Errno::ENOMEM) => Failure::ours(format!(
            "{}: {}: the host has no process, thread, descriptor or memory left for it",
            shown(name),
            describe(errno)
        )),
        errno => failure(name, &Unfit::Errno(errno)),
    }
}

fn check(at: &At<'_>, path: &[u8]) -> Result<(), Unfit> {
    let place = match at.lookup(path, LookupFlags::FOLLOW) {
        Ok(place) => place,
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Err(Unfit::Missing),
        Err(errno) => return Err(Unfit::Errno(errno)),
    };
    let attr = place.attr().map_err(Unfit::Errno)?;
    match attr.file_type {
        FileType::Regular => {}
        FileType::Directory => return Err(Unfit::Other("is a directory")),
        _ => return Err(Unfit::Other("is not a regular file")),
    }
    match place.access(at.ctx, Perm::EXEC) {
        Err(Errno::EACCES) => Err(Unfit::Other("permission denied")),
        other => other.map_err(Unfit::Errno),
    }
}

fn failure(name: &[u8], unfit: &Unfit) -> Failure {
    let name = shown(name);
    match unfit {
        Unfit::Missing => Failure::not_found(format!("{name}: command not found")),
        Unfit::Other(why) => Failure::not_executable(format!("{name}: {why}")),
        Unfit::Errno(errno) => Failure::not_executable(format!("{name}: {}", describe(*errno))),
    }
}

fn shown(name: &[u8]) -> String {
    if name.is_empty() { "''".to_owned() } else { String::from_utf8_lossy(name).into_owned() }
}
