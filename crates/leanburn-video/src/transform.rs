//! What is done to the frames of a clip before a network sees them: all of them go through the same draws.
//!
//! A [`Crop`] says which parts of the frames are shown, a [`Flip`] whether left and right are exchanged, and
//! [`ClipPreprocessing`] holds both beside RandAugment, random erasing and the normalisation. What it draws for a clip is a
//! [`Plan`].

use std::{borrow::Cow, collections::HashMap, mem, ops::Range, sync::Arc};

use burn::config::Config;
use leanburn_core::{Error, Result, random::Generator};
use leanburn_vision::{
    augment::{Operation, RandAugment, RandomErasing},
    image::{Filter, Image},
    transform::{IMAGENET_MEAN, IMAGENET_STD, random_part},
};
use serde::{Deserialize, Serialize};

use crate::modality::Modality;

/// The mean of the colours as SlowFast and UniFormer have it.
const SLOWFAST_MEAN: [f32; 3] = [0.45; 3];
/// The deviation of the colours as SlowFast and UniFormer have it.
const SLOWFAST_STD: [f32; 3] = [0.225; 3];

/// Where parts can lie, as multiples of a quarter of the free width and height: the first five are the corners and the
/// middle.
const FIXED: [[isize; 2]; 13] =
    [[0, 0], [4, 0], [0, 4], [4, 4], [2, 2], [0, 2], [4, 2], [2, 4], [2, 0], [1, 1], [3, 1], [1, 3], [3, 3]];

/// Which parts of the frames a clip shows; all are squares in the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// Training: a part of a random size among few, at a random place among few, resized as Pillow does (TSN's
    /// `GroupMultiScaleCrop`).
    MultiScale {
        /// Of the square.
        side: usize,
        /// Sides of the part, as shares of the frame's shorter side.
        scales: Vec<f64>,
        /// How many places in the list of scales height and width may be apart.
        max_distort: usize,
        /// Whether there are thirteen places instead of the corners and the middle.
        more_fixed: bool,
    },
    /// Training: a part of random area and aspect ratio at a random place, resized.
    RandomSized {
        /// Of the square.
        side: usize,
        /// The smallest and the largest part of the frame's area.
        area: [f64; 2],
        /// The smallest and the largest ratio of width to height.
        ratio: [f64; 2],
        /// Whether it is resized as Pillow does (TSN's `GroupRandomSizedCrop`), or bilinearly between neighbouring pixels
        /// only, without rounding (UniFormer).
        antialias: bool,
    },
    /// Training: a random part of the frames, whose shorter side gets a random length first: the inverse of a uniform
    /// number. They are resized bilinearly between neighbouring pixels, without rounding (SlowFast).
    ShortSideJitter {
        /// The smallest length of the shorter side.
        shortest: usize,
        /// The largest.
        longest: usize,
        /// Of the square.
        side: usize,
    },
    /// Evaluation: the middle of the frames, whose shorter side gets a length first, as Pillow resizes.
    Center {
        /// The shorter side.
        scale: usize,
        /// Of the square.
        side: usize,
    },
    /// Evaluation: three views instead, at the left, at the right and in the middle (TSN's `GroupFullResSample`).
    FullResolution {
        /// The shorter side.
        scale: usize,
        /// Of the square.
        side: usize,
    },
    /// Evaluation: ten views instead, in the corners and in the middle, each followed by itself with left and right
    /// exchanged (TSN's `GroupOverSample`).
    OverSample {
        /// The shorter side.
        scale: usize,
        /// Of the square.
        side: usize,
    },
    /// Evaluation: one of three squares along the longer side, after resizing as in
    /// [`ShortSideJitter`](Self::ShortSideJitter).
    ShortSide {
        /// The shorter side.
        shortest: usize,
        /// Of the square.
        side: usize,
        /// 0 at the left or the top, 1 in the middle, 2 at the right or the bottom.
        view: usize,
    },
}

impl Crop {
    /// How many clips each video becomes.
    pub fn views(&self) -> usize {
        match self {
            Self::FullResolution { .. } => 3,
            Self::OverSample { .. } => 10,
            _ => 1,
        }
    }

    fn check(&self) -> Result<()> {
        let (usable, expected) = match self {
            Self::MultiScale { side, scales, .. } => {
                let shares = scales.iter().all(|scale| *scale > 0.0 && *scale <= 1.0);
                (*side > 0 && !scales.is_empty() && shares, "a side, and scales above 0 to 1")
            }
            Self::RandomSized { side, area, ratio, .. } => {
                let ordered = |range: &[f64; 2]| range[0] > 0.0 && range[0] <= range[1];
                let usable = *side > 0 && ordered(area) && area[1] <= 1.0 && ordered(ratio);
                (usable && ratio[1].is_finite(), "a side, and ranges above 0 that ascend")
            }
            Self::ShortSideJitter { shortest, longest, side } => {
                (*side > 0 && side <= shortest && shortest <= longest, "0 < side <= shortest <= longest")
            }
            Self::Center { scale, side }
            | Self::FullResolution { scale, side }
            | Self::OverSample { scale, side } => (*side > 0 && side <= scale, "0 < side <= scale"),
            Self::ShortSide { shortest, side, view } => {
                (*side > 0 && side <= shortest && *view < 3, "0 < side <= shortest, and a view below 3")
            }
        };
        if usable { Ok(()) } else { Err(Error::setting("crop", expected, format!("{self:?}"))) }
    }

