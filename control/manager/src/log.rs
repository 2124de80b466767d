//! What a machine wrote, kept up to a bound.
//!
//! ```text
//! NAME      the newest; when it is full it becomes NAME.1, whose content is lost
//! a record  'o' or 'e' for standard output or error | space | milliseconds since 1970 | space | bytes, with \\ for \ and \n for a
//!           line's end | line's end
//! ```
//! A record that a killed process did not finish is a line that is none; the next process begins a new one.

use motu_proto::OutputStream;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a record that are read at most: one of the protocol's messages, each byte escaped.
const LONGEST: usize = 4 * motu_proto::MAX_DATA;

/// A file that keeps the last of what is written to it.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
    /// What is in the file is whole: what another process, or a write that failed, has begun is to be ended first.
    ends_a_line: bool,
}

/// Something that a command wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Where to.
    pub stream: OutputStream,
    /// Milliseconds since 1970.
    pub time: u64,
    /// What.
    pub data: Vec<u8>,
}

impl LogWriter {
    /// Goes on with the file at `path`, of which `limit` bytes are kept at least and twice as many at most.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let file = new_file(path, false)?;
        let mut writer = Self { path: path.to_owned(), file, size: 0, limit, ends_a_line: true };
        writer.look()?;
        Ok(writer)
    }

    /// Writes a record of a command's output.
    ///
    /// # Errors
    /// The host's: what was written is lost.
    pub fn record(&mut self, stream: OutputStream, data: &[u8]) -> io::Result<()> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let mut line = Vec::with_capacity(data.len() + 32);
        // What another process did not finish ends here; an empty line is no record.
        if !self.ends_a_line {
            line.push(b'\n');
        }
        write!(line, "{} {time} ", if stream == OutputStream::Stdout { 'o' } else { 'e' })?;
        for &byte in data {
            match byte {
                b'\n' => line.extend(b"\\n"),
                b'\\' => line.extend(b"\\\\"),
                byte => line.push(byte),
            }
        }
        line.push(b'\n');
        self.write_all(&line)
    }

    /// Finds out how far the file is written.
    fn look(&mut self) -> io::Result<()> {
        self.size = self.file.metadata()?.len();
        let mut last = *b"\n";
        if let Some(at) = self.size.checked_sub(1) {
            self.file.read_exact_at(&mut last, at)?;
        }
        self.ends_a_line = last == *b"\n";
        Ok(())
    }
}

impl Write for LogWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.size > 0 && self.size.saturating_add(data.len() as u64) > self.limit {
            fs::rename(&self.path, older(&self.path))?;
            self.file = new_file(&self.path, true)?;
            (self.size, self.ends_a_line) = (0, true);
        }
        let Some(last) = data.last() else { return Ok(0) };
        // A disk that is full takes a part.
        self.file.write_all(data).inspect_err(|_| drop(self.look()))?;
        self.size = self.size.saturating_add(data.len() as u64);
        self.ends_a_line = *last == b'\n';
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn new_file(path: &Path, truncate: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    let file = options.open(path)?;
    if truncate {
        file.set_len(0)?;
    }
    Ok(file)
}

/// Where a full file goes.
fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// How much of a log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    All,
    /// So many lines at its end.
    Lines(usize),
}

/// Reads a log, and what is added to it.
#[derive(Debug)]
pub struct LogFollower {
    path: PathBuf,
    file: Option<BufReader<File>>,
    /// A line that is not finished yet.
    line: Vec<u8>,
    /// What was read ahead.
    ready: VecDeque<LogRecord>,
}

