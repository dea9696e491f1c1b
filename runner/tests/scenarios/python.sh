# Python: threads, processes, shared memory, sqlite3, asyncio, signals.
# needs: bash ls python3
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
py() { /usr/bin/python3 "$@"; echo "status $?"; }
py -c 'import sys; print("hello", 6*7); sys.exit(3)'
py - <<'END'
import threading
def work(n):
    data = [bytearray(1 << 20) for _ in range(20)]
    for d in data: d[::4096] = b"\1" * len(d[::4096])
    out[n] = sum(sum(d[::4096]) for d in data)
out = {}
ts = [threading.Thread(target=work, args=(i,)) for i in range(8)]
[t.start() for t in ts]; [t.join() for t in ts]; print(sorted(out.items()))
lock, cond, q = threading.Lock(), threading.Condition(), []
def producer():
    for i in range(2000):
        with cond: q.append(i); cond.notify()
t = threading.Thread(target=producer); t.start(); total = 0
for _ in range(2000):
    with cond:
        while not q: cond.wait(5)
        total += q.pop(0)
t.join(); print(total)
END
py - <<'END'
import subprocess, sys, os
print(subprocess.run(["/usr/bin/tr", "a-z", "A-Z"], input=b"hello" * 50000, stdout=subprocess.PIPE).stdout[-5:])
print(subprocess.check_output("echo $0 | cat; exit 0", shell=True)); print(subprocess.call(["/usr/bin/false"]))
try: subprocess.run(["/usr/bin/sleep", "10"], timeout=0.2)
except subprocess.TimeoutExpired as e: print("timeout")
try: subprocess.run(["/nonexistent"])
except FileNotFoundError as e: print(e)
p = subprocess.Popen(["/usr/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=True, start_new_session=True)
print(p.communicate(b"x" * 1000000)[0][:3], p.returncode); p = subprocess.Popen(["/usr/bin/sleep", "9"]); p.terminate(); print(p.wait())
ps = [subprocess.Popen(["/usr/bin/true"]) for _ in range(30)]; print(sum(p.wait() for p in ps))
END
/usr/bin/cat > mp.py <<'END'
import multiprocessing as mp, sys
from multiprocessing import shared_memory
def square(x): return x * x
def child(q, conn, name, lock, value):
    shm = shared_memory.SharedMemory(name=name); shm.buf[0] += 1; shm.close()
    for _ in range(200):
        with lock: value.value += 1
    q.put("queued"); conn.send({"a": [1, 2]}); conn.close()
if __name__ == "__main__":
    mp.set_start_method(sys.argv[1])
    with mp.Pool(3) as pool: print(sum(pool.map(square, range(500))))
    shm = shared_memory.SharedMemory(create=True, size=4096); shm.buf[0] = 5
    q, lock, value = mp.Queue(), mp.Lock(), mp.Value("i", 0, lock=False); a, b = mp.Pipe()
    ps = [mp.Process(target=child, args=(q, b, shm.name, lock, value)) for _ in range(2)]
    for p in ps: p.start(); p.join()
    print(q.get(timeout=10), q.get(timeout=10), a.recv(), shm.buf[0], value.value, [p.exitcode for p in ps])
    shm.close(); shm.unlink()
END
py mp.py fork; py mp.py spawn
py - <<'END'
import mmap, os, tempfile
with open("m", "wb+") as f:
    f.truncate(1 << 20); m = mmap.mmap(f.fileno(), 0); m[10:15] = b"hello"; m.flush(); f.seek(10); print(f.read(5))
    m[1 << 19] = 7; print(m.find(b"\7")); m.resize(2 << 20); print(len(m), os.fstat(f.fileno()).st_size); m.close()
a = mmap.mmap(-1, 8192)
if os.fork() == 0: a[0:5] = b"child"; os._exit(0)
os.wait(); print(a[:5]); a.madvise(mmap.MADV_DONTNEED); print(a[:2] in (b"ch", b"\0\0"))
END
py - <<'END'
import sqlite3
db = sqlite3.connect("t.db"); db.execute("create table t (a integer primary key, b text)")
for i in range(300):
    db.execute("insert into t(b) values (?)", ("row %d" % i,)); db.commit()
print(db.execute("select count(*), max(b) from t").fetchone()); db.execute("pragma journal_mode=wal")
for i in range(50): db.execute("update t set b = ? where a = ?", (str(i), i)); db.commit()
other = sqlite3.connect("t.db"); print(other.execute("select b from t where a = 49").fetchone(), other.execute("pragma integrity_check").fetchone())
db.execute("begin exclusive"); other.execute("pragma busy_timeout=50")
try: other.execute("begin immediate")
except sqlite3.OperationalError as e: print(e)
END
py - <<'END'
import asyncio, os, signal
async def main():
    p = await asyncio.create_subprocess_exec("/usr/bin/cat", stdin=-1, stdout=-1)
    out, _ = await p.communicate(b"y" * 300000); print(len(out), p.returncode)
    ps = [await asyncio.create_subprocess_shell(f"exit {i}") for i in range(5)]; print([await q.wait() for q in ps])
    loop = asyncio.get_running_loop(); got = loop.create_future(); loop.add_signal_handler(signal.SIGUSR1, got.set_result, 1)
    os.kill(os.getpid(), signal.SIGUSR1); print(await asyncio.wait_for(got, 5))
    r, w = os.pipe(); fut = loop.create_future(); loop.add_reader(r, lambda: fut.done() or fut.set_result(os.read(r, 10)))
    loop.call_later(0.05, os.write, w, b"later"); print(await fut); loop.remove_reader(r)
    print(await asyncio.gather(*(asyncio.sleep(0.01, i) for i in range(100))) == list(range(100)))
    try: await asyncio.wait_for(asyncio.sleep(10), 0.05)
    except asyncio.TimeoutError: print("timeout")
    print(await asyncio.to_thread(sum, range(10)))
asyncio.run(main())
END
py - <<'END'
import signal, os, time, select, threading, errno
signal.signal(signal.SIGALRM, lambda *a: print("alarm")); signal.setitimer(signal.ITIMER_REAL, 0.05); signal.pause()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); os.kill(os.getpid(), signal.SIGUSR2); print(signal.sigpending(), signal.sigwait([signal.SIGUSR2]))
print(signal.sigtimedwait([signal.SIGUSR2], 0.05)); r, w = os.pipe(); print(select.select([r], [w], [], 0)[1] == [w]); print(select.select([r], [], [], 0.05))
p = select.poll(); p.register(r, select.POLLIN); print(p.poll(10)); os.close(w); print(p.poll(10)[0][1] == select.POLLHUP)
ep = select.epoll(); a, b = os.pipe(); ep.register(a, select.EPOLLIN | select.EPOLLET); os.write(b, b"x"); print(len(ep.poll(1)), len(ep.poll(0.01)))
os.set_blocking(a, False); os.read(a, 5)
try: os.read(a, 1)
except BlockingIOError as e: print(e.errno == errno.EAGAIN)
pid = os.fork()
if not pid: signal.signal(signal.SIGTERM, signal.SIG_DFL); signal.pause()
os.kill(pid, signal.SIGTERM); print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os.register_at_fork; f = os.memfd_create("x"); os.write(f, b"abc"); print(os.pread(f, 2, 1), os.path.exists(f"/proc/self/fd/{f}"))
print(os.sched_getaffinity(0) == set(range(os.cpu_count())) or "subset", os.get_terminal_size if 0 else "", os.getloadavg() is not None)
signal.set_wakeup_fd(-1); faulthandler = __import__("faulthandler"); faulthandler.enable(); print("ok")
END
py -c 'import json; d = {str(i): [i, {"x": str(i)}] for i in range(100000)}; s = json.dumps(d); print(len(s), json.loads(s) == d)'
py -c 'import os; os.kill(os.getpid(), 9)' 2>/dev/null
py -c 'import ctypes; ctypes.string_at(0)' 2>/dev/null
py -c 'import socket; a, b = socket.socketpair(); a.sendall(b"hi"); print(b.recv(5)); a.shutdown(socket.SHUT_WR); print(b.recv(5))'
py -c 'import os, shutil, glob, tempfile; d = tempfile.mkdtemp(); shutil.copytree("/usr/lib/python3/dist-packages", d + "/t", symlinks=True) if os.path.isdir("/usr/lib/python3/dist-packages") else 0; print(len(glob.glob(d + "/t/**", recursive=True))); shutil.rmtree(d); print(os.path.exists(d))'
py -c 'import hashlib, zlib, lzma, bz2; b = os = bytes(range(256)) * 4000; print(hashlib.sha256(b).hexdigest(), zlib.crc32(b), len(lzma.compress(b)), len(bz2.compress(b)))'
py -c 'from concurrent.futures import *; e = ProcessPoolExecutor(2); print(list(e.map(abs, range(-5, 5)))); t = ThreadPoolExecutor(8); print(sum(t.map(len, ["abc"] * 1000)))'
py -c 'import os, pwd, platform, locale, time, resource, fcntl; print(platform.system(), pwd.getpwuid(0).pw_name, resource.getrlimit(resource.RLIMIT_CORE)[0] >= -1, time.tzname[0], time.clock_gettime(time.CLOCK_MONOTONIC) > 0, os.getppid() > 0)'
cd /; /usr/bin/rm -r "$dir"
