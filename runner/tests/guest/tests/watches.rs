//! inotify: instances, watches, and what they tell of what happens to files.

use std::ffi::CStr;
use std::os::unix::fs::PermissionsExt;

use casemate_guest_tests::{Scratch, sys};

/// An event: watch, mask, name.
type Event = (i32, u32, String);

struct Instance(i64);

impl Instance {
    fn new() -> Self {
        Self(sys!(inotify_init1, libc::IN_NONBLOCK | libc::IN_CLOEXEC).unwrap())
    }

    fn watch(&self, path: &CStr, mask: u32) -> Result<i32, i32> {
        sys!(inotify_add_watch, self.0, path.as_ptr(), mask).map(|wd| i32::try_from(wd).unwrap())
    }

    /// Everything that waits, with the cookies apart.
    fn events_and_cookies(&self) -> Vec<(Event, u32)> {
        let mut buffer = [0_u8; 8192];
        let n = match sys!(read, self.0, buffer.as_mut_ptr(), buffer.len()) {
            Ok(n) => usize::try_from(n).unwrap(),
            Err(libc::EAGAIN) => return Vec::new(),
            Err(other) => panic!("errno {other}"),
        };
        let mut rest = &buffer[..n];
        let mut all = Vec::new();
        while !rest.is_empty() {
            let word = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().unwrap());
            let len = usize::try_from(word(12)).unwrap();
            assert_eq!(len % 16, 0);
            let name = &rest[16..16 + len];
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let event = (word(0).cast_signed(), word(4), String::from_utf8(name.to_vec()).unwrap());
            all.push((event, word(8)));
            rest = &rest[16 + len..];
        }
        all
    }

    fn events(&self) -> Vec<Event> {
        self.events_and_cookies().into_iter().map(|(event, _)| event).collect()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        assert_eq!(sys!(close, self.0), Ok(0));
    }
}

fn event(wd: i32, mask: u32, name: &str) -> Event {
    (wd, mask, name.to_owned())
}

#[test]
fn instances_and_watches_are_numbered() {
    let scratch = Scratch::new("watches");
    let path = scratch.c_path("f");
    std::fs::write(scratch.path("f"), "x").unwrap();
    assert_eq!(sys!(inotify_init1, 1), Err(libc::EINVAL));
    let old = sys!(inotify_init).unwrap();
    assert_eq!(sys!(fcntl, old, libc::F_GETFL), Ok(0));
    assert_eq!(sys!(fcntl, old, libc::F_GETFD), Ok(0));
    assert_eq!(sys!(close, old), Ok(0));

    let instance = Instance::new();
    assert_eq!(sys!(fcntl, instance.0, libc::F_GETFL), Ok(i64::from(libc::O_NONBLOCK)));
    assert_eq!(sys!(fcntl, instance.0, libc::F_GETFD), Ok(1));
    assert_eq!(sys!(write, instance.0, b"x".as_ptr(), 1), Err(libc::EBADF));
    assert_eq!(instance.watch(&path, 0), Err(libc::EINVAL));
    assert_eq!(instance.watch(&path, libc::IN_OPEN | 0x0080_0000), Err(libc::EINVAL));
    assert_eq!(instance.watch(&path, libc::IN_OPEN | libc::IN_MASK_ADD | libc::IN_MASK_CREATE), Err(libc::EINVAL));
    assert_eq!(instance.watch(&scratch.c_path("none"), libc::IN_OPEN), Err(libc::ENOENT));
    assert_eq!(instance.watch(&path, libc::IN_OPEN | libc::IN_ONLYDIR), Err(libc::ENOTDIR));
    assert_eq!(sys!(inotify_add_watch, 0, path.as_ptr(), libc::IN_OPEN), Err(libc::EINVAL));
    assert_eq!(sys!(inotify_add_watch, 9999, path.as_ptr(), libc::IN_OPEN), Err(libc::EBADF));

    assert_eq!(instance.watch(&path, libc::IN_OPEN), Ok(1));
    assert_eq!(instance.watch(&path, libc::IN_MODIFY), Ok(1));
    assert_eq!(instance.watch(&path, libc::IN_MODIFY | libc::IN_MASK_CREATE), Err(libc::EEXIST));
    assert_eq!(instance.watch(&path, libc::IN_CLOSE_WRITE | libc::IN_MASK_ADD), Ok(1));
    std::fs::write(scratch.path("f"), "y").unwrap();
    // Truncated, written: one event. Not opened: that was asked for before.
    assert_eq!(instance.events(), [event(1, libc::IN_MODIFY, ""), event(1, libc::IN_CLOSE_WRITE, "")]);
    assert_eq!(sys!(inotify_rm_watch, instance.0, 1), Ok(0));
    assert_eq!(sys!(inotify_rm_watch, instance.0, 1), Err(libc::EINVAL));
    assert_eq!(sys!(inotify_rm_watch, 0, 1), Err(libc::EINVAL));
    assert_eq!(instance.events(), [event(1, libc::IN_IGNORED, "")]);
    assert_eq!(instance.watch(&path, libc::IN_OPEN), Ok(2));

    // Read by pieces, counted, too small a buffer.
    assert_eq!(instance.watch(&scratch.c_path("."), libc::IN_CREATE), Ok(3));
    std::fs::File::open(scratch.path("f")).unwrap();
    std::fs::write(scratch.path("new name that is long"), "").unwrap();
    let mut waiting = 0_i32;
    assert_eq!(sys!(ioctl, instance.0, libc::FIONREAD, &raw mut waiting), Ok(0));
    assert_eq!(waiting, 16 + 16 + 32);
    let mut buffer = [0_u8; 47];
    assert_eq!(sys!(read, instance.0, buffer.as_mut_ptr(), 15), Err(libc::EINVAL));
    assert_eq!(sys!(read, instance.0, buffer.as_mut_ptr(), 47), Ok(16));
    assert_eq!(sys!(read, instance.0, buffer.as_mut_ptr(), 47), Err(libc::EINVAL));
    assert_eq!(instance.events(), [event(3, libc::IN_CREATE, "new name that is long")]);
}

