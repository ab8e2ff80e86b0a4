//! Images in memory: decoded from files, resized as Pillow does, cropped.

use std::{
    fs::File,
    io::{BufReader, Cursor},
    path::Path,
};

use leanburn_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::resample::resample;

/// An image of 8-bit values, row by row, the channels of a pixel side by side: gray or RGB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    height: usize,
    width: usize,
    channels: usize,
    values: Vec<u8>,
}

/// How a pixel is made of others when an image is resized. Where it shrinks, all pixels that it covers count, as in
/// Pillow and unlike in OpenCV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// The pixel at its place.
    Nearest,
    /// Linear in the distance.
    Bilinear,
    /// Cubic in the distance.
    Bicubic,
    /// Lanczos with three lobes.
    Lanczos,
}

impl Image {
    /// An image of values.
    ///
    /// - size: height and width
    /// - channels: 1 (gray) or 3 (RGB)
    ///
    /// # Errors
    ///
    /// When there are other numbers of values or channels, or no pixel.
    pub fn new([height, width]: [usize; 2], channels: usize, values: Vec<u8>) -> Result<Self> {
        if !matches!(channels, 1 | 3) {
            return Err(Error::data("image", "1 or 3 channels", channels));
        }
        if values.is_empty() || values.len() != height * width * channels {
            let expected = format!("{height} x {width} x {channels} values, at least one pixel");
            return Err(Error::data("image", expected, values.len()));
        }
        Ok(Self { height, width, channels, values })
    }

    /// Decodes a JPEG, PNG, WebP or BMP file, whatever its name says, to RGB.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is none of these, or is not whole.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io(path))?;
        Self::decode(path, image::ImageReader::new(BufReader::new(file)))
    }

    /// Decodes a file's bytes.
    ///
    /// - path: where they come from, for errors
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_bytes(path: impl AsRef<Path>, bytes: &[u8]) -> Result<Self> {
        Self::decode(path.as_ref(), image::ImageReader::new(Cursor::new(bytes)))
    }

    fn decode<R: std::io::BufRead + std::io::Seek>(
        path: &Path,
        reader: image::ImageReader<R>,
    ) -> Result<Self> {
        let reader = reader.with_guessed_format().map_err(Error::io(path))?;
        let decoded = reader
            .decode()
            .map_err(|error| Error::format(path, "image", "a whole JPEG, PNG, WebP or BMP", error))?;
        let pixels = decoded.into_rgb8();
        let size = [pixels.height() as usize, pixels.width() as usize];
        Self::new(size, 3, pixels.into_raw())
    }

    /// Height and width.
    pub fn size(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// 1 (gray) or 3 (RGB).
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The values, row by row, the channels of a pixel side by side.
    pub fn values(&self) -> &[u8] {
        &self.values
    }

    /// The values, to be changed in place.
    pub(crate) fn values_mut(&mut self) -> &mut [u8] {
        &mut self.values
    }

    /// Resized to a height and a width as Pillow does, to the bit (Pillow to version 12: 13 exchanges the two passes of some
    /// shapes, which rounds otherwise).
    ///
    /// # Errors
    ///
    /// When a side is 0, or the image has no pixel.
    pub fn resized(&self, [height, width]: [usize; 2], filter: Filter) -> Result<Self> {
        if height == 0 || width == 0 {
            return Err(Error::setting("size", "at least one pixel", format!("{height} x {width}")));
        }
        if self.size() == [height, width] {
            return Ok(self.clone());
        }
        if self.values.is_empty() {
            return Err(Error::data("image", "at least one pixel", "none"));
        }
        let resample = if self.channels == 1 { resample::<1> } else { resample::<3> };
        let values = resample(&self.values, self.size(), [height, width], filter);
        Self::new([height, width], self.channels, values)
    }

    /// The part of a height and a width at a place; black where it reaches over the edge.
    ///
    /// - top, left: of the part, negative above and left of the image
    pub fn cropped(&self, top: isize, left: isize, [height, width]: [usize; 2]) -> Self {
        let mut values = vec![0; height * width * self.channels];
        // Of each row, the columns that both have.
        let from = (-left).clamp(0, width as isize) as usize;
        let to = (self.width as isize - left).clamp(from as isize, width as isize) as usize;
        for row in 0..height {
            let source = top + row as isize;
            if source < 0 || source >= self.height as isize {
                continue;
            }
            let first = (source as usize * self.width) as isize + left + from as isize;
            let source = first as usize * self.channels..(first as usize + to - from) * self.channels;
            let target = (row * width + from) * self.channels..(row * width + to) * self.channels;
            values[target].copy_from_slice(&self.values[source]);
        }
        Self { height, width, channels: self.channels, values }
    }

    /// The part of a height and a width in the middle, where torchvision's `CenterCrop` has it.
    pub fn cropped_in_the_middle(&self, size: [usize; 2]) -> Self {
        let offset = |whole: usize, part: usize| {
            // Python rounds halves to the even number.
            ((whole as f64 - part as f64) / 2.0).round_ties_even() as isize
        };
        self.cropped(offset(self.height, size[0]), offset(self.width, size[1]), size)
    }

    /// Left and right exchanged.
    #[must_use]
    pub fn flipped(&self) -> Self {
        let rows = self.values.chunks(self.width * self.channels);
        let values = rows.flat_map(|row| row.chunks(self.channels).rev().flatten().copied()).collect();
        Self { values, ..*self }
    }

    /// With another number of channels: gray as Pillow weights colours, RGB of three equal ones.
    ///
    /// # Errors
    ///
    /// When it is neither 1 nor 3.
    pub fn with_channels(&self, channels: usize) -> Result<Self> {
        let values = match (self.channels, channels) {
            (a, b) if a == b => self.values.clone(),
            (1, 3) => self.values.iter().flat_map(|&value| [value; 3]).collect(),
            (3, 1) => self.values.chunks(3).map(luminance).collect(),
            _ => return Err(Error::setting("channels", "1 or 3", channels)),
        };
        Self::new(self.size(), channels, values)
    }
}

