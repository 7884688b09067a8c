//! How the products of a convolution are computed: as the weights are packed, or 32 bits in thirds on AMX.

use std::marker::PhantomData;

#[cfg(target_arch = "x86_64")]
use half::bf16;

use crate::{
    aligned::Aligned,
    cpu::Path,
    element::Element,
    gemm::{Block, Compute, Step, Unit},
    pack::steps,
    stage::{Grid, Input, Region, stage},
};
#[cfg(target_arch = "x86_64")]
use crate::{
    cpu::Isa,
    gemm::{CHUNK, TILE, thirds},
    stage::{Size, stage_thirds, thirds_pixel},
};

/// The layouts and the innermost loop of a convolution.
pub(super) trait Arithmetic {
    /// What inputs are staged as.
    type Staged: Compute;
    /// What weights are packed as.
    type Packed: Compute;

    /// Panels of a block, at most.
    const WIDTH: usize;
    /// Steps after which sums are set aside.
    const STEPS: usize;
    /// Cycles of an AMX core for a step of one tile of sums; 32 products deep, 16 × 16 wide.
    const CYCLES: f64;

    /// Values from one staged pixel to the next.
    fn pixel(channels: usize) -> usize;

    /// Stages the region of the input under a task.
    fn stage<T: Element>(
        path: Path,
        input: &Input<'_, T>,
        grid: Grid,
        region: &Region,
        staged: &mut [Self::Staged],
    );

    /// The steps through a panel, for an input staged with `pitch` pixels to a row. Their lengths are the packed rows.
    fn steps(kernel: [usize; 2], depth: usize, pitch: usize) -> Vec<Step>;

    /// The rows of `width` panels that `steps` take, as the innermost loop reads them, and the distance from one panel to the
    /// next; `room` is where they may be written, `packed` is where they begin.
    fn prepare<'a>(
        path: Path,
        packed: &'a [Self::Packed],
        panel_len: usize,
        width: usize,
        steps: &[Step],
        room: &'a mut Aligned<Self::Staged>,
    ) -> (&'a [Self::Staged], usize);

    /// Computes a block; `depth` channels were staged.
    fn multiply(unit: &Unit, block: Block<'_, Self::Staged>, depth: usize);
}

/// Products of what is packed.
pub(super) struct Plain<S>(PhantomData<S>);

impl<S: Compute> Arithmetic for Plain<S> {
    type Staged = S;
    type Packed = S;

    const WIDTH: usize = S::WIDTH;
    const STEPS: usize = S::STEPS;
    const CYCLES: f64 = if S::PAIR == 2 { 16.0 } else { 256.0 };

    fn pixel(channels: usize) -> usize {
        S::pixel(channels)
    }

    fn stage<T: Element>(
        path: Path,
        input: &Input<'_, T>,
        grid: Grid,
        region: &Region,
        staged: &mut [S],
    ) {
        stage(path, input, grid, region, staged);
    }

    fn steps(kernel: [usize; 2], depth: usize, pitch: usize) -> Vec<Step> {
        steps::<S>(kernel, depth, pitch * S::pixel(depth), S::pixel(depth))
    }

    fn prepare<'a>(
        _: Path,
        packed: &'a [S],
        panel_len: usize,
        _: usize,
        _: &[Step],
        _: &'a mut Aligned<S>,
    ) -> (&'a [S], usize) {
        (packed, panel_len)
    }

    fn multiply(unit: &Unit, block: Block<'_, S>, _: usize) {
        S::multiply(unit, block);
    }
}

/// 32-bit products from numbers of bf16, three to a factor; see [`thirds`].
///
/// Weights stay packed in 32 bits, and are taken apart for each task: that is a tenth of the work, and the thirds of all
/// would need half as much memory again.
#[cfg(target_arch = "x86_64")]
pub(super) struct Thirds;

#[cfg(target_arch = "x86_64")]
impl Thirds {
    /// Whether this is the faster way on `path`, for pictures of `output`'s size made from `depth` channels. How many pictures
    /// there are does not count, so that none depends on its neighbours in a batch; and of a linear layer's rows nobody knows
    /// whose they are.
    pub(super) fn suits(path: Path, depth: usize, output: Size) -> bool {
        // Weights are taken apart once for each tile of these pixels, which below this number costs more than is won; fewer
        // channels are filled up with zeros to a whole step.
        const PIXELS: usize = 64 * 64;
        let pixels = output.height.saturating_mul(output.width);
        path.isa() == Isa::Amx && depth >= CHUNK / 2 && output.width > 1 && pixels >= PIXELS
    }
}

#[cfg(target_arch = "x86_64")]
impl Arithmetic for Thirds {
    type Staged = bf16;
    type Packed = f32;

    const WIDTH: usize = 2;
    /// Of three tiles each, so that those of both panels stay in the second-level cache beside the staged input.
    const STEPS: usize = 36;
    const CYCLES: f64 = 6.0 * 16.0;

    fn pixel(channels: usize) -> usize {
        thirds_pixel(channels)
    }

    fn stage<T: Element>(
        path: Path,
        input: &Input<'_, T>,
        grid: Grid,
        region: &Region,
        staged: &mut [bf16],
    ) {
        stage_thirds(path, input, grid, region, staged);
    }

    fn steps(kernel: [usize; 2], depth: usize, pitch: usize) -> Vec<Step> {
        let pixel = thirds_pixel(depth);
        steps::<f32>(kernel, depth, pitch * pixel, pixel)
    }

    fn prepare<'a>(
        path: Path,
        packed: &'a [f32],
        panel_len: usize,
        width: usize,
        steps: &[Step],
        room: &'a mut Aligned<bf16>,
    ) -> (&'a [bf16], usize) {
        assert!(path.isa() == Isa::Amx, "thirds are multiplied on AMX, not on {path}");
        let len = steps.len() * thirds::STEP;
        let room = room.set_len(width * len);
        let rows: usize = steps.iter().map(|step| step.len).sum();
        for (panel, out) in room.chunks_exact_mut(len.max(1)).enumerate() {
            let packed = &packed[panel * panel_len..][..rows * TILE];
            // SAFETY: the path is a witness of AVX-512 with bf16.
            unsafe { thirds::split_panel(packed, steps.iter().map(|step| step.len), out) };
        }
        (room, len)
    }

    fn multiply(unit: &Unit, block: Block<'_, bf16>, depth: usize) {
        let tiles = unit.tiles.as_ref().expect("a path with AMX has tiles");
        thirds::multiply(tiles, block, bf16::padded(depth));
    }
}
