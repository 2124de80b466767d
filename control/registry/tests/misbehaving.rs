//! Registries that do what they should not, and lines that break.

mod support;

use motu_registry::{BlobSink as _, Credentials, LayerCache, RegistryError};
use motu_store::{Digest, Silent, Watch};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;
use support::*;
use tempfile::TempDir;

fn folder() -> TempDir {
    TempDir::new().expect("a folder")
}

#[test]
fn a_registry_that_behaves_gives_an_image_once() {
    let image = Arc::new(Image::new(4, 300_000));
    let server = Server::of(Arc::clone(&image));
    let folder = folder();
    let pulled = pull_to(folder.path(), &server.source("app:v1")).expect("pulled");
    assert_same(&pulled, &image);
    assert_eq!(pulled.digest, image.digest());
    assert_eq!(pulled.name, Some(format!("{}/app:v1", server.address)));
    assert_eq!((pulled.config.entrypoint, pulled.config.cmd), (vec!["/file".to_owned()], vec!["x".to_owned()]));
    assert_eq!((pulled.config.user.as_str(), pulled.config.workdir.as_str()), ("7:8", "/w"));
    let fetched = server.count("/blobs/");
    let again = pull_to(folder.path(), &server.source(&format!("app@sha256:{}", image.digest()))).expect("pulled");
    assert_same(&again, &image);
    assert_eq!(server.count("/blobs/"), fetched + 1, "the configuration alone");
}

#[test]
fn three_layers_come_at_once() {
    let image = Arc::new(Image::new(3, 1000));
    let (all, meeting) = (Arc::clone(&image), Barrier::new(3));
    // Each layer's answer waits for the other two requests.
    let server = Server::start(move |request| {
        if all.layers.iter().any(|layer| request.is_for(layer)) {
            meeting.wait();
        }
        all.answer(request)
    });
    assert_same(&pull_to(folder().path(), &server.source("app:v1")).expect("pulled"), &image);
}

#[test]
fn what_breaks_off_is_gone_on_with() {
    let image = Arc::new(Image::new(1, 500_000));
    let (all, tries) = (Arc::clone(&image), AtomicUsize::new(0));
    let server = Server::start(move |request| {
        let reply = all.answer(request);
        let layer = request.is_for(&all.layers[0]);
        if layer && tries.fetch_add(1, Ordering::Relaxed) < 8 { reply.cut(50_000) } else { reply }
    });
    assert_same(&pull_to(folder().path(), &server.source("app:v1")).expect("pulled"), &image);
    // More often than something is tried that does not move.
    assert_eq!(server.count("bytes="), 8);
    assert_eq!(server.count("bytes=400000-"), 1);
}

#[test]
fn a_registry_without_ranges_starts_anew() {
    let image = Arc::new(Image::new(1, 200_000));
    let (all, tries) = (Arc::clone(&image), AtomicUsize::new(0));
    let server = Server::start(move |request| {
        if !request.is_for(&all.layers[0]) {
            return all.answer(request);
        }
        let reply = Reply::ok(all.layers[0].clone());
        if tries.fetch_add(1, Ordering::Relaxed) == 0 { reply.cut(70_000) } else { reply }
    });
    assert_same(&pull_to(folder().path(), &server.source("app:v1")).expect("pulled"), &image);
}

#[test]
fn a_part_waits_for_the_next_try() {
    let image = Arc::new(Image::new(1, 200_000));
    let (all, broken) = (Arc::clone(&image), Arc::new(AtomicBool::new(true)));
    let line = Arc::clone(&broken);
    let server = Server::start(move |request| {
        let reply = all.answer(request);
        if !request.is_for(&all.layers[0]) || !line.load(Ordering::Relaxed) {
            return reply;
        }
        // Never a byte beyond the first 90000.
        let left = 90_000 - request.range().unwrap_or(0);
        reply.cut(left)
    });
    let folder = folder();
    let error = pull_to(folder.path(), &server.source("app:v1")).expect_err("broken").to_string();
    assert!(error.contains("broke off 5 times, last at 90000 of"), "{error}");
    let digest = Digest::of(&image.layers[0]).to_string();
    let part = folder.path().join("partial").join(&digest);
    assert_eq!(fs::metadata(&part).expect("the part").len(), 90_000);
    assert_eq!(names(&folder.path().join("sha256")), Vec::<String>::new());

    broken.store(false, Ordering::Relaxed);
    let before = server.count(&format!("{digest} bytes=90000-"));
    assert_same(&pull_to(folder.path(), &server.source("app:v1")).expect("pulled"), &image);
    assert_eq!(server.count(&format!("{digest} bytes=90000-")), before + 1);
    assert!(!part.exists());
}

