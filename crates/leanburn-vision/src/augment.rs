//! Strong random changes of images: RandAugment (Cubuk et al., 2020) as timm has it, and random erasing (Zhong et al.,
//! 2020). What is drawn stands apart from its application, so that the frames of a clip can share it.

use std::f64::consts::PI;

use burn::config::Config;
use leanburn_core::{Error, Result, random::Generator};

use crate::{
    image::Image,
    transform::{Quality, enhance},
};

/// The magnitude of the strongest operations.
const STRONGEST: f64 = 10.0;
/// What comes in from beyond the edge.
const FILL: u8 = 128;

/// Configuration of RandAugment: some operations of fifteen, each of which is applied in half of the cases. All of them
/// change an image the more, the larger the magnitude is (timm's `inc1`).
///
/// Timm writes its settings as `rand-m7-n4-mstd0.5-inc1`, which [`parse`](Self::parse) reads.
#[derive(Config, Debug, PartialEq)]
pub struct RandAugment {
    /// How strong the operations are, from 0 to 10.
    pub magnitude: f64,
    /// How many are drawn for an image. Default: 2
    #[config(default = 2)]
    pub operations: usize,
    /// The deviation of each operation's magnitude. Default: 0
    #[config(default = 0.0)]
    pub deviation: f64,
}

/// A change of an image, as Pillow makes it to the bit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    /// Stretches each channel to all values.
    AutoContrast,
    /// Makes all values of a channel equally frequent.
    Equalize,
    /// Negates.
    Invert,
    /// Turns to the left by an angle in degrees.
    Rotate(f64),
    /// Keeps some of the eight bits of each value.
    Posterize(u32),
    /// Negates the values from a threshold on.
    Solarize(u32),
    /// Adds to the values below 128.
    SolarizeAdd(u8),
    /// Blends with the gray image, 1 for no change.
    Color(f64),
    /// Blends with the mean brightness.
    Contrast(f64),
    /// Blends with black.
    Brightness(f64),
    /// Blends with a smoothed image.
    Sharpness(f64),
    /// Moves rows, each by a share of its distance from the upper edge.
    ShearX(f64),
    /// Moves columns, each by a share of its distance from the left edge.
    ShearY(f64),
    /// Moves to the left by a share of the width.
    TranslateX(f64),
    /// Moves upwards by a share of the height.
    TranslateY(f64),
}

impl RandAugment {
    /// Timm's notation: `rand`, then `m` with the magnitude, `n` with the number of operations (2), `mstd` with the
    /// deviation (0), and `inc1`, in any order, with dashes in between.
    ///
    /// # Errors
    ///
    /// When a part is none of these, `inc1` or the magnitude is absent, or a number is out of its range.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |found: &str| {
            let expected = "`rand-mM-nN-mstdS-inc1`";
            Error::setting("rand_augment", expected, format!("`{found}` in `{text}`"))
        };
        let mut parts = text.split('-');
        if parts.next() != Some("rand") {
            return Err(bad(text));
        }
        let (mut magnitude, mut increasing) = (None, false);
        let mut parsed = Self::new(0.0);
        for part in parts {
            let number = |prefix: &str| part.strip_prefix(prefix)?.parse::<f64>().ok();
            if let Some(deviation) = number("mstd") {
                parsed.deviation = deviation;
            } else if let Some(found) = number("m") {
                magnitude = Some(found);
            } else if let Some(count) = part.strip_prefix('n').and_then(|count| count.parse().ok()) {
                parsed.operations = count;
            } else if part == "inc1" {
                increasing = true;
            } else {
                return Err(bad(part));
            }
        }
        let (Some(magnitude), true) = (magnitude, increasing) else {
            return Err(bad(text));
        };
        let parsed = Self { magnitude, ..parsed };
        parsed.check()?;
        Ok(parsed)
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// When one is out of its range.
    pub fn check(&self) -> Result<()> {
        let from_0_to_10 = 0.0..=STRONGEST;
        for (field, value) in [("magnitude", self.magnitude), ("deviation", self.deviation)] {
            if !from_0_to_10.contains(&value) {
                return Err(Error::setting(field, "a number from 0 to 10", value));
            }
        }
        Ok(())
    }

    /// Draws operations: those of half of the cases, so that there may be none.
    pub fn draw(&self, generator: &mut Generator) -> Vec<Operation> {
        let mut drawn = Vec::new();
        for _ in 0..self.operations {
            let which = generator.below(15);
            if !generator.chance(0.5) {
                continue;
            }
            let noise = if self.deviation > 0.0 { f64::from(generator.normals(1)[0]) } else { 0.0 };
            let level = (self.magnitude + self.deviation * noise).clamp(0.0, STRONGEST) / STRONGEST;
            let sign = if generator.chance(0.5) { -1.0 } else { 1.0 };
            let factor = 1.0 + 0.9 * level * sign;
            drawn.push(match which {
                0 => Operation::AutoContrast,
                1 => Operation::Equalize,
                2 => Operation::Invert,
                3 => Operation::Rotate(30.0 * level * sign),
                4 => Operation::Posterize(4 - (4.0 * level) as u32),
                5 => Operation::Solarize(256 - (256.0 * level) as u32),
                6 => Operation::SolarizeAdd((110.0 * level) as u8),
                7 => Operation::Color(factor),
                8 => Operation::Contrast(factor),
                9 => Operation::Brightness(factor),
                10 => Operation::Sharpness(factor),
                11 => Operation::ShearX(0.3 * level * sign),
                12 => Operation::ShearY(0.3 * level * sign),
                13 => Operation::TranslateX(0.45 * level * sign),
                _ => Operation::TranslateY(0.45 * level * sign),
            });
        }
        drawn
    }
}