    /// For settings that were checked, and frames of at least one pixel.
    fn plan(&self, size: [usize; 2], generator: &mut Generator) -> Plan {
        let plan = |scaled, parts, side, antialias| {
            let operations = Vec::new();
            Plan { size, operations, scaled, parts, side, antialias, mirrored: false, erased: None }
        };
        match self {
            Self::MultiScale { side, scales, max_distort, more_fixed } => {
                let sizes = multi_scale_sizes(size, *side, scales, *max_distort);
                let drawn = sizes[generator.below(sizes.len())];
                let places = fixed_places(size, drawn, *more_fixed);
                let place = places[generator.below(places.len())];
                plan(size, vec![Part::new(place, drawn)], *side, true)
            }
            Self::RandomSized { side, area, ratio, antialias } => {
                let [top, left, height, width] = random_part(size, *area, *ratio, generator);
                let part = Part::new([top as isize, left as isize], [height, width]);
                plan(size, vec![part], *side, *antialias)
            }
            Self::ShortSideJitter { shortest, longest, side } => {
                let drawn = generator.between(1.0 / *longest as f64, 1.0 / *shortest as f64);
                let scaled = with_short_side(size, drawn.recip().round_ties_even() as usize);
                let place = scaled.map(|whole| generator.below(whole - side + 1) as isize);
                plan(scaled, vec![Part::new(place, [*side; 2])], *side, false)
            }
            Self::Center { scale, side } => {
                let scaled = with_shorter_side(size, *scale);
                // Python rounds halves to the even number.
                let place =
                    scaled.map(|whole| ((whole as f64 - *side as f64) / 2.0).round_ties_even() as isize);
                plan(scaled, vec![Part::new(place, [*side; 2])], *side, true)
            }
            Self::FullResolution { scale, side } => {
                let scaled = with_shorter_side(size, *scale);
                let places = fixed_places(scaled, [*side; 2], true);
                // Left, right and middle among the thirteen.
                let parts = [5_usize, 6, 4].map(|index| Part::new(places[index], [*side; 2])).to_vec();
                plan(scaled, parts, *side, true)
            }
            Self::OverSample { scale, side } => {
                let scaled = with_shorter_side(size, *scale);
                let parts = fixed_places(scaled, [*side; 2], false).into_iter().flat_map(|place| {
                    let part = Part::new(place, [*side; 2]);
                    [part, Part { flipped: true, ..part }]
                });
                plan(scaled, parts.collect(), *side, true)
            }
            Self::ShortSide { shortest, side, view } => {
                let scaled = with_short_side(size, *shortest);
                let [top, left] =
                    scaled.map(|whole| [0, (whole - side).div_ceil(2), whole - side].map(|x| x as isize));
                let place = if scaled[0] > scaled[1] { [top[*view], left[1]] } else { [top[1], left[*view]] };
                plan(scaled, vec![Part::new(place, [*side; 2])], *side, false)
            }
        }
    }
}

/// Heights and widths of parts, of which [`Crop::MultiScale`] draws one.
///
/// - size: height and width of the frames
pub fn multi_scale_sizes(
    [height, width]: [usize; 2],
    side: usize,
    scales: &[f64],
    max_distort: usize,
) -> Vec<[usize; 2]> {
    let base = height.min(width) as f64;
    let sides = scales.iter().map(|scale| match (base * scale) as usize {
        // Nearly the side: then the part need not be resized.
        near if near.abs_diff(side) < 3 => side,
        other => other.max(1),
    });
    let sides: Vec<usize> = sides.collect();
    let pairs = sides.iter().enumerate().flat_map(|(row, &part_height)| {
        let widths = sides.iter().enumerate().filter(move |(column, _)| row.abs_diff(*column) <= max_distort);
        widths.map(move |(_, &part_width)| [part_height, part_width])
    });
    pairs.collect()
}

/// The places, top and left, of which [`Crop::MultiScale`] draws one. They are negative where a part is larger than the
/// frame.
///
/// - size, part: height and width of the frames and of the part
/// - more: thirteen places instead of five
pub fn fixed_places(size: [usize; 2], part: [usize; 2], more: bool) -> Vec<[isize; 2]> {
    let step = |axis: usize| (size[axis] as isize - part[axis] as isize).div_euclid(4);
    let count = if more { FIXED.len() } else { 5 };
    FIXED[..count].iter().map(|[x, y]| [y * step(0), x * step(1)]).collect()
}

/// A size whose shorter side has a length, as torchvision resizes.
fn with_shorter_side(size: [usize; 2], shorter: usize) -> [usize; 2] {
    rescaled(size, shorter, |long, short| shorter * long / short)
}

/// A size whose shorter side has a length, as SlowFast computes it.
fn with_short_side(size: [usize; 2], shorter: usize) -> [usize; 2] {
    rescaled(size, shorter, |long, short| (long as f64 / short as f64 * shorter as f64) as usize)
}

fn rescaled([height, width]: [usize; 2], side: usize, longer: impl Fn(usize, usize) -> usize) -> [usize; 2] {
    if height.min(width) == side {
        [height, width]
    } else if width < height {
        [longer(height, width), side]
    } else {
        [side, longer(width, height)]
    }
}

/// Whether left and right of a clip are exchanged in half of the cases.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flip {
    /// Never: right for classes that differ in left and right, as those of Something-Something and Jester do.
    #[default]
    None,
    /// Whatever the class.
    Random,
    /// Whatever the class; a class that has a mirror image becomes that one.
    LabelAware {
        /// Classes that are each other's mirror image, see [`mirrored`].
        pairs: Vec<(usize, usize)>,
    },
}

impl Flip {
    fn check(&self) -> Result<()> {
        let Self::LabelAware { pairs } = self else {
            return Ok(());
        };
        let mut classes: Vec<usize> = pairs.iter().flat_map(|&(a, b)| [a, b]).collect();
        classes.sort_unstable();
        match classes.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => {
                let found = format!("class {} twice", pair[0]);
                Err(Error::setting("flip", "pairs of different classes", found))
            }
        }
    }

    fn draw(&self, generator: &mut Generator) -> bool {
        *self != Self::None && generator.chance(0.5)
    }

    /// The class that the mirror image of a class is.
    fn mirrored(&self, label: usize) -> usize {
        let Self::LabelAware { pairs } = self else {
            return label;
        };
        let partner =
            pairs.iter().find_map(|&(a, b)| if label == a { Some(b) } else { (label == b).then_some(a) });
        partner.unwrap_or(label)
    }
}

