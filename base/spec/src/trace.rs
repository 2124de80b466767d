//! What of a running machine is told, and where to.

use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

/// One thing that is told about a running machine, a line for each time it happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    pub kind: TraceKind,
    /// A file, which is made or emptied first; standard error when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

/// A picture of where a machine's time went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// An SVG file, which is made or emptied first.
    pub file: PathBuf,
    /// What the kernel's code is called: a `System.map`, a `/proc/kallsyms` or an ELF file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbols: Option<PathBuf>,
}

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TraceKind {
    /// Each instruction.
    Exec,
    /// Each exception, interrupt and software interrupt.
    Int,
    /// Each access to memory that is no RAM.
    Mmio,
    /// Each access to a port.
    Io,
}

/// A text that names no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseTraceError {
    #[error("{0:?} is nothing that can be traced; exec, int, mmio and io are, such as in int,io:FILE")]
    UnknownKind(String),
    #[error("no file's name follows {0}: write {0}:FILE, or {0} alone for standard error")]
    NoFile(TraceKind),
}

impl Trace {
    /// Reads a list such as `exec:FILE` or `int,io:FILE,mmio`: the kinds before a file all go to it, those
    /// after the last one to standard error. A file's name ends at a comma.
    ///
    /// # Errors
    /// A kind that there is not, or a colon without a file.
    pub fn parse_list(text: &OsStr) -> Result<Vec<Self>, ParseTraceError> {
        let mut traces: Vec<Self> = Vec::new();
        let mut first_without_file = 0;
        for item in text.as_bytes().split(|&byte| byte == b',') {
            let mut parts = item.splitn(2, |&byte| byte == b':');
            let kind: TraceKind = String::from_utf8_lossy(parts.next().unwrap_or_default()).parse()?;
            traces.push(Self { kind, file: None });
            match parts.next() {
                None => {}
                Some([]) => return Err(ParseTraceError::NoFile(kind)),
                Some(file) => {
                    let group = traces.get_mut(first_without_file..).unwrap_or_default();
                    group.iter_mut().for_each(|trace| trace.file = Some(OsStr::from_bytes(file).into()));
                    first_without_file = traces.len();
                }
            }
        }
        Ok(traces)
    }
}

impl FromStr for TraceKind {
    type Err = ParseTraceError;

    fn from_str(text: &str) -> Result<Self, ParseTraceError> {
        match text {
            "exec" => Ok(Self::Exec),
            "int" => Ok(Self::Int),
            "mmio" => Ok(Self::Mmio),
            "io" => Ok(Self::Io),
            _ => Err(ParseTraceError::UnknownKind(text.to_owned())),
        }
    }
}

impl fmt::Display for TraceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exec => "exec",
            Self::Int => "int",
            Self::Mmio => "mmio",
            Self::Io => "io",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Vec<Trace>, ParseTraceError> {
        Trace::parse_list(text.as_ref())
    }

    fn trace(kind: TraceKind, file: Option<&str>) -> Trace {
        Trace { kind, file: file.map(PathBuf::from) }
    }

    #[test]
    fn a_kind_alone_goes_to_standard_error() {
        for kind in [TraceKind::Exec, TraceKind::Int, TraceKind::Mmio, TraceKind::Io] {
            assert_eq!(parse(&kind.to_string()).unwrap(), [trace(kind, None)]);
        }
    }

    #[test]
    fn a_file_is_for_the_kinds_before_it() {
        let text = "int,io:a b.log,mmio:/x:y,exec,int";
        let expected = [
            trace(TraceKind::Int, Some("a b.log")),
            trace(TraceKind::Io, Some("a b.log")),
            trace(TraceKind::Mmio, Some("/x:y")),
            trace(TraceKind::Exec, None),
            trace(TraceKind::Int, None),
        ];
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn a_file_whose_name_is_no_text_is_one() {
        let traces = Trace::parse_list(OsStr::from_bytes(b"io:\xff\n")).unwrap();
        assert_eq!(traces, [Trace { kind: TraceKind::Io, file: Some(OsStr::from_bytes(b"\xff\n").into()) }]);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        for text in ["", "cpu", "int,", ",int", "int io", "INT", "int:a,b.log", ":file"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("exec, int, mmio and io"), "{text}: {error}");
        }
        assert_eq!(parse("int,io:").unwrap_err(), ParseTraceError::NoFile(TraceKind::Io));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_as_long_as_what_was_written(text in "(exec|int|io|x|:|,){0,12}") {
            if let Ok(traces) = parse(&text) {
                prop_assert_eq!(traces.len(), text.split(',').count());
            }
        }
    }
}
