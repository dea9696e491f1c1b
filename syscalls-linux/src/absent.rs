//! Calls that a Linux may lack or deny, and that we lack or deny: each answers as such a Linux does.

use kernel::syscalls;

syscalls! {
    pub(crate) const ROWS;

    /// Creates an asynchronous I/O context.
    io_setup [206, 0] Unsupported(ENOSYS, "as without CONFIG_AIO")(Uint, Addr);
    /// Destroys an asynchronous I/O context.
    io_destroy [207, 1] Unsupported(ENOSYS, "as without CONFIG_AIO")(Hex);
    /// Reads asynchronous I/O events.
    io_getevents [208, 4] Unsupported(ENOSYS, "as without CONFIG_AIO")(Hex, Long, Long, Addr, Addr);
    /// Submits asynchronous I/O.
    io_submit [209, 2] Unsupported(ENOSYS, "as without CONFIG_AIO")(Hex, Long, Addr);
    /// Cancels asynchronous I/O.
    io_cancel [210, 3] Unsupported(ENOSYS, "as without CONFIG_AIO")(Hex, Addr, Addr);
    /// Reads asynchronous I/O events under a signal mask.
    io_pgetevents [333, 292] Unsupported(ENOSYS, "as without CONFIG_AIO")(Hex, Long, Long, Addr, Addr, Addr);
    /// Sets up an I/O ring.
    io_uring_setup [425, 425] Unsupported(ENOSYS, "as without CONFIG_IO_URING")(Uint, Addr);
    /// Enters an I/O ring.
    io_uring_enter [426, 426] Unsupported(ENOSYS, "as without CONFIG_IO_URING")(Fd, Uint, Uint, Hex, Addr, Ulong);
    /// Registers resources of an I/O ring.
    io_uring_register [427, 427] Unsupported(ENOSYS, "as without CONFIG_IO_URING")(Fd, Uint, Addr, Uint);

    /// Loads a new kernel for later execution.
    kexec_load [246, 104] Unsupported(EPERM, "no kernel to replace")(Ulong, Ulong, Addr, Hex);
    /// Loads a new kernel from files.
    kexec_file_load [320, 294] Unsupported(EPERM, "no kernel to replace")(Fd, Fd, Ulong, Str, Hex);
    /// Loads a kernel module.
    init_module [175, 105] Unsupported(EPERM, "no modules")(Addr, Ulong, Str);
    /// Loads a kernel module from a file.
    finit_module [313, 273] Unsupported(EPERM, "no modules")(Fd, Str, Hex);
    /// Unloads a kernel module.
    delete_module [176, 106] Unsupported(EPERM, "no modules")(Str, Hex);
    /// Gone since Linux 2.6.
    create_module [174, -] Unsupported(ENOSYS, "gone from Linux")(Str, Ulong);
    /// Gone since Linux 2.6.
    get_kernel_syms [177, -] Unsupported(ENOSYS, "gone from Linux")(Addr);
    /// Gone since Linux 2.6.
    query_module [178, -] Unsupported(ENOSYS, "gone from Linux")(Str, Int, Addr, Ulong, Addr);
    /// Gone since Linux 3.1.
    nfsservctl [180, 42] Unsupported(ENOSYS, "gone from Linux")(Int, Addr, Addr);
    /// Never implemented by Linux.
    getpmsg [181, -] Unsupported(ENOSYS, "never in Linux")();
    /// Never implemented by Linux.
    putpmsg [182, -] Unsupported(ENOSYS, "never in Linux")();
    /// Never implemented by Linux.
    afs_syscall [183, -] Unsupported(ENOSYS, "never in Linux")();
    /// Never implemented by Linux.
    tuxcall [184, -] Unsupported(ENOSYS, "never in Linux")();
    /// Never implemented by Linux.
    security [185, -] Unsupported(ENOSYS, "never in Linux")();
    /// Never implemented by Linux.
    vserver [236, -] Unsupported(ENOSYS, "never in Linux")();
    /// Loads a shared library into the process.
    uselib [134, -] Unsupported(ENOSYS, "as without CONFIG_USELIB")(Str);
    /// Reads or writes a kernel parameter; gone since Linux 5.5.
    _sysctl [156, -] Unsupported(ENOSYS, "gone from Linux")(Addr);
    /// Sets an entry of the thread's TLS segments.
    set_thread_area [205, -] Unsupported(ENOSYS, "not on x86-64")(Addr);
    /// Gets an entry of the thread's TLS segments.
    get_thread_area [211, -] Unsupported(ENOSYS, "not on x86-64")(Addr);
    /// An epoll that was never released.
    epoll_ctl_old [214, -] Unsupported(ENOSYS, "never in Linux")();
    /// An epoll that was never released.
    epoll_wait_old [215, -] Unsupported(ENOSYS, "never in Linux")();
    /// Names the directory entry behind a profiler's cookie; gone since Linux 6.7.
    lookup_dcookie [212, 18] Unsupported(ENOSYS, "gone from Linux")(Ulong, Addr, Ulong);

    /// Loads and controls BPF programs and maps.
    bpf [321, 280] Unsupported(EPERM, "as for unprivileged callers under kernel.unprivileged_bpf_disabled")(Int, Addr, Uint);
    /// Opens a performance counter.
    perf_event_open [298, 241] Unsupported(ENOSYS, "as without CONFIG_PERF_EVENTS")(Addr, Int, Int, Fd, Hex);
    /// Makes a descriptor that handles page faults.
    userfaultfd [323, 282] Unsupported(ENOSYS, "as without CONFIG_USERFAULTFD")(Hex);
    /// Adds a key to the kernel's keyrings.
    add_key [248, 217] Unsupported(ENOSYS, "as without CONFIG_KEYS")(Str, Str, Addr, Ulong, Int);
    /// Requests a key.
    request_key [249, 218] Unsupported(ENOSYS, "as without CONFIG_KEYS")(Str, Str, Str, Int);
    /// Manipulates keys.
    keyctl [250, 219] Unsupported(ENOSYS, "as without CONFIG_KEYS")(Int, Hex, Hex, Hex, Hex);
    /// Manipulates disk quotas.
    quotactl [179, 60] Unsupported(ENOSYS, "as without CONFIG_QUOTA")(Hex, Str, Int, Addr);
    /// Manipulates disk quotas by descriptor.
    quotactl_fd [443, 443] Unsupported(ENOSYS, "as without CONFIG_QUOTA")(Fd, Hex, Int, Addr);
    /// Switches process accounting.
    acct [163, 89] Unsupported(ENOSYS, "as without CONFIG_BSD_PROCESS_ACCT")(Str);
    /// Starts swapping to a device.
    swapon [167, 224] Unsupported(EPERM, "no swap")(Str, Hex);
    /// Stops swapping to a device.
    swapoff [168, 225] Unsupported(EPERM, "no swap")(Str);
    /// Reboots the machine.
    reboot [169, 142] Unsupported(EPERM, "no machine to reboot")(Hex, Hex, Hex, Addr);
    /// Raises the I/O privilege level.
    iopl [172, -] Unsupported(EPERM, "no I/O ports")(Uint);
    /// Permits I/O ports.
    ioperm [173, -] Unsupported(EPERM, "no I/O ports")(Ulong, Ulong, Int);
    /// Hangs up the controlling terminal.
    vhangup [153, 58] Unsupported(EPERM, "needs CAP_SYS_TTY_CONFIG, which no guest has")();
    /// Reads and controls the kernel's message buffer.
    syslog [103, 116] Unsupported(EPERM, "as under kernel.dmesg_restrict")(Int, Addr, Int);
    /// Changes the local descriptor table.
    modify_ldt [154, -] Unsupported(ENOSYS, "as without CONFIG_MODIFY_LDT_SYSCALL")(Int, Addr, Ulong);

    /// Mounts a filesystem.
    mount [165, 40] Unsupported(EPERM, "the mount tree is fixed at start")(Str, Str, Str, Hex, Addr);
    /// Unmounts a filesystem.
    umount2 [166, 39] Unsupported(EPERM, "the mount tree is fixed at start")(Str, Hex);
    /// Changes the root mount.
    pivot_root [155, 41] Unsupported(EPERM, "the mount tree is fixed at start")(Str, Str);
    /// Makes a detached copy of a mount.
    open_tree [428, 428] Unsupported(EPERM, "the mount tree is fixed at start")(DirFd, Str, Hex);
    /// Moves a mount.
    move_mount [429, 429] Unsupported(EPERM, "the mount tree is fixed at start")(DirFd, Str, DirFd, Str, Hex);
    /// Opens a filesystem for configuration.
    fsopen [430, 430] Unsupported(EPERM, "the mount tree is fixed at start")(Str, Hex);
    /// Configures a filesystem.
    fsconfig [431, 431] Unsupported(EPERM, "the mount tree is fixed at start")(Fd, Uint, Str, Addr, Int);
    /// Makes a mount of a configured filesystem.
    fsmount [432, 432] Unsupported(EPERM, "the mount tree is fixed at start")(Fd, Hex, Hex);
    /// Picks a filesystem for reconfiguration.
    fspick [433, 433] Unsupported(EPERM, "the mount tree is fixed at start")(DirFd, Str, Hex);
    /// Changes a mount's attributes.
    mount_setattr [442, 442] Unsupported(EPERM, "the mount tree is fixed at start")(DirFd, Str, Hex, Addr, Ulong);
    /// Describes a mount.
    statmount [457, 457] Unsupported(ENOSYS, "newer than most programs; /proc/self/mountinfo tells")(Addr, Addr, Ulong, Hex);
    /// Lists mounts.
    listmount [458, 458] Unsupported(ENOSYS, "newer than most programs; /proc/self/mountinfo tells")(Addr, Addr, Ulong, Hex);

    /// Moves pages between nodes.
    move_pages [279, 239] Unsupported(ENOSYS, "as without CONFIG_NUMA")(Int, Ulong, Addr, Addr, Addr, Hex);

    /// Creates a filesystem event group.
    fanotify_init [300, 262] Unsupported(ENOSYS, "as without CONFIG_FANOTIFY")(Hex, Hex);
    /// Marks an object for filesystem events.
    fanotify_mark [301, 263] Unsupported(ENOSYS, "as without CONFIG_FANOTIFY")(Fd, Hex, Hex, DirFd, Str);
    /// Gets a file's handle.
    name_to_handle_at [303, -] Unsupported(EOPNOTSUPP, "as on a filesystem without handles")(DirFd, Str, Addr, Addr, Hex);
    /// Opens a file by its handle.
    open_by_handle_at [304, -] Unsupported(EPERM, "needs CAP_DAC_READ_SEARCH, which no guest has")(Fd, Addr, Hex);
    /// Creates a Landlock rule set.
    landlock_create_ruleset [444, 444] Unsupported(ENOSYS, "as without CONFIG_SECURITY_LANDLOCK")(Addr, Ulong, Hex);
    /// Adds a rule to a Landlock rule set.
    landlock_add_rule [445, 445] Unsupported(ENOSYS, "as without CONFIG_SECURITY_LANDLOCK")(Fd, Uint, Addr, Hex);
    /// Restricts the thread by a Landlock rule set.
    landlock_restrict_self [446, 446] Unsupported(ENOSYS, "as without CONFIG_SECURITY_LANDLOCK")(Fd, Hex);
    /// Gets attributes of the security modules.
    lsm_get_self_attr [459, 459] Unsupported(ENOSYS, "as without CONFIG_SECURITY")(Uint, Addr, Addr, Hex);
    /// Sets attributes of the security modules.
    lsm_set_self_attr [460, 460] Unsupported(ENOSYS, "as without CONFIG_SECURITY")(Uint, Addr, Uint, Hex);
    /// Lists the security modules.
    lsm_list_modules [461, 461] Unsupported(ENOSYS, "as without CONFIG_SECURITY")(Addr, Addr, Hex);

    /// Makes a non-linear file mapping.
    remap_file_pages [216, 234] Unsupported(ENOSYS, "deprecated; no program known to need it")(Addr, Ulong, Hex, Ulong, Hex);
    /// Makes memory that the kernel does not map.
    memfd_secret [447, 447] Unsupported(ENOSYS, "as without CONFIG_SECRETMEM")(Hex);
    /// Maps a shadow stack.
    map_shadow_stack [453, 453] Unsupported(EOPNOTSUPP, "as on a CPU without shadow stacks")(Addr, Ulong, Hex);
    /// Allocates a memory protection key.
    pkey_alloc [330, 289] Unsupported(ENOSPC, "as on a CPU without protection keys")(Hex, Hex);
    /// Frees a memory protection key.
    pkey_free [331, 290] Unsupported(EINVAL, "as on a CPU without protection keys")(Int);
    /// Gets statistics of a filesystem by device number.
    ustat [136, -] Unsupported(ENOSYS, "obsolete; statfs tells")(Uint, Addr);
    /// Lists filesystem types.
    sysfs [139, -] Unsupported(ENOSYS, "as without CONFIG_SYSFS_SYSCALL")(Int, Hex, Hex);
    /// Sets extended attributes by descriptor and path.
    setxattrat [463, 463] Unsupported(ENOSYS, "newer than 6.12")(DirFd, Str, Hex, Str, Addr, Ulong);
    /// Gets extended attributes by descriptor and path.
    getxattrat [464, 464] Unsupported(ENOSYS, "newer than 6.12")(DirFd, Str, Hex, Str, Addr, Ulong);
    /// Lists extended attributes by descriptor and path.
    listxattrat [465, 465] Unsupported(ENOSYS, "newer than 6.12")(DirFd, Str, Hex, Addr, Ulong);
    /// Removes extended attributes by descriptor and path.
    removexattrat [466, 466] Unsupported(ENOSYS, "newer than 6.12")(DirFd, Str, Hex, Str);
    /// Makes a detached copy of a mount with other attributes.
    open_tree_attr [467, 467] Unsupported(ENOSYS, "newer than 6.12")(DirFd, Str, Hex, Addr, Ulong);

    /// Traces another process.
    ptrace [101, 117] Unsupported(EPERM, "not traceable yet")(Long, Int, Addr, Addr);
    /// Installs a seccomp filter.
    seccomp [317, 277] Unsupported(ENOSYS, "as without CONFIG_SECCOMP_FILTER")(Uint, Hex, Addr);
    /// Sets the time of day.
    settimeofday [164, 170] Unsupported(EPERM, "the clock is the host's")(Addr, Addr);
    /// Sets a clock.
    clock_settime [227, 112] Unsupported(EPERM, "the clock is the host's")(Int, Addr);
}
