//! Which frames of a video make a clip.
//!
//! Frames are counted from 1, as their files are. Draws are injected: the loader's generator draws
//! `|bound| generator.below(bound)`, a test its own stream.

use serde::{Deserialize, Serialize};

/// How many frames of a video a clip of [`Sampling::Dense`] spans.
pub const DENSE_WINDOW: usize = 64;

/// How the frames of a clip are chosen, as released with TSM and the networks that build on it.
///
/// The arguments that all methods share:
///
/// - frames: of the video
/// - segments: of the clip
/// - `new_length`: consecutive frames that are read for each segment, at least 1: one for RGB, 5 for flow; see
///   [`consecutive`]. [`Dense`](Self::Dense) and [`Intervals`](Self::Intervals) know only single frames.
/// - draw: a whole number below the one that it is given, which is never 0
///
/// Each clip has one number for each segment. A video without frames is read as one of a single frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// The video in equal segments, from each of which comes one frame (TSN).
    Segments,
    /// Frames at equal distances within [`DENSE_WINDOW`] frames (I3D); shorter videos begin again.
    Dense,
    /// As [`Segments`](Self::Segments), but two clips in tests: the segments' centres, and their starts.
    Twice,
    /// The video in equal intervals that share their end points (SlowFast's and UniFormer's image data sets).
    Intervals,
}

impl Sampling {
    /// The frames of a training clip.
    ///
    /// The published rules, with their consequences: of [`Segments`](Self::Segments), single frames come never from the
    /// last `frames % segments`, and a video of fewer frames than segments gives its first frame only;
    /// [`Dense`](Self::Dense) never takes the last window of several.
    pub fn train(
        self,
        frames: usize,
        segments: usize,
        new_length: usize,
        draw: &mut dyn FnMut(usize) -> usize,
    ) -> Vec<usize> {
        match self {
            Self::Segments | Self::Twice => random_segments(frames, segments, new_length, draw),
            Self::Dense => match dense_starts(frames) {
                1 => dense(frames, segments, 0),
                starts => dense(frames, segments, draw(starts - 1)),
            },
            Self::Intervals => random_intervals(frames, segments, draw),
        }
    }

    /// In which order the clips of several frame counts are drawn for one video, as places in their ascending list: from
    /// the most frames down, but with [`Intervals`](Self::Intervals) the most frames first and then from the fewest up, as
    /// the networks were released that use it.
    pub fn draw_order(self, counts: usize) -> Vec<usize> {
        match self {
            Self::Intervals => (0..counts).map(|place| (place + counts - 1) % counts).collect(),
            Self::Segments | Self::Dense | Self::Twice => (0..counts).rev().collect(),
        }
    }

    /// The frames of the one clip that validation sees. The released scripts take their final numbers with it.
    ///
    /// [`Segments`](Self::Segments) and [`Twice`](Self::Twice) give the segments' centres; but of a video of fewer than
    /// `segments + new_length` frames only the first frame, so that short videos suffer, which they do not in
    /// [`test`](Self::test). [`Dense`](Self::Dense) draws its window as in training; nothing else is random here.
    pub fn validation(
        self,
        frames: usize,
        segments: usize,
        new_length: usize,
        draw: &mut dyn FnMut(usize) -> usize,
    ) -> Vec<usize> {
        match self {
            Self::Segments | Self::Twice if frames < segments + new_length => vec![1; segments],
            Self::Segments | Self::Twice => spread(frames, segments, new_length, 0.5),
            Self::Dense => self.train(frames, segments, new_length, draw),
            Self::Intervals => interval_view(frames, segments, 0, 1),
        }
    }

    /// The frames of the clips that a test sees, whose scores are put together. Frames of short videos are repeated
    /// evenly.
    ///
    /// - views: clips of [`Dense`](Self::Dense) (10 as published) and [`Intervals`](Self::Intervals);
    ///   [`Segments`](Self::Segments) always gives one clip, [`Twice`](Self::Twice) two
    pub fn test(self, frames: usize, segments: usize, new_length: usize, views: usize) -> Vec<Vec<usize>> {
        match self {
            Self::Segments => vec![spread(frames, segments, new_length, 0.5)],
            Self::Twice => [0.5, 0.0].map(|shift| spread(frames, segments, new_length, shift)).into(),
            Self::Dense => {
                let last = dense_starts(frames) - 1;
                let start = |view: usize| last * view / (views - 1).max(1);
                (0..views).map(|view| dense(frames, segments, start(view))).collect()
            }
            Self::Intervals => (0..views).map(|view| interval_view(frames, segments, view, views)).collect(),
        }
    }
}

