//! What each call takes: a line per call, a word per argument. Calls without a line get arguments of any kind.
//!
//! | word | argument |
//! | --- | --- |
//! | `fd` `dir` `nfd` | a descriptor; a directory's; a number for a new one |
//! | `@a,b` | one of these descriptors, which [`crate::tree`] opens; sometimes any other |
//! | `path` `name` | a path; the name of an attribute |
//! | `in` `out` | memory to read, of random bytes; memory to write |
//! | `len` `off` `int` | a length; a file position; any number |
//! | `=a,b` | one of the numbers, seldom another |
//! | `\|a,b` | some of the bits, seldom others |
//! | others | named as in [`Kind`] |
//!
//! A `~` before the name: the call may sleep without end. A `!`: only a child of its own makes it, for its caller would
//! be gone.

use crate::ipc::Family;

/// What an argument is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Fd,
    Dir,
    NewFd,
    /// A descriptor of the kind that the call is for: one of these numbers.
    FdOf(Vec<u64>),
    Path,
    Name,
    In,
    Out,
    Len,
    Off,
    OffPtr,
    Int,
    One(Vec<u64>),
    Bits(Vec<u64>),
    Iov,
    IovCount,
    /// Address of a mapping of the arena, its length, a hint for a new one.
    Addr,
    AddrLen,
    Hint,
    Prot,
    MapFlags,
    OpenFlags,
    Mode,
    Pid,
    Tid,
    Sig,
    SigSet,
    SigAct,
    SigInfo,
    SigStack,
    Timespec,
    Timeval,
    ItimerVal,
    ItimerSpec,
    Clock,
    Timer,
    SigEvent,
    Polls,
    Count,
    Timeout,
    FdSet,
    EpollEvent,
    FcntlCmd,
    FcntlArg,
    IoctlCmd,
    IoctlArg,
    PrctlCmd,
    PrctlArg,
    Futex,
    FutexOp,
    FutexVal,
    FutexWaiters,
    CloneFlags,
    Stack,
    CloneArgs,
    OpenHow,
    OpenHowLen,
    SockAddr,
    SockLen,
    LenPtr,
    MsgHdr,
    MmsgHdr,
    SockOpt,
    Limit,
    Strings,
    ProgPath,
    CapHead,
    CapData,
    SchedParam,
    SchedAttr,
    SetAndSize,
    Ids,
    Id,
    TimesBuf,
    Frame,
    RobustList,
    Sembufs,
    MsgBuf,
    QueueName,
    QueueAttr,
    Rseq,
    /// The id of an object that outlives processes.
    Object(Family),
    /// The result of a call before.
    Recent,
    /// What `waitid` waits for: a process, a group or a pidfd.
    WaitId,
}

/// A call and its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) nr: u16,
    pub(crate) args: Vec<Kind>,
    /// It may sleep without end.
    pub(crate) sleeps: bool,
    /// Only a child makes it.
    pub(crate) child_only: bool,
}

const TABLE: &str = include_str!("calls.txt");

fn number(text: &str) -> u64 {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let value = if let Some(hex) = digits.strip_prefix("0x") {
        u64::from_str_radix(hex, 16)
    } else if let Some(octal) = digits.strip_prefix("0o") {
        u64::from_str_radix(octal, 8)
    } else {
        digits.parse()
    };
    let value = value.unwrap_or_else(|_| panic!("{text} is no number"));
    if negative { value.wrapping_neg() } else { value }
}

