//! From the bytes of a file to the elements of a tensor, through small buffers, on all threads.
//!
//! The elements go straight into the memory that becomes the tensor. (Bytes read in one piece would be copied again by
//! Burn, which demands memory aligned for the elements.) Most of the time goes into copies out of the file cache and into
//! the first touch of new memory, both of which one core alone cannot do at the memory's rate: so each thread reads,
//! converts and touches chunks of its own.

use burn::tensor::{BoolStore, DType, Element, TensorData, bf16, f16};
use bytemuck::Pod;
use half::slice::HalfFloatSliceExt as _;
use rayon::{
    iter::{IndexedParallelIterator as _, ParallelIterator as _},
    slice::ParallelSliceMut as _,
};
use safetensors::tensor::Dtype;

use super::header::TensorInfo;
use crate::{
    Error, Result,
    memory::{IntoBytes as _, Room, room},
};

/// Bytes that are read at a time: few enough to stay in a core's cache until they are converted, many beside a system
/// call. A multiple of every element's size.
const CHUNK: usize = 1 << 18;

/// Whether a type is one of those that can be converted.
pub(super) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Burn's name for a type, where it has one.
pub(super) fn burn_type(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool(BoolStore::U8),
        _ => return None,
    })
}

/// Reads the tensor that `info` describes as `dtype`: its own type or, for floats, [`DType::F32`], [`DType::F16`] or
/// [`DType::BF16`].
///
/// `fill` fills a buffer from an offset within the tensor, for several threads at a time; `refuse` makes the error for a
/// reason.
///
/// # Errors
///
/// What `fill` returns, and what `refuse` makes of types that do not convert or memory that is not there.
pub(super) fn read(
    info: &TensorInfo,
    dtype: DType,
    fill: impl Fn(u64, &mut [u8]) -> Result<()> + Sync,
    refuse: impl Fn(String) -> Error,
) -> Result<TensorData> {
    let source = Source { info, fill, refuse };
    match (info.dtype, dtype) {
        (Dtype::F64, DType::F64) => source.elements(f64::from_le_bytes),
        (Dtype::F32, DType::F32) => source.elements(f32::from_le_bytes),
        (Dtype::F16, DType::F16) => source.elements(f16::from_le_bytes),
        (Dtype::BF16, DType::BF16) => source.elements(bf16::from_le_bytes),
        (Dtype::I64, DType::I64) => source.elements(i64::from_le_bytes),
        (Dtype::I32, DType::I32) => source.elements(i32::from_le_bytes),
        (Dtype::I16, DType::I16) => source.elements(i16::from_le_bytes),
        (Dtype::I8, DType::I8) => source.elements(i8::from_le_bytes),
        (Dtype::U64, DType::U64) => source.elements(u64::from_le_bytes),
        (Dtype::U32, DType::U32) => source.elements(u32::from_le_bytes),
        (Dtype::U16, DType::U16) => source.elements(u16::from_le_bytes),
        (Dtype::U8, DType::U8) => source.elements(u8::from_le_bytes),
        (Dtype::BOOL, DType::Bool(BoolStore::U8)) => source.flags(),
        (from, DType::F32) if is_float(from) => source.collect(|bytes, to| floats(bytes, from, to)),
        (from, DType::F16) if is_float(from) => source.collect(|bytes, to: &mut [f16]| {
            let mut wide = vec![0.0; to.len()];
            floats(bytes, from, &mut wide);
            to.convert_from_f32_slice(&wide);
        }),
        (from, DType::BF16) if is_float(from) => source.collect(|bytes, to: &mut [bf16]| {
            let mut wide = vec![0.0; to.len()];
            floats(bytes, from, &mut wide);
            to.convert_from_f32_slice(&wide);
        }),
        (from, to) => Err((source.refuse)(format!("is {from}, which is not read as {to:?}"))),
    }
}

/// A tensor in a file.
struct Source<'a, F, R> {
    info: &'a TensorInfo,
    fill: F,
    refuse: R,
}

