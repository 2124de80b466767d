//! What other people's tools make: Debian's docker-registry on this host, skopeo and umoci.

mod support;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::*;
use tempfile::TempDir;

/// A registry that ends with its test.
struct Registry {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_there(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        println!("SKIPPED: there is no {tool} on this host (apt-get install {tool})");
    }
    there
}

fn run(tool: &str, arguments: &[&str]) {
    let output = Command::new(tool).args(arguments).output().expect(tool);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments:?}: {said}");
}

fn registry() -> Registry {
    let folder = TempDir::new().expect("a folder");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let storage = folder.path().join("storage");
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
        storage.display()
    );
    let path = folder.path().join("config.yml");
    fs::write(&path, config).expect("written");
    let child = Command::new("docker-registry")
        .args(["serve".as_ref(), path.as_os_str()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry");
    let registry = Registry { child, port, _folder: folder };
    let end = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < end, "docker-registry listens at port {port}");
        thread::sleep(Duration::from_millis(20));
    }
    registry
}

fn layout(folder: &Path) -> Image {
    let image = Image::new(3, 50_000);
    image.write_layout(folder);
    image
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_real_registry_gives_what_was_pushed() {
    if !is_there("docker-registry") || !is_there("skopeo") {
        return;
    }
    let registry = registry();
    let folder = TempDir::new().expect("a folder");
    let image = layout(&folder.path().join("layout"));
    let from = format!("oci:{}/layout:app", text(folder.path()));
    let port = registry.port;
    for (tag, format) in [("oci", "oci"), ("docker", "v2s2")] {
        let to = format!("docker://127.0.0.1:{port}/team/app:{tag}");
        run("skopeo", &["copy", "--dest-tls-verify=false", "--format", format, &from, &to]);
    }
    let pulled = pull_to(folder.path(), &source(&format!("oci:localhost:{port}/team/app:oci"))).expect("pulled");
    assert_same(&pulled, &image);
    assert_eq!(pulled.digest, image.digest());
    assert_eq!(pulled.name.as_deref(), Some(format!("localhost:{port}/team/app:oci").as_str()));
    // Docker's own manifest, with the same blobs in it.
    let docker = pull_to(folder.path(), &source(&format!("oci:127.0.0.1:{port}/team/app:docker"))).expect("pulled");
    assert_same(&docker, &image);
    assert_eq!(docker.config, pulled.config);
    assert_ne!(docker.digest, pulled.digest);

    let error = refusal(&source(&format!("oci:localhost:{port}/team/app:dokcer")));
    assert!(error.ends_with("/team/app has no tag \"dokcer\"; there are the tags docker, oci"), "{error}");
    let error = refusal(&source(&format!("oci:localhost:{port}/team/other")));
    assert!(error.contains("has no image team/other"), "{error}");
}

#[test]
fn what_skopeo_writes_is_read() {
    if !is_there("skopeo") {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| format!("{}/{name}", text(folder.path()));
    let image = layout(&folder.path().join("layout"));
    let from = format!("oci:{}:app", path("layout"));
    run("skopeo", &["copy", &from, &format!("oci:{}:v2", path("copy"))]);
    run("skopeo", &["copy", &from, &format!("oci-archive:{}:v1", path("oci.tar"))]);
    run("skopeo", &["copy", &from, &format!("docker-archive:{}:example.org/team/app:v1", path("docker.tar"))]);

    for text in [
        format!("oci-layout:{}", path("copy")),
        format!("oci-layout:{}:v2", path("copy")),
        format!("oci-archive:{}", path("oci.tar")),
    ] {
        assert_same(&pull_to(folder.path(), &source(&text)).expect(&text), &image);
    }
    for name in ["", ":example.org/team/app:v1"] {
        let pulled =
            pull_to(folder.path(), &source(&format!("docker-archive:{}{name}", path("docker.tar")))).expect("read");
        // Docker's archives have plain layers.
        assert_eq!(pulled.layers.len(), image.layers.len());
        assert!(pulled.layers.iter().all(|layer| layer.digest == layer.diff_id));
        assert_eq!(pulled.config.env, ["A=b"]);
        assert_eq!(pulled.name.as_deref(), Some("example.org/team/app:v1"));
    }
    for (wrong, words) in [
        (format!("oci-layout:{}:v3", path("copy")), "has no image \"v3\"; there are the images v2"),
        (
            format!("docker-archive:{}:app", path("docker.tar")),
            "has no image \"app\"; there are the images example.org/team/app:v1",
        ),
        (format!("docker-archive:{}", path("oci.tar")), "it looks like oci-archive:"),
        (format!("oci-archive:{}", path("docker.tar")), "it looks like docker-archive:"),
    ] {
        let error = refusal(&source(&wrong));
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn what_umoci_writes_is_read() {
    if !is_there("umoci") {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| format!("{}/{name}", text(folder.path()));
    let image = format!("{}:base", path("layout"));
    fs::write(path("file"), "umoci").expect("written");
    run("umoci", &["init", "--layout", &path("layout")]);
    run("umoci", &["new", "--image", &image]);
    run("umoci", &["insert", "--rootless", "--image", &image, &path("file"), "/etc/file"]);
    let entrypoint = ["--config.entrypoint=/bin/sh", "--config.cmd=-c", "--config.cmd=true"];
    let more =
        ["--config.workingdir=/w", "--config.user=1:2", "--config.env=A=b", "--architecture=amd64", "--os=linux"];
    run("umoci", &[&["config", "--image", &image][..], &entrypoint, &more].concat());

    let pulled = pull_to(folder.path(), &source(&format!("oci-layout:{image}"))).expect("read");
    assert_eq!(pulled.layers.len(), 1);
    assert_eq!(
        (pulled.config.entrypoint, pulled.config.cmd),
        (vec!["/bin/sh".to_owned()], vec!["-c".to_owned(), "true".to_owned()])
    );
    assert_eq!((pulled.config.user.as_str(), pulled.config.workdir.as_str()), ("1:2", "/w"));
    let plain = flate2::read::MultiGzDecoder::new(pulled.layers[0].open().expect("opened"));
    motu_registry::Verified::new(plain, pulled.layers[0].diff_id).finish().expect("its diff_id");
}