/// Classes that are each other's mirror image: their names differ in that one says left where the other says right, or
/// clockwise where it says counterclockwise. The lower class comes first.
///
/// A class that names a side, but not the opposite class, is in no pair; see whether [`Flip::None`] suits it better.
pub fn mirrored(classes: &[String]) -> Vec<(usize, usize)> {
    let names: Vec<String> = classes.iter().map(|name| name.to_lowercase()).collect();
    let places: HashMap<&str, usize> =
        names.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
    let pairs = names.iter().enumerate().filter_map(|(place, name)| {
        let other = *places.get(exchanged(name).as_str())?;
        (place < other).then_some((place, other))
    });
    pairs.collect()
}

/// A name of lower case as it reads in the mirror.
fn exchanged(name: &str) -> String {
    let no_letter = |letter: char| !letter.is_alphabetic();
    let pieces = name.split_inclusive(no_letter).flat_map(|piece| {
        let word = piece.trim_end_matches(no_letter);
        let other = match word {
            "left" => "right",
            "right" => "left",
            "clockwise" => "counterclockwise",
            "counterclockwise" => "clockwise",
            word => word,
        };
        [other, &piece[word.len()..]]
    });
    pieces.collect()
}

/// What the frames of a clip go through, after all draws.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Height and width of the frames.
    pub size: [usize; 2],
    /// Changes of the whole frames, before all others.
    pub operations: Vec<Operation>,
    /// Height and width to which they are resized first.
    pub scaled: [usize; 2],
    /// Parts of the resized frames, one for each view.
    pub parts: Vec<Part>,
    /// Height and width to which the parts are resized.
    pub side: usize,
    /// Whether frames and parts are resized as Pillow does. Otherwise they are resized once at most, bilinearly between
    /// neighbouring pixels and without rounding, and no part may reach over the edge.
    pub antialias: bool,
    /// Whether left and right of all views are exchanged.
    pub mirrored: bool,
    /// What is replaced by noise in the end.
    pub erased: Option<Erased>,
}

/// A rectangle that is replaced by noise, other noise in each frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Erased {
    /// Top, left, height and width.
    pub part: [usize; 4],
    /// Of the noise.
    pub seed: u64,
}

impl Erased {
    /// - values: frame by frame, then channel by channel, of squares
    fn apply(&self, values: &mut [f32], side: usize) {
        let [top, left, height, width] = self.part;
        let mut generator = Generator::new(self.seed);
        for channel in values.chunks_exact_mut(side * side) {
            for row in channel.chunks_exact_mut(side).skip(top).take(height) {
                row[left..left + width].copy_from_slice(&generator.normals(width));
            }
        }
    }
}

/// A part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The first row; black where it is none of the frame's.
    pub top: isize,
    /// The first column.
    pub left: isize,
    /// Height and width.
    pub size: [usize; 2],
    /// Whether left and right are exchanged.
    pub flipped: bool,
}

impl Part {
    /// A part that is not flipped.
    ///
    /// - place: top and left
    /// - size: height and width
    pub fn new([top, left]: [isize; 2], size: [usize; 2]) -> Self {
        Self { top, left, size, flipped: false }
    }
}

impl Plan {
    fn check(&self) -> Result<()> {
        let bad = |expected: &str, found: String| Err(Error::setting("plan", expected, found));
        if self.side == 0 || self.size.contains(&0) || self.scaled.contains(&0) || self.parts.is_empty() {
            return bad("a part and sizes of at least one pixel", format!("{self:?}"));
        }
        let erased = self.erased.map_or([0; 4], |erased| erased.part);
        if erased[0] + erased[2] > self.side || erased[1] + erased[3] > self.side {
            return bad("an erased part inside the square", format!("{:?}", self.erased));
        }
        for part in &self.parts {
            let inside = |first: isize, axis: usize| {
                first >= 0 && first as usize + part.size[axis] <= self.scaled[axis]
            };
            let once = self.scaled == self.size || part.size == [self.side; 2];
            let usable = self.antialias || (once && inside(part.top, 0) && inside(part.left, 1));
            if part.size.contains(&0) || !usable {
                return bad("parts of at least one pixel, without antialias inside", format!("{part:?}"));
            }
        }
        Ok(())
    }

    fn flipped(&self, part: &Part) -> bool {
        part.flipped != self.mirrored
    }

    /// Between which rows, and between which columns, of a frame a part's pixels lie.
    fn between(&self, part: &Part) -> [Vec<Between>; 2] {
        let first = [part.top as usize, part.left as usize];
        let axis = |axis: usize| {
            if self.scaled == self.size {
                Between::all(part.size[axis], self.side, 0..self.side, first[axis])
            } else {
                let shown = first[axis]..first[axis] + self.side;
                Between::all(self.size[axis], self.scaled[axis], shown, 0)
            }
        };
        let mut columns = axis(1);
        if self.flipped(part) {
            columns.reverse();
        }
        [axis(0), columns]
    }
}

/// The two rows or columns between which one of a resized image lies.
struct Between {
    first: usize,
    second: usize,
    /// Of the second.
    share: f32,
}

impl Between {
    /// - shown: those of a resized image that are wanted
    /// - offset: of the image in a larger one
    fn all(from: usize, to: usize, shown: Range<usize>, offset: usize) -> Vec<Self> {
        // As PyTorch counts, in single precision.
        let scale = from as f32 / to as f32;
        let between = shown.map(|place| {
            let source = (scale * (place as f32 + 0.5) - 0.5).max(0.0);
            let first = (source as usize).min(from - 1);
            let second = (first + 1).min(from - 1);
            Self { first: first + offset, second: second + offset, share: source - first as f32 }
        });
        between.collect()
    }
}

/// Where the channels of a network's input come from, and what their values become.
struct Channels {
    sources: [usize; 3],
    tables: [[f32; 256]; 3],
}

impl Channels {
    /// Writes an RGB image channel by channel.
    fn write(&self, image: &Image, flipped: bool, values: &mut [f32]) {
        let [height, width] = image.size();
        let targets = values.chunks_exact_mut(height * width);
        for ((target, source), table) in targets.zip(self.sources).zip(&self.tables) {
            let rows = image.values().chunks_exact(width * 3);
            for (target, row) in target.chunks_exact_mut(width).zip(rows) {
                let normalised = row.chunks_exact(3).map(|pixel| table[usize::from(pixel[source])]);
                if flipped {
                    for (value, new) in target.iter_mut().rev().zip(normalised) {
                        *value = new;
                    }
                } else {
                    for (value, new) in target.iter_mut().zip(normalised) {
                        *value = new;
                    }
                }
            }
        }
    }