impl LogFollower {
    /// Reads the records at `path`, from `tail` on. A log that is not there is empty.
    ///
    /// # Errors
    /// The log is there and cannot be read.
    pub fn open(path: &Path, tail: Tail) -> io::Result<Self> {
        let mut follower = Self { path: path.to_owned(), file: None, line: Vec::new(), ready: VecDeque::new() };
        let mut all = VecDeque::new();
        // The newest first, so that a change of files in between loses nothing: what it becomes is read to its end.
        let newest = open_if_there(path)?;
        if let Some(older) = open_if_there(&older(path))?.filter(|older| !same(older, newest.as_ref())) {
            follower.file = Some(BufReader::new(older));
            while let Some(record) = follower.read()? {
                all.push_back(record);
            }
            follower.line.clear();
        }
        follower.file = newest.map(BufReader::new);
        while let Some(record) = follower.read()? {
            all.push_back(record);
        }
        if let Tail::Lines(lines) = tail {
            keep_last(&mut all, lines);
        }
        follower.ready = all;
        Ok(follower)
    }

    /// The next record; `None` if there is none yet.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn next_record(&mut self) -> io::Result<Option<LogRecord>> {
        if let Some(record) = self.ready.pop_front() {
            return Ok(Some(record));
        }
        if let Some(record) = self.read()? {
            return Ok(Some(record));
        }
        let newest = open_if_there(&self.path)?;
        if newest.is_none()
            || newest.as_ref().is_some_and(|newest| same(newest, self.file.as_ref().map(BufReader::get_ref)))
        {
            return Ok(None);
        }
        // The rest of the file that was full.
        if let Some(record) = self.read()? {
            return Ok(Some(record));
        }
        self.line.clear();
        self.file = newest.map(BufReader::new);
        self.read()
    }

    fn read(&mut self) -> io::Result<Option<LogRecord>> {
        let Some(file) = &mut self.file else { return Ok(None) };
        loop {
            let room = LONGEST.saturating_sub(self.line.len()) as u64;
            file.take(room).read_until(b'\n', &mut self.line)?;
            let finished = self.line.ends_with(b"\n");
            if !finished && self.line.len() < LONGEST {
                return Ok(None);
            }
            let line = std::mem::take(&mut self.line);
            if let Some(record) = line.strip_suffix(b"\n").and_then(parse) {
                return Ok(Some(record));
            }
        }
    }
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn same(file: &File, other: Option<&File>) -> bool {
    let inode = |file: &File| file.metadata().map(|file| (file.dev(), file.ino())).ok();
    other.is_some_and(|other| inode(file) == inode(other))
}

fn parse(line: &[u8]) -> Option<LogRecord> {
    let mut fields = line.splitn(3, |&byte| byte == b' ');
    let stream = match fields.next()? {
        b"o" => OutputStream::Stdout,
        b"e" => OutputStream::Stderr,
        _ => return None,
    };
    let time = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let mut data = Vec::new();
    let mut escaped = false;
    for &byte in fields.next()? {
        match (escaped, byte) {
            (false, b'\\') => {
                escaped = true;
                continue;
            }
            (true, b'n') => data.push(b'\n'),
            (_, byte) => data.push(byte),
        }
        escaped = false;
    }
    Some(LogRecord { stream, time, data })
}

