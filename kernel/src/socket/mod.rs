//! Sockets as descriptors see them: what read, write, send, receive, shut down and poll do.
//!
//! Protocols are elsewhere, or in a folder beside this file: [`unix`] has AF_UNIX.

pub mod unix;
