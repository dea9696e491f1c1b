//! The files that calls are made with, and the descriptors of every kind.

use std::collections::HashSet;
use std::ffi::{CString, OsString};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::Path;

use crate::random::Rng;
use crate::raw;

/// The tree's folder.
pub(crate) const ROOT: &str = "/tmp/casemate-fuzz";

/// First number of the descriptors that [`open_all`] opens, and the number behind the last.
pub(crate) const FIRST_FD: i32 = 10;
pub(crate) const END_FD: i32 = FIRST_FD + 50;

/// Numbers of the descriptors of the worker itself, of a pseudo-terminal's master and of its slave.
pub(crate) const PIDFD: u64 = 49;
const MASTER: u64 = 47;
pub(crate) const TERMINAL: u64 = 58;

/// Paths to name: in the tree, across file systems, in `/proc`; there, not there, wrong.
pub(crate) const PATHS: &[&[u8]] = &[
    b"f",
    b"f",
    b"big",
    b"d",
    b"d/g",
    b"d/sub",
    b"d/sub/h",
    b"link",
    b"dangling",
    b"loop",
    b"fifo",
    b"e",
    b"hard",
    b"new1",
    b"new2",
    b"new3",
    b"new4",
    b"d/new1",
    b"d/new2",
    b"e/new1",
    b"e/new2",
    b"d/sub/new",
    b"dirlink",
    b"dirlink/g",
    b"abs",
    b".",
    b"..",
    b"d/..",
    b"d/../e",
    b"d/.",
    b"d/",
    b"f/",
    b"f/x",
    b"",
    b"/",
    b"//",
    b"new9/x",
    b"prog",
    b"script",
    b"sock",
    b"/tmp/casemate-fuzz/f",
    b"/tmp/casemate-fuzz/d/new1",
    b"/dev/shm/fz1",
    b"/dev/shm/fz2",
    b"/dev/null",
    b"/dev/zero",
    b"/dev/full",
    b"/dev/urandom",
    b"/dev/tty",
    b"/dev/ptmx",
    b"/dev/pts",
    b"/dev/pts/0",
    b"/proc/self",
    b"/proc/self/status",
    b"/proc/self/maps",
    b"/proc/self/fd",
    b"/proc/self/fd/10",
    b"/proc/self/fd/13/f",
    b"/proc/self/fdinfo/30",
    b"/proc/self/cwd",
    b"/proc/self/exe",
    b"/proc/self/root/tmp",
    b"/proc/self/task",
    b"/proc/self/mem",
    b"/proc/self/environ",
    b"/proc/self/cmdline",
    b"/proc/self/stat",
    b"/proc/self/mountinfo",
    b"/proc/self/oom_score_adj",
    b"/proc/self/comm",
    b"/proc/thread-self/comm",
    b"/proc/self/limits",
    b"/proc/self/smaps",
    b"/proc/self/pagemap",
    b"/proc/self/ns",
    b"/proc/self/timers",
    b"/proc/self/syscall",
    b"/proc/self/wchan",
    b"/proc/self/io",
    b"/proc/self/fdinfo/28",
    b"/proc/thread-self/children",
    b"/proc/sysvipc/shm",
    b"/proc/sysvipc/sem",
    b"/proc/sysvipc/msg",
    b"/proc/meminfo",
    b"/proc/stat",
    b"/proc/uptime",
    b"/proc/sys",
    b"/proc/sys/kernel/hostname",
    b"/proc/sys/kernel/pid_max",
    b"/proc/net",
    b"/proc/self/net/unix",
    b"/proc",
    b"/sys",
    b"/sys/devices/system/cpu/online",
    b"/sys/devices",
    b"/etc/passwd",
    b"/etc/nothing",
    b"/usr/bin",
    b"/usr/lib/os-release",
    b"/run",
    b"/dev/shm",
    b"/dev/mqueue",
    b"/dev/mqueue/q1",
];

/// The absolute folders among them whose permissions calls may have changed.
const FOLDERS: &[(&str, u32)] =
    &[("/", 0o755), ("/tmp", 0o1777), ("/dev", 0o755), ("/dev/shm", 0o1777), ("/dev/mqueue", 0o1777), ("/run", 0o755)];

/// Device nodes that workers may have replaced by something else, and their minor numbers.
const NODES: &[(&str, u32)] = &[("/dev/null", 3), ("/dev/zero", 5), ("/dev/full", 7), ("/dev/urandom", 9)];

