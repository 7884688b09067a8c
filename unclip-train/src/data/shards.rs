//! WebDataset shards: tar archives whose members of one sample share a name up to the first full stop.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    str,
};

use tar::Archive;
use unclip_core::Error as CoreError;

use super::{
    Content, Fault, Sample, ShardPath, ShardsConfig, Skipped, folder::PICTURES, metadata::Metadata,
    picture, stream::Records,
};
use crate::{Error, Result};

/// The most bytes that a caption or a description may have.
const MAX_TEXT: u64 = 1 << 20;
/// The most bytes that an encoded picture may have.
const MAX_PICTURE: u64 = 1 << 30;

/// Tar archives; their members are listed when their turn comes.
#[derive(Debug)]
pub(super) struct Shards {
    config: ShardsConfig,
    paths: Vec<PathBuf>,
    /// Archives that are being read, by number.
    open: HashMap<usize, File>,
}

/// The members of one sample.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    shard: usize,
    key: String,
    picture: Option<Span>,
    text: Option<Span>,
    json: Option<Span>,
}

/// Bytes of an archive.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u64,
    length: u64,
}

impl Shards {
    pub(super) fn open(config: ShardsConfig) -> Result<Self> {
        let mut paths = Vec::new();
        for shards in &config.paths {
            let mut own = Vec::new();
            for path in expand(shards.path())? {
                match path.is_dir() {
                    true => own.extend(archives(&path)?),
                    false => own.push(path),
                }
            }
            for _ in 0..shards.times() {
                paths.extend_from_slice(&own);
            }
        }
        let names = || -> PathBuf {
            config.paths.iter().map(ShardPath::path).collect::<Vec<_>>().join(", ").into()
        };
        let expected = "tar archives, or folders of them";
        if paths.is_empty() {
            let (path, found) = (names(), "none".to_owned());
            return Err(Error::NoSamples { path, found, expected });
        }
        let mut members = false;
        for path in &paths {
            members |= has_members(path)?;
        }
        if !members {
            let found = format!("{} empty archives", paths.len());
            let path = names();
            return Err(Error::NoSamples { path, found, expected: "archives with members" });
        }
        Ok(Self { config, paths, open: HashMap::new() })
    }

