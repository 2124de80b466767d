//! Images made by hand, and an HTTP server that does as it is told.

// Each test program uses a part of it.
#![allow(dead_code)]

use flate2::Compression;
use flate2::write::GzEncoder;
use motu_registry::{LayerCache, OciImage, Options, RegistryError, Source};
use motu_store::{Digest, Watch};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image as its documents and blobs.
pub struct Image {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
}

pub fn descriptor(media_type: &str, bytes: &[u8], more: &str) -> String {
    let (digest, size) = (Digest::of(bytes), bytes.len());
    format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{digest}","size":{size}{more}}}"#)
}

/// A tar archive with these files.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        builder.append_data(&mut header, name, *bytes).expect("appended");
    }
    builder.into_inner().expect("an archive")
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("packed");
    encoder.finish().expect("packed")
}

/// Bytes that do not get smaller, the same each time.
pub fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..count).map(next).collect()
}

impl Image {
    /// An image with so many layers, each with one file of noise.
    pub fn new(layers: usize, bytes: usize) -> Image {
        let plain: Vec<Vec<u8>> = (0..layers).map(|n| tar(&[("file", &noise(n as u64 + 1, bytes))])).collect();
        Image::of(&plain, r#""architecture":"amd64","os":"linux""#)
    }

    /// An image of these archives, packed with gzip.
    pub fn of(plain: &[Vec<u8>], platform: &str) -> Image {
        let diff_ids: Vec<String> = plain.iter().map(|layer| format!(r#""sha256:{}""#, Digest::of(layer))).collect();
        let config = format!(
            r#"{{{platform},"config":{{"Entrypoint":["/file"],"Cmd":["x"],"Env":["A=b"],"User":"7:8","WorkingDir":"/w",
                "Labels":{{"l":"m"}},"ExposedPorts":{{"80/tcp":{{}}}}}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diff_ids.join(",")
        );
        let layers: Vec<Vec<u8>> = plain.iter().map(|layer| gzip(layer)).collect();
        Image::with(config.into_bytes(), layers)
    }

    pub fn with(config: Vec<u8>, layers: Vec<Vec<u8>>) -> Image {
        let descriptors: Vec<String> = layers.iter().map(|layer| descriptor(OCI_LAYER, layer, "")).collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
            descriptor(OCI_CONFIG, &config, ""),
            descriptors.join(",")
        );
        Image { manifest: manifest.into_bytes(), config, layers }
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// The blob with this digest.
    pub fn blob(&self, digest: &str) -> Option<&[u8]> {
        let all = self.layers.iter().chain([&self.config, &self.manifest]);
        all.map(Vec::as_slice).find(|blob| Digest::of(blob).to_string() == digest)
    }

    /// What a registry that behaves answers.
    pub fn answer(&self, request: &Request) -> Reply {
        let Some(rest) = request.path.strip_prefix("/v2/app/") else { return Reply::status(404) };
        let bytes = match rest.split_once('/') {
            Some(("manifests", "v1")) => Some(self.manifest.as_slice()),
            Some(("manifests" | "blobs", digest)) => self.blob(digest.trim_start_matches("sha256:")),
            _ => None,
        };
        let Some(bytes) = bytes else { return Reply::status(404) };
        let reply = match request.range() {
            Some(from) if from < bytes.len() => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Reply { status: 206, body: bytes[from..].to_vec(), ..Reply::ok(Vec::new()) }
                    .header("Content-Range", &range)
            }
            Some(_) => Reply::status(416),
            None => Reply::ok(bytes.to_vec()),
        };
        if rest.starts_with("manifests") { reply.header("Content-Type", OCI_MANIFEST) } else { reply }
    }

    /// Writes an OCI image layout in which the image has the name `app`.
    pub fn write_layout(&self, folder: &Path) {
        let blobs = folder.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).expect("made");
        for blob in self.layers.iter().chain([&self.config, &self.manifest]) {
            std::fs::write(blobs.join(Digest::of(blob).to_string()), blob).expect("written");
        }
        let name = r#","annotations":{"org.opencontainers.image.ref.name":"app"}"#;
        let index =
            format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor(OCI_MANIFEST, &self.manifest, name));
        std::fs::write(folder.join("index.json"), index).expect("written");
        std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
    }
}