impl Operation {
    /// The changed image, of the same size.
    #[must_use]
    pub fn apply(&self, image: &Image) -> Image {
        let enhanced = |quality: Quality, factor: f64| {
            let mut image = image.clone();
            enhance(&mut image, quality, factor as f32);
            image
        };
        let mapped = |value: &dyn Fn(u8) -> u8| {
            let table: [u8; 256] = std::array::from_fn(|index| value(index as u8));
            with_tables(image, &[table; 3])
        };
        let [height, width] = image.size();
        match *self {
            Self::AutoContrast => with_tables(image, &tables(image, stretched)),
            Self::Equalize => with_tables(image, &tables(image, equalized)),
            Self::Invert => mapped(&|value| 255 - value),
            Self::Rotate(degrees) => rotated(image, degrees),
            Self::Posterize(bits) => {
                let mask = if bits >= 8 { u8::MAX } else { !(u8::MAX >> bits) };
                mapped(&|value| value & mask)
            }
            Self::Solarize(threshold) => {
                mapped(&|value| if u32::from(value) < threshold { value } else { 255 - value })
            }
            Self::SolarizeAdd(added) => {
                mapped(&|value| if value < 128 { value.saturating_add(added) } else { value })
            }
            Self::Color(factor) => enhanced(Quality::Saturation, factor),
            Self::Contrast(factor) => enhanced(Quality::Contrast, factor),
            Self::Brightness(factor) => enhanced(Quality::Brightness, factor),
            Self::Sharpness(factor) => sharpened(image, factor as f32),
            Self::ShearX(share) => moved(image, [1.0, share, 0.0, 0.0, 1.0, 0.0]),
            Self::ShearY(share) => moved(image, [1.0, 0.0, 0.0, share, 1.0, 0.0]),
            Self::TranslateX(share) => moved(image, [1.0, 0.0, share * width as f64, 0.0, 1.0, 0.0]),
            Self::TranslateY(share) => moved(image, [1.0, 0.0, 0.0, 0.0, 1.0, share * height as f64]),
        }
    }
}

/// Replaces the values of each channel.
fn with_tables(image: &Image, tables: &[[u8; 256]; 3]) -> Image {
    let mut image = image.clone();
    let channels = image.channels();
    for pixel in image.values_mut().chunks_mut(channels) {
        for (value, table) in pixel.iter_mut().zip(tables) {
            *value = table[usize::from(*value)];
        }
    }
    image
}

/// Tables of the channels, made of how often each value occurs.
fn tables(image: &Image, table: impl Fn(&[usize; 256]) -> [u8; 256]) -> [[u8; 256]; 3] {
    let mut counts = [[0_usize; 256]; 3];
    for pixel in image.values().chunks(image.channels()) {
        for (value, counts) in pixel.iter().zip(&mut counts) {
            counts[usize::from(*value)] += 1;
        }
    }
    counts.each_ref().map(table)
}

