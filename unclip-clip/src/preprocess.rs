//! A picture to the vision tower's pixels.
//!
//! Follows transformers' `CLIPImageProcessor`: the shorter side resampled to a fixed length, the middle cut out, bytes
//! to numbers, each channel standardised.

use std::{fs, iter, path::Path};

use burn::tensor::{Device, Tensor, TensorData};
use image::{GenericImageView as _, RgbImage, imageops};
use serde_json::{Value, json};
use unclip_core::{
    Error as CoreError,
    checkpoint::{ConfigReader, Folder, write_json_atomic},
    image::MAX_SIDE,
    resize::{Arithmetic, Filter, resize_rgb8_with},
};

use crate::Result;

/// The mean of OpenAI's training pictures, channel by channel.
const MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Their standard deviation.
const DEVIATION: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// Bounds of what is read from a file.
const SIDES: std::ops::RangeInclusive<usize> = 1..=4_096;

/// Keys that say who wrote a configuration, or that concern other inputs than a decoded picture.
const WITHOUT_EFFECT: &[&str] = &[
    "data_format",
    "device",
    "disable_grouping",
    "do_convert_rgb",
    "feature_extractor_type",
    "image_processor_type",
    "input_data_format",
    "processor_class",
    "return_tensors",
    "use_square_size",
];

/// How large a picture is made before it is cropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// The shorter side has this length, and the longer one keeps the shape, rounded down.
    ShortestEdge(usize),
    /// Exactly this height and width, whatever the shape.
    Exact {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
}

/// Makes pictures into pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessor {
    /// The size to resample to, or none to leave pictures as they are.
    pub size: Option<Size>,
    /// The kernel to resample with.
    pub filter: Filter,
    /// How the resampling rounds. transformers 5 resizes through torchvision, which is what configurations are read
    /// as; transformers up to 4 used Pillow. In half a per cent of the values of a noisy picture the two are one grey
    /// level apart.
    pub arithmetic: Arithmetic,
    /// Height and width of the middle that is cut out, or none to keep all. Where a picture is smaller, black surrounds
    /// it.
    pub crop: Option<(usize, usize)>,
    /// What bytes are multiplied by, or none to leave them from 0 to 255.
    pub rescale: Option<f64>,
    /// Subtracted from each channel, and what it is divided by then; or none to skip both.
    pub normalize: Option<([f64; 3], [f64; 3])>,
}

impl Preprocessor {
    /// CLIP's own preprocessing for pictures of `side` × `side` pixels.
    pub fn clip(side: usize) -> Self {
        Self {
            size: Some(Size::ShortestEdge(side)),
            filter: Filter::Bicubic,
            arithmetic: Arithmetic::Torch,
            crop: Some((side, side)),
            rescale: Some(1.0 / 255.0),
            normalize: Some((MEAN, DEVIATION)),
        }
    }

    /// Reads `preprocessor_config.json` in `dir`. Absent keys have the defaults of `CLIPImageProcessor`.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Core`] when the file cannot be read, or naming the key whose value is wrong or not implemented.
    pub fn from_dir(dir: impl Into<Folder>) -> Result<Self> {
        let mut config = ConfigReader::open_in(dir, "preprocessor_config.json")?;
        let read = Self::read(&mut config)?;
        config.finish();
        Ok(read)
    }

    /// Reads the keys of `preprocessor_config.json`.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Config`] naming the key whose value is wrong or not implemented.
    pub fn read(config: &mut ConfigReader) -> Result<Self> {
        config.ignore(WITHOUT_EFFECT);
        config.only("do_pad", &[json!(false), Value::Null])?;
        config.ignore(&["pad_size"]);
        let filter = match config.or("resample", 3)? {
            1 => Filter::Lanczos3,
            2 => Filter::Bilinear,
            3 => Filter::Bicubic,
            _ => {
                return Err(config
                    .error("resample", "1 (Lanczos), 2 (bilinear) or 3 (bicubic)")
                    .into());
            }
        };
        let size = match config.optional::<Value>("size")? {
            None => Size::ShortestEdge(224),
            Some(value) => read_size(&value, &["shortest_edge"])
                .ok_or_else(|| config.error("size", sizes("{\"shortest_edge\": ..}")))?,
        };
        let crop = match config.optional::<Value>("crop_size")? {
            None => (224, 224),
            Some(value) => match read_size(&value, &[]) {
                Some(Size::ShortestEdge(side)) => (side, side),
                Some(Size::Exact { height, width }) => (height, width),
                None => return Err(config.error("crop_size", sizes("one number")).into()),
            },
        };
        let rescale = config.positive_or("rescale_factor", 1.0 / 255.0)?;
        let mean = read_channels(config, "image_mean", MEAN, |_| true)?;
        let deviation = read_channels(config, "image_std", DEVIATION, |value| value > 0.0)?;
        Ok(Self {
            size: config.or("do_resize", true)?.then_some(size),
            filter,
            arithmetic: Arithmetic::Torch,
            crop: config.or("do_center_crop", true)?.then_some(crop),
            rescale: config.or("do_rescale", true)?.then_some(rescale),
            normalize: config.or("do_normalize", true)?.then_some((mean, deviation)),
        })
    }