pub struct Request {
    pub method: String,
    pub path: String,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn range(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }

    pub fn is_for(&self, bytes: &[u8]) -> bool {
        self.path.ends_with(&Digest::of(bytes).to_string())
    }
}

pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Sends so many bytes of the body, and then...
    pub cut: Option<usize>,
    /// ... waits so long before the connection is closed.
    pub hang: Duration,
}

impl Reply {
    pub fn ok(body: Vec<u8>) -> Reply {
        Reply { status: 200, headers: Vec::new(), body, cut: None, hang: Duration::ZERO }
    }

    pub fn status(status: u16) -> Reply {
        Reply { status, ..Reply::ok(Vec::new()) }
    }

    pub fn error(status: u16, message: &str) -> Reply {
        let body = format!(r#"{{"errors":[{{"code":"CODE","message":"{message}"}}]}}"#);
        Reply { status, ..Reply::ok(body.into_bytes()) }
    }

    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn cut(self, at: usize) -> Reply {
        Reply { cut: Some(at), ..self }
    }
}

/// Listens on this host until its process ends.
pub struct Server {
    pub address: SocketAddr,
    /// What was asked for: method, path, `Range`.
    pub seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&seen));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                thread::spawn(move || serve(stream, &*answer, &log));
            }
        });
        Server { address, seen }
    }

    /// Of an image, by a registry that behaves.
    pub fn of(image: Arc<Image>) -> Server {
        Server::start(move |request| image.answer(request))
    }

    pub fn count(&self, text: &str) -> usize {
        self.seen.lock().expect("the log").iter().filter(|line| line.contains(text)).count()
    }

    pub fn source(&self, rest: &str) -> Source {
        source(&format!("oci:{}/{rest}", self.address))
    }
}

/// One request and its answer: none keeps its connection. Whoever has gone meanwhile needs no answer.
fn serve(stream: TcpStream, answer: &dyn Fn(&Request) -> Reply, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(&stream);
    let Some(request) = read_request(&mut reader) else { return };
    let range = request.header("range").unwrap_or_default();
    log.lock().expect("the log").push(format!("{} {} {range}", request.method, request.path));
    let reply = answer(&request);
    let mut head =
        format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n", reply.status, reply.body.len());
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())];
    let _ = (&stream).write_all(format!("{head}\r\n").as_bytes()).and_then(|()| (&stream).write_all(body));
    thread::sleep(reply.hang);
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

pub fn source(text: &str) -> Source {
    Source::new(&text.parse().expect(text)).expect(text).expect(text)
}

/// Options of tests: nobody is known, and waits are short.
pub fn options() -> Options {
    Options { pause: Duration::from_millis(1), ..Options::default() }
}

pub fn pull_to(folder: &Path, source: &Source) -> Result<OciImage, RegistryError> {
    let cache = LayerCache::open(folder)?;
    motu_registry::pull(source, &cache, &options(), Watch::silent())
}

/// Pulls, and expects an error.
pub fn refusal(source: &Source) -> String {
    let folder = tempfile::TempDir::new().expect("a folder");
    let error = pull_to(folder.path(), source).expect_err("an error").to_string();
    assert_eq!(names(&folder.path().join("sha256")), Vec::<String>::new(), "nothing is kept");
    error
}

pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("listed").flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Whether the layers are the image's, packed and unpacked.
pub fn assert_same(pulled: &OciImage, image: &Image) {
    assert_eq!(pulled.layers.len(), image.layers.len());
    for (layer, bytes) in pulled.layers.iter().zip(&image.layers) {
        let mut read = Vec::new();
        layer.open().expect("opened").read_to_end(&mut read).expect("read");
        assert!(read == *bytes, "a layer's bytes");
        let plain = flate2::read::MultiGzDecoder::new(layer.open().expect("opened"));
        motu_registry::Verified::new(plain, layer.diff_id).finish().expect("its diff_id");
    }
}
