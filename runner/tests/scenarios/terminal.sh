# Programs that need a terminal, at pseudo-terminals that a Python program plays.
# needs: bash python3 script vim less tmux stty tty
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
# SHELL: tmux starts its windows with the user's shell, which for nobody is one that refuses.
export TERM=xterm LANG=C.UTF-8 HOME="$dir" PS1='> ' PYTHON_BASIC_REPL=1 SHELL=/bin/sh
/usr/bin/cat > drive.py <<'END'
import os, pty, re, select, struct, sys, fcntl, termios, time

def drive(name, argv, *steps):
    """Each step is a text to wait for, or bytes to type; says how far it came and how the program ended."""
    pid, fd = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack('4H', 24, 80, 0, 0))
        os.execvp(argv[0], argv)
    seen, done, limit = b'', 0, time.monotonic() + 60
    for step in steps:
        if isinstance(step, bytes):
            os.write(fd, step)
        else:
            while step.encode() not in seen:
                if not select.select([fd], [], [], max(0, limit - time.monotonic()))[0]:
                    break
                try:
                    seen += os.read(fd, 4096)
                except OSError:
                    break
            if step.encode() not in seen:
                print(name, 'waits for', repr(step), 'and sees', seen[-500:])
                os.kill(pid, 9)
                break
            seen = seen[seen.index(step.encode()) + len(step.encode()):]
        done += 1
    try:
        while select.select([fd], [], [], max(0, limit - time.monotonic()))[0]:
            os.read(fd, 4096)
        print(name, 'does not end')
        os.kill(pid, 9)
    except OSError:
        pass
    os.close(fd)
    status = os.waitpid(pid, 0)[1]
    print(name, done, 'of', len(steps), 'status', os.waitstatus_to_exitcode(status))
END
drive() { /usr/bin/python3 -c 'from drive import drive; exec(__import__("sys").stdin.read())'; }
/usr/bin/script -qec 'tty | /usr/bin/sed s/[0-9].*/N/; stty -a | /usr/bin/tail -n +2; echo scripted; exit 3' typed </dev/null; echo $?
/usr/bin/tail -n +2 typed | /usr/bin/grep -c scripted
drive <<'END'
drive('shell', ['bash', '--norc', '--noprofile', '--noediting', '-i'], '> ', b'echo $((6*7))\r', '42', '> ', b'cat\r', b'line\r', 'line\r\nline', b'\x1a',
      'Stopped', '> ', b'jobs\r', 'Stopped', 'cat', '> ', b'fg\r', 'fg\r\ncat\r\n', b'more\r', 'more\r\nmore', b'\x04', '> ', b'sh -c "echo st\'\'arted; exec sleep 100"\r', 'started', b'\x03', '> ',
      b'echo $?\r', '130', '> ', b'(trap "" TTOU; stty -echo; stty echo; echo ch""anged) & wait\r', 'changed', '> ', b'exit 5\r')
END
drive <<'END'
drive('python', ['python3', '-q'], '>>> ', b'6*7\r', '42', b'import readline, os\r', '>>> ', b'os.isatty(0), os.get_terminal_size()\r',
      'columns=80, lines=24', '>>> ', b'\x04')
END
/usr/bin/seq 1 500 > lines
drive <<'END'
drive('less', ['less', '-X', 'lines'], '\r\n23\r\n', 'lines', b' ', '\r\n46\r\n', ':', b'/333\r', '\n334\r\n', ':', b'G', '500', b'q')
END
drive <<'END'
drive('vim', ['vim', '-u', 'NONE', '-n', 'new'], 'new', b'ihello\x1b', b'yypA world\x1b', b':wq\r')
END
/usr/bin/cat new; printf '%s\n' '%s/hello/bye/' wq | /usr/bin/vim -u NONE -es lines new; /usr/bin/vim -u NONE -es -c '%s/hello/bye/' -c wq new; /usr/bin/cat new
drive <<'END'
drive('tmux', ['tmux', '-S', 'socket', '-f', '/dev/null', 'new', 'bash --norc --noprofile'], '> ', b'echo $((7*6))\r', '42', b'stty size\r', '23 80', b'exit\r')
END
/usr/bin/tmux -S socket -f /dev/null new -d -x 100 -y 30 'stty size; echo ready; read line; echo got:$line; read line'
until /usr/bin/tmux -S socket capture-pane -p | /usr/bin/grep ready; do /usr/bin/sleep 0.1; done
/usr/bin/tmux -S socket send-keys hello Enter; until /usr/bin/tmux -S socket capture-pane -p | /usr/bin/grep got:hello; do /usr/bin/sleep 0.1; done
/usr/bin/tmux -S socket capture-pane -p | /usr/bin/head -1; /usr/bin/tmux -S socket kill-server
/usr/bin/python3 - <<'END'
import os, pty, termios, tty
m, s = pty.openpty()
print(os.ttyname(s).rstrip('0123456789'), os.isatty(m), os.isatty(s))
tty.setraw(s); os.write(s, b'raw\n'); print(os.read(m, 100))
print(pty.spawn(['/bin/echo', 'spawned']))
END
/usr/bin/tty; /usr/bin/stty 2>&1; /usr/bin/setsid -w /usr/bin/bash -c 'exec < /dev/tty' 2>&1 | /usr/bin/sed 's/.*: //'
cd /; /usr/bin/rm -r "$dir"
