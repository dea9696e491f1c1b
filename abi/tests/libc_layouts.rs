//! Our structures against those of the `libc` crate, field by field, and constants of each kind.

use casemate_abi as abi;

macro_rules! same_layout {
    ($($ours:ty, $theirs:ty { $($field:ident = $their_field:ident),* $(,)? })*) => {
        $(
            assert_eq!(size_of::<$ours>(), size_of::<$theirs>(), "size of {}", stringify!($ours));
            $(assert_eq!(
                std::mem::offset_of!($ours, $field),
                std::mem::offset_of!($theirs, $their_field),
                "{}.{}", stringify!($ours), stringify!($field)
            );)*
        )*
    };
}

#[test]
fn structures_have_libcs_layout() {
    same_layout! {
        abi::stat::Stat, libc::stat {
            st_dev = st_dev, st_ino = st_ino, st_nlink = st_nlink, st_mode = st_mode, st_uid = st_uid, st_gid = st_gid,
            st_rdev = st_rdev, st_size = st_size, st_blksize = st_blksize, st_blocks = st_blocks, st_atime = st_atime,
            st_atime_nsec = st_atime_nsec, st_mtime = st_mtime, st_ctime = st_ctime, st_ctime_nsec = st_ctime_nsec,
        }
        abi::stat::Statx, libc::statx {
            stx_mask = stx_mask, stx_attributes = stx_attributes, stx_mode = stx_mode, stx_ino = stx_ino,
            stx_size = stx_size, stx_attributes_mask = stx_attributes_mask, stx_atime = stx_atime,
            stx_btime = stx_btime, stx_mtime = stx_mtime, stx_rdev_major = stx_rdev_major, stx_mnt_id = stx_mnt_id,
        }
        abi::stat::Statfs, libc::statfs { f_type = f_type, f_bsize = f_bsize, f_fsid = f_fsid, f_namelen = f_namelen }
        abi::fs::Iovec, libc::iovec { iov_base = iov_base, iov_len = iov_len }
        abi::fs::Flock, libc::flock { l_type = l_type, l_whence = l_whence, l_start = l_start, l_len = l_len, l_pid = l_pid }
        abi::fs::OpenHow, libc::open_how { flags = flags, mode = mode, resolve = resolve }
        abi::fs::InotifyEvent, libc::inotify_event { wd = wd, mask = mask, cookie = cookie, len = len }
        abi::time::Timespec, libc::timespec { tv_sec = tv_sec, tv_nsec = tv_nsec }
        abi::time::Timeval, libc::timeval { tv_sec = tv_sec, tv_usec = tv_usec }
        abi::time::Itimerspec, libc::itimerspec { it_interval = it_interval, it_value = it_value }
        abi::time::Timex, libc::timex { modes = modes, offset = offset, status = status, time = time, tick = tick, tai = tai }
        abi::time::Tms, libc::tms { tms_utime = tms_utime, tms_cstime = tms_cstime }
        abi::signal::SigInfo, libc::siginfo_t { si_signo = si_signo, si_errno = si_errno, si_code = si_code }
        abi::signal::StackT, libc::stack_t { ss_sp = ss_sp, ss_flags = ss_flags, ss_size = ss_size }
        abi::signal::SigEvent, libc::sigevent {
            sigev_value = sigev_value, sigev_signo = sigev_signo, sigev_notify = sigev_notify,
            sigev_notify_thread_id = sigev_notify_thread_id,
        }
        abi::signal::SignalfdSiginfo, libc::signalfd_siginfo {
            ssi_signo = ssi_signo, ssi_int = ssi_int, ssi_ptr = ssi_ptr, ssi_addr = ssi_addr, ssi_call_addr = ssi_call_addr,
        }
        abi::resource::Rlimit, libc::rlimit { rlim_cur = rlim_cur, rlim_max = rlim_max }
        abi::resource::Rusage, libc::rusage { ru_utime = ru_utime, ru_maxrss = ru_maxrss, ru_nivcsw = ru_nivcsw }
        abi::utsname::Utsname, libc::utsname { sysname = sysname, release = release, machine = machine }
        abi::sysinfo::Sysinfo, libc::sysinfo { uptime = uptime, loads = loads, procs = procs, mem_unit = mem_unit }
        abi::epoll::EpollEvent, libc::epoll_event { events = events, data = u64 }
        abi::poll::PollFd, libc::pollfd { fd = fd, events = events, revents = revents }
        abi::clone::CloneArgs, libc::clone_args { flags = flags, stack = stack, tls = tls, cgroup = cgroup }
        abi::socket::Msghdr, libc::msghdr {
            msg_name = msg_name, msg_namelen = msg_namelen, msg_iov = msg_iov, msg_control = msg_control, msg_flags = msg_flags,
        }
        abi::socket::Mmsghdr, libc::mmsghdr { msg_hdr = msg_hdr, msg_len = msg_len }
        abi::socket::Cmsghdr, libc::cmsghdr { cmsg_len = cmsg_len, cmsg_level = cmsg_level, cmsg_type = cmsg_type }
        abi::socket::Ucred, libc::ucred { pid = pid, uid = uid, gid = gid }
        abi::socket::SockaddrUn, libc::sockaddr_un { sun_family = sun_family, sun_path = sun_path }
        abi::socket::SockaddrIn, libc::sockaddr_in { sin_port = sin_port, sin_addr = sin_addr }
        abi::socket::SockaddrIn6, libc::sockaddr_in6 { sin6_port = sin6_port, sin6_addr = sin6_addr }
        abi::socket::SockaddrNl, libc::sockaddr_nl { nl_family = nl_family, nl_groups = nl_groups }
        abi::socket::Linger, libc::linger { l_onoff = l_onoff, l_linger = l_linger }
        abi::tty::Winsize, libc::winsize { ws_row = ws_row, ws_ypixel = ws_ypixel }
        abi::tty::Termios2, libc::termios2 { c_line = c_line, c_cc = c_cc, c_ispeed = c_ispeed }
        abi::elf::Ehdr, libc::Elf64_Ehdr { e_type = e_type, e_entry = e_entry, e_phnum = e_phnum }
        abi::elf::Phdr, libc::Elf64_Phdr { p_type = p_type, p_flags = p_flags, p_vaddr = p_vaddr, p_align = p_align }
        abi::seccomp::SeccompData, libc::seccomp_data { nr = nr, arch = arch, args = args }
        abi::seccomp::SockFprog, libc::sock_fprog { len = len, filter = filter }
        abi::ptrace::UserRegs, libc::user_regs_struct { r15 = r15, orig_rax = orig_rax, rsp = rsp, gs = gs }
        abi::ipc::IpcPerm, libc::ipc_perm { uid = uid, mode = mode }
        abi::ipc::ShmidDs, libc::shmid_ds { shm_segsz = shm_segsz, shm_nattch = shm_nattch }
        abi::ipc::Sembuf, libc::sembuf { sem_num = sem_num, sem_op = sem_op, sem_flg = sem_flg }
        abi::ipc::MqAttr, libc::mq_attr { mq_flags = mq_flags, mq_curmsgs = mq_curmsgs }
    }
    assert_eq!(abi::fs::DIRENT64_NAME_OFFSET, std::mem::offset_of!(libc::dirent64, d_name));
}

