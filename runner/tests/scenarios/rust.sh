# rustc: a threaded program, compiled and run.
# needs: bash ls rustc cargo gcc
# as: caller
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
export PATH=$PATH:$HOME/.cargo/bin
/usr/bin/cat > t.rs <<'END'
use std::collections::HashMap; use std::io::{Read, Write}; use std::process::{Command, Stdio}; use std::sync::{mpsc, Arc, Mutex, RwLock, Condvar}; use std::thread; use std::time::{Duration, Instant};
fn main() {
    let total = Arc::new(Mutex::new(0u64));
    let hs: Vec<_> = (0..8).map(|i| { let t = total.clone(); thread::spawn(move || for j in 0..10_000 { *t.lock().unwrap() += i * j; }) }).collect();
    for h in hs { h.join().unwrap(); } println!("{}", total.lock().unwrap());
    let (tx, rx) = mpsc::channel(); for i in 0..4 { let tx = tx.clone(); thread::spawn(move || for j in 0..1000 { tx.send(i * j).unwrap(); }); } drop(tx);
    println!("{}", rx.iter().sum::<i32>());
    let r = thread::spawn(|| panic!("on purpose")).join(); println!("{}", r.is_err());
    let mut c = Command::new("/usr/bin/tr").args(["a-z", "A-Z"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    c.stdin.take().unwrap().write_all(b"child").unwrap(); let mut s = String::new(); c.stdout.take().unwrap().read_to_string(&mut s).unwrap(); println!("{s} {}", c.wait().unwrap());
    let start = Instant::now(); thread::sleep(Duration::from_millis(20)); println!("{}", start.elapsed() >= Duration::from_millis(20));
    let pair = Arc::new((Mutex::new(false), Condvar::new())); let p2 = pair.clone(); thread::spawn(move || { *p2.0.lock().unwrap() = true; p2.1.notify_all(); });
    let mut g = pair.0.lock().unwrap(); while !*g { g = pair.1.wait_timeout(g, Duration::from_secs(5)).unwrap().0; } println!("{g}");
    let m: RwLock<HashMap<u32, String>> = RwLock::new((0..1000).map(|i| (i, i.to_string())).collect()); println!("{}", m.read().unwrap().len());
    std::fs::write("f", vec![7u8; 1 << 20]).unwrap(); println!("{} {}", std::fs::metadata("f").unwrap().len(), std::fs::read_dir("/usr/share/perl5").unwrap().count()); println!("{:?}", thread::available_parallelism().is_ok());
    std::process::exit(9);
}
END
rustc --version; rustc -O t.rs 2>&1; echo $?; ./t 2>/dev/null; echo $?
rustc --test -o unit - <<<'#[test] fn works() { assert_eq!(2 + 2, 4) } #[test] fn threads() { std::thread::spawn(|| 1).join().unwrap(); }'; ./unit -q 2>&1 | /usr/bin/grep -c ok; rustc t.rs -C debuginfo=2 -o d; ./d >/dev/null 2>&1; echo $?
echo 'fn main() { let x: i32 = "no"; }' > bad.rs; rustc bad.rs 2>&1 | /usr/bin/grep -c E0308; echo 'fn main() { panic!("x") }' > p.rs; rustc p.rs; ./p 2>/dev/null; echo $?
cargo init -q --name demo demo --vcs none; cd demo; cargo run -q --offline; cargo build -q --release --offline; ./target/release/demo; /usr/bin/ls; cargo test -q --offline 2>&1 | /usr/bin/grep -c 'test result'; cargo clean -q
rustc --print target-list | /usr/bin/wc -l; rustc --print sysroot >/dev/null; echo $?; /usr/bin/stat -c %F src/main.rs; /usr/bin/wc -l src/main.rs; /usr/bin/grep -c main src/main.rs; /usr/bin/cat src/main.rs
cd /; /usr/bin/rm -r "$dir"
