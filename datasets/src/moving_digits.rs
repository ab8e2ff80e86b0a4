//! Videos of moving digits, in which only the motion tells the class.

use crate::digits;
use leanburn_core::{Error, Result, random::Generator};
use std::{f64::consts::TAU, ops::Range, sync::LazyLock};

/// Rows of the table of digits.
const IMAGES: usize = 1797;
/// Pixels along a digit's side in the table.
const DIGIT: usize = 8;
/// The width of a digit in a frame, in widths of the frame: 13 of 32 pixels.
const WIDTH: f64 = 13.0 / 32.0;
/// The way of a whole video at speed 1, in widths of the frame: 26 of 32 pixels.
const PATH: f64 = 26.0 / 32.0;
/// The background's grey values are below this.
const NOISE: usize = 25;
/// Of a coloured digit, so that each channel of each hue shows some of the motion.
const SATURATION: f64 = 0.8;

// What keeps the draws of one seed apart.
const LABELS: u64 = 0x6C61_0B3D_91F2_5E48;
const SCENE: u64 = 0x7363_E4A7_2C86_D01B;
const BACKGROUND: u64 = 0xB6A1_57C9_08DE_734F;

/// How the colour of a digit goes together with the label of its video.
///
/// There are as many hues as labels, evenly around the circle of colours, and each is that of one label: but for
/// [`Grey`](Self::Grey), settings differ in how colours and labels are paired, not in the colours that occur.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Hue {
    /// All digits are white.
    Grey,
    /// A random hue, whatever the label.
    Random,
    /// The hue of the label or a random one: a shortcut to learn.
    Correlated {
        /// The probability, 0 to 1, that the hue is the label's; otherwise it is a random one, which can be the label's
        /// too.
        strength: f64,
    },
    /// Always the hue of the label half-way around, with an even number of directions that of the opposite direction:
    /// who learnt the shortcut is always wrong.
    Shifted,
}

/// Generated videos of a real handwritten digit (one of [`digits`]) that moves over a dark frame. The
/// label is the direction of the motion, or direction and speed, and not the digit.
///
/// No single frame tells the label. The motion starts at a random place, is straight and uniform, and what leaves the
/// frame comes in on the other side, so that in every frame of every label the digit is anywhere with equal
/// probability.
/// Which digit it is, its colour (see [`Hue`]) and the background (a little grey noise that stands still) are drawn for
/// each video, apart from its label but for the colour where it is asked for.
///
/// A video's way does not depend on its number of frames: at speed 1 it is 26/32 of the frame's width, 6.5 of 32 pixels
/// between neighbours of 4 frames and 1.6 between those of 16. A step of half the width or more would be ambiguous:
/// 2 frames do at speed 1, 4 frames up to speed 2.4.
///
/// A frame depends on the settings, the seed and its numbers alone, whatever was asked for before; a set of more videos
/// starts with those of a smaller one. Training and test sets take different seeds, and better different digits too, by
/// [`with_digits`](Self::with_digits).
///
/// ```
/// use leanburn_datasets::{Hue, MovingDigits};
///
/// let train = MovingDigits::new(800, 1).with_digits(0..1200).with_hue(Hue::Correlated { strength: 0.9 });
/// let test = MovingDigits::new(200, 2).with_digits(1200..1797);
/// train.check()?;
/// test.check()?;
/// assert_eq!(train.classes()[1], "down right");
/// assert_eq!(train.frame(3, 31).len(), 32 * 32 * 3);
/// # Ok::<(), leanburn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct MovingDigits {
    videos: usize,
    seed: u64,
    size: usize,
    frames: usize,
    directions: usize,
    speeds: Vec<f64>,
    hue: Hue,
    digits: Range<usize>,
}

/// What is drawn once for a video.
struct Scene {
    /// Where the digit is in the first frame, in widths of the frame.
    start: [f64; 2],
    /// The way until the end of the video, in widths of the frame.
    way: [f64; 2],
    digit: usize,
    /// The label whose hue it is.
    hue: Option<usize>,
}

