//! `--profile`: a flame graph of where the guest's time went.

mod stacks;
mod symbols;

use anyhow::{Context, Result};
use inferno::flamegraph;
use motu_hv::{GuestSample, Profiler};
use motu_machine::PerCpu;
use stacks::Stacks;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use symbols::Symbols;

/// The profile of one run, on its way to a file.
#[derive(Clone)]
pub struct Profile(Arc<Open>);

struct Open {
    path: PathBuf,
    file: File,
    /// What all CPUs have told.
    stacks: Mutex<Stacks>,
}

impl Profile {
    /// # Errors
    /// The symbols cannot be read, or the file cannot be made.
    pub fn open(spec: &motu_spec::Profile) -> Result<Self> {
        let symbols = spec.symbols.as_deref().map(Symbols::load).transpose()?;
        let path = spec.file.clone();
        let file = File::create(&path).with_context(|| format!("opening the profile's file {}", path.display()))?;
        Ok(Self(Arc::new(Open { path, file, stacks: Mutex::new(Stacks::new(symbols)) })))
    }

    /// Makes the profiler of each CPU.
    pub fn profilers(&self) -> PerCpu<dyn Profiler> {
        let open = Arc::clone(&self.0);
        Box::new(move |_| Box::new(CpuProfile(Arc::clone(&open))))
    }

    /// Draws what was told until now. The machine has ended, and its end is what counts: trouble is only logged.
    pub fn draw(&self) {
        let Open { path, file, stacks } = self.0.as_ref();
        let lines = stacks.lock().unwrap_or_else(PoisonError::into_inner).folded();
        if lines.is_empty() {
            tracing::warn!("{} is empty: the machine ended before the first millisecond was over", path.display());
            return;
        }
        if let Err(error) = draw(&lines, file) {
            tracing::warn!("writing the profile to {}: {error:#}", path.display());
        }
    }
}

/// Draws lines of `outermost;...;innermost milliseconds`.
fn draw(lines: &[String], file: impl Write) -> Result<()> {
    let mut options = flamegraph::Options::default();
    options.title = "Where the guest's time went".into();
    options.subtitle = Some("wall time, a sample each millisecond".into());
    options.name_type = "Place:".into();
    options.count_name = "ms".into();
    // The same place has the same colour in every picture.
    options.hash = true;
    let mut file = BufWriter::new(file);
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut file)?;
    Ok(file.flush()?)
}

/// Tells of one CPU.
struct CpuProfile(Arc<Open>);

impl Profiler for CpuProfile {
    fn sample(&mut self, sample: &GuestSample<'_>) {
        self.0.stacks.lock().unwrap_or_else(PoisonError::into_inner).add(sample);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use motu_x86::Nanos;
    use std::fs;

    #[test]
    fn a_picture_has_the_places_and_their_times() {
        let folder = std::env::temp_dir().join(format!("motu-profile-test-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (file, symbols) = (folder.join("out.svg"), folder.join("System.map"));
        fs::write(&file, "from before").unwrap();
        fs::write(&symbols, "1000 T idle<loop>\n2000 T work\n3000 B _end\n").unwrap();
        let profile = Profile::open(&motu_spec::Profile { file: file.clone(), symbols: Some(symbols) }).unwrap();
        let sample = GuestSample {
            time: Nanos(3_000_000),
            halted: false,
            linear: 0x2abc,
            cpl: 0,
            cr3: 0,
            syscall_entry: 0,
            callers: &[0x1010],
        };
        profile.profilers()(0).sample(&sample);
        profile.draw();
        let svg = fs::read_to_string(&file).unwrap();
        assert!(svg.contains("<title>work (3 ms, 100.00%)</title>"), "{svg}");
        assert!(svg.contains("idle&lt;loop&gt;") && svg.contains("kernel"), "{svg}");
        assert!(svg.trim_end().ends_with("</svg>"));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_cannot_be_opened_is_said_by_name_and_nothing_is_overwritten() {
        let spec = |file: &str, symbols: Option<&str>| motu_spec::Profile {
            file: file.into(),
            symbols: symbols.map(PathBuf::from),
        };
        let error = |spec| format!("{:#}", Profile::open(&spec).err().unwrap());
        assert!(error(spec("/no/such/folder/x.svg", None)).contains("/no/such/folder/x.svg"));
        let kept = std::env::temp_dir().join(format!("motu-profile-kept-{}", std::process::id()));
        fs::write(&kept, "an older picture").unwrap();
        assert!(error(spec(kept.to_str().unwrap(), Some("/no/such/map"))).contains("/no/such/map"));
        assert_eq!(fs::read_to_string(&kept).unwrap(), "an older picture");
        fs::remove_file(&kept).unwrap();
    }
}
