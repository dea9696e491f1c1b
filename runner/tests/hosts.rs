//! Hosts that offer less: what containers, hardened distributions, careful callers and broken ones take away. Each gives a
//! working run, or one line that says what is missing, with status 125; never a hang, a panic or something left behind.
//!
//! A restriction is applied to the child between fork and exec, as a container runtime does it.

mod common;

use std::ffi::CStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use common::{As, Done, casemate, command, finish, shared_binary};

const SCRIPT: &str = "echo $((6*7)); ls / | grep -c usr; (exit 3) || echo no; sleep 0.01 & wait; exit 7";

/// The program ran as it does anywhere.
fn works(what: &str, done: &Done) {
    assert_eq!((done.out.as_str(), done.status), ("42\n1\nno\n", Some(7)), "{what}: {done:?}");
}

/// One line, status 125, and `words` in it.
fn refused(what: &str, done: &Done, words: &str) {
    assert_eq!((done.out.as_str(), done.status), ("", Some(125)), "{what}: {done:?}");
    assert!(done.err.lines().count() == 1 && done.err.starts_with("casemate: "), "{what}: {done:?}");
    assert!(done.err.contains(words), "{what}: {done:?}");
}

/// Without what `--isolation=seccomp` says about itself.
fn last_line(done: &Done) -> Done {
    let err = done.err.lines().last().unwrap_or("").to_owned();
    Done { status: done.status, signal: done.signal, out: done.out.clone(), err }
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A user of this file's own, so that the limits of others' tests do not meet.
const USER: u32 = 61_234;

/// Takes something away in the child, while it is still root.
type Step = Box<dyn Fn() -> io::Result<()> + Send + Sync>;

/// A host with less.
struct Host {
    /// As this user instead of root.
    user: Option<u32>,
    steps: Vec<Step>,
    filter: Vec<libc::sock_filter>,
}

impl Host {
    /// The host as the tests' own user has it.
    fn mine() -> Self {
        Self { user: None, steps: Vec::new(), filter: Vec::new() }
    }

    /// As an ordinary user, whoever runs the tests.
    fn user() -> Self {
        Self::another_user(USER)
    }

    /// As one that no other test is, so that only this test's processes count.
    fn another_user(user: u32) -> Self {
        Self { user: is_root().then_some(user), ..Self::mine() }
    }

    fn step(mut self, step: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        self.steps.push(Box::new(step));
        self
    }

    /// Soft and hard limit.
    fn limit(self, resource: libc::__rlimit_resource_t, value: u64) -> Self {
        self.step(move || {
            let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
            // SAFETY: 1. the structure lives across the call.
            check(unsafe { libc::setrlimit(resource, &raw const limit) }.into()).map(drop)
        })
    }

    /// A mount namespace of its own in which `change` may do as it likes.
    fn mounts(self, change: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        self.step(move || {
            // SAFETY: 1. flags alone.
            check(unsafe { libc::unshare(libc::CLONE_NEWNS) }.into())?;
            mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE)?;
            change()
        })
    }

    /// `errno` for each of `calls`.
    fn without(mut self, calls: &[libc::c_long], errno: i32) -> Self {
        if self.filter.is_empty() {
            self.filter.push(load(0));
        }
        for &call in calls {
            self.filter.push(jump(BPF_JEQ, call, 0, 1));
            self.filter.push(answer(SECCOMP_RET_ERRNO | errno.unsigned_abs()));
        }
        self
    }

    /// `errno` for clone and unshare with any of `flags`; no clone3, whose flags no filter can see.
    fn without_namespaces(self, flags: i32, errno: i32) -> Self {
        let mut host = self.without(&[libc::SYS_clone3], libc::ENOSYS);
        for call in [libc::SYS_clone, libc::SYS_unshare] {
            host.filter.push(jump(BPF_JEQ, call, 0, 4));
            host.filter.push(load(16));
            host.filter.push(jump(BPF_JSET, flags.into(), 0, 1));
            host.filter.push(answer(SECCOMP_RET_ERRNO | errno.unsigned_abs()));
            host.filter.push(load(0));
        }
        host
    }

    /// `casemate ARGS` there.
    fn command(self, args: &[&str]) -> Command {
        let mut command = if self.user.is_some() { Command::new(shared_binary()) } else { Command::new(casemate()) };
        command.args(args).current_dir("/");
        let Self { user, steps, mut filter } = self;
        if !filter.is_empty() {
            filter.push(answer(SECCOMP_RET_ALLOW));
        }
        let before_exec = move || {
            steps.iter().try_for_each(|step| step())?;
            if let Some(user) = user {
                // SAFETY: 1. no group is read. 2. and 3. numbers alone.
                check(unsafe { libc::setgroups(0, std::ptr::null()) }.into())?;
                // SAFETY: as above.
                check(unsafe { libc::setgid(user) }.into())?;
                // SAFETY: as above.
                check(unsafe { libc::setuid(user) }.into())?;
            }
            if filter.is_empty() { Ok(()) } else { install(&filter) }
        };
        // SAFETY: 1. the child has this one thread; its steps make system calls and do not allocate.
        unsafe { command.pre_exec(before_exec) };
        command
    }

    fn run(self, options: &[&str]) -> Done {
        finish(self.command(&[&["run"], options, &["--", "/bin/bash", "-c", SCRIPT]].concat()), b"")
    }
}

