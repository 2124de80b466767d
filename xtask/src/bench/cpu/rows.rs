//! What is measured. The programs are in tests/guests/cpu-bench/, by the same names.

use super::borrowed;
use anyhow::{Result, bail};

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub group: Group,
    /// What the program does.
    pub what: &'static str,
    /// What its time is of.
    pub per: &'static str,
}

/// Rows that have a mean of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Integer,
    Calls,
    Float,
    Simd,
    Memory,
    System,
    Programs,
}

impl Group {
    pub const ALL: [Group; 7] =
        [Group::Integer, Group::Calls, Group::Float, Group::Simd, Group::Memory, Group::System, Group::Programs];

    pub fn title(self) -> &'static str {
        match self {
            Group::Integer => "integer",
            Group::Calls => "calls",
            Group::Float => "scalar floating point",
            Group::Simd => "SIMD",
            Group::Memory => "memory",
            Group::System => "operating system",
            Group::Programs => "programs",
        }
    }
}

const fn row(name: &'static str, group: Group, what: &'static str, per: &'static str) -> Row {
    Row { name, group, what, per }
}

pub const ROWS: [Row; 33] = [
    row("sha256", Group::Integer, "SHA-256", "byte"),
    row("quicksort", Group::Integer, "quicksort", "number"),
    row("hash", Group::Integer, "hash table", "access"),
    row("chase-16k", Group::Integer, "pointer chase, 16 KiB", "step"),
    row("chase-512k", Group::Integer, "pointer chase, 512 KiB", "step"),
    row("list", Group::Integer, "list of structures", "entry"),
    row("crc32", Group::Integer, "CRC-32 by table", "byte"),
    row("fib", Group::Calls, "recursion", "call"),
    row("indirect", Group::Calls, "indirect calls", "call"),
    row("bytecode", Group::Calls, "bytecode interpreter", "dispatch"),
    row("nbody", Group::Float, "n bodies", "step"),
    row("mandelbrot", Group::Float, "Mandelbrot set", "point"),
    row("matrix-sse2", Group::Simd, "matrix product, SSE2", "multiplication"),
    row("matrix-avx2", Group::Simd, "matrix product, AVX2 and FMA", "multiplication"),
    row("copy-words", Group::Memory, "copy loop, 8 bytes each", "word"),
    row("memcpy-1000", Group::Memory, "glibc's memcpy, 1000 bytes", "call"),
    row("memcpy-16k", Group::Memory, "glibc's memcpy, 16 KiB", "call"),
    row("rep-movsb-16k", Group::Memory, "rep movsb, 16 KiB", "copy"),
    row("rep-stosq-16k", Group::Memory, "rep stosq, 16 KiB", "fill"),
    row("getpid", Group::System, "getpid", "call"),
    row("page-fault", Group::System, "map, touch, unmap", "page"),
    row("fork", Group::System, "fork, exit, wait", "child"),
    row("exec", Group::System, "fork, exec, exit, wait", "child"),
    row("pipe", Group::System, "a byte to a process and back", "round trip"),
    row("file", Group::System, "create, write 4 KiB, unlink", "file"),
    row("gzip", Group::Programs, "busybox gzip", "run"),
    row("sha256sum", Group::Programs, "busybox sha256sum", "run"),
    row("sort", Group::Programs, "busybox sort", "run"),
    row("awk", Group::Programs, "busybox awk", "run"),
    row("python-start", Group::Programs, "python3 that prints a word", "run"),
    row("python-loop", Group::Programs, "python3, objects and dictionaries", "run"),
    row("openssl-sha512", Group::Programs, "openssl dgst -sha512", "run"),
    row("openssl-prime", Group::Programs, "openssl prime, 1279 bits", "run"),
];

/// Programs of the host that rows run in the guest too, and which rows: those whose names begin so.
pub const BORROWED: [(&str, &str); 2] = [("python3", "python-"), ("openssl", "openssl-")];

impl Row {
    /// The host's program that it runs.
    pub fn borrows(&self) -> Option<&'static str> {
        BORROWED.iter().find(|(_, prefix)| self.name.starts_with(prefix)).map(|(program, _)| *program)
    }
}

/// The rows that were named, in the table's order; if none was, all whose programs the host has.
///
/// # Errors
/// There is no row by one of the names, or the host has not its program.
pub fn chosen(names: &[String]) -> Result<Vec<&'static Row>> {
    if let Some(name) = names.iter().find(|name| ROWS.iter().all(|row| row.name != name.as_str())) {
        let all: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        bail!("there is no row {name:?}; there are {}", all.join(", "));
    }
    let missing = |row: &Row| row.borrows().filter(|program| !borrowed::is_there(program));
    let mut rows = Vec::new();
    for row in ROWS.iter().filter(|row| names.is_empty() || names.iter().any(|name| name == row.name)) {
        match missing(row) {
            None => rows.push(row),
            Some(program) if names.is_empty() => {
                eprintln!(
                    "the row {} is left out: there is no /usr/bin/{program} (apt-get install {program})",
                    row.name
                );
            }
            Some(program) => bail!("{} needs /usr/bin/{program}: apt-get install {program}", row.name),
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::super::program;
    use super::*;
    use std::fs;

    #[test]
    fn every_row_has_its_program_and_every_program_its_row() {
        let mut programs = Vec::new();
        for source in program::SOURCES {
            let text = fs::read_to_string(program::folder().join(source)).unwrap();
            let names = text.lines().filter_map(|line| line.strip_prefix("    {\"")?.split_once('"'));
            programs.extend(names.filter(|(_, rest)| rest.ends_with("},")).map(|(name, _)| name.to_owned()));
        }
        let rows: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(programs, rows);
    }

    #[test]
    fn rows_are_chosen_by_name_and_keep_their_order() {
        let names = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
            chosen(&names).map(|rows| rows.iter().map(|row| row.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["fib", "sha256"]).unwrap(), ["sha256", "fib"]);
        // Whether those of the host's programs are among them depends on the host.
        let all = chosen(&[]).unwrap();
        assert!(ROWS.iter().all(|row| row.borrows().is_some() || all.iter().any(|other| other.name == row.name)));
        assert!(names(&["fob"]).unwrap_err().to_string().contains("fib"));
    }
}
