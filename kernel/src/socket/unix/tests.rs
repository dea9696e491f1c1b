//! Sockets without tasks: pairs, names, connections, descriptors on their way.

use std::sync::Arc;

use abi::Errno;
use abi::fs::OpenFlags;
use auth::Creds;
use fs::vfs::{At, Devices, File, FileOps, Mount, MountNs, MountOptions};
use usermem::bytes::{KernelDst, KernelSrc};
use waiter::{EventMask, Pollable as _};

use super::{Address, Allowance, Destination, Kind, Maker, Outgoing, Rights, Sender, Shutdown, Socket, Space, Take};

const CAPACITY: usize = 212_992;

fn maker(pid: i32) -> Maker {
    Maker { pid, creds: Arc::new(Creds::root()) }
}

fn sender() -> Sender {
    Sender { pid: 1, uid: 2, gid: 3 }
}

fn sockets(kind: Kind) -> (Arc<File>, Arc<File>, Arc<Socket>, Arc<Socket>) {
    let (a, b) = Socket::pair(&Space::new(), kind, &maker(1));
    let (sa, sb) = (Socket::of(&a).unwrap(), Socket::of(&b).unwrap());
    (a, b, sa, sb)
}

fn send(socket: &Socket, bytes: &[u8]) -> Result<usize, Errno> {
    socket.send(&mut KernelSrc::new(bytes), &mut Outgoing::plain(sender()))
}

fn receive(socket: &Socket, len: usize, take: Take) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; len];
    let got = socket.receive(&mut KernelDst::new(&mut buffer), take)?;
    buffer.truncate(got.copied);
    Ok(buffer)
}

#[test]
fn streams_join_and_split() {
    let (_fa, _fb, a, b) = sockets(Kind::Stream);
    assert_eq!(receive(&b, 4, Take::Consume), Err(Errno::EAGAIN));
    send(&a, b"hello ").unwrap();
    send(&a, b"world").unwrap();
    assert_eq!(receive(&b, 8, Take::Peek).unwrap(), b"hello wo");
    assert_eq!(receive(&b, 3, Take::Consume).unwrap(), b"hel");
    assert_eq!(receive(&b, 100, Take::Peek).unwrap(), b"lo world");
    assert_eq!(receive(&b, 100, Take::Consume).unwrap(), b"lo world");
    assert_eq!(b.readable_bytes(), Ok(0));
}

#[test]
fn packets_keep_their_borders() {
    let (_fa, _fb, a, b) = sockets(Kind::SeqPacket);
    send(&a, b"first").unwrap();
    send(&a, b"").unwrap();
    send(&a, b"third").unwrap();
    let mut small = [0; 2];
    let got = b.receive(&mut KernelDst::new(&mut small), Take::Consume);
    let got = got.unwrap();
    assert_eq!((got.copied, got.packet, &small), (2, 5, b"fi"));
    assert_eq!(receive(&b, 9, Take::Consume).unwrap(), b"");
    assert_eq!(receive(&b, 9, Take::Consume).unwrap(), b"third");
    assert_eq!(send(&a, &vec![0; CAPACITY + 1]), Err(Errno::EMSGSIZE));
}

#[test]
fn a_full_stream_takes_what_fits() {
    let (fa, _fb, a, b) = sockets(Kind::Stream);
    assert_eq!(send(&a, &vec![7; CAPACITY + 100]), Ok(CAPACITY));
    assert_eq!(send(&a, b"x"), Err(Errno::EAGAIN));
    assert!(!fa.readiness(EventMask::OUT).contains(EventMask::OUT));
    assert_eq!(receive(&b, CAPACITY, Take::Consume).unwrap().len(), CAPACITY);
    assert!(fa.readiness(EventMask::OUT).contains(EventMask::OUT));
}

#[test]
fn ends_are_told() {
    let (fa, fb, a, b) = sockets(Kind::Stream);
    send(&a, b"last").unwrap();
    a.shutdown(Shutdown::Write);
    assert_eq!(send(&a, b"x"), Err(Errno::EPIPE));
    assert_eq!(receive(&b, 9, Take::Consume).unwrap(), b"last");
    assert_eq!(receive(&b, 9, Take::Consume).unwrap(), b"");
    assert_eq!(send(&b, b"back"), Ok(4));
    drop(fa);
    assert_eq!(receive(&b, 9, Take::Consume), Err(Errno::ECONNRESET));
    assert!(fb.readiness(EventMask::IN).contains(EventMask::IN | EventMask::HUP));
    assert_eq!(send(&b, b"x"), Err(Errno::EPIPE));
}

