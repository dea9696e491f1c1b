# OpenSSL, dpkg-query, sqlite3 and other tools of a Debian system.
# needs: bash ls openssl dpkg-query sqlite3 ps
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
/usr/bin/dpkg-query -l | /usr/bin/md5sum; /usr/bin/dpkg-query -W -f '${Package}\n' bash; /usr/bin/dpkg -S /usr/bin/bash 2>/dev/null; /usr/bin/dpkg -L bash | /usr/bin/wc -l; /usr/bin/dpkg --compare-versions 1 lt 2; echo $?
echo secret | /usr/bin/openssl enc -aes-256-cbc -pbkdf2 -pass pass:x -S 0011223344556677 | /usr/bin/openssl base64 | /usr/bin/wc -l; /usr/bin/openssl dgst -sha256 /etc/passwd
/usr/bin/openssl genrsa -out k.pem 2048 2>/dev/null; /usr/bin/openssl req -new -x509 -key k.pem -subj /CN=x -out c.pem; /usr/bin/openssl verify -CAfile c.pem c.pem; /usr/bin/openssl rand 16 | /usr/bin/wc -c
/usr/bin/openssl ecparam -name prime256v1 -genkey -noout -out e.pem; echo data > d; /usr/bin/openssl dgst -sha256 -sign e.pem -out s d; /usr/bin/openssl ec -in e.pem -pubout -out p.pem 2>/dev/null; /usr/bin/openssl dgst -sha256 -verify p.pem -signature s d
/usr/bin/sqlite3 t.db 'create table t(a, b); insert into t values (1, "x"), (2, "y"); select * from t; pragma integrity_check;'; for i in $(/usr/bin/seq 1 20); do /usr/bin/sqlite3 t.db "insert into t values ($i, $i)"; done; /usr/bin/sqlite3 t.db 'select count(*) from t'
(for i in 1 2 3 4; do /usr/bin/sqlite3 -cmd '.timeout 10000' t.db "insert into t values (100, $i)" & done; wait); /usr/bin/sqlite3 t.db 'select count(*) from t where a = 100'
/usr/bin/ps -e -o comm= | /usr/bin/grep -c '^ps$'; /usr/bin/ps -o comm= -p $$; /usr/bin/pgrep -x nothing; echo $?; /usr/bin/free >/dev/null; echo $?; /usr/bin/uptime >/dev/null; echo $?; /usr/bin/vmstat >/dev/null; echo $?
/usr/bin/top -b -n 1 >/dev/null; echo $?; /usr/bin/getent passwd root; /usr/bin/locale -a >/dev/null; echo $?; /usr/bin/iconv -f utf-8 -t latin1 <<< 'é' | /usr/bin/od -c
/usr/bin/flock lockfile /usr/bin/echo locked; (exec 9>lockfile; /usr/bin/flock 9; /usr/bin/flock -n lockfile /usr/bin/true; echo $?); /usr/bin/setsid /usr/bin/echo setsid; /usr/bin/setsid -w /usr/bin/true; /usr/bin/script -qec 'echo scripted' /dev/null </dev/null >/dev/null 2>&1; true
/usr/bin/taskset -p $$ >/dev/null; echo $?; /usr/bin/prlimit --nofile --noheadings -o SOFT >/dev/null; echo $?; /usr/bin/lscpu >/dev/null; echo $?; /usr/bin/mountpoint -q /proc; echo $?; /usr/bin/findmnt -n -o FSTYPE /proc; /usr/bin/getopt -o ab: -- -a -b c d
/usr/bin/chrt -p $$ >/dev/null; echo $?; /usr/bin/ionice -p $$ >/dev/null; echo $?; /usr/bin/ldd /usr/bin/bash | /usr/bin/sed 's/(.*//' ; /usr/bin/getconf PAGE_SIZE; /usr/bin/logger x 2>/dev/null; /usr/bin/hostname >/dev/null; echo $?; /usr/bin/m4 <<<'define(`a', `b')a' 2>/dev/null; /usr/bin/kill -L | /usr/bin/head -1
cd /; /usr/bin/rm -r "$dir"
