//! Convolutions whose windows touch and do not overlap, as a vision transformer's first layer.
//!
//! Every pixel is in one window then. With each window's pixels side by side, the picture is a matrix with a row for each
//! pixel of the output, and the convolution is a linear layer. To bring the pixels into that order costs a copy, which
//! pays where the alternative is to multiply mostly zeros: few channels padded to many, or gradients spread by the
//! stride.

use super::Conv;
use crate::{
    cpu::Path,
    element::Element,
    epilogue::Epilogue,
    gemm::CHUNK,
    memory::zeros,
    pack::{Format, Weights},
    parallel,
    stage::{Input, Resample, Size},
    unpack::Values,
};

/// A picture and the windows that it is cut into.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patches {
    kernel: usize,
    picture: Size,
    channels: usize,
    output: Size,
}

impl Patches {
    /// The windows of `conv` over pictures of size `picture`; none where they overlap or reach outside, or where there
    /// is nothing to cut.
    pub(super) fn new(conv: &Conv, picture: Size, channels: usize) -> Option<Self> {
        let Conv { kernel, stride, padding, resample } = *conv;
        let output = conv.output_size(picture);
        let cut = kernel > 1 && stride == kernel && padding == 0 && resample == Resample::Keep;
        let some = channels > 0 && output.pixels() > 0;
        (cut && some).then_some(Self { kernel, picture, channels, output })
    }

    /// As [`new`](Self::new), for a pass that reads `input` as it is and has few channels.
    pub(super) fn of_input<T: Element>(
        conv: &Conv,
        input: &Input<'_, T>,
        channels: usize,
    ) -> Option<Self> {
        let plain = input.scale_shift.is_none() && !input.silu;
        Self::new(conv, input.size, channels).filter(|_| plain && channels < CHUNK)
    }

    fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// Values of a row of a window, which lie side by side in the picture too.
    fn run(&self) -> usize {
        self.kernel * self.channels
    }

    /// Values of a window.
    fn window(&self) -> usize {
        self.taps() * self.channels
    }

    /// Where the first pixel of row `row` of the picture lies, counted through all pictures.
    fn start(&self, row: usize) -> usize {
        row * self.picture.width * self.channels
    }

    /// The windows of `picture` as rows of a matrix.
    fn cut<T: Element>(&self, picture: &[T]) -> Vec<T> {
        let Size { height, width, .. } = self.output;
        let mut windows = zeros(self.output.pixels() * self.window());
        parallel::for_each_chunk(&mut windows, width * self.window(), |index, windows| {
            let (image, row) = (index / height, index % height * self.kernel);
            for (column, window) in windows.chunks_exact_mut(self.window()).enumerate() {
                for (below, run) in window.chunks_exact_mut(self.run()).enumerate() {
                    let start = self.start(image * self.picture.height + row + below);
                    run.copy_from_slice(&picture[start + column * self.run()..][..run.len()]);
                }
            }
        });
        windows
    }

    /// The inverse of [`cut`](Self::cut); pixels that are in no window become zeros.
    fn join<T: Element>(&self, windows: &[T], picture: &mut [T]) {
        let Size { height, width, .. } = self.output;
        parallel::for_each_chunk(picture, self.start(1), |index, pixels| {
            let (image, row) = (index / self.picture.height, index % self.picture.height);
            let (row, below) = (row / self.kernel, row % self.kernel);
            let inside = if row < height { width * self.run() } else { 0 };
            let (pixels, outside) = pixels.split_at_mut(inside);
            for (column, pixels) in pixels.chunks_exact_mut(self.run()).enumerate() {
                let window = ((image * height + row) * width + column) * self.window();
                pixels.copy_from_slice(&windows[window + below * self.run()..][..self.run()]);
            }
            outside.fill(T::default());
        });
    }

    /// [`Conv::forward`].
    pub(super) fn forward<T: Element, U: Element>(
        &self,
        path: Path,
        weights: &Weights,
        input: &Input<'_, T>,
        epilogue: Epilogue<'_, U>,
        output: &mut [U],
    ) {
        input.check(self.channels);
        let columns = weights.channels_out();
        let shape = [columns, self.window()];
        let weights = match weights.unpack() {
            Values::F32(values) => Weights::linear(&self.by_window(&values), shape, Format::F32),
            Values::Bf16(values) => Weights::linear(&self.by_window(&values), shape, Format::Bf16),
        };
        let windows = self.cut(input.values);
        let input = Input::new(&windows, self.output);
        Conv::new(1).forward(path, &weights, input, epilogue, output);
    }

