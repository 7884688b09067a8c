//! What the prior and the decoder are told of captions.

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::{Error, Result};

/// Added to the score of a masked key.
///
/// A finite number, as in the reference: two of them still fit a 16-bit float, and a row whose keys are all masked
/// stays finite.
pub const MASKED: f32 = -10_000.0;

/// Captions as a CLIP text tower gives them, one row a caption.
#[derive(Debug, Clone)]
pub struct TextConditioning {
    /// The projected embedding, `[batch, width]`.
    pub embedding: Tensor<2>,
    /// The last hidden states, `[batch, tokens, state_width]`.
    pub states: Tensor<3>,
    /// Which tokens belong to the caption, padding being the rest; `batch` rows of `tokens` values.
    pub mask: Vec<Vec<bool>>,
}

impl TextConditioning {
    /// Captions in the batch.
    pub fn batch(&self) -> usize {
        self.embedding.dims()[0]
    }

    /// Tokens of each caption, padding included.
    pub fn tokens(&self) -> usize {
        self.states.dims()[1]
    }

    /// Checks that the parts describe `batch` captions, and their widths.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] under the name `field` when they do not.
    pub fn check(
        &self,
        field: &'static str,
        batch: usize,
        width: usize,
        state_width: usize,
    ) -> Result<()> {
        let embedding = self.embedding.dims();
        if embedding != [batch, width] {
            return Err(Error::invalid(
                field,
                format!("an embedding of shape {embedding:?}"),
                format!("[{batch}, {width}]"),
            ));
        }
        let states = self.states.dims();
        let tokens = self.tokens();
        if states != [batch, tokens, state_width] || tokens == 0 {
            return Err(Error::invalid(
                field,
                format!("hidden states of shape {states:?}"),
                format!("[{batch}, tokens, {state_width}]"),
            ));
        }
        if self.mask.len() != batch || self.mask.iter().any(|row| row.len() != tokens) {
            let lengths: Vec<usize> = self.mask.iter().map(Vec::len).take(8).collect();
            return Err(Error::invalid(
                field,
                format!("a mask of {} rows, of {lengths:?} values", self.mask.len()),
                format!("{batch} rows of {tokens} values"),
            ));
        }
        Ok(())
    }

    /// The captions at `indices`, in that order, some maybe more than once.
    ///
    /// # Panics
    ///
    /// When there is no index, or one of them is not less than [`batch`](Self::batch).
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        let embedding = |i: &usize| self.embedding.clone().narrow(0, *i, 1);
        let states = |i: &usize| self.states.clone().narrow(0, *i, 1);
        Self {
            embedding: Tensor::cat(indices.iter().map(embedding).collect(), 0),
            states: Tensor::cat(indices.iter().map(states).collect(), 0),
            mask: indices.iter().map(|&i| self.mask[i].clone()).collect(),
        }
    }

    /// The same captions as numbers of another type.
    #[must_use]
    pub fn cast(self, dtype: DType) -> Self {
        Self { embedding: self.embedding.cast(dtype), states: self.states.cast(dtype), ..self }
    }

    /// These captions followed by `other`'s, in one batch.
    ///
    /// # Panics
    ///
    /// When their tokens or widths differ.
    #[must_use]
    pub fn followed_by(&self, other: &Self) -> Self {
        Self {
            embedding: Tensor::cat(vec![self.embedding.clone(), other.embedding.clone()], 0),
            states: Tensor::cat(vec![self.states.clone(), other.states.clone()], 0),
            mask: self.mask.iter().chain(&other.mask).cloned().collect(),
        }
    }
}

/// What a mask adds to the scores of keys, after `leading` keys that are never masked.
///
/// # Shapes
///
/// - `mask`: `batch` rows of `tokens` values
/// - output: `[batch, leading + tokens]`, 0 or [`MASKED`]
///
/// # Panics
///
/// When rows differ in length.
pub fn mask_bias(mask: &[Vec<bool>], leading: usize, device: &Device) -> Tensor<2> {
    let tokens = mask.first().map_or(0, Vec::len);
    let mut values = Vec::with_capacity(mask.len() * (leading + tokens));
    for row in mask {
        assert_eq!(row.len(), tokens, "the rows of a mask have one length");
        values.extend(std::iter::repeat_n(0.0, leading));
        values.extend(row.iter().map(|&kept| if kept { 0.0 } else { MASKED }));
    }
    Tensor::from_data(TensorData::new(values, [mask.len(), leading + tokens]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captions(batch: usize, tokens: usize, fill: f32) -> TextConditioning {
        let device = Device::flex();
        TextConditioning {
            embedding: Tensor::full([batch, 3], fill, &device),
            states: Tensor::full([batch, tokens, 2], fill, &device),
            mask: vec![vec![fill > 0.5; tokens]; batch],
        }
    }

    #[test]
    fn the_first_batch_comes_first() {
        let both = captions(1, 4, 0.0).followed_by(&captions(2, 4, 1.0));
        assert_eq!((both.batch(), both.tokens()), (3, 4));
        assert_eq!(both.mask, [vec![false; 4], vec![true; 4], vec![true; 4]]);
        let column = both.embedding.narrow(1, 0, 1).into_data();
        assert_eq!(column.try_to_vec::<f32>().expect("32-bit floats"), [0.0, 1.0, 1.0]);
    }

    #[test]
    fn captions_are_selected_in_order_and_as_often_as_they_are_named() {
        let both = captions(1, 4, 0.0).followed_by(&captions(1, 4, 1.0));
        let chosen = both.select(&[1, 0, 1]);
        assert_eq!(chosen.mask, [vec![true; 4], vec![false; 4], vec![true; 4]]);
        let firsts = [
            chosen.embedding.narrow(1, 0, 1),
            chosen.states.narrow(1, 3, 1).narrow(2, 0, 1).squeeze_dim(2),
        ];
        for column in firsts {
            let column = column.into_data().try_to_vec::<f32>().expect("32-bit floats");
            assert_eq!(column, [1.0, 0.0, 1.0]);
        }
    }

    #[test]
    fn a_part_of_another_shape_is_refused_by_the_name_of_its_field() {
        let good = captions(2, 4, 1.0);
        good.check("caption", 2, 3, 2).expect("the shapes agree");
        let ragged = TextConditioning { mask: vec![vec![true; 4], vec![true; 3]], ..good.clone() };
        for (bad, batch, width, state_width) in
            [(&good, 1, 3, 2), (&good, 2, 4, 2), (&good, 2, 3, 3), (&ragged, 2, 3, 2)]
        {
            let error = bad.check("caption", batch, width, state_width).expect_err("shapes differ");
            assert!(error.to_string().starts_with("`caption` is "), "{error}");
        }
    }

    #[test]
    fn leading_keys_are_never_masked() {
        let bias = mask_bias(&[vec![true, false], vec![false, true]], 2, &Device::flex());
        let values = bias.into_data().try_to_vec::<f32>().expect("32-bit floats");
        assert_eq!(values, [0.0, 0.0, 0.0, MASKED, 0.0, 0.0, MASKED, 0.0]);
    }
}
