//! Options of sockets: `getsockopt(2)`, `setsockopt(2)`, `socket(7)`.

use std::sync::Arc;

use abi::Errno;
use abi::socket::{
    AF_UNIX, Linger, SO_ACCEPTCONN, SO_BROADCAST, SO_BSDCOMPAT, SO_BUSY_POLL, SO_DEBUG, SO_DOMAIN, SO_DONTROUTE,
    SO_ERROR, SO_INCOMING_CPU, SO_KEEPALIVE, SO_LINGER, SO_MARK, SO_NO_CHECK, SO_OOBINLINE, SO_PASSCRED, SO_PASSSEC,
    SO_PEERCRED, SO_PEERGROUPS, SO_PEERNAME, SO_PEERPIDFD, SO_PRIORITY, SO_PROTOCOL, SO_RCVBUF, SO_RCVBUFFORCE,
    SO_RCVLOWAT, SO_RCVTIMEO, SO_RCVTIMEO_NEW, SO_REUSEADDR, SO_REUSEPORT, SO_RXQ_OVFL, SO_SNDBUF, SO_SNDBUFFORCE,
    SO_SNDLOWAT, SO_SNDTIMEO, SO_SNDTIMEO_NEW, SO_TIMESTAMP, SO_TIMESTAMPING, SO_TIMESTAMPNS, SO_TYPE, SO_ZEROCOPY,
    SOL_SOCKET, Ucred,
};
use abi::time::Timeval;
use auth::Caps;
use kernel::fdtable::CloseOnExec;
use kernel::ids::Pid;
use kernel::socket::unix::{BufferBound, Direction, Kind, PassCredentials, Socket, encode};
use kernel::syscalls;
use kernel::task::Task;
use kernel::task::pidfd::{self, Nonblocking, Subject};
use usermem::Addr;
use zerocopy::IntoBytes as _;

use crate::args::{Fd, InOut};
use crate::mem;
use crate::process::timeval;
use crate::socket::socket_of;

syscalls! {
    pub(crate) const ROWS;

    /// Gets a socket option.
    getsockopt [55, 209] Partial("no SO_PEEK_OFF, no filters");
    /// Sets a socket option.
    setsockopt [54, 208] Partial("no SO_PEEK_OFF, no filters; low water marks and time stamps without effect");
}

/// Options that are numbers and only remembered: what they are before they are set.
const REMEMBERED: [(i32, i32); 17] = [
    (SO_DEBUG, 0),
    (SO_REUSEADDR, 0),
    (SO_DONTROUTE, 0),
    (SO_BROADCAST, 0),
    (SO_KEEPALIVE, 0),
    (SO_OOBINLINE, 0),
    (SO_NO_CHECK, 0),
    (SO_PRIORITY, 0),
    (SO_BSDCOMPAT, 0),
    (SO_RCVLOWAT, 1),
    (SO_TIMESTAMP, 0),
    (SO_PASSSEC, 0),
    (SO_TIMESTAMPNS, 0),
    (SO_MARK, 0),
    (SO_TIMESTAMPING, 0),
    (SO_RXQ_OVFL, 0),
    (SO_BUSY_POLL, 0),
];

/// Of these any value but 0 is 1.
const SWITCHES: [i32; 10] = [
    SO_DEBUG,
    SO_REUSEADDR,
    SO_DONTROUTE,
    SO_BROADCAST,
    SO_KEEPALIVE,
    SO_OOBINLINE,
    SO_NO_CHECK,
    SO_TIMESTAMP,
    SO_TIMESTAMPNS,
    SO_RXQ_OVFL,
];

fn number(value: i32) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

fn size(value: usize) -> Vec<u8> {
    number(i32::try_from(value).unwrap_or(i32::MAX))
}

/// `getsockopt(2)`.
fn getsockopt(task: &mut Task, fd: Fd, level: i32, name: i32, value: Addr, len: InOut<i32>) -> Result<(), Errno> {
    let (_, socket) = socket_of(task, fd)?;
    if level != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    let room = usize::try_from(len.read(task)?).map_err(|_| Errno::EINVAL)?;
    let answer = match name {
        SO_PEERGROUPS => {
            let groups = peer_groups(&socket)?;
            if room < groups.len() {
                len.write(task, &i32::try_from(groups.len()).unwrap_or(i32::MAX))?;
                return Err(Errno::ERANGE);
            }
            groups
        }
        SO_PEERNAME => {
            let name = encode(socket.peer_name()?.as_ref());
            if room < name.len() {
                return Err(Errno::EINVAL);
            }
            name
        }
        SO_PEERPIDFD => {
            let maker = socket.peer_maker().and_then(|maker| Pid::from_raw(maker.pid)).ok_or(Errno::ENODATA)?;
            let group = task.kernel().tasks().group(maker).ok_or(Errno::ESRCH)?;
            number(crate::fd::install(task, pidfd::open(Subject::Process(group), Nonblocking::No), CloseOnExec::Yes)?.0)
        }
        _ => option(&socket, name)?,
    };
    let cut = answer.get(..room).unwrap_or(&answer);
    mem::write_bytes(task, value, cut)?;
    len.write(task, &i32::try_from(cut.len()).unwrap_or(0))
}

fn peer_groups(socket: &Socket) -> Result<Vec<u8>, Errno> {
    let maker = socket.peer_maker().ok_or(Errno::ENODATA)?;
    Ok(maker.creds.groups.iter().flat_map(|group| group.0.to_ne_bytes()).collect())
}

