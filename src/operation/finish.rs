//! From the last stage's tensor to pictures that may leave: exact size, judged, marked.

use burn::tensor::Tensor;
use image::RgbImage;
use unclip_core::{
    Stage,
    resize::{Filter, resize_rgb8},
};
use unclip_safety::{Action, Output, Verdict};

use super::{run::Run, size::SizePlan};
use crate::{
    Warning,
    error::{Error, Result},
    pipeline::Inner,
};

impl Run<'_> {
    /// Pictures of exactly the planned size.
    pub(super) fn finished_pictures(
        &mut self,
        painted: Vec<Tensor<4>>,
        plan: SizePlan,
    ) -> Result<Vec<RgbImage>> {
        let timer = self.start(Stage::Finish, std::time::Duration::ZERO);
        let mut pictures = Vec::new();
        for batch in painted {
            pictures.extend(unclip_core::image::to_images(batch)?);
        }
        if plan.native != plan.size {
            for picture in &mut pictures {
                *picture = resize_rgb8(picture, plan.size, plan.size, Filter::Lanczos3)?;
            }
            let warning = Warning::Resampled { from: plan.native, to: plan.size };
            tracing::warn!("{warning}");
            self.warnings.push(warning);
        }
        self.stop(timer, 0)?;
        Ok(pictures)
    }

    /// Asks the filter about a finished picture, does as it says, and puts the marks on. What was said `before` it was
    /// painted is kept beside it; what was said of its embedding when `finished` counts as well.
    pub(super) fn release(
        &mut self,
        picture: RgbImage,
        caption: Option<&str>,
        before: Verdict,
        finished: Verdict,
    ) -> Result<(RgbImage, Verdict)> {
        let (picture, verdict, warning) = self.inner.release(picture, caption, before, finished)?;
        if let Some(warning) = warning
            && !self.warnings.contains(&warning)
        {
            tracing::warn!("{warning}");
            self.warnings.push(warning);
        }
        Ok((picture, verdict))
    }
}

impl Inner {
    /// The one door through which pictures leave: judged, treated as the verdict says, and marked.
    pub(crate) fn release(
        &self,
        mut picture: RgbImage,
        caption: Option<&str>,
        before: Verdict,
        finished: Verdict,
    ) -> Result<(RgbImage, Verdict, Option<Warning>)> {
        let output = self.filter.check_output(&Output::new(&picture).caption(caption));
        let output = output.and(finished);
        let action = output.action;
        let verdict = before.and(output);
        match action {
            Action::Allow | Action::Flag => {}
            Action::Blur => {
                // An eighth of the side leaves colours and nothing to recognise.
                let sigma = picture.width().max(picture.height()) as f32 / 8.0;
                picture = image::imageops::fast_blur(&picture, sigma);
            }
            Action::Withhold => {
                picture =
                    RgbImage::from_pixel(picture.width(), picture.height(), image::Rgb([128; 3]));
            }
            Action::Refuse => return Err(Error::Refused(Box::new(verdict))),
        }
        let warning = self.marks.put_on(&mut picture)?;
        Ok((picture, verdict, warning))
    }
}
