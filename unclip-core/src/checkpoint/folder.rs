//! Where a model's files are: on disk, or in the program.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// A folder of model files, on disk or compiled into the program.
///
/// Whatever reads one takes `impl Into<Folder>`, so that a path will do. Errors name an embedded file by the name of its
/// model and the path inside.
///
/// ```
/// # use unclip_core::checkpoint::{Folder, ModelDir};
/// static FILES: &[(&str, &[u8])] = &[("model_index.json", br#"{"_class_name": "UnCLIPPipeline"}"#)];
/// let model = ModelDir::open(Folder::embedded("tiny", FILES))?;
/// assert_eq!(model.index().class_name, "UnCLIPPipeline");
/// # Ok::<(), unclip_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Folder {
    /// On disk, or as errors show it.
    path: PathBuf,
    embedded: Option<Embedded>,
}

#[derive(Clone)]
struct Embedded {
    files: &'static [(&'static str, &'static [u8])],
    /// What the names of the files in this folder begin with: nothing, or segments that each end in `/`.
    prefix: String,
}

/// A file, opened.
#[derive(Debug)]
pub(super) enum Opened {
    Disk(File),
    Embedded(&'static [u8]),
}

impl Folder {
    /// The folder of files that are part of the program: their paths, with `/` between segments, and their bytes.
    /// Errors call it `name`.
    pub fn embedded(name: &str, files: &'static [(&'static str, &'static [u8])]) -> Self {
        Self { path: name.into(), embedded: Some(Embedded { files, prefix: String::new() }) }
    }

    /// The path on disk, or what errors show in its place.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder called `name` in this one.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        let embedded = self.embedded.as_ref().map(|Embedded { files, prefix }| Embedded {
            files,
            prefix: format!("{prefix}{name}/"),
        });
        Self { path: self.path.join(name), embedded }
    }

    /// Whether there is such a folder.
    pub fn exists(&self) -> bool {
        match &self.embedded {
            None => self.path.is_dir(),
            Some(Embedded { files, prefix }) => {
                files.iter().any(|(path, _)| path.starts_with(prefix.as_str()))
            }
        }
    }

    /// Whether it holds a file called `name`.
    pub fn has(&self, name: impl AsRef<Path>) -> bool {
        match &self.embedded {
            None => self.path.join(name).is_file(),
            Some(embedded) => embedded.find(name.as_ref()).is_some(),
        }
    }

    /// The names of the files in it, in order; none where it cannot be listed.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match &self.embedded {
            None => std::fs::read_dir(&self.path)
                .into_iter()
                .flatten()
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .collect(),
            Some(Embedded { files, prefix }) => files
                .iter()
                .filter_map(|(path, _)| path.strip_prefix(prefix.as_str()))
                .filter(|rest| !rest.contains('/'))
                .map(str::to_owned)
                .collect(),
        };
        names.sort();
        names
    }

    /// The bytes of the file called `name`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read, or is larger than `limit` bytes.
    pub fn read(&self, name: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
        let path = self.path.join(&name);
        let mut bytes = Vec::new();
        // One byte more than allowed tells a file at the limit from one beyond it; a pipe has no length to ask for.
        match self.open(name)? {
            Opened::Disk(file) => file.take(limit + 1).read_to_end(&mut bytes),
            Opened::Embedded(file) => file.take(limit + 1).read_to_end(&mut bytes),
        }
        .map_err(Error::io("read", &path))?;
        if bytes.len() as u64 > limit {
            let source = io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("larger than the {limit} bytes that such a file may have"),
            );
            return Err(Error::Io { action: "read", path, source });
        }
        Ok(bytes)
    }

    pub(super) fn open(&self, name: impl AsRef<Path>) -> Result<Opened> {
        let path = self.path.join(&name);
        let opened = match &self.embedded {
            None => File::open(&path).map(Opened::Disk),
            Some(embedded) => embedded
                .find(name.as_ref())
                .map(Opened::Embedded)
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound)),
        };
        opened.map_err(Error::io("read", path))
    }
}

impl Embedded {
    fn find(&self, name: &Path) -> Option<&'static [u8]> {
        let file = format!("{}{}", self.prefix, name.to_str()?);
        self.files.iter().find(|(path, _)| *path == file).map(|&(_, bytes)| bytes)
    }
}

impl<P: AsRef<Path>> From<P> for Folder {
    fn from(path: P) -> Self {
        Self { path: path.as_ref().to_owned(), embedded: None }
    }
}

impl From<&Self> for Folder {
    fn from(folder: &Self) -> Self {
        folder.clone()
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folder")
            .field("path", &self.path)
            .field("embedded", &self.embedded.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FILES: &[(&str, &[u8])] =
        &[("index.json", b"{}"), ("prior/config.json", b"[1]"), ("prior/deep/x", b"")];

    fn on_disk() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir_all(dir.path().join("prior/deep")).expect("is created");
        for (path, bytes) in FILES {
            std::fs::write(dir.path().join(path), bytes).expect("is written");
        }
        dir
    }

    #[test]
    fn an_embedded_folder_reads_like_one_on_disk() {
        let dir = on_disk();
        for folder in [Folder::from(dir.path()), Folder::embedded("model", FILES)] {
            let prior = folder.join("prior");
            assert!(folder.has("index.json") && prior.has("config.json"), "{folder:?}");
            assert!(!folder.has("config.json") && !folder.has("prior"), "{folder:?}");
            assert!(prior.exists() && prior.join("deep").exists(), "{folder:?}");
            assert!(!folder.join("pri").exists(), "{folder:?}");
            assert_eq!(prior.read("config.json", 3).expect("is there"), b"[1]");
            assert!(prior.names().contains(&"config.json".to_owned()), "{:?}", prior.names());
        }
        assert_eq!(Folder::embedded("model", FILES).names(), ["index.json"]);
    }

    #[test]
    fn errors_name_the_file_and_the_limit() {
        let dir = on_disk();
        for folder in [Folder::from(dir.path()), Folder::embedded("model", FILES)] {
            let error = folder.join("prior").read("weights", 9).expect_err("not there");
            let text = error.to_string();
            assert!(text.contains("prior/weights"), "{text}");
            let text = folder.join("prior").read("config.json", 2).expect_err("too large");
            assert!(format!("{text:?}").contains("the 2 bytes"), "{text:?}");
        }
    }
}