impl MovingDigits {
    /// So many videos, of 32x32 pixels, 32 frames, 8 directions, one speed and a random hue.
    pub fn new(videos: usize, seed: u64) -> Self {
        Self {
            videos,
            seed,
            size: 32,
            frames: 32,
            directions: 8,
            speeds: vec![1.0],
            hue: Hue::Random,
            digits: 0..IMAGES,
        }
    }

    /// Frames of `size` pixels along each side, at least 8; the digit and its way grow with them.
    pub fn with_size(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    /// So many frames a video, at least 1: the same motion at other time steps. Frame `2 f` of twice as many is frame
    /// `f`.
    pub fn with_frames(mut self, frames: usize) -> Self {
        self.frames = frames;
        self
    }

    /// So many directions, at least 1, evenly around the circle from "right" on clockwise.
    pub fn with_directions(mut self, directions: usize) -> Self {
        self.directions = directions;
        self
    }

    /// Factors of the way: each direction with each of them is a class, number `direction * speeds.len() + speed`.
    pub fn with_speeds(mut self, speeds: &[f64]) -> Self {
        self.speeds = speeds.to_vec();
        self
    }

    /// How the digits are coloured.
    pub fn with_hue(mut self, hue: Hue) -> Self {
        self.hue = hue;
        self
    }

    /// The rows of [`digits`] that the images are drawn from, within `0..1797`.
    pub fn with_digits(mut self, digits: Range<usize>) -> Self {
        self.digits = digits;
        self
    }

    /// Whether the settings are in their ranges. The methods that read videos panic where they are not.
    ///
    /// # Errors
    ///
    /// Names the first setting that is not.
    pub fn check(&self) -> Result<()> {
        if self.size < DIGIT {
            return Err(Error::setting("size", format!("at least {DIGIT} pixels"), self.size));
        }
        if self.frames == 0 {
            return Err(Error::setting("frames", "at least 1", self.frames));
        }
        if self.directions == 0 {
            return Err(Error::setting("directions", "at least 1", self.directions));
        }
        if self.speeds.is_empty() {
            return Err(Error::setting("speeds", "at least one", "none"));
        }
        if let Some(speed) = self.speeds.iter().find(|speed| !(f64::MIN_POSITIVE..=f64::MAX).contains(*speed))
        {
            return Err(Error::setting("speeds", "finite numbers above 0", speed));
        }
        if let Hue::Correlated { strength } = self.hue
            && !(0.0..=1.0).contains(&strength)
        {
            return Err(Error::setting("strength", "a probability, 0 to 1", strength));
        }
        if self.digits.is_empty() || self.digits.end > IMAGES {
            let expected = format!("rows within 0..{IMAGES}, at least one");
            return Err(Error::setting("digits", expected, format!("{:?}", self.digits)));
        }
        Ok(())
    }

    /// How many videos there are.
    pub fn len(&self) -> usize {
        self.videos
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.videos == 0
    }

    /// Pixels along each side of a frame.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Frames of a video.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// The names of the labels: `right`, `down right` and so on clockwise, or as `51.4 degrees` where not all directions
    /// are among those eight; with more than one speed followed by it, as `right x0.5`.
    pub fn classes(&self) -> Vec<String> {
        (0..self.labels()).map(|label| self.name(label)).collect()
    }

    /// The label of a video. Each number of labels, from the first video on, holds every one once, in random order.
    ///
    /// # Panics
    ///
    /// When there is no such video or no class.
    pub fn label(&self, video: usize) -> usize {
        assert!(video < self.videos, "video {video} of {}", self.videos);
        let labels = self.labels();
        let block = (video / labels) as u64;
        Generator::stream(self.seed ^ LABELS, block).permutation(labels)[video % labels]
    }

    /// The label whose hue the digit of a video has, none if it is white.
    ///
    /// # Panics
    ///
    /// When there is no such video or the settings are out of their ranges.
    pub fn hue(&self, video: usize) -> Option<usize> {
        self.scene(video).hue
    }

    /// A frame of a video, numbered from 0: `size * size * 3` values, row by row, of each pixel red, green and blue.
    ///
    /// # Panics
    ///
    /// When there is no such video or frame or the settings are out of their ranges.
    pub fn frame(&self, video: usize, frame: usize) -> Vec<u8> {
        assert!(frame < self.frames, "frame {frame} of {}", self.frames);
        let scene = self.scene(video);
        let image = image(scene.digit);
        let colour = scene.hue.map_or([1.0; 3], |hue| colour(hue as f64 / self.labels() as f64));

        // The frame's pixels on the digit's grid, from -1 on; at -1 and from DIGIT on there is no ink.
        let side = self.size as f64;
        let time = frame as f64 / self.frames as f64;
        let grid = |axis: usize| -> Vec<f64> {
            let corner = (scene.start[axis] + scene.way[axis] * time) * side;
            let place = |pixel: usize| (pixel as f64 + 0.5 - corner).rem_euclid(side);
            (0..self.size).map(|pixel| place(pixel) * DIGIT as f64 / (WIDTH * side) - 1.0).collect()
        };
        let (columns, rows) = (grid(0), grid(1));

        let mut noise = Generator::stream(self.seed ^ BACKGROUND, video as u64);
        let mut pixels = Vec::with_capacity(self.size * self.size * 3);
        for &row in &rows {
            for &column in &columns {
                let ground = noise.below(NOISE) as f64;
                let ink = bilinear(image, row, column);
                let level = |channel: f64| (ground + (255.0 * channel - ground) * ink).round() as u8;
                pixels.extend(colour.map(level));
            }
        }
        pixels
    }

    /// How many labels there are.
    fn labels(&self) -> usize {
        self.directions * self.speeds.len()
    }

    /// The name of a label.
    fn name(&self, label: usize) -> String {
        const NAMES: [&str; 8] =
            ["right", "down right", "down", "down left", "left", "up left", "up", "up right"];
        let (direction, speed) = (label / self.speeds.len(), self.speeds[label % self.speeds.len()]);
        let name = if NAMES.len().is_multiple_of(self.directions) {
            NAMES[direction * (NAMES.len() / self.directions)].to_string()
        } else {
            format!("{:.1} degrees", 360.0 * direction as f64 / self.directions as f64)
        };
        if self.speeds.len() == 1 { name } else { format!("{name} x{speed}") }
    }

    /// What is drawn for a video.
    fn scene(&self, video: usize) -> Scene {
        let label = self.label(video);
        let labels = self.labels();
        let angle = TAU * (label / self.speeds.len()) as f64 / self.directions as f64;
        let way = PATH * self.speeds[label % self.speeds.len()];

        // The hue comes last: whatever its setting, the rest is the same.
        let mut draws = Generator::stream(self.seed ^ SCENE, video as u64);
        let start = [fraction(&mut draws), fraction(&mut draws)];
        let digit = self.digits.start + draws.below(self.digits.len());
        let hue = match self.hue {
            Hue::Grey => None,
            Hue::Random => Some(draws.below(labels)),
            Hue::Correlated { strength } => {
                let random = draws.below(labels);
                Some(if draws.chance(strength) { label } else { random })
            }
            Hue::Shifted => Some((label + labels / 2) % labels),
        };
        Scene { start, way: [way * angle.cos(), way * angle.sin()], digit, hue }
    }
}

/// A number from 0 to below 1.
fn fraction(draws: &mut Generator) -> f64 {
    const STEPS: usize = 1 << 24;
    draws.below(STEPS) as f64 / STEPS as f64
}

/// The ink of a digit, 0 to 1, row by row.
fn image(digit: usize) -> &'static [f64] {
    static INK: LazyLock<Vec<f64>> =
        LazyLock::new(|| digits().values().iter().map(|count| count / 16.0).collect());
    &INK[digit * DIGIT * DIGIT..(digit + 1) * DIGIT * DIGIT]
}

