//! How another `casemate` of the same user reaches a running sandbox: `casemate pause`, `casemate resume`.
//!
//! A launcher listens at a UNIX socket whose abstract name says its user and its sandbox's name. Such a socket is no file:
//! it ends with its process, however that ends, so nothing can be left over. Names are one space for all users of a
//! network namespace, so both sides ask the host who the other is: a launcher serves its own user and root, and
//! a command speaks to nobody else.
//!
//! ```text
//! casemate pause NAME            launcher                     sandbox process
//!   connect, request ──────────▶ whose? ── order ───────────▶ stops all tasks
//!   print, exit ◀────── answer ◀──────────── report ◀──────── done
//! ```
//! The sandbox process has no part of this but the order and its report: the sockets are the launcher's alone.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use crate::failure::{Doing, Failure, Outcome};

/// Most visitors that a launcher listens to at once; further ones wait outside.
const MOST_VISITORS: usize = 16;
/// Longest name of a sandbox.
const MAX_NAME: usize = 64;
/// Largest packet in bytes.
const LARGEST: usize = 512;

/// What a visitor asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    /// Stop all tasks.
    Pause,
    /// Take one pause back.
    Resume,
}

impl Request {
    fn tag(self) -> u8 {
        match self {
            Self::Pause => b'P',
            Self::Resume => b'R',
        }
    }

    fn from_tag(tag: u8) -> Option<Self> {
        [Self::Pause, Self::Resume].into_iter().find(|request| request.tag() == tag)
    }
}

/// A sandbox's name: letters, digits, `_`, `.` and `-`, beginning with a letter or digit. One that was given none goes
/// by the number of its launcher's process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Name(String);

impl Name {
    /// As written on a command line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let fits = (1..=MAX_NAME).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if fits { Ok(Self(text.to_owned())) } else { Err(format!("1 to {MAX_NAME} letters, digits, '_', '.' and '-'")) }
    }

    /// A name that the user chose: no number, which would be some launcher's.
    pub(crate) fn parse_chosen(text: &str) -> Result<Self, String> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("a number is the name of a sandbox that was given none".to_owned());
        }
        Self::parse(text)
    }

    /// Of a sandbox that was given none.
    fn of_this_process() -> Self {
        Self(std::process::id().to_string())
    }

    fn address(&self, uid: u32) -> io::Result<SocketAddrUnix> {
        Ok(SocketAddrUnix::new_abstract_name(OsStr::new(&format!("casemate/{uid}/{}", self.0)).as_bytes())?)
    }
}

/// Whether the other end of `socket` is this user or root.
fn is_ours(socket: &OwnedFd) -> bool {
    rustix::net::sockopt::socket_peercred(socket)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

/// A visitor whose request is being carried out.
struct Waiting {
    socket: OwnedFd,
    request: Request,
}

/// The launcher's side.
pub(crate) struct Door {
    listener: OwnedFd,
    /// Those who have not asked yet.
    visitors: Vec<OwnedFd>,
    /// Those who have, in the order in which the sandbox process answers.
    waiting: VecDeque<Waiting>,
    /// Pauses that hold, counting those that were asked for.
    pauses: u32,
}

impl Door {
    /// Opens the door of the sandbox `name`. None, and a line in the log, if a sandbox without a name cannot have one: it runs
    /// as well without.
    pub(crate) fn open(name: Option<&Name>) -> Outcome<Option<Self>> {
        let opened = Self::listen(&name.cloned().unwrap_or_else(Name::of_this_process));
        match (opened, name) {
            (Ok(door), _) => Ok(Some(door)),
            (Err(error), Some(Name(name))) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(Failure::ours(format!("--name {name}: another sandbox has this name")))
            }
            (Err(error), Some(Name(name))) => Err(Failure::ours(format!("--name {name}: {error}"))),
            (Err(error), None) => {
                log::warn!("no control socket: {error}");
                Ok(None)
            }
        }
    }

    fn listen(name: &Name) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::bind(&listener, &name.address(rustix::process::geteuid().as_raw())?)?;
        rustix::net::listen(&listener, 8)?;
        Ok(Self { listener, visitors: Vec::new(), waiting: VecDeque::new(), pauses: 0 })
    }

    /// What to wait for, for [`Self::serve`].
    pub(crate) fn interests(&self) -> Vec<PollFd<'_>> {
        let flags = if self.visitors.len() < MOST_VISITORS { PollFlags::IN } else { PollFlags::empty() };
        std::iter::once(PollFd::from_borrowed_fd(self.listener.as_fd(), flags))
            .chain(self.visitors.iter().map(|visitor| PollFd::new(visitor, PollFlags::IN)))
            .collect()
    }

    /// Lets visitors in and hears them; `order` is told what the sandbox process shall do, in order. Never waits.
    pub(crate) fn serve(&mut self, mut order: impl FnMut(Request)) {
        for visitor in std::mem::take(&mut self.visitors) {
            match receive(visitor.as_fd(), RecvFlags::DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.visitors.push(visitor),
                Ok(packet) => self.ask(visitor, packet.first().copied().and_then(Request::from_tag), &mut order),
                Err(_) => {}
            }
        }
        while self.visitors.len() < MOST_VISITORS {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(visitor) = rustix::net::accept_with(&self.listener, flags) else { break };
            if is_ours(&visitor) {
                self.visitors.push(visitor);
            }
        }
    }

    fn ask(&mut self, socket: OwnedFd, request: Option<Request>, order: &mut impl FnMut(Request)) {
        match request {
            // Gone, or of another version.
            None => answer(&socket, Err("unknown request")),
            Some(_) if self.waiting.len() >= MOST_VISITORS => answer(&socket, Err("busy")),
            Some(Request::Resume) if self.pauses == 0 => answer(&socket, Err("it is not paused")),
            Some(request) => {
                self.pauses = match request {
                    Request::Pause => self.pauses.saturating_add(1),
                    Request::Resume => self.pauses.saturating_sub(1),
                };
                order(request);
                self.waiting.push_back(Waiting { socket, request });
            }
        }
    }

    /// The sandbox process has done what was asked for first.
    pub(crate) fn done(&mut self) {
        let Some(Waiting { socket, request }) = self.waiting.pop_front() else { return };
        let left = match request {
            Request::Resume if self.pauses > 0 => format!("still paused, by {} more", self.pauses),
            Request::Pause | Request::Resume => String::new(),
        };
        answer(&socket, Ok(&left));
    }
}

