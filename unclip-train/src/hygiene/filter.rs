//! Dropping what must not be learned from, and saying why.

use std::{
    collections::{BTreeMap, HashSet},
    io::Write,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use unclip_core::Error as CoreError;
use unclip_safety::{Action, SafetyFilter, Upload, Verdict};

use super::{Fingerprint, Fingerprints, deduplicate, reweight::by_stratum, split::place};
use crate::{
    Result,
    data::{DataConfig, Sample, ShardWriter},
};

/// Goes over a data set twice: first every sample is judged, then what is kept is written.
///
/// A sample is dropped when its picture is refused, or all of its captions are; what a policy would flag stays. Refused
/// captions leave a sample that has others. The report is one JSON object an [`Item`] and line.
///
/// ```no_run
/// use unclip_safety::{Guard, Policy};
/// use unclip_train::{
///     data::{DataConfig, FolderConfig, ShardWriter},
///     hygiene::{Filter, Stratum},
/// };
///
/// let filter = Filter::new(Guard::new(Policy::standard())).duplicates(2, 2.5).reweight(Stratum::Concept);
/// let data = DataConfig::Folder(FolderConfig::new("pictures"));
/// let mut report = std::fs::File::create("report.jsonl")?;
/// let mut writer = ShardWriter::create("filtered", 1000)?;
/// let summary = filter.run(&data, &mut writer, &mut report)?;
/// writer.finish()?;
/// println!("{} of {} kept", summary.kept, summary.read);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Filter {
    checks: Arc<dyn SafetyFilter>,
    duplicates: Option<(u32, f64)>,
    reweight: Option<Stratum>,
    most: f64,
    seed: u64,
}

/// What samples are counted by, so that a filter leaves each as large a share as it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stratum {
    /// The thing shown.
    Concept,
    /// The group of things that look nearly alike.
    Family,
    /// How it is drawn.
    Style,
}

/// Why a sample went where it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// Nothing speaks against it.
    Fine,
    /// Its picture was refused.
    Picture,
    /// Every caption was refused.
    Captions,
    /// It looks like a sample before it.
    Duplicate,
    /// It could not be read.
    Unreadable,
}

/// A line of the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// The sample.
    pub key: String,
    /// Whether it is kept.
    pub kept: bool,
    /// Why, for machines.
    pub cause: Cause,
    /// Why, in words: what was found and by which check, even where it is kept.
    pub reason: String,
    /// The highest score of a finding, of its picture or of a caption; 0 without any.
    pub score: f32,
    /// Captions that were refused.
    pub captions_refused: usize,
    /// What it counts, so that strata keep their shares; the mean over what is kept is 1.
    pub weight: f64,
    /// How often it was written: the weight, rounded up or down by chance so that it is right on average.
    pub copies: usize,
}

/// What became of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterSummary {
    /// Samples read.
    pub read: usize,
    /// Samples kept.
    pub kept: usize,
    /// Samples written, copies included.
    pub written: usize,
    /// Samples by cause; those kept are `fine`.
    pub causes: BTreeMap<Cause, usize>,
    /// Captions that were refused, of all samples.
    pub captions_refused: usize,
    /// Strata of which nothing is left, so that no weight makes up for them.
    pub strata_lost: Vec<String>,
}

/// What the first pass leaves of a sample.
struct Judged {
    item: Item,
    print: Option<Fingerprint>,
    stratum: String,
}

impl Filter {
    /// A filter that drops what `checks` refuse of given pictures and captions.
    pub fn new(checks: impl SafetyFilter + 'static) -> Self {
        Self { checks: Arc::new(checks), duplicates: None, reweight: None, most: 10.0, seed: 0 }
    }

    /// Drops pictures that look like one before them: at most `gradients` of 64 gradients and at most `colours` grey
    /// levels apart, as [`Fingerprints`] has it. Kept by default.
    ///
    /// What looks like an unsafe picture goes with it. Every pair is compared.
    pub fn duplicates(mut self, gradients: u32, colours: f64) -> Self {
        self.duplicates = Some((gradients, colours));
        self
    }

    /// Writes samples as often as brings every stratum back to the share that it had before unsafe samples were dropped;
    /// each once by default.
    pub fn reweight(mut self, by: Stratum) -> Self {
        self.reweight = Some(by);
        self
    }