/// The ink between the pixels of a digit, whose first one is at 0, 0. Outside there is none.
fn bilinear(image: &[f64], row: f64, column: f64) -> f64 {
    let inside = |place: f64| (0.0..DIGIT as f64).contains(&place);
    let pixel = |row: f64, column: f64| {
        if inside(row) && inside(column) { image[row as usize * DIGIT + column as usize] } else { 0.0 }
    };
    let mix = |a: f64, b: f64, share: f64| a + (b - a) * share;
    let (top, left) = (row.floor(), column.floor());
    let line = |row: f64| mix(pixel(row, left), pixel(row, left + 1.0), column - left);
    mix(line(top), line(top + 1.0), row - top)
}

/// Red, green and blue of a hue, both from 0 to 1.
fn colour(hue: f64) -> [f64; 3] {
    [0.0, 1.0 / 3.0, 2.0 / 3.0].map(|channel| {
        let away = ((hue - channel + 0.5).rem_euclid(1.0) - 0.5).abs();
        1.0 - SATURATION * (1.0 - (2.0 - 6.0 * away).clamp(0.0, 1.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The centre of brightness, as an angle around the frame from side to side, in pixels.
    fn centre(pixels: &[u8], size: usize) -> [f64; 2] {
        let mut sums = [[0.0_f64; 2]; 2];
        for (place, pixel) in pixels.chunks(3).enumerate() {
            let light: f64 = pixel.iter().map(|&channel| f64::from(channel)).sum();
            for (sum, along) in sums.iter_mut().zip([place % size, place / size]) {
                let angle = TAU * along as f64 / size as f64;
                sum[0] += light * angle.cos();
                sum[1] += light * angle.sin();
            }
        }
        sums.map(|[x, y]| y.atan2(x) / TAU * size as f64)
    }

    /// How far right and down the digit moves between two frames, each less than half the frame.
    fn moved(videos: &MovingDigits, video: usize, frames: [usize; 2]) -> [f64; 2] {
        let size = videos.size() as f64;
        let [from, to] = frames.map(|frame| centre(&videos.frame(video, frame), videos.size()));
        [0, 1].map(|axis| (to[axis] - from[axis] + size / 2.0).rem_euclid(size) - size / 2.0)
    }

    #[test]
    fn a_frame_depends_on_its_numbers_alone() {
        let videos = MovingDigits::new(20, 3);
        let frame = videos.frame(7, 5);
        assert_eq!(frame.len(), 32 * 32 * 3);
        assert_ne!(videos.frame(8, 5), frame);
        assert_ne!(videos.frame(7, 6), frame);
        assert_eq!(videos.frame(7, 5), frame);
        assert_eq!(MovingDigits::new(1000, 3).frame(7, 5), frame);
        assert_ne!(MovingDigits::new(20, 4).frame(7, 5), frame);
    }

    #[test]
    fn more_frames_show_the_same_motion() {
        let videos = MovingDigits::new(3, 0).with_frames(12);
        let finer = videos.clone().with_frames(24);
        for video in 0..3 {
            for frame in 0..12 {
                assert_eq!(videos.frame(video, frame), finer.frame(video, 2 * frame));
            }
        }
    }

    #[test]
    fn labels_are_balanced_and_not_in_order() {
        let videos = MovingDigits::new(83, 5);
        let labels: Vec<usize> = (0..videos.len()).map(|video| videos.label(video)).collect();
        for label in 0..8 {
            let count = labels.iter().filter(|&&l| l == label).count();
            assert!((10..=11).contains(&count), "{count} of label {label}");
        }
        assert_ne!(labels[..8], labels[8..16]);
        assert_ne!(labels[..8], [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn the_light_moves_as_the_label_says() {
        let videos = MovingDigits::new(40, 1).with_frames(4);
        let classes = videos.classes();
        for video in 0..videos.len() {
            let name = &classes[videos.label(video)];
            let side =
                |more: &str, less: &str| f64::from(name.contains(more)) - f64::from(name.contains(less));
            let direction = [side("right", "left"), side("down", "up")];
            let length = direction[0].hypot(direction[1]);
            for first in 0..3 {
                let way = moved(&videos, video, [first, first + 1]);
                for (found, expected) in way.iter().zip(direction.map(|d| 6.5 * d / length)) {
                    assert!((found - expected).abs() < 1.0, "{way:?} is not {name}");
                }
            }
        }
    }

    #[test]
    fn speeds_are_classes() {
        let videos = MovingDigits::new(32, 1).with_directions(4).with_speeds(&[0.5, 1.0]).with_size(48);
        let classes = videos.classes();
        assert_eq!(classes.len(), 8);
        assert_eq!(classes[..3], ["right x0.5", "right x1", "down x0.5"]);
        for video in 0..videos.len() {
            let [x, y] = moved(&videos, video, [4, 16]);
            let name = &classes[videos.label(video)];
            let expected = if name.ends_with("x0.5") { 7.3 } else { 14.6 };
            assert!((x.hypot(y) - expected).abs() < 1.5, "{x}, {y} is not {name}");
        }
        assert_eq!(MovingDigits::new(1, 1).with_directions(7).classes()[1], "51.4 degrees");
    }

    /// The first frame is drawn without the label; later ones are moved by the same way for all of a label.
    #[test]
    fn the_first_frame_does_not_hold_the_label() {
        let videos = MovingDigits::new(8, 9).with_hue(Hue::Grey);
        let fewer = videos.clone().with_directions(2);
        for video in 0..videos.len() {
            assert_eq!(videos.frame(video, 0), fewer.frame(video, 0));
        }
        assert!(videos.frame(0, 9).chunks(3).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]));
    }

    #[test]
    fn hues_go_with_labels_as_asked() {
        let count = |hue: Hue| {
            let videos = MovingDigits::new(2000, 2).with_hue(hue);
            (0..videos.len()).filter(|&video| videos.hue(video) == Some(videos.label(video))).count()
        };
        assert_eq!(count(Hue::Correlated { strength: 1.0 }), 2000);
        assert_eq!(count(Hue::Shifted), 0);
        assert_eq!(count(Hue::Grey), 0);
        // 1/8, and 0.6 + 0.4/8.
        assert!((200..300).contains(&count(Hue::Random)));
        assert!((1230..1370).contains(&count(Hue::Correlated { strength: 0.6 })));

        // Three labels are red, green and blue.
        let videos = MovingDigits::new(12, 2).with_directions(3).with_hue(Hue::Correlated { strength: 1.0 });
        for video in 0..videos.len() {
            let pixels = videos.frame(video, 3);
            let sum =
                |channel: usize| pixels.iter().skip(channel).step_by(3).map(|&v| u32::from(v)).sum::<u32>();
            assert_eq!((0..3).max_by_key(|&channel| sum(channel)), Some(videos.label(video)));
        }
    }

    #[test]
    fn digits_are_of_the_range() {
        let videos = MovingDigits::new(200, 2).with_digits(1790..1797);
        assert!((0..200).all(|video| (1790..1797).contains(&videos.scene(video).digit)));
        assert!(videos.check().is_ok());
    }

    #[test]
    fn wrong_settings_are_named() {
        let videos = || MovingDigits::new(8, 0);
        let wrong = [
            (videos().with_size(7), "size"),
            (videos().with_frames(0), "frames"),
            (videos().with_directions(0), "directions"),
            (videos().with_speeds(&[]), "speeds"),
            (videos().with_speeds(&[1.0, 0.0]), "speeds"),
            (videos().with_speeds(&[f64::NAN]), "speeds"),
            (videos().with_hue(Hue::Correlated { strength: 1.5 }), "strength"),
            (videos().with_digits(1797..1798), "digits"),
        ];
        for (videos, setting) in wrong {
            let message = videos.check().unwrap_err().to_string();
            assert!(message.contains(setting), "{message}");
        }
        assert!(videos().check().is_ok());
    }
}
