//! From images to network inputs: resizing, cropping, flipping, colours, and normalisation.

use burn::{
    config::Config,
    tensor::{Tensor, TensorData, backend::Backend},
};
use leanburn_core::{Error, Result, random::Generator};
use serde::{Deserialize, Serialize};

use crate::image::{Filter, Image, luminance};

/// One change of an image. Random ones draw from the sample's generator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// To a height and a width, whatever the image's.
    Resize {
        /// Height and width.
        size: [usize; 2],
        /// How pixels are made.
        filter: Filter,
    },
    /// To a length of the shorter side; the longer one follows.
    ResizeShorter {
        /// The shorter side.
        side: usize,
        /// How pixels are made.
        filter: Filter,
    },
    /// The part in the middle.
    CenterCrop {
        /// Height and width.
        size: [usize; 2],
    },
    /// A part at a random place, of the image with black around it.
    RandomCrop {
        /// Height and width.
        size: [usize; 2],
        /// Black pixels at each side.
        padding: usize,
    },
    /// A part of random area and aspect ratio at a random place, resized (torchvision's `RandomResizedCrop`).
    RandomResizedCrop {
        /// Height and width.
        size: [usize; 2],
        /// The smallest and the largest part of the image's area.
        scale: [f64; 2],
        /// The smallest and the largest ratio of width to height.
        ratio: [f64; 2],
        /// How pixels are made.
        filter: Filter,
    },
    /// Left and right exchanged in half of the cases.
    RandomFlip,
    /// Random brightness, contrast, saturation and hue, in random order (torchvision's `ColorJitter`): the first three are
    /// multiplied by a number between `1 - x` and `1 + x`, the hue is turned by up to `x` of the circle.
    ColorJitter {
        /// Of the brightness.
        brightness: f64,
        /// Of the contrast.
        contrast: f64,
        /// Of the saturation.
        saturation: f64,
        /// Of the hue, at most 0.5.
        #[serde(default)]
        hue: f64,
    },
}