/// A visitor who is gone misses the answer.
fn answer(socket: &OwnedFd, outcome: Result<&str, &str>) {
    let (tag, text) = match outcome {
        Ok(text) => (b'+', text),
        Err(text) => (b'-', text),
    };
    let mut packet = vec![tag];
    packet.extend_from_slice(text.as_bytes());
    let _ = rustix::net::send(socket, &packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

fn receive(socket: BorrowedFd<'_>, flags: RecvFlags) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; LARGEST];
    let (length, _) = rustix::io::retry_on_intr(|| rustix::net::recv(socket, buffer.as_mut_slice(), flags))?;
    buffer.truncate(length);
    Ok(buffer)
}

/// The visitor's side: asks the sandbox `name` and waits until it is done. A remark for the user, mostly empty.
pub(crate) fn visit(name: &Name, request: Request) -> Outcome<String> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).doing("socket")?;
    let address = name.address(rustix::process::geteuid().as_raw()).doing(&name.0)?;
    let nobody = || Failure::ours(format!("{}: no sandbox of this name is running", name.0));
    rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address)).map_err(|error| match error {
        rustix::io::Errno::CONNREFUSED => nobody(),
        error => Failure::ours(format!("{}: {error}", name.0)),
    })?;
    if !is_ours(&socket) {
        return Err(nobody());
    }
    rustix::net::send(&socket, &[request.tag()], SendFlags::NOSIGNAL).doing(&name.0)?;
    let packet = receive(socket.as_fd(), RecvFlags::empty()).doing(&name.0)?;
    let text = String::from_utf8_lossy(packet.get(1..).unwrap_or_default()).into_owned();
    match packet.first() {
        Some(b'+') => Ok(text),
        Some(b'-') => Err(Failure::ours(format!("{}: {text}", name.0))),
        _ => Err(Failure::ours(format!("{}: the sandbox has ended", name.0))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Door, MAX_NAME, MOST_VISITORS, Name, Request, visit};

    fn name(suffix: &str) -> Name {
        Name::parse(&format!("test-{}-{suffix}", std::process::id())).expect("a name")
    }

    /// Serves until `answers` requests have been carried out, each at once.
    fn serve(door: &mut Door, mut answers: usize) {
        while answers > 0 {
            let mut set = door.interests();
            rustix::event::poll(&mut set, None).expect("poll");
            let mut asked = 0;
            door.serve(|_| asked += 1);
            (0..asked).for_each(|_| door.done());
            answers -= asked;
        }
    }

    #[test]
    fn names() {
        assert!(Name::parse("web-1.a_b").is_ok());
        assert!(Name::parse("17").is_ok() && Name::parse_chosen("17").is_err());
        for bad in ["", "-x", ".x", "a/b", "a b", "ä", &"x".repeat(MAX_NAME + 1)] {
            assert!(Name::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn requests_are_answered_and_pauses_nest() {
        let name = name("nest");
        let mut door = Door::open(Some(&name)).expect("opens").expect("a door");
        assert!(Door::open(Some(&name)).is_err(), "a name is one sandbox's");
        let visitor = std::thread::spawn(move || {
            let requests = [Request::Pause, Request::Pause, Request::Resume, Request::Resume, Request::Resume];
            requests.map(|request| visit(&name, request).map_err(|failure| failure.to_string()))
        });
        serve(&mut door, 4);
        // The last one is refused by the launcher itself.
        while !visitor.is_finished() {
            let mut set = door.interests();
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            rustix::event::poll(&mut set, Some(&now)).expect("poll");
            door.serve(|_| panic!("nothing to do"));
        }
        let [first, second, third, fourth, last] = visitor.join().expect("answers");
        assert_eq!((first.as_deref(), second.as_deref(), fourth.as_deref()), (Ok(""), Ok(""), Ok("")));
        assert_eq!(third.as_deref(), Ok("still paused, by 1 more"));
        assert!(last.is_err_and(|line| line.ends_with("it is not paused")));
    }

    #[test]
    fn visitors_that_say_nothing_do_not_fill_the_house() {
        let name = name("full");
        let mut door = Door::open(Some(&name)).expect("opens").expect("a door");
        let silent: Vec<_> = (0..MOST_VISITORS)
            .map(|_| {
                let flags = super::SocketFlags::CLOEXEC;
                let socket =
                    rustix::net::socket_with(super::AddressFamily::UNIX, super::SocketType::SEQPACKET, flags, None)
                        .expect("socket");
                let address = name.address(rustix::process::geteuid().as_raw()).expect("address");
                // The queue in front of the door is short.
                rustix::net::connect(&socket, &address).expect("connects");
                door.serve(|_| panic!("nobody asked"));
                socket
            })
            .collect();
        assert_eq!(door.visitors.len(), MOST_VISITORS);
        drop(silent);
        let visitor = std::thread::spawn(move || visit(&name, Request::Pause).is_ok());
        serve(&mut door, 1);
        assert!(visitor.join().expect("an answer") && door.visitors.is_empty());
    }
}
