# Go: a small program built, run, tested; its goroutines, children, signals.
# needs: bash ls go find
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
export HOME=$dir GOCACHE=$dir/cache GOFLAGS=-mod=mod GOTOOLCHAIN=local GO111MODULE=on GOPROXY=off
/usr/bin/go version | /usr/bin/cut -d' ' -f1-3; /usr/bin/mkdir m; cd m; /usr/bin/go mod init demo 2>&1
/usr/bin/cat > main.go <<'END_OF_MAIN'
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type thing struct{ n int }

func main() {
	var n int64
	var group sync.WaitGroup
	for i := 0; i < 1000; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for j := 0; j < 100; j++ {
				atomic.AddInt64(&n, 1)
				if j%10 == 0 { runtime.Gosched() }
			}
		}()
	}
	group.Wait()
	fmt.Println(n)
	c := make(chan int)
	go func() { for i := 0; i < 1000; i++ { c <- i }; close(c) }()
	sum := 0
	for i := range c { sum += i }
	fmt.Println(sum)
	out, err := exec.Command("/usr/bin/echo", "from a child").Output()
	fmt.Printf("%s %v\n", out, err)
	fmt.Println(exec.Command("/bin/sh", "-c", "exit 3").Run())
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	fmt.Println(exec.CommandContext(ctx, "/usr/bin/sleep", "10").Run())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	fmt.Println(<-signals)
	select { case <-time.After(20 * time.Millisecond): fmt.Println("after") }
	files := 0
	filepath.Walk("/usr/share/doc/bash", func(p string, i os.FileInfo, e error) error { files++; return e })
	fmt.Println(files > 0)
	func() { defer func() { fmt.Println(recover()) }(); var t *thing; t.n = 1 }()
	func() { defer func() { fmt.Println(recover()) }(); a := []int{}; _ = a[n] }()
	var blocks [][]byte
	for i := 0; i < 200; i++ {
		blocks = append(blocks, make([]byte, 1<<20))
		if i%20 == 0 { blocks = nil; runtime.GC() }
	}
	fmt.Println(len(blocks))
	f, _ := os.CreateTemp("", "x")
	io.Copy(f, strings.NewReader(strings.Repeat("a", 100000)))
	st, _ := f.Stat()
	fmt.Println(st.Size())
	os.Remove(f.Name())
	r, w, _ := os.Pipe()
	go func() { fmt.Fprintln(w, "pipe"); w.Close() }()
	scanner := bufio.NewScanner(r)
	scanner.Scan()
	fmt.Println(scanner.Text())
	_, err = os.Open("/nope")
	fmt.Println(err, runtime.NumCPU() > 0, len(os.Args))
	spin := make(chan bool)
	go func() { for { select { case <-spin: return; default: } } }()
	runtime.GC()
	spin <- true
	os.Exit(5)
}
END_OF_MAIN
/usr/bin/cat > a_test.go <<'END_OF_TEST'
package main

import "testing"

func TestSum(t *testing.T) { t.Parallel(); if 1+1 != 2 { t.Fatal() } }
func BenchmarkNothing(b *testing.B) { for i := 0; i < b.N; i++ { } }
END_OF_TEST
/usr/bin/go build -o program . ; echo $?; ./program; echo $?; /usr/bin/go vet .; echo $?; /usr/bin/go test . 2>&1 | /usr/bin/cut -f1,2
GOGC=1 ./program | /usr/bin/md5sum; GOMAXPROCS=1 ./program | /usr/bin/md5sum; GODEBUG=asyncpreemptoff=1 ./program | /usr/bin/md5sum
/usr/bin/go run . | /usr/bin/tail -1; /usr/bin/go list -deps . | /usr/bin/wc -l; /usr/bin/go env GOOS GOARCH; /usr/bin/go build -o again .; /usr/bin/cmp program again && echo same
echo 'package main; func main() { undefined() }' > bad.go; /usr/bin/go build bad.go 2>&1 | /usr/bin/tail -1; /usr/bin/go doc fmt.Println | /usr/bin/head -3; /usr/bin/ls
cd /; /usr/bin/chmod -R u+w "$dir"; /usr/bin/rm -r "$dir"