    /// Writes what lies between the pixels of an RGB image, channel by channel.
    fn interpolate(&self, image: &Image, rows: &[Between], columns: &[Between], values: &mut [f32]) {
        let width = columns.len();
        let mut upper = Line { row: None, values: vec![0.0; 3 * width] };
        let mut lower = Line { row: None, values: vec![0.0; 3 * width] };
        for (index, row) in rows.iter().enumerate() {
            if lower.row == Some(row.first) {
                mem::swap(&mut upper, &mut lower);
            }
            upper.read(row.first, image, columns, self);
            lower.read(row.second, image, columns, self);
            let lines = upper.values.chunks_exact(width).zip(lower.values.chunks_exact(width));
            for (target, (above, below)) in values.chunks_exact_mut(rows.len() * width).zip(lines) {
                let target = &mut target[index * width..][..width];
                for ((value, above), below) in target.iter_mut().zip(above).zip(below) {
                    *value = above * (1.0 - row.share) + below * row.share;
                }
            }
        }
    }
}

/// A row of an image, normalised and interpolated between its columns.
struct Line {
    row: Option<usize>,
    /// Channel by channel.
    values: Vec<f32>,
}

impl Line {
    fn read(&mut self, row: usize, image: &Image, columns: &[Between], channels: &Channels) {
        if self.row == Some(row) {
            return;
        }
        self.row = Some(row);
        let length = image.size()[1] * 3;
        let pixels = &image.values()[row * length..][..length];
        let targets = self.values.chunks_exact_mut(columns.len());
        for ((target, source), table) in targets.zip(channels.sources).zip(&channels.tables) {
            let normalised = |column: usize| table[usize::from(pixels[column * 3 + source])];
            for (value, column) in target.iter_mut().zip(columns) {
                let (left, right) = (normalised(column.first), normalised(column.second));
                *value = left * (1.0 - column.share) + right * column.share;
            }
        }
    }
}

/// What is done to the frames of a clip before a network sees them.
#[derive(Config, Debug, PartialEq)]
pub struct ClipPreprocessing {
    /// The parts that are shown.
    pub crop: Crop,
    /// Subtracted from each channel of the input, whose values lie from 0 to 1.
    pub mean: [f32; 3],
    /// What each channel of the input is then divided by.
    pub std: [f32; 3],
    /// Whether left and right are exchanged. Default: never
    #[config(default = "Flip::None")]
    pub flip: Flip,
    /// Whether the channels are blue, green and red instead of red, green and blue. Default: false
    #[config(default = false)]
    pub bgr: bool,
    /// What a network sees of each segment. Default: a frame in colours
    #[config(default = "Modality::Rgb")]
    pub modality: Modality,
    /// Random changes of the whole frames, before they are cropped. Default: none
    pub augment: Option<RandAugment>,
    /// Random rectangles that are replaced by noise. Default: none
    pub erasing: Option<RandomErasing>,
}

impl ClipPreprocessing {
    /// TSN, TSM and TEA in training: one of ten sizes at one of thirteen places, flipped in half of the cases. With
    /// classes that differ in left and right, set another [`Flip`].
    pub fn tsn_train(side: usize) -> Self {
        let scales = vec![1.0, 0.875, 0.75, 0.66];
        let crop = Crop::MultiScale { side, scales, max_distort: 1, more_fixed: true };
        Self::new(crop, IMAGENET_MEAN, IMAGENET_STD).with_flip(Flip::Random)
    }

    /// TSN, TSM and TEA in evaluation: the middle of 224 of 256 pixels, and of other sides the same share.
    pub fn tsn_valid(side: usize) -> Self {
        Self::new(Crop::Center { scale: side * 256 / 224, side }, IMAGENET_MEAN, IMAGENET_STD)
    }

    /// For optical flow instead of colours: with its mean and deviation, and with ways to the right negated where left and
    /// right are exchanged.
    ///
    /// - length: frames of a segment; 5 in TSN and TSM
    pub fn for_flow(self, length: usize) -> Self {
        let std = IMAGENET_STD.iter().sum::<f32>() / 3.0;
        Self { modality: Modality::Flow { length }, mean: [0.5; 3], std: [std; 3], ..self }
    }

    /// For differences of consecutive frames instead of colours, which are not normalised.
    ///
    /// - length: differences of a segment; 5 in TSN and TSM
    pub fn for_differences(self, length: usize) -> Self {
        Self { modality: Modality::RgbDifference { length }, mean: [0.0; 3], std: [1.0; 3], ..self }
    }

    /// SlowFast in training: 224x224 of a random part, with a shorter side of 256 to 320.
    pub fn slowfast_train() -> Self {
        let crop = Crop::ShortSideJitter { shortest: 256, longest: 320, side: 224 };
        Self::new(crop, SLOWFAST_MEAN, SLOWFAST_STD)
    }

    /// SlowFast in evaluation: 256x256.
    ///
    /// - view: 0 at the left or the top, 1 in the middle, 2 at the right or the bottom
    pub fn slowfast_test(view: usize) -> Self {
        Self::new(Crop::ShortSide { shortest: 256, side: 256, view }, SLOWFAST_MEAN, SLOWFAST_STD)
    }

    /// UniFormer in training: RandAugment, 224x224 of a part of random area and aspect ratio, in the order blue, green, red,
    /// and random erasing. Batches are then [mixed](crate::mixing).
    pub fn uniformer_train() -> Self {
        let crop =
            Crop::RandomSized { side: 224, area: [0.08, 1.0], ratio: [0.75, 1.3333], antialias: false };
        let augment = RandAugment::new(7.0).with_operations(4).with_deviation(0.5);
        Self::new(crop, SLOWFAST_MEAN, SLOWFAST_STD)
            .with_bgr(true)
            .with_augment(Some(augment))
            .with_erasing(Some(RandomErasing::new(0.25)))
    }

