//! OCI images: from a registry on this host, and from what other tools write.

use motu_e2e::registry::{Registry, are_there, make_layout, tool};
use motu_e2e::{Ended, Home};
use std::fs;
use std::path::Path;

#[test]
fn an_image_of_a_registry_runs_as_it_says() {
    if !are_there(&["docker-registry", "skopeo", "umoci"]) {
        return;
    }
    let home = Home::new();
    make_layout(home.place());
    let registry = Registry::start(None);
    let image = format!("localhost:{}/team/app", registry.port);
    let source = format!("oci:{image}:v1");
    // Unpacked on its way, to be packed with zstd.
    tool(home.place(), &["skopeo", "copy", "--dest-decompress", "oci:layout:app", "dir:plain"]);
    let push = ["skopeo", "copy", "--dest-tls-verify=false", "--format", "oci", "--dest-compress-format"];
    tool(home.place(), &[&push[..], &["zstd", "dir:plain", &format!("docker://{image}:v1")]].concat());
    tool(home.place(), &[&push[..], &["gzip", "oci:layout:app", &format!("docker://{image}:gz")]].concat());

    let said = home.succeeds(["image", "pull", &source]);
    assert!(said.starts_with(&format!("{image}:v1 sha256:")), "{said}");
    assert_eq!(home.succeeds(["image", "pull", &source]), said, "what is there is not made again");
    let name = format!("{image}:v1");
    assert_eq!(home.succeeds(["run", &name]), "good day, hello world\n1000\n/srv\n");
    let over = ["run", "-e", "GREETING=hi", "-u", "0", "-w", "/", &name, "--", "you"];
    assert_eq!(home.succeeds(over), "hi, you\n0\n/\n");
    let layers = "cat /etc/second; test -e /etc/motd || echo gone; cat /etc/hard";
    let shown = home.succeeds(["run", "--entrypoint", "", &source, "--", "sh", "-c", layers]);
    assert_eq!(shown, "of the second layer\ngone\nhello from the tree\n");

    home.refused(&["image", "pull", &format!("oci:{image}:v2")], &["has no tag \"v2\"; there are the tags v1, gz"]);
    home.refused(&["run", &format!("oci:localhost:{}/none", registry.port)], &["has no image none"]);
    drop(registry);
    home.refused(&["image", "pull", &source], &["cannot reach the registry localhost:", "refused"]);
    assert_eq!(home.succeeds(["image", "rm", &name]).lines().next(), Some(format!("Untagged: {name}").as_str()));
    assert_eq!(home.left("layers/partial"), Vec::<String>::new());
}

#[test]
fn layouts_and_archives_are_images() {
    if !are_there(&["skopeo", "umoci"]) {
        return;
    }
    let home = Home::new();
    make_layout(home.place());
    tool(home.place(), &["skopeo", "copy", "oci:layout:app", "oci-archive:oci.tar:app"]);
    tool(home.place(), &["skopeo", "copy", "oci:layout:app", "docker-archive:docker.tar:example.org/saved:v1"]);
    for (path, name) in [("layout", "layout:app"), ("oci.tar", "oci:app"), ("docker.tar", "example.org/saved:v1")] {
        let ended = home.run(["image", "import", path]);
        assert_eq!(ended.status, 0, "{path}: {}", ended.stderr);
        assert!(ended.stdout.starts_with(&format!("{name} sha256:")), "{}", ended.stdout);
    }
    let ended = home.run(["run", "example.org/saved:v1"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (0, "good day, hello world\n1000\n/srv\n"), "{}", ended.stderr);

    // The last bytes of the largest blob are its layer's.
    let blobs = fs::read_dir(home.place().join("layout/blobs/sha256")).unwrap().flatten();
    let largest = blobs.max_by_key(|blob| blob.metadata().unwrap().len()).unwrap().path();
    let mut bytes = fs::read(&largest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&largest, bytes).unwrap();
    let layout = format!("oci-layout:{}", home.place().join("layout").display());
    home.refused(&["image", "pull", &layout, "-t", "damaged"], &["was tampered with or damaged on the way"]);
    home.refused(&["image", "pull", &format!("{layout}:other")], &["has no image \"other\"; there are the images app"]);
    let archive = format!("oci-archive:{}", home.place().join("docker.tar").display());
    home.refused(&["image", "pull", &archive], &["it looks like docker-archive:"]);
    for name in ["layout:app", "oci:app", "example.org/saved:v1"] {
        home.succeeds(["image", "rm", name]);
    }
}

#[test]
fn tls_is_for_those_who_are_vouched_for() {
    if !are_there(&["docker-registry", "skopeo", "umoci", "openssl"]) {
        return;
    }
    let home = Home::new();
    make_layout(home.place());
    certify(home.place());
    let certificate = home.place().join("server.pem");
    let registry = Registry::start(Some((&certificate, &home.place().join("server.key"))));
    let address = format!("localhost:{}", registry.port);
    let to = format!("docker://{address}/app");
    tool(home.place(), &["skopeo", "copy", "--dest-tls-verify=false", "oci:layout:app", &to]);
    let source = format!("oci:https://{address}/app");
    home.refused(&["image", "pull", &source], &["by TLS", "UnknownIssuer", "SSL_CERT_FILE names"]);
    home.refused(&["image", "pull", &format!("oci:{address}/app")], &["HTTP request to an HTTPS server"]);
    let pull = home.command(["image", "pull", &source]).env("SSL_CERT_FILE", home.place().join("ca.pem")).output();
    let ended: Ended = pull.unwrap().into();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    home.succeeds(["image", "rm", &format!("{address}/app")]);
}

/// An authority, and a certificate for `localhost` that it vouches for.
fn certify(folder: &Path) {
    let openssl = |line: &str| tool(folder, &[&["openssl"], &line.split(' ').collect::<Vec<_>>()[..]].concat());
    fs::write(folder.join("extensions"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority");
    openssl("req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost");
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out server.pem",
    );
}
