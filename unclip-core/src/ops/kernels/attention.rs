//! Attention.

use std::sync::Arc;

use burn::{
    backend::flex::FlexTensor,
    tensor::{DType, Tensor},
};
use unclip_kernels::attention::{
    self as kernels, AttentionInput, AttentionShape, Heads, Products, ScoreBias,
};

use super::{
    Value, activations, contiguous, path, permute,
    record::{Operation, reach, record},
    room, tensor, typed, values,
};

/// `softmax(scale · q kᵀ + bias) v`; the shapes are those of [`ops::attention`](crate::ops::attention).
pub(in crate::ops) fn attention(
    query: &Tensor<4>,
    key: &Tensor<4>,
    value: &Tensor<4>,
    bias: Option<&Tensor<4>>,
    scale: f64,
) -> Option<Tensor<4>> {
    let dtype = query.dtype();
    if key.dtype() != dtype || value.dtype() != dtype {
        return None;
    }
    let [batch, heads, queries, width] = query.dims();
    let keys = key.dims()[2];
    assert_eq!(key.dims(), [batch, heads, keys, width], "the shape of the keys");
    assert_eq!(value.dims(), [batch, heads, keys, width], "the shape of the values");
    if keys == 0 {
        return None;
    }
    let [query, key, value] = [query, key, value].map(activations);
    let (query, key, value) = (query?, key?, value?);
    let bias = match bias {
        Some(bias) => Some(Bias::new(bias, [batch, queries, keys])?),
        None => None,
    };
    let operands = [Some(&query), Some(&key), Some(&value)];
    #[expect(clippy::cast_possible_truncation, reason = "scores are in 32 bits")]
    let scale = scale as f32;
    let [query, key, value] = [&query, &key, &value].map(|x| Tokens::new(x.tensor.clone()));
    let shape = AttentionShape { batch, heads, queries, keys, width };
    let read = Read { shape, query, key, value, bias, scale };
    let mut log_sums = vec![0.0; batch * heads * queries];
    let out = typed!(dtype, E => {
        let is_in_graph = operands.iter().flatten().any(|operand| operand.is_in_graph());
        let mut out = room::<E>(batch * queries * heads * width, is_in_graph);
        kernels::attention(path(), &read.view::<E>(), products(dtype), &mut out, Some(&mut log_sums));
        tensor(out, [batch, queries, heads, width])
    });
    let heads_first = permute(out.clone(), &[0, 2, 1, 3]);
    let operation = || Attended { read: Arc::new(read), out, log_sums: log_sums.into() };
    Some(record(operands, heads_first, operation).into())
}

/// How factors of type `dtype` are multiplied.
fn products(dtype: DType) -> Products {
    if dtype == DType::BF16 { Products::Bf16 } else { Products::F32 }
}

/// What an attention read.
#[derive(Debug)]
struct Read {
    shape: AttentionShape,
    query: Tokens,
    key: Tokens,
    value: Tokens,
    bias: Option<Bias>,
    scale: f32,
}

impl Read {
    fn view<E: Value>(&self) -> AttentionInput<'_, E> {
        AttentionInput {
            shape: self.shape,
            query: self.query.view(),
            key: self.key.view(),
            value: self.value.view(),
            bias: self.bias.as_ref().map(Bias::view),
            scale: self.scale,
        }
    }
}

/// An attention with what it read and gave.
#[derive(Debug, Clone)]
struct Attended {
    read: Arc<Read>,
    /// `[batch, queries, heads, width]`, contiguous.
    out: FlexTensor,
    /// `[batch, heads, queries]`.
    log_sums: Arc<[f32]>,
}

impl Operation<3> for Attended {
    fn backward(&self, gradient: FlexTensor, wanted: [bool; 3]) -> [Option<FlexTensor>; 3] {
        let AttentionShape { batch, heads, queries, keys, width } = self.read.shape;
        let gradient = contiguous(permute(gradient, &[0, 2, 1, 3]));
        let dtype = self.out.dtype();
        typed!(dtype, E => {
            let found = kernels::attention_backward(
                path(),
                &self.read.view::<E>(),
                products(dtype),
                values(&self.out),
                &self.log_sums,
                values(&gradient),
            );
            let [query, key, value] = wanted;
            let give = |wanted: bool, values: Vec<E>, rows: usize| {
                wanted.then(|| permute(tensor(values, [batch, rows, heads, width]), &[0, 2, 1, 3]))
            };
            [
                give(query, found.query, queries),
                give(key, found.key, keys),
                give(value, found.value, keys),
            ]
        })
    }
}

/// `[batch, heads, rows, width]`, the values of a row being a run.
#[derive(Debug)]
struct Tokens(FlexTensor);

impl Tokens {
    fn new(x: FlexTensor) -> Self {
        let runs = x.layout().strides().iter().all(|&stride| stride >= 0)
            && (x.layout().strides()[3] == 1 || x.layout().shape()[3] == 1);
        Self(if runs { x } else { contiguous(x) })
    }

    fn view<E: Value>(&self) -> Heads<'_, E> {
        let layout = self.0.layout();
        let stride = |axis: usize| layout.strides()[axis].unsigned_abs();
        let values = &self.0.storage::<E>()[layout.start_offset()..];
        Heads::new(values, layout.shape().dims(), [stride(0), stride(1), stride(2)])
    }
}

/// What is added to scores, in 32 bits.
#[derive(Debug)]
struct Bias {
    tensor: FlexTensor,
    sizes: [usize; 3],
    strides: [usize; 2],
}

impl Bias {
    /// A bias of one row for all queries, or one picture for all, is not written out. There is none for a bias that
    /// records: the kernels have no gradient for it.
    fn new(bias: &Tensor<4>, sizes: [usize; 3]) -> Option<Self> {
        let [batch, queries, keys] = sizes;
        let [own_batch, heads, own_queries, own_keys] = bias.dims();
        let fits = |own: usize, size: usize| own == size || own == 1;
        assert!(
            fits(own_batch, batch) && heads == 1 && fits(own_queries, queries) && own_keys == keys,
            "a bias of shape {:?} for scores of {sizes:?}",
            bias.dims()
        );
        let bias = bias.clone().cast(DType::F32);
        let operand = reach(&bias)?;
        if operand.is_recorded() {
            return None;
        }
        let tensor = operand.tensor;
        let run = tensor.layout().strides()[3] == 1
            && tensor.layout().strides().iter().all(|&stride| stride >= 0);
        let tensor = if run || keys == 1 { tensor } else { contiguous(tensor) };
        let strides = [(0, own_batch), (2, own_queries)].map(|(axis, size)| {
            if size == 1 { 0 } else { tensor.layout().strides()[axis].unsigned_abs() }
        });
        Some(Self { tensor, sizes, strides })
    }

    fn view(&self) -> ScoreBias<'_> {
        let values = &self.tensor.storage::<f32>()[self.tensor.layout().start_offset()..];
        ScoreBias::new(values, self.sizes, self.strides)
    }
}
