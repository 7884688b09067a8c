//! The downloads, against a hub of our own.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub on this machine: weights are stored elsewhere, everything else is answered directly.
struct Hub {
    endpoint: String,
    /// Method and path of every request, and whether it carried a token.
    requests: Arc<Mutex<Vec<(String, bool)>>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Honest,
    /// Breaks off in the middle of a large file, once.
    Interrupts,
    /// Stores other bytes than it announced.
    Lies,
    /// Answers small files after a redirect within the hub, as the public one does.
    Redirects,
    Refuses,
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl Hub {
    fn start(files: &[(&str, Vec<u8>)], mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("is bound"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let files: BTreeMap<String, Vec<u8>> =
            files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
        let (log, address) = (requests.clone(), endpoint.clone());
        thread::spawn(move || {
            let mut interrupted = false;
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = answer(stream, &files, mood, &mut interrupted, &log, &address);
            }
        });
        Self { endpoint, requests }
    }

    fn options(&self, cache: &Path) -> HubOptions {
        let mut options = HubOptions::new(cache);
        options.endpoint = self.endpoint.clone();
        options.token = Some("secret".to_owned());
        options
    }

    fn requests(&self) -> Vec<(String, bool)> {
        self.requests.lock().expect("no test panicked here").clone()
    }
}

fn answer(
    stream: TcpStream,
    files: &BTreeMap<String, Vec<u8>>,
    mood: Mood,
    interrupted: &mut bool,
    log: &Mutex<Vec<(String, bool)>>,
    endpoint: &str,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_ascii_lowercase());
    }
    let Some(path) = lines.first().and_then(|line| line.split(' ').nth(1)) else { return Ok(()) };
    let header = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name));
    let token = header("authorization: ") == Some("bearer secret");
    log.lock().expect("no test panicked here").push((path.to_owned(), token));

    let mut stream = stream;
    let mut send = |status: &str, headers: &[String], body: &[u8]| {
        let length = if headers.iter().any(|h| h.starts_with("Content-Length")) {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let headers: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
        write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n{length}{headers}\r\n")?;
        stream.write_all(body)
    };
    if mood == Mood::Refuses {
        return send("401 Unauthorized", &[], b"");
    }
    if path == "/api/models/org/name/revision/main" {
        let siblings: Vec<_> = files.keys().map(|name| json!({"rfilename": name})).collect();
        let body = json!({"sha": COMMIT, "siblings": siblings}).to_string();
        return send("200 OK", &[], body.as_bytes());
    }
    if let Some(name) = path.strip_prefix(&format!("/org/name/resolve/{COMMIT}/")) {
        let Some(bytes) = files.get(name) else { return send("404 Not Found", &[], b"") };
        if name.ends_with(".safetensors") {
            let headers = [
                format!("X-Linked-ETag: \"{}\"", hash(bytes)),
                format!("X-Linked-Size: {}", bytes.len()),
                format!("Location: {endpoint}/storage/{name}"),
            ];
            return send("302 Found", &headers, b"");
        }
        if mood == Mood::Redirects {
            return send("307 Temporary Redirect", &[format!("Location: /cache/{name}")], b"moved");
        }
        return send("200 OK", &[format!("ETag: \"{}\"", &hash(bytes)[..40])], bytes);
    }
    if let Some(bytes) = path.strip_prefix("/cache/").and_then(|name| files.get(name)) {
        return send("200 OK", &[format!("ETag: W/\"{}\"", &hash(bytes)[..40])], bytes);
    }
    let Some(bytes) = path.strip_prefix("/storage/").and_then(|name| files.get(name)) else {
        return send("404 Not Found", &[], b"");
    };
    let mut bytes = bytes.clone();
    if mood == Mood::Lies {
        bytes[0] ^= 1;
    }
    let range = header("range: bytes=").and_then(|range| range.strip_suffix('-'));
    if let Some(start) = range.and_then(|start| start.parse::<usize>().ok()) {
        return send("206 Partial Content", &[], &bytes[start..]);
    }
    if mood == Mood::Interrupts && !std::mem::replace(interrupted, true) {
        let half = bytes.len() / 2;
        return send("200 OK", &[format!("Content-Length: {}", bytes.len())], &bytes[..half]);
    }
    send("200 OK", &[], &bytes)
}

