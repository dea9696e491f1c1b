# Memory and streams: much memory, sparse reservations, long pipes.
# needs: bash ls python3
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
/usr/bin/cat > m.py <<'END'
import mmap, os
def rss(): return int(open("/proc/self/statm").read().split()[1]) * 4096
idle = rss()
for i in range(10):
    m = mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, len(m), 4096): m[at] = 1
    if i == 0: print(rss() > 200 << 20)
    m.close()
print(rss() < idle + (64 << 20))
m = mmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
m[1 << 39] = 1; print(m[1 << 39], m[(1 << 40) - 1]); m.close()
b = bytearray(64 << 20)
pid = os.fork()
if not pid:
    for at in range(0, len(b), 4096): b[at] = 2
    os._exit(sum(b[::1 << 20]) % 251)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), sum(b[::1 << 20]))
END
/usr/bin/python3 m.py; echo $?
/usr/bin/head -c 1G /dev/zero | /usr/bin/wc -c; /usr/bin/yes | /usr/bin/head -1; /usr/bin/head -c 100M /dev/zero | /usr/bin/md5sum
/usr/bin/head -c 64M /dev/zero > z; /usr/bin/stat -c %s z; /usr/bin/cp z y; /usr/bin/cmp z y && echo same; /usr/bin/truncate -s 1T sparse; /usr/bin/stat -c '%s %b' sparse; /usr/bin/tail -c 5 sparse | /usr/bin/od -An -tx1
/usr/bin/dd if=/dev/zero bs=1M count=300 status=none | /usr/bin/dd bs=7777 status=none | /usr/bin/wc -c; /usr/bin/seq 1 3000000 | /usr/bin/tail -1; /usr/bin/seq 1 500000 | /usr/bin/sort -rn -S 20M | /usr/bin/head -1
for i in $(/usr/bin/seq 1 100); do /usr/bin/true; done; echo runs; for i in $(/usr/bin/seq 1 20); do /usr/bin/sleep 0.1 & done; wait; echo together
(ulimit -v 300000; /usr/bin/python3 -c 'b = bytearray(1 << 30)' 2>&1 | /usr/bin/tail -1); (ulimit -s 512; /usr/bin/true; echo $?)
a=$(/usr/bin/head -c 2M /dev/zero | /usr/bin/tr '\0' x); echo ${#a}; /usr/bin/env x="$a" /usr/bin/true 2>/dev/null; echo $?; /usr/bin/rm z y sparse; /usr/bin/ls
cd /; /usr/bin/rm -r "$dir"