fn mount(source: Option<&CStr>, target: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    let source = source.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: 1. C strings that live across the call, or null where nothing is read.
    check(unsafe { libc::mount(source, target.as_ptr(), std::ptr::null(), flags, std::ptr::null()) }.into()).map(drop)
}

const BPF_LD: u16 = 0x20;
const BPF_JEQ: u16 = 0x15;
const BPF_JSET: u16 = 0x45;
const BPF_RET: u16 = 0x06;
const SECCOMP_RET_ERRNO: u32 = 0x0005_0000;
const SECCOMP_RET_ALLOW: u32 = 0x7fff_0000;

/// Loads a word of `struct seccomp_data`: 0 is the number, 16 the first argument's lower half.
fn load(offset: u32) -> libc::sock_filter {
    libc::sock_filter { code: BPF_LD, jt: 0, jf: 0, k: offset }
}

fn jump(code: u16, value: libc::c_long, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k: u32::try_from(value).expect("a number or flags") }
}

fn answer(value: u32) -> libc::sock_filter {
    libc::sock_filter { code: BPF_RET, jt: 0, jf: 0, k: value }
}

fn install(filter: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(filter.len()).unwrap_or(u16::MAX);
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: 1. numbers alone.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
    // SAFETY: 1. program and instructions live across the call, which copies them.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) }.into()).map(drop)
}

/// Every namespace that a sandbox makes.
const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

const MOUNTING: [libc::c_long; 7] = [
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_fsopen,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
];

const SECCOMP: &[&str] = &["--isolation=seccomp"];

/// As with `kernel.unprivileged_userns_clone=0`, `user.max_user_namespaces=0` and most containers.
#[test]
fn no_user_namespaces() {
    for errno in [libc::EPERM, libc::ENOSPC] {
        let host = || Host::user().without_namespaces(libc::CLONE_NEWUSER, errno);
        refused("a user", &host().run(&[]), "--isolation=seccomp");
        works("a user, seccomp alone", &host().run(SECCOMP));
        if is_root() {
            works("root goes on without", &Host::mine().without_namespaces(libc::CLONE_NEWUSER, errno).run(&[]));
        }
    }
}

#[test]
fn no_namespaces_at_all() {
    for host in [Host::mine, Host::user] {
        refused("default", &host().without_namespaces(NAMESPACES, libc::EPERM).run(&[]), "--isolation=seccomp");
        works("seccomp alone", &host().without_namespaces(NAMESPACES, libc::EPERM).run(SECCOMP));
    }
}

/// As a container's default profile has it, and AppArmor where it strips user namespaces.
#[test]
fn no_mounts() {
    for host in [Host::mine, Host::user] {
        for errno in [libc::EPERM, libc::EACCES] {
            refused("default", &host().without(&MOUNTING, errno).run(&[]), "--isolation=seccomp");
            works("seccomp alone", &host().without(&MOUNTING, errno).run(SECCOMP));
        }
    }
}

