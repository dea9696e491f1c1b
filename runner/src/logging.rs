//! Our own log: off unless `--debug` asks for it, and never on the guest's standard error otherwise.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Instant;

use crate::failure::{Doing, Outcome};

struct Logger {
    file: File,
    start: Instant,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let elapsed = self.start.elapsed();
        let line = format!(
            "[{:>4}.{:06} {} {}] {}\n",
            elapsed.as_secs(),
            elapsed.subsec_micros(),
            record.level(),
            record.target(),
            record.args()
        );
        // A full disk must not stop the guest.
        let _ = (&self.file).write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Starts logging to `sink`; without one, logging stays off and costs a load and a branch per line.
pub(crate) fn init(sink: Option<&OwnedFd>) -> Outcome<()> {
    let Some(sink) = sink else { return Ok(()) };
    let file = File::from(sink.try_clone().doing("log")?);
    let logger = LOGGER.get_or_init(|| Logger { file, start: Instant::now() });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
    Ok(())
}

/// The descriptor that log lines go to, which must survive the closing of all others.
pub(crate) fn descriptor() -> Option<std::os::fd::RawFd> {
    use std::os::fd::AsRawFd;
    LOGGER.get().map(|logger| logger.file.as_raw_fd())
}