/// The frames that are read for a segment: consecutive ones, of which the video's last is repeated where it ends.
///
/// - first: the segment's number that [`Sampling`] gives
/// - frames: of the video
pub fn consecutive(first: usize, new_length: usize, frames: usize) -> Vec<usize> {
    (first..first + new_length).map(|frame| frame.min(frames.max(first))).collect()
}

/// The frames of a clip that go through the slow pathway of SlowFast, counted from 0:
/// `trunc(linspace(0, frames - 1, count))`.
///
/// - frames: of the clip, which all go through the fast pathway
/// - count: of the slow pathway
pub fn slow_frames(frames: usize, count: usize) -> Vec<usize> {
    let last = frames.saturating_sub(1) as f32;
    let step = last / count.saturating_sub(1).max(1) as f32;
    let place = |index: usize| {
        // As PyTorch counts, in single precision: where the exact place is a whole number, it may lie just below.
        if index < (count / 2).max(1) {
            step * index as f32
        } else {
            last - step * (count - 1 - index) as f32
        }
    };
    (0..count).map(|index| place(index) as usize).collect()
}

/// Where a segment's frames can start.
fn starts(frames: usize, new_length: usize) -> usize {
    (frames + 1).saturating_sub(new_length)
}

fn random_segments(
    frames: usize,
    segments: usize,
    new_length: usize,
    draw: &mut dyn FnMut(usize) -> usize,
) -> Vec<usize> {
    let starts = starts(frames, new_length);
    let length = starts.checked_div(segments).unwrap_or(0);
    if length > 0 {
        return (0..segments).map(|segment| segment * length + draw(length) + 1).collect();
    }
    if frames > segments && starts > 0 {
        let mut drawn: Vec<usize> = (0..segments).map(|_| draw(starts) + 1).collect();
        drawn.sort_unstable();
        return drawn;
    }
    vec![1; segments]
}

/// The same place of each segment.
///
/// - shift: from 0, the segment's start, to 1, its end
fn spread(frames: usize, segments: usize, new_length: usize, shift: f64) -> Vec<usize> {
    let tick = starts(frames, new_length) as f64 / segments as f64;
    (0..segments).map(|segment| (tick * shift + tick * segment as f64) as usize + 1).collect()
}

/// Where a window can start.
fn dense_starts(frames: usize) -> usize {
    (frames + 1).saturating_sub(DENSE_WINDOW).max(1)
}

fn dense(frames: usize, segments: usize, start: usize) -> Vec<usize> {
    let stride = DENSE_WINDOW.checked_div(segments).unwrap_or(0);
    (0..segments).map(|segment| (start + segment * stride) % frames.max(1) + 1).collect()
}

fn interval(frames: usize, segments: usize) -> f64 {
    frames.saturating_sub(1) as f64 / segments as f64
}

/// Where an interval begins, and the one before it ends.
fn edge(interval: f64, segment: usize) -> usize {
    // Python rounds halves to the even number.
    (interval * segment as f64).round_ties_even() as usize
}

fn random_intervals(frames: usize, segments: usize, draw: &mut dyn FnMut(usize) -> usize) -> Vec<usize> {
    let interval = interval(frames, segments);
    let random = |segment: usize| {
        let (first, last) = (edge(interval, segment), edge(interval, segment + 1));
        first + draw(last - first + 1) + 1
    };
    (0..segments).map(random).collect()
}