#[test]
fn a_part_that_was_damaged_since_is_fetched_anew() {
    let image = Arc::new(Image::new(1, 200_000));
    let server = Server::of(Arc::clone(&image));
    let layer = &image.layers[0];
    let longer = [layer, &[0; 5][..]].concat();
    for part in [vec![0; 1000], vec![0; layer.len()], vec![0; layer.len() + 5], longer] {
        let folder = folder();
        LayerCache::open(folder.path()).expect("a cache");
        fs::write(folder.path().join("partial").join(Digest::of(&image.layers[0]).to_string()), part).expect("written");
        assert_same(&pull_to(folder.path(), &server.source("app:v1")).expect("pulled"), &image);
    }
}

#[test]
fn what_was_tampered_with_is_refused() {
    let image = Arc::new(Image::new(2, 10_000));
    for which in ["layer", "config"] {
        let all = Arc::clone(&image);
        let server = Server::start(move |request| {
            let mut reply = all.answer(request);
            let wanted = if which == "layer" { &all.layers[1] } else { &all.config };
            if request.is_for(wanted) {
                *reply.body.last_mut().expect("a byte") ^= 1;
            }
            reply
        });
        let folder = folder();
        let error = pull_to(folder.path(), &server.source("app:v1")).expect_err("tampered").to_string();
        assert!(error.contains("was tampered with or damaged on the way"), "{error}");
        let tampered = Digest::of(&image.layers[1]).to_string();
        for kept in ["partial", "sha256"] {
            assert!(!names(&folder.path().join(kept)).contains(&tampered), "nothing of it is kept");
        }
    }
    let all = Arc::clone(&image);
    let server = Server::start(move |_| all.answer(&request_for("v1")));
    let other = Digest::of(b"another");
    let error = refusal(&server.source(&format!("app@sha256:{other}")));
    assert!(error.contains(&format!("the manifest sha256:{other} was tampered with")), "{error}");
}

fn request_for(tag: &str) -> Request {
    Request { method: "GET".into(), path: format!("/v2/app/manifests/{tag}"), headers: Vec::new(), body: String::new() }
}

#[test]
fn busy_registries_are_waited_for() {
    let image = Arc::new(Image::new(1, 1000));
    for reply in [
        || Reply::error(429, "slow down").header("Retry-After", "0"),
        || Reply::status(503),
        || Reply::ok(Vec::new()).cut(0),
    ] {
        let (all, tries) = (Arc::clone(&image), AtomicUsize::new(0));
        let server = Server::start(move |request| {
            let answer = all.answer(request);
            let busy = tries.fetch_add(1, Ordering::Relaxed) % 3 != 2;
            // An answer that promises bytes and has none.
            let cut = Reply { body: answer.body.clone(), ..reply() };
            match (busy, reply().status) {
                (true, 200) => cut,
                (true, _) => reply(),
                (false, _) => answer,
            }
        });
        assert_same(&pull_to(folder().path(), &server.source("app:v1")).expect("pulled"), &image);
    }
}

#[test]
fn refusals_say_what_can_be_done() {
    let always = |reply: fn() -> Reply| Server::start(move |_| reply());
    for (server, words) in [
        (
            always(|| Reply::error(429, "toomanyrequests")),
            "takes no more requests for now (429) (it said: toomanyrequests)",
        ),
        (always(|| Reply::status(429).header("Retry-After", "3600")), "(429, for 3600 s); try again later"),
        (
            always(|| Reply::error(500, "out of\\u001b[31m order")),
            "answered 500 to manifests/v1 of app (it said: out of [31m order)",
        ),
        (always(|| Reply::status(418)), "answered 418 to manifests/v1 of app"),
        (
            always(|| Reply {
                status: 400,
                ..Reply::ok(b"Client sent an HTTP request to an HTTPS server.\n".to_vec())
            }),
            "answered 400 to manifests/v1 of app (it said: Client sent an HTTP request to an HTTPS server.)",
        ),
        (always(|| Reply { status: 400, ..Reply::ok(b"<html>".to_vec()) }), "answered 400 to manifests/v1 of app"),
        (
            always(|| Reply::error(401, "who?")),
            "does not give out app (it said: who?); it may not be there, or `docker login",
        ),
        (always(|| Reply::status(403)), "does not give out app; it may not be there"),
        (always(|| Reply::status(404)), "has no image app"),
        (always(|| Reply::status(401).header("WWW-Authenticate", "Basic realm=\"x\"")), "may be needed"),
        (
            always(|| Reply::status(401).header("WWW-Authenticate", "Bearer realm=\"ftp://x\"")),
            "it sends us for a token to \"ftp://x\", which is not https",
        ),
        (always(|| Reply::ok(b"<html>".to_vec())), "/app:v1 is no manifest or index"),
        (always(|| Reply::ok(vec![b' '; (4 << 20) + 1])), "has more than the 4194304 bytes that are allowed"),
        (always(|| Reply::status(302).header("Location", "/v2/app/manifests/v1")), "too many redirects"),
    ] {
        let error = refusal(&server.source("app:v1"));
        assert!(error.contains(words), "{error}");
        assert!(!error.contains(char::is_control), "{error:?}");
    }
}