    /// Sets how far above the mean a weight may be; 10 by default.
    pub fn most(mut self, most: f64) -> Self {
        self.most = most;
        self
    }

    /// Sets the seed of the rounding of weights; 0 by default.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Judges every sample of `data`, writes what is kept to `writer` in the order in which it lies, and one line a sample
    /// to `report`. The caller finishes the writer.
    ///
    /// # Errors
    ///
    /// Whatever opening and reading the data says; [`WrongContent`](crate::Error::WrongContent) for data of embeddings;
    /// [`unclip_core::Error::InvalidInput`] when the data changes between the passes, and as [`by_stratum`];
    /// [`unclip_core::Error::Io`] when the report or a shard cannot be written.
    pub fn run(
        &self,
        data: &DataConfig,
        writer: &mut ShardWriter,
        report: &mut dyn Write,
    ) -> Result<FilterSummary> {
        let mut summary = FilterSummary::default();
        let mut source = data.open_once()?;
        let mut samples = Vec::new();
        while let Some(sample) = source.next()? {
            samples.push(self.judge(&sample)?);
        }
        summary.read = samples.len();
        self.drop_duplicates(&mut samples);
        self.weigh(&mut samples, &mut summary)?;

        let mut again = data.open_once()?;
        let mut names = HashSet::new();
        for judged in &samples {
            let item = &judged.item;
            let sample =
                again.next()?.filter(|sample| sample.key == item.key).ok_or_else(|| {
                    CoreError::invalid("data", format!("no {}", item.key), "what was there before")
                })?;
            self.write(sample, item, &mut names, writer)?;
            summary.written += item.copies;
        }
        let unreadable = source.skipped().iter().map(|(name, fault)| Item {
            key: name.to_owned(),
            kept: false,
            cause: Cause::Unreadable,
            reason: fault.to_string(),
            score: 0.0,
            captions_refused: 0,
            weight: 0.0,
            copies: 0,
        });
        for item in samples.into_iter().map(|judged| judged.item).chain(unreadable) {
            summary.kept += usize::from(item.kept);
            summary.captions_refused += item.captions_refused;
            *summary.causes.entry(item.cause).or_default() += 1;
            let line = serde_json::to_string(&item).map_err(std::io::Error::from);
            line.and_then(|line| writeln!(report, "{line}"))
                .map_err(CoreError::io("write", "the report"))?;
        }
        Ok(summary)
    }

    fn judge(&self, sample: &Sample) -> Result<Judged> {
        let picture = sample.picture()?;
        let seen = self.checks.check_upload(&Upload::new(picture));
        let captions: Vec<Verdict> =
            sample.captions.iter().map(|caption| self.checks.check_caption(caption)).collect();
        let refused = captions.iter().filter(|verdict| is_refused(verdict)).count();
        let cause = if is_refused(&seen) {
            Cause::Picture
        } else if !captions.is_empty() && refused == captions.len() {
            Cause::Captions
        } else {
            Cause::Fine
        };
        let scores = captions.iter().chain([&seen]).filter_map(|verdict| verdict.gravest());
        let gravest = captions.iter().max_by_key(|verdict| verdict.action);
        let reasons: Vec<String> = [("picture", Some(&seen)), ("caption", gravest)]
            .into_iter()
            .filter_map(|(what, verdict)| Some((what, verdict?)))
            .filter(|(_, verdict)| !verdict.findings.is_empty())
            .map(|(what, verdict)| format!("{what}: {verdict}"))
            .collect();
        let stratum = match self.reweight {
            None => &None,
            Some(Stratum::Concept) => &sample.concept,
            Some(Stratum::Family) => &sample.family,
            Some(Stratum::Style) => &sample.style,
        };
        let item = Item {
            key: sample.key.clone(),
            kept: cause == Cause::Fine,
            cause,
            reason: reasons.join("; "),
            score: scores.map(|finding| finding.score).fold(0.0, f32::max),
            captions_refused: refused,
            weight: 0.0,
            copies: 0,
        };
        let print = self.duplicates.map(|_| Fingerprint::of(picture)).transpose()?;
        Ok(Judged { item, print, stratum: stratum.clone().unwrap_or_default() })
    }