/// The brightness of an RGB pixel, as Pillow computes it.
pub(crate) fn luminance(pixel: &[u8]) -> u8 {
    let weighted = u32::from(pixel[0]) * 19_595 + u32::from(pixel[1]) * 38_470 + u32::from(pixel[2]) * 7_471;
    ((weighted + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(height: usize, width: usize, channels: usize) -> Image {
        let values = (0..height * width * channels).map(|value| value as u8).collect();
        Image::new([height, width], channels, values).unwrap()
    }

    #[test]
    fn parts_may_reach_over_the_edge() {
        let image = numbers(3, 4, 1);
        assert_eq!(image.cropped(1, 2, [2, 2]).values(), [6, 7, 10, 11]);
        assert_eq!(image.cropped(-1, -1, [2, 3]).values(), [0, 0, 0, 0, 0, 1]);
        assert_eq!(image.cropped(2, 3, [2, 2]).values(), [11, 0, 0, 0]);
        assert_eq!(image.cropped(7, -9, [1, 2]).values(), [0, 0]);
        assert_eq!(image.cropped_in_the_middle([1, 2]).values(), [5, 6]);
        assert_eq!(image.flipped().values()[..4], [3, 2, 1, 0]);
        assert_eq!(numbers(1, 2, 3).flipped().values(), [3, 4, 5, 0, 1, 2]);
    }

    // Image.fromarray(numpy.arange(12, dtype="uint8").reshape(3, 4) * 20).resize(...) of Pillow 12.3.
    #[test]
    fn resizing_is_pillows() {
        let values = (0..12).map(|value| value * 20).collect();
        let image = Image::new([3, 4], 1, values).unwrap();
        let resized = |size, filter| image.resized(size, filter).unwrap().values().to_vec();
        assert_eq!(resized([2, 2], Filter::Bilinear), [44, 76, 144, 176]);
        assert_eq!(resized([1, 8], Filter::Bilinear), [80, 85, 95, 105, 115, 125, 135, 140]);
        assert_eq!(resized([3, 3], Filter::Bilinear), [6, 30, 54, 86, 110, 134, 166, 190, 214]);
        let expected = [24, 30, 43, 55, 67, 80, 87, 133, 140, 153, 165, 177, 190, 197];
        assert_eq!(resized([2, 7], Filter::Bicubic), expected);
        let expected = [0, 24, 50, 28, 54, 80, 84, 110, 136, 140, 166, 192, 170, 196, 222];
        assert_eq!(resized([5, 3], Filter::Bicubic), expected);
        let expected = [21, 27, 40, 52, 64, 77, 84, 136, 143, 156, 168, 180, 193, 200];
        assert_eq!(resized([2, 7], Filter::Lanczos), expected);
        assert_eq!(resized([5, 2], Filter::Lanczos), [5, 43, 29, 67, 91, 129, 153, 191, 177, 215]);
        let expected = [0, 0, 20, 20, 40, 60, 60, 160, 160, 180, 180, 200, 220, 220];
        assert_eq!(resized([2, 7], Filter::Nearest), expected);
        let expected = [0, 40, 60, 0, 40, 60, 80, 120, 140, 160, 200, 220, 160, 200, 220];
        assert_eq!(resized([5, 3], Filter::Nearest), expected);
        assert_eq!(resized([3, 4], Filter::Lanczos), image.values());
        assert!(image.resized([0, 2], Filter::Bilinear).is_err());
        assert!(image.cropped(0, 0, [0, 0]).resized([2, 2], Filter::Bilinear).is_err());
    }

    // The same of k = numpy.arange(189), ((k * k * 37 + k * 11) % 256).reshape(7, 9, 3), whose contrasts overshoot.
    #[test]
    fn resizing_colours_is_pillows() {
        let values = (0..189_u32).map(|k| (k * k * 37 + k * 11) as u8).collect();
        let image = Image::new([7, 9], 3, values).unwrap();
        let resized = |size, filter| image.resized(size, filter).unwrap().values().to_vec();
        let expected =
            [121, 137, 154, 105, 138, 136, 126, 126, 131, 128, 109, 137, 124, 107, 114, 131, 125, 124];
        assert_eq!(resized([3, 2], Filter::Bilinear), expected);
        let expected =
            [126, 128, 148, 114, 147, 142, 108, 110, 130, 131, 118, 124, 119, 112, 111, 142, 117, 146];
        assert_eq!(resized([2, 3], Filter::Bicubic), expected);
        let expected =
            [121, 142, 157, 97, 141, 132, 125, 130, 129, 132, 95, 138, 124, 104, 110, 133, 130, 128];
        assert_eq!(resized([3, 2], Filter::Lanczos), expected);
        let expected = [94, 58, 96, 130, 248, 184, 16, 32, 122, 98, 118, 212, 126, 44, 36, 4, 76, 222];
        assert_eq!(resized([2, 3], Filter::Nearest), expected);
        // Of larger ones, the sum of the values times their places, counted from 1.
        let weighed = |size, filter| -> u64 {
            resized(size, filter).iter().zip(1_u64..).map(|(&value, place)| u64::from(value) * place).sum()
        };
        assert_eq!(weighed([9, 11], Filter::Lanczos), 5_421_931);
        assert_eq!(weighed([16, 16], Filter::Bicubic), 36_112_562);
        assert_eq!(weighed([16, 16], Filter::Bilinear), 36_152_483);
    }

    #[test]
    fn colours_become_gray_and_gray_colours() {
        let image = Image::new([1, 2], 3, vec![255, 0, 0, 10, 20, 30]).unwrap();
        // Image.convert("L") of Pillow.
        assert_eq!(image.with_channels(1).unwrap().values(), [76, 18]);
        assert_eq!(numbers(1, 2, 1).with_channels(3).unwrap().values(), [0, 0, 0, 1, 1, 1]);
        assert!(image.with_channels(2).is_err());
    }

    #[test]
    fn files_that_are_not_whole_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.png");
        let pixels = image::RgbImage::from_fn(20, 30, |x, y| image::Rgb([x as u8, y as u8, 7]));
        pixels.save(&path).unwrap();
        let image = Image::open(&path).unwrap();
        assert_eq!((image.size(), image.channels()), ([30, 20], 3));
        assert_eq!(image.values()[3 * 20..][..3], [0, 1, 7]);
        let bytes = std::fs::read(&path).unwrap();
        let broken = folder.path().join("broken.jpg");
        std::fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
        assert!(Image::open(&broken).unwrap_err().to_string().contains("broken.jpg"));
        std::fs::write(&broken, b"no image").unwrap();
        assert!(Image::open(&broken).unwrap_err().to_string().contains("whole JPEG"));
        assert!(Image::open(folder.path().join("none.png")).is_err());
        assert!(Image::new([2, 2], 3, vec![0; 5]).is_err());
        assert!(Image::new([2, 2], 2, vec![0; 8]).is_err());
    }
}