    fn bytes(&mut self, shard: usize, span: Span, limit: u64) -> io::Result<Vec<u8>> {
        if span.length > limit {
            let text = format!("{} bytes, expected at most {limit}", span.length);
            return Err(io::Error::other(text));
        }
        let file = match self.open.get_mut(&shard) {
            Some(file) => file,
            None => self.open.entry(shard).or_insert(File::open(&self.paths[shard])?),
        };
        file.seek(SeekFrom::Start(span.start))?;
        let mut bytes = Vec::new();
        file.take(span.length).read_to_end(&mut bytes)?;
        match bytes.len() as u64 == span.length {
            true => Ok(bytes),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Records for Shards {
    type Entry = Entry;

    fn parts(&self) -> Vec<String> {
        self.paths.iter().map(|path| file_name(path)).collect()
    }

    fn list(&mut self, part: usize, skipped: &mut Skipped) -> Result<Vec<Entry>> {
        // Only the archives of one group are kept open.
        if self.open.len() >= self.config.shards_at_once {
            self.open.clear();
        }
        let path = &self.paths[part];
        let failed =
            |error: io::Error| Error::Shard { path: path.clone(), reason: error.to_string() };
        let mut archive = Archive::new(File::open(path).map_err(failed)?);
        let mut entries: Vec<Entry> = Vec::new();
        for member in archive.entries_with_seek().map_err(failed)? {
            let member = match member {
                Ok(member) => member,
                Err(error) => {
                    let name = format!("{} after {} samples", file_name(path), entries.len());
                    skipped.add(name, Fault::Shard(error.to_string()));
                    break;
                }
            };
            if !member.header().entry_type().is_file() {
                continue;
            }
            let name = member.path_bytes();
            let Some((key, ending)) = str::from_utf8(&name).ok().and_then(split) else { continue };
            if entries.last().is_none_or(|last| last.key != key) {
                entries.push(Entry {
                    shard: part,
                    key: key.to_owned(),
                    picture: None,
                    text: None,
                    json: None,
                });
            }
            let span = Span { start: member.raw_file_position(), length: member.size() };
            let Some(entry) = entries.last_mut() else { continue };
            match ending.to_ascii_lowercase().as_str() {
                "txt" => entry.text = Some(span),
                "json" => entry.json = Some(span),
                ending if PICTURES.contains(&ending) => entry.picture = Some(span),
                _ => {}
            }
        }
        // Members of other kinds, such as a data set's licence, are no samples.
        entries.retain(|e| e.picture.is_some() || e.text.is_some() || e.json.is_some());
        Ok(entries)
    }

    fn name(&self, entry: &Entry) -> String {
        format!("{}: {}", file_name(&self.paths[entry.shard]), entry.key)
    }

    fn read(&mut self, entry: &Entry) -> Result<Sample, Fault> {
        let unread = |error: io::Error| Fault::Caption(error.to_string());
        let metadata = match entry.json {
            Some(span) => {
                Metadata::parse(&self.bytes(entry.shard, span, MAX_TEXT).map_err(unread)?)?
            }
            None => Metadata::default(),
        };
        let lines = match entry.text {
            Some(span) => Some(self.bytes(entry.shard, span, MAX_TEXT).map_err(unread)?),
            None => None,
        };
        let span = entry.picture.ok_or(Fault::NoPicture)?;
        let captions = metadata.captions(lines.as_deref(), self.config.captions_required)?;
        let bytes = self
            .bytes(entry.shard, span, MAX_PICTURE)
            .map_err(|error| Fault::Picture(error.to_string()))?;
        Ok(Sample {
            key: entry.key.clone(),
            content: Content::Picture(picture::read(&bytes, self.config.side)?),
            captions,
            concept: metadata.concept,
            family: metadata.family,
            style: metadata.style,
        })
    }
}

/// A member's name before and after the first full stop of its last part.
fn split(name: &str) -> Option<(&str, &str)> {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let stop = name[file..].find('.')? + file;
    (stop > file).then(|| (&name[..stop], &name[stop + 1..]))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The archives of a folder, sorted by name.
fn archives(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(CoreError::io("read", folder))? {
        let path = entry.map_err(CoreError::io("read", folder))?.path();
        if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("tar")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether an archive opens as one and holds a member.
fn has_members(path: &Path) -> Result<bool> {
    let failed =
        |error: io::Error| Error::Shard { path: path.to_owned(), reason: error.to_string() };
    let mut archive = Archive::new(File::open(path).map_err(failed)?);
    match archive.entries_with_seek().map_err(failed)?.next() {
        Some(member) => member.map(|_| true).map_err(failed),
        None => Ok(false),
    }
}

/// The names that a range in braces stands for: `a{08..11}` is `a08`, `a09`, `a10`, `a11`.
fn expand(name: &str) -> Result<Vec<PathBuf>> {
    let Some((before, range, after)) = name.split_once('{').and_then(|(before, rest)| {
        rest.split_once('}').map(|(range, after)| (before, range, after))
    }) else {
        return Ok(vec![name.into()]);
    };
    let bounds = range.split_once("..").and_then(|(first, last)| {
        Some((first.len(), first.parse::<u32>().ok()?, last.parse::<u32>().ok()?))
    });
    match bounds {
        Some((digits, first, last)) if first <= last && !after.contains('{') => Ok((first..=last)
            .map(|number| format!("{before}{number:0digits$}{after}").into())
            .collect()),
        _ => Err(CoreError::invalid(
            "paths",
            name,
            "one range of rising numbers in braces at most, such as `{000..012}.tar`",
        )
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_keeps_its_leading_zeros() {
        let names = expand("d/{08..10}.tar").expect("a range");
        assert_eq!(names, ["d/08.tar", "d/09.tar", "d/10.tar"].map(PathBuf::from));
        assert_eq!(expand("plain.tar").expect("a name"), [PathBuf::from("plain.tar")]);
        for name in ["{3..1}.tar", "{a..c}.tar", "{0..1}{0..1}.tar", "{7}.tar"] {
            let error = expand(name).expect_err("no range of numbers");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_key_ends_at_the_first_full_stop_of_the_last_part() {
        assert_eq!(split("a.b/000.seg.png"), Some(("a.b/000", "seg.png")));
        assert_eq!(split("LICENSE"), None);
        assert_eq!(split("a/.hidden"), None);
    }
}
