//! What happens to sums on their way to the output.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m512, _mm512_add_ps, _mm512_max_ps, _mm512_setzero_ps};

#[cfg(target_arch = "x86_64")]
use crate::{
    cpu::Isa,
    lanes::Once,
    vector::{self, Vector as _, first},
};
use crate::{
    cpu::Path,
    element::Element,
    gemm::{CTile, Next, TILE},
    lanes::{Baseline, Fused},
    math,
    parallel::Shared,
    stage::Size,
};

/// An activation applied to sums before they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Activation {
    /// None.
    #[default]
    Identity,
    /// `x · σ(x)`.
    Silu,
    /// `x · Φ(x)` with the exact normal distribution.
    Gelu,
    /// `x · σ(1.702 x)`, CLIP's activation.
    QuickGelu,
}

/// What is done to sums before they are written: `activation(sum + bias + image bias) + residual`, and of that, where
/// asked for, what is positive.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue<'a, U> {
    bias: Option<&'a [f32]>,
    image_bias: Option<&'a [f32]>,
    activation: Activation,
    residual: Option<&'a [U]>,
    rectified: bool,
}

impl<U> Default for Epilogue<'_, U> {
    fn default() -> Self {
        Self {
            bias: None,
            image_bias: None,
            activation: Activation::Identity,
            residual: None,
            rectified: false,
        }
    }
}

impl<'a, U: Element> Epilogue<'a, U> {
    /// Writes the sums as they are.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `[channels_out]`.
    #[must_use]
    pub fn bias(mut self, bias: &'a [f32]) -> Self {
        self.bias = Some(bias);
        self
    }

    /// Adds `[batch, channels_out]`: a value for each picture and channel, such as a projected time embedding.
    #[must_use]
    pub fn image_bias(mut self, bias: &'a [f32]) -> Self {
        self.image_bias = Some(bias);
        self
    }

    /// Applies an activation after the biases.
    #[must_use]
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// Adds values of the output's shape, after the activation.
    #[must_use]
    pub fn residual(mut self, residual: &'a [U]) -> Self {
        self.residual = Some(residual);
        self
    }

    /// Sets what is negative after all else to zero.
    #[must_use]
    pub fn rectified(mut self, rectified: bool) -> Self {
        self.rectified = rectified;
        self
    }

    /// Compares the lengths with the output's shape.
    ///
    /// # Panics
    ///
    /// When they differ.
    pub(crate) fn check(&self, size: Size, channels: usize, output: usize) {
        let expected = size.pixels().checked_mul(channels);
        assert!(
            expected == Some(output),
            "an output of {size:?} with {channels} channels cannot have {output} values"
        );
        if let Some(bias) = self.bias {
            assert!(bias.len() == channels, "a bias of {} for {channels} channels", bias.len());
        }
        if let Some(bias) = self.image_bias {
            assert!(
                bias.len() == size.batch * channels,
                "an image bias of {} values for {} pictures of {channels} channels",
                bias.len(),
                size.batch
            );
        }
        if let Some(residual) = self.residual {
            assert!(
                residual.len() == output,
                "a residual of {} values for an output of {output}",
                residual.len()
            );
        }
    }
}

/// Where the 16 rows of a tile of sums belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rows {
    /// The picture they are all of.
    pub(crate) image: usize,
    /// The pixel of the output that each row is; none for a row that was computed only to fill the tile.
    pub(crate) pixels: [Option<usize>; TILE],
}

/// The output of an operation, while tasks write to it.
#[derive(Debug)]
pub(crate) struct Output<'a, U> {
    values: Shared<'a, U>,
    channels: usize,
    epilogue: Epilogue<'a, U>,
}

impl<'a, U: Element> Output<'a, U> {
    /// `values` of shape `size` and `channels`.
    ///
    /// # Panics
    ///
    /// When the lengths of `values` or of the epilogue's operands differ from that.
    pub(crate) fn new(
        values: &'a mut [U],
        size: Size,
        channels: usize,
        epilogue: Epilogue<'a, U>,
    ) -> Self {
        epilogue.check(size, channels, values.len());
        Self { values: Shared::new(values), channels, epilogue }
    }

