//! Scaled dot-product attention.

use burn::tensor::{Tensor, module, ops::AttentionModuleOptions};

/// `softmax(scale · q kᵀ + bias) v`, head by head.
///
/// # Shapes
///
/// - `query`: `[batch, heads, queries, width]`
/// - `key`, `value`: `[batch, heads, keys, width]`
/// - `bias`: added to the scores; `[batch, 1, queries, keys]`, or 1 in place of `batch` or `queries`
/// - output: `[batch, heads, queries, width]`
///
/// # Panics
///
/// When an axis differs from the shapes above.
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    bias: Option<Tensor<4>>,
    scale: f64,
) -> Tensor<4> {
    #[cfg(any(feature = "flex", test))]
    if let Some(out) = super::kernels::attention(&query, &key, &value, bias.as_ref(), scale) {
        return out;
    }
    let bias = bias.map(|bias| {
        let [batch, heads, _, keys] = bias.dims();
        super::widen(bias, &query).expand([batch, heads, query.dims()[2], keys])
    });
    let options = AttentionModuleOptions { scale: Some(scale), softcap: None, is_causal: false };
    module::attention(query, key, value, None, bias, options)
}
