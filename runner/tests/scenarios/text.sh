# grep, sed, awk, find and xargs.
# needs: bash ls grep sed awk find diff
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
/usr/bin/grep -rl GPL /usr/share/doc | /usr/bin/sort | /usr/bin/md5sum
/usr/bin/grep -c '^[^#]' /etc/services /etc/protocols 2>/dev/null; /usr/bin/grep -oE '[0-9]+/tcp' /etc/services 2>/dev/null | /usr/bin/sort -u | /usr/bin/wc -l
/usr/bin/seq 1 50000 | /usr/bin/sed -n 's/^\(.*\)7$/<\1>/p' | /usr/bin/md5sum; echo 'a b c' > f; /usr/bin/sed -i.bak 's/b/B/' f; /usr/bin/cat f f.bak
/usr/bin/seq 1 100000 | /usr/bin/awk '{s+=$1} END {print s}'; /usr/bin/awk -F: '{print $1 | "/usr/bin/sort"}' /etc/passwd | /usr/bin/head -3
/usr/bin/awk 'BEGIN { while (("/usr/bin/seq 1 5" | getline x) > 0) print "got", x; system("/usr/bin/echo sys"); print "err" > "/dev/stderr"; exit 3 }'; echo $?
/usr/bin/find /usr/share/doc -name 'c*' -type d | /usr/bin/sort | /usr/bin/md5sum; /usr/bin/find /usr/bin -perm -4000 -printf '%f %m\n' | /usr/bin/sort
/usr/bin/find /usr/lib -name '*.so*' -type l | /usr/bin/wc -l; /usr/bin/find /etc -maxdepth 1 -newermt 1990-01-01 -type f | /usr/bin/sort | /usr/bin/md5sum
/usr/bin/mkdir many; (cd many; /usr/bin/seq 1 500 | /usr/bin/xargs /usr/bin/touch); /usr/bin/find many -type f -delete -print | /usr/bin/wc -l; /usr/bin/ls many
/usr/bin/find /usr/share/doc -name copyright -print0 | /usr/bin/xargs -0 -P4 -n 20 /usr/bin/md5sum | /usr/bin/sort | /usr/bin/md5sum
/usr/bin/seq 1 40 | /usr/bin/xargs -P4 -I{} /bin/sh -c 'echo $(({} * 2))' | /usr/bin/sort -n | /usr/bin/tail -1
/usr/bin/seq 3 | /usr/bin/xargs -n1 /bin/sh -c 'exit 1'; echo $?; /usr/bin/find . -exec /usr/bin/echo {} + | /usr/bin/tr ' ' '\n' | /usr/bin/sort
/usr/bin/diff <(/usr/bin/seq 1 5) <(/usr/bin/seq 2 6); echo $?; /usr/bin/cmp /etc/passwd /etc/group >/dev/null; echo $?
/usr/bin/grep -z . /proc/self/cmdline | /usr/bin/tr '\0' ' '; echo; /usr/bin/grep -q root /etc/passwd && echo root
echo 'hello' | /usr/bin/grep -P 'h(?=e)' ; /usr/bin/find /proc/self/fd/ -maxdepth 0; /usr/bin/find /nonexistent; echo $?
cd /; /usr/bin/rm -r "$dir"
