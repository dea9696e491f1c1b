# Runs stress-ng's stressors one after the other inside, and rests before them and after each round. Arguments: rounds,
# seconds for each stressor, the stressors. Lines: "rest FREE_KIB PROCESSES", "start NAME", "end NAME STATUS"; what a
# stressor that fails has said; "look" when it is gone; "done". A rest is answered with "again" or "go", a look with "go".
rounds=$1
seconds=$2
shift 2

rest() {
    while :; do
        # What caches hold is no leak, here and after each stressor.
        echo 3 >/proc/sys/vm/drop_caches
        while read -r name value _; do
            [ "$name" != MemFree: ] || free=$value
        done </proc/meminfo
        set -- /proc/[0-9]*
        echo "rest $free $#"
        read -r answer || exit 1
        [ "$answer" = again ] || break
    done
}

cd /tmp || exit 1
rest
round=0
while [ "$round" -lt "$rounds" ]; do
    for stressor; do
        echo "start $stressor"
        # Ten times as long and half a minute is enough for any of them to stop on a busy machine.
        timeout -s KILL "$((seconds * 10 + 30))" stress-ng --quiet "--$stressor" 2 --timeout "$seconds" >/tmp/said 2>&1
        status=$?
        case $status in 0 | 3 | 4) ;; *) head -c 2000 /tmp/said ;; esac
        echo "end $stressor $status"
        rm -rf /tmp/said /tmp/tmp-stress-ng-*
        echo 3 >/proc/sys/vm/drop_caches
        echo look
        read -r answer || exit 1
    done
    rest
    round=$((round + 1))
done
echo done
