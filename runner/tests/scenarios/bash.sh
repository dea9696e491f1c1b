# Bash: pipelines, subshells, traps, coprocesses, here-documents, jobs without a terminal.
# needs: bash ls ps
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
/usr/bin/seq 1 2000 | /usr/bin/sort -rn | /usr/bin/head -3 | /usr/bin/tr '\n' ' '; echo
echo "${PIPESTATUS[@]}"
false | true | (exit 3); echo "${PIPESTATUS[@]}"
(cd /usr && pwd; x=1); echo "x=[$x] $PWD" | /usr/bin/sed "s,$dir,DIR,"
trap 'echo got USR1' USR1; kill -USR1 $$; echo after
trap 'echo leaving subshell' EXIT; (trap 'echo inner' EXIT; exit 4); echo $?; trap - EXIT
coproc CAT { while read -r line; do echo "<$line>"; done; }
echo one >&"${CAT[1]}"; read -r answer <&"${CAT[0]}"; echo "$answer"
eval "exec ${CAT[1]}>&-"; wait "$CAT_PID"; echo "coproc $?"
/usr/bin/cat <<END
here $((6*7)) $(echo nested)
END
/usr/bin/cat <<<'a here-string'
{ for i in $(/usr/bin/seq 1 20000); do echo "long here-doc line $i"; done; } > big
/usr/bin/wc -c <<END
$(/usr/bin/cat big)
END
# What ends between the look at the table of jobs and the wait for a child is not seen by bash's `wait -n`, on Linux too: end once bash sleeps.
(echo > up; /usr/bin/sleep 5; exit 8) & (until read -r _ _ state _ < /proc/$$/stat; [ "$state" = S ]; do :; done; exit 7) & wait -n; echo "first $?"; until [ -s up ]; do :; done; kill %1; wait %1; echo "second $?"
# A signal that comes before a forked shell has taken its handlers back is lost, on Linux too: wait for the program.
runs() { until /usr/bin/grep -q "$2" "/proc/$1/cmdline"; do :; done; }
/usr/bin/sleep 30 & pid=$!; runs $pid sleep; kill -TERM $pid; wait $pid; echo "term $?"
/usr/bin/sleep 30 & pid=$!; runs $pid sleep; kill -STOP $pid; /usr/bin/ps -o stat= -p $pid | /usr/bin/cut -c1; kill -CONT $pid; kill -KILL $pid; wait $pid; echo "kill $?"
/usr/bin/comm -12 <(/usr/bin/seq 1 10) <(/usr/bin/seq 5 15) | /usr/bin/tr '\n' ' '; echo
echo tee | /usr/bin/tee >(/usr/bin/cat > copy) >/dev/null; until [ -s copy ]; do :; done; /usr/bin/cat copy
read -t 0.1 -r line < <(/usr/bin/sleep 1); echo "read $?"
read -t 5 -r line < <(echo quick); echo "read $? $line"
ulimit -n 100; ulimit -n; (ulimit -f 1; /usr/bin/dd if=/dev/zero of=f bs=4096 count=10 2>/dev/null); echo "fsize $?"; /usr/bin/stat -c %s f
n=0; for i in $(/usr/bin/seq 1 300); do (exit $((i % 3))) || n=$((n+1)); done; echo "forks $n"
kill -l 9 15; type -t cd ls; printf '%q\n' 'a b'
# The job ends once it is waited for in the foreground: one that has ended before is no job for fg.
set -m; (until [ -e go ]; do :; done; until read -r _ _ state _ < /proc/$$/stat; [ "$state" = S ]; do :; done) & jobs | /usr/bin/sed 's/[0-9]\{3,\}//'; : > go; fg %1 >/dev/null; echo "fg $?"; set +m
exec 5<>fifo.txt; echo via5 >&5; /usr/bin/cat fifo.txt; exec 5>&-
/usr/bin/mkfifo p; (echo through fifo > p) & /usr/bin/cat p; wait
a=(); for i in {1..1000}; do a+=("$i"); done; echo "${#a[@]} ${a[-1]}"
/usr/bin/yes | /usr/bin/head -1; echo "${PIPESTATUS[@]}"
/nonexistent/program; echo $?
/etc/passwd; echo $?
bash -c 'kill -SEGV $$'; echo $?
set -o pipefail; /usr/bin/false | /usr/bin/true; echo $?
disown -a; times >/dev/null; umask 027; /usr/bin/touch m; /usr/bin/stat -c %a m
cd /; /usr/bin/rm -r "$dir"; exit 5
