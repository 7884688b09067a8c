//! Near-duplicates.

use ndarray::{Array2, Axis};

/// Says which of some samples look alike. The relation is symmetric.
pub trait Likeness {
    /// How many samples there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether two of them look alike.
    fn alike(&self, a: usize, b: usize) -> bool;
}

/// A sample that looks like one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duplicate {
    /// The sample.
    pub index: usize,
    /// The one that is kept.
    pub of: usize,
}

/// The samples that look like an earlier one that is kept; drop them and no two of the rest are alike.
///
/// Every pair is compared. Put the best first, such as those with the most captions. A chain of small steps does not
/// collapse into one sample: what is dropped looks like what stays, and not like something that was dropped too.
pub fn deduplicate(likeness: &impl Likeness) -> Vec<Duplicate> {
    let mut kept: Vec<usize> = Vec::new();
    let mut duplicates = Vec::new();
    for index in 0..likeness.len() {
        match kept.iter().find(|&&earlier| likeness.alike(earlier, index)) {
            Some(&of) => duplicates.push(Duplicate { index, of }),
            None => kept.push(index),
        }
    }
    duplicates
}

/// Likeness by the cosine between features of a network, such as CLIP's image embeddings.
#[derive(Debug, Clone)]
pub struct Features {
    unit: Array2<f32>,
    cosine: f32,
}

impl Features {
    /// Samples are alike whose features have a cosine of at least `cosine`. A row of zeros is like no other.
    ///
    /// # Shapes
    ///
    /// - `features`: `[samples, width]`, of any length
    pub fn new(mut features: Array2<f32>, cosine: f32) -> Self {
        for mut row in features.axis_iter_mut(Axis(0)) {
            let norm = row.dot(&row).sqrt();
            if norm > 0.0 {
                row /= norm;
            }
        }
        Self { unit: features, cosine }
    }
}

impl Likeness for Features {
    fn len(&self) -> usize {
        self.unit.nrows()
    }

    fn alike(&self, a: usize, b: usize) -> bool {
        self.unit.row(a).dot(&self.unit.row(b)) >= self.cosine
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    struct OnALine(Vec<f64>);

    impl Likeness for OnALine {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn alike(&self, a: usize, b: usize) -> bool {
            (self.0[a] - self.0[b]).abs() <= 1.0
        }
    }

    #[test]
    fn what_is_dropped_looks_like_what_stays() {
        let points = OnALine(vec![0.0, 0.9, 1.8, 2.7, 9.0, 0.1]);
        let dropped = deduplicate(&points);
        let pairs: Vec<(usize, usize)> = dropped.iter().map(|d| (d.index, d.of)).collect();
        assert_eq!(pairs, [(1, 0), (3, 2), (5, 0)]);
        assert!(deduplicate(&OnALine(vec![])).is_empty(), "nothing to drop");
    }

    #[test]
    fn features_are_compared_by_angle() {
        let features = array![[1.0, 0.0], [5.0, 0.1], [0.0, 2.0], [0.0, 0.0], [0.0, 0.0]];
        let dropped = deduplicate(&Features::new(features, 0.99));
        assert_eq!(dropped, [Duplicate { index: 1, of: 0 }]);
    }
}
