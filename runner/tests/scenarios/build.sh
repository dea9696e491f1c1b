# Build systems: autoconf, automake and its checks, CMake with Ninja and with make.
# needs: bash ls gcc g++ make autoconf automake cmake ninja m4
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
export HOME=$dir; here() { /usr/bin/sed "s,$dir,DIR,g"; }
/usr/bin/mkdir a; cd a; /usr/bin/cat > configure.ac <<'END_OF_AC'
AC_INIT([demo],[1.0])
AM_INIT_AUTOMAKE([foreign])
AC_PROG_CC
AC_CHECK_HEADERS([sys/epoll.h sys/random.h sys/inotify.h])
AC_CHECK_FUNCS([memfd_create getrandom statx copy_file_range])
AC_CONFIG_FILES([Makefile])
AC_CONFIG_HEADERS([config.h])
AC_OUTPUT
END_OF_AC
/usr/bin/printf 'bin_PROGRAMS = demo\ndemo_SOURCES = main.c\nTESTS = t1.sh t2.sh\nEXTRA_DIST = $(TESTS)\n' > Makefile.am
/usr/bin/printf '#!/bin/sh\n./demo | /usr/bin/grep -q demo\n' > t1.sh; /usr/bin/printf '#!/bin/sh\nexit 77\n' > t2.sh; /usr/bin/chmod +x t1.sh t2.sh
/usr/bin/printf '#include "config.h"\n#include <stdio.h>\nint main(void) { puts(PACKAGE_STRING); return !HAVE_STATX; }\n' > main.c
/usr/bin/autoreconf -i 2>&1 | /usr/bin/wc -l; ./configure 2>&1 | here | /usr/bin/md5sum; /usr/bin/make -s -j2 2>&1; ./demo; echo $?; /usr/bin/make check 2>&1 | /usr/bin/grep -E '^# (TOTAL|PASS|SKIP|FAIL)'
/usr/bin/make -s distcheck 2>&1 | /usr/bin/grep -c 'ready for distribution'; /usr/bin/make -s install DESTDIR="$dir/i" >/dev/null; (cd ../i; /usr/bin/find . | /usr/bin/sort); /usr/bin/make -s clean; /usr/bin/ls
cd ..; /usr/bin/mkdir c; cd c; /usr/bin/cat > CMakeLists.txt <<'END_OF_CMAKE'
cmake_minimum_required(VERSION 3.10)
project(x C CXX)
find_package(Threads)
add_library(l STATIC l.c)
foreach(i RANGE 1 20)
  file(WRITE ${CMAKE_BINARY_DIR}/g${i}.c "int g${i}(void) { return ${i}; }")
  target_sources(l PRIVATE ${CMAKE_BINARY_DIR}/g${i}.c)
endforeach()
add_executable(x x.cc)
target_link_libraries(x l Threads::Threads)
add_custom_command(OUTPUT made COMMAND ${CMAKE_COMMAND} -E echo text > made)
add_custom_target(more ALL DEPENDS made)
enable_testing()
add_test(NAME t COMMAND x)
END_OF_CMAKE
echo 'int l(void) { return 0; }' > l.c; /usr/bin/printf 'extern "C" int l(); extern "C" int g7();\n#include <thread>\nint main() { int r = 1; std::thread([&] { r = l() + g7() - 7; }).join(); return r; }\n' > x.cc
/usr/bin/cmake -G Ninja -B b > log 2>&1; echo $?; /usr/bin/grep -c Detecting log; /usr/bin/ninja -C b | /usr/bin/tail -1; (cd b; /usr/bin/ctest 2>&1 | /usr/bin/grep 'tests passed'); /usr/bin/ninja -C b | /usr/bin/tail -1; /usr/bin/touch x.cc; /usr/bin/ninja -C b -n | /usr/bin/wc -l
/usr/bin/cmake -B m >/dev/null; /usr/bin/make -s -C m -j4 >/dev/null; ./m/x; echo $?; /usr/bin/cat m/made; /usr/bin/cmake --build m --target clean; /usr/bin/cmake -E sha256sum x.cc; echo 'syntax error' > l.c; /usr/bin/ninja -C b >/dev/null; echo $?
cd /; /usr/bin/rm -r "$dir"