/// Pillow's `ImageOps.autocontrast`.
fn stretched(counts: &[usize; 256]) -> [u8; 256] {
    let occurring = |value: &usize| counts[*value] > 0;
    let lowest = (0..256).find(occurring).unwrap_or(0);
    let highest = (0..256).rev().find(occurring).unwrap_or(0);
    if highest <= lowest {
        return std::array::from_fn(|value| value as u8);
    }
    let scale = 255.0 / (highest - lowest) as f64;
    let offset = -(lowest as f64) * scale;
    std::array::from_fn(|value| (value as f64 * scale + offset).clamp(0.0, 255.0) as u8)
}

/// Pillow's `ImageOps.equalize`.
fn equalized(counts: &[usize; 256]) -> [u8; 256] {
    let total: usize = counts.iter().sum();
    let last = counts.iter().rfind(|count| **count > 0).copied().unwrap_or(0);
    let step = (total - last) / 255;
    if step == 0 {
        return std::array::from_fn(|value| value as u8);
    }
    let mut sum = step / 2;
    std::array::from_fn(|value| {
        let mapped = sum / step;
        sum += counts[value];
        mapped.min(255) as u8
    })
}

/// Blends with Pillow's `ImageFilter.SMOOTH`, which leaves the edge as it is.
fn sharpened(image: &Image, factor: f32) -> Image {
    let ([height, width], channels) = (image.size(), image.channels());
    let (values, row) = (image.values(), width * channels);
    let (around, middle) = (1.0_f32 / 13.0, 5.0_f32 / 13.0);
    let mut changed = image.clone();
    let target = changed.values_mut();
    for y in 1..height.saturating_sub(1) {
        let inner = y * row + channels..((y + 1) * row).saturating_sub(channels);
        for (place, changed) in target.iter_mut().enumerate().take(inner.end).skip(inner.start) {
            let of = |place: usize| f32::from(values[place]);
            let three = |place: usize, middle: f32| {
                of(place - channels) * around + of(place) * middle + of(place + channels) * around
            };
            let sum = 0.5 + three(place + row, around) + three(place, middle) + three(place - row, around);
            let smooth = f32::from(sum.clamp(0.0, 255.0) as u8);
            *changed = (smooth + factor * (of(place) - smooth)).clamp(0.0, 255.0) as u8;
        }
    }
    changed
}

/// Pillow's `Image.rotate`.
fn rotated(image: &Image, degrees: f64) -> Image {
    if degrees % 360.0 == 0.0 {
        return image.clone();
    }
    let angle = -degrees.rem_euclid(360.0) * PI / 180.0;
    let rounded = |value: f64| (value * 1e15).round_ties_even() / 1e15;
    let (cos, sin) = (rounded(angle.cos()), rounded(angle.sin()));
    let [y, x] = image.size().map(|side| side as f64 / 2.0);
    moved(image, [cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y])
}

/// Takes each pixel from another place, interpolated as Pillow's affine transformation does with `BICUBIC`.
///
/// - matrix: two rows that make a source's column and row from a target's column, row and 1
fn moved(image: &Image, matrix: [f64; 6]) -> Image {
    let ([height, width], channels) = (image.size(), image.channels());
    let values = image.values();
    let mut changed = image.clone();
    let target = changed.values_mut();
    target.fill(FILL);
    for (place, pixel) in target.chunks_mut(channels).enumerate() {
        let (x, y) = ((place % width) as f64 + 0.5, (place / width) as f64 + 0.5);
        let source_x = matrix[0] * x + matrix[1] * y + matrix[2];
        let source_y = matrix[3] * x + matrix[4] * y + matrix[5];
        let inside = |at: f64, side: usize| at >= 0.0 && at < side as f64;
        if !inside(source_x, width) || !inside(source_y, height) {
            continue;
        }
        let (source_x, source_y) = (source_x - 0.5, source_y - 0.5);
        let (shift_x, shift_y) = (source_x - source_x.floor(), source_y - source_y.floor());
        let neighbours = |first: f64, side: usize| {
            std::array::from_fn::<usize, 4, _>(|index| {
                (first as isize - 1 + index as isize).clamp(0, side as isize - 1) as usize
            })
        };
        let columns = neighbours(source_x.floor(), width);
        let rows = neighbours(source_y.floor(), height);
        for (channel, value) in pixel.iter_mut().enumerate() {
            let line = rows.map(|row| {
                let of = |column: usize| f64::from(values[(row * width + column) * channels + channel]);
                cubic(columns.map(of), shift_x)
            });
            *value = cubic(line, shift_y).clamp(0.0, 255.0) as u8;
        }
    }
    changed
}

