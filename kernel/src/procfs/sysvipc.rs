//! `/proc/sysvipc`: the System V objects there are, a line each.

use std::fmt::Write as _;

use abi::Errno;
use fs::Context;
use fs::kernfs::{StaticDir, Tree};
use fs::vfs::Inode;

use super::{Proc, ROOT_INO};
use crate::ids::Pid;
use crate::kernel::Kernel;

/// `/proc/sysvipc`.
pub(super) fn directory(proc: &Proc) -> Inode {
    let ino = Tree::ino(ROOT_INO, b"sysvipc");
    let dir = StaticDir::new()
        .with("msg", proc.text(ino, "msg", 0o444, msg))
        .with("sem", proc.text(ino, "sem", 0o444, sem))
        .with("shm", proc.text(ino, "shm", 0o444, shm));
    proc.tree.dir(ino, 0o555, dir)
}

fn number(pid: Option<Pid>) -> u32 {
    pid.map_or(0, |pid| pid.0)
}

fn shm(kernel: &Kernel, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let mut text = String::from(
        "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      \
         dtime      ctime                   rss                  swap\n",
    );
    for segment in kernel.ipc().shm().list() {
        let (id, info) = (segment.id, segment.info);
        let perm = info.perm;
        let _ = writeln!(
            text,
            "{:10} {id:10}  {:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} {:21} {:21}",
            perm.key,
            perm.mode,
            info.size,
            info.creator.0,
            number(info.last),
            info.mappings,
            perm.uid.0,
            perm.gid.0,
            perm.cuid.0,
            perm.cgid.0,
            info.attach_time,
            info.detach_time,
            info.change_time,
            0,
            0,
        );
    }
    Ok(text.into_bytes())
}

fn sem(kernel: &Kernel, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let mut text =
        String::from("       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n");
    for set in kernel.ipc().sem().list() {
        let (id, info) = (set.id, set.info);
        let perm = info.perm;
        let _ = writeln!(
            text,
            "{:10} {id:10}  {:4o} {:10} {:5} {:5} {:5} {:5} {:10} {:10}",
            perm.key,
            perm.mode,
            info.count,
            perm.uid.0,
            perm.gid.0,
            perm.cuid.0,
            perm.cgid.0,
            info.op_time,
            info.change_time,
        );
    }
    Ok(text.into_bytes())
}

fn msg(kernel: &Kernel, _ctx: &Context<'_>) -> Result<Vec<u8>, Errno> {
    let mut text = String::from(
        "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      \
         ctime\n",
    );
    for queue in kernel.ipc().msg().list() {
        let (id, info) = (queue.id, queue.info);
        let perm = info.perm;
        let _ = writeln!(
            text,
            "{:10} {id:10}  {:4o}  {:10} {:10} {:5} {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10}",
            perm.key,
            perm.mode,
            info.bytes,
            info.messages,
            number(info.last_sender),
            number(info.last_receiver),
            perm.uid.0,
            perm.gid.0,
            perm.cuid.0,
            perm.cgid.0,
            info.send_time,
            info.receive_time,
            info.change_time,
        );
    }
    Ok(text.into_bytes())
}
