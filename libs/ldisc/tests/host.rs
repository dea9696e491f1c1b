//! The line discipline against a terminal of the host: the same is typed, printed, read and set on both, and both must
//! give the same.
//!
//! What the host does with what was typed it does on a thread of its own. A read that finds nothing waits for that thread,
//! so each step ends by reading until there is nothing, on both sides.

use abi::tty::{
    InputModes, LocalModes, OutputModes, VEOF, VEOL, VEOL2, VERASE, VINTR, VKILL, VQUIT, VSTART, VSTOP, VSUSP, VWERASE,
};
use casemate_ldisc::{Discipline, Flow, Look, Modes, Output};
use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{self, Action, OptionalActions, QueueSelector, SpecialCodeIndex};

/// The master's side of ours.
#[derive(Default)]
struct Screen {
    shown: Vec<u8>,
}

impl Output for Screen {
    fn room(&self) -> usize {
        8192
    }

    fn put(&mut self, bytes: &[u8]) {
        self.shown.extend_from_slice(bytes);
    }

    fn flush(&mut self) {}
}

/// A terminal of the host.
struct Host {
    master: OwnedFd,
    slave: OwnedFd,
}

impl Host {
    fn new() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        unlockpt(&master).expect("unlocked");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).expect("the slave");
        rustix::fs::fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK).expect("flags");
        Self { master, slave }
    }

    /// What one read gives; nothing when it would wait.
    fn read(fd: &OwnedFd, most: usize) -> Option<Vec<u8>> {
        let mut buffer = vec![0; most];
        match rustix::io::read(fd, buffer.as_mut_slice()) {
            Ok(len) => {
                buffer.truncate(len);
                Some(buffer)
            }
            Err(Errno::AGAIN) => None,
            Err(error) => panic!("read: {error}"),
        }
    }

    fn set_modes(&self, modes: &Modes) {
        let mut host = termios::tcgetattr(&self.slave).expect("modes");
        host.input_modes = termios::InputModes::from_bits_retain(modes.input.bits());
        host.output_modes = termios::OutputModes::from_bits_retain(modes.output.bits());
        host.local_modes = termios::LocalModes::from_bits_retain(modes.local.bits());
        for (index, code) in CODES {
            host.special_codes[*code] = modes.chars[*index];
        }
        termios::tcsetattr(&self.slave, OptionalActions::Now, &host).expect("set");
    }
}

const CODES: &[(usize, SpecialCodeIndex)] = &[
    (VINTR, SpecialCodeIndex::VINTR),
    (VQUIT, SpecialCodeIndex::VQUIT),
    (VERASE, SpecialCodeIndex::VERASE),
    (VKILL, SpecialCodeIndex::VKILL),
    (VEOF, SpecialCodeIndex::VEOF),
    (abi::tty::VTIME, SpecialCodeIndex::VTIME),
    (abi::tty::VMIN, SpecialCodeIndex::VMIN),
    (VSTART, SpecialCodeIndex::VSTART),
    (VSTOP, SpecialCodeIndex::VSTOP),
    (VSUSP, SpecialCodeIndex::VSUSP),
    (VEOL, SpecialCodeIndex::VEOL),
    (abi::tty::VREPRINT, SpecialCodeIndex::VREPRINT),
    (VWERASE, SpecialCodeIndex::VWERASE),
    (abi::tty::VLNEXT, SpecialCodeIndex::VLNEXT),
    (VEOL2, SpecialCodeIndex::VEOL2),
];

/// One thing that happens to both.
#[derive(Clone, Debug)]
enum Step {
    Type(Vec<u8>),
    Print(Vec<u8>),
    Set(Modes),
    FlushInput,
    Stop,
    Start,
}

/// Both terminals.
struct Pair {
    host: Host,
    ours: Discipline,
    screen: Screen,
    /// Typed, and waiting for room.
    typed: Vec<u8>,
}

impl Pair {
    fn new() -> Self {
        Self { host: Host::new(), ours: Discipline::new(), screen: Screen::default(), typed: Vec::new() }
    }

