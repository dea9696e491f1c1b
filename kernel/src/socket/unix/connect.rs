//! Getting a name and a peer: bind(2), listen(2), connect(2), accept(2).

use std::sync::Arc;

use abi::Errno;
use abi::socket::SOMAXCONN;
use fs::Context;
use fs::vfs::{At, File, FileType, LookupFlags, NodeKind, Path, Perm};
use waiter::EventMask;

use super::{Address, Bound, Kind, Listening, Maker, Socket};

/// A socket at a path: `ECONNREFUSED` when nothing is bound there, `EACCES` without write permission.
fn at_path(ctx: &Context<'_>, place: &Path) -> Result<Arc<Socket>, Errno> {
    place.inode().permission(ctx, Perm::WRITE)?;
    if place.inode().file_type() != FileType::Socket {
        return Err(Errno::ECONNREFUSED);
    }
    let bound = place.inode().slots().bound().and_then(|bound| bound.downcast::<Bound>().ok());
    bound.and_then(|bound| bound.0.upgrade()).ok_or(Errno::ECONNREFUSED)
}

impl Socket {
    /// The socket that `name` names for this one: `EPROTOTYPE` for one of another kind.
    pub fn find(&self, at: &At<'_>, name: &Address) -> Result<Arc<Self>, Errno> {
        let found = match name {
            Address::Abstract(name) => self.space.find(self.kind, name)?,
            Address::Path(path) => at_path(at.ctx, &at.lookup(path, LookupFlags::FOLLOW)?)?,
        };
        if found.kind == self.kind { Ok(found) } else { Err(Errno::EPROTOTYPE) }
    }

    /// bind(2): `EINVAL` for one that has a name, `EADDRINUSE` for a name that another has.
    pub fn bind(self: &Arc<Self>, at: &At<'_>, name: Address) -> Result<(), Errno> {
        let _naming = self.naming.lock();
        if self.name.get().is_some() {
            return Err(Errno::EINVAL);
        }
        match &name {
            Address::Abstract(bytes) => self.space.claim(self, bytes)?,
            Address::Path(path) => {
                let in_use = |error| if error == Errno::EEXIST { Errno::EADDRINUSE } else { error };
                let place = at.mknod(path, NodeKind::Socket, 0o777).map_err(in_use)?;
                place.inode().slots().bind(Arc::new(Bound(Arc::downgrade(self))));
                // Empty, as the name is.
                let _ = self.place.set(place);
            }
        }
        self.name.set(name).map_err(|_| Errno::EINVAL)
    }

    /// bind(2) with an address of only a family: makes an abstract name up, unless it has one. `seed` is where the search begins.
    pub fn bind_anywhere(self: &Arc<Self>, seed: u32) -> Result<(), Errno> {
        let _naming = self.naming.lock();
        if self.name.get().is_some() {
            return Ok(());
        }
        let name = self.space.claim_any(self, seed)?;
        self.name.set(Address::Abstract(name)).map_err(|_| Errno::EINVAL)
    }

    /// listen(2).
    pub fn listen(&self, backlog: i32, maker: Maker) -> Result<(), Errno> {
        if self.kind == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.name.get().is_none() {
            return Err(Errno::EINVAL);
        }
        // A negative backlog is as large as an unsigned one.
        let backlog = usize::try_from(backlog.cast_unsigned().min(SOMAXCONN)).unwrap_or(0);
        let waiting = {
            let mut state = self.state.lock();
            if state.peer.is_some() || state.connecting {
                return Err(Errno::EINVAL);
            }
            match &mut state.listening {
                Some(listening) => {
                    listening.backlog = backlog;
                    listening.maker = maker;
                    std::mem::take(&mut listening.waiting)
                }
                none => {
                    *none = Some(Listening { backlog, pending: Default::default(), waiting: Vec::new(), maker });
                    Vec::new()
                }
            }
        };
        for socket in waiting.into_iter().filter_map(|socket| socket.upgrade()) {
            socket.queue.wake(EventMask::all());
        }
        Ok(())
    }

