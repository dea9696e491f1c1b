//! Carries bytes between the caller's streams and the master of the guest's own terminal (`casemate run --tty`).
//!
//! Two threads: one prints what the terminal shows, one types what comes in. The guest's side never waits for the caller
//! but by the terminal's own bounded buffers.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use abi::Errno;
use abi::fs::OpenFlags;
use abi::tty::Winsize;
use auth::Creds;
use fs::vfs::{AnonInode, File, FileOps, FileType};
use fs::{Context, KernelContext};
use kernel::tty::Pty;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno as HostErrno;
use sync::{LockClass, Mutex, Parker};
use usermem::bytes::{KernelDst, KernelSrc};
use waiter::{EventMask, Mode, Waiter};

use crate::failure::{Doing, Outcome};
use crate::launcher::{Stream, StreamKind};

const OUTPUT: LockClass = LockClass::leaf("runner.relay");

/// Bytes per step.
const STEP: usize = 16 << 10;

/// Bytes printed after the command has ended, whatever others of its processes go on to print.
const LAST_WORDS: usize = 256 << 10;

/// The threads do little.
const STACK: usize = 128 << 10;

/// The guest's own terminal and its connection to the caller.
pub(in crate::boot) struct Relay {
    pty: Arc<Pty>,
    /// The caller's terminal, for its size.
    window: Option<OwnedFd>,
    ended: Arc<End>,
    output: Mutex<Option<JoinHandle<()>>>,
}

/// Tells the printing thread that the command has ended.
struct End {
    /// Release in [`Relay::finish`], Acquire in the thread: what was shown before is seen.
    over: AtomicBool,
    parker: Arc<Parker>,
}

/// Whether what comes in is typed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::boot) enum Typing {
    /// It is.
    Yes,
    /// It is left alone.
    No,
}

impl Relay {
    /// Connects the master of `pty` to the streams.
    pub(in crate::boot) fn start(
        master: Arc<dyn FileOps>,
        pty: &Arc<Pty>,
        streams: [Option<Stream>; 3],
        typing: Typing,
    ) -> Outcome<Self> {
        let window = streams.iter().flatten().find(|stream| stream.kind == StreamKind::Terminal);
        let window = window.map(|stream| stream.fd.try_clone()).transpose().doing("terminal")?;
        let inode = AnonInode::new(FileType::CharDevice, 0o600, auth::Uid::ROOT, auth::Gid::ROOT);
        let flags = OpenFlags::from_bits_retain(abi::fs::O_RDWR);
        let master = File::pseudo(master, flags, b"ptmx", inode);
        let ended = Arc::new(End { over: AtomicBool::new(false), parker: Arc::new(Parker::new()) });
        let [input, output, _] = streams;
        let end = Arc::clone(&ended);
        let file = Arc::clone(&master);
        let print = move || print(&file, output.map(|stream| stream.fd), &end);
        let output = spawn("tty-output", print)?;
        if typing == Typing::Yes
            && let Some(input) = input
        {
            let pty = Arc::clone(pty);
            spawn("tty-input", move || type_in(&master, &pty, &input.fd))?;
        }
        let relay = Self { pty: Arc::clone(pty), window, ended, output: Mutex::new(OUTPUT, Some(output)) };
        relay.resize();
        Ok(relay)
    }

    /// Gives the terminal the size of the caller's window.
    pub(in crate::boot) fn resize(&self) {
        let Some(size) = self.window.as_ref().and_then(|fd| rustix::termios::tcgetwinsize(fd).ok()) else { return };
        self.pty.set_size(Winsize {
            ws_row: size.ws_row,
            ws_col: size.ws_col,
            ws_xpixel: size.ws_xpixel,
            ws_ypixel: size.ws_ypixel,
        });
    }

    /// The terminal.
    pub(in crate::boot) fn pty(&self) -> &Arc<Pty> {
        &self.pty
    }

    /// Prints what is left, after the command has ended.
    pub(in crate::boot) fn finish(&self) {
        self.ended.over.store(true, Ordering::Release);
        self.ended.parker.unpark();
        let output = self.output.lock().take();
        if let Some(output) = output {
            // A thread that panicked has printed what it could.
            let _ = output.join();
        }
    }
}

fn spawn(name: &str, thread: impl FnOnce() + Send + 'static) -> Outcome<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(thread).doing("thread")
}

fn with_context<T>(use_it: impl FnOnce(&Context<'_>) -> T) -> T {
    let context = KernelContext::default();
    use_it(&context.context().with_creds(&Creds::root()))
}

/// Prints what the terminal shows until the command has ended.
fn print(master: &Arc<File>, output: Option<OwnedFd>, end: &End) {
    let waiter = Arc::clone(&end.parker) as Arc<dyn Waiter>;
    let _registration = master.ops().queue().map(|queue| queue.register(waiter, EventMask::READABLE, Mode::Shared));
    let mut output = output;
    let mut buffer = vec![0; STEP];
    let mut last_words = 0;
    loop {
        let over = end.over.load(Ordering::Acquire);
        let got = with_context(|ctx| master.read(ctx, &mut KernelDst::new(&mut buffer)));
        match got {
            Ok(len) => {
                let bytes = buffer.get(..len).unwrap_or_default();
                // Nobody to print for: the guest goes on as at a terminal that nobody looks at.
                if output.as_ref().is_some_and(|fd| write_all(fd, bytes).is_err()) {
                    output = None;
                }
                last_words += if over { len } else { 0 };
                if last_words >= LAST_WORDS {
                    return;
                }
            }
            // Nothing, or for now nobody has the terminal open.
            Err(_) if over => return,
            Err(_) => {
                end.parker.park(None);
            }
        }
    }
}

/// Types what comes in until its end, and that as the key which stands for it.
fn type_in(master: &Arc<File>, pty: &Pty, input: &OwnedFd) {
    let parker = Arc::new(Parker::new());
    let waiter = Arc::clone(&parker) as Arc<dyn Waiter>;
    let _registration = master.ops().queue().map(|queue| queue.register(waiter, EventMask::WRITABLE, Mode::Shared));
    let mut buffer = vec![0; STEP];
    loop {
        let len = match rustix::io::read(input, buffer.as_mut_slice()) {
            Ok(len) => len,
            Err(HostErrno::INTR) => continue,
            Err(HostErrno::AGAIN) if wait_for(input, PollFlags::IN) => continue,
            Err(_) => return,
        };
        let ending: Vec<u8> = pty.end_of_input().into_iter().collect();
        let bytes = if len == 0 { &*ending } else { buffer.get(..len).unwrap_or_default() };
        let mut rest = KernelSrc::new(bytes);
        while usermem::bytes::IoSrc::remaining(&rest) > 0 {
            match with_context(|ctx| master.write(ctx, &mut rest)) {
                Ok(_) => {}
                Err(Errno::EAGAIN) => {
                    parker.park(None);
                }
                Err(_) => return,
            }
        }
        if len == 0 {
            return;
        }
    }
}

fn write_all(fd: &OwnedFd, bytes: &[u8]) -> Result<(), HostErrno> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(fd, rest) {
            Ok(len) => rest = rest.get(len..).unwrap_or_default(),
            Err(HostErrno::INTR) => {}
            Err(HostErrno::AGAIN) if wait_for(fd, PollFlags::OUT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until the descriptor is ready; false when it cannot be waited for.
fn wait_for(fd: &OwnedFd, events: PollFlags) -> bool {
    let mut set = [PollFd::from_borrowed_fd(fd.as_fd(), events)];
    matches!(poll(&mut set, None), Ok(_) | Err(HostErrno::INTR))
}
