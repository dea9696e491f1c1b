# Dash: the POSIX shell on its own.
# needs: dash ls grep sed
exec /usr/bin/dash -s <<'END'
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo line $i; done > lines
/usr/bin/wc -l < lines; /usr/bin/grep -c 3 lines; /usr/bin/sed -n 5p lines
f() { local a=1; echo "$1 $a"; return 9; }; f x; echo $?
( exit 3 ); echo $?; { echo group; } | /usr/bin/cat
trap 'echo usr1' USR1; kill -USR1 $$; trap 'echo bye' EXIT
/usr/bin/sleep 0.05 & wait $!; echo waited $?
set -- a b c; shift; echo "$# $*"; case abc in a*) echo match;; esac
/usr/bin/cat <<X
here $i
X
echo "$(echo sub | /usr/bin/tr a-z A-Z)"
/usr/bin/sleep 10 & p=$!; until /usr/bin/grep -q sleep /proc/$p/cmdline; do :; done; kill $p; wait $p 2>/dev/null; echo $?
/usr/bin/test -f lines && echo file; /usr/bin/mkdir d; cd d; pwd | /usr/bin/sed "s,$dir,,"
for f in /bin/sh /bin/ls; do [ -x $f ] && echo $f; done
/usr/bin/printf '%05d %s\n' 42 x; umask; ulimit -c 0; ulimit -c
command -v cat; /usr/bin/env -i A=1 /usr/bin/env; exec 3>out; echo three >&3; exec 3>&-; /usr/bin/cat out
cd /; /usr/bin/rm -r "$dir"; exit 3
END