fn create(space: &Arc<Space>, kind: Kind) -> (Arc<File>, Arc<Socket>) {
    let file = Socket::create(space, kind, &Creds::root());
    let socket = Socket::of(&file).unwrap();
    (file, socket)
}

/// Calls `f` with a walk in an empty tree.
fn with_tree(f: impl FnOnce(&At<'_>)) {
    let memory = usermem::memfile::MemoryFile::on_memfd(16 << 20).unwrap();
    let root = fs::tmpfs::new(&memory, &fs::tmpfs::TmpfsOptions::of_size(1 << 20)).unwrap();
    let mounts = MountNs::new(Mount::of(root, b"tmpfs", MountOptions::empty()));
    let boot = fs::KernelContext::new(Arc::new(Devices::new()));
    let root = mounts.root();
    f(&At { ctx: &boot.context(), root: &root, start: &root });
}

fn abstract_name(name: &[u8]) -> Address {
    Address::Abstract(name.to_vec())
}

#[test]
fn a_connection_by_name() {
    with_tree(|at| {
        let space = Space::new();
        for name in [Address::Path(b"/s".to_vec()), abstract_name(b"s")] {
            let (listener_file, listener) = create(&space, Kind::Stream);
            let (_client_file, client) = create(&space, Kind::Stream);
            assert!(client.find(at, &name).is_err());
            listener.bind(at, name.clone()).unwrap();
            assert_eq!(listener.bind(at, name.clone()), Err(Errno::EINVAL));
            assert_eq!(create(&space, Kind::Stream).1.bind(at, name.clone()), Err(Errno::EADDRINUSE));
            assert_eq!(client.connect(&listener, &maker(7)), Err(Errno::ECONNREFUSED));
            listener.listen(1, maker(5)).unwrap();
            assert!(Arc::ptr_eq(&client.find(at, &name).unwrap(), &listener));
            assert_eq!(listener.accept().map(drop), Err(Errno::EAGAIN));
            client.connect(&listener, &maker(7)).unwrap();
            assert_eq!(client.connect(&listener, &maker(7)), Err(Errno::EISCONN));
            assert!(listener_file.readiness(EventMask::IN).contains(EventMask::IN));
            // Before it is accepted.
            send(&client, b"early").unwrap();
            let end_file = listener.accept().unwrap();
            let end = Socket::of(&end_file).unwrap();
            assert_eq!(receive(&end, 9, Take::Consume).unwrap(), b"early");
            assert_eq!((end.name(), client.peer_name()), (Some(name.clone()), Ok(Some(name.clone()))));
            assert_eq!(end.peer_name(), Ok(None));
            assert_eq!((end.peer_maker().unwrap().pid, client.peer_maker().unwrap().pid), (7, 5));
            drop(end_file);
            assert_eq!(receive(&client, 9, Take::Consume).unwrap(), b"");
            drop(listener_file);
            drop(listener);
            assert_eq!(client.find(at, &name).map(drop), Err(Errno::ECONNREFUSED));
        }
    });
}

#[test]
fn a_full_backlog_and_the_end_of_a_listener() {
    with_tree(|at| {
        let space = Space::new();
        let (listener_file, listener) = create(&space, Kind::SeqPacket);
        listener.bind(at, abstract_name(b"l")).unwrap();
        listener.listen(0, maker(1)).unwrap();
        let (first_file, first) = create(&space, Kind::SeqPacket);
        let (_second_file, second) = create(&space, Kind::SeqPacket);
        first.connect(&listener, &maker(2)).unwrap();
        assert_eq!(second.connect(&listener, &maker(2)), Err(Errno::EAGAIN));
        drop(listener.accept().unwrap());
        second.connect(&listener, &maker(2)).unwrap();
        drop((listener_file, listener));
        assert_eq!(receive(&second, 1, Take::Consume), Err(Errno::ECONNRESET));
        assert!(first_file.readiness(EventMask::IN).contains(EventMask::IN | EventMask::HUP));
    });
}

#[test]
fn datagrams_reach_whom_they_name() {
    with_tree(|at| {
        let space = Space::new();
        let (_to_file, to) = create(&space, Kind::Datagram);
        let (_from_file, from) = create(&space, Kind::Datagram);
        let (_other_file, other) = create(&space, Kind::Datagram);
        to.bind(at, abstract_name(b"to")).unwrap();
        from.bind(at, abstract_name(b"from")).unwrap();
        let to_it = || Outgoing { to: Destination::Socket(Arc::clone(&to)), sender: sender(), rights: None };
        assert_eq!(send(&from, b"x"), Err(Errno::ENOTCONN));
        assert_eq!(from.send(&mut KernelSrc::new(b"one"), &mut to_it()), Ok(3));
        let got = to.receive(&mut KernelDst::new(&mut [0; 8]), Take::Consume).unwrap();
        assert_eq!((got.copied, got.from, got.sender.map(|s| s.uid)), (3, Some(abstract_name(b"from")), Some(2)));
        // Who is connected hears from its peer alone.
        to.connect(&from, &maker(1)).unwrap();
        assert_eq!(other.send(&mut KernelSrc::new(b"x"), &mut to_it()), Err(Errno::EPERM));
        assert_eq!(from.send(&mut KernelSrc::new(b"x"), &mut to_it()), Ok(1));
        to.disconnect().unwrap();
        assert_eq!(other.send(&mut KernelSrc::new(b"x"), &mut to_it()), Ok(1));
    });
}

fn rights(space: &Arc<Space>, files: Vec<Arc<File>>) -> Result<Rights, Errno> {
    Rights::new(space, files, Allowance { uid: 9, limit: Some(100) })
}

fn send_files(space: &Arc<Space>, socket: &Socket, bytes: &[u8], files: Vec<Arc<File>>) {
    let mut message = Outgoing { rights: Some(rights(space, files).unwrap()), ..Outgoing::plain(sender()) };
    socket.send(&mut KernelSrc::new(bytes), &mut message).unwrap();
}

struct Counted {
    _token: Arc<()>,
}

impl FileOps for Counted {}

fn counted(token: &Arc<()>) -> Arc<File> {
    File::anonymous(Arc::new(Counted { _token: Arc::clone(token) }), OpenFlags::O_RDWR, "counted")
}

#[test]
fn descriptors_come_with_their_bytes() {
    let (space, token) = (Space::new(), Arc::new(()));
    let (_fa, _fb, a, b) = sockets(Kind::Stream);
    send(&a, b"before ").unwrap();
    send_files(&space, &a, b"with", vec![counted(&token), counted(&token)]);
    send(&a, b"after").unwrap();
    let mut bytes = [0; 64];
    let peeked = b.receive(&mut KernelDst::new(&mut bytes), Take::Peek).unwrap();
    assert_eq!((peeked.copied, peeked.files.len()), (11, 2));
    drop(peeked);
    assert_eq!(receive(&b, 8, Take::Consume).unwrap(), b"before w");
    assert_eq!(Arc::strong_count(&token), 1);
    assert_eq!(receive(&b, 64, Take::Consume).unwrap(), b"ithafter");
}

#[test]
fn unread_descriptors_are_closed() {
    let (space, token) = (Space::new(), Arc::new(()));
    let (fa, fb, a, b) = sockets(Kind::Datagram);
    send_files(&space, &a, b"", vec![counted(&token)]);
    drop((fb, b));
    assert_eq!(Arc::strong_count(&token), 1);
    drop((fa, a));
    assert!(rights(&space, vec![counted(&token); 101]).is_ok());
    let held = rights(&space, vec![counted(&token); 101]).unwrap();
    assert_eq!(rights(&space, vec![counted(&token)]).map(drop), Err(Errno::ETOOMANYREFS));
    drop(held);
    assert!(rights(&space, vec![counted(&token)]).is_ok());
}

#[test]
fn sockets_that_keep_each_other_are_found() {
    let (space, token) = (Space::new(), Arc::new(()));
    let pair = || {
        let (a, b) = Socket::pair(&space, Kind::Stream, &maker(1));
        let (sa, sb) = (Socket::of(&a).unwrap(), Socket::of(&b).unwrap());
        (a, b, sa, sb)
    };
    let (a, b, sa, sb) = pair();
    let (c, d, sc, sd) = pair();
    // Each lies in the queue of the other pair; and one lies in the queue of a socket that is still open.
    send_files(&space, &sa, b"x", vec![Arc::clone(&d), counted(&token)]);
    send_files(&space, &sc, b"x", vec![Arc::clone(&b)]);
    let (e, f, se, sf) = pair();
    send_files(&space, &se, b"x", vec![Arc::clone(&b)]);
    drop((sa, sb, sc, sd, a, b, c, d));
    space.search();
    assert_eq!(Arc::strong_count(&token), 2, "still to be had from the open one");
    let mut byte = [0; 1];
    drop(sf.receive(&mut KernelDst::new(&mut byte), Take::Consume).unwrap());
    space.search();
    assert_eq!(Arc::strong_count(&token), 1);
    drop((e, f, se, sf));
}

#[test]
fn garbage_does_not_pile_up() {
    let space = Space::new();
    let pair = || {
        let (a, b) = Socket::pair(&space, Kind::Stream, &maker(1));
        (Socket::of(&a).unwrap(), a, b)
    };
    let send = |to: &Socket, files: [&Arc<File>; 2]| {
        let files = files.map(Arc::clone).to_vec();
        let rights = Rights::new(&space, files, Allowance { uid: 0, limit: None }).unwrap();
        to.send(&mut KernelSrc::new(b"x"), &mut Outgoing { rights: Some(rights), ..Outgoing::plain(sender()) })
            .unwrap();
    };
    // Some that stay, in a queue that is open.
    let (open, open_file, kept) = pair();
    for _ in 0..50 {
        let (_, a, b) = pair();
        send(&open, [&a, &b]);
    }
    for _ in 0..2000 {
        let ((to_a, a, other_a), (to_b, b, other_b)) = (pair(), pair());
        send(&to_a, [&b, &other_b]);
        send(&to_b, [&a, &other_a]);
        assert!(space.in_flight.count() < 1000, "{}", space.in_flight.count());
    }
    drop((open, open_file, kept));
}

#[test]
fn a_long_chain_of_queues_ends_without_depth() {
    let space = Space::new();
    let mut last: Option<Arc<File>> = None;
    for _ in 0..20_000 {
        let (a, b) = Socket::pair(&space, Kind::Datagram, &maker(1));
        if let Some(file) = last.take() {
            let message = Rights::new(&space, vec![file], Allowance { uid: 0, limit: None }).unwrap();
            let mut message = Outgoing { rights: Some(message), ..Outgoing::plain(sender()) };
            Socket::of(&a).unwrap().send(&mut KernelSrc::new(b"x"), &mut message).unwrap();
        }
        last = Some(b);
    }
    let (done, wait) = std::sync::mpsc::channel();
    // With the stack of a task's thread.
    std::thread::Builder::new()
        .stack_size(512 << 10)
        .spawn(move || {
            drop(last);
            done.send(()).unwrap();
        })
        .unwrap();
    wait.recv().unwrap();
}

#[test]
fn nobody_sends_more_descriptors_than_there_may_be() {
    let (space, token) = (Space::new(), Arc::new(()));
    let send = |count| Rights::new(&space, vec![counted(&token); count], Allowance { uid: 0, limit: None });
    assert_eq!(send(65_537).map(drop), Err(Errno::ETOOMANYREFS));
    let most = send(65_536).unwrap();
    assert_eq!(send(1).map(drop), Err(Errno::ETOOMANYREFS));
    drop(most.arrive());
    assert!(send(1).is_ok());
}

#[test]
fn a_socket_bound_by_two_threads_has_one_name() {
    with_tree(|at| {
        let space = Space::new();
        for _ in 0..200 {
            let (_file, socket) = create(&space, Kind::Datagram);
            std::thread::scope(|scope| {
                scope.spawn(|| socket.bind_anywhere(1).unwrap());
                socket.bind_anywhere(2).unwrap();
            });
            let names = [abstract_name(b"00001"), abstract_name(b"00002")];
            let lost = names.into_iter().find(|name| socket.name().as_ref() != Some(name)).unwrap();
            assert_eq!(create(&space, Kind::Datagram).1.bind(at, lost), Ok(()));
        }
    });
}
