//! Transforms of the frames of a clip. The kind is described in `oracles/ffn/README.md`.

use std::sync::Arc;

use leanburn::{
    burn::tensor::TensorData,
    core::{Error, Result, random::Generator},
    prelude::DispatchDevice,
    video::transform::{Clip, ClipPreprocessing, Crop, Part, Plan, fixed_places, multi_scale_sizes},
    vision::image::{Filter, Image},
};
use serde::Deserialize;

use crate::{case::Case, comparison::Outputs};

#[derive(Deserialize)]
struct Config {
    /// Heights and widths, one for each group.
    sizes: Vec<[usize; 2]>,
    group_size: usize,
    input_size: usize,
    scale: usize,
    mean: [f32; 3],
    std: [f32; 3],
    scales: Vec<f64>,
    max_distort: usize,
    fixed_crops: bool,
    fixed_offsets: usize,
    crop_offset: CropOffset,
    three_crop_order: Vec<String>,
    interpolation: String,
    value_divisor: f64,
}

/// Which of the offsets a pair of sides takes.
#[derive(Deserialize)]
struct CropOffset {
    multiply: usize,
    add: usize,
    modulo: usize,
}

impl Config {
    fn check(&self) -> Result<()> {
        let usual =
            self.fixed_crops && self.interpolation == "pillow_bilinear" && self.value_divisor == 255.0;
        if !usual || self.three_crop_order != ["left", "right", "centre"] {
            let found = format!(
                "{}, {}, {}, {:?}",
                self.fixed_crops, self.interpolation, self.value_divisor, self.three_crop_order
            );
            return Err(Error::setting("config", "what TSN and its successors have", found));
        }
        Ok(())
    }

    /// Crops only.
    fn cropping(crop: Crop) -> ClipPreprocessing {
        ClipPreprocessing::new(crop, [0.0; 3], [1.0; 3])
    }

    fn center(&self) -> Crop {
        Crop::Center { scale: self.scale, side: self.input_size }
    }

    /// Every pair of sides at its place.
    fn crops(&self, size: [usize; 2]) -> Plan {
        let sizes = multi_scale_sizes(size, self.input_size, &self.scales, self.max_distort);
        let CropOffset { multiply, add, modulo } = self.crop_offset;
        let parts = sizes.iter().enumerate().map(|(pair, &part)| {
            let places = fixed_places(size, part, self.fixed_offsets > 5);
            Part::new(places[(multiply * pair + add) % modulo], part)
        });
        let parts = parts.collect();
        Plan {
            size,
            operations: Vec::new(),
            scaled: size,
            parts,
            side: self.input_size,
            antialias: true,
            mirrored: false,
            erased: None,
        }
    }

    /// Widths and heights of the crops, and the left and upper edges that each of them can have.
    fn choices(&self, size: [usize; 2]) -> [TensorData; 2] {
        let sizes = multi_scale_sizes(size, self.input_size, &self.scales, self.max_distort);
        let widths_heights: Vec<i64> =
            sizes.iter().flat_map(|&[height, width]| [width as i64, height as i64]).collect();
        let offsets: Vec<i64> = sizes
            .iter()
            .flat_map(|&part| fixed_places(size, part, self.fixed_offsets > 5))
            .flat_map(|[top, left]| [left as i64, top as i64])
            .collect();
        let count = sizes.len();
        let places = offsets.len() / (2 * count).max(1);
        [TensorData::new(widths_heights, [count, 2]), TensorData::new(offsets, [count, places, 2])]
    }
}

/// The 8-bit values of an image.
fn values(image: &Image) -> TensorData {
    let [height, width] = image.size();
    let values: Vec<i64> = image.values().iter().map(|&value| i64::from(value)).collect();
    TensorData::new(values, [height, width, image.channels()])
}

/// The 8-bit values of clips of a single frame that were cropped only, the channels of a pixel side by side.
fn pixels(clips: &[Clip]) -> Vec<i64> {
    let pixels = clips.iter().flat_map(|clip| {
        let count = clip.size[0] * clip.size[1];
        let value = move |channel: usize, pixel: usize| {
            (f64::from(clip.values[channel * count + pixel]) * 255.0).round() as i64
        };
        (0..count).flat_map(move |pixel| [0, 1, 2].map(|channel| value(channel, pixel)))
    });
    pixels.collect()
}

pub(super) fn video_transforms(case: &Case, _device: &DispatchDevice) -> Result<Outputs> {
    let config: Config = case.config()?;
    config.check()?;
    let (scale, side) = (config.scale, config.input_size);
    // None of these draws.
    let mut generator = Generator::new(0);
    let mut outputs = Outputs::default();
    for (group, &size) in config.sizes.iter().enumerate() {
        let image = |index: usize| -> Result<Arc<Image>> {
            let values = case.input(&format!("img{group}_{index}"))?;
            Ok(Arc::new(Image::new(size, 3, values.iter::<i64>().map(|value| value as u8).collect())?))
        };
        let images = (0..config.group_size).map(image).collect::<Result<Vec<_>>>()?;
        let name = |transform: &str| format!("{group}.{transform}");
        let [first, second] = [&images[..1], &images[1..2]];

        let centre = Config::cropping(config.center());
        let scaled = centre.plan(size, &mut generator)?.scaled;
        outputs.data(name("scaled"), values(&first[0].resized(scaled, Filter::Bilinear)?));
        let clips = centre.apply(second, 0, &mut generator)?;
        outputs.data(name("centre"), TensorData::new(pixels(&clips), [side, side, 3]));
        let normalised = ClipPreprocessing::new(config.center(), config.mean, config.std);
        let clip = normalised.apply(&images, 0, &mut generator)?.swap_remove(0);
        outputs.data(name("tensor"), TensorData::new(clip.values, [3 * images.len(), side, side]));

        let [pairs, offsets] = config.choices(size);
        outputs.data(name("crop_pairs"), pairs);
        outputs.data(name("offsets"), offsets);
        let clips = centre.apply_plan(&config.crops(size), first, 0)?;
        outputs.data(name("crops"), TensorData::new(pixels(&clips), [clips.len(), side, side, 3]));
        outputs.data(name("flipped"), values(&first[0].flipped()));

        let views = [
            ("threecrop", Crop::FullResolution { scale, side }),
            ("tencrop", Crop::OverSample { scale, side }),
        ];
        for (transform, crop) in views {
            let clips = Config::cropping(crop).apply(first, 0, &mut generator)?;
            outputs.data(name(transform), TensorData::new(pixels(&clips), [clips.len(), side, side, 3]));
        }
    }
    Ok(outputs)
}