/// Between the second and the third of four values.
fn cubic([a, b, c, d]: [f64; 4], shift: f64) -> f64 {
    let (linear, square, cube) = (c - a, 2.0 * (a - b) + c - d, b - a + d - c);
    b + shift * (linear + shift * (square + shift * cube))
}

/// Configuration of random erasing: a rectangle of an image is replaced by noise of the standard normal distribution, after
/// the normalisation (timm's mode `pixel`).
#[derive(Config, Debug, PartialEq)]
pub struct RandomErasing {
    /// The probability that an image has one.
    pub probability: f64,
    /// The smallest and the largest part of the image's area. Default: 0.02 to 1/3
    #[config(default = "[0.02, 1.0 / 3.0]")]
    pub area: [f64; 2],
    /// The smallest ratio of the sides; the largest is its inverse. Default: 0.3
    #[config(default = 0.3)]
    pub ratio: f64,
}

impl RandomErasing {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// When one is out of its range.
    pub fn check(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.probability) {
            return Err(Error::setting("probability", "from 0 to 1", self.probability));
        }
        if !(self.area[0] > 0.0 && self.area[0] <= self.area[1] && self.area[1] <= 1.0) {
            return Err(Error::setting(
                "area",
                "an ascending range above 0 to 1",
                format!("{:?}", self.area),
            ));
        }
        if !(self.ratio > 0.0 && self.ratio <= 1.0) {
            return Err(Error::setting("ratio", "above 0 to 1", self.ratio));
        }
        Ok(())
    }

    /// Top, left, height and width of the rectangle, or none.
    ///
    /// - size: height and width of the image
    pub fn draw(&self, [height, width]: [usize; 2], generator: &mut Generator) -> Option<[usize; 4]> {
        if !generator.chance(self.probability) {
            return None;
        }
        (0..100).find_map(|_| {
            let area = generator.between(self.area[0], self.area[1]) * (height * width) as f64;
            let ratio = generator.between(self.ratio.ln(), -self.ratio.ln()).exp();
            let rows = (area * ratio).sqrt().round_ties_even() as usize;
            let columns = (area / ratio).sqrt().round_ties_even() as usize;
            ((1..height).contains(&rows) && (1..width).contains(&columns)).then(|| {
                let top = generator.below(height - rows + 1);
                [top, generator.below(width - columns + 1), rows, columns]
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(size: [usize; 2], value: impl Fn(usize) -> usize) -> Image {
        let values = (0..size[0] * size[1] * 3).map(|k| value(k) as u8).collect();
        Image::new(size, 3, values).unwrap()
    }

    /// The sum of the values times their places, counted from 1, and the first values.
    fn digest(image: &Image) -> (u64, [u8; 4]) {
        let weighed = image.values().iter().zip(1_u64..).map(|(&value, place)| u64::from(value) * place);
        (weighed.sum(), image.values()[..4].try_into().unwrap())
    }

    // Pillow 12.3, with BICUBIC and a fill colour of 128, of k = numpy.arange(324),
    // ((k * k * 37 + k * 11) % 256).reshape(9, 12, 3).
    #[test]
    fn operations_are_pillows() {
        let spread = |k: usize| (k * k * 37 + k * 11) % 256;
        let whole = image([9, 12], spread);
        let narrow = image([9, 12], |k| spread(k) / 4 + 60);
        let frequent = image([40, 40], |k| k % 97);
        for (image, operation, expected) in [
            (&narrow, Operation::AutoContrast, (6_763_016, [0, 48, 170, 109])),
            (&whole, Operation::Equalize, (6_760_630, [0, 48, 170, 110])),
            (&frequent, Operation::Equalize, (1_521_598_029, [0, 3, 6, 8])),
            (&whole, Operation::Invert, (6_665_120, [255, 207, 85, 145])),
            (&whole, Operation::Rotate(17.0), (6_572_935, [128, 128, 128, 128])),
            (&whole, Operation::Rotate(-30.0), (6_815_873, [128, 128, 128, 113])),
            (&whole, Operation::Rotate(0.0), (6_760_630, [0, 48, 170, 110])),
            (&whole, Operation::Posterize(2), (5_140_224, [0, 0, 128, 64])),
            (&whole, Operation::Posterize(0), (0, [0; 4])),
            (&whole, Operation::Solarize(77), (3_880_586, [0, 48, 85, 145])),
            (&whole, Operation::SolarizeAdd(40), (7_795_150, [40, 88, 170, 150])),
            (&whole, Operation::Color(1.6), (6_778_417, [0, 48, 243, 98])),
            (&whole, Operation::Contrast(0.3), (6_650_740, [88, 102, 139, 121])),
            (&whole, Operation::Contrast(1.7), (6_821_990, [0, 0, 200, 98])),
            (&whole, Operation::Brightness(1.4), (8_675_597, [0, 67, 238, 154])),
            (&whole, Operation::Sharpness(1.9), (6_763_202, [0, 48, 170, 110])),
            (&whole, Operation::Sharpness(0.2), (6_726_308, [0, 48, 170, 110])),
            (&whole, Operation::ShearX(0.3), (6_944_013, [16, 59, 177, 124])),
            (&whole, Operation::ShearY(-0.2), (6_766_030, [0, 42, 176, 107])),
            (&whole, Operation::TranslateX(0.21), (6_933_241, [62, 158, 194, 49])),
            (&whole, Operation::TranslateY(-0.4), (6_676_339, [128, 128, 128, 128])),
        ] {
            assert_eq!(digest(&operation.apply(image)), expected, "{operation:?}");
        }
        // A single pixel, and a gray one.
        let single = Image::new([1, 1], 1, vec![9]).unwrap();
        assert_eq!(Operation::Sharpness(1.9).apply(&single), single);
        assert_eq!(Operation::Rotate(20.0).apply(&single), single);
        assert_eq!(Operation::AutoContrast.apply(&single), single);
    }

    #[test]
    fn settings_are_read_as_timm_writes_them() {
        let parsed = RandAugment::parse("rand-m7-n4-mstd0.5-inc1").unwrap();
        assert_eq!(parsed, RandAugment::new(7.0).with_operations(4).with_deviation(0.5));
        assert_eq!(RandAugment::parse("rand-m9-inc1").unwrap(), RandAugment::new(9.0));
        for bad in ["m7", "rand-m7", "rand-inc1", "rand-m11-inc1", "rand-m7-n-inc1", "rand-m7-w0-inc1"] {
            assert!(RandAugment::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn operations_are_drawn_within_their_ranges() {
        let mut generator = Generator::new(5);
        let augment = RandAugment::new(7.0).with_operations(4).with_deviation(0.5);
        let drawn: Vec<Operation> = (0..500).flat_map(|_| augment.draw(&mut generator)).collect();
        // Half of 2000.
        assert!((900..1100).contains(&drawn.len()), "{}", drawn.len());
        let mut turned = [0, 0];
        for operation in &drawn {
            match *operation {
                Operation::Rotate(degrees) => {
                    assert!((12.0..=30.0).contains(&degrees.abs()));
                    turned[usize::from(degrees > 0.0)] += 1;
                }
                Operation::Posterize(bits) => assert!(bits <= 2),
                Operation::TranslateX(share) => assert!((0.18..=0.45).contains(&share.abs())),
                Operation::Color(factor) => assert!((0.1..=1.9).contains(&factor)),
                _ => {}
            }
        }
        assert!(turned.iter().all(|count| *count > 15), "{turned:?}");
        let image = image([5, 4], |k| k);
        assert!(drawn.iter().all(|operation| operation.apply(&image).size() == [5, 4]));
    }

    #[test]
    fn rectangles_to_erase_lie_within_the_image() {
        let mut generator = Generator::new(1);
        let erasing = RandomErasing::new(0.25);
        erasing.check().unwrap();
        let drawn: Vec<_> = (0..400).filter_map(|_| erasing.draw([20, 30], &mut generator)).collect();
        assert!((60..140).contains(&drawn.len()), "{}", drawn.len());
        for [top, left, rows, columns] in drawn {
            assert!(top + rows <= 20 && left + columns <= 30);
            let share = (rows * columns) as f64 / 600.0;
            assert!((0.01..0.4).contains(&share), "{share}");
        }
        // Nothing fits.
        assert_eq!(RandomErasing::new(1.0).draw([1, 1], &mut generator), None);
        assert!(RandomErasing::new(1.5).check().is_err());
        assert!(RandomErasing::new(1.0).with_area([0.5, 0.2]).check().is_err());
        assert!(RandomErasing::new(1.0).with_ratio(0.0).check().is_err());
    }
}