fn interval_view(frames: usize, segments: usize, view: usize, views: usize) -> Vec<usize> {
    let interval = interval(frames, segments);
    let shift = (interval / (views + 1) as f64 * (view + 1) as f64) as usize;
    (0..segments).map(|segment| edge(interval, segment) + shift + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowest(_: usize) -> usize {
        0
    }

    fn highest(bound: usize) -> usize {
        bound - 1
    }

    #[test]
    fn segments_give_a_frame_each() {
        assert_eq!(Sampling::Segments.train(10, 4, 1, &mut lowest), [1, 3, 5, 7]);
        assert_eq!(Sampling::Segments.train(10, 4, 1, &mut highest), [2, 4, 6, 8]);
        assert_eq!(Sampling::Segments.validation(10, 4, 1, &mut highest), [2, 4, 7, 9]);
        assert_eq!(Sampling::Segments.test(10, 4, 1, 1), [[2, 4, 7, 9]]);
        assert_eq!(Sampling::Twice.test(10, 4, 1, 1), [[2, 4, 7, 9], [1, 3, 6, 8]]);
    }

    #[test]
    fn short_videos_repeat_frames() {
        assert_eq!(Sampling::Segments.train(3, 4, 1, &mut highest), [1; 4]);
        assert_eq!(Sampling::Segments.validation(4, 4, 1, &mut highest), [1; 4]);
        assert_eq!(Sampling::Segments.validation(5, 4, 1, &mut highest), [1, 2, 4, 5]);
        assert_eq!(Sampling::Segments.test(2, 4, 1, 1), [[1, 1, 2, 2]]);
        // Three starts of five consecutive frames.
        let mut stream = [2, 0, 1, 2].into_iter();
        let train = Sampling::Segments.train(7, 4, 5, &mut |_| stream.next().unwrap());
        assert_eq!(train, [1, 2, 3, 3]);
    }

    #[test]
    fn dense_clips_span_a_window() {
        let drawn = Sampling::Dense.train(70, 4, 1, &mut |bound| {
            assert_eq!(bound, 6);
            5
        });
        assert_eq!(drawn, [6, 22, 38, 54]);
        assert_eq!(Sampling::Dense.train(20, 4, 1, &mut highest), [1, 17, 13, 9]);
        let clips = Sampling::Dense.test(70, 4, 1, 10);
        let first: Vec<usize> = clips.iter().map(|clip| clip[0]).collect();
        assert_eq!(first, [1, 1, 2, 3, 3, 4, 5, 5, 6, 7]);
        assert_eq!(clips[9], [7, 23, 39, 55]);
        assert_eq!(Sampling::Dense.test(70, 4, 1, 1), [[1, 17, 33, 49]]);
    }

    #[test]
    fn intervals_share_their_ends() {
        assert_eq!(Sampling::Intervals.train(9, 4, 1, &mut lowest), [1, 3, 5, 7]);
        assert_eq!(Sampling::Intervals.train(9, 4, 1, &mut highest), [3, 5, 7, 9]);
        assert_eq!(Sampling::Intervals.validation(9, 4, 1, &mut highest), [2, 4, 6, 8]);
        // 2.5 is rounded to 2.
        assert_eq!(Sampling::Intervals.test(6, 2, 1, 3), [[1, 3], [2, 4], [2, 4]]);
    }

    #[test]
    fn consecutive_frames_end_with_the_video() {
        assert_eq!(consecutive(3, 1, 10), [3]);
        assert_eq!(consecutive(8, 5, 10), [8, 9, 10, 10, 10]);
    }

    // torch.linspace(0, frames - 1, count).long() of PyTorch 2.
    #[test]
    fn slow_frames_are_pytorchs() {
        assert_eq!(slow_frames(16, 4), [0, 5, 10, 15]);
        assert_eq!(slow_frames(32, 8), [0, 4, 8, 13, 17, 22, 26, 31]);
        let long = slow_frames(112, 28);
        assert_eq!((long.len(), &long[8..11], long[27]), (28, &[32, 37, 41][..], 111));
        // 53 exactly.
        assert_eq!(slow_frames(160, 40)[13], 52);
        assert_eq!(slow_frames(7, 1), [0]);
        assert_eq!(slow_frames(7, 0), [0; 0]);
    }

    fn check(sampling: Sampling, frames: usize, segments: usize, new_length: usize) {
        let mut clips = sampling.test(frames, segments, new_length, 3);
        clips.push(sampling.train(frames, segments, new_length, &mut lowest));
        clips.push(sampling.train(frames, segments, new_length, &mut highest));
        clips.push(sampling.validation(frames, segments, new_length, &mut highest));
        for clip in clips {
            let are_its = clip.iter().all(|frame| (1..=frames.max(1)).contains(frame));
            assert!(are_its && clip.len() == segments, "{sampling:?} of {frames}: {clip:?}");
        }
    }

    #[test]
    fn all_frames_are_the_videos() {
        for sampling in [Sampling::Segments, Sampling::Dense, Sampling::Twice, Sampling::Intervals] {
            for frames in 0..90 {
                for segments in 0..70 {
                    check(sampling, frames, segments, 1);
                    check(sampling, frames, segments, 5);
                }
            }
        }
    }

    #[test]
    fn settings_name_the_mode() {
        assert_eq!(serde_json::to_string(&Sampling::Intervals).unwrap(), "\"intervals\"");
    }
}
