//! The classes of every lock in this crate, with their ranks; the order is drawn at the crate's head.

use sync::LockClass;

/// Declares classes in one table, outermost first.
macro_rules! classes {
    ($($(#[$meta:meta])* $name:ident = $text:literal, $rank:literal;)*) => {
        $($(#[$meta])* pub(crate) const $name: LockClass = LockClass::new($text, $rank);)*
    };
}

classes! {
    /// File positions.
    POSITION = "fs.position", 100;
    /// A superblock's tree shape.
    SB_TREE = "fs.sb_tree", 120;
    /// One directory's lookups and changes.
    DIR_OP = "fs.dir_op", 130;
    /// An overlay inode's copy-up.
    COPY_UP = "fs.overlay_copy_up", 4200;
    /// An overlay's tables.
    OVERLAY = "fs.overlay", 40015;
    /// Writers of one inode, across user copies.
    INODE_WRITE = "fs.inode_write", 4300;
    /// A pipe's ring, across user copies.
    PIPE = "fs.pipe", 4310;
    /// Contents and attributes of an inode; taken by the fault path.
    INODE = "fs.inode", 40000;
    /// Where the bytes of an object in memory are.
    INODE_DATA = "fs.inode_data", 40005;
    /// Directory contents of a file system of ours.
    DIRECTORY = "fs.directory", 40010;
    /// Open host descriptors and inode tables.
    HOST = "fs.host", 40020;
    /// Snapshot of a directory being read.
    DIR_SNAPSHOT = "fs.dir_snapshot", 110;
    /// Who maps an object.
    OBSERVERS = "fs.observers", 40030;
    /// Children of a dentry.
    DENTRY_CHILDREN = "fs.dentry_children", 40100;
    /// Name and parent of a dentry.
    DENTRY_LINKS = "fs.dentry_links", 40110;
    /// Mount trees.
    MOUNT = "fs.mount", 40125;
    /// The table of a mount namespace.
    MOUNT_NS = "fs.mount_ns", 40120;
    /// The list of cached dentries.
    DCACHE = "fs.dcache", 40130;
    /// Adding watches.
    WATCHES = "fs.watches", 40135;
    /// Locks and watches that hang off an inode.
    SLOTS = "fs.slots", 40140;
    /// Buffers of pipes, event counters and the like.
    BUFFER = "fs.buffer", 40150;
    /// Registries.
    REGISTRY = "fs.registry", 40160;
}