    /// connect(2) to `other`: `EAGAIN` while its backlog is full.
    pub fn connect(self: &Arc<Self>, other: &Arc<Self>, maker: &Maker) -> Result<(), Errno> {
        if self.kind == Kind::Datagram {
            return self.connect_datagrams(other, maker);
        }
        {
            let mut state = self.state.lock();
            if state.peer.is_some() {
                return Err(Errno::EISCONN);
            }
            if state.listening.is_some() || state.connecting {
                return Err(Errno::EINVAL);
            }
            state.connecting = true;
        }
        let connected = self.knock(other, maker);
        match connected {
            Ok((end, theirs)) => {
                self.join(&end, theirs);
                self.queue.wake(EventMask::all());
                Ok(())
            }
            Err(error) => {
                self.state.lock().connecting = false;
                Err(error)
            }
        }
    }

    /// Puts an end for this socket into the backlog of `other`; with it, who listens.
    fn knock(self: &Arc<Self>, other: &Arc<Self>, maker: &Maker) -> Result<(Arc<Self>, Maker), Errno> {
        let read_ended = other.inbox.flow.lock().read_ended;
        let end = Self::make(&self.space, self.kind, other.owner, Arc::clone(&other.name));
        end.options.copy_from(&other.options);
        end.join(self, maker.clone());
        let theirs = {
            let mut state = other.state.lock();
            let Some(listening) = state.listening.as_mut().filter(|_| !read_ended) else {
                return Err(Errno::ECONNREFUSED);
            };
            if listening.pending.len() > listening.backlog {
                if !listening.waiting.iter().any(|waiting| waiting.ptr_eq(&self.me)) {
                    listening.waiting.retain(|waiting| waiting.strong_count() > 0);
                    listening.waiting.push(std::sync::Weak::clone(&self.me));
                }
                return Err(Errno::EAGAIN);
            }
            listening.pending.push_back(Arc::clone(&end));
            listening.maker.clone()
        };
        other.queue.wake(EventMask::READABLE);
        Ok((end, theirs))
    }

    /// A datagram socket names where it sends, and hears only from there.
    fn connect_datagrams(&self, other: &Arc<Self>, _maker: &Maker) -> Result<(), Errno> {
        self.check_may_send(other)?;
        self.state.lock().peer = Some(other.as_peer());
        self.inbox.wake_writers(EventMask::WRITABLE);
        self.queue.wake(EventMask::WRITABLE);
        Ok(())
    }

    /// A datagram socket that is connected hears only from its peer: `EPERM` for others.
    pub(super) fn check_may_send(&self, other: &Self) -> Result<(), Errno> {
        let state = other.state.lock();
        match &state.peer {
            Some(peer) if !peer.socket.ptr_eq(&self.me) => Err(Errno::EPERM),
            _ => Ok(()),
        }
    }

    /// connect(2) with AF_UNSPEC: a datagram socket has no peer any more.
    pub fn disconnect(&self) -> Result<(), Errno> {
        if self.kind != Kind::Datagram {
            return Err(Errno::EINVAL);
        }
        self.state.lock().peer = None;
        self.queue.wake(EventMask::WRITABLE);
        Ok(())
    }

    /// accept(2): the next end that was connected, as a file. `EAGAIN` when there is none.
    pub fn accept(&self) -> Result<Arc<File>, Errno> {
        if self.kind == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let read_ended = self.inbox.flow.lock().read_ended;
        let (end, waiting) = {
            let mut state = self.state.lock();
            let listening = state.listening.as_mut().ok_or(Errno::EINVAL)?;
            let none = if read_ended { Errno::EINVAL } else { Errno::EAGAIN };
            let end = listening.pending.pop_front().ok_or(none)?;
            (end, std::mem::take(&mut listening.waiting))
        };
        for socket in waiting.into_iter().filter_map(|socket| socket.upgrade()) {
            socket.queue.wake(EventMask::all());
        }
        Ok(end.into_file())
    }
}
