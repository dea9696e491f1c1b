//! Stubs between two guests, as they are kept and taken, with a stub that only knows whose it is.

use casemate_platform_systrap::spares::{Lease, Spares, Tenant};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;

/// The host: stubs that live.
#[derive(Default)]
struct Host {
    alive: AtomicU32,
}

struct Stub {
    host: Arc<Host>,
    dead: AtomicBool,
    /// Guests that have it.
    guests: AtomicU32,
}

impl Stub {
    fn new(host: &Arc<Host>) -> Self {
        host.alive.fetch_add(1, Ordering::Relaxed);
        Self { host: Arc::clone(host), dead: AtomicBool::new(false), guests: AtomicU32::new(0) }
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.host.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tenant for Stub {
    fn kill_soon(&self) {
        self.dead.store(true, Ordering::Release);
    }
    fn renew(self) -> Option<Self> {
        (!self.is_dead()).then_some(self)
    }
}

/// A space from its making to its end; `work` is done in its stub.
fn live(spares: &Spares<Stub>, host: &Arc<Host>, work: impl FnOnce(&Lease<Stub>)) {
    let stub = spares.take().unwrap_or_else(|| Stub::new(host));
    assert!(!stub.is_dead(), "no space begins in a stub that another's death was meant for");
    assert_eq!(stub.guests.fetch_add(1, Ordering::Relaxed), 0, "one guest at a time");
    let lease = Lease::new(stub);
    work(&lease);
    end(&lease, spares);
}

/// `AddressSpace::end`.
fn end(lease: &Lease<Stub>, spares: &Spares<Stub>) {
    if let Ok(stub) = lease.end(|_| ()) {
        assert_eq!(stub.guests.fetch_sub(1, Ordering::Relaxed), 1);
        if let Some(stub) = stub.renew() {
            spares.put(stub);
        }
    }
}

fn check(bound: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(bound);
    model.check(body);
}

/// Spaces that begin and end at the same time: no stub is two spaces', none is lost, and none outlives the sandbox.
#[test]
fn a_stub_has_one_guest_at_a_time_and_none_is_lost() {
    for (most, others) in [(1, 1), (2, 1), (1, 2), (0, 1)] {
        check(if others == 1 { 3 } else { 2 }, move || {
            let host = Arc::new(Host::default());
            let spares = Arc::new(Spares::new(most));
            let threads: Vec<_> = (0..others)
                .map(|_| {
                    let (spares, host) = (Arc::clone(&spares), Arc::clone(&host));
                    thread::spawn(move || {
                        live(&spares, &host, |_| ());
                        live(&spares, &host, |_| ());
                    })
                })
                .collect();
            live(&spares, &host, |_| ());
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            let kept = host.alive.load(Ordering::Relaxed) as usize;
            assert!(kept <= most, "what is too much has ended");
            assert_eq!(std::iter::from_fn(|| spares.take()).count(), kept, "who lives is kept");
            assert_eq!(host.alive.load(Ordering::Relaxed), 0);
        });
    }
}

/// A space is killed while it ends and its stub gets another guest: the death is its own.
#[test]
fn who_kills_a_space_does_not_kill_the_next() {
    check(3, || {
        let host = Arc::new(Host::default());
        let spares = Arc::new(Spares::new(1));
        let lease = Arc::new(Lease::new(Stub::new(&host)));
        lease.borrow().unwrap().guests.fetch_add(1, Ordering::Relaxed);
        let other = Arc::clone(&lease);
        let killer = thread::spawn(move || {
            other.kill(|_| ());
        });
        end(&lease, &spares);
        live(&spares, &host, |next| assert!(!next.borrow().unwrap().is_dead()));
        killer.join().unwrap();
        drop(spares);
        assert_eq!(host.alive.load(Ordering::Relaxed), 0);
    });
}

/// Somebody works in the stub while the space ends: then it is not used again until that is done, and then it is not either.
#[test]
fn who_works_in_a_stub_keeps_it_from_the_next_space() {
    check(3, || {
        let host = Arc::new(Host::default());
        let spares = Arc::new(Spares::new(1));
        let lease = Arc::new(Lease::new(Stub::new(&host)));
        lease.borrow().unwrap().guests.fetch_add(1, Ordering::Relaxed);
        let other = Arc::clone(&lease);
        let worker = thread::spawn(move || {
            if let Some(stub) = other.borrow() {
                assert_eq!(stub.guests.load(Ordering::Relaxed), 1, "the guest that I work for");
            }
        });
        end(&lease, &spares);
        live(&spares, &host, |_| ());
        worker.join().unwrap();
        drop((spares, lease));
        assert_eq!(host.alive.load(Ordering::Relaxed), 0);
    });
}
