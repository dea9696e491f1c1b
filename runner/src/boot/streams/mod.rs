//! The command's standard streams: open files over the caller's descriptors.
//!
//! [`stream`] is the file, [`reactor`] the one thread that learns from the host when a pollable one may be ready,
//! [`terminal`] what a terminal is to sessions and process groups. A
//! guest with a terminal of its own has none of these: [`relay`] connects that to them.

mod reactor;
mod relay;
mod stream;
mod terminal;

use std::sync::Arc;

use abi::fs::OpenFlags;
use fs::vfs::{Devices, File, Inode, Path};
use kernel::Kernel;
use kernel::signal::types::Signal;
use kernel::tty::DevPts;

use super::files::Tree;
use crate::failure::{Doing, Outcome};
use crate::launcher::{IdMap, Stream, StreamKind};

pub(super) use relay::{Relay, Typing};
pub(super) use terminal::Terminal;

/// Where a terminal gets a name.
pub(super) struct Places<'a> {
    /// The guest's files.
    pub(super) tree: &'a Tree<'a>,
    /// Device numbers.
    pub(super) devices: &'a Devices,
    /// `/dev/pts`.
    pub(super) devpts: &'a DevPts,
}

impl Places<'_> {
    /// The node of the caller's terminal, under the name it has on the host if that is free.
    fn node(&self, name: &[u8], inode: &Inode, terminal: &Terminal) -> Option<Path> {
        let attr = inode.attr().ok()?;
        let number = name.strip_prefix(b"/dev/pts/").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let Some(number) = number else { return self.tree.device_node(name, attr.rdev) };
        // Other streams that are the terminal find it there.
        self.devpts.adopt(number, attr.uid, terminal.opener()?);
        self.tree.existing_node(name, attr.rdev)
    }
}

/// Makes open files of the streams; a closed one is missing. A terminal gets its device node in the guest's `/dev`, and is
/// opened as that, so that ttyname(3) finds it.
pub(super) fn open(
    streams: [Option<Stream>; 3],
    ids: IdMap,
    terminal: &Arc<Terminal>,
    places: &Places<'_>,
) -> Outcome<Vec<(i32, Arc<File>)>> {
    let reactor = reactor::Reactor::start().doing("epoll")?;
    let mut files = Vec::new();
    for (number, stream) in (0..).zip(streams) {
        let Some(stream) = stream else { continue };
        let flags = OpenFlags::from_bits_retain(stream.flags);
        let name = stream.name.clone();
        let is_terminal = stream.kind == StreamKind::Terminal;
        let (ops, inode) = stream::HostStream::make(stream, ids, terminal, &reactor).doing("standard streams")?;
        let node = if is_terminal { places.node(&name, &inode, terminal) } else { None };
        files.push((
            number,
            match node {
                Some(node) => File::new(ops, node, flags),
                None => File::pseudo(ops, flags, &name, inode),
            },
        ));
    }
    terminal.register(places.devices);
    Ok(files)
}

/// Sends what the terminal sent to its foreground group, or to the command when there is none.
pub(super) fn signal_foreground(kernel: &Kernel, terminal: &Terminal, signal: Signal) {
    match terminal.foreground_group() {
        Some(group) => kernel.signal_pgrp(group, &kernel::signal::info::SigInfo::kernel(signal)),
        None => kernel.signal_main(signal),
    }
}