    /// The memory that [`write`](Self::write) will meet for two tiles of rows, from channel `first` on.
    pub(crate) fn next(&self, tiles: [&Rows; 2], first: usize) -> Next {
        // A tile whose first row is no pixel is fetched from a place nearby, or in vain.
        let pixels = tiles.map(|rows| rows.pixels.iter().flatten().next().copied().unwrap_or(0));
        let starts = pixels.map(|pixel| pixel * self.channels + first);
        let written = self.values.address(starts[0]).cast();
        let residual = self.epilogue.residual;
        let read = residual.map_or(written, |read| read.as_ptr().wrapping_add(starts[0]).cast());
        let between = starts[1].wrapping_sub(starts[0]).wrapping_mul(size_of::<U>());
        Next { written, read, stride: self.channels * size_of::<U>(), between }
    }

    /// Writes tiles of sums that lie side by side, from channel `first` on.
    ///
    /// # Safety
    ///
    /// No other thread writes these channels of these pixels.
    pub(crate) unsafe fn write(&self, path: Path, sums: &[CTile], rows: &Rows, first: usize) {
        #[cfg(target_arch = "x86_64")]
        if path.isa() >= Isa::Avx512Bf16 {
            // SAFETY: the path is a witness of AVX-512 with bf16; the caller's promise.
            return unsafe {
                match sums {
                    [left, right] if first + 2 * TILE <= self.channels => {
                        self.write_both(left, right, rows, first);
                    }
                    _ => {
                        for (panel, sums) in sums.iter().enumerate() {
                            self.write_vectors(sums, rows, first + panel * TILE);
                        }
                    }
                }
            };
        }
        #[cfg(target_arch = "x86_64")]
        if path.isa() >= Isa::Avx2 {
            return path.vectorize(
                #[inline(always)]
                // SAFETY: the caller's promise.
                || unsafe { self.write_panels::<Once>(sums, rows, first) },
            );
        }
        path.vectorize(
            #[inline(always)]
            // SAFETY: the caller's promise.
            || unsafe { self.write_panels::<Baseline>(sums, rows, first) },
        );
    }

