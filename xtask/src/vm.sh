# What `cargo xtask vm` runs in a virtual machine, as root and as nobody: start, exit codes, signals, streams, kills.
# The working directory holds the static binary and `root`, a small root file system with bash.
failures=0
chmod -R a+rX .
ok() { echo "ok   $who: $1"; }
bad() {
    echo "FAIL $who: $1"
    failures=$((failures + 1))
}
as() { # COMMAND...: as $who
    if [ "$who" = root ]; then "$@"; else su -s /bin/sh nobody -c 'exec "$0" "$@"' -- "$@"; fi
}
check() { # NAME STATUS OUTPUT SCRIPT: bash runs SCRIPT inside
    output=$(as timeout 60 "$PWD/casemate" run --rootfs "$PWD/root" $options -- /bin/bash -c "$4" 2>/tmp/err)
    status=$?
    if [ "$status" = "$2" ] && [ "$output" = "$3" ]; then
        ok "$1"
    else
        bad "$1: status $status instead of $2, output '$output'"
        head -n 5 /tmp/err
    fi
}
ours() { # Processes of Casemate that are not zombies.
    count=0
    for stat in /proc/[0-9]*/stat; do
        text=$(cat "$stat" 2>/dev/null) || continue
        case $text in *"(casemate"*") Z"*) ;; *"(casemate"*) count=$((count + 1)) ;; esac
    done
    echo $count
}
gone() { # NAME: within a second nothing is left
    tries=0
    while [ "$(ours)" != 0 ]; do
        tries=$((tries + 1))
        if [ $tries -gt 20 ]; then
            bad "$1: $(ours) processes left"
            killall -9 casemate casemate-stub 2>/dev/null
            return
        fi
        sleep 0.05
    done
    ok "$1"
}
too_old() { # SUBCOMMAND...: one line that says which Linux is needed and which this is, and status 125
    as "$PWD/casemate" "$@" >/tmp/out 2>/tmp/err
    status=$?
    line=$(cat /tmp/err)
    if [ $status = 125 ] && [ ! -s /tmp/out ] && [ "$line" = "casemate: Linux 5.15 or newer is needed, this is $release" ]; then
        ok "$* is refused: $line"
    else
        bad "$*: status $status, output '$(head -n 3 /tmp/out)', '$line'"
    fi
}
release=$(uname -r | cut -d. -f1,2)
if [ "${release%%.*}" -lt 5 ] || { [ "${release%%.*}" = 5 ] && [ "${release#*.}" -lt 15 ]; }; then
    for who in root nobody; do
        echo "---- $who, a kernel that is too old"
        too_old run --rootfs "$PWD/root" -- /bin/true
        too_old run --rootfs "$PWD/root" --isolation=seccomp -- /bin/true
        as "$PWD/casemate" doctor >/tmp/out 2>&1
        grep -q "5.15" /tmp/out && ok "doctor says so: $(grep 5.15 /tmp/out)" || bad "doctor: $(cat /tmp/out)"
        gone 'nothing is left behind'
    done
    echo "$failures failures"
    test $failures = 0
    exit
fi
for who in root nobody; do
    for options in '' '--isolation=seccomp'; do
        echo "---- $who $options"
        check start 7 42 'echo $((6*7)); exit 7'
        check release 0 6.12.0 'read -r name < /proc/sys/kernel/osrelease; echo $name'
        check 'fork, pipe, wait' 0 3 'ls / >/dev/null; (echo a; echo b; echo c) | wc -l; (exit 3); test $? = 3'
        check 'death by signal' 143 '' 'kill -TERM $$'
        check 'death by fault' 139 '' 'kill -SEGV $$'
        check handler 9 caught 'trap "echo caught; exit 9" USR1; kill -USR1 $$; sleep 5'
        check 'a signal ends a sleep' 0 woken 'sleep 100 & kill $!; wait; echo woken'
        check 'a hundred processes' 0 100 'for ((i = 0; i < 100; i++)); do (true) && echo $i; done | wc -l'
        check timeout 124 '' 'timeout 0.2 bash -c "while :; do :; done"'
        check 'not found' 127 '' 'nonsense'
        as "$PWD/casemate" run --rootfs "$PWD/root" $options -- /does/not/exist 2>/dev/null
        test $? = 127 && ok 'missing program' || bad 'missing program'
        gone 'nothing is left behind'
        for victim in launcher sandbox stubs; do
            rm -f /tmp/up
            as "$PWD/casemate" run --rootfs "$PWD/root" $options -- /bin/bash -c 'sleep 1000 & echo up; while :; do :; done' \
                >/tmp/up 2>/dev/null &
            tries=0
            until grep -q up /tmp/up 2>/dev/null || [ $tries -gt 200 ]; do
                sleep 0.05
                tries=$((tries + 1))
            done
            grep -q up /tmp/up || bad 'it never came up'
            # Oldest first: launcher, sandbox process, zygote and stubs.
            set -- $(grep -l '^Name:.casemate' /proc/[0-9]*/status 2>/dev/null | tr -dc '0-9\n' | sort -n)
            case $victim in
                launcher) kill -9 "$1" ;;
                sandbox) kill -9 "$2" ;;
                stubs)
                    shift 2
                    kill -9 "$@" 2>/dev/null
                    ;;
            esac
            gone "SIGKILL to $victim"
            wait
        done
    done
done
echo "$failures failures"
test $failures = 0