    fn apply(&mut self, step: &Step, most: usize) {
        match step {
            Step::Type(bytes) => self.type_in(bytes, most),
            Step::Print(bytes) => {
                let host = match rustix::io::write(&self.host.slave, bytes) {
                    Ok(len) => len,
                    Err(Errno::AGAIN) => 0,
                    Err(error) => panic!("write: {error}"),
                };
                let (ours, _) = self.ours.write(bytes, &mut self.screen);
                assert_eq!(ours, host, "printed");
            }
            Step::Set(modes) => {
                self.host.set_modes(modes);
                self.ours.set_modes(*modes, &mut self.screen);
            }
            Step::FlushInput => {
                termios::tcflush(&self.host.slave, QueueSelector::IFlush).expect("flush");
                self.ours.flush_input();
            }
            Step::Stop => {
                termios::tcflow(&self.host.slave, Action::OOff).expect("stop");
                self.ours.set_flow(Flow::Stopped);
            }
            Step::Start => {
                termios::tcflow(&self.host.slave, Action::OOn).expect("start");
                self.ours.set_flow(Flow::Started);
            }
        }
        self.settle(most);
    }

    /// A key for a signal takes back the echo of what came with it in one piece, and one that stops output holds it back.
    /// Where the host's pieces end is its own business, so here such a key begins one, as does what follows it.
    fn type_in(&mut self, bytes: &[u8], most: usize) {
        let modes = *self.ours.modes();
        let strips = modes.input.contains(InputModes::ISTRIP);
        let small = modes.input.contains(InputModes::IUCLC);
        let is_key = |byte: &u8| {
            let byte = if strips { byte & 0x7f } else { *byte };
            // Whatever it is as a small letter.
            let may_be = |key: u8| byte == key || (small && byte | 0x20 == key);
            [VINTR, VQUIT, VSUSP, VSTART, VSTOP].iter().any(|&index| may_be(modes.chars[index]))
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = match rest.iter().position(is_key) {
                Some(0) => 1,
                Some(at) => at,
                None => rest.len(),
            };
            let (piece, after) = rest.split_at(len);
            rest = after;
            assert_eq!(rustix::io::write(&self.host.master, piece), Ok(piece.len()));
            self.typed.extend_from_slice(piece);
            self.settle(most);
        }
    }

    fn settle(&mut self, most: usize) {
        loop {
            let (taken, _) = self.ours.receive(&self.typed, &mut self.screen);
            self.typed.drain(..taken);
            let host = Host::read(&self.host.slave, most);
            let modes = *self.ours.modes();
            let ready = self.ours.is_readable(Look::Read);
            let waits_for_none = !modes.is_canonical() && modes.min() == 0 && modes.time() == 0;
            let mut ours = (ready || waits_for_none).then(Vec::new);
            if let Some(ours) = &mut ours {
                let mut sink = |bytes: &[u8]| {
                    ours.extend_from_slice(bytes);
                    Ok::<usize, ()>(bytes.len())
                };
                self.ours.read(most, &mut sink).expect("read");
            }
            assert_eq!(show(ours.as_deref()), show(host.as_deref()), "read of {most}");
            if !ready {
                break;
            }
        }
        let mut shown = Vec::new();
        while let Some(bytes) = Host::read(&self.host.master, 4096) {
            shown.extend_from_slice(&bytes);
        }
        let ours = std::mem::take(&mut self.screen.shown);
        assert_eq!(show(Some(&ours)), show(Some(&shown)), "shown");
        let host = rustix::io::ioctl_fionread(&self.host.slave).expect("FIONREAD");
        assert_eq!(self.ours.readable_bytes() as u64, host, "FIONREAD");
    }
}

fn show(bytes: Option<&[u8]>) -> Option<String> {
    bytes.map(|bytes| bytes.escape_ascii().to_string())
}

/// Flags of `all`, each with even odds.
fn some_of(all: &'static [u32]) -> impl Strategy<Value = u32> {
    vec(any::<bool>(), all.len())
        .prop_map(|chosen| all.iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(flag, _)| flag).sum())
}

const INPUT: &[u32] = &[
    InputModes::ISTRIP.bits(),
    InputModes::INLCR.bits(),
    InputModes::IGNCR.bits(),
    InputModes::ICRNL.bits(),
    InputModes::IUCLC.bits(),
    InputModes::IXON.bits(),
    InputModes::IXANY.bits(),
    InputModes::IUTF8.bits(),
    InputModes::PARMRK.bits(),
    InputModes::IXOFF.bits(),
    InputModes::IMAXBEL.bits(),
];
const OUTPUT: &[u32] = &[
    OutputModes::OLCUC.bits(),
    OutputModes::ONLCR.bits(),
    OutputModes::OCRNL.bits(),
    OutputModes::ONOCR.bits(),
    OutputModes::ONLRET.bits(),
    OutputModes::TABDLY.bits(),
];
const LOCAL: &[u32] = &[
    LocalModes::ISIG.bits(),
    LocalModes::ECHOE.bits(),
    LocalModes::ECHOK.bits(),
    LocalModes::ECHONL.bits(),
    LocalModes::NOFLSH.bits(),
    LocalModes::ECHOCTL.bits(),
    LocalModes::ECHOPRT.bits(),
    LocalModes::ECHOKE.bits(),
];

