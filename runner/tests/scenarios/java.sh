# Java: the compiler, threads, processes, files.
# needs: bash ls javac java
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
/usr/bin/cat > T.java <<'END'
import java.io.*; import java.nio.channels.*; import java.nio.file.*; import java.nio.*; import java.util.*; import java.util.concurrent.*; import java.util.concurrent.atomic.*; import java.util.stream.*;
public class T {
  public static void main(String[] a) throws Exception {
    ExecutorService e = Executors.newFixedThreadPool(8); AtomicLong n = new AtomicLong(); List<Future<?>> fs = new ArrayList<>();
    for (int i = 0; i < 100; i++) { final int k = i; fs.add(e.submit(() -> { for (int j = 0; j < 1000; j++) n.addAndGet(k); })); } for (Future<?> f : fs) f.get(); e.shutdown(); System.out.println(n);
    System.out.println(IntStream.range(0, 1000000).parallel().mapToLong(i -> i).sum());
    Process p = new ProcessBuilder("/usr/bin/tr", "a-z", "A-Z").start(); p.getOutputStream().write("child".getBytes()); p.getOutputStream().close(); System.out.println(new String(p.getInputStream().readAllBytes()) + p.waitFor());
    Path d = Files.createTempDirectory("j"); Path f = d.resolve("f"); Files.writeString(f, "text"); System.out.println(Files.size(f) + " " + Files.readString(f)); Files.delete(f); Files.delete(d);
    try (FileChannel c = FileChannel.open(Path.of("m"), StandardOpenOption.CREATE, StandardOpenOption.READ, StandardOpenOption.WRITE)) { MappedByteBuffer b = c.map(FileChannel.MapMode.READ_WRITE, 0, 1 << 20); b.putInt(100, 42); b.force(); System.out.println(c.size() + " " + b.getInt(100)); }
    try { Object o = null; o.toString(); } catch (NullPointerException x) { System.out.println("npe"); } try { deep(0); } catch (StackOverflowError x) { System.out.println("overflow"); }
    List<byte[]> l = new ArrayList<>(); for (int r = 0; r < 20; r++) { l.clear(); for (int i = 0; i < 20; i++) l.add(new byte[1 << 20]); } System.gc(); System.out.println(l.size());
    Thread t = new Thread(() -> { try { Thread.sleep(100000); } catch (InterruptedException x) { System.out.println("interrupted"); } }); t.start(); t.interrupt(); t.join();
    Object lock = new Object(); synchronized (lock) { lock.wait(20); } System.out.println(Runtime.getRuntime().availableProcessors() > 0); Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("hook"))); System.exit(4);
  }
  static int deep(int n) { return deep(n + 1) + 1; }
}
END
/usr/bin/javac T.java; echo $?; /usr/bin/java -Xmx256m T; echo $?; /usr/bin/java -Xint -Xmx128m T | /usr/bin/head -1; /usr/bin/java -XX:+UseParallelGC -Xmx256m T | /usr/bin/tail -1
echo 'class B { int x = "no"; }' > B.java; /usr/bin/javac B.java 2>&1 | /usr/bin/grep -c error; /usr/bin/java Nothing 2>/dev/null; echo $?; /usr/bin/ls *.class; /usr/bin/java --version >/dev/null; echo $?
/usr/bin/java T.java | /usr/bin/head -2; echo 'class C { public static void main(String[] a) { throw new RuntimeException(); } }' > C.java; /usr/bin/javac C.java; /usr/bin/java C 2>/dev/null; echo $?
/usr/bin/java -Xmx64m T >/dev/null & pid=$!; wait $pid; echo $?; /usr/bin/stat -c %s m; /usr/bin/od -An -tx1 -j100 -N4 m; /usr/bin/rm m; /usr/bin/ls | /usr/bin/wc -l
cd /; /usr/bin/rm -r "$dir"
