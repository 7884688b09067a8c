//! Gradients of biases: sums over pixels.

use crate::{cpu::Path, element::Element, parallel, stage::Input};

/// Pixels that one partial sum takes; fixed, so that results do not depend on the number of threads.
const RUN: usize = 1024;

/// Computes the gradient of a bias: the sum over all pixels of all pictures.
///
/// # Shapes
///
/// - `gradient`: `[batch, height, width, channels]`, of the output
/// - `output`: `[channels]`
///
/// # Panics
///
/// When the lengths do not fit these shapes.
pub fn bias_gradient<T: Element>(path: Path, gradient: Input<'_, T>, output: &mut [f32]) {
    let mut images = vec![0.0; gradient.size.batch * output.len()];
    image_bias_gradient(path, gradient, &mut images);
    output.fill(0.0);
    for image in images.chunks_exact(output.len().max(1)) {
        for (sum, value) in output.iter_mut().zip(image) {
            *sum += value;
        }
    }
}

/// Computes the gradient of a bias that each picture has for itself: the sums over the pixels of each.
///
/// # Shapes
///
/// - `gradient`: `[batch, height, width, channels]`, of the output
/// - `output`: `[batch, channels]`
///
/// # Panics
///
/// When the lengths do not fit these shapes.
pub fn image_bias_gradient<T: Element>(path: Path, gradient: Input<'_, T>, output: &mut [f32]) {
    let batch = gradient.size.batch;
    let channels = output.len() / batch.max(1);
    assert!(channels * batch == output.len(), "{} sums for {batch} pictures", output.len());
    gradient.check(channels);
    if output.is_empty() {
        return;
    }
    let image_len = gradient.values.len() / batch;
    parallel::for_each_chunk(output, channels, |image, output| {
        let values = &gradient.values[image * image_len..][..image_len];
        let partial = parallel::map(image_len.div_ceil(RUN * channels), |run| {
            let start = run * RUN * channels;
            let mut sums = vec![0.0; channels];
            add_pixels(path, &values[start..image_len.min(start + RUN * channels)], &mut sums);
            sums
        });
        output.fill(0.0);
        for sums in partial {
            add_pixels(path, &sums, output);
        }
    });
}

/// Adds every pixel of `values` to `sums`.
fn add_pixels<T: Element>(path: Path, values: &[T], sums: &mut [f32]) {
    path.vectorize(
        #[inline(always)]
        || {
            for pixel in values.chunks_exact(sums.len()) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += value.widen();
                }
            }
        },
    );
}