/// Puts the device nodes back.
fn reset_nodes() {
    for &(path, minor) in NODES {
        let fresh = "/dev/casemate-fuzz";
        let _ = fs::remove_file(fresh);
        let Ok(name) = CString::new(fresh) else { continue };
        // SAFETY: a path that ends, inside Casemate.
        if unsafe { libc::mknod(name.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, minor)) } == 0 {
            let _ = fs::set_permissions(fresh, fs::Permissions::from_mode(0o666));
            let _ = fs::rename(fresh, path);
        }
    }
}

/// A program of one page that exits with 3.
pub(crate) fn program() -> Vec<u8> {
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut word = |bytes: &[u8]| out.extend_from_slice(bytes);
    word(&2_u16.to_le_bytes());
    word(&62_u16.to_le_bytes());
    word(&1_u32.to_le_bytes());
    for value in [0x40_0000_u64 + 120, 64, 0] {
        word(&value.to_le_bytes());
    }
    word(&0_u32.to_le_bytes());
    for value in [64_u16, 56, 1, 64, 0, 0] {
        word(&value.to_le_bytes());
    }
    for value in [1_u32, 5] {
        word(&value.to_le_bytes());
    }
    for value in [0_u64, 0x40_0000, 0x40_0000, 4096, 4096, 4096] {
        word(&value.to_le_bytes());
    }
    // mov edi, 3; mov eax, 231; syscall
    word(&[0xbf, 3, 0, 0, 0, 0xb8, 231, 0, 0, 0, 0x0f, 0x05]);
    out.resize(4096, 0);
    out
}