fn kind(word: &str) -> Kind {
    if let Some(list) = word.strip_prefix('=') {
        return Kind::One(list.split(',').map(number).collect());
    }
    if let Some(list) = word.strip_prefix('|') {
        return Kind::Bits(list.split(',').map(number).collect());
    }
    if let Some(list) = word.strip_prefix('@') {
        return Kind::FdOf(list.split(',').map(number).collect());
    }
    match word {
        "fd" => Kind::Fd,
        "dir" => Kind::Dir,
        "nfd" => Kind::NewFd,
        "path" => Kind::Path,
        "name" => Kind::Name,
        "in" => Kind::In,
        "out" => Kind::Out,
        "len" => Kind::Len,
        "off" => Kind::Off,
        "offp" => Kind::OffPtr,
        "int" => Kind::Int,
        "iov" => Kind::Iov,
        "iovc" => Kind::IovCount,
        "addr" => Kind::Addr,
        "alen" => Kind::AddrLen,
        "hint" => Kind::Hint,
        "prot" => Kind::Prot,
        "mapf" => Kind::MapFlags,
        "oflags" => Kind::OpenFlags,
        "mode" => Kind::Mode,
        "pid" => Kind::Pid,
        "tid" => Kind::Tid,
        "sig" => Kind::Sig,
        "set" => Kind::SigSet,
        "act" => Kind::SigAct,
        "info" => Kind::SigInfo,
        "ss" => Kind::SigStack,
        "ts" => Kind::Timespec,
        "tv" => Kind::Timeval,
        "itv" => Kind::ItimerVal,
        "its" => Kind::ItimerSpec,
        "clock" => Kind::Clock,
        "timer" => Kind::Timer,
        "evp" => Kind::SigEvent,
        "polls" => Kind::Polls,
        "count" => Kind::Count,
        "tmo" => Kind::Timeout,
        "fdset" => Kind::FdSet,
        "epev" => Kind::EpollEvent,
        "fcmd" => Kind::FcntlCmd,
        "farg" => Kind::FcntlArg,
        "icmd" => Kind::IoctlCmd,
        "iarg" => Kind::IoctlArg,
        "pcmd" => Kind::PrctlCmd,
        "parg" => Kind::PrctlArg,
        "futex" => Kind::Futex,
        "fop" => Kind::FutexOp,
        "fval" => Kind::FutexVal,
        "waiters" => Kind::FutexWaiters,
        "cflags" => Kind::CloneFlags,
        "stack" => Kind::Stack,
        "cargs" => Kind::CloneArgs,
        "how" => Kind::OpenHow,
        "howlen" => Kind::OpenHowLen,
        "sa" => Kind::SockAddr,
        "salen" => Kind::SockLen,
        "lenp" => Kind::LenPtr,
        "msg" => Kind::MsgHdr,
        "mmsg" => Kind::MmsgHdr,
        "opt" => Kind::SockOpt,
        "limit" => Kind::Limit,
        "strv" => Kind::Strings,
        "prog" => Kind::ProgPath,
        "caph" => Kind::CapHead,
        "capd" => Kind::CapData,
        "sparam" => Kind::SchedParam,
        "sattr" => Kind::SchedAttr,
        "setsize" => Kind::SetAndSize,
        "ids" => Kind::Ids,
        "id" => Kind::Id,
        "tbuf" => Kind::TimesBuf,
        "frame" => Kind::Frame,
        "robust" => Kind::RobustList,
        "sembufs" => Kind::Sembufs,
        "msgbuf" => Kind::MsgBuf,
        "mqname" => Kind::QueueName,
        "mqattr" => Kind::QueueAttr,
        "rseq" => Kind::Rseq,
        "shmid" => Kind::Object(Family::Memory),
        "semid" => Kind::Object(Family::Semaphores),
        "msgid" => Kind::Object(Family::Messages),
        "recent" => Kind::Recent,
        "waitid" => Kind::WaitId,
        _ => panic!("{word} is no kind of argument"),
    }
}

/// The number of the call `name`.
fn nr(name: &str) -> Option<u16> {
    let at = abi::nr::NAMES.iter().position(|&row| row == Some(name))?;
    u16::try_from(at).ok()
}

/// A spec for each row of the table of calls; those without a line take six arguments of any kind.
pub(crate) fn all() -> Vec<Spec> {
    let mut specs: Vec<Spec> = Vec::new();
    for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let word = words.next().unwrap_or_default();
        let name = word.trim_start_matches(['~', '!']);
        let nr = nr(name).unwrap_or_else(|| panic!("{name} is no call"));
        let args = words.map(kind).collect();
        specs.push(Spec { nr, args, sleeps: word.contains('~'), child_only: word.contains('!') });
    }
    for (at, name) in abi::nr::NAMES.iter().enumerate() {
        let Ok(nr) = u16::try_from(at) else { continue };
        if name.is_some() && !specs.iter().any(|spec| spec.nr == nr) {
            specs.push(Spec { nr, args: vec![Kind::Int; 6], sleeps: false, child_only: false });
        }
    }
    specs.sort_by_key(|spec| spec.nr);
    specs
}

#[cfg(test)]
mod tests {
    use super::{Kind, all, kind};

    #[test]
    fn every_row_has_a_spec_once() {
        let specs = all();
        assert_eq!(specs.len(), abi::nr::NAMES.iter().flatten().count());
        assert!(specs.windows(2).all(|pair| pair[0].nr < pair[1].nr));
        assert!(specs.iter().all(|spec| spec.args.len() <= 6));
    }

    #[test]
    fn numbers_are_read_in_three_bases() {
        assert_eq!(kind("=1,0x10,0o10,-1"), Kind::One(vec![1, 16, 8, u64::MAX]));
        assert_eq!(kind("@30,31"), Kind::FdOf(vec![30, 31]));
    }
}
