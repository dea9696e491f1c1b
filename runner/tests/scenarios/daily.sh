# What people use every day: editors and pagers in batches, calculators, queries, archives, another scripting language.
# needs: bash ls file vim less jq bc m4 tclsh zip unzip awk
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
export HOME=$dir; /usr/bin/seq 1 200 > f; /usr/bin/vim -u NONE -es -c '%s/1/one/g' -c wq f; echo $?; /usr/bin/md5sum f
/usr/bin/vim -u NONE -i NONE -n -es -c 'r !echo filtered' -c 'w g' -c 'q!' f; echo $?; /usr/bin/tail -1 g; /usr/bin/printf 'call writefile([1 + 1, string(range(3)), system("echo sub")], "out")\nqa!\n' > s.vim; /usr/bin/vim -N -u NONE -n -i NONE -es -S s.vim; /usr/bin/cat out
/usr/bin/less f | /usr/bin/tail -1; /usr/bin/less -N f | /usr/bin/head -2; /usr/bin/more f 2>/dev/null | /usr/bin/head -2; /usr/bin/cat f | /usr/bin/less -E | /usr/bin/wc -l
echo '{"a": [1, 2, {"b": null}]}' | /usr/bin/jq -c '.a[2], (.a | length)'; /usr/bin/jq -n '[range(5)] | add'; /usr/bin/jq . <<< '{bad' 2>/dev/null; echo $?; /usr/bin/jq -n '[range(200000)] | map(. * 2) | add'
echo 'scale=30; 4*a(1); 2^200; define f(n) { if (n < 2) return n; return f(n-1) + f(n-2); } f(18)' | /usr/bin/bc -l; /usr/bin/printf 'define(`f'"'"', `[$1]'"'"')f(3) esyscmd(echo hi)syscmd(exit 3)sysval\n' | /usr/bin/m4
/usr/bin/tclsh <<'END_OF_TCL'
puts [expr {6 * 7}]; puts [exec echo hi]; set f [open "|cat" r+]; puts $f through; flush $f; puts [gets $f]; close $f
after 50 {set done 1}; vwait done; puts done; puts [catch {exec false} m]; puts $m; set l {}; for {set i 0} {$i < 100000} {incr i} {lappend l $i}; puts [llength $l]
set p [open "|seq 1 3" r]; fileevent $p readable {if {[gets $p line] >= 0} {puts "got $line"} elseif {[eof $p]} {set closed 1}}; vwait closed
file mkdir d/e; close [open d/e/x w]; puts [lsort [glob d/*]]; file delete -force d; puts [file exists d]; puts [file size f]
END_OF_TCL
/usr/bin/zip -q z.zip f g; /usr/bin/unzip -t z.zip | /usr/bin/tail -1; /usr/bin/unzip -p z.zip f | /usr/bin/cmp - f && echo zipped; /usr/bin/mkdir x; /usr/bin/unzip -q z.zip -d x; /usr/bin/ls x
/usr/bin/awk 'BEGIN { "echo piped" | getline x; print x; print toupper(substr("hello", 2)); printf "%d %s\n", 42, "fmt"; system("exit 5") }'; /usr/bin/awk '{ a[$1 % 7]++ } END { for (i = 0; i < 7; i++) print i, a[i] }' <(/usr/bin/seq 1 10000)
/usr/bin/diff <(/usr/bin/sort f) <(/usr/bin/sort -r f | /usr/bin/sort) && echo sorted; /usr/bin/diff -u f g > d.patch; /usr/bin/cp f h; /usr/bin/patch -s h d.patch && /usr/bin/cmp g h; echo $?; /usr/bin/file f; /usr/bin/xxd f 2>/dev/null | /usr/bin/head -1; /usr/bin/strings /usr/bin/bash | /usr/bin/wc -l
/usr/bin/getconf PAGE_SIZE; /usr/bin/cal 1 2020 2>/dev/null | /usr/bin/head -1; /usr/bin/rev <<< abc; /usr/bin/column -t <<< 'a  b'; /usr/bin/hexdump -C f | /usr/bin/tail -1; /usr/bin/look 2>/dev/null; /usr/bin/man --version >/dev/null 2>&1; /usr/bin/run-parts --version >/dev/null; echo $?
cd /; /usr/bin/rm -r "$dir"