/// No namespaces, no mounts, no clone3, root without privileges: the inside of an ordinary container.
#[test]
fn a_container() {
    for host in [Host::mine, Host::user] {
        let host = || host().without_namespaces(NAMESPACES, libc::EPERM).without(&MOUNTING, libc::EPERM);
        refused("default", &host().run(&[]), "--isolation=seccomp");
        works("seccomp alone", &host().run(SECCOMP));
        let doctor = finish(host().command(&["doctor"]), b"");
        assert!(doctor.out.contains("--isolation=seccomp"), "{doctor:?}");
    }
}

#[test]
fn no_seccomp() {
    let calls = [libc::SYS_seccomp];
    for options in [&[], SECCOMP] {
        let done = Host::user().without(&calls, libc::ENOSYS).run(options);
        assert_eq!((done.out.as_str(), done.status), ("", Some(125)), "{done:?}");
        assert!(done.err.lines().all(|line| line.starts_with("casemate: ")), "{done:?}");
    }
}

#[test]
fn no_memory_files() {
    let host = || Host::user().without(&[libc::SYS_memfd_create], libc::EACCES);
    refused("memfd_create", &host().run(&[]), "casemate doctor");
    let doctor = finish(host().command(&["doctor"]), b"");
    assert!(doctor.status == Some(1) && doctor.out.contains("FAIL  memory file"), "{doctor:?}");
}

#[test]
fn proc_that_cannot_be_written() {
    if !is_root() {
        return;
    }
    let read_only = || {
        mount(Some(c"/proc"), c"/proc", libc::MS_BIND)?;
        mount(None, c"/proc", libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY)
    };
    for host in [Host::mine, Host::user] {
        refused("default", &host().mounts(read_only).run(&[]), "id maps");
        works("seccomp alone", &host().mounts(read_only).run(SECCOMP));
    }
}

#[test]
fn no_proc() {
    if !is_root() {
        return;
    }
    let unmount = || {
        // SAFETY: 1. a C string that lives across the call.
        check(unsafe { libc::umount2(c"/proc".as_ptr(), libc::MNT_DETACH) }.into()).map(drop)
    };
    for host in [Host::mine, Host::user] {
        for options in [&[], SECCOMP] {
            refused("no /proc", &last_line(&host().mounts(unmount).run(options)), "/proc");
        }
        let doctor = finish(host().mounts(unmount).command(&["doctor"]), b"");
        assert!(doctor.out.contains("/proc"), "{doctor:?}");
    }
}

#[test]
fn hard_limits() {
    for host in [Host::mine, Host::user] {
        for options in [&[], SECCOMP] {
            let run = |resource, value| host().limit(resource, value).run(options);
            works("256 descriptors", &run(libc::RLIMIT_NOFILE, 256));
            works("128 descriptors", &run(libc::RLIMIT_NOFILE, 128));
            refused("16 descriptors", &last_line(&run(libc::RLIMIT_NOFILE, 16)), "ulimit -Hn");
            refused("4 GiB of addresses", &last_line(&run(libc::RLIMIT_AS, 4 << 30)), "ulimit -Hv");
            refused("files of 1 MiB", &last_line(&run(libc::RLIMIT_FSIZE, 1 << 20)), "ulimit -Hf");
            works("no locked memory", &run(libc::RLIMIT_MEMLOCK, 0));
            works("no pending signals", &run(libc::RLIMIT_SIGPENDING, 0));
            works("no message queues", &run(libc::RLIMIT_MSGQUEUE, 0));
            works("a stack of 64 KiB", &run(libc::RLIMIT_STACK, 64 << 10));
            works("no core files", &run(libc::RLIMIT_CORE, 0));
        }
    }
}

