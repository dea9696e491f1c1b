//! The table as documents: `docs/compat/syscalls.md` and what `casemate syscalls` prints.

use std::fmt::Write as _;

use kernel::syscall::{Support, SyscallDef};

use crate::TABLE;

fn rows() -> impl Iterator<Item = &'static SyscallDef> {
    TABLE.iter().flatten().copied()
}

fn number(nr: Option<u16>) -> String {
    nr.map_or_else(|| "–".to_owned(), |nr| nr.to_string())
}

/// How many rows are full, partial and unsupported.
fn totals() -> (usize, usize, usize) {
    rows().fold((0, 0, 0), |(full, partial, none), row| match row.support {
        Support::Full(_) => (full + 1, partial, none),
        Support::Partial(_) => (full, partial + 1, none),
        Support::Unsupported(..) => (full, partial, none + 1),
    })
}

/// The table as a Markdown document.
pub fn table_markdown() -> String {
    let (full, partial, none) = totals();
    let mut out = String::from(
        "# System calls\n\n<!-- Generated from the table by `casemate syscalls --format markdown`; do not edit. -->\n\n",
    );
    let _ = writeln!(
        out,
        "Of {} calls up to Linux 6.12 and its successors' first, {full} are full (a guest test shows it), {partial} are partial \
         and {none} answer with an error as a Linux does that lacks or denies them. Numbers without a row are `ENOSYS`.\n",
        full + partial + none
    );
    out.push_str("| x86-64 | AArch64 | call | support | note |\n| ---: | ---: | --- | --- | --- |\n");
    for row in rows() {
        let (support, note) = match row.support {
            Support::Full(test) => ("full".to_owned(), format!("test `{test}`")),
            Support::Partial(note) => ("partial".to_owned(), note.to_owned()),
            Support::Unsupported(errno, note) => (format!("`{errno}`"), note.to_owned()),
        };
        let _ = writeln!(
            out,
            "| {} | {} | `{}` | {support} | {} |",
            number(row.x86_64),
            number(row.aarch64),
            row.name,
            note.replace('|', "\\|")
        );
    }
    out
}

/// The table as plain text, a line per call.
pub fn table_text() -> String {
    let (full, partial, none) = totals();
    let mut out = String::new();
    for row in rows() {
        let (support, note) = match row.support {
            Support::Full(test) => ("full".to_owned(), format!("test {test}")),
            Support::Partial(note) => ("partial".to_owned(), note.to_owned()),
            Support::Unsupported(errno, note) => (errno.to_string(), note.to_owned()),
        };
        let _ = writeln!(out, "{:>4} {:<24} {:<12} {}", number(row.x86_64), row.name, support, note);
    }
    let _ = writeln!(out, "{full} full, {partial} partial, {none} unsupported");
    out
}

/// The table as a JSON array of objects with `name`, `nr`, `support`, `test` and `note`.
pub fn table_json() -> String {
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut out = String::from("[");
    for (i, row) in rows().enumerate() {
        let (support, test, note) = match row.support {
            Support::Full(test) => ("full", quote(test), String::new()),
            Support::Partial(note) => ("partial", "null".to_owned(), note.to_owned()),
            Support::Unsupported(errno, note) => ("unsupported", "null".to_owned(), format!("{errno}: {note}")),
        };
        let _ = write!(
            out,
            "{}\n  {{\"name\": {}, \"nr\": {}, \"support\": \"{support}\", \"test\": {test}, \"note\": {}}}",
            if i == 0 { "" } else { "," },
            quote(row.name),
            row.x86_64.map_or_else(|| "null".to_owned(), |nr| nr.to_string()),
            quote(&note)
        );
    }
    out.push_str("\n]\n");
    out
}

#[cfg(test)]
mod tests {
    use super::{table_json, table_markdown};

    #[test]
    fn the_checked_in_document_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/compat/syscalls.md");
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == table_markdown(),
            "docs/compat/syscalls.md is stale: cargo run -q -- syscalls --format markdown > docs/compat/syscalls.md"
        );
    }

    #[test]
    fn json_has_an_object_per_row() {
        assert_eq!(table_json().matches("{\"name\": ").count(), crate::TABLE.iter().flatten().count());
    }
}