#[test]
fn a_tag_that_is_not_there_is_answered_with_those_that_are() {
    let server = Server::start(|request| match request.path.as_str() {
        "/v2/app/tags/list?n=1000" => Reply::ok(br#"{"name":"app","tags":["latest","3.19","3.20","edge"]}"#.to_vec()),
        _ => Reply::error(404, "manifest unknown"),
    });
    let error = refusal(&server.source("app:3.2"));
    let expected = format!("{}/app has no tag \"3.2\"; there are the tags 3.20, 3.19, edge, latest", server.address);
    assert_eq!(error, expected);
    let error = refusal(&server.source(&format!("app@sha256:{}", Digest::of(b"x"))));
    assert!(error.contains("/app has no manifest sha256:2d711642"), "{error}");
}

#[test]
fn images_for_others_are_refused() {
    let arm = Image::of(&[tar(&[])], r#""architecture":"arm64","os":"linux""#);
    let entry = |architecture: &str| {
        let platform = format!(r#","platform":{{"os":"linux","architecture":"{architecture}"}}"#);
        descriptor(OCI_MANIFEST, &arm.manifest, &platform)
    };
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#, entry("arm64"), entry("s390x"));
    let server = Server::start(move |_| Reply::ok(index.clone().into_bytes()).header("Content-Type", OCI_INDEX));
    let error = refusal(&server.source("app:v1"));
    assert!(error.contains("/app:v1 is not for linux/amd64: it is there for linux/arm64, linux/s390x"), "{error}");
    let server = Server::of(Arc::new(arm));
    let error = refusal(&server.source("app:v1"));
    assert!(error.contains("is not for linux/amd64: it is there for linux/arm64"), "{error}");
}

#[test]
fn an_index_leads_to_the_image_for_us() {
    let image = Arc::new(Image::new(1, 1000));
    let platform = r#","platform":{"os":"linux","architecture":"amd64"}"#;
    let inner =
        format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor(OCI_MANIFEST, &image.manifest, platform));
    let inner_digest = Digest::of(inner.as_bytes()).to_string();
    let outer = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor(OCI_INDEX, inner.as_bytes(), ""));
    let all = Arc::clone(&image);
    let server = Server::start(move |request| {
        let index = |text: &str| {
            Reply::ok(text.as_bytes().to_vec()).header("Content-Type", &format!("{OCI_INDEX}; charset=utf-8"))
        };
        match request.path.rsplit('/').next() {
            Some("v1") => index(&outer),
            Some(last) if last.ends_with(&inner_digest) => index(&inner),
            _ => all.answer(request),
        }
    });
    let pulled = pull_to(folder().path(), &server.source("app:v1")).expect("pulled");
    assert_eq!(pulled.digest, image.digest());
}

#[test]
fn documents_that_do_not_agree_are_refused() {
    let whole = Image::new(2, 1000);
    let fewer = Image::with(whole.config.clone(), whole.layers[..1].to_vec());
    let server = Server::of(Arc::new(fewer));
    let error = refusal(&server.source("app:v1"));
    assert!(error.contains("has 1 layers, and its configuration tells of 2"), "{error}");
    let server = Server::of(Arc::new(Image::with(b"{}".to_vec(), Vec::new())));
    let error = refusal(&server.source("app:v1"));
    assert!(error.contains("is no configuration of an image"), "{error}");
}

#[test]
fn a_token_is_fetched_and_goes_nowhere_else() {
    let image = Arc::new(Image::new(2, 1000));
    let all = Arc::clone(&image);
    // Where blobs really are: it must not learn the token.
    let storage = Server::start(move |request| match request.header("authorization") {
        None => all.answer(&Request { path: format!("/v2/app/blobs{}", request.path), ..copy(request) }),
        Some(_) => Reply::status(400),
    });
    let tokens = Server::start(|request| {
        // "me:secret"
        let known = request.header("authorization") == Some("Basic bWU6c2VjcmV0");
        let asked = request.path == "/token?service=reg&scope=repository%3Aapp%3Apull";
        if known && asked { Reply::ok(br#"{"token":"T1"}"#.to_vec()) } else { Reply::error(401, "who are you?") }
    });
    let (all, realm, place) = (Arc::clone(&image), tokens.address, storage.address);
    let registry = Server::start(move |request| {
        if request.header("authorization") != Some("Bearer T1") {
            let challenge = format!(r#"Bearer realm="http://{realm}/token",service="reg",scope="repository:app:pull""#);
            return Reply::error(401, "authentication required").header("WWW-Authenticate", &challenge);
        }
        match request.path.strip_prefix("/v2/app/blobs") {
            Some(blob) => Reply::status(307).header("Location", &format!("http://{place}{blob}")),
            None => all.answer(request),
        }
    });
    let folder = folder();
    let pull = |auths: &str| {
        fs::write(folder.path().join("config.json"), auths).expect("written");
        let path = folder.path().as_os_str().to_owned();
        let credentials = Credentials::docker(|name| (name == "DOCKER_CONFIG").then(|| path.clone()));
        let cache = LayerCache::open(folder.path().join("layers")).expect("a cache");
        let options = motu_registry::Options { credentials, ..options() };
        motu_registry::pull(&registry.source("app:v1"), &cache, &options, Watch::silent())
    };
    let error = pull("{}").expect_err("nobody is known").to_string();
    assert!(error.contains("(it said: who are you?)") && error.contains("`docker login 127.0.0.1:"), "{error}");
    let host = registry.address;
    let error =
        pull(&format!(r#"{{"auths":{{"{host}":{{"auth":"bWU6"}}}}}}"#)).expect_err("a wrong password").to_string();
    assert!(error.contains("the account of `docker login") && !error.contains("bWU6"), "{error}");
    let pulled = pull(&format!(r#"{{"auths":{{"{host}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#)).expect("pulled");
    assert_same(&pulled, &image);
    assert_eq!(storage.count("GET"), 3, "two layers and the configuration");
}

fn copy(request: &Request) -> Request {
    let Request { method, path, headers, body } = request;
    Request { method: method.clone(), path: path.clone(), headers: headers.clone(), body: body.clone() }
}

#[test]
fn an_identity_token_is_exchanged() {
    let image = Arc::new(Image::new(1, 1000));
    let all = Arc::clone(&image);
    let server = Server::start(move |request| {
        if request.path == "/token" {
            let known = request.method == "POST"
                && request.body.contains("grant_type=refresh_token&client_id=motu&refresh_token=ID");
            return if known { Reply::ok(br#"{"access_token":"T2"}"#.to_vec()) } else { Reply::status(401) };
        }
        if request.header("authorization") == Some("Bearer T2") {
            return all.answer(request);
        }
        let host = request.header("host").unwrap_or_default();
        Reply::status(401).header("WWW-Authenticate", &format!(r#"Bearer realm="http://{host}/token",service="s""#))
    });
    let folder = folder();
    let config = format!(r#"{{"auths":{{"http://{}":{{"identitytoken":"ID"}}}}}}"#, server.address);
    fs::write(folder.path().join("config.json"), config).expect("written");
    let path = folder.path().as_os_str().to_owned();
    let credentials = Credentials::docker(|name| (name == "DOCKER_CONFIG").then(|| path.clone()));
    let cache = LayerCache::open(folder.path().join("layers")).expect("a cache");
    let options = motu_registry::Options { credentials, ..options() };
    let pulled = motu_registry::pull(&server.source("app:v1"), &cache, &options, Watch::silent()).expect("pulled");
    assert_same(&pulled, &image);
}

#[test]
fn a_line_that_falls_silent_is_left() {
    let image = Arc::new(Image::new(1, 100_000));
    let (all, tries) = (Arc::clone(&image), AtomicUsize::new(0));
    let server = Server::start(move |request| {
        let reply = all.answer(request);
        let silent = request.is_for(&all.layers[0]) && tries.fetch_add(1, Ordering::Relaxed) == 0;
        if silent { Reply { hang: Duration::from_secs(600), ..reply.cut(40_000) } } else { reply }
    });
    let folder = folder();
    let cache = LayerCache::open(folder.path()).expect("a cache");
    // Long enough for a busy host to answer all else.
    let options = motu_registry::Options { idle: Duration::from_secs(3), ..options() };
    let pulled = motu_registry::pull(&server.source("app:v1"), &cache, &options, Watch::silent()).expect("pulled");
    assert_same(&pulled, &image);
    assert!(server.count("bytes=40000-") >= 1);
}

#[test]
fn a_person_can_stop_it() {
    let image = Arc::new(Image::new(2, 100_000));
    let cancel = Arc::new(AtomicBool::new(false));
    let (all, stop) = (Arc::clone(&image), Arc::clone(&cancel));
    let server = Server::start(move |request| {
        let reply = all.answer(request);
        if !all.layers.iter().any(|layer| request.is_for(layer)) {
            return reply;
        }
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            stop.store(true, Ordering::Relaxed);
        });
        Reply { hang: Duration::from_secs(600), ..reply.cut(10_000) }
    });
    let folder = folder();
    let cache = LayerCache::open(folder.path()).expect("a cache");
    let watch = Watch { progress: &Silent, cancel: &cancel };
    // The registry says nothing for ten minutes; it is waited for as long as a minute.
    let error = motu_registry::pull(&server.source("app:v1"), &cache, &options(), watch).expect_err("stopped");
    assert!(matches!(error, RegistryError::Cancelled), "{error}");
}

#[test]
fn one_failure_ends_the_other_downloads() {
    let image = Arc::new(Image::new(3, 100_000));
    let all = Arc::clone(&image);
    let meeting = Barrier::new(3);
    let server = Server::start(move |request| {
        let reply = all.answer(request);
        let Some(at) = all.layers.iter().position(|layer| request.is_for(layer)) else { return reply };
        meeting.wait();
        if at == 0 { Reply::status(403) } else { Reply { hang: Duration::from_secs(600), ..reply.cut(10_000) } }
    });
    let error = refusal(&server.source("app:v1"));
    assert!(error.contains("does not give out app"), "{error}");
}

#[test]
fn a_failure_does_not_wait_for_another_process() {
    let image = Arc::new(Image::new(2, 1000));
    let all = Arc::clone(&image);
    let server = Server::start(
        move |request| {
            if request.is_for(&all.layers[0]) { Reply::status(403) } else { all.answer(request) }
        },
    );
    let folder = folder();
    let other = LayerCache::open(folder.path()).expect("a cache");
    let _never_done = other.begin(Digest::of(&image.layers[1])).expect("begun").expect("nobody else");
    let error = pull_to(folder.path(), &server.source("app:v1")).expect_err("refused").to_string();
    assert!(error.contains("does not give out app"), "{error}");
}

#[test]
fn a_registry_that_has_no_range_at_all_is_left() {
    let image = Arc::new(Image::new(1, 1000));
    let all = Arc::clone(&image);
    let server = Server::start(
        move |request| {
            if request.is_for(&all.layers[0]) { Reply::status(416) } else { all.answer(request) }
        },
    );
    let error = refusal(&server.source("app:v1"));
    assert!(error.contains("answered 416 to blobs/sha256:"), "{error}");
}

#[test]
fn two_processes_share_one_download() {
    let image = Arc::new(Image::new(1, 100_000));
    let server = Server::of(Arc::clone(&image));
    let folder = folder();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_same(&pull_to(folder.path(), &server.source("app:v1")).expect("pulled"), &image));
        }
    });
    assert_eq!(server.count(&Digest::of(&image.layers[0]).to_string()), 1);
}

#[test]
fn nobody_listening_and_no_tls_are_told_apart() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address")
    };
    let error = refusal(&source(&format!("oci:{closed}/app")));
    assert!(error.contains(&format!("cannot reach the registry {closed}: ")) && error.contains("refused"), "{error}");
    let error = refusal(&source("oci:registry.invalid/app"));
    assert!(error.contains("cannot reach the registry registry.invalid: "), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let clear = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = stream.read(&mut [0; 2048]);
        }
    });
    let error = refusal(&source(&format!("oci:https://{clear}/app")));
    assert!(error.contains("by TLS") && error.contains(&format!("oci:http://{clear}/")), "{error}");
}
