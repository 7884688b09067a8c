//! Files that appear whole or not at all.

use std::{
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;
use tempfile::{Builder, NamedTempFile};

use crate::{Error, Result};

/// Writes `bytes` to `path`, so that a reader sees the old file or the new one, and never a part.
///
/// The bytes go to a temporary file in the same folder, which is created if need be; the file then takes the name.
///
/// # Errors
///
/// [`Error::Io`]; nothing new is left behind then.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    write_with(path.as_ref(), |file| file.write_all(bytes))
}

/// Writes `value` to `path` as indented JSON, as [`write_atomic`] does.
///
/// # Errors
///
/// [`Error::Io`], also when `value` cannot be serialised.
pub fn write_json_atomic<T: Serialize + ?Sized>(path: impl AsRef<Path>, value: &T) -> Result<()> {
    write_with(path.as_ref(), |file| {
        let mut file = BufWriter::new(file);
        serde_json::to_writer_pretty(&mut file, value)?;
        file.write_all(b"\n")?;
        file.flush()
    })
}

fn write_with(
    path: &Path,
    write: impl FnOnce(&mut NamedTempFile) -> std::io::Result<()>,
) -> Result<()> {
    let mut file = Pending::create(path)?;
    write(&mut file.file).map_err(Error::io("write", path))?;
    file.publish()
}

/// A file that is being written; it vanishes unless it is published.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) file: NamedTempFile,
    path: PathBuf,
}

impl Pending {
    /// Creates the temporary file in the folder of `path`, and the folder if need be.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when either cannot be created.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let mut builder = Builder::new();
        builder.prefix(".writing-");
        // Temporary files are private by default; this one becomes an ordinary file, less the user's mask.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(Error::io("create", path))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// The name that the file will take.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name, replacing what had it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be renamed; the temporary file is removed then.
    pub(super) fn publish(self) -> Result<()> {
        match self.file.persist(&self.path) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::io("write", self.path)(error.error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .expect("the folder is there")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_replaces_the_one_before_and_makes_its_folder() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a/b/config.json");
        write_atomic(&path, b"old").expect("is written");
        write_json_atomic(&path, &[1, 2]).expect("is written again");
        assert_eq!(fs::read_to_string(&path).expect("is there"), "[\n  1,\n  2\n]\n");
        assert_eq!(entries(path.parent().expect("has a folder")), ["config.json"]);
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x");
        write_atomic(&path, b"old").expect("is written");
        let error = write_with(&path, |file| {
            file.write_all(b"half")?;
            Err(std::io::Error::other("the disk is full"))
        });
        error.expect_err("the failure is reported");
        assert_eq!(fs::read(&path).expect("is there"), b"old");
        assert_eq!(entries(dir.path()), ["x"]);

        let taken = dir.path().join("folder");
        fs::create_dir(&taken).expect("is created");
        write_atomic(&taken, b"new").expect_err("a folder has the name");
        assert_eq!(entries(dir.path()), ["folder", "x"]);
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_the_file_where_the_mask_lets_them() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a temporary folder");
        let ordinary = dir.path().join("ordinary");
        fs::write(&ordinary, b"").expect("is written");
        let path = dir.path().join("x");
        write_atomic(&path, b"").expect("is written");
        let mode = |path| fs::metadata(path).expect("is there").permissions().mode();
        assert_eq!(mode(&path), mode(&ordinary));
    }
}
