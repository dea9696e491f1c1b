//! Sockets as descriptors see them: what read, write, send, receive, shut down and poll do.
//!
//! Protocols are elsewhere, or in a file beside this one: [`unix`] has the connected pairs of socketpair(2).

pub mod unix;
