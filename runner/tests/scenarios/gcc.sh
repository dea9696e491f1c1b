# GCC, G++ and make: compile, link, run.
# needs: bash ls gcc g++ make ar
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
echo 'int printf(const char *, ...); int main(int c, char **v) { printf("hello %d\n", c); return 3; }' > a.c
/usr/bin/gcc -O2 a.c -o a && ./a x y; echo $?; /usr/bin/gcc -static a.c -o s && ./s; echo $?; /usr/bin/gcc -fsanitize=undefined a.c -o u && ./u; echo $?
/usr/bin/cat > t.cc <<'END'
#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>
#include <map>
#include <stdexcept>
#include <thread>
#include <vector>
namespace fs = std::filesystem;
struct Loud { ~Loud() { std::cout << "unwound\n"; } };
int deep(int n) { Loud l; if (!n) throw std::runtime_error("bottom"); return deep(n - 1) + 1; }
thread_local int mine = 5;
int main() {
  try { deep(3); } catch (const std::exception &e) { std::cout << e.what() << "\n"; }
  try { std::vector<int>().at(1); } catch (const std::out_of_range &) { std::cout << "range\n"; }
  std::atomic<int> n{0}; std::vector<std::thread> ts;
  for (int i = 0; i < 8; i++) ts.emplace_back([&] { for (int j = 0; j < 100000; j++) n++; mine++; });
  for (auto &t : ts) t.join();
  std::cout << n << " " << mine << "\n";
  std::mutex m; std::condition_variable cv; bool ready = false;
  std::thread w([&] { std::lock_guard<std::mutex> l(m); ready = true; cv.notify_one(); });
  { std::unique_lock<std::mutex> l(m); cv.wait(l, [&] { return ready; }); } w.join();
  auto f = std::async(std::launch::async, [] { throw 42; return 1; });
  try { f.get(); } catch (int i) { std::cout << "future " << i << "\n"; }
  fs::create_directories("d/e/f"); std::ofstream("d/e/x") << "text"; fs::copy("d", "d2", fs::copy_options::recursive);
  std::map<std::string, int> seen; for (auto &e : fs::recursive_directory_iterator("d2")) seen[e.path().string()] = e.is_directory();
  for (auto &[k, v] : seen) std::cout << k << " " << v << "\n";
  std::cout << fs::remove_all("d") << " " << fs::exists("d") << " " << fs::file_size("d2/e/x") << "\n";
  std::cout << (fs::space("/").capacity > 0) << "\n"; fs::rename("d2", "d3"); fs::create_symlink("d3", "l"); std::cout << fs::read_symlink("l") << "\n";
  std::shared_ptr<int> p(new int(7)); std::cout << *p << "\n"; throw std::logic_error("uncaught");
}
END
/usr/bin/g++ -O1 -std=c++17 -pthread t.cc -o t && ./t 2>&1; echo $?
echo 'int main() { return undefined_thing; }' > bad.c; /usr/bin/gcc -c bad.c 2>/dev/null; echo $?
echo 'int f(int a) { return a * 2; }' > lib.c; /usr/bin/gcc -shared -fPIC lib.c -o libf.so; echo 'int f(int); int main() { return f(21); }' > m.c; /usr/bin/gcc m.c -L. -lf -Wl,-rpath,. -o m; ./m; echo $?
/usr/bin/gcc -c lib.c; /usr/bin/ar rcs libg.a lib.o; /usr/bin/gcc m.c libg.a -o m2; ./m2; echo $?; /usr/bin/nm lib.o | /usr/bin/cut -c18-; /usr/bin/objdump -d lib.o | /usr/bin/md5sum
/usr/bin/gcc -g -O0 a.c -o g; /usr/bin/readelf -h g | /usr/bin/grep Machine; /usr/bin/strip g; ./g; /usr/bin/size lib.o | /usr/bin/tail -1; /usr/bin/gcc -E a.c | /usr/bin/md5sum; /usr/bin/gcc -S -o - lib.c | /usr/bin/md5sum
for i in $(/usr/bin/seq 1 100); do echo "#include <stdio.h>
int f$i(int x) { return x + $i; }" > f$i.c; done
{ echo 'objs = $(patsubst %.c,%.o,$(wildcard f*.c))'; echo 'all: prog'; printf 'prog: $(objs) main.o\n\tgcc -o $@ $^\n%%.o: %%.c\n\tgcc -c -o $@ $<\nclean:\n\trm -f *.o prog\n'; } > Makefile
echo 'int f1(int), f100(int), printf(const char *, ...); int main() { printf("%d\n", f1(1) + f100(1)); }' > main.c
/usr/bin/make -s -j2; ./prog; /usr/bin/make -s; echo $?; /usr/bin/touch f7.c; /usr/bin/make -n | /usr/bin/wc -l; /usr/bin/make -s -j4 -k nothing 2>/dev/null; echo $?; /usr/bin/make -s clean; /usr/bin/ls *.o 2>/dev/null | /usr/bin/wc -l
/usr/bin/cat > sig.c <<'END'
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
static sigjmp_buf jump; static char *page; static int hits;
static void on(int s, siginfo_t *i, void *u) { if (i->si_addr == page) { hits++; mprotect(page, 4096, PROT_READ | PROT_WRITE); return; } siglongjmp(jump, 1); }
int main(void) {
  struct sigaction a = { .sa_sigaction = on, .sa_flags = SA_SIGINFO | SA_ONSTACK }; sigaction(SIGSEGV, &a, 0); sigaction(SIGFPE, &a, 0);
  page = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); *page = 1; printf("hits %d\n", hits);
  if (!sigsetjmp(jump, 1)) *(volatile int *)8 = 1; else puts("caught");
  volatile int zero = 0; if (!sigsetjmp(jump, 1)) printf("%d\n", 1 / zero); else puts("divided");
  fflush(stdout); if (!fork()) { signal(SIGILL, SIG_DFL); __builtin_trap(); } int s; wait(&s); printf("%d\n", WTERMSIG(s)); return 0; }
END
/usr/bin/gcc sig.c -o sig && ./sig; echo $?
cd /; /usr/bin/rm -r "$dir"