/// Soft limits are the guest's, and the sandbox takes what the hard ones allow.
#[test]
fn soft_limits_are_the_guests() {
    for (resource, option) in [(libc::RLIMIT_AS, "v"), (libc::RLIMIT_FSIZE, "f"), (libc::RLIMIT_NOFILE, "n")] {
        let host = Host::user().step(move || {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: 1. the structure lives across the call.
            check(unsafe { libc::getrlimit(resource, &raw mut limit) }.into())?;
            limit.rlim_cur = if option == "n" { 20 } else { 100 << 20 };
            // SAFETY: as above.
            check(unsafe { libc::setrlimit(resource, &raw const limit) }.into()).map(drop)
        });
        let script = format!("ulimit -S{option}");
        let done = finish(host.command(&["run", "--", "/bin/bash", "-c", &script]), b"");
        let expected = if option == "n" { "20\n" } else { "102400\n" };
        assert_eq!((done.out.as_str(), done.status), (expected, Some(0)), "{done:?}");
    }
}

/// Processes run out on the host before `--pids` is reached: EAGAIN inside, and all that runs goes on.
#[test]
fn the_host_runs_out_of_tasks() {
    let script = "import os, errno, signal\n\
        children = []\n\
        try:\n    \
            while True:\n        \
                pid = os.fork()\n        \
                if pid == 0: signal.pause()\n        \
                children.append(pid)\n\
        except OSError as error: print(error.errno == errno.EAGAIN, 5 < len(children) < 200)\n\
        for pid in children: os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)\n\
        while True:\n    \
            try: pid = os.fork(); break\n    \
            except OSError as error: assert error.errno == errno.EAGAIN\n\
        if pid == 0: os._exit(5)\n\
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)\n";
    if !is_root() {
        // The caller's own processes count too.
        return;
    }
    for options in [&[], SECCOMP] {
        let host = Host::another_user(USER + 1).limit(libc::RLIMIT_NPROC, 200);
        let args = [&["run"], options, &["--", "/usr/bin/python3", "-c", script]].concat();
        let done = finish(host.command(&args), b"");
        assert_eq!((done.out.as_str(), done.status), ("True True\n5\n", Some(0)), "{done:?}");
    }
}

#[test]
fn the_host_has_no_tasks_at_all() {
    if !is_root() {
        return;
    }
    for allowed in [2, 4, 8, 12] {
        let done = Host::another_user(USER + 2).limit(libc::RLIMIT_NPROC, allowed).run(&[]);
        // Where it starts, its shell is refused a fork.
        if done.status != Some(254) {
            refused(&format!("{allowed} tasks"), &done, "");
        }
    }
}

#[test]
fn an_empty_environment() {
    for host in [Host::mine, Host::user] {
        let mut command = host().command(&["run", "--", "/bin/bash", "-c", SCRIPT]);
        command.env_clear();
        works("no environment", &finish(command, b""));
    }
}

#[test]
fn a_working_directory_that_is_gone() {
    let dir = std::env::temp_dir().join(format!("casemate-gone-{}", std::process::id()));
    std::fs::create_dir(&dir).expect("directory");
    let gone = std::ffi::CString::new(dir.to_str().expect("UTF-8")).expect("no zero");
    let host = Host::mine().step(move || {
        // SAFETY: 1. a C string that lives across the calls.
        check(unsafe { libc::chdir(gone.as_ptr()) }.into())?;
        // SAFETY: as above.
        check(unsafe { libc::rmdir(gone.as_ptr()) }.into()).map(drop)
    });
    works("gone", &host.run(&[]));
    assert!(!dir.exists());
}

#[test]
fn closed_streams() {
    for closed in [0_i32, 1, 2] {
        let close = move || {
            // SAFETY: 1. std has set the streams up already; nothing in the child uses them.
            check(unsafe { libc::close(closed) }.into()).map(drop)
        };
        let done = Host::mine().step(close).run(&[]);
        // bash says what it cannot write, where it can.
        let out = if closed == 1 { "" } else { "42\n1\nno\n" };
        assert_eq!((done.out.as_str(), done.status), (out, Some(7)), "{closed}: {done:?}");
    }
    let mut none = Host::mine().command(&["run", "--", "/bin/sh", "-c", "exit 7"]);
    none.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert_eq!(none.status().expect("starts").code(), Some(7));
}

/// The same lines hold when it is not a test that takes things away.
#[test]
fn nothing_taken_away() {
    works("as it is", &finish(command(As::Me, &["run", "--", "/bin/bash", "-c", SCRIPT]), b""));
}
