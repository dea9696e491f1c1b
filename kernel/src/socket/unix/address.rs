//! Names of UNIX sockets, unix(7): pathnames, abstract names, none; and the table of the abstract ones.

use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use abi::socket::{AF_UNIX, UNIX_PATH_MAX};
use hashbrown::HashMap;
use sync::{LockClass, Mutex};

use super::rights::InFlight;
use super::{Kind, Socket};

/// The abstract names.
const NAMES: LockClass = LockClass::new("socket.names", 3635);

/// Bytes of the family, which every address begins with.
const FAMILY: usize = size_of::<u16>();

/// What a socket is called.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// By a pathname, as it was given.
    Path(Vec<u8>),
    /// By a name that no file stands for.
    Abstract(Vec<u8>),
}

/// A socket's name, empty until it is bound; shared with those who are told of it.
pub(super) type NameCell = Arc<OnceLock<Address>>;

/// What the bytes of a `struct sockaddr_un` say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Given {
    /// A name.
    Name(Address),
    /// The family alone: bind(2) makes a name up.
    Family,
}

impl Given {
    /// `EINVAL` for other families and lengths.
    pub fn decode(bytes: &[u8]) -> Result<Self, Errno> {
        if bytes.len() < FAMILY || bytes.len() > FAMILY + UNIX_PATH_MAX || !bytes.starts_with(&AF_UNIX.to_ne_bytes()) {
            return Err(Errno::EINVAL);
        }
        Ok(match bytes.get(FAMILY..).unwrap_or_default() {
            [] => Self::Family,
            [0, name @ ..] => Self::Name(Address::Abstract(name.to_vec())),
            path => Self::Name(Address::Path(path.split(|&byte| byte == 0).next().unwrap_or_default().to_vec())),
        })
    }

    /// The name, where one is needed.
    pub fn name(self) -> Result<Address, Errno> {
        match self {
            Self::Name(name) => Ok(name),
            Self::Family => Err(Errno::EINVAL),
        }
    }
}

/// A name, or none, as the bytes of a `struct sockaddr_un`.
pub fn encode(name: Option<&Address>) -> Vec<u8> {
    let mut out = AF_UNIX.to_ne_bytes().to_vec();
    match name {
        None => {}
        Some(Address::Path(path)) => {
            out.extend_from_slice(path);
            out.push(0);
        }
        Some(Address::Abstract(name)) => {
            out.push(0);
            out.extend_from_slice(name);
        }
    }
    out
}

/// Bound sockets by kind and abstract name.
type Names = HashMap<(Kind, Vec<u8>), Weak<Socket>>;

/// What the UNIX sockets of a sandbox share.
pub struct Space {
    names: Mutex<Names>,
    pub(super) in_flight: InFlight,
}

/// Names that bind(2) makes up have five hexadecimal digits.
const MADE_UP: u32 = 1 << 20;

impl Space {
    /// Without any socket.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { names: Mutex::new(NAMES, HashMap::new()), in_flight: InFlight::new() })
    }

    /// The socket of this kind with this abstract name; `ECONNREFUSED`.
    pub(super) fn find(&self, kind: Kind, name: &[u8]) -> Result<Arc<Socket>, Errno> {
        let found = self.names.lock().get(&(kind, name.to_vec())).and_then(Weak::upgrade);
        found.ok_or(Errno::ECONNREFUSED)
    }

    /// Gives `socket` an abstract name; `EADDRINUSE`.
    pub(super) fn claim(&self, socket: &Arc<Socket>, name: &[u8]) -> Result<(), Errno> {
        let mut names = self.names.lock();
        match names.entry((socket.kind(), name.to_vec())) {
            hashbrown::hash_map::Entry::Occupied(entry) if entry.get().strong_count() > 0 => Err(Errno::EADDRINUSE),
            entry => {
                entry.insert(Arc::downgrade(socket));
                Ok(())
            }
        }
    }

    /// Gives `socket` a name that is free; `ENOSPC` when none is.
    pub(super) fn claim_any(&self, socket: &Arc<Socket>, first: u32) -> Result<Vec<u8>, Errno> {
        for offset in 0..MADE_UP {
            let name = format!("{:05x}", first.wrapping_add(offset) % MADE_UP).into_bytes();
            if self.claim(socket, &name).is_ok() {
                return Ok(name);
            }
        }
        Err(Errno::ENOSPC)
    }

    /// Takes a name back from a socket that closes.
    pub(super) fn give_back(&self, kind: Kind, name: &[u8], socket: &Weak<Socket>) {
        let mut names = self.names.lock();
        let key = (kind, name.to_vec());
        if names.get(&key).is_some_and(|holder| holder.ptr_eq(socket)) {
            names.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, Given, encode};
    use abi::Errno;

    #[test]
    fn addresses_are_read_and_told() {
        assert_eq!(Given::decode(&[1, 0]), Ok(Given::Family));
        assert_eq!(Given::decode(&[1]), Err(Errno::EINVAL));
        assert_eq!(Given::decode(&[2, 0, b'x']), Err(Errno::EINVAL));
        assert_eq!(Given::decode(&[1; 111]), Err(Errno::EINVAL));
        let path = Given::decode(b"\x01\0/run/x\0junk").unwrap().name().unwrap();
        assert_eq!(encode(Some(&path)), b"\x01\0/run/x\0");
        let name = Given::decode(b"\x01\0\0a\0b").unwrap().name().unwrap();
        assert_eq!(name, Address::Abstract(b"a\0b".to_vec()));
        assert_eq!(encode(Some(&name)), b"\x01\0\0a\0b");
        assert_eq!(encode(None), [1, 0]);
    }
}
