//! Programs of the host that run in the guest too, with the libraries that they need: python3 and openssl.

use super::program;
use anyhow::{Context, Result, ensure};
use motu_store::{Archive, CpioError};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The script of the row `python-loop`.
const SCRIPT: &str = "loop.py";

/// What python3 loads before it runs a script.
const MODULES: [&str; 3] = ["__init__", "aliases", "utf_8"];

/// Whether the host has this program, of its distribution.
pub fn is_there(name: &str) -> bool {
    host_path(name).exists()
}

fn host_path(name: &str) -> PathBuf {
    Path::new("/usr/bin").join(name)
}

/// Puts the program into `folder`, for the host, and into the guest's `archive`; its libraries only there, by the paths
/// that they have on the host.
///
/// # Errors
/// It cannot be read, or the host does not tell its libraries.
pub fn lend(name: &str, folder: &Path, archive: &mut Archive<'_>) -> Result<()> {
    let path = fs::canonicalize(host_path(name)).with_context(|| format!("finding {name}"))?;
    add(archive, folder, name, read(&path)?)?;
    let output = Command::new("ldd").arg(&path).output().context("running ldd")?;
    ensure!(output.status.success(), "ldd {}: {}", path.display(), output.status);
    for library in libraries(&String::from_utf8_lossy(&output.stdout)) {
        let place = library.trim_start_matches('/');
        match archive.file(place, 0o755, read(Path::new(library))?) {
            // Another program has brought it.
            Ok(()) | Err(CpioError::Taken(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if name == "python3" {
        add(archive, folder, SCRIPT, read(&program::folder().join(SCRIPT))?)?;
        modules(&path, folder, archive)?;
    }
    Ok(())
}

/// A file beside the program that has the rows, on the host and in the guest.
fn add(archive: &mut Archive<'_>, folder: &Path, name: &str, bytes: Vec<u8>) -> Result<()> {
    program::executable(&folder.join(name), &bytes)?;
    Ok(archive.file(&format!("bench/{name}"), 0o755, bytes)?)
}

/// The few modules of python's library, compiled, without their sources: those have another time in the guest, and
/// python would compile them each time it starts.
fn modules(python: &Path, folder: &Path, archive: &mut Archive<'_>) -> Result<()> {
    const COMPILE: &str = "import encodings, os.path, py_compile, sys\n\
        source = os.path.join(os.path.dirname(encodings.__file__), sys.argv[1] + '.py')\n\
        py_compile.compile(source, cfile=sys.argv[2], dfile=sys.argv[1], doraise=True)";
    let version = python.file_name().and_then(OsStr::to_str).context("python3 has no name")?;
    let library = format!("python/lib/{version}/encodings");
    let to = folder.join(&library);
    fs::create_dir_all(&to).with_context(|| format!("making {}", to.display()))?;
    for module in MODULES {
        let file = to.join(format!("{module}.pyc"));
        let status = Command::new(python).args(["-I", "-c", COMPILE, module]).arg(&file).status();
        let status = status.with_context(|| format!("running {}", python.display()))?;
        ensure!(status.success(), "compiling python's module encodings.{module}: {status}");
        archive.file(&format!("bench/{library}/{module}.pyc"), 0o644, read(&file)?)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// The files that `ldd` names, the dynamic linker among them (ldd(1): `NAME => FILE (ADDRESS)` or `FILE (ADDRESS)`).
fn libraries(text: &str) -> Vec<&str> {
    let files = text.lines().filter_map(|line| {
        let (line, _) = line.trim().rsplit_once(" (")?;
        Some(line.rsplit_once(" => ").map_or(line, |(_, file)| file))
    });
    files.filter(|file| file.starts_with('/')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_as_ldd_prints_them() {
        let text = "\
\tlinux-vdso.so.1 (0x00007f06050a5000)
\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f0604f92000)
\tlibodd.so => not found
\t/lib64/ld-linux-x86-64.so.2 (0x00007f06050a7000)
";
        assert_eq!(libraries(text), ["/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