/// Modes that are neither all usual nor all odd.
fn modes() -> impl Strategy<Value = Modes> {
    let chances = (0..10_u8, 0..10_u8, 0..10_u8, 0..10_u8, 0..3_u8);
    let chars = prop_oneof![
        6 => Just(None),
        1 => (0..CODES.len(), prop_oneof![any::<u8>(), Just(0), Just(b'a'), Just(0xff)]).prop_map(Some),
    ];
    (some_of(INPUT), some_of(OUTPUT), some_of(LOCAL), chances, chars).prop_map(
        |(input, output, local, (canonical, echo, opost, extended, min), char)| {
            let mut modes = Modes::sane();
            modes.input = InputModes::from_bits_retain(input);
            modes.output = OutputModes::from_bits_retain(output);
            modes.output.set(OutputModes::OPOST, opost < 7);
            modes.local = LocalModes::from_bits_retain(local);
            modes.local.set(LocalModes::ICANON, canonical < 7);
            modes.local.set(LocalModes::ECHO, echo < 8);
            modes.local.set(LocalModes::IEXTEN, extended < 8);
            if modes.local.contains(LocalModes::ECHOPRT) {
                // Without, Linux shows its whole ring of echo when VLNEXT ends an erasure and output follows.
                modes.local.insert(LocalModes::ECHOCTL);
            }
            modes.chars[abi::tty::VMIN] = min;
            if let Some((index, byte)) = char
                && CODES[index].0 != abi::tty::VTIME
                && CODES[index].0 != abi::tty::VMIN
            {
                modes.chars[CODES[index].0] = byte;
            }
            modes
        },
    )
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        8 => b' '..=b'~',
        3 => prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'\t'), Just(8), Just(0xff), Just(0)],
        4 => prop_oneof![Just(3), Just(0x1c), Just(0x7f), Just(0x15), Just(4), Just(0x11), Just(0x13), Just(0x1a)],
        2 => prop_oneof![Just(0x12), Just(0x17), Just(0x16)],
        2 => any::<u8>(),
    ];
    let word = prop_oneof![
        4 => vec(byte, 0..40),
        1 => proptest::sample::select(vec!["a\u{e4}\u{20ac}\u{1f600}\x7f\x7f", "\u{e4}b c\x17\n", "\tx\t\x7f\x7f"])
            .prop_map(|text| text.as_bytes().to_vec()),
    ];
    word
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => text().prop_map(Step::Type),
        4 => text().prop_map(Step::Print),
        3 => modes().prop_map(Step::Set),
        1 => Just(Step::FlushInput),
        1 => prop_oneof![Just(Step::Stop), Just(Step::Start), Just(Step::Start)],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_the_hosts(steps in vec(step(), 1..25), most in prop_oneof![Just(4096_usize), 1..70_usize]) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.apply(step, most);
        }
    }
}

#[test]
fn long_lines_can_be_erased_and_ended() {
    for echo in [true, false] {
        let mut modes = Modes::sane();
        modes.local.set(LocalModes::ECHO, echo);
        let mut pair = Pair::new();
        pair.apply(&Step::Set(modes), 5000);
        for _ in 0..50 {
            pair.apply(&Step::Type(vec![b'q'; 100]), 5000);
        }
        pair.apply(&Step::Type(vec![0x7f; 3]), 5000);
        pair.apply(&Step::Type(b"abcdef\nxyz\n".to_vec()), 5000);
        for _ in 0..42 {
            pair.apply(&Step::Type(vec![b'r'; 100]), 5000);
        }
        // The host has no room to show that so much is erased.
        pair.apply(&Step::Type(vec![if echo { b'\n' } else { 0x15 }]), 5000);
        pair.apply(&Step::Type(b"short\n".to_vec()), 5000);
    }
}

#[test]
fn what_is_there_changes_its_kind() {
    let mut raw = Modes::sane();
    raw.local.remove(LocalModes::ICANON);
    let mut pair = Pair::new();
    pair.apply(&Step::Type(b"half".to_vec()), 100);
    pair.apply(&Step::Set(raw), 100);
    pair.apply(&Step::Type(b"raw".to_vec()), 2);
    pair.apply(&Step::Set(Modes::sane()), 100);
    pair.apply(&Step::Type(b"line\x04\x04more\n".to_vec()), 4);
}