impl<F, R> Source<'_, F, R>
where
    F: Fn(u64, &mut [u8]) -> Result<()> + Sync,
    R: Fn(String) -> Error,
{
    /// The elements as they are: where the file's order of bytes is this machine's, read right into their place.
    fn elements<E: Element + Pod, const N: usize>(
        self,
        from: impl Fn([u8; N]) -> E + Sync,
    ) -> Result<TensorData> {
        if cfg!(target_endian = "big") {
            return self.collect(|bytes, to| set(to, split(bytes).map(&from)));
        }
        let shape = self.info.shape.clone();
        let values = self
            .chunks(|fill, _, offset, to: &mut [E]| fill(offset, bytemuck::cast_slice_mut(to)))?;
        Ok(TensorData::from_bytes(values.into_bytes(), shape, E::dtype()))
    }

    fn flags(self) -> Result<TensorData> {
        let shape = self.info.shape.clone();
        let flags = self.values(|bytes, to| set(to, bytes.iter().map(|&b| u8::from(b != 0))))?;
        Ok(TensorData::from_bytes(flags.into_bytes(), shape, DType::Bool(BoolStore::U8)))
    }

    fn collect<E: Element + Pod>(
        self,
        convert: impl Fn(&[u8], &mut [E]) + Sync,
    ) -> Result<TensorData> {
        let shape = self.info.shape.clone();
        Ok(TensorData::from_bytes(self.values(convert)?.into_bytes(), shape, E::dtype()))
    }

    /// Elements that `convert` makes of bytes.
    fn values<E: Pod + Send>(self, convert: impl Fn(&[u8], &mut [E]) + Sync) -> Result<Room<E>> {
        let width = self.info.dtype.bitsize() / 8;
        self.chunks(|fill, buffer, offset, to| {
            buffer.resize(to.len() * width, 0);
            fill(offset, buffer)?;
            convert(buffer, to);
            Ok(())
        })
    }

    /// Elements that `read` sets chunk by chunk, given a buffer of the thread's and where in the tensor the chunk begins.
    fn chunks<E: Pod + Send>(
        self,
        read: impl Fn(&F, &mut Vec<u8>, u64, &mut [E]) -> Result<()> + Sync,
    ) -> Result<Room<E>> {
        let elements = usize::try_from(self.info.elements()).ok();
        let Some(mut values) = elements.and_then(room) else {
            return Err((self.refuse)("does not fit into memory".to_owned()));
        };
        let (share, fill) = (CHUNK * 8 / self.info.dtype.bitsize(), self.fill);
        let read = |buffer: &mut Vec<u8>, (index, to): (usize, &mut [E])| {
            read(&fill, buffer, (index * CHUNK) as u64, to)
        };
        if values.len() <= share {
            read(&mut Vec::new(), (0, &mut values))?;
        } else {
            values.par_chunks_mut(share).enumerate().try_for_each_init(Vec::new, read)?;
        }
        Ok(values)
    }
}

/// Sets each element to the next value.
fn set<E>(to: &mut [E], values: impl Iterator<Item = E>) {
    to.iter_mut().zip(values).for_each(|(to, value)| *to = value);
}

/// Little-endian bytes of a float type, in 32 bits.
fn floats(bytes: &[u8], dtype: Dtype, to: &mut [f32]) {
    #[expect(clippy::cast_possible_truncation, reason = "weights are held in 32 bits at most")]
    fn narrow(value: f64) -> f32 {
        value as f32
    }
    match dtype {
        Dtype::F64 => set(to, split(bytes).map(|b| narrow(f64::from_le_bytes(b)))),
        Dtype::F16 => {
            split(bytes).map(f16::from_le_bytes).collect::<Vec<_>>().convert_to_f32_slice(to);
        }
        Dtype::BF16 => {
            split(bytes).map(bf16::from_le_bytes).collect::<Vec<_>>().convert_to_f32_slice(to);
        }
        _ => set(to, split(bytes).map(f32::from_le_bytes)),
    }
}

fn split<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(dtype: Dtype, bytes: &[u8], to: DType) -> Result<TensorData> {
        let width = dtype.bitsize() / 8;
        let info = TensorInfo {
            dtype,
            shape: vec![bytes.len() / width],
            bytes: bytes.len() as u64,
            file: 0,
            offset: 0,
        };
        let fill = |offset: u64, buffer: &mut [u8]| {
            let start = usize::try_from(offset).expect("small");
            buffer.copy_from_slice(&bytes[start..][..buffer.len()]);
            Ok(())
        };
        read(&info, to, fill, |reason| Error::Safetensors { path: "x".into(), reason })
    }

    #[test]
    fn every_pair_of_float_types_converts() {
        // Exact in all four types.
        let values = [0.0f32, -1.5, 0.25, 240.0];
        let half = |v: &f32| f16::from_f32(*v).to_le_bytes();
        let brain = |v: &f32| bf16::from_f32(*v).to_le_bytes();
        let wide = |v: &f32| f64::from(*v).to_le_bytes();
        let sources = [
            (Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()),
            (Dtype::F16, values.iter().flat_map(half).collect()),
            (Dtype::BF16, values.iter().flat_map(brain).collect()),
            (Dtype::F64, values.iter().flat_map(wide).collect()),
        ];
        for (dtype, bytes) in sources {
            for to in [DType::F32, DType::F16, DType::BF16] {
                let data = convert(dtype, &bytes, to).expect("converts");
                assert_eq!(data.dtype(), to);
                let got = data.try_to_vec_as::<f32>().expect("floats");
                assert_eq!(got, values, "{dtype} to {to:?}");
            }
        }
    }

    #[test]
    fn a_tensor_longer_than_a_chunk_is_whole() {
        let length = 3 * CHUNK / 4 + 5;
        let bytes: Vec<u8> = (0..length).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let data = convert(Dtype::F32, &bytes, DType::F32).expect("converts");
        let values = data.try_to_vec::<f32>().expect("floats");
        assert_eq!(values.len(), length);
        assert!(
            values.iter().enumerate().all(|(i, &v)| v == i as f32),
            "an element is out of place"
        );
    }

    #[test]
    fn integers_are_no_weights() {
        let error = convert(Dtype::I64, &[0; 8], DType::F32).expect_err("not floats").to_string();
        assert!(error.contains("is I64, which is not read as F32"), "{error}");
        convert(Dtype::F32, &[0; 4], DType::I64).expect_err("not a float type");
    }
}
