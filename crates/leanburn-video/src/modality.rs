use leanburn_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::sampling::consecutive;

/// What a network sees of each segment of a video.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    /// A frame in colours: 3 channels.
    #[default]
    Rgb,
    /// The optical flow of consecutive frames, whose images hold the way to the right in red and the way down in green:
    /// 2 channels a frame.
    Flow {
        /// Frames; 5 in TSN and TSM.
        length: usize,
    },
    /// The differences of consecutive frames: 3 channels each.
    RgbDifference {
        /// Differences; 5 in TSN and TSM.
        length: usize,
    },
}

impl Modality {
    /// Consecutive frames that are read for a segment.
    pub fn new_length(self) -> usize {
        match self {
            Self::Rgb => 1,
            Self::Flow { length } => length,
            Self::RgbDifference { length } => length + 1,
        }
    }

    /// Channels of the network's input.
    pub fn channels(self) -> usize {
        match self {
            Self::Rgb => 3,
            Self::Flow { length } => 2 * length,
            Self::RgbDifference { length } => 3 * length,
        }
    }

    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Flow { length: 0 } | Self::RgbDifference { length: 0 } => {
                Err(Error::setting("modality.length", "at least 1", 0))
            }
            _ => Ok(()),
        }
    }

    /// The numbers of the frames that are read for segments.
    ///
    /// - segments: their first frames
    /// - frames: of the video
    pub(crate) fn frames(self, segments: &[usize], frames: usize) -> Vec<usize> {
        segments.iter().flat_map(|&first| consecutive(first, self.new_length(), frames)).collect()
    }

    /// The channels of each segment.
    ///
    /// - images: `[segments * new_length, 3, pixels]`
    /// - output: `[segments, channels, pixels]`
    pub(crate) fn stacked(self, images: Vec<f32>, pixels: usize) -> Vec<f32> {
        match self {
            Self::Rgb => images,
            Self::Flow { .. } => {
                images.chunks_exact(3 * pixels).flat_map(|image| &image[..2 * pixels]).copied().collect()
            }
            Self::RgbDifference { .. } => {
                let segments = images.chunks_exact(self.new_length() * 3 * pixels);
                let differences = segments.flat_map(|segment| {
                    segment[3 * pixels..].iter().zip(segment).map(|(after, before)| after - before)
                });
                differences.collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_those_of_consecutive_frames() {
        // Two segments of two images, of one pixel.
        let images = vec![1.0, 2.0, 3.0, 4.0, 6.0, 9.0, 10.0, 20.0, 30.0, 41.0, 51.0, 61.0];
        assert_eq!(Modality::Rgb.stacked(images.clone(), 1), images);
        let flow = Modality::Flow { length: 2 };
        assert_eq!((flow.new_length(), flow.channels()), (2, 4));
        assert_eq!(flow.stacked(images.clone(), 1), [1.0, 2.0, 4.0, 6.0, 10.0, 20.0, 41.0, 51.0]);
        let difference = Modality::RgbDifference { length: 1 };
        assert_eq!((difference.new_length(), difference.channels()), (2, 3));
        assert_eq!(difference.stacked(images, 1), [3.0, 4.0, 6.0, 31.0, 31.0, 31.0]);
        assert_eq!(flow.frames(&[1, 4], 4), [1, 2, 4, 4]);
        assert!(Modality::Flow { length: 0 }.check().is_err());
    }
}
