//! The cache folder that the Python tools share.
//!
//! ```text
//! models--<organisation>--<name>/
//! ├── refs/main                        the commit that a branch stood at
//! ├── blobs/<etag>                     each file once, under its hash
//! └── snapshots/<commit>/decoder/…     links into blobs
//! ```

use std::{
    fs::{self, File},
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::checkpoint::{is_plain_name, write_atomic};

/// The part of the cache that holds one repository.
#[derive(Debug)]
pub(super) struct Cache {
    root: PathBuf,
}

impl Cache {
    pub(super) fn new(cache: &Path, id: &str) -> Self {
        Self { root: cache.join(format!("models--{}", id.replace('/', "--"))) }
    }

    /// The commit that `revision` stood at when it was last looked up.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.reference(revision)).ok()?;
        let commit = text.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    pub(super) fn remember(&self, revision: &str, commit: &str) -> crate::Result<()> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        write_atomic(self.reference(revision), commit.as_bytes())
    }

    pub(super) fn reference(&self, revision: &str) -> PathBuf {
        self.root.join("refs").join(revision)
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// A file under its hash, whether it is there or not.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// Opens the file that a download of `etag` grows in, for this process alone.
    pub(super) fn partial(&self, etag: &str) -> io::Result<Partial> {
        let blob = self.blob(etag);
        let folder = self.root.join("blobs");
        fs::create_dir_all(&folder)?;
        // Python's own partial files end in `.incomplete`; two writers must not meet in one.
        let path = folder.join(format!("{etag}.unclip-incomplete"));
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
        file.lock()?;
        Ok(Partial { file, path, blob })
    }

    /// Makes `file` of a snapshot lead to the blob.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> io::Result<PathBuf> {
        let pointer = self.snapshot(commit).join(file);
        if let Some(folder) = pointer.parent() {
            fs::create_dir_all(folder)?;
        }
        // A link whose blob somebody removed.
        if pointer.is_symlink() && !pointer.exists() {
            fs::remove_file(&pointer)?;
        }
        #[cfg(unix)]
        {
            let up = "../".repeat(2 + file.matches('/').count());
            let linked = std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), &pointer);
            match linked {
                // Another process was faster; its link says the same.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        // Links need a privilege on Windows; Python then moves the file into the snapshot, too.
        #[cfg(not(unix))]
        fs::rename(self.blob(etag), &pointer)?;
        Ok(pointer)
    }
}

/// Whether a revision is the full name of a commit.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The hash in an `ETag` header, when it can be a file name.
pub(super) fn etag(header: &str) -> Option<&str> {
    let header = header.trim();
    let etag = header.strip_prefix("W/").unwrap_or(header).trim_matches('"');
    let plain = etag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    (plain && etag.len() <= 128 && is_plain_name(etag)).then_some(etag)
}

/// A download under way. What it has survives an interruption.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    blob: PathBuf,
}

impl Partial {
    /// How much an interrupted download left here.
    pub(super) fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Appends what `body` gives to the first `start` bytes, reporting how much there is.
    pub(super) fn extend(
        &mut self,
        start: u64,
        mut body: impl Read,
        mut report: impl FnMut(u64),
    ) -> io::Result<u64> {
        self.file.set_len(start)?;
        self.file.seek(SeekFrom::End(0))?;
        let mut length = start;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => return Ok(length),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.file.write_all(&buffer[..read])?;
            length += read as u64;
            report(length);
        }
    }

    /// Ends the download: the file takes its place among the blobs if it has the size and the hash that it should.
    ///
    /// Large files are named by their SHA-256, which is checked; small ones by a hash of Git's, which is not.
    ///
    /// # Errors
    ///
    /// What is wrong; the file is gone then, because more of the same would not mend it.
    pub(super) fn finish(mut self, etag: &str, size: Option<u64>) -> io::Result<()> {
        let length = self.length()?;
        let mut wrong = None;
        if let Some(size) = size.filter(|size| *size != length) {
            wrong = Some(format!("{length} bytes arrived, where {size} were announced"));
        } else if etag.len() == 64 {
            self.file.seek(SeekFrom::Start(0))?;
            let mut hash = Sha256::new();
            io::copy(&mut self.file, &mut hash)?;
            let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
            if found != etag {
                wrong = Some(format!("its SHA-256 is {found}, where {etag} was announced"));
            }
        }
        match wrong {
            Some(reason) => {
                fs::remove_file(&self.path)?;
                Err(io::Error::new(io::ErrorKind::InvalidData, reason))
            }
            None => fs::rename(&self.path, &self.blob),
        }
    }

    /// Ends the download without a result, because another process has finished it.
    pub(super) fn discard(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hashes_become_file_names() {
        assert_eq!(etag("\"abc123\""), Some("abc123"));
        assert_eq!(etag("W/\"abc-1\""), Some("abc-1"));
        for header in ["", "\"\"", "\"../../x\"", "\"a/b\"", "\"..\"", "\"a b\"", "C:\\x"] {
            assert_eq!(etag(header), None, "{header:?}");
        }
    }

    #[test]
    fn a_wrong_hash_or_size_leaves_no_file() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let cache = Cache::new(dir.path(), "org/name");
        let blobs = dir.path().join("models--org--name/blobs");
        for (etag, size) in [("0".repeat(64), None), ("abc".to_owned(), Some(9))] {
            let mut partial = cache.partial(&etag).expect("opens");
            partial.extend(0, &b"hello"[..], |_| {}).expect("is written");
            partial.finish(&etag, size).expect_err("is not what was announced");
            assert_eq!(fs::read_dir(&blobs).expect("is there").count(), 0);
        }
        let hash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let mut partial = cache.partial(hash).expect("opens");
        partial.extend(0, &b"hexxx"[..], |_| {}).expect("is written");
        partial.extend(2, &b"llo"[..], |_| {}).expect("is resumed");
        partial.finish(hash, Some(5)).expect("the hash is right");
        assert_eq!(fs::read(cache.blob(hash)).expect("is there"), b"hello");
    }
}
