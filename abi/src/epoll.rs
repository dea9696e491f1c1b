//! `epoll(7)`. `linux/eventpoll.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

flags! {
    /// Events and input flags of an epoll registration.
    pub struct EpollEvents: u32 {
        EPOLLIN = 0x1,
        EPOLLPRI = 0x2,
        EPOLLOUT = 0x4,
        EPOLLERR = 0x8,
        EPOLLHUP = 0x10,
        EPOLLNVAL = 0x20,
        EPOLLRDNORM = 0x40,
        EPOLLRDBAND = 0x80,
        EPOLLWRNORM = 0x100,
        EPOLLWRBAND = 0x200,
        EPOLLMSG = 0x400,
        EPOLLRDHUP = 0x2000,
        EPOLLEXCLUSIVE = 1 << 28,
        EPOLLWAKEUP = 1 << 29,
        EPOLLONESHOT = 1 << 30,
        EPOLLET = 1 << 31,
    }
    /// `epoll_create1(2)`.
    pub struct EpollCreateFlags: u32 {
        EPOLL_CLOEXEC = 0o2000000,
    }
}

consts! {
    i32 {
        EPOLL_CTL_ADD = 1,
        EPOLL_CTL_DEL = 2,
        EPOLL_CTL_MOD = 3,
    }
}

/// `struct epoll_event`, which is packed on x86-64.
#[repr(C, packed)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EpollEvent {
    /// [`EpollEvents`].
    pub events: u32,
    /// The caller's own.
    pub data: u64,
}

layout! { EpollEvent: 12, data @ 4; }
