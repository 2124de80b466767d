//! `--trace`: what the machine does, a line each, to files and standard error.

mod lines;

use super::background::Background;
use crate::log;
use anyhow::{Context, Result};
use motu_hv::{RecentInstruction, TracedEvent, Tracer};
use motu_machine::{Access, AccessTracer, Space, Tracing};
use motu_spec::{Trace, TraceKind};
use std::fmt;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// The traces of one run, open.
#[derive(Clone, Default)]
pub struct Traces {
    sinks: Vec<Sink>,
    wanted: Vec<Wanted>,
}

/// One file or standard error; several traces may share it.
#[derive(Clone)]
struct Sink {
    name: String,
    /// Device and inode of a file.
    file: Option<(u64, u64)>,
    to: Background,
}

#[derive(Clone)]
struct Wanted {
    kind: TraceKind,
    to: Background,
}

impl Traces {
    /// # Errors
    /// A file cannot be made, or the host gives no thread.
    pub fn open(traces: &[Trace]) -> Result<Self> {
        let mut open = Self::default();
        for Trace { kind, file } in traces {
            let to = match file {
                Some(path) => open.file(path)?,
                None => open.stderr()?,
            };
            open.wanted.push(Wanted { kind: *kind, to });
        }
        Ok(open)
    }

    fn file(&mut self, path: &Path) -> Result<Background> {
        let opening = || format!("opening the trace file {}", path.display());
        let file = File::create(path).with_context(opening)?;
        let metadata = file.metadata().with_context(opening)?;
        let id = Some((metadata.dev(), metadata.ino()));
        if let Some(sink) = self.sinks.iter().find(|sink| sink.file == id) {
            return Ok(sink.to.clone());
        }
        self.add(format!("the trace to {}", path.display()), id, file)
    }

    fn stderr(&mut self) -> Result<Background> {
        if let Some(sink) = self.sinks.iter().find(|sink| sink.file.is_none()) {
            return Ok(sink.to.clone());
        }
        self.add("the trace to stderr".into(), None, log::Stderr)
    }

    fn add(
        &mut self,
        name: String,
        file: Option<(u64, u64)>,
        destination: impl std::io::Write + Send + 'static,
    ) -> Result<Background> {
        let to = Background::to("trace", name.clone(), destination).context("starting the thread for --trace")?;
        self.sinks.push(Sink { name, file, to: to.clone() });
        Ok(to)
    }

    /// Where lines of `kind` go, each place once.
    fn places(&self, kind: TraceKind) -> Places {
        let mut places = Vec::<Background>::new();
        for Wanted { to, .. } in self.wanted.iter().filter(|wanted| wanted.kind == kind) {
            if !places.iter().any(|place| place.is(to)) {
                places.push(to.clone());
            }
        }
        Places(places)
    }

    /// What the machine is to tell.
    pub fn tracing(&self) -> Tracing {
        let (exec, int) = (self.places(TraceKind::Exec), self.places(TraceKind::Int));
        let (mmio, io) = (self.places(TraceKind::Mmio), self.places(TraceKind::Io));
        let mut tracing = Tracing::default();
        if !exec.is_empty() || !int.is_empty() {
            tracing.cpu = Some(Box::new(move |cpu| Box::new(CpuTrace { cpu, exec: exec.clone(), int: int.clone() })));
        }
        if !mmio.is_empty() || !io.is_empty() {
            tracing.access = Some(Box::new(move |cpu| Box::new(BusTrace { cpu, mmio: mmio.clone(), io: io.clone() })));
        }
        tracing
    }

    /// Lets a guest that waits for a slow reader go on: the machine is ending.
    pub fn release(&self) {
        self.sinks.iter().for_each(|sink| sink.to.release());
    }

    /// Calls `act` when nobody reads one of the traces any more (a broken pipe).
    pub fn on_abandoned(&self, act: impl Fn() + Clone + Send + 'static) {
        self.sinks.iter().for_each(|sink| sink.to.on_abandoned(act.clone()));
    }