/// The value of an option that depends on the socket alone.
fn option(socket: &Socket, name: i32) -> Result<Vec<u8>, Errno> {
    let options = socket.options();
    let timeout = |direction| timeval(options.timeout_ns(direction)).as_bytes().to_vec();
    Ok(match name {
        SO_TYPE => number(match socket.kind() {
            Kind::Stream => 1,
            Kind::Datagram => 2,
            Kind::SeqPacket => 5,
        }),
        SO_DOMAIN => number(i32::from(AF_UNIX)),
        SO_PROTOCOL | SO_ERROR | SO_REUSEPORT | SO_ZEROCOPY => number(0),
        SO_ACCEPTCONN => number(i32::from(socket.is_listening())),
        SO_SNDBUF => size(options.send_buffer()),
        SO_RCVBUF => size(options.receive_buffer()),
        SO_SNDLOWAT => number(1),
        SO_INCOMING_CPU => number(-1),
        SO_PASSCRED => number(i32::from(socket.passes_credentials())),
        SO_PEERCRED => {
            let cred = match socket.peer_maker() {
                Some(maker) => Ucred { pid: maker.pid, uid: maker.creds.euid.0, gid: maker.creds.egid.0 },
                None => Ucred { pid: 0, uid: u32::MAX, gid: u32::MAX },
            };
            cred.as_bytes().to_vec()
        }
        SO_RCVTIMEO | SO_RCVTIMEO_NEW => timeout(Direction::Receive),
        SO_SNDTIMEO | SO_SNDTIMEO_NEW => timeout(Direction::Send),
        SO_LINGER => {
            let seconds = options.remembered(SO_LINGER).unwrap_or(-1);
            Linger { l_onoff: i32::from(seconds >= 0), l_linger: seconds.max(0) }.as_bytes().to_vec()
        }
        name => {
            let (_, default) = REMEMBERED.iter().find(|(known, _)| *known == name).ok_or(Errno::ENOPROTOOPT)?;
            number(options.remembered(name).unwrap_or(*default))
        }
    })
}

/// `setsockopt(2)`.
fn setsockopt(task: &mut Task, fd: Fd, level: i32, name: i32, value: Addr, len: i32) -> Result<(), Errno> {
    let (_, socket) = socket_of(task, fd)?;
    if level != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    if len < size_of::<i32>() {
        return Err(Errno::EINVAL);
    }
    match name {
        SO_RCVTIMEO | SO_RCVTIMEO_NEW => set_timeout(task, &socket, Direction::Receive, value, len),
        SO_SNDTIMEO | SO_SNDTIMEO_NEW => set_timeout(task, &socket, Direction::Send, value, len),
        SO_LINGER => {
            if len < size_of::<Linger>() {
                return Err(Errno::EINVAL);
            }
            let linger: Linger = mem::read(task, value)?;
            socket.options().remember(SO_LINGER, if linger.l_onoff == 0 { -1 } else { linger.l_linger.max(0) });
            Ok(())
        }
        _ => set_number(task, &socket, name, mem::read(task, value)?),
    }
}

/// `EDOM` for microseconds that are none; a timeout before now is the shortest.
fn set_timeout(task: &Task, socket: &Socket, direction: Direction, value: Addr, len: usize) -> Result<(), Errno> {
    if len < size_of::<Timeval>() {
        return Err(Errno::EINVAL);
    }
    let given: Timeval = mem::read(task, value)?;
    let micros = u64::try_from(given.tv_usec).ok().filter(|&micros| micros < 1_000_000).ok_or(Errno::EDOM)?;
    let ns = match u64::try_from(given.tv_sec) {
        Ok(seconds) => seconds.saturating_mul(1_000_000_000).saturating_add(micros.saturating_mul(1000)),
        Err(_) => 1,
    };
    socket.options().set_timeout_ns(direction, ns);
    Ok(())
}

fn set_number(task: &Task, socket: &Arc<Socket>, name: i32, value: i32) -> Result<(), Errno> {
    let options = socket.options();
    let admin = task.creds().has(Caps::NET_ADMIN);
    match name {
        SO_SNDBUF => options.set_buffer(Direction::Send, value, BufferBound::System),
        SO_RCVBUF => options.set_buffer(Direction::Receive, value, BufferBound::System),
        SO_SNDBUFFORCE | SO_RCVBUFFORCE | SO_MARK if !admin => return Err(Errno::EPERM),
        SO_SNDBUFFORCE => options.set_buffer(Direction::Send, value.max(0), BufferBound::None),
        SO_RCVBUFFORCE => options.set_buffer(Direction::Receive, value.max(0), BufferBound::None),
        SO_PASSCRED => {
            options.set_pass_credentials(if value == 0 { PassCredentials::No } else { PassCredentials::Yes });
        }
        SO_DEBUG if value != 0 && !admin => return Err(Errno::EACCES),
        SO_PRIORITY if !(0..=6).contains(&value) && !admin => return Err(Errno::EPERM),
        SO_ZEROCOPY | SO_REUSEPORT => return Err(Errno::EOPNOTSUPP),
        SO_BSDCOMPAT => {}
        SO_RCVLOWAT => options.remember(name, if value < 0 { i32::MAX } else { value.max(1) }),
        name if SWITCHES.contains(&name) => options.remember(name, i32::from(value != 0)),
        name if REMEMBERED.iter().any(|(known, _)| *known == name) => options.remember(name, value),
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}
