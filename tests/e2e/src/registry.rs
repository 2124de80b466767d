//! Debian's docker-registry on this host, and skopeo and umoci to make images with.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A registry, which ends with this.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    /// Where it listens, on this host.
    pub port: u16,
    _folder: TempDir,
}

impl Registry {
    /// Starts one; with TLS if a certificate and its key are given.
    pub fn start(tls: Option<(&Path, &Path)>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let tls = tls.map_or(String::new(), |(certificate, key)| {
            format!(", tls: {{certificate: {}, key: {}}}", certificate.display(), key.display())
        });
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:{port}'{tls}}}\n",
            folder.path().join("storage").display()
        );
        fs::write(folder.path().join("config.yml"), config).expect("a file");
        let child = Command::new("docker-registry")
            .args(["serve".as_ref(), folder.path().join("config.yml").as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry starts");
        let registry = Self { child, port, _folder: folder };
        let end = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "docker-registry listens at port {port}");
            thread::sleep(Duration::from_millis(20));
        }
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether these programs are there; says it if one is not.
pub fn are_there(tools: &[&str]) -> bool {
    let missing = |tool: &&&str| {
        let status = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_err()
    };
    match tools.iter().find(missing) {
        Some(tool) => println!("SKIPPED: there is no {tool} on this host (apt-get install {tool})"),
        None => return true,
    }
    false
}

/// Runs a program in a folder.
///
/// # Panics
/// It fails.
pub fn tool(folder: &Path, line: &[&str]) {
    let (program, arguments) = line.split_first().expect("a program");
    let output = Command::new(program).args(arguments).current_dir(folder).output().expect(program);
    assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes an OCI image layout `layout` in the folder, with the image `app`: of three layers, the last of which takes away what an
/// earlier one has.
pub fn make_layout(folder: &Path) {
    let tree = folder.join("tree");
    crate::root_tree(&tree);
    let entry = "#!/bin/sh\necho \"$GREETING, $*\"; id -u; pwd\n";
    fs::write(tree.join("entry"), entry).expect("a file");
    tool(&tree, &["chmod", "755", "entry"]);
    fs::write(folder.join("second"), "of the second layer\n").expect("a file");
    let umoci = |line: &[&str]| tool(folder, &[&["umoci"], line].concat());
    umoci(&["init", "--layout", "layout"]);
    umoci(&["new", "--image", "layout:app"]);
    umoci(&["insert", "--rootless", "--image", "layout:app", "tree", "/"]);
    umoci(&["insert", "--rootless", "--image", "layout:app", "second", "/etc/second"]);
    umoci(&["insert", "--rootless", "--image", "layout:app", "--whiteout", "/etc/motd"]);
    let run =
        ["--config.entrypoint", "/entry", "--config.cmd", "hello", "--config.cmd", "world", "--config.user", "app"];
    let more = [
        "--config.env",
        "GREETING=good day",
        "--config.workingdir",
        "/srv",
        "--architecture",
        "amd64",
        "--os",
        "linux",
    ];
    umoci(&[&["config", "--image", "layout:app"], &run[..], &more].concat());
}