    /// Writes `preprocessor_config.json` into `dir`, creating it.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Core`] when it cannot be written.
    pub fn write_dir(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).map_err(CoreError::io("create", dir))?;
        Ok(write_json_atomic(dir.join("preprocessor_config.json"), &self.to_json())?)
    }

    /// The configuration as transformers would write it.
    pub fn to_json(&self) -> Value {
        let mut config = json!({
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": true,
            "do_resize": self.size.is_some(),
            "do_center_crop": self.crop.is_some(),
            "do_rescale": self.rescale.is_some(),
            "do_normalize": self.normalize.is_some(),
            "resample": match self.filter {
                Filter::Bilinear => 2,
                Filter::Bicubic => 3,
                Filter::Lanczos3 => 1,
            },
        });
        match self.size {
            Some(Size::ShortestEdge(side)) => config["size"] = json!({"shortest_edge": side}),
            Some(Size::Exact { height, width }) => {
                config["size"] = json!({"height": height, "width": width});
            }
            None => {}
        }
        if let Some((height, width)) = self.crop {
            config["crop_size"] = json!({"height": height, "width": width});
        }
        if let Some(factor) = self.rescale {
            config["rescale_factor"] = json!(factor);
        }
        if let Some((mean, deviation)) = self.normalize {
            config["image_mean"] = json!(mean);
            config["image_std"] = json!(deviation);
        }
        config
    }

    /// Height and width of every picture that comes out, or none where they depend on what went in.
    pub fn output_size(&self) -> Option<(usize, usize)> {
        match (self.crop, self.size) {
            (Some(size), _) => Some(size),
            (None, Some(Size::Exact { height, width })) => Some((height, width)),
            _ => None,
        }
    }

    /// Makes one picture into pixels.
    ///
    /// # Shapes
    ///
    /// - output: `[1, 3, height, width]`
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::InvalidInput`] when the picture is empty, or so long and thin that resizing it would take
    /// more memory than any picture is worth.
    pub fn preprocess(&self, picture: &RgbImage, device: &Device) -> Result<Tensor<4>> {
        let (height, width, values) = self.values(picture)?;
        Ok(Tensor::from_data(TensorData::new(values, [1, 3, height, width]), device))
    }

    /// Makes pictures into one batch of pixels.
    ///
    /// # Shapes
    ///
    /// - output: `[pictures, 3, height, width]`
    ///
    /// # Errors
    ///
    /// As [`preprocess`](Self::preprocess), and when there is no picture, or without cropping, when two of them end up
    /// of different sizes.
    pub fn preprocess_many<'a>(
        &self,
        pictures: impl IntoIterator<Item = &'a RgbImage>,
        device: &Device,
    ) -> Result<Tensor<4>> {
        let mut size = None;
        let mut batch = 0;
        let mut all = Vec::new();
        for picture in pictures {
            let (height, width, values) = self.values(picture)?;
            let (rows, columns) = *size.get_or_insert((height, width));
            if (rows, columns) != (height, width) {
                let found = format_args!("{width} × {height} pixels after resizing");
                let expected = format!("{columns} × {rows}, as the first one");
                return Err(CoreError::invalid("picture", found, expected).into());
            }
            all.extend(values);
            batch += 1;
        }
        let Some((height, width)) = size else {
            return Err(CoreError::invalid("pictures", "an empty list", "one or more").into());
        };
        Ok(Tensor::from_data(TensorData::new(all, [batch, 3, height, width]), device))
    }

    /// Height, width and values, channel by channel.
    fn values(&self, picture: &RgbImage) -> Result<(usize, usize, Vec<f32>)> {
        let (width, height) = picture.dimensions();
        if width == 0 || height == 0 {
            let found = format_args!("{width} × {height} pixels");
            return Err(CoreError::invalid("picture", found, "at least one pixel").into());
        }
        let resized = match self.size {
            Some(size) => {
                let (height, width) = target(size, picture)?;
                &resize_rgb8_with(picture, width, height, self.filter, self.arithmetic)?
            }
            None => picture,
        };
        let (rows, columns) = (as_size(resized.height()), as_size(resized.width()));
        let (height, width) = self.crop.unwrap_or((rows, columns));
        let tables = self.tables();
        let black = tables.iter().flat_map(|table| iter::repeat_n(table[0], height * width));
        let mut values: Vec<f32> = black.collect();
        let (top, first_row, shown_rows) = middle(rows, height);
        let (left, first_column, shown_columns) = middle(columns, width);
        let window = imageops::crop_imm(
            resized,
            as_pixels(left),
            as_pixels(top),
            as_pixels(shown_columns),
            as_pixels(shown_rows),
        );
        for (x, y, pixel) in window.pixels() {
            let at = (as_size(y) + first_row) * width + as_size(x) + first_column;
            for (channel, (&byte, table)) in pixel.0.iter().zip(&tables).enumerate() {
                values[channel * height * width + at] = table[usize::from(byte)];
            }
        }
        Ok((height, width, values))
    }

    /// What each byte of each channel becomes. Each number is rounded to 32 bits where the reference rounds it.
    fn tables(&self) -> [[f32; 256]; 3] {
        let rescaled = |byte: u8| match self.rescale {
            Some(factor) => narrow(f64::from(byte) * factor),
            None => f32::from(byte),
        };
        std::array::from_fn(|channel| {
            std::array::from_fn(|byte| {
                let value = rescaled(u8::try_from(byte).expect("256 entries"));
                match &self.normalize {
                    Some((mean, deviation)) => {
                        (value - narrow(mean[channel])) / narrow(deviation[channel])
                    }
                    None => value,
                }
            })
        })
    }
}

/// Height and width to resize `picture`, which is not empty, to.
fn target(size: Size, picture: &RgbImage) -> Result<(u32, u32)> {
    let (width, height) = picture.dimensions();
    let (height, width) = match size {
        Size::Exact { height, width } => (height as u64, width as u64),
        Size::ShortestEdge(side) => {
            let (short, long) = (width.min(height), width.max(height));
            // In integers: the reference divides in floating point and truncates, which is the same below 2^53.
            let (short, long) = (side as u64, side as u64 * u64::from(long) / u64::from(short));
            if width <= height { (long, short) } else { (short, long) }
        }
    };
    let side = |length: u64| u32::try_from(length).ok().filter(|&length| length <= MAX_SIDE);
    match (side(height), side(width)) {
        (Some(height), Some(width)) => Ok((height, width)),
        _ => {
            let found = format_args!("{} × {} pixels", picture.width(), picture.height());
            let expected = format!(
                "a shape no side of which is above {MAX_SIDE} when resized, where this one has {width} × {height}"
            );
            Err(CoreError::invalid("picture", found, expected).into())
        }
    }
}

/// The middle `wanted` of `length`: where it begins, where it goes in the output, and how long it is. A window that
/// cannot be centred lies one nearer to the start; a picture that is smaller lies one nearer to the end.
fn middle(length: usize, wanted: usize) -> (usize, usize, usize) {
    if length >= wanted {
        ((length - wanted) / 2, 0, wanted)
    } else {
        (0, (wanted - length).div_ceil(2), length)
    }
}

/// A size in one of its written forms: a number, `{"height", "width"}`, or one of `edges`.
fn read_size(value: &Value, edges: &[&str]) -> Option<Size> {
    let number = |value: &Value| {
        value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| SIDES.contains(n))
    };
    match value {
        Value::Number(_) => number(value).map(Size::ShortestEdge),
        Value::Object(entries) if entries.len() == 1 => {
            let edge = edges.iter().find_map(|edge| entries.get(*edge))?;
            number(edge).map(Size::ShortestEdge)
        }
        Value::Object(entries) if entries.len() == 2 => Some(Size::Exact {
            height: number(entries.get("height")?)?,
            width: number(entries.get("width")?)?,
        }),
        _ => None,
    }
}

fn sizes(other: &str) -> String {
    format!(
        "{other} or {{\"height\": .., \"width\": ..}}, from {} to {}",
        SIDES.start(),
        SIDES.end()
    )
}

fn read_channels(
    config: &mut ConfigReader,
    key: &str,
    default: [f64; 3],
    accept: fn(f32) -> bool,
) -> Result<[f64; 3]> {
    let values: [f64; 3] = config.or(key, default)?;
    if values.iter().all(|&value| narrow(value).is_finite() && accept(narrow(value))) {
        Ok(values)
    } else {
        Err(config.error(key, "three finite numbers, above 0 where they divide").into())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to 32 bits is what is wanted")]
fn narrow(value: f64) -> f32 {
    value as f32
}

fn as_size(pixels: u32) -> usize {
    usize::try_from(pixels).expect("a picture in memory has sides that fit in usize")
}

fn as_pixels(size: usize) -> u32 {
    u32::try_from(size).expect("a part of a picture is no larger than the picture")
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use unclip_testkit::{assert_close, device, fixture_sets};

    use super::*;

    fn read(value: &Value) -> Result<Preprocessor> {
        let text = value.to_string();
        Preprocessor::read(&mut ConfigReader::from_bytes(
            "preprocessor_config.json",
            text.as_bytes(),
        )?)
    }

    #[test]
    fn every_recorded_picture_has_both_references_pixels() {
        let device = device();
        for set in fixture_sets() {
            let torch = Preprocessor::from_dir(set.model_dir().join("feature_extractor"))
                .expect("the recorded folder");
            let pillow = Preprocessor { arithmetic: Arithmetic::Pillow, ..torch.clone() };
            let recorded = set.tensors("image_processor");
            let mut pictures = 0;
            while recorded.has(&format!("in.{pictures}.u8")) {
                let name = format!("in.{pictures}.u8");
                let [height, width] = [0, 1].map(|axis| as_pixels(recorded.shape(&name)[axis]));
                let picture = RgbImage::from_raw(width, height, recorded.bytes(&name).to_vec());
                let picture = picture.expect("three bytes a pixel");
                for (preprocessor, reference) in [(&torch, "torchvision"), (&pillow, "pil")] {
                    let pixels = preprocessor.preprocess(&picture, &device).expect("a picture");
                    assert_close(&pixels, &recorded, &format!("out.{pictures}.{reference}"), 1e-6);
                }
                pictures += 1;
            }
            assert_eq!(pictures, 5, "pictures in {}", set.name());
        }
    }

    #[test]
    fn both_forms_of_a_size_are_read() {
        let clip = Preprocessor::clip(224);
        for config in [
            json!({}),
            json!({"size": 224, "crop_size": 224}),
            json!({"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}),
            clip.to_json(),
        ] {
            assert_eq!(read(&config).expect("a configuration"), clip, "{config}");
        }
        let exact = read(&json!({"size": {"height": 7, "width": 9}, "do_center_crop": false}));
        let exact = exact.expect("a configuration");
        assert_eq!(exact.size, Some(Size::Exact { height: 7, width: 9 }));
        let picture = RgbImage::new(30, 20);
        let pixels = exact.preprocess(&picture, &device()).expect("a picture");
        assert_eq!(pixels.dims(), [1, 3, 7, 9]);
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (key, value) in [
            ("resample", json!(4)),
            ("resample", json!("bicubic")),
            ("size", json!({"longest_edge": 224})),
            ("size", json!(0)),
            ("size", json!({"shortest_edge": 1_000_000})),
            ("crop_size", json!({"shortest_edge": 224})),
            ("image_std", json!([0.1, 0.0, 0.1])),
            ("image_mean", json!([0.1, 0.2])),
            ("rescale_factor", json!(-1)),
            ("do_resize", json!("yes")),
            ("do_pad", json!(true)),
        ] {
            let message = read(&json!({key: value})).expect_err(key).to_string();
            assert!(message.contains(key), "{key:?} is not in {message:?}");
        }
    }

    #[test]
    fn a_small_picture_is_surrounded_by_black() {
        let preprocessor = Preprocessor {
            size: None,
            crop: Some((4, 3)),
            rescale: None,
            normalize: None,
            ..Preprocessor::clip(4)
        };
        let picture = RgbImage::from_pixel(5, 1, Rgb([9, 8, 7]));
        let (height, width, values) = preprocessor.values(&picture).expect("a picture");
        assert_eq!((height, width), (4, 3));
        let row = |value: f32| [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, value, value, value, 0.0, 0.0, 0.0];
        assert_eq!(values, [row(9.0), row(8.0), row(7.0)].concat());
    }

    #[test]
    fn a_hostile_picture_is_an_error() {
        let preprocessor = Preprocessor::clip(224);
        for (width, height) in [(0, 0), (0, 7), (1, 100_000), (100_000, 1)] {
            let picture = RgbImage::new(width, height);
            let message = preprocessor.values(&picture).expect_err("no picture").to_string();
            assert!(message.contains("picture") && message.contains('×'), "{message}");
        }
        preprocessor.values(&RgbImage::new(1, 70)).expect("a thin picture");
        let device = device();
        assert!(preprocessor.preprocess_many([], &device).is_err(), "no pictures, no batch");
    }

    #[test]
    fn a_batch_has_one_size() {
        let whole = Preprocessor { crop: None, ..Preprocessor::clip(8) };
        let (wide, square) = (RgbImage::new(20, 10), RgbImage::new(10, 10));
        let message = whole.preprocess_many([&wide, &square], &device()).expect_err("two sizes");
        assert!(message.to_string().contains("16 × 8"), "{message}");
        let cropped = Preprocessor::clip(8).preprocess_many([&wide, &square], &device());
        assert_eq!(cropped.expect("one size").dims(), [2, 3, 8, 8]);
    }
}
