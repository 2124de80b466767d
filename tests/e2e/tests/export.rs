//! Images leave as others read them: skopeo, umoci, and motu itself.

use motu_e2e::registry::{Registry, are_there, make_layout, tool};
use motu_e2e::{Home, root_tree};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a program of the host's prints.
#[track_caller]
fn said(folder: &Path, line: &[&str]) -> String {
    let output = Command::new(line[0]).args(&line[1..]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The digests of an image's layers, as skopeo tells them.
#[track_caller]
fn layers(folder: &Path, image: &str) -> Vec<String> {
    let told: serde_json::Value = serde_json::from_str(&said(folder, &["skopeo", "inspect", image])).unwrap();
    told["Layers"].as_array().unwrap().iter().map(|layer| layer.as_str().unwrap().to_owned()).collect()
}

/// Everything that a tree is, but for folders' sizes.
fn listing(tree: &Path) -> String {
    let mut lines: Vec<String> = said(tree, &["find", ".", "-printf", "%P %y %m %U %G %T@ %n %l\n"])
        .lines()
        .filter(|line| !line.starts_with("lost+found "))
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines.extend(
        said(tree, &["sh", "-c", "find . -type f | sort | xargs -d '\\n' sha256sum"]).lines().map(str::to_owned),
    );
    lines.join("\n")
}

/// Nothing of an export that was not finished.
#[track_caller]
fn is_tidy(home: &Home) {
    let names = fs::read_dir(home.place()).unwrap().flatten().map(|entry| entry.file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with(".motu")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_tree_becomes_a_layer_that_others_read() {
    if !are_there(&["skopeo", "umoci"]) {
        return;
    }
    let home = Home::new();
    let tree = home.at("tree");
    root_tree(&tree);
    fs::create_dir(tree.join("srv/sticky")).unwrap();
    for (path, mode) in [("srv/sticky", 0o1777), ("etc/motd", 0o604)] {
        fs::set_permissions(tree.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(tree.join("srv").join("n".repeat(150)), "a long name").unwrap();
    // As root, owners are part of the tree; as anybody else, all is root's.
    let is_root = said(home.place(), &["id", "-u"]) == "0\n";
    if is_root {
        said(&tree, &["chown", "-h", "1000:1001", "home/app", "etc/absolute"]);
    }
    said(&tree, &["find", ".", "-exec", "touch", "-h", "-d", "@1700000000", "{}", "+"]);
    home.succeeds(["image", "pull", "dir:tree", "-t", "app:1"]);
    home.succeeds(["image", "export", "app:1", "--format", "oci", "-o", "layout"]);
    let digests = layers(home.place(), "oci:layout:1");
    assert_eq!(digests.len(), 1);
    let unpack = ["umoci", "unpack", "--image", "layout:1", "unpacked"];
    said(home.place(), &if is_root { unpack.to_vec() } else { [&unpack[..2], &["--rootless"], &unpack[2..]].concat() });
    assert_eq!(listing(&home.at("unpacked/rootfs")), listing(&tree));

    // The same image is the same bytes, in each form, and comes back as the tree that it was.
    home.succeeds(["image", "export", "app:1", "-o", "app.tar"]);
    home.succeeds(["image", "export", "app:1", "--format", "docker-archive", "-o", "docker"]);
    assert_eq!(layers(home.place(), "oci-archive:app.tar"), digests);
    tool(home.place(), &["skopeo", "copy", "--insecure-policy", "docker-archive:docker:app:1", "oci:from-docker:x"]);
    home.succeeds(["image", "export", "app:1", "-o", "again.tar"]);
    assert!(fs::read(home.at("app.tar")).unwrap() == fs::read(home.at("again.tar")).unwrap());
    for (source, name) in
        [("oci-layout:layout", "layout:1"), ("oci-archive:app.tar", "app:1"), ("docker-archive:docker", "app:1")]
    {
        let pulled = home.succeeds(["image", "pull", source]);
        assert!(pulled.starts_with(&format!("{name} ")), "{pulled}");
        assert_eq!(home.succeeds(["run", name, "--", "cat", "/etc/absolute"]), "hello from the tree\n");
        home.succeeds(["image", "export", name, "--format", "oci", "-o", "back"]);
        assert_eq!(layers(home.place(), "oci:back:1"), digests, "{source}");
        fs::remove_dir_all(home.at("back")).unwrap();
    }
    is_tidy(&home);
}

#[test]
fn what_came_from_a_registry_leaves_as_it_came() {
    if !are_there(&["docker-registry", "skopeo", "umoci"]) {
        return;
    }
    let home = Home::new();
    make_layout(home.place());
    let registry = Registry::start(None);
    let to = |tag: &str| format!("docker://localhost:{}/team/app:{tag}", registry.port);
    let push = ["skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false", "--format"];
    tool(home.place(), &[&push[..], &["oci", "oci:layout:app", &to("oci")]].concat());
    tool(home.place(), &[&push[..], &["v2s2", "oci:layout:app", &to("docker")]].concat());
    let raw = |image: &str| said(home.place(), &["skopeo", "inspect", "--tls-verify=false", "--raw", image]);
    let raw_layout = |image: &str| said(home.place(), &["skopeo", "inspect", "--raw", image]);
    for tag in ["oci", "docker"] {
        let name = format!("localhost:{}/team/app:{tag}", registry.port);
        home.succeeds(["image", "pull", &format!("oci:{name}")]);
        home.succeeds(["image", "export", &name, "--format", "oci", "-o", tag]);
        let image = format!("oci:{tag}:{tag}");
        assert_eq!(layers(home.place(), &image), layers(home.place(), "oci:layout:app"), "{tag}");
        assert_eq!(raw_layout(&image) == raw(&to(tag)), tag == "oci", "Docker's words become the OCI's");
        let config = |image: &str| said(home.place(), &["skopeo", "inspect", "--config", "--raw", image]);
        assert_eq!(config(&image), config("oci:layout:app"));
        said(home.place(), &["umoci", "ls", "--layout", tag]);
    }
    // Without its layers it is still all there, as one.
    let name = format!("localhost:{}/team/app:oci", registry.port);
    home.succeeds(["system", "prune"]);
    let ended = home.run(["image", "export", &name, "-o", "one.tar"]);
    assert!(ended.status == 0 && ended.stderr.contains("are not kept"), "{}", ended.stderr);
    assert_eq!(layers(home.place(), "oci-archive:one.tar").len(), 1);
    home.succeeds(["image", "import", "one.tar", "-t", "one"]);
    assert_eq!(home.succeeds(["run", "one"]), "good day, hello world\n1000\n/srv\n");
}

#[test]
fn what_cannot_be_exported_is_one_error() {
    let home = Home::new();
    root_tree(&home.at("tree"));
    home.succeeds(["image", "pull", "dir:tree"]);
    fs::write(home.at("mine"), "mine").unwrap();
    fs::write(home.at("disk.raw"), [0; 1 << 20]).unwrap();
    home.succeeds(["image", "pull", "disk:disk.raw"]);
    home.succeeds(["run", "--", "true"]);
    let oci = |image: &str, words: &[&str]| {
        home.refused(&["image", "export", image, "--format", "oci", "-o", "out"], words);
        assert!(!home.at("out").exists());
    };
    oci("none", &["no image \"none\""]);
    oci("tiny", &["tiny has no disk"]);
    oci("disk", &["no layer can be made of the image disk", "no ext4 file system", "--format qcow2"]);
    home.refused(&["image", "export", "tree", "--format", "oci", "-o", "mine"], &["mine is there already"]);
    home.refused(&["image", "export", "tree", "--format", "oci", "-o", "none/out"], &["cannot write in none"]);
    home.refused(
        &["image", "export", "tree", "-o", "out"],
        &["does not say what to write", "oci-archive or docker-archive"],
    );
    let ended = home.run(["image", "export", "tree", "--format", "oci-tar", "-o", "out"]);
    assert!(ended.status == 125 && ended.stderr.contains("there are qcow2, raw, oci,"), "{}", ended.stderr);
    assert_eq!(fs::read(home.at("mine")).unwrap(), b"mine");
    is_tidy(&home);
}

#[test]
fn an_export_that_was_ended_leaves_nothing() {
    let home = Home::new();
    root_tree(&home.at("tree"));
    // Enough to be in the middle of it.
    let noise: Vec<u8> = (0..8u32 << 20).flat_map(|number| number.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    fs::write(home.at("tree/noise"), noise).unwrap();
    home.succeeds(["image", "pull", "dir:tree"]);
    for signal in ["INT", "KILL"] {
        let line = ["image", "export", "tree", "-o", "out.tar"];
        let mut child = home.command(line).stderr(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        let has_begun =
            || fs::read_dir(home.place()).unwrap().flatten().any(|entry| entry.path().join("layer").exists());
        while !has_begun() && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(2));
        }
        said(home.place(), &["kill", "-s", signal, &child.id().to_string()]);
        let status = child.wait().unwrap();
        assert!(!status.success() && !home.at("out.tar").exists(), "SIG{signal}: {status}");
        if signal == "INT" {
            assert_eq!(status.code(), Some(130));
            is_tidy(&home);
        }
    }
    home.succeeds(["image", "export", "tree", "--format", "qcow2", "-o", "out"]);
    is_tidy(&home);
}
