//! The stream of samples over any kind of data.

use crate::{
    Error, Result,
    data::{Cursor, Fault, Sample, Skipped},
};

/// A stream of samples that can be continued from any position.
pub trait Source: std::fmt::Debug {
    /// The next usable sample; none at the end of a source that is read once.
    ///
    /// # Errors
    ///
    /// [`Error::NothingUsable`] when a whole pass gave no sample; [`Error::Shard`], [`Error::Npy`] and [`Error::Core`]
    /// when a file is gone or unreadable that was there when the source was opened. A broken sample is no error.
    fn next(&mut self) -> Result<Option<Sample>>;

    /// The position of the next sample.
    fn cursor(&self) -> Cursor;

    /// Continues at `cursor`, which may come from another rank or another number of ranks.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignCursor`] when it was taken in other data or with another seed.
    fn seek(&mut self, cursor: &Cursor) -> Result<()>;

    /// What was left out since the source was opened.
    fn skipped(&self) -> &Skipped;
}

/// Data in parts (shards, arrays, a folder), each of which lists its samples and reads any of them.
pub(super) trait Records: std::fmt::Debug + Send {
    /// Where one sample lies.
    type Entry: std::fmt::Debug + Send;

    /// The name of every part.
    fn parts(&self) -> Vec<String>;

    /// Lists the samples of a part; notes what it cannot list.
    fn list(&mut self, part: usize, skipped: &mut Skipped) -> Result<Vec<Self::Entry>>;

    /// What names the sample among those skipped.
    fn name(&self, entry: &Self::Entry) -> String;

    /// Reads a sample.
    fn read(&mut self, entry: &Self::Entry) -> Result<Sample, Fault>;
}

/// How a [`Stream`] goes over its data.
#[derive(Debug, Clone, Copy)]
pub(super) enum Walk {
    /// For ever, in a new order each pass.
    Endless,
    /// Once, as the data lies.
    Once,
}

/// A [`Source`] over [`Records`].
///
/// Parts are shuffled, then taken a few at a time, and the samples of such a group are shuffled together: memory is
/// bounded by one group's list, and a position is found again by listing one group.
#[derive(Debug)]
pub(super) struct Stream<R: Records> {
    records: R,
    walk: Walk,
    parts_at_once: usize,
    rank: usize,
    ranks: usize,
    cursor: Cursor,
    /// The samples of the cursor's group in their order, once listed.
    group: Option<Vec<R::Entry>>,
    /// Samples handed out in this pass, by this rank, since the last seek.
    given: usize,
    /// Whether this pass was followed from its start.
    whole_pass: bool,
    skipped: Skipped,
}

impl<R: Records> Stream<R> {
    pub(super) fn new(
        records: R,
        walk: Walk,
        parts_at_once: usize,
        seed: u64,
        (rank, ranks): (usize, usize),
    ) -> Result<Self> {
        if rank >= ranks {
            let expected = format!("a number below {ranks}, how many ranks there are");
            return Err(unclip_core::Error::invalid("rank", rank, expected).into());
        }
        if parts_at_once == 0 {
            return Err(unclip_core::Error::invalid("shards_at_once", 0, "1 or more").into());
        }
        let cursor = Cursor::start(seed, records.parts().iter().map(String::as_str));
        Ok(Self {
            records,
            walk,
            parts_at_once,
            rank,
            ranks,
            cursor,
            group: None,
            given: 0,
            whole_pass: true,
            skipped: Skipped::default(),
        })
    }

    /// The parts of the cursor's group; none when the pass is over.
    fn group_parts(&self) -> Option<Vec<usize>> {
        let mut parts: Vec<usize> = (0..self.records.parts().len()).collect();
        if matches!(self.walk, Walk::Endless) {
            self.cursor.shuffle_parts(&mut parts);
        }
        parts.chunks(self.parts_at_once).nth(self.cursor.group).map(<[usize]>::to_vec)
    }

    /// Lists the cursor's group; false when the pass is over.
    fn open_group(&mut self) -> Result<bool> {
        let Some(parts) = self.group_parts() else { return Ok(false) };
        let mut entries = Vec::new();
        for part in parts {
            entries.extend(self.records.list(part, &mut self.skipped)?);
        }
        if matches!(self.walk, Walk::Endless) {
            self.cursor.shuffle_group(&mut entries);
        }
        self.group = Some(entries);
        Ok(true)
    }

    /// Begins the next pass; false when there is none.
    fn next_pass(&mut self) -> Result<bool> {
        if self.whole_pass && self.given == 0 {
            let reason = match self.skipped.iter().next() {
                Some((name, fault)) => {
                    format!("{} were skipped, the first is {name}: {fault}", self.skipped.count())
                }
                None => format!("there are fewer than the {} ranks", self.ranks),
            };
            return Err(Error::NothingUsable { reason });
        }
        if matches!(self.walk, Walk::Once) {
            return Ok(false);
        }
        self.cursor.epoch += 1;
        self.cursor.group = 0;
        self.given = 0;
        self.whole_pass = true;
        Ok(true)
    }
}

impl<R: Records> Source for Stream<R> {
    fn next(&mut self) -> Result<Option<Sample>> {
        loop {
            let Some(entries) = &self.group else {
                if !self.open_group()? && !self.next_pass()? {
                    return Ok(None);
                }
                continue;
            };
            let position = self.cursor.position;
            let Some(entry) = entries.get(position) else {
                self.group = None;
                self.cursor.group += 1;
                self.cursor.position = 0;
                continue;
            };
            self.cursor.position += 1;
            if position % self.ranks != self.rank {
                continue;
            }
            match self.records.read(entry) {
                Ok(sample) => {
                    self.given += 1;
                    return Ok(Some(sample));
                }
                Err(fault) => self.skipped.add(self.records.name(entry), fault),
            }
        }
    }

    fn cursor(&self) -> Cursor {
        self.cursor.clone()
    }

    fn seek(&mut self, cursor: &Cursor) -> Result<()> {
        cursor.check(&self.cursor)?;
        self.whole_pass = cursor.group == 0 && cursor.position == 0;
        self.given = 0;
        self.group = None;
        self.cursor = cursor.clone();
        Ok(())
    }

    fn skipped(&self) -> &Skipped {
        &self.skipped
    }
}