    /// A sample that goes for its captions alone says nothing against pictures like its own, so that it is left out.
    fn drop_duplicates(&self, samples: &mut [Judged]) {
        let Some((gradients, colours)) = self.duplicates else { return };
        let (places, prints): (Vec<usize>, Vec<Fingerprint>) = samples
            .iter_mut()
            .enumerate()
            .filter(|(_, judged)| judged.item.cause != Cause::Captions)
            .filter_map(|(place, judged)| Some((place, judged.print.take()?)))
            .unzip();
        for duplicate in deduplicate(&Fingerprints::new(prints, gradients, colours)) {
            let of = samples[places[duplicate.of]].item.key.clone();
            let item = &mut samples[places[duplicate.index]].item;
            if item.kept {
                (item.kept, item.cause) = (false, Cause::Duplicate);
                item.reason = format!("looks like {of}");
            }
        }
    }

    /// Weighs what is kept by what there was without the duplicates: they are meant to go.
    fn weigh(&self, samples: &mut [Judged], summary: &mut FilterSummary) -> Result<()> {
        if self.reweight.is_none() {
            for item in samples.iter_mut().map(|judged| &mut judged.item).filter(|item| item.kept) {
                (item.weight, item.copies) = (1.0, 1);
            }
            return Ok(());
        }
        let mut items: Vec<(&str, &mut Item)> = samples
            .iter_mut()
            .filter(|judged| judged.item.cause != Cause::Duplicate)
            .map(|judged| (judged.stratum.as_str(), &mut judged.item))
            .collect();
        let strata: Vec<&str> = items.iter().map(|(stratum, _)| *stratum).collect();
        let kept: Vec<bool> = items.iter().map(|(_, item)| item.kept).collect();
        let weights = by_stratum(&strata, &kept, self.most)?;
        let kept = items.iter_mut().filter(|(_, item)| item.kept);
        for (n, ((_, item), weight)) in kept.zip(weights).enumerate() {
            item.weight = weight;
            let whole = weight.floor();
            let more = place("copies", self.seed, &format!("{n} {}", item.key)) < weight - whole;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "weights are positive, and no larger than their number"
            )]
            let whole = whole as usize;
            item.copies = whole + usize::from(more);
        }
        let mut left: BTreeMap<&str, bool> = BTreeMap::new();
        for (stratum, item) in &items {
            *left.entry(stratum).or_default() |= item.kept;
        }
        summary.strata_lost =
            left.into_iter().filter(|(_, left)| !left).map(|(name, _)| name.to_owned()).collect();
        Ok(())
    }

    /// Writes the sample as often as its item says, without the captions that are refused.
    fn write(
        &self,
        mut sample: Sample,
        item: &Item,
        names: &mut HashSet<String>,
        writer: &mut ShardWriter,
    ) -> Result<()> {
        if item.captions_refused > 0 {
            sample.captions.retain(|caption| !is_refused(&self.checks.check_caption(caption)));
        }
        // A key names one sample of all shards and must not end early; folders give paths.
        let key = item.key.replace(['.', '/'], "_");
        for _ in 0..item.copies {
            let numbered = (1..).map(|k| format!("{key}-{k}"));
            sample.key = std::iter::once(key.clone())
                .chain(numbered)
                .find(|name| names.insert(name.clone()))
                .expect("there are more numbers than names");
            writer.write(&sample)?;
        }
        Ok(())
    }
}

