//! Whether made pictures are copies.

use ndarray::{ArrayView2, Axis};
use unclip_core::Error as CoreError;

use super::rows;
use crate::Result;

/// How close a made picture is to the two training pictures next to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbours {
    /// The nearest training picture.
    pub nearest: usize,
    /// The distance to it.
    pub first: f64,
    /// The distance to the second nearest.
    pub second: f64,
}

/// Which made pictures are copies.
#[derive(Debug, Clone, PartialEq)]
pub struct Memorised {
    /// The share of made pictures that are much closer to one training picture than to any other.
    pub share: f64,
    /// The neighbours of each made picture.
    pub neighbours: Vec<Neighbours>,
}

/// A made picture counts as memorised below this ratio of the two distances.
const RATIO: f64 = 1.0 / 3.0;

/// The nearest-neighbour test of Gu et al. 2023 ("On Memorization in Diffusion Models"): a picture is memorised when its
/// distance to the nearest training picture is less than a third of that to the second.
///
/// Both near-copies in training and plain backgrounds blind it, so training pictures should be without duplicates, and
/// the same test of held-out pictures says what chance gives.
///
/// # Shapes
///
/// - `made`: `[pictures, width]`; `training`: `[pictures, width]`: pixels or features
///
/// # Errors
///
/// [`unclip_core::Error::InvalidInput`] when widths differ, a number is not finite, there is no made picture or are
/// fewer than two training pictures.
pub fn memorised(made: ArrayView2<'_, f32>, training: ArrayView2<'_, f32>) -> Result<Memorised> {
    /// Made pictures at a time: bounds the table of distances.
    const BLOCK: usize = 256;
    if training.nrows() < 2 {
        let found = format_args!("{} rows", training.nrows());
        return Err(CoreError::invalid("training", found, "2 or more").into());
    }
    let (made, training) = rows::pair(("made", made), ("training", training))?;
    let squares = (&training * &training).sum_axis(Axis(1));
    let mut neighbours = Vec::with_capacity(made.nrows());
    for block in made.axis_chunks_iter(Axis(0), BLOCK) {
        let products = block.dot(&training.t());
        for (row, products) in block.outer_iter().zip(products.outer_iter()) {
            // What |row|² adds to all changes no order.
            let distance = |index: usize| squares[index] - 2.0 * products[index];
            let mut order = [(f64::INFINITY, 0); 2];
            for index in 0..training.nrows() {
                let here = (distance(index), index);
                if here.0 < order[0].0 {
                    order = [here, order[0]];
                } else if here.0 < order[1].0 {
                    order[1] = here;
                }
            }
            // The two distances anew, without the cancellation of the products.
            let [first, second] = order.map(|(_, index)| {
                let apart = &row - &training.row(index);
                apart.dot(&apart).sqrt()
            });
            neighbours.push(Neighbours { nearest: order[0].1, first, second });
        }
    }
    let copies = neighbours.iter().filter(|n| n.first < RATIO * n.second).count();
    Ok(Memorised { share: copies as f64 / neighbours.len() as f64, neighbours })
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::metrics::reference::{assert_near, waves};

    #[test]
    fn neighbours_are_those_of_scipy() {
        let (made, training) = (waves(300, 6, 0.3), waves(50, 6, 0.0));
        let result = memorised(made.view(), training.view()).expect("valid");
        for (index, expected) in NEIGHBOURS {
            let found = result.neighbours[index];
            assert_eq!(found.nearest, expected.nearest, "{index}");
            assert_near(found.first, expected.first, 1e-5);
            assert_near(found.second, expected.second, 1e-5);
        }
        assert_near(result.share, SHARE, 1e-9);
    }

    #[test]
    fn a_copy_counts_and_a_picture_between_two_does_not() {
        let training = array![[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]];
        let made = array![[0.01, 0.0], [1.5, 0.0], [3.0, 0.0], [0.8, 0.0]];
        let result = memorised(made.view(), training.view()).expect("valid");
        let nearest: Vec<usize> = result.neighbours.iter().map(|n| n.nearest).collect();
        assert_eq!(nearest[..1], [0]);
        assert_eq!(nearest[2..], [1, 0]);
        assert_eq!(result.share, 0.5);
    }

    #[test]
    fn one_training_picture_has_no_second() {
        let one = array![[0.0, 0.0]];
        let error = memorised(one.view(), one.view()).expect_err("no second neighbour");
        assert!(error.to_string().contains("2 or more"), "{error}");
    }

    const SHARE: f64 = 0.01;
    const NEIGHBOURS: [(usize, Neighbours); 4] = [
        (0, Neighbours { nearest: 0, first: 0.513_931_649, second: 0.545_487_585 }),
        (1, Neighbours { nearest: 1, first: 0.480_098_228, second: 0.533_617_171 }),
        (150, Neighbours { nearest: 7, first: 0.444_848_752, second: 0.552_710_786 }),
        (299, Neighbours { nearest: 18, first: 0.971_242_180, second: 1.003_620_366 }),
    ];
}
