# Perl: fork, pipes, alarms, files.
# needs: bash ls perl
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
p() { /usr/bin/perl "$@"; echo "status $?"; }
p -e 'print "hello $]\n"; exit 3'
p -e 'for (1..20) { my $pid = fork; if (!$pid) { exit $_ } waitpid $pid, 0; $s += $? >> 8 } print "$s\n"'
p -e 'pipe R, W; if (!fork) { close R; print W "line $_\n" for 1..10000; exit } close W; while (<R>) { $n++ } wait; print "$n $?\n"'
p -e '$SIG{ALRM} = sub { die "alarm\n" }; alarm 1; eval { sleep 10 }; print $@'
p -e 'use Time::HiRes qw(ualarm usleep); $SIG{ALRM} = sub { $n++ }; ualarm 20000, 20000; while ($n < 5) { select undef, undef, undef, 1 } print "$n\n"'
p -e 'open F, "-|", "/usr/bin/seq 1 5"; print <F>; close F; print `echo backtick`; system "exit 4"; print $? >> 8, "\n"'
p -e '$SIG{CHLD} = sub { while (waitpid(-1, 1) > 0) { $n++ } }; for (1..5) { fork or exit } select undef,undef,undef,0.05 while $n < 5; print "$n\n"'
p -e 'open F, ">", "f" or die; print F "x" x 100000; close F; print -s "f", "\n"; rename "f", "g"; print join(",", sort glob("*")), "\n"; unlink "g"'
p -e 'use Socket; socketpair(A, B, AF_UNIX, SOCK_STREAM, 0) or die $!; if (!fork) { close A; while (sysread B, $x, 100) { syswrite B, uc $x } exit } close B; syswrite A, "abc"; sysread A, $y, 10; print "$y\n"; close A; wait'
p -e 'use IPC::Open3; my $pid = open3(my $in, my $out, undef, "/usr/bin/cat"); print $in "via cat\n"; close $in; print <$out>; waitpid $pid, 0; print "$?\n"'
p -e 'use Fcntl ":flock"; open F, ">", "l"; flock F, LOCK_EX or die; if (!fork) { open G, ">", "l"; print flock(G, LOCK_EX|LOCK_NB) ? "got" : "busy", "\n"; exit } wait; print "done\n"'
p -MPOSIX -e 'print join(" ", (uname())[0]), "\n"; print strftime("%Y", gmtime 0), "\n"; sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGINT)); kill INT => $$; print "blocked\n"; my $s = POSIX::SigSet->new; sigpending($s); print $s->ismember(SIGINT), "\n"'
p -e 'my %h; $h{$_ % 1000} .= $_ for 1..300000; my $n = 0; $n += length for values %h; print "$n\n"'
p -e 'kill KILL => $$'
p -e '$0 = "renamed"; open F, "/proc/self/cmdline"; $_ = <F>; s/\0//g; print "$_\n"; opendir D, "/usr/share/perl5"; print scalar(grep !/^\./, readdir D), "\n"'
p -MFile::Find -e 'find(sub { $n++ }, "/usr/share/perl"); print "$n\n"'; p -MFile::Temp=tempfile -e '($h, $n) = tempfile(UNLINK => 1); print $h "x"; print -e $n ? "yes\n" : "no\n"'
p -e 'print "$_\n" for map { sprintf "%s", -e $_ ? 1 : 0 } "/etc/passwd", "/nope"; printf "%o\n", (stat "/tmp")[2] & 07777; truncate("new", 5); print $!, "\n"'
cd /; /usr/bin/rm -r "$dir"