    /// UniFormer in evaluation: 224x224, in the order blue, green, red.
    ///
    /// - view: as of [`slowfast_test`](Self::slowfast_test)
    pub fn uniformer_test(view: usize) -> Self {
        let crop = Crop::ShortSide { shortest: 224, side: 224, view };
        Self::new(crop, SLOWFAST_MEAN, SLOWFAST_STD).with_bgr(true)
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// When one is out of its range, or flips change labels beside views that are flipped anyway.
    pub fn check(&self) -> Result<()> {
        self.crop.check()?;
        self.flip.check()?;
        self.modality.check()?;
        if self.bgr && matches!(self.modality, Modality::Flow { .. }) {
            return Err(Error::setting("bgr", "false with optical flow, which has no colours", true));
        }
        self.augment.iter().try_for_each(RandAugment::check)?;
        self.erasing.iter().try_for_each(RandomErasing::check)?;
        if matches!((&self.crop, &self.flip), (Crop::OverSample { .. }, Flip::LabelAware { .. })) {
            let found = "`label_aware` with `over_sample`, whose flipped views have no label of their own";
            return Err(Error::setting("flip", "one that suits the crop", found));
        }
        let usable = |std: &f32| std.is_finite() && *std > 0.0;
        if !self.std.iter().all(usable) || !self.mean.iter().all(|mean| mean.is_finite()) {
            let found = format!("{:?} and {:?}", self.mean, self.std);
            return Err(Error::setting("mean, std", "numbers, and deviations above 0", found));
        }
        Ok(())
    }

    /// How many clips each video becomes: 1, 3 or 10.
    pub fn views(&self) -> usize {
        self.crop.views()
    }

    /// Draws what the frames of a clip go through.
    ///
    /// - size: height and width of the frames
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, or the frames have no pixel.
    pub fn plan(&self, size: [usize; 2], generator: &mut Generator) -> Result<Plan> {
        self.check()?;
        if size.contains(&0) {
            return Err(Error::data("frames of a clip", "at least one pixel", format!("{size:?}")));
        }
        let operations = self.augment.as_ref().map_or_else(Vec::new, |augment| augment.draw(generator));
        let plan = self.crop.plan(size, generator);
        let mirrored = self.flip.draw(generator);
        let part = self.erasing.as_ref().and_then(|erasing| erasing.draw([plan.side; 2], generator));
        let erased = part.map(|part| Erased { part, seed: generator.below(usize::MAX) as u64 });
        Ok(Plan { operations, mirrored, erased, ..plan })
    }

    /// A network's inputs of the frames of a clip, one for each view.
    ///
    /// Clips that belong together, such as those of several frame counts, get the same draws when their frames are given
    /// one after the other; their values lie one after the other then. A frame that comes again, as the same `Arc`, is
    /// not computed again.
    ///
    /// # Errors
    ///
    /// When there is no frame, the frames differ in size or are no whole number of segments, or a setting is out of its
    /// range.
    pub fn apply(&self, frames: &[Arc<Image>], label: usize, generator: &mut Generator) -> Result<Vec<Clip>> {
        let first = frames.first().ok_or_else(|| Error::data("clip", "at least one frame", "none"))?;
        self.apply_plan(&self.plan(first.size(), generator)?, frames, label)
    }

    /// [`apply`](Self::apply) without draws: the crop and the flip are the plan's.
    ///
    /// # Errors
    ///
    /// When a frame has another size than the plan's, the frames are no whole number of segments, or the plan is none.
    pub fn apply_plan(&self, plan: &Plan, frames: &[Arc<Image>], label: usize) -> Result<Vec<Clip>> {
        plan.check()?;
        let new_length = self.modality.new_length();
        if !frames.len().is_multiple_of(new_length) {
            return Err(Error::data("clip", format!("segments of {new_length} frames"), frames.len()));
        }
        let channels = [self.channels(false), self.channels(true)];
        let length = 3 * plan.side * plan.side;
        let mut views = vec![vec![0.0_f32; frames.len() * length]; plan.parts.len()];
        for (index, frame) in frames.iter().enumerate() {
            if let Some(earlier) = frames[..index].iter().position(|other| Arc::ptr_eq(other, frame)) {
                for values in &mut views {
                    values.copy_within(earlier * length..(earlier + 1) * length, index * length);
                }
                continue;
            }
            if frame.size() != plan.size {
                let expected = format!("height and width {:?}, as the others", plan.size);
                return Err(Error::data(
                    format!("frame {index} of a clip"),
                    expected,
                    format!("{:?}", frame.size()),
                ));
            }
            let mut image: Cow<'_, Image> = Cow::Borrowed(frame);
            if image.channels() != 3 {
                image = Cow::Owned(image.with_channels(3)?);
            }
            for operation in &plan.operations {
                image = Cow::Owned(operation.apply(&image));
            }
            if plan.antialias && plan.scaled != plan.size {
                image = Cow::Owned(image.resized(plan.scaled, Filter::Bilinear)?);
            }
            for (part, values) in plan.parts.iter().zip(&mut views) {
                let values = &mut values[index * length..][..length];
                let channels = &channels[usize::from(plan.flipped(part))];
                if plan.antialias {
                    let part_image = image.cropped(part.top, part.left, part.size);
                    let resized = part_image.resized([plan.side; 2], Filter::Bilinear)?;
                    channels.write(&resized, plan.flipped(part), values);
                } else {
                    let [rows, columns] = plan.between(part);
                    channels.interpolate(&image, &rows, &columns, values);
                }
            }
        }
        let label = if plan.mirrored { self.flip.mirrored(label) } else { label };
        let clips = views.into_iter().map(|values| {
            let mut values = self.modality.stacked(values, plan.side * plan.side);
            if let Some(erased) = &plan.erased {
                erased.apply(&mut values, plan.side);
            }
            let (frames, channels) = (frames.len() / new_length, self.modality.channels());
            Clip { frames, channels, size: [plan.side; 2], values, label }
        });
        Ok(clips.collect())
    }

    /// - flipped: left and right are exchanged
    fn channels(&self, flipped: bool) -> Channels {
        let table = |channel: usize| {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            // The way to the right becomes one to the left.
            let negated = flipped && channel == 0 && matches!(self.modality, Modality::Flow { .. });
            std::array::from_fn(|value| {
                let value = if negated { 255 - value } else { value };
                (value as f32 / 255.0 - mean) / std
            })
        };
        let sources = if self.bgr { [2, 1, 0] } else { [0, 1, 2] };
        Channels { sources, tables: std::array::from_fn(table) }
    }
}

/// A network's input of one view of the frames of a clip.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    /// How many frames there are; of flow and differences, how many segments.
    pub frames: usize,
    /// Channels of a frame: 3, or those of the [`Modality`].
    pub channels: usize,
    /// Height and width.
    pub size: [usize; 2],
    /// Frame by frame, then channel by channel, then row by row: `[frames, channels, height, width]`.
    pub values: Vec<f32>,
    /// The class, of the mirror image if it was flipped and [`Flip::LabelAware`] has one.
    pub label: usize,
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    /// An image whose red and green values are its columns and rows.
    fn places([height, width]: [usize; 2]) -> Arc<Image> {
        let pixels = (0..height).flat_map(|row| (0..width).flat_map(move |column| [column, row, 7]));
        let values = pixels.map(|value| value as u8).collect();
        Arc::new(Image::new([height, width], 3, values).unwrap())
    }

