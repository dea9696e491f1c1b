# Node.js: timers, files, child processes, worker threads.
# needs: bash ls node
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
js() { /usr/bin/node "$@"; echo "status $?"; }
js -e 'console.log("hello", 6 * 7); process.exit(3)'
js -e 'setTimeout(() => console.log("later"), 50); setImmediate(() => console.log("now")); process.nextTick(() => console.log("tick"))'
js -e 'const fs = require("fs"); fs.writeFileSync("f", "x".repeat(1e6)); console.log(fs.statSync("f").size); fs.mkdirSync("a/b", {recursive: true}); console.log(fs.readdirSync(".").sort().join()); fs.rmSync("a", {recursive: true})'
js -e 'const c = require("child_process"); console.log(c.execSync("echo sync").toString().trim()); const p = c.spawn("/usr/bin/cat"); p.stdout.on("data", d => console.log("got " + d)); p.on("exit", (code, sig) => console.log("exit", code, sig)); p.stdin.end("piped")'
js -e 'const c = require("child_process"); const p = c.spawn("/usr/bin/sleep", ["10"]); p.on("exit", (code, sig) => console.log(code, sig)); p.kill()'
/usr/bin/cat > w.js <<'END'
const { Worker, isMainThread, parentPort, workerData } = require("worker_threads");
if (isMainThread) {
  const shared = new SharedArrayBuffer(4); const all = [];
  for (let i = 0; i < 4; i++) all.push(new Promise((ok, no) => { const w = new Worker(__filename, { workerData: { i, shared } }); w.on("message", ok); w.on("error", no); }));
  Promise.all(all).then(r => console.log(r.join(), new Int32Array(shared)[0]));
} else { const a = new Int32Array(workerData.shared); for (let i = 0; i < 10000; i++) Atomics.add(a, 0, 1); parentPort.postMessage(workerData.i * workerData.i); }
END
js w.js
/usr/bin/cat > k.js <<'END'
const { fork } = require("child_process");
if (process.argv[2]) process.on("message", m => { process.send(m * 2); process.disconnect(); });
else { const p = fork(__filename, ["child"]); p.on("message", m => console.log("answer", m)); p.on("exit", c => console.log("exit", c)); p.send(21); }
END
js k.js
js -e 'process.on("SIGUSR2", () => { console.log("signal"); clearInterval(t) }); const t = setInterval(() => {}, 1000); process.kill(process.pid, "SIGUSR2")'
js -e 'require("fs").promises.readdir("/usr/share/perl5").then(l => Promise.all(l.map(n => require("fs").promises.stat("/usr/share/perl5/" + n)))).then(s => console.log(s.length))'
js -e 'const z = require("zlib"); z.gzip(Buffer.alloc(1e6, "a"), (e, b) => z.gunzip(b, (e, r) => console.log(r.length)))'
js -e 'require("crypto").pbkdf2("p", "s", 20000, 32, "sha256", (e, k) => console.log(k.toString("hex")))'
js -e 'const a = []; for (let i = 0; i < 100; i++) { a.push(Buffer.alloc(1 << 20, i)) } let s = 0; for (const b of a) s += b[5]; console.log(s); let m = new Map; for (let i = 0; i < 300000; i++) m.set("k" + i, {i}); console.log(m.size)'
js -e 'throw new Error("uncaught")' 2>/dev/null; js --version >/dev/null; echo 'console.log("stdin")' | js -
js -e 'require("fs").watch; require("readline").createInterface({input: require("fs").createReadStream("/etc/passwd")}).once("line", l => { console.log(l); process.exit() })'
js --input-type=module -e 'import os from "os"; console.log(os.platform(), await new Promise(r => setTimeout(() => r("awaited"), 10)))'
cd /; /usr/bin/rm -r "$dir"
