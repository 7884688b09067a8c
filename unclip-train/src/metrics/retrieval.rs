//! Recall: whether the right answer is among the first.

use ndarray::ArrayView2;
use unclip_core::Error as CoreError;

use super::rows;
use crate::Result;

/// How often the right answer was among the first 1, 5 and 10, as shares, and its mean rank, from 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recall {
    /// Among the first.
    pub at_1: f64,
    /// Among the first 5.
    pub at_5: f64,
    /// Among the first 10.
    pub at_10: f64,
    /// The mean rank of the best right answer.
    pub mean_rank: f64,
}

/// Ranks `targets` by their cosine with each query, and looks where the first right one is.
///
/// Where several targets are right, as with captions that occur more than once, the best counts. A wrong target that is
/// as close as the right one comes before it, so embeddings that have collapsed into one point recall nothing.
///
/// # Shapes
///
/// - `queries`: `[queries, width]`; `targets`: `[targets, width]`, of any length
///
/// # Errors
///
/// [`unclip_core::Error::InvalidInput`] when either is empty, the widths differ, a number is not finite, or a query has
/// no right target.
pub fn recall(
    queries: ArrayView2<'_, f32>,
    targets: ArrayView2<'_, f32>,
    is_right: impl Fn(usize, usize) -> bool,
) -> Result<Recall> {
    let (queries, targets) = rows::pair(("queries", queries), ("targets", targets))?;
    let cosines = rows::normalise(queries).dot(&rows::normalise(targets).t());
    let mut sums = [0.0; 4];
    for (query, cosines) in cosines.outer_iter().enumerate() {
        let right = cosines.iter().enumerate().filter(|(target, _)| is_right(query, *target));
        let Some(best) = right.map(|(_, cosine)| *cosine).max_by(f64::total_cmp) else {
            let expected = "a right target for each";
            return Err(
                CoreError::invalid("queries", format_args!("query {query}"), expected).into()
            );
        };
        let before = cosines.iter().enumerate();
        let before =
            before.filter(|(target, cosine)| **cosine >= best && !is_right(query, *target));
        let rank = before.count() + 1;
        for (sum, most) in sums.iter_mut().zip([1, 5, 10]) {
            *sum += f64::from(u8::from(rank <= most));
        }
        sums[3] += rank as f64;
    }
    let [at_1, at_5, at_10, mean_rank] = sums.map(|sum| sum / cosines.nrows() as f64);
    Ok(Recall { at_1, at_5, at_10, mean_rank })
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;
    use crate::metrics::reference::{assert_near, waves};

    #[test]
    fn ranks_are_those_of_numpy() {
        let (queries, targets) = (waves(30, 8, 0.0), waves(30, 8, 1.1));
        let recall = recall(queries.view(), targets.view(), |q, t| q == t).expect("valid");
        assert_near(recall.at_1, 8.0 / 30.0, 1e-12);
        assert_near(recall.at_5, 28.0 / 30.0, 1e-12);
        assert_near(recall.at_10, 28.0 / 30.0, 1e-12);
        assert_near(recall.mean_rank, 3.766_666_667, 1e-8);
    }

    #[test]
    fn any_right_target_counts_and_ties_do_not_help() {
        let queries = array![[1.0, 0.0]];
        let targets = array![[0.0, 1.0], [3.0, 0.1], [2.0, 0.0]];
        let only_last = recall(queries.view(), targets.view(), |_, t| t == 2).expect("valid");
        assert_eq!((only_last.at_1, only_last.mean_rank), (1.0, 1.0));
        let second = recall(queries.view(), targets.view(), |_, t| t < 2).expect("valid");
        assert_eq!((second.at_1, second.at_5, second.mean_rank), (0.0, 1.0, 2.0));
        let collapsed = Array2::ones((20, 4));
        let none = recall(collapsed.view(), collapsed.view(), |q, t| q == t).expect("valid");
        assert_eq!((none.at_1, none.at_10, none.mean_rank), (0.0, 0.0, 20.0));
    }

    #[test]
    fn questions_without_an_answer_are_refused() {
        let rows = waves(3, 4, 0.0);
        let refused = |q: &Array2<f32>, t: &Array2<f32>, part: &str| {
            let error = recall(q.view(), t.view(), |_, t| t == 0).expect_err("refused");
            assert!(error.to_string().contains(part), "{error}");
        };
        refused(&waves(3, 5, 0.0), &rows, "the width of `targets`");
        refused(&Array2::zeros((0, 4)), &rows, "at least one row");
        refused(&rows.mapv(|v| v / 0.0), &rows, "finite");
        let error = recall(rows.view(), rows.view(), |_, _| false).expect_err("nothing is right");
        assert!(error.to_string().contains("a right target for each"), "{error}");
    }
}