    /// Preprocessing that changes no value but by dividing by 255.
    fn plain(crop: Crop) -> ClipPreprocessing {
        ClipPreprocessing::new(crop, [0.0; 3], [1.0; 3])
    }

    /// The 8-bit values of frame 0: columns, rows.
    fn bytes(clip: &Clip) -> [Vec<i32>; 2] {
        let pixels = clip.size[0] * clip.size[1];
        let channel = |channel: usize| {
            let values = &clip.values[channel * pixels..][..pixels];
            values.iter().map(|value| (value * 255.0).round() as i32).collect()
        };
        [channel(0), channel(1)]
    }

    fn names(classes: &[&str]) -> Vec<String> {
        classes.iter().map(|class| (*class).to_owned()).collect()
    }

    #[test]
    fn parts_of_several_scales_are_tsns() {
        let scales = [1.0, 0.875, 0.75, 0.66];
        // Heights and widths.
        let expected = [
            [30, 30],
            [30, 26],
            [26, 30],
            [26, 26],
            [26, 22],
            [22, 26],
            [22, 22],
            [22, 19],
            [19, 22],
            [19, 19],
        ];
        assert_eq!(multi_scale_sizes([30, 44], 16, &scales, 1), expected);
        assert_eq!(multi_scale_sizes([44, 30], 16, &scales, 1), expected);
        // 19 becomes 20, 22 as well.
        assert_eq!(multi_scale_sizes([30, 44], 20, &scales, 0), [[30; 2], [26; 2], [20; 2], [20; 2]]);
        let found = fixed_places([30, 44], [26, 30], true);
        assert_eq!(found[..6], [[0, 0], [0, 12], [4, 0], [4, 12], [2, 6], [2, 0]]);
        assert_eq!(found.len(), 13);
        assert_eq!(fixed_places([30, 44], [26, 30], false), found[..5]);
        // One pixel too few is a quarter before the edge, rounded down.
        assert_eq!(fixed_places([15, 16], [16, 16], false)[3], [-4, 0]);
    }

    #[test]
    fn frames_share_their_draws() {
        let crop = Crop::MultiScale { side: 16, scales: vec![1.0, 0.6], max_distort: 1, more_fixed: true };
        let preprocessing = plain(crop).with_flip(Flip::Random);
        let frames = [places([30, 44]), places([30, 44]), places([30, 44])];
        let draw = |seed| preprocessing.apply(&frames, 3, &mut Generator::new(seed)).unwrap();
        let clips = draw(1);
        assert_eq!((clips.len(), clips[0].frames, clips[0].size, clips[0].label), (1, 3, [16; 2], 3));
        assert_eq!(clips[0].values.len(), 3 * 3 * 16 * 16);
        let (first, others) = clips[0].values.split_at(3 * 16 * 16);
        assert!(others.chunks(first.len()).all(|other| other == first));
        assert_eq!(draw(1), clips);
        assert!((2..30).any(|seed| draw(seed) != clips));
        // The same frame once more gives the same values without being computed.
        let again = [frames[0].clone(), frames[0].clone(), frames[0].clone()];
        assert_eq!(preprocessing.apply(&again, 3, &mut Generator::new(1)).unwrap(), clips);
        // A gray frame has three equal channels.
        let gray = [Arc::new(frames[0].with_channels(1).unwrap())];
        let values = &preprocessing.apply(&gray, 0, &mut Generator::new(1)).unwrap()[0].values;
        assert_eq!(values[..256], values[512..]);
    }

    #[test]
    fn evaluation_shows_the_middle_and_the_sides() {
        let mut generator = Generator::new(0);
        let frames = [places([18, 27])];
        let mut lefts_and_tops = |crop: Crop| -> Vec<(i32, i32)> {
            let clips = plain(crop).apply(&frames, 0, &mut generator).unwrap();
            clips.iter().map(bytes).map(|[columns, rows]| (columns[0], rows[0])).collect()
        };
        // 5.5 is rounded to the even 6.
        assert_eq!(lefts_and_tops(Crop::Center { scale: 18, side: 16 }), [(6, 1)]);
        assert_eq!(lefts_and_tops(Crop::FullResolution { scale: 18, side: 16 }), [(0, 0), (8, 0), (4, 0)]);
        let found = lefts_and_tops(Crop::OverSample { scale: 18, side: 14 });
        assert_eq!(found[..6], [(0, 0), (13, 0), (12, 0), (25, 0), (0, 4), (13, 4)]);
        assert_eq!(found[6..], [(12, 4), (25, 4), (6, 2), (19, 2)]);
        for (view, left) in [(0, 0), (1, 6), (2, 11)] {
            let crop = Crop::ShortSide { shortest: 18, side: 16, view };
            assert_eq!(lefts_and_tops(crop), [(left, 1)]);
        }
        let frames = [places([41, 29])];
        let crop = Crop::ShortSide { shortest: 29, side: 29, view: 2 };
        let clips = plain(crop).apply(&frames, 0, &mut generator).unwrap();
        assert_eq!(bytes(&clips[0])[1][0], 12);
    }