impl Transform {
    /// torchvision's `RandomResizedCrop` with its defaults.
    pub fn random_resized_crop(side: usize) -> Self {
        Self::RandomResizedCrop {
            size: [side; 2],
            scale: [0.08, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
            filter: Filter::Bilinear,
        }
    }

    fn apply(&self, image: Image, generator: &mut Generator) -> Result<Image> {
        Ok(match self {
            Self::Resize { size, filter } => image.resized(*size, *filter)?,
            Self::ResizeShorter { side, filter } => {
                let [height, width] = image.size();
                let longer = |long: usize, short: usize| (side * long / short).max(1);
                let size = if height < width {
                    [*side, longer(width, height)]
                } else {
                    [longer(height, width), *side]
                };
                image.resized(size, *filter)?
            }
            Self::CenterCrop { size } => image.cropped_in_the_middle(*size),
            Self::RandomCrop { size, padding } => {
                let mut place = |whole: usize, part: usize| {
                    let free = (whole + 2 * padding + 1).saturating_sub(part).max(1);
                    generator.below(free) as isize - *padding as isize
                };
                let [height, width] = image.size();
                let (top, left) = (place(height, size[0]), place(width, size[1]));
                image.cropped(top, left, *size)
            }
            Self::RandomResizedCrop { size, scale, ratio, filter } => {
                let [top, left, height, width] = random_part(image.size(), *scale, *ratio, generator);
                let part = image.cropped(top as isize, left as isize, [height, width]);
                part.resized(*size, *filter)?
            }
            Self::RandomFlip => {
                if generator.chance(0.5) {
                    image.flipped()
                } else {
                    image
                }
            }
            Self::ColorJitter { brightness, contrast, saturation, hue } => {
                let mut image = image;
                for which in generator.permutation(4) {
                    let strength = [*brightness, *contrast, *saturation, *hue][which];
                    if strength == 0.0 {
                        continue;
                    }
                    if which == 3 {
                        turn_hue(&mut image, generator.between(-strength, strength));
                        continue;
                    }
                    let factor = generator.between((1.0 - strength).max(0.0), 1.0 + strength);
                    let quality = [Quality::Brightness, Quality::Contrast, Quality::Saturation][which];
                    enhance(&mut image, quality, factor as f32);
                }
                image
            }
        })
    }

    fn check(&self) -> Result<()> {
        let bad = |field: &str, expected: &str| Err(Error::setting(field, expected, format!("{self:?}")));
        match self {
            Self::Resize { size, .. } | Self::CenterCrop { size } | Self::RandomCrop { size, .. }
                if size.contains(&0) =>
            {
                bad("size", "at least one pixel")
            }
            Self::ResizeShorter { side: 0, .. } => bad("side", "at least one pixel"),
            Self::RandomResizedCrop { size, scale, ratio, .. } => {
                let ordered = |range: &[f64; 2]| range[0] > 0.0 && range[0] <= range[1];
                if size.contains(&0) || !ordered(scale) || scale[1] > 1.0 || !ordered(ratio) {
                    return bad("random_resized_crop", "pixels, and ranges above 0 that ascend");
                }
                Ok(())
            }
            Self::ColorJitter { brightness, contrast, saturation, hue } => {
                let strengths = [brightness, contrast, saturation, hue];
                if strengths.iter().any(|x| !(x.is_finite() && **x >= 0.0)) || *hue > 0.5 {
                    return bad("color_jitter", "numbers from 0, of the hue to 0.5");
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Top, left, height and width of a part, as torchvision's `RandomResizedCrop` draws it: of ten draws the first that
/// fits, else the largest in the middle.
///
/// - scale: the least and the largest share of the image
/// - ratio: the least and the largest ratio of width to height
pub fn random_part(
    [height, width]: [usize; 2],
    scale: [f64; 2],
    ratio: [f64; 2],
    generator: &mut Generator,
) -> [usize; 4] {
    let (whole_height, whole_width) = (height as f64, width as f64);
    let mut between = |[low, high]: [f64; 2]| generator.between(low, high);
    for _ in 0..10 {
        let area = whole_height * whole_width * between(scale);
        let ratio = between(ratio.map(f64::ln)).exp();
        let part_width = (area * ratio).sqrt().round_ties_even() as usize;
        let part_height = (area / ratio).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&part_width) && (1..=height).contains(&part_height) {
            let top = between([0.0, (height - part_height + 1) as f64]) as usize;
            let left = between([0.0, (width - part_width + 1) as f64]) as usize;
            return [top, left, part_height, part_width];
        }
    }
    let whole = whole_width / whole_height;
    let rounded = |side: f64| (side.round_ties_even() as usize).max(1);
    let (part_height, part_width) = if whole < ratio[0] {
        (rounded(whole_width / ratio[0]), width)
    } else if whole > ratio[1] {
        (height, rounded(whole_height * ratio[1]))
    } else {
        (height, width)
    };
    [(height - part_height) / 2, (width - part_width) / 2, part_height, part_width]
}

/// What [`enhance`] changes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Quality {
    Brightness,
    Contrast,
    Saturation,
}

/// Blends an image with what a factor of 0 makes of it, as Pillow's `ImageEnhance`.
pub(crate) fn enhance(image: &mut Image, quality: Quality, factor: f32) {
    let channels = image.channels();
    let gray = |pixel: &[u8]| if pixel.len() == 3 { luminance(pixel) } else { pixel[0] };
    // Of all pixels alike, but for the saturation.
    let other = match quality {
        Quality::Brightness => Some(0.0),
        Quality::Contrast => {
            let pixels = image.values().chunks(channels);
            let count = pixels.len() as f64;
            Some((pixels.map(|pixel| f64::from(gray(pixel))).sum::<f64>() / count + 0.5).floor() as f32)
        }
        Quality::Saturation => None,
    };
    for pixel in image.values_mut().chunks_mut(channels) {
        let other = other.unwrap_or_else(|| f32::from(gray(pixel)));
        for value in pixel {
            *value = (other + factor * (f32::from(*value) - other)).clamp(0.0, 255.0) as u8;
        }
    }
}

/// Turns the hue by a part of the circle, as torchvision does with Pillow's conversions, whose hues are bytes. A grey image
/// has none.
fn turn_hue(image: &mut Image, part: f64) {
    if image.channels() != 3 {
        return;
    }
    let turn = (part * 255.0) as i32;
    for pixel in image.values_mut().chunks_mut(3) {
        let [h, s, v] = hsv([pixel[0], pixel[1], pixel[2]]);
        pixel.copy_from_slice(&rgb([(i32::from(h) + turn).rem_euclid(256) as u8, s, v]));
    }
}

/// Hue, saturation and value as Pillow's bytes.
fn hsv(pixel: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = pixel.map(f32::from);
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    if max == min {
        return [0, 0, max as u8];
    }
    let range = max - min;
    let [rc, gc, bc] = [r, g, b].map(|c| (max - c) / range);
    let h = if r == max {
        bc - gc
    } else if g == max {
        2.0 + rc - bc
    } else {
        4.0 + gc - rc
    };
    let h = (f64::from(h) / 6.0 + 1.0).fract();
    [(h * 255.0) as u8, (f64::from(range / max) * 255.0) as u8, max as u8]
}

/// Back from Pillow's hue, saturation and value.
fn rgb([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let turned = f64::from(h) * 6.0 / 255.0;
    let (sector, rest) = (turned.floor(), turned.fract());
    let (part, value) = (f64::from(s) / 255.0, f64::from(v));
    let byte = |share: f64| (value * (1.0 - share)).round().clamp(0.0, 255.0) as u8;
    let (p, q, t) = (byte(part), byte(part * rest), byte(part * (1.0 - rest)));
    match sector as i32 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

/// What is done to an image before a network sees it.
#[derive(Config, Debug)]
pub struct Preprocessing {
    /// The changes, in their order. The last one that sets a size sets that of the input.
    pub transforms: Vec<Transform>,
    /// Subtracted from each channel, whose values lie from 0 to 1.
    pub mean: Vec<f32>,
    /// What each channel is then divided by.
    pub std: Vec<f32>,
}

/// The mean of ImageNet's colours.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// The deviation of ImageNet's colours.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

impl Preprocessing {
    fn colours(transforms: Vec<Transform>, mean: [f32; 3], std: [f32; 3]) -> Self {
        Self::new(transforms, mean.to_vec(), std.to_vec())
    }

    /// ImageNet in training: a random part of 224x224, flipped in half of the cases.
    pub fn imagenet_train() -> Self {
        let transforms = vec![Transform::random_resized_crop(224), Transform::RandomFlip];
        Self::colours(transforms, IMAGENET_MEAN, IMAGENET_STD)
    }

    /// ImageNet in evaluation: 224x224 in the middle of 256.
    pub fn imagenet() -> Self {
        let transforms = vec![
            Transform::ResizeShorter { side: 256, filter: Filter::Bilinear },
            Transform::CenterCrop { size: [224, 224] },
        ];
        Self::colours(transforms, IMAGENET_MEAN, IMAGENET_STD)
    }

    /// Exactly 224x224, whatever the image's shape, as feature extraction for SLA2P has it. (Its published code divides
    /// blue by 0.25, a slip for 0.225.)
    pub fn squeezed(side: usize) -> Self {
        let transforms = vec![Transform::Resize { size: [side; 2], filter: Filter::Bilinear }];
        Self::colours(transforms, IMAGENET_MEAN, IMAGENET_STD)
    }

    /// CIFAR-10 in training: 32x32 at a random place within four black pixels, flipped in half of the cases.
    pub fn cifar10_train() -> Self {
        Self::cifar(IMAGENET_MEAN, IMAGENET_STD, true)
    }

    /// CIFAR-10 in evaluation.
    pub fn cifar10() -> Self {
        Self::cifar(IMAGENET_MEAN, IMAGENET_STD, false)
    }

    /// CIFAR-100 in training, as CIFAR-10.
    pub fn cifar100_train() -> Self {
        Self::cifar([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761], true)
    }

    /// CIFAR-100 in evaluation.
    pub fn cifar100() -> Self {
        Self::cifar([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761], false)
    }

    fn cifar(mean: [f32; 3], std: [f32; 3], train: bool) -> Self {
        let crop = Transform::RandomCrop { size: [32, 32], padding: 4 };
        let transforms = if train { vec![crop, Transform::RandomFlip] } else { Vec::new() };
        Self::colours(transforms, mean, std)
    }

    /// MNIST and its kin, 28x28, resized to 32x32.
    pub fn mnist() -> Self {
        let resize = Transform::Resize { size: [32, 32], filter: Filter::Bilinear };
        Self::new(vec![resize], vec![0.1307], vec![0.3081])
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// When a size or a range is none, or there are not as many means as deviations, 1 or 3 of each.
    pub fn check(&self) -> Result<()> {
        for transform in &self.transforms {
            transform.check()?;
        }
        let usable = self.std.iter().all(|std| std.is_finite() && *std > 0.0);
        if self.mean.len() != self.std.len() || !matches!(self.mean.len(), 1 | 3) || !usable {
            let found = format!("{:?} and {:?}", self.mean, self.std);
            return Err(Error::setting("mean, std", "as many, 1 or 3, and deviations above 0", found));
        }
        Ok(())
    }

    /// The image that the network sees, before normalisation. It has as many channels as there are means.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range.
    pub fn transformed(&self, image: &Image, generator: &mut Generator) -> Result<Image> {
        let mut image = image.with_channels(self.mean.len())?;
        for transform in &self.transforms {
            image = transform.apply(image, generator)?;
        }
        Ok(image)
    }

    /// A network's input: channel by channel, `channels * height * width` values.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range.
    pub fn apply(&self, image: &Image, generator: &mut Generator) -> Result<Sample> {
        let image = self.transformed(image, generator)?;
        let [height, width] = image.size();
        let channels = image.channels();
        let mut values = Vec::with_capacity(image.values().len());
        for (channel, (mean, std)) in self.mean.iter().zip(&self.std).enumerate() {
            let pixels = image.values().iter().skip(channel).step_by(channels);
            values.extend(pixels.map(|&value| (f32::from(value) / 255.0 - mean) / std));
        }
        Ok(Sample { shape: [channels, height, width], values })
    }
}

/// One input of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Channels, height and width.
    pub shape: [usize; 3],
    /// Channel by channel, row by row.
    pub values: Vec<f32>,
}

/// Samples as `[batch, channels, height, width]`.
///
/// # Errors
///
/// When there is none, or their shapes differ.
pub fn stack<B: Backend>(samples: &[Sample], device: &B::Device) -> Result<Tensor<B, 4>> {
    let shape = samples.first().map(|sample| sample.shape);
    let shape = shape.ok_or_else(|| Error::data("batch", "at least one sample", "none"))?;
    if let Some((place, other)) = samples.iter().enumerate().find(|(_, sample)| sample.shape != shape) {
        let expected = format!("shape {shape:?}, as the first; set a size among the transforms");
        return Err(Error::data(
            format!("sample {place} of a batch"),
            expected,
            format!("{:?}", other.shape),
        ));
    }
    let values: Vec<f32> = samples.iter().flat_map(|sample| sample.values.iter().copied()).collect();
    let [channels, height, width] = shape;
    Ok(Tensor::from_data(TensorData::new(values, [samples.len(), channels, height, width]), device))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Pillow makes of eight colours.
    #[test]
    fn hues_turn_as_pillow_turns_them() {
        let colours: [[u8; 3]; 8] = [
            [200, 30, 10],
            [10, 200, 30],
            [30, 10, 200],
            [120, 120, 120],
            [255, 254, 0],
            [13, 77, 201],
            [90, 250, 251],
            [5, 5, 6],
        ];
        let turned: [(f64, [[u8; 3]; 8]); 2] = [
            (
                -0.2,
                [
                    [184, 10, 200],
                    [200, 180, 10],
                    [10, 200, 180],
                    [120, 120, 120],
                    [255, 0, 48],
                    [13, 201, 97],
                    [125, 251, 91],
                    [5, 6, 6],
                ],
            ),
            (
                0.37,
                [
                    [10, 200, 68],
                    [68, 10, 200],
                    [200, 64, 10],
                    [120, 120, 120],
                    [0, 204, 255],
                    [201, 13, 40],
                    [251, 91, 219],
                    [6, 5, 5],
                ],
            ),
        ];
        for (part, expected) in turned {
            let mut image = Image::new([1, 8], 3, colours.concat()).unwrap();
            turn_hue(&mut image, part);
            assert_eq!(image.values(), expected.concat(), "{part}");
        }
        let hue = |hue| Transform::ColorJitter { brightness: 0.0, contrast: 0.0, saturation: 0.0, hue };
        assert!(hue(0.6).check().is_err() && hue(0.5).check().is_ok());
        let image = Image::new([1, 8], 3, colours.concat()).unwrap();
        assert_ne!(hue(0.5).apply(image.clone(), &mut Generator::new(1)).unwrap(), image);
    }
    use burn_flex::Flex;

    fn image(height: usize, width: usize) -> Image {
        let values = (0..height * width * 3).map(|value| (value * 7 % 256) as u8).collect();
        Image::new([height, width], 3, values).unwrap()
    }

    #[test]
    fn sizes_are_those_asked_for() {
        let mut generator = Generator::new(1);
        for (height, width) in [(300, 260), (40, 400), (256, 256), (33, 20)] {
            for preprocessing in [Preprocessing::imagenet(), Preprocessing::imagenet_train()] {
                preprocessing.check().unwrap();
                let sample = preprocessing.apply(&image(height, width), &mut generator).unwrap();
                assert_eq!(sample.shape, [3, 224, 224]);
            }
        }
        let shorter = Transform::ResizeShorter { side: 8, filter: Filter::Bilinear };
        let size = |h, w| shorter.apply(image(h, w), &mut Generator::new(1)).unwrap().size();
        assert_eq!((size(16, 23), size(23, 16)), ([8, 11], [11, 8]));
        let sample = Preprocessing::mnist().apply(&image(28, 28), &mut generator).unwrap();
        assert_eq!(sample.shape, [1, 32, 32]);
    }

    #[test]
    fn values_are_normalised_channel_by_channel() {
        let image = Image::new([1, 2], 3, vec![0, 51, 255, 102, 0, 0]).unwrap();
        let preprocessing = Preprocessing::new(vec![], vec![0.0, 0.2, 0.5], vec![1.0, 0.5, 0.25]);
        let sample = preprocessing.apply(&image, &mut Generator::new(1)).unwrap();
        let expected = [0.0, 0.4, 0.0, -0.4, 2.0, -2.0];
        assert!(sample.values.iter().zip(expected).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6));
        let batch = stack::<Flex>(&[sample.clone(), sample.clone()], &Default::default()).unwrap();
        assert_eq!(batch.dims(), [2, 3, 1, 2]);
        let other = Sample { shape: [3, 2, 1], ..sample.clone() };
        assert!(
            stack::<Flex>(&[sample, other], &Default::default())
                .unwrap_err()
                .to_string()
                .contains("sample 1")
        );
        assert!(stack::<Flex>(&[], &Default::default()).is_err());
    }

    #[test]
    fn random_parts_are_of_the_stated_area_and_ratio() {
        let mut generator = Generator::new(3);
        let mut areas = Vec::new();
        for _ in 0..500 {
            let [top, left, height, width] =
                random_part([100, 150], [0.08, 1.0], [0.75, 4.0 / 3.0], &mut generator);
            assert!(top + height <= 100 && left + width <= 150);
            areas.push((height * width) as f64 / 15_000.0);
            let ratio = width as f64 / height as f64;
            assert!((0.7..=1.4).contains(&ratio), "{ratio}");
        }
        // Larger parts fit less often, so the mean lies below that of the draws.
        let mean = areas.iter().sum::<f64>() / areas.len() as f64;
        assert!((0.35..0.54).contains(&mean), "{mean}");
        // A strip is too narrow for any draw.
        assert_eq!(random_part([10, 1000], [0.9, 1.0], [0.75, 4.0 / 3.0], &mut generator)[2..], [10, 13]);
    }

    #[test]
    fn crops_and_flips_are_random_and_repeatable() {
        let preprocessing = Preprocessing::cifar10_train();
        let draw = |seed| preprocessing.transformed(&image(32, 32), &mut Generator::new(seed)).unwrap();
        assert_eq!(draw(1), draw(1));
        let different = (0..40).filter(|seed| draw(*seed) != draw(100)).count();
        assert!(different > 35);
        assert_eq!(draw(5).size(), [32, 32]);
    }

    // ImageEnhance of Pillow on the two pixels.
    #[test]
    fn colours_change_as_pillows() {
        let enhanced = |quality, factor| {
            let mut image = Image::new([1, 2], 3, vec![200, 100, 50, 0, 20, 240]).unwrap();
            enhance(&mut image, quality, factor);
            image.values().to_vec()
        };
        assert_eq!(enhanced(Quality::Brightness, 1.5), [255, 150, 75, 0, 30, 255]);
        assert_eq!(enhanced(Quality::Contrast, 0.5), [141, 91, 66, 41, 51, 161]);
        assert_eq!(enhanced(Quality::Contrast, 1.3), [235, 105, 40, 0, 1, 255]);
        assert_eq!(enhanced(Quality::Saturation, 0.5), [162, 112, 87, 19, 29, 139]);
        assert_eq!(enhanced(Quality::Saturation, 1.7), [253, 83, 0, 0, 6, 255]);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let with = |transform| Preprocessing::new(vec![transform], vec![0.5], vec![0.5]).check();
        assert!(with(Transform::CenterCrop { size: [0, 3] }).is_err());
        assert!(with(Transform::ResizeShorter { side: 0, filter: Filter::Nearest }).is_err());
        let scale = [0.5, 0.2];
        let crop =
            Transform::RandomResizedCrop { size: [8; 2], scale, ratio: [1.0; 2], filter: Filter::Bicubic };
        assert!(with(crop).is_err());
        let jitter =
            Transform::ColorJitter { brightness: f64::NAN, contrast: 0.0, saturation: 0.0, hue: 0.0 };
        assert!(with(jitter).is_err());
        assert!(Preprocessing::new(vec![], vec![0.5], vec![0.0]).check().is_err());
        assert!(Preprocessing::new(vec![], vec![0.5, 0.5], vec![0.5, 0.5]).check().is_err());
    }
}
