//! `motu image build`: an image from a Motufile (ADR 22).
//!
//! Each RUN and COPY is done in a machine of its own, on an overlay over what came before; what it wrote becomes a layer. A step whose
//! key (all that it depends on) was done before is not done again.

mod context;
mod machine;

use super::{distribution, find_or_make, has_agent};
use crate::engine::Engine;
use anyhow::{Context as _, Result, anyhow, bail};
use context::Context;
use machine::{Job, Machine};
use motu_spec::VmSpec;
use motu_store::motufile::{Instruction, MAX_MOTUFILE, Motufile, Step};
use motu_store::{
    Boot, Digest, Image, ImageConfig, ImageName, ImageRecord, MAX_LAYERS, RECORD_VERSION, RootDisk, StepResult, Store,
    Timestamp, Watch, Work,
};
use std::io::Read;
use std::path::Path;

/// What a build is to be like.
pub struct BuildOptions<'a> {
    pub file: &'a Path,
    pub context: &'a Path,
    pub names: &'a [ImageName],
    /// Whether steps are done that were done before.
    pub anew: bool,
    /// The machines that steps are done in.
    pub spec: &'a VmSpec,
    pub engine: &'a Engine,
}

/// Builds an image.
///
/// # Errors
/// The file cannot be understood, a step failed, or the host's trouble. There is no image then; steps that were done stay, for
/// the next time.
pub fn build(store: &Store, options: &BuildOptions<'_>, watch: Watch<'_>) -> Result<Image> {
    let shown = options.file.display().to_string();
    let text = read(options.file).with_context(|| format!("reading {shown}"))?;
    let file = Motufile::parse(&text).map_err(|error| anyhow!("{shown}: {error}"))?;
    let context = Context::open(options.context)?;
    let work = store.work(watch)?;
    let base = base(store, &work, &file, watch).with_context(|| format!("{shown}: FROM {}", file.from))?;
    let begun = Build::on(store, &work, options, &base, watch);
    let mut build = begun.with_context(|| format!("{shown}: FROM {}", file.from))?;
    let count = file.steps.len();
    for (number, step) in file.steps.iter().enumerate() {
        tell!("[{}/{count}] {}", number + 1, step.text);
        build.step(step, &context).with_context(|| format!("{shown}: line {}: {}", step.line, step.text))?;
    }
    let record = ImageRecord {
        version: RECORD_VERSION,
        source: "build".to_owned(),
        created: build.created,
        boot: Boot::Default,
        disk: Some(build.disk),
        config: build.config,
        packages: base.record.packages.clone(),
        manifest: None,
    };
    let digest = work.commit(&record, options.names, watch)?;
    let name = options.names.first().map_or_else(|| digest.short(), ToString::to_string);
    Ok(Image { name, digest, record })
}

/// A file's text, as far as a Motufile may be long.
fn read(path: &Path) -> Result<String> {
    let file = std::fs::File::open(path)?;
    let mut text = String::new();
    file.take(MAX_MOTUFILE as u64 + 1).read_to_string(&mut text)?;
    if text.len() > MAX_MOTUFILE {
        bail!("it has more than {MAX_MOTUFILE} bytes, and is no Motufile");
    }
    Ok(text)
}

/// The image to begin with: one that is there, or one that is got. It stays as long as the work.
fn base(store: &Store, work: &Work, file: &Motufile, watch: Watch<'_>) -> Result<Image> {
    let image = if file.packages.is_empty() {
        find_or_make(store, &file.from, watch)?
    } else {
        packaged(store, work, file, watch)?
    };
    if !work.pin(image.digest, watch)? {
        bail!("the image {} was removed meanwhile; build again", image.name);
    }
    Ok(image)
}

/// Packages of a distribution and those that were asked for beside.
fn packaged(store: &Store, work: &Work, file: &Motufile, watch: Watch<'_>) -> Result<Image> {
    let Some(mut spec) = distribution::beginning_as(store, &file.from)? else {
        bail!(
            "PACKAGES is for images of packages: FROM debian, FROM deb:SUITE or what was pulled from there; in any other, RUN its own \
             package manager"
        );
    };
    spec.include.extend(file.packages.iter().cloned());
    let mut key = Key::new("packages");
    key.add(&format!("{:?} {:?}", spec.origin, spec.suite));
    spec.include.iter().for_each(|package| key.add(package));
    let key = key.digest();
    if let Some((StepResult::Image(digest), _)) = work.step(key, watch)? {
        return Ok(store.find(&digest.to_string())?);
    }
    let image = distribution::make(store, &spec, Some(&[]), watch)?;
    work.keep_step(key, &format!("PACKAGES {}", file.packages.join(" ")), &StepResult::Image(image.digest), watch)?;
    Ok(image)
}