/// A repository with two components, in two variants, with files that nobody needs.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let index = json!({
        "_class_name": "UnCLIPPipeline",
        "prior": ["diffusers", "PriorTransformer"],
        "decoder": ["diffusers", "UNet2DConditionModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    });
    let map = json!({"weight_map": {"a": "diffusion_pytorch_model-00001-of-00001.safetensors"}});
    vec![
        (INDEX, index.to_string().into_bytes()),
        ("README.md", b"read me".to_vec()),
        ("prior/config.json", b"{}".to_vec()),
        ("prior/diffusion_pytorch_model.safetensors", vec![1; 200_000]),
        ("prior/diffusion_pytorch_model.fp16.safetensors", vec![2; 1000]),
        ("prior/diffusion_pytorch_model.bin", vec![3; 10]),
        ("decoder/config.json", b"{\"decoder\": 1}".to_vec()),
        ("decoder/diffusion_pytorch_model.safetensors.index.json", map.to_string().into_bytes()),
        ("decoder/diffusion_pytorch_model-00001-of-00001.safetensors", vec![4; 50]),
        ("tokenizer/merges.txt", b"#version".to_vec()),
        ("tokenizer/vocab.json", b"{}".to_vec()),
        ("unused/config.json", b"{}".to_vec()),
    ]
}

fn refused(result: Result<PathBuf>) -> String {
    result.expect_err("the download fails").to_string()
}

#[test]
fn only_what_is_needed_is_downloaded_once_and_found_again_offline() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let hub = Hub::start(&files(), Mood::Honest);
    let mut options = hub.options(dir.path());
    let repository = Repository::new("org/name");
    let mut reported = Vec::new();
    let path = fetch(&repository, &[], &options, &mut |download| {
        reported.push((download.file.to_owned(), download.received, download.total));
    })
    .expect("is downloaded");

    let root = dir.path().join("models--org--name");
    assert_eq!(path, root.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(root.join("refs/main")).expect("is there"), COMMIT);
    for (name, bytes) in files() {
        let unwanted = ["README.md", ".fp16.", ".bin", "unused"].iter().any(|u| name.contains(u));
        assert_eq!(path.join(name).is_file(), !unwanted, "{name}");
        if !unwanted {
            assert_eq!(fs::read(path.join(name)).expect("is there"), bytes, "{name}");
        }
    }
    // Two files that say the same are one blob, as in the cache of Python.
    let weights = hash(&vec![1; 200_000]);
    let pointer = path.join("prior/diffusion_pytorch_model.safetensors");
    let target = fs::read_link(pointer).expect("is a link");
    assert_eq!(target, Path::new("../../../blobs").join(&weights));
    assert_eq!(fs::read_dir(root.join("blobs")).expect("is there").count(), 7);
    let whole = |file: &str| reported.iter().rev().find(|(name, ..)| name == file).cloned();
    let (_, received, total) =
        whole("prior/diffusion_pytorch_model.safetensors").expect("was reported");
    assert_eq!((received, total), (200_000, Some(200_000)));

    let requests = hub.requests();
    assert!(
        requests.iter().all(|(path, token)| *token != path.starts_with("/storage")),
        "the token goes to the hub alone: {requests:?}"
    );
    fetch(&repository, &[], &options, &mut |_| {}).expect("is there");
    assert_eq!(hub.requests().len(), requests.len() + 1, "only the revision is looked up again");

    options.offline = true;
    assert_eq!(fetch(&repository, &[], &options, &mut |_| {}).expect("is there"), path);
    let by_commit = repository.clone().revision(COMMIT);
    assert_eq!(fetch(&by_commit, &["prior"], &options, &mut |_| {}).expect("is there"), path);
    assert_eq!(hub.requests().len(), requests.len() + 1, "offline means offline");

    let text = refused(fetch(&repository.clone().variant("fp16"), &[], &options, &mut |_| {}));
    assert!(text.contains("decoder/diffusion_pytorch_model.fp16.safetensors"), "{text}");
    assert!(text.contains("org/name") && text.contains(&*path.to_string_lossy()), "{text}");
    fs::remove_file(path.join("decoder/diffusion_pytorch_model-00001-of-00001.safetensors"))
        .expect("is removed");
    let text = refused(fetch(&repository, &[], &options, &mut |_| {}));
    assert!(text.contains("`decoder/diffusion_pytorch_model-00001-of-00001"), "{text}");
    fetch(&repository, &["prior"], &options, &mut |_| {}).expect("the prior is complete");
}