    // torch.nn.functional.interpolate(x[None, None], size, mode="bilinear", align_corners=False) of the rows of
    // (k * k * 37 + k * 11) % 256 for k = 0..12, 3x4.
    #[test]
    fn frames_are_interpolated_as_pytorch_does() {
        let gray = (0..12_u32).map(|k| (k * k * 37 + k * 11) as u8).collect();
        let frame = Arc::new(Image::new([3, 4], 1, gray).unwrap());
        let preprocessing = ClipPreprocessing::new(
            Crop::ShortSide { shortest: 5, side: 5, view: 1 },
            [0.0; 3],
            [1.0 / 255.0; 3],
        );
        // The middle five of six columns.
        let enlarged = [
            [24.0, 68.333, 149.667, 140.0, 110.0],
            [81.6, 119.533, 143.267, 127.2, 105.2],
            [168.0, 196.333, 133.667, 108.0, 98.0],
            [120.0, 113.133, 168.867, 184.8, 186.8],
            [88.0, 57.667, 192.333, 236.0, 246.0],
        ];
        let close = |found: &[f32], expected: &[f32]| {
            assert_eq!(found.len(), expected.len());
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-2), "{found:?}");
        };
        let found = &preprocessing.apply(slice::from_ref(&frame), 0, &mut Generator::new(0)).unwrap()[0];
        close(&found.values[..25], enlarged.as_flattened());
        close(&found.values[50..], enlarged.as_flattened());
        // A part of two rows and three columns, flipped.
        let plan = Plan {
            size: [3, 4],
            operations: vec![],
            scaled: [3, 4],
            parts: vec![Part::new([1, 1], [2, 3])],
            side: 2,
            antialias: false,
            mirrored: true,
            erased: None,
        };
        let found = &preprocessing.apply_plan(&plan, slice::from_ref(&frame), 0).unwrap()[0];
        close(&found.values[..4], &[103.0, 188.5, 241.0, 74.5]);
        let outside = Plan { parts: vec![Part::new([2, 1], [2, 3])], ..plan };
        assert!(preprocessing.apply_plan(&outside, slice::from_ref(&frame), 0).is_err());
    }

    #[test]
    fn short_sides_are_random() {
        let preprocessing = plain(Crop::ShortSideJitter { shortest: 20, longest: 26, side: 16 });
        let mut generator = Generator::new(4);
        let mut sides = Vec::new();
        for _ in 0..300 {
            let plan = preprocessing.plan([30, 45], &mut generator).unwrap();
            let [height, width] = plan.scaled;
            assert!((height * 3 / 2).abs_diff(width) <= 1, "{height}x{width}");
            assert!(plan.check().is_ok() && !plan.antialias);
            sides.push(height);
        }
        sides.sort_unstable();
        assert_eq!((sides[0], sides[299]), (20, 26));
        // The inverse of a uniform number: half of them below the harmonic mean of the ends, which is 22.6.
        assert!((21..=23).contains(&sides[150]));
        let clips = preprocessing.apply(&[places([30, 45])], 0, &mut generator).unwrap();
        assert_eq!(clips[0].values.len(), 3 * 16 * 16);
    }

    #[test]
    fn random_parts_lie_within_the_frame() {
        let mut generator = Generator::new(9);
        for antialias in [false, true] {
            let crop = Crop::RandomSized { side: 8, area: [0.08, 1.0], ratio: [0.75, 4.0 / 3.0], antialias };
            let preprocessing = plain(crop);
            for size in [[30, 44], [41, 29], [4, 100], [100, 4], [1, 1]] {
                for _ in 0..50 {
                    let plan = preprocessing.plan(size, &mut generator).unwrap();
                    let part = plan.parts[0];
                    assert!(part.top >= 0 && part.top as usize + part.size[0] <= size[0]);
                    assert!(part.left >= 0 && part.left as usize + part.size[1] <= size[1]);
                }
                preprocessing.apply(&[places(size)], 0, &mut generator).unwrap();
            }
        }
    }

    #[test]
    fn flow_is_mirrored_and_differences_are_taken() {
        // Red values, ways to the right, are columns.
        let frames = [places([8, 8]), places([8, 8])];
        let center = Crop::Center { scale: 8, side: 8 };
        let flow = plain(center.clone()).with_flip(Flip::Random).for_flow(2);
        let mut mirrored = 0;
        for seed in 0..20 {
            let clip = flow.apply(&frames, 0, &mut Generator::new(seed)).unwrap().swap_remove(0);
            assert_eq!((clip.frames, clip.channels, clip.values.len()), (1, 4, 4 * 64));
            let byte = |value: f32| ((value * flow.std[0] + flow.mean[0]) * 255.0).round() as i32;
            let (way, down) = (byte(clip.values[0]), byte(clip.values[64 + 8]));
            mirrored += usize::from(way == 255 - 7);
            assert!((way == 0 || way == 255 - 7) && down == 1, "{way} {down}");
        }
        assert!((3..18).contains(&mirrored), "{mirrored}");
        let differences = plain(center).for_differences(1);
        let bright = Arc::new(Image::new([8, 8], 3, vec![51; 192]).unwrap());
        let dark = Arc::new(Image::new([8, 8], 3, vec![0; 192]).unwrap());
        let clip = &differences.apply(&[dark, bright.clone()], 0, &mut Generator::new(0)).unwrap()[0];
        assert!(clip.values.len() == 192 && clip.values.iter().all(|value| (value - 0.2).abs() < 1e-6));
        assert!(differences.apply(&[bright], 0, &mut Generator::new(0)).is_err());
        assert!(flow.with_bgr(true).check().is_err());
    }

    #[test]
    fn frames_are_augmented_alike_and_erased_apart() {
        let frames = [places([18, 18]), places([18, 18])];
        let center = Crop::Center { scale: 18, side: 18 };
        let augmented = plain(center.clone()).with_augment(Some(RandAugment::new(9.0).with_operations(3)));
        let plain = plain(center);
        let of = |preprocessing: &ClipPreprocessing, seed| {
            preprocessing.apply(&frames, 0, &mut Generator::new(seed)).unwrap().swap_remove(0).values
        };
        let original = of(&plain, 0);
        let mut changed = 0;
        for seed in 0..20 {
            let values = of(&augmented, seed);
            assert_eq!(values[..3 * 18 * 18], values[3 * 18 * 18..]);
            changed += usize::from(values != original);
        }
        assert!(changed > 10, "{changed}");
        let erased = plain.with_erasing(Some(RandomErasing::new(1.0)));
        let values = of(&erased, 1);
        let changed: Vec<bool> = values.iter().zip(&original).map(|(a, b)| a != b).collect();
        let [first, second] = [0, 1].map(|frame| &changed[frame * 3 * 18 * 18..][..3 * 18 * 18]);
        assert!(first == second && first.contains(&true) && first.contains(&false));
        let noise = |frame: usize| -> Vec<f32> {
            let pairs = values[frame * 3 * 18 * 18..].iter().zip(first);
            pairs.filter_map(|(value, changed)| changed.then_some(*value)).collect()
        };
        assert_ne!(noise(0), noise(1));
    }

    #[test]
    fn flipped_clips_get_the_label_of_the_mirror_image() {
        let flip = Flip::LabelAware { pairs: vec![(3, 5)] };
        let preprocessing = plain(Crop::Center { scale: 8, side: 8 }).with_flip(flip);
        let frames = [places([8, 8])];
        let mut flipped = 0;
        for seed in 0..40 {
            let clip = |label| {
                preprocessing.apply(&frames, label, &mut Generator::new(seed)).unwrap().swap_remove(0)
            };
            let mirrored = bytes(&clip(3))[0][0] == 7;
            flipped += usize::from(mirrored);
            let expected = if mirrored { [5, 3, 4] } else { [3, 5, 4] };
            assert_eq!([3, 5, 4].map(|label| clip(label).label), expected);
        }
        assert!((10..30).contains(&flipped), "{flipped}");
    }

    #[test]
    fn mirror_images_are_found_by_their_names() {
        let classes = names(&[
            "Approaching something with your camera",
            "Pulling something from left to right",
            "Pushing something from right to left",
            "Pulling something from right to left",
            "Turning the camera left while filming something",
            "Pushing something from left to right",
            "Turning the camera right while filming something",
            "Turning the camera upwards while filming something",
            "Putting something upright on the table",
            "Swiping Left",
            "Swiping Right",
            "Turning Hand Clockwise",
            "Turning Hand Counterclockwise",
            "Sliding Two Fingers Left",
        ]);
        assert_eq!(mirrored(&classes), [(1, 3), (2, 5), (4, 6), (9, 10), (11, 12)]);
        assert!(mirrored(&[]).is_empty());
    }

    #[test]
    fn channels_are_normalised_in_the_order_asked_for() {
        let frame = Arc::new(Image::new([1, 1], 3, vec![255, 51, 0]).unwrap());
        let crop = Crop::Center { scale: 1, side: 1 };
        let preprocessing = ClipPreprocessing::new(crop, [0.5, 0.2, 0.0], [0.5, 1.0, 2.0]);
        let values = |preprocessing: &ClipPreprocessing| {
            preprocessing.apply(slice::from_ref(&frame), 0, &mut Generator::new(0)).unwrap()[0].values.clone()
        };
        assert_eq!(values(&preprocessing), [1.0, 0.0, 0.0]);
        assert_eq!(values(&preprocessing.with_bgr(true)), [-1.0, 0.0, 0.5]);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for preprocessing in [
            ClipPreprocessing::tsn_train(224),
            ClipPreprocessing::tsn_valid(224),
            ClipPreprocessing::slowfast_train(),
            ClipPreprocessing::slowfast_test(2),
            ClipPreprocessing::uniformer_train(),
            ClipPreprocessing::uniformer_test(0),
        ] {
            preprocessing.check().unwrap();
            assert_eq!(preprocessing.views(), 1);
        }
        assert_eq!(ClipPreprocessing::tsn_valid(224).crop, Crop::Center { scale: 256, side: 224 });
        assert_eq!(plain(Crop::FullResolution { scale: 1, side: 1 }).views(), 3);
        let ten = plain(Crop::OverSample { scale: 1, side: 1 });
        assert_eq!(ten.views(), 10);
        assert!(ten.with_flip(Flip::LabelAware { pairs: vec![] }).check().is_err());
        assert!(ClipPreprocessing::slowfast_test(3).check().is_err());
        assert!(ClipPreprocessing::tsn_valid(0).check().is_err());
        assert!(plain(Crop::Center { scale: 15, side: 16 }).check().is_err());
        let scales = vec![1.0, f64::NAN];
        let crop = Crop::MultiScale { side: 8, scales, max_distort: 1, more_fixed: true };
        assert!(plain(crop).check().is_err());
        let crop = Crop::ShortSideJitter { shortest: 20, longest: 19, side: 8 };
        assert!(plain(crop).plan([30, 30], &mut Generator::new(0)).is_err());
        let center = Crop::Center { scale: 8, side: 8 };
        let pairs = vec![(0, 1), (2, 1)];
        assert!(plain(center.clone()).with_flip(Flip::LabelAware { pairs }).check().is_err());
        assert!(ClipPreprocessing::new(center.clone(), [0.0; 3], [1.0, 0.0, 1.0]).check().is_err());
        let mut generator = Generator::new(0);
        assert!(plain(center.clone()).apply(&[], 0, &mut generator).is_err());
        assert!(plain(center).apply(&[places([8, 9]), places([9, 8])], 0, &mut generator).is_err());
    }

    #[test]
    fn settings_are_saved_and_read() {
        let flip = Flip::LabelAware { pairs: vec![(1, 2)] };
        let preprocessing = ClipPreprocessing::tsn_train(112).with_flip(flip);
        let text = serde_json::to_string(&preprocessing).unwrap();
        assert_eq!(serde_json::from_str::<ClipPreprocessing>(&text).unwrap(), preprocessing);
    }
}
