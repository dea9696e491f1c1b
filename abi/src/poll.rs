//! `poll(2)` and `select(2)`. `asm-generic/poll.h`, `linux/posix_types.h`.

flags! {
    /// Events of `poll(2)`.
    pub struct PollEvents: u16 {
        POLLIN = 0x1,
        POLLPRI = 0x2,
        POLLOUT = 0x4,
        POLLERR = 0x8,
        POLLHUP = 0x10,
        POLLNVAL = 0x20,
        POLLRDNORM = 0x40,
        POLLRDBAND = 0x80,
        POLLWRNORM = 0x100,
        POLLWRBAND = 0x200,
        POLLMSG = 0x400,
        POLLREMOVE = 0x1000,
        POLLRDHUP = 0x2000,
    }
}

uapi_struct! {
    /// `struct pollfd`.
    pub struct PollFd {
        pub fd: i32,
        pub events: u16,
        pub revents: u16,
    }
}

layout! { PollFd: 8; }