/// Removes everything at `path`, whatever its permissions.
fn clear(path: &Path) {
    if let Ok(entries) = fs::read_dir(path) {
        for entry in entries.flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                clear(&path);
                let _ = fs::remove_dir(&path);
            } else {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// Where else workers make files: they change their directories to these.
const ELSEWHERE: &[&str] = &["/", "/tmp", "/run", "/dev", "/etc", "/usr", "/usr/bin", "/usr/lib", "/var/tmp"];

fn names(folder: &str) -> HashSet<OsString> {
    fs::read_dir(folder).map(|list| list.flatten().map(|entry| entry.file_name()).collect()).unwrap_or_default()
}

/// What is in the folders outside the tree.
pub(crate) struct Outside(Vec<(&'static str, HashSet<OsString>)>);

impl Outside {
    /// What is there now.
    pub(crate) fn look() -> Self {
        Self(ELSEWHERE.iter().map(|&folder| (folder, names(folder))).collect())
    }

    /// Removes what has come since, and attributes. Parts of the system are not among it under a new name: folders of the
    /// layers below cannot be renamed, and those where something is mounted neither.
    pub(crate) fn restore(&self) {
        for (folder, before) in &self.0 {
            for name in names(folder).difference(before) {
                let path = Path::new(folder).join(name);
                if path.symlink_metadata().is_ok_and(|looks| looks.is_dir()) {
                    clear(&path);
                    let _ = fs::remove_dir(&path);
                } else {
                    let _ = fs::remove_file(&path);
                }
            }
        }
        let absolute = PATHS.iter().filter(|path| path.starts_with(b"/") && !path.starts_with(b"/proc"));
        let named = self.0.iter().map(|(folder, _)| folder.as_bytes());
        for path in absolute.copied().chain(named) {
            remove_attributes(path);
        }
    }
}

/// Removes the extended attributes of what is at `path`, and of the link there.
fn remove_attributes(path: &[u8]) {
    let Ok(path) = CString::new(path) else { return };
    for (list, remove) in [(libc::SYS_listxattr, libc::SYS_removexattr), (libc::SYS_llistxattr, libc::SYS_lremovexattr)]
    {
        let mut names = vec![0_u8; 1 << 16];
        let args = [path.as_ptr() as u64, names.as_mut_ptr() as u64, names.len() as u64, 0, 0, 0];
        // SAFETY: a path that ends, and a buffer of that length.
        let len = unsafe { raw::call(list.cast_unsigned(), args) };
        for name in names[..usize::try_from(len).unwrap_or(0)].split_inclusive(|byte| *byte == 0) {
            // SAFETY: two strings that end.
            unsafe { raw::call(remove.cast_unsigned(), [path.as_ptr() as u64, name.as_ptr() as u64, 0, 0, 0, 0]) };
        }
    }
}

/// Removes what outlives the workers that made it: System V objects, as `/proc/sysvipc` lists them.
fn remove_ipc() {
    for (list, nr, remove_at) in
        [("shm", libc::SYS_shmctl, 1), ("sem", libc::SYS_semctl, 2), ("msg", libc::SYS_msgctl, 1)]
    {
        let text = fs::read_to_string(format!("/proc/sysvipc/{list}")).unwrap_or_default();
        for id in text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()) {
            let mut args = [0; 6];
            args[0] = id;
            // IPC_RMID is 0, and so are all other arguments.
            args[remove_at] = libc::IPC_RMID as u64;
            // SAFETY: takes no pointer.
            unsafe { raw::call(nr as u64, args) };
        }
    }
}

/// Makes the tree anew.
pub(crate) fn reset(rng: &mut Rng) {
    remove_ipc();
    for &(folder, mode) in FOLDERS {
        let _ = fs::set_permissions(folder, fs::Permissions::from_mode(mode));
    }
    reset_nodes();
    let root = Path::new(ROOT);
    clear(root);
    clear(Path::new("/dev/shm"));
    clear(Path::new("/dev/mqueue"));
    let _ = fs::remove_dir(root);
    let _ = fs::remove_file(root);
    let _ = fs::DirBuilder::new().recursive(true).mode(0o777).create(root);
    let _ = fs::set_permissions(root, fs::Permissions::from_mode(0o777));
    for folder in ["d", "e", "d/sub"] {
        let _ = fs::create_dir(root.join(folder));
        let _ = fs::set_permissions(root.join(folder), fs::Permissions::from_mode(0o777));
    }
    let mut broken = program();
    for _ in 0..rng.below(6) {
        let at = usize::try_from(rng.below(120)).unwrap_or(0);
        broken[at] = rng.interesting().to_le_bytes()[0];
    }
    let interpreter =
        rng.pick(&["#!prog\n", "#!/tmp/casemate-fuzz/prog x y\n", "#!script\n", "#! \t\n", "#!broken", "#!/"]);
    let files: [(&str, &[u8]); 8] = [
        ("f", b"hello world, hello world, hello world\n"),
        ("big", &[b'z'; 40_000]),
        ("d/g", b"x"),
        ("d/sub/h", b""),
        ("prog", &program()),
        ("broken", &broken),
        ("script", interpreter.as_bytes()),
        ("good", b"#!/tmp/casemate-fuzz/prog -a\n"),
    ];
    for (name, bytes) in files {
        let _ = fs::write(root.join(name), bytes);
        let _ = fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o777));
    }
    let _ = fs::hard_link(root.join("f"), root.join("hard"));
    for (name, target) in
        [("link", "f"), ("dangling", "nothing"), ("loop", "loop"), ("dirlink", "d"), ("abs", "/tmp/casemate-fuzz/big")]
    {
        let _ = symlink(target, root.join(name));
    }
    mknod("fifo", libc::S_IFIFO);
}

fn mknod(name: &str, kind: u32) {
    if let Ok(path) = CString::new(format!("{ROOT}/{name}")) {
        // SAFETY: a path in the tree.
        unsafe { libc::mknod(path.as_ptr(), kind | 0o666, 0) };
    }
}

/// Opens descriptors of every kind at [`FIRST_FD`] and up; where one cannot be had, its number stays free.
pub(crate) fn open_all() {
    let mut next = FIRST_FD;
    let mut keep = |fd: i64| {
        if fd >= 0 {
            let fd = fd.cast_unsigned();
            // SAFETY: descriptors of this process.
            unsafe { raw::call(libc::SYS_dup2.cast_unsigned(), [fd, i64::from(next).cast_unsigned(), 0, 0, 0, 0]) };
            if fd >= END_FD.cast_unsigned().into() || fd < FIRST_FD.cast_unsigned().into() {
                // SAFETY: as above.
                unsafe { raw::call(libc::SYS_close.cast_unsigned(), [fd, 0, 0, 0, 0, 0]) };
            }
        }
        next += 1;
    };
    let nonblock = libc::O_NONBLOCK;
    let open = |path: &str, flags: i32| {
        let Ok(path) = CString::new(path) else { return -1 };
        // SAFETY: a path that ends.
        i64::from(unsafe { libc::open(path.as_ptr(), flags | nonblock, 0o666) })
    };
    keep(open("f", libc::O_RDWR));
    keep(open("f", libc::O_RDONLY));
    keep(open("f", libc::O_WRONLY | libc::O_APPEND));
    keep(open(".", libc::O_RDONLY));
    keep(open("d", libc::O_PATH));
    keep(open("link", libc::O_PATH | libc::O_NOFOLLOW));
    let pair = |nr: i64, args: [u64; 6], at: usize| {
        let mut fds = [-1_i32; 2];
        let mut args = args;
        args[at] = fds.as_mut_ptr() as u64;
        // SAFETY: the call fills two numbers.
        unsafe { raw::call(nr.cast_unsigned(), args) };
        fds
    };
    let flags = u64::from(nonblock.cast_unsigned());
    for fds in [
        pair(libc::SYS_pipe2, [0, flags, 0, 0, 0, 0], 0),
        pair(libc::SYS_pipe2, [0; 6], 0),
        pair(libc::SYS_socketpair, [1, 1 | flags, 0, 0, 0, 0], 3),
        pair(libc::SYS_socketpair, [1, 2, 0, 0, 0, 0], 3),
        pair(libc::SYS_socketpair, [1, 5 | flags, 0, 0, 0, 0], 3),
    ] {
        keep(fds[0].into());
        keep(fds[1].into());
    }
    // SAFETY: as the calls' pages say, without pointers but to constants.
    let made = |nr: i64, a: u64, b: u64, c: u64, d: u64| unsafe { raw::call(nr.cast_unsigned(), [a, b, c, d, 0, 0]) };
    keep(made(libc::SYS_eventfd2, 0, 0, 0, 0));
    keep(made(libc::SYS_eventfd2, 5, 1 | flags, 0, 0));
    keep(made(libc::SYS_timerfd_create, 1, flags, 0, 0));
    let set = u64::MAX;
    keep(made(libc::SYS_signalfd4, u64::MAX, &raw const set as u64, 8, flags));
    keep(made(libc::SYS_epoll_create1, 0, 0, 0, 0));
    keep(made(libc::SYS_epoll_create1, 0, 0, 0, 0));
    let event = [1_u32 | 4, 7, 0];
    made(libc::SYS_epoll_ctl, 31, 1, 16, event.as_ptr() as u64);
    made(libc::SYS_epoll_ctl, 31, 1, 20, event.as_ptr() as u64);
    keep(made(libc::SYS_memfd_create, c"m".as_ptr() as u64, 2, 0, 0));
    for (path, flags) in [
        ("/dev/null", libc::O_RDWR),
        ("/dev/zero", libc::O_RDWR),
        ("/dev/full", libc::O_RDWR),
        ("/dev/urandom", libc::O_RDONLY),
        ("/proc/self/status", libc::O_RDONLY),
        ("/proc/self", libc::O_RDONLY),
        ("/sys/devices/system/cpu", libc::O_RDONLY),
        ("/proc/self/maps", libc::O_RDONLY),
        ("fifo", libc::O_RDWR),
        ("/proc/self/mem", libc::O_RDWR),
        ("big", libc::O_RDWR),
        ("/usr/bin/true", libc::O_RDONLY),
        ("/usr/bin", libc::O_RDONLY),
        ("/dev/shm/fz1", libc::O_RDWR | libc::O_CREAT),
        ("/dev/ptmx", libc::O_RDWR),
        ("d", libc::O_TMPFILE | libc::O_RDWR),
    ] {
        keep(open(path, flags));
    }
    // SAFETY: takes no pointers.
    let pid = unsafe { libc::getpid() };
    keep(made(libc::SYS_pidfd_open, pid.cast_unsigned().into(), 0, 0, 0));
    keep(made(libc::SYS_socket, 1, 1 | flags, 0, 0));
    keep(made(libc::SYS_socket, 2, 1 | flags, 0, 0));
    keep(made(libc::SYS_socket, 2, 2 | flags, 0, 0));
    keep(made(libc::SYS_socket, 10, 1 | flags, 0, 0));
    keep(made(libc::SYS_socket, 16, 3 | flags, 0, 0));
    keep(made(libc::SYS_inotify_init1, flags, 0, 0, 0));
    // Named by number in the table of calls.
    let queue = (libc::O_RDWR | libc::O_CREAT).cast_unsigned().into();
    keep(made(libc::SYS_mq_open, c"q1".as_ptr() as u64, queue, 0o666, 0));
    keep(made(libc::SYS_mq_open, c"q2".as_ptr() as u64, queue | flags, 0o666, 0));
    let unlocked = 0_u32;
    made(libc::SYS_ioctl, MASTER, libc::TIOCSPTLCK, &raw const unlocked as u64, 0);
    let as_terminal = u64::from((libc::O_RDWR | libc::O_NOCTTY).cast_unsigned()) | flags;
    keep(made(libc::SYS_ioctl, MASTER, libc::TIOCGPTPEER, as_terminal, 0));
}

/// Number of the descriptor of the file `big`, to map, and of a file of the host.
pub(crate) const BIG: i32 = FIRST_FD + 33;
pub(crate) const HOST: i32 = FIRST_FD + 34;