#[test]
fn directories_tell_of_their_entries() {
    let scratch = Scratch::new("watched");
    let at = |name: &str| scratch.path(name);
    std::fs::create_dir(at("d")).unwrap();
    std::fs::create_dir(at("e")).unwrap();
    let instance = Instance::new();
    let d = instance.watch(&scratch.c_path("d"), libc::IN_ALL_EVENTS).unwrap();
    let e = instance.watch(&scratch.c_path("e"), libc::IN_ALL_EVENTS).unwrap();
    assert_eq!((d, e), (1, 2));

    std::fs::write(at("d/f"), "text").unwrap();
    assert_eq!(
        instance.events(),
        [
            event(d, libc::IN_CREATE, "f"),
            event(d, libc::IN_OPEN, "f"),
            event(d, libc::IN_MODIFY, "f"),
            event(d, libc::IN_CLOSE_WRITE, "f")
        ]
    );
    std::fs::read(at("d/f")).unwrap();
    assert_eq!(
        instance.events(),
        [event(d, libc::IN_OPEN, "f"), event(d, libc::IN_ACCESS, "f"), event(d, libc::IN_CLOSE_NOWRITE, "f")]
    );
    std::fs::set_permissions(at("d/f"), std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::hard_link(at("d/f"), at("e/g")).unwrap();
    assert_eq!(instance.events(), [event(d, libc::IN_ATTRIB, "f"), event(e, libc::IN_CREATE, "g")]);
    std::fs::create_dir(at("d/sub")).unwrap();
    std::os::unix::fs::symlink("f", at("d/link")).unwrap();
    assert_eq!(
        instance.events(),
        [event(d, libc::IN_CREATE | libc::IN_ISDIR, "sub"), event(d, libc::IN_CREATE, "link")]
    );

    std::fs::rename(at("d/f"), at("e/h")).unwrap();
    let moved = instance.events_and_cookies();
    let [(from, first), (to, second)] = moved.as_slice() else { panic!("{moved:?}") };
    assert_eq!((from, to), (&event(d, libc::IN_MOVED_FROM, "f"), &event(e, libc::IN_MOVED_TO, "h")));
    assert!(first == second && *first != 0);
    std::fs::rename(at("d/sub"), at("d/bus")).unwrap();
    assert_eq!(
        instance.events(),
        [event(d, libc::IN_MOVED_FROM | libc::IN_ISDIR, "sub"), event(d, libc::IN_MOVED_TO | libc::IN_ISDIR, "bus")]
    );

    std::fs::remove_file(at("e/h")).unwrap();
    std::fs::remove_dir(at("d/bus")).unwrap();
    std::fs::remove_file(at("d/link")).unwrap();
    assert_eq!(
        instance.events(),
        [
            event(e, libc::IN_DELETE, "h"),
            event(d, libc::IN_DELETE | libc::IN_ISDIR, "bus"),
            event(d, libc::IN_DELETE, "link")
        ]
    );
    std::fs::remove_file(at("e/g")).unwrap();
    std::fs::remove_dir(at("e")).unwrap();
    assert_eq!(
        instance.events(),
        [event(e, libc::IN_DELETE, "g"), event(e, libc::IN_DELETE_SELF, ""), event(e, libc::IN_IGNORED, "")]
    );
    let names: Vec<_> = std::fs::read_dir(at("d")).unwrap().collect();
    assert_eq!(names.len(), 0);
    let listed = instance.events();
    let isdir = libc::IN_ISDIR;
    assert_eq!(listed.first(), Some(&event(d, libc::IN_OPEN | isdir, "")));
    assert!(listed.contains(&event(d, libc::IN_ACCESS | isdir, "")));
    assert_eq!(listed.last(), Some(&event(d, libc::IN_CLOSE_NOWRITE | isdir, "")));
}

#[test]
fn files_tell_of_themselves() {
    let scratch = Scratch::new("watched-files");
    let at = |name: &str| scratch.path(name);
    std::fs::write(at("f"), "text").unwrap();
    std::fs::write(at("other"), "text").unwrap();
    let instance = Instance::new();
    let f = instance.watch(&scratch.c_path("f"), libc::IN_ALL_EVENTS).unwrap();

    std::fs::rename(at("f"), at("g")).unwrap();
    assert_eq!(instance.events(), [event(f, libc::IN_MOVE_SELF, "")]);
    let file = std::fs::File::options().write(true).open(at("g")).unwrap();
    file.set_len(2).unwrap();
    assert_eq!(instance.events(), [event(f, libc::IN_OPEN, ""), event(f, libc::IN_MODIFY, "")]);
    // Its last name goes while it is open: it is gone when it is closed.
    std::fs::rename(at("other"), at("g")).unwrap();
    assert_eq!(instance.events(), [event(f, libc::IN_ATTRIB, "")]);
    drop(file);
    assert_eq!(
        instance.events(),
        [event(f, libc::IN_CLOSE_WRITE, ""), event(f, libc::IN_DELETE_SELF, ""), event(f, libc::IN_IGNORED, "")]
    );

    // A watch for one event.
    let once = instance.watch(&scratch.c_path("g"), libc::IN_ATTRIB | libc::IN_ONESHOT).unwrap();
    std::fs::set_permissions(at("g"), std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(at("g"), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(instance.events(), [event(once, libc::IN_ATTRIB, ""), event(once, libc::IN_IGNORED, "")]);
}

#[test]
fn entries_without_a_name_are_left_out_on_request() {
    let scratch = Scratch::new("watched-unlinked");
    let instance = Instance::new();
    let wd = instance.watch(&scratch.c_path("."), libc::IN_MODIFY | libc::IN_EXCL_UNLINK).unwrap();
    let mut file = std::fs::File::create(scratch.path("f")).unwrap();
    std::io::Write::write_all(&mut file, b"x").unwrap();
    assert_eq!(instance.events(), [event(wd, libc::IN_MODIFY, "f")]);
    std::fs::remove_file(scratch.path("f")).unwrap();
    std::io::Write::write_all(&mut file, b"x").unwrap();
    assert_eq!(instance.events(), []);
}

#[test]
fn readers_wait_for_events() {
    let scratch = Scratch::new("watched-waiting");
    let fd = sys!(inotify_init1, 0).unwrap();
    assert_eq!(sys!(inotify_add_watch, fd, scratch.c_path(".").as_ptr(), libc::IN_CREATE), Ok(1));
    let mut poll = libc::pollfd { fd: i32::try_from(fd).unwrap(), events: libc::POLLIN | libc::POLLOUT, revents: 0 };
    assert_eq!(sys!(poll, &raw mut poll, 1, 0), Ok(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut buffer = [0_u8; 100];
            sys!(read, fd, buffer.as_mut_ptr(), buffer.len())
        });
        std::fs::write(scratch.path("f"), "").unwrap();
        assert_eq!(reader.join().unwrap(), Ok(32));
    });
    std::fs::write(scratch.path("g"), "").unwrap();
    assert_eq!(sys!(poll, &raw mut poll, 1, u64::MAX), Ok(1));
    assert_eq!(poll.revents, libc::POLLIN);
    assert_eq!(sys!(close, fd), Ok(0));
}

#[test]
fn bounds_are_told() {
    for bound in ["inotify/max_queued_events", "inotify/max_user_instances", "inotify/max_user_watches"] {
        let text = std::fs::read_to_string(format!("/proc/sys/fs/{bound}")).unwrap();
        assert!(text.trim().parse::<u64>().unwrap() > 0, "{bound}");
    }
    let text = std::fs::read_to_string("/proc/sys/fs/epoll/max_user_watches").unwrap();
    assert!(text.trim().parse::<u64>().unwrap() > 0);
}
