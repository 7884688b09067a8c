//! The table that a replay prints: for each set and output, how far we are from the recorded values, beside how far
//! the reference's own 32-bit run is from its 64-bit run.

use std::{
    fmt::{Debug, Write as _},
    io::Write as _,
};

use burn::tensor::Tensor;
use unclip_testkit::{FixtureSet, Recorded, compare, fixture_sets, is_default_device};

/// Bounds, relative to `max(1, largest recorded magnitude)`.
pub(crate) mod bound {
    /// One pass through a network.
    pub(crate) const FORWARD: f64 = 1e-5;
    /// One step of a scheduler.
    pub(crate) const SCHEDULER: f64 = 1e-6;
    /// One resampling.
    pub(crate) const RESIZE: f64 = 2e-6;
    /// A finished picture in `[0, 1]`, after a whole run.
    pub(crate) const RUN: f64 = 1e-3;
}

/// Other devices than the default may round this much more.
const OTHER_DEVICE: f64 = 10.0;

/// Where the reference's own 32-bit run is so far from its 64-bit run that a bound is below this many of its error
/// floors, they are the bound, and for all but one in [`FEW`] values: a random network under guidance can amplify
/// rounding beyond any fixed bound, and a few values more than the others.
const FLOORS: f64 = 8.0;

/// One in so many values may exceed a bound made of error floors.
const FEW: usize = 100;

struct Row {
    set: String,
    output: String,
    absolute: f64,
    floor: Option<f64>,
    relative: f64,
    bound: f64,
}

/// The comparisons of one component.
pub(crate) struct Report {
    title: &'static str,
    set: String,
    rows: Vec<Row>,
}

/// Runs `compare_set` for every recorded set, or the one that `UNCLIP_TEST_SET` names, prints the table, and fails when an
/// output exceeds its bound.
pub(crate) fn replay(title: &'static str, mut compare_set: impl FnMut(&FixtureSet, &mut Report)) {
    let mut report = Report { title, set: String::new(), rows: Vec::new() };
    let mut sets = fixture_sets();
    if let Ok(only) = std::env::var("UNCLIP_TEST_SET") {
        sets.retain(|set| set.name() == only);
        assert!(!sets.is_empty(), "there is no recorded set `{only}`");
    }
    for set in sets {
        report.set = set.name();
        compare_set(&set, &mut report);
    }
    report.finish();
}

/// As [`replay`], for recordings that belong to no set.
pub(crate) fn check(title: &'static str, compare_all: impl FnOnce(&mut Report)) {
    let mut report = Report { title, set: "-".to_owned(), rows: Vec::new() };
    compare_all(&mut report);
    report.finish();
}

/// Whether the networks of a set amplify rounding so much that a finished picture has no fixed bound.
pub(crate) fn amplifies(floor: f64) -> bool {
    FLOORS * floor > bound::RUN
}

impl Report {
    /// Compares a tensor with `recorded[name]`; outputs of one name within a set share a row, which keeps the worst.
    pub(crate) fn tensor<const D: usize>(
        &mut self,
        output: &str,
        actual: &Tensor<D>,
        (recorded, name): (&Recorded, &str),
        floor: Option<f64>,
        bound: f64,
    ) {
        assert_eq!(
            actual.dims().as_slice(),
            recorded.shape(name),
            "{}: the shape of {name}",
            self.set
        );
        let values = actual.to_data_as::<f32>().try_to_vec::<f32>().expect("32-bit floats");
        self.values(output, &values, &recorded.floats(name), floor, bound);
    }

    /// Compares values of a known shape.
    pub(crate) fn values(
        &mut self,
        output: &str,
        actual: &[f32],
        expected: &[f32],
        floor: Option<f64>,
        bound: f64,
    ) {
        let found = compare(actual, expected);
        let scale =
            expected.iter().fold(1.0, |scale: f64, &value| scale.max(f64::from(value).abs()));
        let floors = FLOORS * floor.unwrap_or(0.0) / scale;
        let relative = if floors > bound { most(actual, expected) / scale } else { found.relative };
        let bound = bound.max(floors) * if is_default_device() { 1.0 } else { OTHER_DEVICE };
        self.push(Row {
            set: self.set.clone(),
            output: output.to_owned(),
            absolute: found.max_abs,
            floor,
            relative,
            bound,
        });
    }