macro_rules! same_value {
    ($($ours:expr => $theirs:ident,)*) => {
        $(assert_eq!(i128::from($ours), i128::from(libc::$theirs), stringify!($theirs));)*
    };
}

#[test]
fn constants_have_libcs_values() {
    same_value! {
        abi::fs::AT_FDCWD => AT_FDCWD,
        abi::fs::S_IFSOCK => S_IFSOCK,
        abi::fs::F_DUPFD_CLOEXEC => F_DUPFD_CLOEXEC,
        abi::fs::F_OFD_SETLKW => F_OFD_SETLKW,
        abi::fs::OpenFlags::O_TMPFILE.bits() => O_TMPFILE,
        abi::fs::OpenFlags::O_SYNC.bits() => O_SYNC,
        abi::fs::OpenFlags::O_PATH.bits() => O_PATH,
        abi::mm::MapFlags::MAP_FIXED_NOREPLACE.bits() => MAP_FIXED_NOREPLACE,
        abi::mm::MADV_POPULATE_WRITE => MADV_POPULATE_WRITE,
        abi::signal::SIGSYS => SIGSYS,
        abi::signal::SaFlags::SA_RESTART.bits() => SA_RESTART,
        abi::clone::CloneFlags::CLONE_NEWCGROUP.bits() => CLONE_NEWCGROUP,
        abi::futex::FUTEX_CMP_REQUEUE_PI => FUTEX_CMP_REQUEUE_PI,
        abi::epoll::EpollEvents::EPOLLRDHUP.bits() => EPOLLRDHUP,
        abi::socket::SO_PEERPIDFD => SO_PEERPIDFD,
        abi::tty::TIOCGPTPEER => TIOCGPTPEER,
        abi::tty::LocalModes::IEXTEN.bits() => IEXTEN,
        abi::prctl::PR_CAP_AMBIENT => PR_CAP_AMBIENT,
        abi::nr::openat2 => SYS_openat2,
        abi::nr::mseal => SYS_mseal,
        abi::seccomp::SECCOMP_RET_USER_NOTIF => SECCOMP_RET_USER_NOTIF,
    }
}
