//! dpkg's database, as dpkg would have it after it unpacked packages (dpkg's doc, `doc/` and lib/dpkg: `infodb`, `trigdeferred`).

use super::control::Control;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;

const FOLDER: &str = "var/lib/dpkg";

/// Files below which dpkg looks for what each package has, and its triggers.
#[derive(Debug, Default)]
pub(crate) struct Database {
    status: String,
    /// Files in `info`: permissions and bytes.
    info: BTreeMap<String, (u32, Vec<u8>)>,
    /// Packages that are interested in a trigger, by its name.
    triggers: BTreeMap<String, String>,
    /// The same where it is a file: one list for all.
    file_triggers: String,
    /// In which order the packages came.
    names: Vec<String>,
}

impl Database {
    /// Adds a package whose data has these names.
    pub(crate) fn add(&mut self, control: &Control, names: &[Vec<u8>]) {
        let name = control.database_name();
        let mut lines = control.paragraph.lines();
        // The first field is the package's name.
        let _ = writeln!(self.status, "{}\nStatus: install ok unpacked", lines.next().unwrap_or_default());
        for line in lines {
            self.status.push_str(line);
            self.status.push('\n');
        }
        let conffiles = control.conffiles();
        if !conffiles.is_empty() {
            self.status.push_str("Conffiles:\n");
            for file in conffiles {
                let _ = writeln!(self.status, " /{} newconffile", String::from_utf8_lossy(&file));
            }
        }
        self.status.push('\n');
        let mut list = Vec::new();
        for path in names {
            let path = path.strip_prefix(b".").unwrap_or(path);
            let path = path.strip_suffix(b"/").unwrap_or(path);
            list.extend(if path.is_empty() { b"/." } else { path });
            list.push(b'\n');
        }
        self.info.insert(format!("{name}.list"), (0o644, list));
        for (file, content) in &control.files {
            self.info.insert(format!("{name}.{file}"), content.clone());
        }
        for (trigger, awaits) in control.interests() {
            let interested = if awaits { name.clone() } else { format!("{name}/noawait") };
            if trigger.starts_with('/') {
                let _ = writeln!(self.file_triggers, "{trigger} {interested}");
            } else {
                let _ = writeln!(self.triggers.entry(trigger).or_default(), "{interested}");
            }
        }
        self.names.push(name);
    }

    /// As a layer, with the packages' names in a file, one a line.
    pub(crate) fn layer(&self, names: &str) -> io::Result<Vec<u8>> {
        let mut layer = Layer::new();
        layer.file(names, 0o644, (self.names.join("\n") + "\n").as_bytes())?;
        layer.file(&format!("{FOLDER}/status"), 0o644, self.status.as_bytes())?;
        for empty in ["available", "diversions", "statoverride"] {
            layer.file(&format!("{FOLDER}/{empty}"), 0o644, b"")?;
        }
        layer.file(&format!("{FOLDER}/info/format"), 0o644, b"1\n")?;
        for (name, (mode, data)) in &self.info {
            layer.file(&format!("{FOLDER}/info/{name}"), *mode, data)?;
        }
        for (name, interested) in &self.triggers {
            layer.file(&format!("{FOLDER}/triggers/{name}"), 0o644, interested.as_bytes())?;
        }
        layer.file(&format!("{FOLDER}/triggers/File"), 0o644, self.file_triggers.as_bytes())?;
        for folder in ["alternatives", "parts", "updates"] {
            layer.folder(&format!("{FOLDER}/{folder}"))?;
        }
        layer.end()
    }
}

/// Links from where programs were before all of them moved below `/usr`, which packages still name. They come first.
pub(crate) fn merged_usr() -> io::Result<Vec<u8>> {
    let mut layer = Layer::new();
    for part in ["bin", "sbin", "lib", "lib64"] {
        layer.folder(&format!("usr/{part}"))?;
        layer.symlink(part, &format!("usr/{part}"))?;
    }
    layer.end()
}

/// A tar archive of root's files.
struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Layer(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header
    }

    fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        self.0.append_data(&mut Self::header(tar::EntryType::Regular, mode, data.len()), path, data)
    }

    fn folder(&mut self, path: &str) -> io::Result<()> {
        self.0.append_data(&mut Self::header(tar::EntryType::Directory, 0o755, 0), path, io::empty())
    }

    fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.0.append_link(&mut Self::header(tar::EntryType::Symlink, 0o777, 0), path, target)
    }

    fn end(self) -> io::Result<Vec<u8>> {
        self.0.into_inner()
    }
}