/// Leaves so many lines; one that has no end yet counts.
fn keep_last(records: &mut VecDeque<LogRecord>, lines: usize) {
    // The ends of lines that are passed before the first line to be kept begins.
    let ends_last = records.back().is_none_or(|last| last.data.ends_with(b"\n"));
    let mut left = lines.saturating_add(usize::from(ends_last));
    for at in (0..records.len()).rev() {
        let Some(record) = records.get_mut(at) else { return };
        for n in (0..record.data.len()).rev() {
            if record.data.get(n) == Some(&b'\n') {
                left = left.saturating_sub(1);
                if left == 0 {
                    record.data.drain(..=n);
                    records.drain(..at);
                    return;
                }
            }
        }
        if lines == 0 {
            return records.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use OutputStream::{Stderr, Stdout};
    use proptest::prelude::*;

    fn read(path: &Path, tail: Tail) -> Vec<(OutputStream, Vec<u8>)> {
        let mut follower = LogFollower::open(path, tail).unwrap();
        std::iter::from_fn(|| follower.next_record().unwrap()).map(|record| (record.stream, record.data)).collect()
    }

    fn text(path: &Path, tail: Tail) -> String {
        read(path, tail).into_iter().map(|(_, data)| String::from_utf8(data).unwrap()).collect()
    }

    #[test]
    fn what_is_added_is_followed_over_a_change_of_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut follower = LogFollower::open(&path, Tail::All).unwrap();
        assert_eq!(follower.next_record().unwrap(), None);
        let mut writer = LogWriter::open(&path, 1000).unwrap();
        for n in 0..100u8 {
            writer.record(Stdout, &[n; 50]).unwrap();
            assert_eq!(follower.next_record().unwrap().map(|record| record.data), Some(vec![n; 50]));
            assert_eq!(follower.next_record().unwrap(), None);
        }
        let kept = read(&path, Tail::All);
        assert!((12..40).contains(&kept.len()), "{} records", kept.len());
        assert_eq!(kept.last(), Some(&(Stdout, vec![99; 50])));
        assert!(fs::metadata(&path).unwrap().len() <= 1000 && fs::metadata(older(&path)).unwrap().len() <= 1000);
    }

    #[test]
    fn what_a_killed_process_did_not_finish_is_no_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        LogWriter::open(&path, 1000).unwrap().record(Stdout, b"one\n").unwrap();
        LogWriter::open(&path, 1000).unwrap().write_all(b"o 17 tw").unwrap();
        LogWriter::open(&path, 1000).unwrap().record(Stderr, b"three\\n").unwrap();
        assert_eq!(read(&path, Tail::All)[0], (Stdout, b"one\n".to_vec()));
        assert_eq!(read(&path, Tail::All).last(), Some(&(Stderr, b"three\\n".to_vec())));
        assert!(read(&path, Tail::All).len() <= 3);
    }

    #[test]
    fn a_record_that_was_written_in_part_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = LogWriter::open(&path, 1000).unwrap();
        writer.record(Stdout, b"one\n").unwrap();
        // What a full disk leaves of a record.
        writer.file.write_all(b"o 17 tw").unwrap();
        writer.look().unwrap();
        writer.record(Stdout, b"three\n").unwrap();
        writer.record(Stdout, b"four\n").unwrap();
        let all: Vec<Vec<u8>> = read(&path, Tail::All).into_iter().map(|(_, data)| data).collect();
        assert_eq!(all, [&b"one\n"[..], b"tw", b"three\n", b"four\n"]);
        assert_eq!(writer.size, fs::metadata(&path).unwrap().len());
    }

    #[test]
    fn the_last_lines_may_begin_within_a_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert_eq!(text(&path, Tail::Lines(3)), "");
        let mut writer = LogWriter::open(&path, 1000).unwrap();
        for data in ["a\nb\nc", "d\ne\n", "f\n"] {
            writer.record(Stdout, data.as_bytes()).unwrap();
        }
        for (lines, expected) in [
            (0, ""),
            (1, "f\n"),
            (2, "e\nf\n"),
            (3, "cd\ne\nf\n"),
            (9, "a\nb\ncd\ne\nf\n"),
            (usize::MAX, "a\nb\ncd\ne\nf\n"),
        ] {
            assert_eq!(text(&path, Tail::Lines(lines)), expected, "{lines}");
        }
        writer.record(Stdout, b"g").unwrap();
        assert_eq!(text(&path, Tail::Lines(1)), "g");
        assert_eq!(text(&path, Tail::Lines(2)), "f\ng");
    }

    proptest! {
        #[test]
        fn records_are_read_as_they_were_written(
            records in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..20),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log");
            let mut writer = LogWriter::open(&path, 1 << 20).unwrap();
            let stream = |error| if error { Stderr } else { Stdout };
            for (error, data) in &records {
                writer.record(stream(*error), data).unwrap();
            }
            let expected: Vec<_> = records.into_iter().map(|(error, data)| (stream(error), data)).collect();
            prop_assert_eq!(read(&path, Tail::All), expected);
        }

        #[test]
        fn any_bytes_are_a_log(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log");
            fs::write(&path, bytes).unwrap();
            read(&path, Tail::Lines(2));
        }
    }
}