    /// Compares values whose errors are many and random: the root mean square of the differences, relative to that of the
    /// recorded values, is what the bound is for. It is returned.
    pub(crate) fn typical(
        &mut self,
        output: &str,
        actual: &[f32],
        expected: &[f32],
        bound: f64,
    ) -> f64 {
        assert_eq!(actual.len(), expected.len(), "{}: the values of {output}", self.set);
        let size = |sum: f64| (sum / expected.len() as f64).sqrt();
        let off = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
        let differences = size(actual.iter().zip(expected).map(off).sum());
        let recorded = size(expected.iter().map(|&value| f64::from(value).powi(2)).sum());
        let relative = differences / recorded;
        self.push(Row {
            set: self.set.clone(),
            output: output.to_owned(),
            absolute: compare(actual, expected).max_abs,
            floor: None,
            relative,
            bound,
        });
        relative
    }

    /// Bounds the root mean square of what [`typical`](Self::typical) found of several outputs.
    pub(crate) fn together(&mut self, output: &str, found: &[f64], bound: f64) {
        let squares: f64 = found.iter().map(|relative| relative.powi(2)).sum();
        let relative = (squares / found.len() as f64).sqrt();
        let (set, output) = (self.set.clone(), output.to_owned());
        self.push(Row { set, output, absolute: relative, floor: None, relative, bound });
    }

    /// Demands equality, and says so in the table.
    pub(crate) fn equal<T: PartialEq + Debug>(&mut self, output: &str, actual: &T, expected: &T) {
        assert_eq!(actual, expected, "{} {}: {output}", self.set, self.title);
        let (set, output) = (self.set.clone(), output.to_owned());
        self.push(Row { set, output, absolute: 0.0, floor: None, relative: 0.0, bound: 0.0 });
    }

    fn push(&mut self, row: Row) {
        match self.rows.iter_mut().find(|r| r.set == row.set && r.output == row.output) {
            Some(seen) => {
                seen.absolute = seen.absolute.max(row.absolute);
                seen.relative = seen.relative.max(row.relative);
            }
            None => self.rows.push(row),
        }
    }

    fn finish(self) {
        assert!(!self.rows.is_empty(), "{}: nothing was compared", self.title);
        let exceeded: Vec<String> = self
            .rows
            .iter()
            .filter(|row| row.relative > row.bound)
            .map(|row| {
                format!("{} {}: {:.2e} > {:.0e}", row.set, row.output, row.relative, row.bound)
            })
            .collect();
        assert!(exceeded.is_empty(), "{} differs: {}", self.title, exceeded.join("; "));
    }
}

/// What all but one in [`FEW`] of the differences stay within.
fn most(actual: &[f32], expected: &[f32]) -> f64 {
    let mut differences: Vec<f64> =
        actual.iter().zip(expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).collect();
    differences.sort_by(f64::total_cmp);
    let beyond = differences.len() / FEW;
    differences.iter().rev().nth(beyond).copied().unwrap_or(0.0)
}

/// The table stands in the output of every run, failed ones included: it is written past the test harness, which keeps
/// what a passing test prints.
impl Drop for Report {
    fn drop(&mut self) {
        let width = self.rows.iter().map(|row| row.output.chars().count()).max().unwrap_or(0);
        let mut table = format!(
            "\n{}\n  {:8} {:width$} {:>9} {:>9} {:>9} {:>7}\n",
            self.title, "set", "output", "largest", "f32 floor", "relative", "bound"
        );
        for row in &self.rows {
            let floor = row.floor.map_or_else(|| "-".to_owned(), |floor| format!("{floor:.1e}"));
            let bound =
                if row.bound == 0.0 { "exact".to_owned() } else { format!("{:.0e}", row.bound) };
            let _ = writeln!(
                table,
                "  {:8} {:width$} {:>9.1e} {floor:>9} {:>9.1e} {bound:>7}{}",
                row.set,
                row.output,
                row.absolute,
                row.relative,
                if row.relative > row.bound { "  EXCEEDED" } else { "" }
            );
        }
        line(table.trim_end());
    }
}

/// Prints past the test harness.
pub(crate) fn line(text: &str) {
    // Whole in one write, so that tests on other threads do not cut in.
    let _ = std::io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}
