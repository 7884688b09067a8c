//! From the size asked for to the stages that run.

use unclip_core::Stage;

use crate::error::{Result, invalid};

/// Sizes that are given for any model, by resampling where no stage gives them.
const ALWAYS: [u32; 2] = [512, 1024];

/// Which stages run, and what is left to resample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SizePlan {
    /// The last stage that runs.
    pub(super) last: Stage,
    /// The size that it gives.
    pub(super) native: u32,
    /// The size to return.
    pub(super) size: u32,
}

impl SizePlan {
    /// The plan for `asked`, or for the largest of `sizes` where the request leaves it open.
    ///
    /// `sizes` are the model's own, the smallest first. A size between two of them is taken from the next larger one.
    pub(super) fn new(asked: Option<u32>, sizes: &[(Stage, u32)]) -> Result<Self> {
        let Some(&(largest_stage, largest)) = sizes.last() else {
            return Err(invalid(
                "size",
                "asked of a model without stages",
                "a model with a decoder",
            ));
        };
        let size = asked.unwrap_or(largest);
        if let Some(&(last, native)) = sizes.iter().find(|(_, native)| *native == size) {
            return Ok(Self { last, native, size });
        }
        if !ALWAYS.contains(&size) {
            let own: Vec<String> = sizes
                .iter()
                .map(|(_, size)| *size)
                .chain(ALWAYS)
                .map(|size| size.to_string())
                .collect();
            return Err(invalid("size", size, format!("one of {}", own.join(", "))));
        }
        let (last, native) = sizes
            .iter()
            .copied()
            .find(|(_, native)| *native > size)
            .unwrap_or((largest_stage, largest));
        Ok(Self { last, native, size })
    }

    /// Whether `stage` runs.
    pub(super) fn runs(&self, stage: Stage) -> bool {
        stage <= self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KARLO: [(Stage, u32); 2] = [(Stage::Decoder, 64), (Stage::Upsample, 256)];
    const THREE: [(Stage, u32); 3] =
        [(Stage::Decoder, 64), (Stage::Upsample, 256), (Stage::UpsampleLarge, 1024)];

    #[test]
    fn each_size_takes_the_stages_that_it_needs() {
        for (asked, sizes, last, native, size) in [
            (None, &KARLO[..], Stage::Upsample, 256, 256),
            (Some(64), &KARLO, Stage::Decoder, 64, 64),
            (Some(512), &KARLO, Stage::Upsample, 256, 512),
            (Some(1024), &KARLO, Stage::Upsample, 256, 1024),
            (None, &THREE, Stage::UpsampleLarge, 1024, 1024),
            (Some(256), &THREE, Stage::Upsample, 256, 256),
            (Some(512), &THREE, Stage::UpsampleLarge, 1024, 512),
        ] {
            let plan = SizePlan::new(asked, sizes).expect("a size that is given");
            assert_eq!(plan, SizePlan { last, native, size }, "{asked:?}");
        }
    }

    #[test]
    fn other_sizes_are_refused_with_the_ones_there_are() {
        for asked in [0, 1, 100, 300, 4096, u32::MAX] {
            let text = SizePlan::new(Some(asked), &KARLO).expect_err("no such size").to_string();
            assert!(text.contains("64, 256, 512, 1024"), "{text}");
        }
    }
}