/// What a step depends on, put together so that no two lists of texts are the same bytes.
struct Key(String);

impl Key {
    fn new(kind: &str) -> Self {
        let mut key = Self(String::new());
        key.add(kind);
        key
    }

    fn add(&mut self, text: &str) {
        self.0.push_str(&format!("{}:{text}\n", text.len()));
    }

    fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

/// An image so far.
struct Build<'a> {
    store: &'a Store,
    work: &'a Work,
    options: &'a BuildOptions<'a>,
    watch: Watch<'a>,
    base: &'a Image,
    disk: RootDisk,
    config: ImageConfig,
    /// Of the latest step: an image of the same steps is the same image.
    created: Timestamp,
}

impl<'a> Build<'a> {
    fn on(
        store: &'a Store,
        work: &'a Work,
        options: &'a BuildOptions<'a>,
        base: &'a Image,
        watch: Watch<'a>,
    ) -> Result<Self> {
        let Some(disk) = base.record.disk.clone() else {
            bail!("the image {} has no root disk to build on; debian and images of registries have", base.name);
        };
        if base.record.boot != Boot::Default || !has_agent(&base.record.boot) {
            bail!("the image {} is not booted by motu's own kernel, so no step can be done in it", base.name);
        }
        Ok(Self {
            store,
            work,
            options,
            watch,
            base,
            disk,
            config: base.record.config.clone(),
            created: base.record.created,
        })
    }

    fn step(&mut self, step: &Step, context: &Context) -> Result<()> {
        let (mut key, jobs) = match &step.what {
            Instruction::Config(change) => {
                change.apply(&mut self.config);
                return Ok(());
            }
            Instruction::Run(argv) => {
                let mut key = self.key("run");
                argv.iter().for_each(|word| key.add(word));
                (key, vec![Job::Command(argv.clone())])
            }
            Instruction::Copy { sources, target } => {
                let target = self.absolute(target);
                let copies = context.copies(sources, &target)?;
                let mut key = self.key("copy");
                for copy in &copies {
                    key.add(&copy.describe()?);
                }
                (key, copies.into_iter().map(Job::Copy).collect())
            }
        };
        key.add(&format!("{:?} {:?} {:?}", self.config.env, self.config.user, self.config.workdir));
        let key = key.digest();
        let before = if self.options.anew { None } else { self.work.step(key, self.watch)? };
        let (result, done) = match before {
            Some(before) => {
                tell!("      as it was done before");
                before
            }
            None => {
                let result = self.do_jobs(jobs)?;
                let now = self.work.keep_step(key, &step.text, &result, self.watch)?;
                (result, now)
            }
        };
        self.created = self.created.max(done);
        if let StepResult::Layer(layer) = result {
            self.disk.layers.push(layer);
        }
        Ok(())
    }

    /// All steps depend on the disk that they find.
    fn key(&self, kind: &str) -> Key {
        let mut key = Key::new(kind);
        self.disk.layers.iter().for_each(|layer| key.add(&layer.digest.to_string()));
        key
    }

    /// A path in the image, from where commands start; a slash at its end stays.
    fn absolute(&self, path: &str) -> String {
        let folder = self.config.workdir.as_deref().unwrap_or("/").trim_end_matches('/');
        match path {
            "." | "./" => format!("{folder}/"),
            _ if path.starts_with('/') => path.to_owned(),
            _ => format!("{folder}/{}", path.trim_start_matches("./")),
        }
    }

    fn do_jobs(&self, jobs: Vec<Job>) -> Result<StepResult> {
        if self.disk.layers.len() >= MAX_LAYERS {
            bail!("an image has {MAX_LAYERS} layers at most; join some RUN lines by &&");
        }
        let machine = Machine {
            store: self.store,
            base: self.base,
            disk: &self.disk,
            config: &self.config,
            options: self.options,
        };
        let folder = machine.run(jobs, self.watch)?;
        let overlay = folder.open_disk(&self.base.name, &self.disk, self.watch)?;
        let below = self.store.open_disk(&self.base.name, &self.disk, self.watch)?;
        Ok(match self.work.add_changes(&overlay, below, self.watch)? {
            Some(layer) => StepResult::Layer(layer),
            None => StepResult::Nothing,
        })
    }
}