/// What is only flagged may be learned from.
fn is_refused(verdict: &Verdict) -> bool {
    verdict.action > Action::Flag
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::{Rgb, RgbImage};
    use unclip_safety::{Category, Policy, Signal, Subject};

    use super::*;
    use crate::data::{FolderConfig, ShardsConfig};

    /// Takes red pictures and bad words for unsafe.
    #[derive(Debug)]
    struct RedAndBad;

    impl SafetyFilter for RedAndBad {
        fn check_caption(&self, caption: &str) -> Verdict {
            let score = if caption.contains("bad") { 0.9 } else { 0.0 };
            let signal = Signal::new(Category::Hate, score, "words");
            Policy::standard().judge(Subject::Caption, [signal])
        }

        fn check_upload(&self, upload: &Upload<'_>) -> Verdict {
            let red = f32::from(upload.picture.get_pixel(0, 0).0[0]) / 255.0;
            Policy::standard().judge(Subject::Upload, [Signal::new(Category::Sexual, red, "red")])
        }
    }

    /// Twelve pictures: all but the last two in style a; 0 to 4 are red, 5 is 6 again, one of 7's captions is bad, all of
    /// 8's are; and a file that is no picture.
    fn folder(dir: &std::path::Path) {
        let mut list = String::new();
        for k in 0..12_u32 {
            let red = if k < 5 { 250 } else { 20 };
            let shape = if k == 5 { 6 } else { k };
            let picture = RgbImage::from_fn(24, 24, |x, y| {
                let lit = (x / 4 + y / 4 * 5 + shape * shape) % (shape + 2) == 0;
                Rgb([red, if lit { 220 } else { 10 }, u8::try_from(20 * shape).expect("small")])
            });
            picture.save(dir.join(format!("{k:02}.png"))).expect("writable");
            let captions = match k {
                7 => r#"["fine", "a bad one"]"#,
                8 => r#"["bad"]"#,
                _ => r#"["fine"]"#,
            };
            let style = if k < 10 { "a" } else { "b" };
            list += &format!(
                "{{\"file_name\": \"{k:02}.png\", \"captions\": {captions}, \"style\": \"{style}\"}}\n"
            );
        }
        fs::write(dir.join("no.png"), "no picture").expect("writable");
        list += "{\"file_name\": \"no.png\", \"caption\": \"fine\"}\n";
        fs::write(dir.join("metadata.jsonl"), list).expect("writable");
    }

    fn filtered(filter: &Filter) -> (FilterSummary, Vec<Item>, Vec<Sample>) {
        let temporary = tempfile::tempdir().expect("a temporary folder");
        let (from, to) = (temporary.path().join("from"), temporary.path().join("to"));
        fs::create_dir(&from).expect("writable");
        folder(&from);
        let mut report = Vec::new();
        let mut writer = ShardWriter::create(&to, 5).expect("a new folder");
        let data = DataConfig::Folder(FolderConfig::new(&from));
        let summary = filter.run(&data, &mut writer, &mut report).expect("readable");
        writer.finish().expect("writable");
        let report = String::from_utf8(report).expect("JSON");
        let items = report.lines().map(|line| serde_json::from_str(line).expect("an item"));
        let shards = DataConfig::Shards(ShardsConfig::new(to.display().to_string()));
        let mut source = shards.open_once().expect("our own shards");
        let written = std::iter::from_fn(|| source.next().expect("our own shards")).collect();
        (summary, items.collect(), written)
    }

    #[test]
    fn every_sample_has_a_line_that_says_why_it_went_where_it_went() {
        let (summary, items, written) = filtered(&Filter::new(RedAndBad).duplicates(2, 4.0));
        let causes: Vec<Cause> = items.iter().map(|item| item.cause).collect();
        use Cause::{Captions, Duplicate, Fine, Picture, Unreadable};
        let mut expected = vec![Picture; 5];
        expected.extend([Fine, Duplicate, Fine, Captions, Fine, Fine, Fine, Unreadable]);
        assert_eq!(causes, expected);
        assert_eq!(items[0].reason, "picture: refuse; sexual 0.98 (from 0.50) by red");
        assert_eq!(items[6].reason, "looks like 05");
        assert!(items[8].reason.contains("hate 0.90"), "{}", items[8].reason);
        assert_eq!((summary.read, summary.kept, summary.written), (12, 5, 5));
        assert_eq!((summary.captions_refused, summary.causes[&Picture]), (2, 5));
        let keys: Vec<&str> = written.iter().map(|sample| sample.key.as_str()).collect();
        assert_eq!(keys, ["05", "07", "09", "10", "11"]);
        assert_eq!(written[1].captions, ["fine"], "the bad caption is gone");
    }

    #[test]
    fn copies_restore_the_share_of_each_stratum() {
        let (_, items, _) = filtered(&Filter::new(RedAndBad).reweight(Stratum::Style));
        let sum = |items: &[Item]| items.iter().map(|item| item.weight).sum::<f64>();
        let (a, b) = (sum(&items[..10]), sum(&items[10..12]));
        assert!((a / (a + b) - 10.0 / 12.0).abs() < 1e-9, "{items:?}");
        // Over many seeds as many copies are written as the weights say.
        let (mut a, mut b) = (0, 0);
        for seed in 0..40 {
            let filter = Filter::new(RedAndBad).reweight(Stratum::Style).seed(seed);
            let (summary, items, written) = filtered(&filter);
            assert_eq!(summary.written, written.len());
            a += items[..10].iter().map(|item| item.copies).sum::<usize>();
            b += items[10..].iter().map(|item| item.copies).sum::<usize>();
        }
        let share = a as f64 / (a + b) as f64;
        assert!((share - 10.0 / 12.0).abs() < 0.03, "{share}");
    }

    #[test]
    fn shards_are_filtered_as_folders_are_and_every_copy_has_a_name() {
        let temporary = tempfile::tempdir().expect("a temporary folder");
        folder(temporary.path());
        let [once, twice] = ["once", "twice"].map(|name| temporary.path().join(name));
        let mut data = DataConfig::Folder(FolderConfig::new(temporary.path()));
        for to in [&once, &twice] {
            let filter = Filter::new(RedAndBad).reweight(Stratum::Style);
            let mut writer = ShardWriter::create(to, 3).expect("a new folder");
            let summary = filter.run(&data, &mut writer, &mut Vec::new()).expect("readable");
            let written = writer.finish().expect("writable");
            assert_eq!(
                (written.samples, written.shards),
                (summary.written, summary.written.div_ceil(3))
            );
            data = DataConfig::Shards(ShardsConfig::new(to.display().to_string()));
            let mut source = data.open_once().expect("our own shards");
            let mut keys = HashSet::new();
            while let Some(sample) = source.next().expect("our own shards") {
                assert!(keys.insert(sample.key.clone()), "{} twice", sample.key);
            }
            assert_eq!(keys.len(), summary.written);
            assert!(source.skipped().is_empty(), "{:?}", source.skipped());
        }
    }

    #[test]
    fn a_picture_with_bad_captions_takes_no_picture_like_it_along() {
        let temporary = tempfile::tempdir().expect("a temporary folder");
        let picture = RgbImage::from_fn(24, 24, |x, _| Rgb([u8::try_from(x).expect("small"); 3]));
        for name in ["a.png", "b.png"] {
            picture.save(temporary.path().join(name)).expect("writable");
        }
        fs::write(temporary.path().join("a.txt"), "bad").expect("writable");
        fs::write(temporary.path().join("b.txt"), "fine").expect("writable");
        let mut writer = ShardWriter::create(temporary.path().join("to"), 5).expect("new");
        let data = DataConfig::Folder(FolderConfig::new(temporary.path()));
        let filter = Filter::new(RedAndBad).duplicates(2, 2.5);
        let summary = filter.run(&data, &mut writer, &mut Vec::new()).expect("readable");
        let causes = BTreeMap::from([(Cause::Captions, 1), (Cause::Fine, 1)]);
        assert_eq!(summary.causes, causes);
    }

    #[test]
    fn a_stratum_that_is_lost_whole_is_named() {
        /// Refuses everything.
        #[derive(Debug)]
        struct Nothing;
        impl SafetyFilter for Nothing {
            fn check_upload(&self, _: &Upload<'_>) -> Verdict {
                let signal = Signal::new(Category::Spam, 1.0, "nothing");
                Policy::standard().judge(Subject::Upload, [signal])
            }
        }
        let temporary = tempfile::tempdir().expect("a temporary folder");
        folder(temporary.path());
        let mut writer = ShardWriter::create(temporary.path().join("to"), 5).expect("new");
        let data = DataConfig::Folder(FolderConfig::new(temporary.path()));
        let filter = Filter::new(Nothing).reweight(Stratum::Style);
        let summary = filter.run(&data, &mut writer, &mut Vec::new()).expect("readable");
        assert_eq!((summary.kept, summary.strata_lost), (0, vec!["a".into(), "b".into()]));
    }
}