#[test]
fn a_variant_is_downloaded_without_the_other() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let hub = Hub::start(&files(), Mood::Redirects);
    let options = hub.options(dir.path());
    let repository = Repository::new("org/name").variant("fp16");
    let path =
        fetch(&repository, &["prior", "tokenizer"], &options, &mut |_| {}).expect("is there");
    assert!(path.join("prior/diffusion_pytorch_model.fp16.safetensors").is_file(), "not there");
    assert!(!path.join("prior/diffusion_pytorch_model.safetensors").exists(), "not asked for");
    assert!(!path.join("decoder").exists(), "not asked for");
    let text = refused(fetch(&repository, &["decoder"], &options, &mut |_| {}));
    assert!(text.contains("no decoder/diffusion_pytorch_model.fp16.safetensors"), "{text}");
}

#[test]
fn an_interrupted_download_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let hub = Hub::start(&files(), Mood::Interrupts);
    let options = hub.options(dir.path());
    let repository = Repository::new("org/name");
    let text = refused(fetch(&repository, &["prior"], &options, &mut |_| {}));
    assert!(text.contains("prior/diffusion_pytorch_model.safetensors"), "{text}");
    let mut first = None;
    let path = fetch(&repository, &["prior"], &options, &mut |download| {
        first.get_or_insert(download.received);
    })
    .expect("goes on");
    assert!(first > Some(100_000), "it began anew: {first:?}");
    let bytes = fs::read(path.join("prior/diffusion_pytorch_model.safetensors")).expect("is there");
    assert_eq!(bytes, vec![1; 200_000]);
}

#[test]
fn other_bytes_than_announced_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let hub = Hub::start(&files(), Mood::Lies);
    let text = refused(fetch(
        &Repository::new("org/name"),
        &["prior"],
        &hub.options(dir.path()),
        &mut |_| {},
    ));
    assert!(text.contains("SHA-256") && text.contains("prior/diffusion_pytorch_model"), "{text}");
    let root = dir.path().join("models--org--name");
    assert!(!root.join("refs/main").exists(), "an incomplete snapshot is not the branch's");
    let blobs = fs::read_dir(root.join("blobs")).expect("is there");
    assert!(
        blobs.filter_map(|blob| blob.ok()?.file_name().into_string().ok()).all(|b| b.len() == 40),
        "the wrong weights are still there"
    );
}

#[test]
fn a_hub_that_is_away_or_refuses_is_told_apart() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let repository = Repository::new("org/name");
    let hub = Hub::start(&files(), Mood::Honest);
    let mut options = hub.options(dir.path());
    fetch(&repository, &["prior"], &options, &mut |_| {}).expect("is downloaded");

    let closed = TcpListener::bind("127.0.0.1:0").expect("a free port");
    options.endpoint = format!("http://{}", closed.local_addr().expect("is bound"));
    drop(closed);
    fetch(&repository, &["prior"], &options, &mut |_| {}).expect("the cache has it");
    let text = refused(fetch(&repository, &["decoder"], &options, &mut |_| {}));
    assert!(text.contains("does not answer") && text.contains("`decoder`"), "{text}");

    options.endpoint = Hub::start(&[], Mood::Refuses).endpoint;
    let text = refused(fetch(&repository, &["prior"], &options, &mut |_| {}));
    assert!(
        text.contains("401") && text.contains("HF_TOKEN") && !text.contains("secret"),
        "{text}"
    );

    options.offline = true;
    let text = refused(fetch(&Repository::new("org/other"), &[], &options, &mut |_| {}));
    assert!(text.contains("HF_HUB_OFFLINE") && text.contains("models--org--other"), "{text}");
}

#[test]
fn a_name_that_leads_elsewhere_is_refused() {
    let options = HubOptions::new("/nowhere");
    for id in ["", "..", "a/../b", "a/b/c", "/a", "a\\b", "a b", "a?b"] {
        refused(fetch(&Repository::new(id), &[], &options, &mut |_| {}));
    }
    for revision in ["", "..", "refs/../../x", "/main", "a#b"] {
        refused(fetch(&Repository::new("org/name").revision(revision), &[], &options, &mut |_| {}));
    }
    refused(fetch(&Repository::new("org/name").variant("../x"), &[], &options, &mut |_| {}));
}
