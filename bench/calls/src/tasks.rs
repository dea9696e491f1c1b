//! Processes, threads and signals.

use std::ffi::c_void;
use std::io::{self, Read as _, Write as _};
use std::process::Command;
use std::sync::{Arc, Barrier};

use crate::measure::{Harness, Measure, Sample, c_path, cvt};

pub(crate) const MEASURES: &[Measure] = &[
    Measure { name: "signal-self", run: signal_self },
    Measure { name: "pthread-create-join", run: pthread },
    Measure { name: "pthreads-1000", run: pthreads },
    Measure { name: "pthreads-1000-at-once", run: pthreads_at_once },
    Measure { name: "fork-exit-wait", run: fork },
    Measure { name: "vfork-exec-wait", run: vfork_exec },
    Measure { name: "fork-exit-wait-80m", run: fork_large },
];

/// Threads that are made before the first is joined.
const THREADS: usize = 1000;

/// Heap of the large process, in bytes.
const HEAP: usize = 80_000_000;

extern "C" fn on_signal(_number: libc::c_int) {}

fn signal_self(harness: &Harness) -> io::Result<Sample> {
    let handler = on_signal as extern "C" fn(libc::c_int);
    // SAFETY: 1. the handler does nothing.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    // SAFETY: 1. always sound.
    let pid = unsafe { libc::getpid() };
    Ok(harness.each(|| {
        // SAFETY: 1. the signal goes to ourselves, who handle it.
        unsafe { libc::kill(pid, libc::SIGUSR1) };
    }))
}

extern "C" fn thread_body(argument: *mut c_void) -> *mut c_void {
    argument
}

/// A body of a thread that needs no argument.
type Body = extern "C" fn(*mut c_void) -> *mut c_void;

fn create(body: Body) -> io::Result<libc::pthread_t> {
    let mut thread = 0;
    // SAFETY: 1. the thread's id goes to a live place; 2. its body uses no argument.
    let error = unsafe { libc::pthread_create(&mut thread, std::ptr::null(), body, std::ptr::null_mut()) };
    if error == 0 { Ok(thread) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Joins a thread that [`create`] has made, once.
fn join(thread: libc::pthread_t) {
    // SAFETY: 1. the thread was started and nobody else joins it.
    unsafe { libc::pthread_join(thread, std::ptr::null_mut()) };
}

fn pthread(harness: &Harness) -> io::Result<Sample> {
    Ok(harness.each(|| {
        let _ = create(thread_body).map(join);
    }))
}

/// Makes many threads with `body`, then joins them all. Should one fail, those that wait for the others stay.
fn create_and_join(body: Body) -> io::Result<()> {
    let threads: Vec<_> = (0..THREADS).map(|_| create(body)).collect::<io::Result<_>>()?;
    threads.into_iter().for_each(join);
    Ok(())
}

/// Many threads of which each may end before the next begins.
fn pthreads(harness: &Harness) -> io::Result<Sample> {
    create_and_join(thread_body)?;
    Ok(harness.each(|| {
        let _ = create_and_join(thread_body);
    }))
}

/// Where threads wait until all are there.
static ALL_THERE: Barrier = Barrier::new(THREADS);

extern "C" fn wait_for_all(argument: *mut c_void) -> *mut c_void {
    ALL_THERE.wait();
    argument
}

/// Many threads that all live at once: the last one lets them end.
fn pthreads_at_once(harness: &Harness) -> io::Result<Sample> {
    create_and_join(wait_for_all)?;
    Ok(harness.each(|| {
        let _ = create_and_join(wait_for_all);
    }))
}

fn fork(harness: &Harness) -> io::Result<Sample> {
    fork_exit_wait()?;
    Ok(harness.each(|| {
        let _ = fork_exit_wait();
    }))
}

fn fork_exit_wait() -> io::Result<()> {
    // SAFETY: 1. the child only leaves.
    let pid = cvt(unsafe { libc::fork() })?;
    if pid == 0 {
        // SAFETY: 1. always sound; it does not return.
        unsafe { libc::_exit(0) };
    }
    wait(pid)
}

fn wait(pid: libc::pid_t) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: 1. the status goes to a live place.
    cvt(unsafe { libc::waitpid(pid, &mut status, 0) })?;
    if status == 0 { Ok(()) } else { Err(io::Error::other(format!("the child ended with status {status:#x}"))) }
}

fn fork_large(harness: &Harness) -> io::Result<Sample> {
    let heap = vec![1_u8; HEAP];
    let sample = fork(harness);
    // The heap is held, and written, until the last fork.
    std::hint::black_box(&heap);
    sample
}

fn vfork_exec(harness: &Harness) -> io::Result<Sample> {
    let path = c_path(&harness.static_program)?;
    let spawn = || -> io::Result<()> {
        let arguments = [path.as_ptr().cast_mut(), std::ptr::null_mut()];
        let environment = [std::ptr::null_mut()];
        let mut pid = 0;
        // SAFETY: 1. the process's id goes to a live place; 2. path and arguments are C strings that end with a null.
        let error = unsafe {
            libc::posix_spawn(
                &mut pid,
                path.as_ptr(),
                std::ptr::null(),
                std::ptr::null(),
                arguments.as_ptr(),
                environment.as_ptr(),
            )
        };
        if error == 0 { wait(pid) } else { Err(io::Error::from_raw_os_error(error)) }
    };
    spawn()?;
    Ok(harness.each(|| {
        let _ = spawn();
    }))
}

/// Keeps `count` threads asleep until standard input ends; says `ready` when they are there.
pub(crate) fn sleepers(count: usize) -> io::Result<()> {
    let (started, end) = (Arc::new(Barrier::new(count + 1)), Arc::new(Barrier::new(count + 1)));
    let threads: Vec<_> = (0..count)
        .map(|_| {
            let (started, end) = (Arc::clone(&started), Arc::clone(&end));
            std::thread::spawn(move || {
                started.wait();
                end.wait();
            })
        })
        .collect();
    started.wait();
    println!("ready");
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    end.wait();
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

/// Keeps `count` processes of the static `program` asleep until standard input ends; says `ready` when they were started.
pub(crate) fn sleeping_processes(count: usize, program: &str) -> io::Result<()> {
    let (read, write) = io::pipe()?;
    let start = |_| Command::new(program).arg("sleep").stdin(read.try_clone()?).spawn();
    let children: Vec<_> = (0..count).map(start).collect::<io::Result<_>>()?;
    println!("ready");
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    drop(write);
    for mut child in children {
        child.wait()?;
    }
    Ok(())
}