    /// A panel of sums, each row in one register.
    ///
    /// # Safety
    ///
    /// As [`write`](Self::write), and the processor has AVX-512 F, BW, DQ, VL and BF16.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn write_vectors(&self, sums: &CTile, rows: &Rows, channel: usize) {
        let width = TILE.min(self.channels - channel);
        let lanes = first(width);
        let bias = self.bias(rows.image, channel, width);
        for (sums, pixel) in sums.0.iter().zip(&rows.pixels) {
            let &Some(pixel) = pixel else { continue };
            let start = pixel * self.channels + channel;
            let residual = self.epilogue.residual.map(|residual| &residual[start..start + width]);
            // SAFETY: the residual's part and the output's hold the lanes, and the caller promises that nobody else writes
            // there.
            unsafe {
                let values = self.finished(sums, bias, residual);
                let output = self.values.slice(start..start + width);
                U::store(output.as_mut_ptr(), values, lanes);
            }
        }
    }

    /// Two whole panels as [`write_vectors`](Self::write_vectors) does one, each row in two registers: in 16 bits a whole
    /// cache line.
    ///
    /// # Safety
    ///
    /// As [`write_vectors`](Self::write_vectors).
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn write_both(&self, left: &CTile, right: &CTile, rows: &Rows, channel: usize) {
        let bias = [0, TILE].map(|after| self.bias(rows.image, channel + after, TILE));
        for ((left, right), pixel) in left.0.iter().zip(&right.0).zip(&rows.pixels) {
            let &Some(pixel) = pixel else { continue };
            let start = pixel * self.channels + channel;
            let residual = self
                .epilogue
                .residual
                .map(|residual| residual[start..start + 2 * TILE].split_at(TILE));
            // SAFETY: as in `write_vectors`, for twice as many lanes.
            unsafe {
                let left = self.finished(left, bias[0], residual.map(|(left, _)| left));
                let right = self.finished(right, bias[1], residual.map(|(_, right)| right));
                let output = self.values.slice(start..start + 2 * TILE);
                U::store_both(output.as_mut_ptr(), left, right);
            }
        }
    }

    /// What is added to the sums of each pixel, for `width` channels from `channel` on.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn bias(&self, image: usize, channel: usize, width: usize) -> __m512 {
        let mut bias = _mm512_setzero_ps();
        let image = image * self.channels;
        for (values, start) in [(self.epilogue.bias, 0), (self.epilogue.image_bias, image)] {
            if let Some(values) = values {
                let values = &values[start + channel..][..width];
                // SAFETY: `values` holds the lanes.
                bias = _mm512_add_ps(bias, unsafe { f32::load(values.as_ptr(), first(width)) });
            }
        }
        bias
    }

    /// A row of sums with what is added to it and done to it, in the lanes that `residual` has, or in all.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn finished(&self, sums: &[f32; TILE], bias: __m512, residual: Option<&[U]>) -> __m512 {
        // SAFETY: a row has sixteen sums.
        let mut values = _mm512_add_ps(unsafe { f32::load(sums.as_ptr(), !0) }, bias);
        values = match self.epilogue.activation {
            Activation::Identity => values,
            Activation::Silu => vector::silu(values),
            Activation::Gelu => vector::gelu(values),
            Activation::QuickGelu => vector::quick_gelu(values),
        };
        if let Some(residual) = residual {
            // SAFETY: `residual` holds the lanes.
            let residual = unsafe { U::load(residual.as_ptr(), first(residual.len())) };
            values = _mm512_add_ps(values, residual);
        }
        if self.epilogue.rectified {
            // Of a pair with what is no number, the second is taken.
            values = _mm512_max_ps(_mm512_setzero_ps(), values);
        }
        values
    }

    /// # Safety
    ///
    /// As [`write`](Self::write).
    #[inline(always)]
    unsafe fn write_panels<F: Fused>(&self, sums: &[CTile], rows: &Rows, first: usize) {
        for (panel, sums) in sums.iter().enumerate() {
            // SAFETY: the caller's promise, for this panel's channels.
            unsafe { self.write_panel::<F>(sums, rows, first + panel * TILE) };
        }
    }

    /// # Safety
    ///
    /// As [`write`](Self::write).
    #[inline(always)]
    unsafe fn write_panel<F: Fused>(&self, sums: &CTile, rows: &Rows, first: usize) {
        let width = TILE.min(self.channels - first);
        let mut bias = [0.0; TILE];
        let image = rows.image * self.channels;
        for (values, start) in [(self.epilogue.bias, 0), (self.epilogue.image_bias, image)] {
            if let Some(values) = values {
                for (bias, value) in bias.iter_mut().zip(&values[start + first..][..width]) {
                    *bias += value;
                }
            }
        }
        for (sums, pixel) in sums.0.iter().zip(&rows.pixels) {
            let &Some(pixel) = pixel else { continue };
            let start = pixel * self.channels + first;
            let mut values: [f32; TILE] = std::array::from_fn(|at| sums[at] + bias[at]);
            match self.epilogue.activation {
                Activation::Identity => {}
                Activation::Silu => for_each_lane(&mut values, math::silu::<F>),
                Activation::Gelu => for_each_lane(&mut values, math::gelu::<F>),
                Activation::QuickGelu => for_each_lane(&mut values, math::quick_gelu::<F>),
            }
            // SAFETY: the caller's promise.
            let output = unsafe { self.values.slice(start..start + width) };
            let residual = self.epilogue.residual.map(|residual| &residual[start..start + width]);
            // Of a whole row, or of parts of one, the compiler knows the length.
            if width == TILE {
                self.write_part::<TILE>(&values, residual, output);
                continue;
            }
            macro_rules! parts {
                ($($len:literal)*) => {$(
                    if width & $len != 0 {
                        // The larger parts lie in front.
                        let at = width & !(2 * $len - 1);
                        let residual = residual.map(|residual| &residual[at..]);
                        self.write_part::<$len>(&values[at..], residual, &mut output[at..]);
                    }
                )*};
            }
            parts!(8 4 2 1);
        }
    }

    /// The first `LEN` of `values`, with what is added to them and done to them, to the first of `output`.
    #[inline(always)]
    fn write_part<const LEN: usize>(
        &self,
        values: &[f32],
        residual: Option<&[U]>,
        output: &mut [U],
    ) {
        let mut finished = [0.0; LEN];
        finished.copy_from_slice(&values[..LEN]);
        if let Some(residual) = residual {
            for (value, residual) in finished.iter_mut().zip(&residual[..LEN]) {
                *value += residual.widen();
            }
        }
        if self.epilogue.rectified {
            for value in &mut finished {
                *value = if *value < 0.0 { 0.0 } else { *value };
            }
        }
        for (output, value) in output[..LEN].iter_mut().zip(finished) {
            *output = U::narrow(value);
        }
    }
}

/// A loop, where mapping the array would call the function lane by lane.
#[inline(always)]
fn for_each_lane(values: &mut [f32; TILE], function: impl Fn(f32) -> f32) {
    for value in values {
        *value = function(*value);
    }
}
