# Init of the native side's namespaces: what follows sees private writable places, and the host's files read-only.
set -e
mount -t tmpfs -o mode=755 tmpfs /opt
while [ "$1" != -- ]; do
    mkdir "/opt/$2"
    mount --bind "$1" "/opt/$2"
    mount -o remount,bind,ro "/opt/$2"
    shift 2
done
shift
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
mount -t tmpfs -o mode=755 tmpfs /dev
mkdir /dev/pts /dev/shm /dev/mqueue
for node in 'null 3' 'zero 5' 'full 7' 'random 8' 'urandom 9'; do
    mknod -m 666 "/dev/${node% *}" c 1 "${node#* }"
done
mknod -m 666 /dev/tty c 5 0
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts /dev/pts
ln -s pts/ptmx /dev/ptmx
for link in 'fd fd' 'stdin fd/0' 'stdout fd/1' 'stderr fd/2'; do
    ln -s "/proc/self/${link#* }" "/dev/${link% *}"
done
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t mqueue mqueue /dev/mqueue
# Where there is an ip(8), 127.0.0.1 works too.
! command -v ip >/dev/null || ip link set lo up || :
# Settings of the whole machine stay as they are; those of an IPC namespace are ours.
own="fs/mqueue kernel/sem kernel/sem_next_id kernel/msgmax kernel/msgmnb kernel/msgmni kernel/msg_next_id
kernel/shmall kernel/shmmax kernel/shmmni kernel/shm_next_id kernel/shm_rmid_forced"
mkdir /opt/.sys
mount --bind /proc/sys /opt/.sys
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
for name in $own; do
    [ ! -e "/proc/sys/$name" ] || mount --bind "/opt/.sys/$name" "/proc/sys/$name"
done
umount /opt/.sys
rmdir /opt/.sys
[ ! -e /proc/sysrq-trigger ] || mount --bind /dev/null /proc/sysrq-trigger
mount -o remount,bind,ro /opt
mount -o remount,bind,ro /
[ ! -e /sys/kernel ] || mount -o remount,bind,ro /sys
cd /tmp
set +e
setpriv --bounding-set=-sys_time,-sys_boot,-sys_module,-sys_rawio -- "$@"
exit $?
