# Coreutils over real trees and over files that they make.
# needs: bash ls find
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
/usr/bin/ls -goR /usr/share/doc | /usr/bin/md5sum
/usr/bin/ls -go --time-style=full-iso /usr/bin | /usr/bin/sort | /usr/bin/md5sum
/usr/bin/du -s --apparent-size /usr/share/perl /usr/share/doc | /usr/bin/sort
/usr/bin/cp -a /usr/share/perl5 tree; /usr/bin/find tree -type f | /usr/bin/wc -l; /usr/bin/diff -r /usr/share/perl5 tree && echo same
/usr/bin/mv tree moved; /usr/bin/ls; /usr/bin/ln -s moved link; /usr/bin/readlink link; /usr/bin/readlink -f link/. | /usr/bin/sed "s,$dir,,"
/usr/bin/touch -d '2020-01-02 03:04:05.678 UTC' f; TZ=UTC /usr/bin/stat -c '%n %s %a %h %F %y' f; /usr/bin/ln f hard; /usr/bin/stat -c %h f
/usr/bin/chmod 4755 f; /usr/bin/stat -c %A f; /usr/bin/truncate -s 1M f; /usr/bin/stat -c '%s %b' f
/usr/bin/dd if=/usr/bin/bash of=copy bs=4k count=10 status=none; /usr/bin/cmp -n 40960 /usr/bin/bash copy && echo equal
/usr/bin/dd if=copy of=seek bs=1 seek=5 skip=3 count=7 conv=notrunc status=none; /usr/bin/od -c seek
/usr/bin/seq 1 100000 > n; /usr/bin/sort -R --random-source=/usr/bin/bash n | /usr/bin/sort -n | /usr/bin/cmp - n && echo sorted
/usr/bin/split -l 30000 n part.; /usr/bin/wc -l part.*; /usr/bin/cat part.* | /usr/bin/md5sum; /usr/bin/csplit -s n 50000; /usr/bin/wc -l xx*
(for i in 1 2 3; do echo $i; /usr/bin/sleep 0.2; done > growing) & /usr/bin/sleep 0.1; /usr/bin/timeout 3 /usr/bin/tail -f -n +1 --pid=$! -s 0.1 growing; wait
/usr/bin/env -i A=b /usr/bin/env; /usr/bin/nohup /usr/bin/echo hup 2>/dev/null; /usr/bin/timeout 0.2 /usr/bin/sleep 5; echo $?
/usr/bin/tac n | /usr/bin/head -2; /usr/bin/shuf -i 1-5 --random-source=/usr/bin/bash | /usr/bin/sort | /usr/bin/paste -sd+; /usr/bin/join <(echo 1 a) <(echo 1 b)
/usr/bin/sha256sum /usr/bin/bash /usr/bin/ls; /usr/bin/base64 -w0 copy | /usr/bin/base64 -d | /usr/bin/cmp - copy && echo b64
/usr/bin/mktemp -u XXXX >/dev/null && echo mktemp; /usr/bin/rm -r moved; /usr/bin/mkdir -p a/b/c; /usr/bin/rmdir -p a/b/c; /usr/bin/ls
/usr/bin/cut -d: -f1,3 /etc/passwd | /usr/bin/head -3; /usr/bin/tr -d '[:lower:]' < /etc/passwd | /usr/bin/md5sum; /usr/bin/fold -w 10 /etc/passwd | /usr/bin/md5sum
/usr/bin/install -D -m 640 copy deep/er/copy; /usr/bin/stat -c '%a %s' deep/er/copy; /usr/bin/chmod -R go= deep; /usr/bin/stat -c %a deep deep/er
/usr/bin/date -u -d @0 +%F; /usr/bin/id -u >/dev/null && /usr/bin/whoami >/dev/null; /usr/bin/nproc >/dev/null; /usr/bin/uname -s; /usr/bin/df . >/dev/null; echo $?
/usr/bin/ls -i copy >/dev/null; /usr/bin/stat -f -c %l . ; /usr/bin/sync copy; /usr/bin/expr 6 \* 7; /usr/bin/factor 1234567890123; /usr/bin/numfmt --to=iec 1048576
/usr/bin/cp --sparse=always f sparse; /usr/bin/stat -c '%s' sparse; /usr/bin/cp --reflink=auto n n2; /usr/bin/cmp n n2; /usr/bin/mv -n n n2; /usr/bin/ls n; /usr/bin/cp -u n n2
/usr/bin/mv --exchange n n2 2>/dev/null; /usr/bin/ls /nonexistent; /usr/bin/rm nothing; /usr/bin/mkdir copy; /usr/bin/cat deep; /usr/bin/cp deep x; echo $?
echo > /usr/new-file-in-usr && /usr/bin/rm /usr/new-file-in-usr; /usr/bin/basename /a/b.c .c; /usr/bin/dirname /a/b; /usr/bin/pathchk ok; /usr/bin/realpath /usr/../etc
/usr/bin/stdbuf -oL /usr/bin/echo buffered; /usr/bin/nice -n 5 /usr/bin/nice; /usr/bin/printenv NOPE; /usr/bin/tsort <<<'a b b c'; /usr/bin/test -S f; echo $?
cd /; /usr/bin/rm -r "$dir"