    /// Weights `[channels out, channels in, taps]` as `[channels out, taps, channels in]`.
    fn by_window<T: Element>(&self, values: &[T]) -> Vec<T> {
        let mut sorted = vec![T::default(); values.len()];
        let layers = values.chunks_exact(self.window());
        for (sorted, values) in sorted.chunks_exact_mut(self.window()).zip(layers) {
            for (tap, sorted) in sorted.chunks_exact_mut(self.channels).enumerate() {
                for (channel, value) in sorted.iter_mut().enumerate() {
                    *value = values[channel * self.taps() + tap];
                }
            }
        }
        sorted
    }

    /// [`Conv::input_gradient`].
    pub(super) fn input_gradient<T: Element, U: Element>(
        &self,
        path: Path,
        transposed: &Weights,
        gradient: Input<'_, T>,
        output: &mut [U],
    ) {
        let expected = self.picture.pixels().checked_mul(self.channels);
        assert!(
            expected == Some(output.len()),
            "an output of {:?} with {} channels cannot have {} values",
            self.picture,
            self.channels,
            output.len()
        );
        let depth = transposed.channels_in();
        let shape = [self.window(), depth];
        let weights = match transposed.unpack() {
            Values::F32(values) => {
                Weights::linear(&self.turned_back(&values, depth), shape, Format::F32)
            }
            Values::Bf16(values) => {
                Weights::linear(&self.turned_back(&values, depth), shape, Format::Bf16)
            }
        };
        let mut windows = zeros::<U>(self.output.pixels() * self.window());
        Conv::new(1).forward(path, &weights, gradient, Epilogue::new(), &mut windows);
        self.join(&windows, output);
    }

    /// Transposed weights `[channels in, channels out, taps]`, whose taps are turned by half a turn, as
    /// `[taps, channels in, channels out]` with the taps in order.
    fn turned_back<T: Element>(&self, values: &[T], depth: usize) -> Vec<T> {
        let taps = self.taps();
        let mut sorted = vec![T::default(); values.len()];
        for (at, sorted) in sorted.chunks_exact_mut(depth).enumerate() {
            let (tap, channel) = (at / self.channels, at % self.channels);
            for (column, value) in sorted.iter_mut().enumerate() {
                *value = values[(channel * depth + column) * taps + taps - 1 - tap];
            }
        }
        sorted
    }

    /// [`Conv::weight_gradient`].
    pub(super) fn weight_gradient<T: Element, U: Element>(
        &self,
        path: Path,
        format: Format,
        input: &Input<'_, T>,
        gradient: Input<'_, U>,
        output: &mut [f32],
    ) {
        input.check(self.channels);
        let windows = self.cut(input.values);
        let mut sums = vec![0.0; output.len()];
        let input = Input::new(&windows, self.output);
        Conv::new(1).weight_gradient(path, format, input, gradient, &mut sums);
        let layers = sums.chunks_exact(self.window());
        for (output, sums) in output.chunks_exact_mut(self.window()).zip(layers) {
            for (channel, output) in output.chunks_exact_mut(self.taps()).enumerate() {
                for (tap, value) in output.iter_mut().enumerate() {
                    *value = sums[tap * self.channels + channel];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    #[test]
    fn what_is_cut_and_joined_is_the_picture_without_its_rest() {
        let picture = Size::new(2, 7, 5);
        let patches = Patches::new(&Conv::new(3).stride(3), picture, 2).expect("windows touch");
        let whole = values(picture.pixels() * 2, 1);
        let windows = patches.cut(&whole);
        assert_eq!(windows.len(), 2 * 2 * 18);
        // The second row of the first window.
        assert_eq!(windows[6..12], whole[10..16]);
        let mut joined = vec![f32::NAN; whole.len()];
        patches.join(&windows, &mut joined);
        for (at, (joined, whole)) in joined.iter().zip(&whole).enumerate() {
            let (row, column) = (at / 10 % 7, at / 2 % 5);
            let inside = row < 6 && column < 3;
            assert_eq!(*joined, if inside { *whole } else { 0.0 }, "row {row}, column {column}");
        }
    }

    #[test]
    fn windows_that_overlap_or_leave_the_picture_are_not_patches() {
        let picture = Size::new(1, 8, 8);
        for conv in [
            Conv::new(3),
            Conv::new(1),
            Conv::new(2).stride(2).padding(1),
            Conv::new(2).stride(2).resample(Resample::Double),
            Conv::new(9).stride(9),
        ] {
            assert!(Patches::new(&conv, picture, 3).is_none(), "{conv:?}");
        }
        assert!(Patches::new(&Conv::new(2).stride(2), picture, 3).is_some());
    }
}
