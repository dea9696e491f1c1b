# BusyBox: its shell and applets, one static program.
# needs: bash ls busybox
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
export dir; exec /usr/bin/busybox sh -s <<'END'
b=/usr/bin/busybox; $b head -1 "$0" >/dev/null 2>&1; $b uname -s; $b echo started
i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; done > lines; $b wc -l lines; $b md5sum lines; $b tail -n 2 lines; $b grep -c 7 lines
$b sort -rn -k2 lines | $b head -n 3 | $b tr a-z A-Z; $b sed -n '5{s/line/row/;p}' lines; $b awk '{ s += $2 } END { print s }' lines
f() { local a=1; echo "$1 $a"; return 9; }; f x; echo $?; ( exit 3 ); echo $?; { echo group; } | $b cat
trap 'echo usr1' USR1; kill -USR1 $$; trap 'echo bye' EXIT; $b sleep 0.05 & wait $!; echo waited $?
$b sleep 10 & p=$!; until $b grep -q sleep /proc/$p/cmdline; do :; done; kill $p; wait $p 2>/dev/null; echo $?; $b cat <<X
here $i $((6 * 7)) $(echo nested)
X
$b mkdir -p a/b/c; $b touch a/b/c/f; $b find a | $b sort; $b ln -s nowhere a/l; $b readlink a/l; $b stat -c '%s %F %a' lines; $b chmod 600 lines; $b ls -l lines | $b cut -c1-10
$b tar -cf t.tar a lines; $b tar -tf t.tar | $b sort; $b gzip -c lines | $b gunzip | $b cmp - lines && echo gz; $b xz -h 2>/dev/null; $b bzip2 -c lines | $b bunzip2 | $b md5sum; $b tar -czf t.tgz a; $b tar -xzf t.tgz -C /tmp -O a/b/c/f
$b seq 1 5 | $b xargs -n 2 $b echo; $b dd if=/dev/zero of=z bs=4k count=3 2>/dev/null; $b stat -c %s z; $b od -c z; $b cp -a a a2; $b diff -r a/b a2/b && echo same; $b mv a2 a3; $b rm -r a3; $b ls
$b ash -c 'echo $0 $1; exit 4' name arg; echo $?; $b timeout 1 $b sleep 9; echo $?; $b env -i A=b $b env; $b printf '%05d %s\n' 42 x; $b expr 6 '*' 7; $b basename /a/b.c .c; echo 'echo script; exit 6' > s; $b sh s; echo $?
$b mkfifo p; $b echo through > p & $b cat p; wait; $b yes | $b head -n 1; $b date -u -d @0 +%F; $b id -u >/dev/null; echo $?; $b ps >/dev/null; echo $?; $b df . >/dev/null; echo $?; $b free >/dev/null; echo $?; $b vi -h >/dev/null 2>&1; $b crc32 lines; $b sha256sum lines; $b base64 z | $b md5sum
$b nice -n 3 $b nice; $b which sh >/dev/null; echo $?; $b test -S lines; echo $?; $b cat nothing; echo $?; $b nothing; echo $?; set -o pipefail; false | true; echo $?; umask 027; $b touch m; $b stat -c %a m; $b flock l $b echo locked; $b setsid $b echo session; $b usleep 1000; echo $?; read -t 1 x < lines; echo "$x"; echo abc | { read -r y; echo "$y"; }
cd /; $b rm -r "$dir"; exit 3
END