    /// Waits until all is written, for each at most for `limit`; says what was not.
    pub fn finish(&self, limit: Option<Duration>) {
        for Sink { name, to, .. } in &self.sinks {
            let lost = to.finish(limit);
            if lost > 0 {
                tracing::warn!("the last {lost} bytes of {name} are lost: its reader is too slow");
            }
        }
    }
}

/// Where lines of one kind go.
#[derive(Clone)]
struct Places(Vec<Background>);

impl Places {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn tell(&self, write: impl FnOnce(&mut String) -> fmt::Result) {
        if self.is_empty() {
            return;
        }
        let mut line = String::with_capacity(128);
        // A String takes everything.
        let _ = write(&mut line);
        self.0.iter().for_each(|place| place.put(line.as_bytes()));
    }
}

/// Tells what one CPU does.
struct CpuTrace {
    cpu: u32,
    exec: Places,
    int: Places,
}

impl Tracer for CpuTrace {
    fn wants_instructions(&self) -> bool {
        !self.exec.is_empty()
    }

    fn instruction(&mut self, instruction: &RecentInstruction) {
        self.exec.tell(|line| lines::instruction(line, self.cpu, instruction));
    }

    fn event(&mut self, event: &TracedEvent) {
        self.int.tell(|line| lines::event(line, self.cpu, event));
    }
}

/// Tells what one CPU asks of the board.
struct BusTrace {
    cpu: u32,
    mmio: Places,
    io: Places,
}

impl AccessTracer for BusTrace {
    fn access(&self, access: &Access) {
        let places = match access.space {
            Space::Port => &self.io,
            Space::Memory => &self.mmio,
        };
        places.tell(|line| lines::access(line, self.cpu, access));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use motu_hv::EventKind;
    use motu_machine::Direction;
    use std::fs;

    fn opened(text: &str) -> Traces {
        Traces::open(&Trace::parse_list(text.as_ref()).unwrap()).unwrap()
    }

    const OUT: Access = Access { space: Space::Port, direction: Direction::Write, address: 0x80, size: 1, value: 7 };
    const OUT_LINE: &str = "io cpu0 out port=0x0080 size=1 value=0x07\n";

    fn tell_all(tracing: &Tracing) {
        let mut cpu = tracing.cpu.as_ref().unwrap()(0);
        cpu.event(&TracedEvent {
            kind: EventKind::Interrupt,
            vector: 0x20,
            error_code: None,
            cs: 8,
            rip: 0,
            cpl: 0,
            ss: 16,
            rsp: 0,
            cr2: None,
        });
        tracing.access.as_ref().unwrap()(0).access(&OUT);
    }

    #[test]
    fn nothing_wanted_is_nobody_told() {
        let tracing = Traces::open(&[]).unwrap().tracing();
        assert!(tracing.cpu.is_none() && tracing.access.is_none());
        let tracing = opened("int").tracing();
        assert!(!tracing.cpu.unwrap()(0).wants_instructions() && tracing.access.is_none());
        assert!(opened("exec").tracing().cpu.unwrap()(0).wants_instructions());
    }

    #[test]
    fn traces_share_a_file_by_any_name_in_the_order_of_what_happened() {
        let folder = std::env::temp_dir().join(format!("motu-trace-test-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (file, other) = (folder.join("log"), folder.join("other"));
        fs::write(&file, "from before").unwrap();
        let same = folder.join(".").join("log");
        let text = format!("int:{},io:{},io:{},io:{0}", file.display(), same.display(), other.display());
        let traces = opened(&text);
        let tracing = traces.tracing();
        tell_all(&tracing);
        tell_all(&tracing);
        traces.finish(None);
        let int = "int cpu0 interrupt vector=0x20 at=0008:0000000000000000 cpl=0 stack=0010:0000000000000000\n";
        assert_eq!(fs::read_to_string(&file).unwrap(), [int, OUT_LINE, int, OUT_LINE].concat());
        assert_eq!(fs::read_to_string(&other).unwrap(), OUT_LINE.repeat(2));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_made_is_said_by_name() {
        let traces = Trace::parse_list("io:/no/such/folder/x".as_ref()).unwrap();
        let error = Traces::open(&traces).err().unwrap().to_string();
        assert!(error.contains("/no/such/folder/x"), "{error}");
    }
}
