//! Host threads that do jobs. One that has done its job is kept for the next one: making and ending a host thread costs as
//! much as all else that a new guest thread needs.
//!
//! **Invariant.** An idle host thread sleeps and holds nothing of a job or of who gave it: its stack and its desk.

use crate::{Arc, LockClass, Mutex, Parker, base};

/// What a host thread is to do.
pub type Job = Box<dyn FnOnce() + Send>;

/// What an idle host thread will find when it is woken.
#[derive(Default)]
enum Next {
    /// Nothing yet.
    #[default]
    None,
    Job(Job),
    /// Nobody is left who could give one.
    End,
}

/// Where a host thread waits for its next job.
struct Desk {
    /// The host's number of the thread.
    tid: i32,
    parker: Parker,
    next: Mutex<Next>,
}

impl Desk {
    /// Sleeps until there is a job. `None`: there will be none.
    fn wait(&self) -> Option<Job> {
        loop {
            match std::mem::take(&mut *self.next.lock()) {
                Next::Job(job) => return Some(job),
                Next::End => return None,
                Next::None => {}
            }
            self.parker.park(None);
        }
    }
}

/// Idle host threads, the one that became so last at the end; `None` when there shall be no more.
type Idle = Mutex<Option<Vec<Arc<Desk>>>>;

const IDLE: LockClass = LockClass::leaf("hosts.idle");
const NEXT: LockClass = LockClass::leaf("hosts.next");

/// How host threads are made and kept.
#[derive(Clone, Copy, Debug)]
pub struct HostTerms {
    /// Name of each, for whoever looks at the host.
    pub name: &'static str,
    /// Bytes of stack of each; pages come as they are used.
    pub stack: usize,
    /// Most of them that are kept idle.
    pub most_idle: usize,
}

/// Host threads for jobs. When it is dropped, idle ones end at once and the others after their jobs.
pub struct Hosts {
    idle: Arc<Idle>,
    terms: HostTerms,
}

impl Hosts {
    /// None yet.
    pub fn new(terms: HostTerms) -> Self {
        Self { idle: Arc::new(Mutex::new(IDLE, Some(Vec::with_capacity(terms.most_idle)))), terms }
    }

    /// Has a host thread do `job`: one that is idle, or a new one.
    ///
    /// # Errors
    /// The host's, when it makes no thread; the job is lost then.
    pub fn start(&self, job: Job) -> std::io::Result<()> {
        self.start_by(job, |_, wake| wake())
    }

    /// [`Self::start`], with an idle thread woken by `wake`, which is told its number on the host and how.
    ///
    /// # Errors
    /// As there.
    pub fn start_by(&self, job: Job, wake: impl FnOnce(i32, &mut dyn FnMut())) -> std::io::Result<()> {
        let idle = self.idle.lock().as_mut().and_then(Vec::pop);
        if let Some(desk) = idle {
            *desk.next.lock() = Next::Job(job);
            wake(desk.tid, &mut || desk.parker.unpark());
            return Ok(());
        }
        let idle = Arc::clone(&self.idle);
        let HostTerms { name, stack, most_idle } = self.terms;
        let builder = base::Builder::new().name(name.to_owned()).stack_size(stack);
        builder.spawn(move || serve(&idle, most_idle, job)).map(drop)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let desks = self.idle.lock().take();
        for desk in desks.into_iter().flatten() {
            *desk.next.lock() = Next::End;
            desk.parker.unpark();
        }
    }
}

/// The life of a host thread.
fn serve(idle: &Idle, most: usize, first: Job) {
    let desk = Arc::new(Desk { tid: crate::host_tid(), parker: Parker::new(), next: Mutex::new(NEXT, Next::None) });
    let mut job = Some(first);
    while let Some(now) = job {
        now();
        {
            let mut idle = idle.lock();
            let Some(others) = idle.as_mut().filter(|others| others.len() < most) else { return };
            others.push(Arc::clone(&desk));
        }
        job = desk.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::{HostTerms, Hosts};

    const MOST: usize = 8;

    fn hosts() -> Hosts {
        Hosts::new(HostTerms { name: "job", stack: 64 << 10, most_idle: MOST })
    }

    #[test]
    fn host_threads_serve_again_and_end_with_their_owner() {
        let hosts = hosts();
        let (tell, told) = channel();
        for round in 0..100 {
            let tell = tell.clone();
            let job = move || tell.send((round, std::thread::current().id())).unwrap();
            hosts.start(Box::new(job)).unwrap();
        }
        drop(tell);
        let mut rounds: Vec<_> = told.iter().collect();
        rounds.sort_by_key(|(round, _)| *round);
        assert!(rounds.iter().map(|(round, _)| *round).eq(0..100));
        // Each holds a reference while it lives.
        let idle = std::sync::Arc::downgrade(&hosts.idle);
        drop(hosts);
        while idle.strong_count() > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn jobs_that_wait_for_each_other_run_at_once() {
        let hosts = hosts();
        let count = 3 * MOST;
        for _ in 0..3 {
            let barrier = std::sync::Arc::new(std::sync::Barrier::new(count + 1));
            for _ in 0..count {
                let barrier = std::sync::Arc::clone(&barrier);
                let job = move || {
                    barrier.wait();
                };
                hosts.start(Box::new(job)).unwrap();
            }
            barrier.wait();
        }
        let (tell, told) = channel();
        hosts.start(Box::new(move || tell.send(()).unwrap())).unwrap();
        told.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(hosts.idle.lock().as_ref().is_some_and(|idle| idle.len() <= MOST));
    }
}
