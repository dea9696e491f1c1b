# A static program of musl libc: threads, processes, signals, files, memory.
# needs: bash ls musl-gcc gcc
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
/usr/bin/cat > s.c <<'END_OF_C'
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
extern char **environ;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int count, ready; static __thread int mine = 3; static volatile sig_atomic_t hits; static sem_t sem;
static void *work(void *p) { for (int i = 0; i < 10000; i++) { pthread_mutex_lock(&lock); count++; pthread_mutex_unlock(&lock); } mine += (int)(long)p;
  pthread_mutex_lock(&lock); ready++; pthread_cond_signal(&cond); pthread_mutex_unlock(&lock); return (void *)(long)mine; }
static void *cancelled(void *p) { sem_post(&sem); for (;;) pause(); return p; }
static void on(int s) { hits += s == SIGUSR1; }
static void timer_fired(union sigval v) { sem_post(&sem); (void)v; }
int main(int argc, char **argv) {
  setvbuf(stdout, 0, _IOLBF, 0); printf("%d %s\n", argc, argv[argc - 1]);
  pthread_t t[6]; void *r; for (long i = 0; i < 6; i++) pthread_create(&t[i], 0, work, (void *)i);
  pthread_mutex_lock(&lock); while (ready < 6) pthread_cond_wait(&cond, &lock); pthread_mutex_unlock(&lock);
  long sum = 0; for (int i = 0; i < 6; i++) { pthread_join(t[i], &r); sum += (long)r; } printf("%d %ld %d\n", count, sum, mine);
  sem_init(&sem, 0, 0); pthread_t c; pthread_create(&c, 0, cancelled, 0); sem_wait(&sem); pthread_cancel(c); pthread_join(c, &r); printf("cancelled %d\n", r == PTHREAD_CANCELED);
  struct sigaction a = { .sa_handler = on }; sigaction(SIGUSR1, &a, 0); raise(SIGUSR1); kill(getpid(), SIGUSR1); pthread_kill(pthread_self(), SIGUSR1); printf("hits %d\n", hits);
  pid_t p = fork(); if (!p) _exit(7); int s; waitpid(p, &s, 0); printf("%d\n", WEXITSTATUS(s)); printf("%d\n", system("exit 4") >> 8);
  FILE *f = popen("/usr/bin/tr a-z A-Z > up", "w"); fputs("popen\n", f); pclose(f); char b[100] = ""; f = fopen("up", "r"); fgets(b, 100, f); fclose(f); fputs(b, stdout);
  char *v[] = { "/usr/bin/echo", "spawned", 0 }; posix_spawn(&p, v[0], 0, 0, v, environ); waitpid(p, &s, 0); char *none[] = { "/nope", 0 }; printf("%d\n", posix_spawn(&p, none[0], 0, 0, none, environ) == ENOENT);
  char *m = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); if (!fork()) { m[5] = 9; _exit(0); } wait(0); printf("%d\n", m[5]); munmap(m, 1 << 20);
  for (int i = 0; i < 100; i++) { char *h = malloc(1000000); memset(h, i, 1000000); free(h); } char *h = realloc(malloc(10), 50000000); h[49999999] = 1; free(h); puts("heap");
  int e = eventfd(0, 0), ep = epoll_create1(0), tf = timerfd_create(CLOCK_MONOTONIC, 0); struct itimerspec its = { .it_value.tv_nsec = 10000000 }; timerfd_settime(tf, 0, &its, 0);
  struct epoll_event ev = { .events = EPOLLIN, .data.fd = tf }; epoll_ctl(ep, EPOLL_CTL_ADD, tf, &ev); printf("%d %d\n", epoll_wait(ep, &ev, 1, 5000), ev.data.fd == tf); struct pollfd pf = { e, POLLIN | POLLOUT, 0 }; printf("%d %d\n", poll(&pf, 1, 0), pf.revents);
  struct sigevent se = { .sigev_notify = SIGEV_THREAD, .sigev_notify_function = timer_fired }; timer_t id; timer_create(CLOCK_MONOTONIC, &se, &id); timer_settime(id, 0, &its, 0); sem_wait(&sem); timer_delete(id); puts("timer");
  int sv[2]; socketpair(AF_UNIX, SOCK_STREAM, 0, sv); struct iovec io[2] = { { "io", 2 }, { "vec", 3 } }; writev(sv[0], io, 2); ssize_t n = read(sv[1], b, 100); printf("%.*s\n", (int)n, b);
  DIR *d = opendir("."); int k = 0; while (readdir(d)) k++; closedir(d); printf("%d\n", k); struct stat st; printf("%d %d\n", stat("up", &st), (int)st.st_size); printf("%d %s\n", open("/nope", 0), strerror(errno));
  struct timespec ts = { 0, 1000000 }; nanosleep(&ts, 0); clock_gettime(CLOCK_REALTIME, &ts); printf("%d\n", ts.tv_sec > 1000000000); printf("%ld %d\n", sysconf(_SC_PAGESIZE), sysconf(_SC_NPROCESSORS_ONLN) > 0);
  char *path = realpath("/usr/../etc/passwd", 0); puts(path); setenv("A", "b", 1); puts(getenv("A")); fflush(stdout); raise(SIGTERM); return 0; }
END_OF_C
/usr/bin/musl-gcc -static -O2 s.c -o s; echo $?; ./s one two; echo $?; /usr/bin/file s 2>/dev/null | /usr/bin/grep -c 'statically linked'
/usr/bin/musl-gcc -static-pie -fPIE s.c -o p 2>/dev/null && ./p >/dev/null; echo $?; /usr/bin/musl-gcc s.c -o d; ./d x | /usr/bin/tail -1
/usr/bin/gcc -static -pthread s.c -o g 2>/dev/null; ./g three | /usr/bin/md5sum; (cd /; "$dir/s" | /usr/bin/sed -n 2p); ./s | /usr/bin/wc -l; (ulimit -s 256; ./s >/dev/null); echo $?; (ulimit -v 200000; ./s >/dev/null); echo $?
echo 'int main(void) { volatile int *p = 0; return *p; }' > c.c; /usr/bin/musl-gcc -static c.c -o c; ./c; echo $?; echo 'int main(void) { __builtin_trap(); }' > i.c; /usr/bin/musl-gcc -static i.c -o i; ./i; echo $?
echo 'int f(int n) { volatile char b[4096]; b[0] = n; return f(n + 1) + b[0]; } int main(void) { return f(0); }' > o.c; /usr/bin/musl-gcc -static -O0 o.c -o o; ./o; echo $?; /usr/bin/strip s; ./s stripped | /usr/bin/head -1; /usr/bin/ls
cd /; /usr/bin/rm -r "$dir"
