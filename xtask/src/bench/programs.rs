//! Whole programs: from start to exit, and inside one sandbox that already runs.
//!
//! Inputs are made once, on the host, in the scratch directory that all sides see; what a program writes it removes again,
//! or it writes the same file each time. Natively that is the disk's cache, inside it is the overlay in memory; the
//! database lies on `/dev/shm` on each side, so that no side waits for a disk.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Plan;
use super::calls::Guest;
use super::processes::finish;
use super::results::{Results, Unit};
use super::session::Session;
use super::sides::{Side, Sides, interleaved};
use crate::progress::Progress;

/// One program: its name, the command, and what must be there to run it. `@` is the scratch directory.
struct Program {
    name: &'static str,
    command: &'static [&'static str],
    needs: &'static str,
}

const fn program(name: &'static str, needs: &'static str, command: &'static [&'static str]) -> Program {
    Program { name, command, needs }
}

impl Program {
    /// The command, if what it needs is there.
    fn command(&self, sides: &Sides) -> Result<Option<Vec<String>>> {
        let scratch = sides.scratch().to_str().context("the scratch directory's name is not UTF-8")?;
        Ok(is_there(self.needs).then(|| self.command.iter().map(|word| word.replace('@', scratch)).collect()))
    }
}

/// The commands of all programs that can run here; their inputs are made.
pub(super) fn commands(sides: &Sides) -> Result<Vec<Vec<String>>> {
    prepare(sides.scratch())?;
    let commands = PROGRAMS.iter().map(|program| program.command(sides));
    Ok(commands.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

const PROGRAMS: &[Program] = &[
    program("true", "/bin/true", &["/bin/true"]),
    program("python-start", "/usr/bin/python3", &["/usr/bin/python3", "-c", "print(6*7)"]),
    program("python-compute", "/usr/bin/python3", &["/usr/bin/python3", "@/compute.py"]),
    program("gcc", "/usr/bin/gcc", &["/usr/bin/gcc", "-O1", "-c", "@/one.c", "-o", "@/out/one.o"]),
    program("sort", "/usr/bin/sort", &["/usr/bin/sort", "@/lines.txt"]),
    program("forks-300", "/bin/true", &["/bin/bash", "-c", "for i in {1..300}; do /bin/true; done"]),
    program(
        "make-100",
        "/usr/bin/make",
        &["/bin/bash", "-c", "out=$(mktemp -d @/out/XXXXXX) && make -s -j2 -C @/make OUT=$out && rm -r $out"],
    ),
    program("git", "git", &["/bin/bash", "-c", GIT]),
    program(
        "sqlite-300",
        "/usr/bin/sqlite3",
        &["/bin/bash", "-c", "db=$(mktemp /dev/shm/bench-XXXXXX) && sqlite3 $db <@/inserts.sql && rm $db"],
    ),
    program("find-usr", "/usr/bin/find", &["/usr/bin/find", "/usr"]),
    program("tar-doc", "/usr/share/doc", &["/bin/bash", "-c", "tar -cf - /usr/share/doc | cat >/dev/null"]),
];

/// Add, commit and status of 200 files.
const GIT: &str = "set -e; d=$(mktemp -d @/out/XXXXXX); cp -r @/tree $d/repo; cd $d/repo; git init -q; git add .; \
                   git -c user.name=a -c user.email=a@b commit -qm first; echo more >>file7; git status --short; \
                   git -c user.name=a -c user.email=a@b commit -qam second; git status --short; cd /; rm -r $d";

/// Takes the wanted measures of groups `start` and `inside`.
pub(super) fn measure(
    plan: &Plan,
    sides: &Sides,
    guest: &Guest,
    results: &mut Results,
    progress: &mut Progress,
) -> Result<()> {
    let names = PROGRAMS.iter().flat_map(|row| ["start", "inside"].map(|group| format!("{group}/{}", row.name)));
    if !names.into_iter().any(|name| plan.wants(&name)) {
        return Ok(());
    }
    prepare(sides.scratch())?;
    let mut sessions: BTreeMap<Side, Session> = BTreeMap::new();
    for program in PROGRAMS {
        let start = format!("start/{}", program.name);
        let inside = format!("inside/{}", program.name);
        if !plan.wants(&start) && !plan.wants(&inside) {
            continue;
        }
        let Some(command) = program.command(sides)? else {
            eprintln!("bench: {} is left out: {} is not here", program.name, program.needs);
            continue;
        };
        // What lies on the disk comes into the host's cache first, for all sides.
        time(sides, Side::Native, &command)?;
        if plan.wants(&start) {
            progress.show(&start);
            round(plan, sides, results, &start, |side| time(sides, side, &command));
        }
        if plan.wants(&inside) {
            progress.show(&inside);
            round(plan, sides, results, &inside, |side| {
                let mut session = match sessions.remove(&side) {
                    Some(session) => session,
                    None => Session::start(sides, guest, side, &["serve"])?,
                };
                let taken = session.time(&command)?;
                sessions.insert(side, session);
                Ok(taken)
            });
        }
    }
    Ok(())
}

/// Takes all rounds of one measure.
fn round(plan: &Plan, sides: &Sides, results: &mut Results, name: &str, sample: impl FnMut(Side) -> Result<f64>) {
    let (samples, failed) = interleaved(&sides.all(), plan.rounds, plan.program_budget, sample);
    for (side, error) in &failed {
        results.failed(name, *side, error);
    }
    results.add(name, Unit::Nanoseconds, samples);
}

/// Wall time of one run on `side`, in nanoseconds.
fn time(sides: &Sides, side: Side, command: &[String]) -> Result<f64> {
    let mut command = sides.command(side, command)?;
    let started = Instant::now();
    let mut child = command.spawn()?;
    let ended = finish(&mut child);
    let taken: Duration = started.elapsed();
    ended.with_context(|| sides.last_error())?;
    Ok(taken.as_nanos() as f64)
}

/// Whether a program, by path or by name, or a directory is there.
fn is_there(needed: &str) -> bool {
    let paths = ["", "/usr/local/bin/", "/usr/bin/"].map(|folder| format!("{folder}{needed}"));
    paths.iter().any(|path| path.starts_with('/') && Path::new(path).exists())
}

/// Makes the inputs of all programs below `scratch`.
fn prepare(scratch: &Path) -> Result<()> {
    let write = |name: &str, text: &str| -> Result<()> {
        let path = scratch.join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    std::fs::create_dir_all(scratch.join("out"))?;
    write("compute.py", COMPUTE)?;
    let mut one = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n".to_owned();
    for at in 0..300 {
        writeln!(
            one,
            "int f{at}(const char *s, int n) {{ int r = {at}; for (int i = 0; i < n; i++) \
             {{ if (s[i] == 'a' + {at} % 26) r += i * {at}; else r ^= s[i]; }} return r ? r : puts(s); }}"
        )?;
    }
    write("one.c", &one)?;
    for at in 0..100 {
        write(
            &format!("make/f{at}.c"),
            &format!("#include <stdio.h>\nint f{at}(int n) {{ return printf(\"%d\", n + {at}); }}\n"),
        )?;
    }
    write("make/Makefile", MAKEFILE)?;
    let mut sql = "create table t(id integer primary key, text);\n".to_owned();
    let mut lines = String::new();
    let mut random: u64 = 0x9e37_79b9;
    for at in 0..300_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        writeln!(lines, "{:016x} line {at}", random >> 8)?;
        if at < 300 {
            writeln!(sql, "insert into t values({at}, 'row {random:x}');")?;
        }
        if at < 200 {
            write(&format!("tree/file{at}"), &format!("{random:x}\n").repeat(40))?;
        }
    }
    write("inserts.sql", &sql)?;
    write("lines.txt", &lines)
}

/// Something that only computes.
const COMPUTE: &str = "\
seen = {}
for n in range(1, 60000):
    steps, m = 0, n
    while m >= n and m != 1:
        m = m // 2 if m % 2 == 0 else 3 * m + 1
        steps += 1
    seen[n] = steps + seen.get(m, 0)
print(max(seen.values()), sum(i * i % 7 for i in range(600000)))
";

/// One object of each source.
const MAKEFILE: &str = "\
OBJECTS := $(patsubst %.c,$(OUT)/%.o,$(wildcard *.c))
all: $(OBJECTS)
$(OUT)/%.o: %.c
\tgcc -c -o $@ $<
";
