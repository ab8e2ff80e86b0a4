//! Resizing in Pillow's own arithmetic, so that every value is Pillow's (of its versions to 12; from 13 on it takes the
//! vertical pass first where that is less work, which rounds otherwise).

use std::{f64::consts::PI, ops::Range};

use crate::image::Filter;

/// Bits after the point of a weight: of 32, eight are for values and two for sums beyond them.
const PRECISION: u32 = 32 - 8 - 2;
/// A half, where every sum starts.
const HALF: i32 = 1 << (PRECISION - 1);

/// An image's values in another size.
///
/// - values: row by row, the `C` channels of a pixel side by side, at least one pixel
/// - size, target: height and width, not 0
pub(crate) fn resample<const C: usize>(
    values: &[u8],
    [height, width]: [usize; 2],
    target: [usize; 2],
    filter: Filter,
) -> Vec<u8> {
    let (support, weight): (f64, fn(f64) -> f64) = match filter {
        Filter::Nearest => return nearest::<C>(values, [height, width], target),
        Filter::Bilinear => (1.0, triangle),
        Filter::Bicubic => (2.0, cubic),
        Filter::Lanczos => (3.0, lanczos),
    };
    let across = (width != target[1]).then(|| Weights::new(width, target[1], support, weight));
    let down = (height != target[0]).then(|| Weights::new(height, target[0], support, weight));
    // Of the source's rows, those that the vertical pass reads.
    let rows = down.as_ref().map_or(0..height, Weights::reach);
    let first = rows.start;
    let values = &values[first * width * C..rows.end * width * C];
    match (across, down) {
        (None, None) => values.to_vec(),
        (Some(across), None) => horizontal::<C>(values, width, &across),
        (None, Some(down)) => vertical(values, width * C, first, &down),
        (Some(across), Some(down)) => {
            let values = horizontal::<C>(values, width, &across);
            vertical(&values, target[1] * C, first, &down)
        }
    }
}

/// What each pixel of a side is made of.
struct Weights {
    /// For each pixel the first pixel of the source, and where its weights are.
    spans: Vec<(usize, Range<usize>)>,
    /// In units of `1 << PRECISION`.
    values: Vec<i32>,
}

impl Weights {
    fn new(from: usize, to: usize, support: f64, weight: fn(f64) -> f64) -> Self {
        let scale = from as f64 / to as f64;
        // Where the image shrinks, the filter widens.
        let widened = scale.max(1.0);
        let support = support * widened;
        let narrowed = 1.0 / widened;
        let mut weights = Self { spans: Vec::with_capacity(to), values: Vec::new() };
        let mut exact = Vec::new();
        for place in 0..to {
            let center = (place as f64 + 0.5) * scale;
            // Negative numbers become 0.
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            exact.clear();
            // In this order: each sum rounds.
            exact.extend((0..end - first).map(|x| weight(((x + first) as f64 - center + 0.5) * narrowed)));
            let sum: f64 = exact.iter().fold(0.0, |sum, weight| sum + weight);
            let start = weights.values.len();
            weights.values.extend(exact.iter().map(|&weight| {
                let share = if sum == 0.0 { weight } else { weight / sum };
                let half = if share < 0.0 { -0.5 } else { 0.5 };
                (half + share * f64::from(1 << PRECISION)) as i32
            }));
            weights.spans.push((first, start..weights.values.len()));
        }
        weights
    }

    /// For each pixel the first pixel of the source, and the weights from there.
    fn shares(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.spans.iter().map(|(first, range)| (*first, &self.values[range.clone()]))
    }

    /// The source's pixels that count.
    fn reach(&self) -> Range<usize> {
        let first = self.spans.first().map_or(0, |(first, _)| *first);
        let end = self.spans.last().map_or(0, |(first, range)| first + range.len());
        first..end
    }
}

fn horizontal<const C: usize>(values: &[u8], width: usize, weights: &Weights) -> Vec<u8> {
    let to = weights.spans.len();
    let (pixels, _) = values.as_chunks::<C>();
    let mut resized = vec![0_u8; pixels.len() / width * to * C];
    let (targets, _) = resized.as_chunks_mut::<C>();
    for (targets, row) in targets.chunks_exact_mut(to).zip(pixels.chunks_exact(width)) {
        for (target, (first, weights)) in targets.iter_mut().zip(weights.shares()) {
            let mut sums = [HALF; C];
            for (pixel, weight) in row[first..].iter().zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            *target = sums.map(clamped);
        }
    }
    resized
}

/// - length: of a row, in values
/// - skipped: how many of the source's rows are not among the values
fn vertical(values: &[u8], length: usize, skipped: usize, weights: &Weights) -> Vec<u8> {
    let mut resized = vec![0_u8; weights.spans.len() * length];
    let mut sums = vec![0_i32; length];
    for (target, (first, weights)) in resized.chunks_exact_mut(length).zip(weights.shares()) {
        sums.fill(HALF);
        let rows = values[(first - skipped) * length..].chunks_exact(length);
        for (row, &weight) in rows.zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        for (target, &sum) in target.iter_mut().zip(&sums) {
            *target = clamped(sum);
        }
    }
    resized
}

fn clamped(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

fn nearest<const C: usize>(values: &[u8], [height, width]: [usize; 2], target: [usize; 2]) -> Vec<u8> {
    // Pillow adds up the places, so that they round as it does.
    let places = |from: usize, to: usize| -> Vec<usize> {
        let step = from as f64 / to as f64;
        let mut next = 0.5 * step;
        (0..to)
            .map(|_| {
                let place = next as usize;
                next += step;
                place.min(from - 1)
            })
            .collect()
    };
    let columns = places(width, target[1]);
    let (pixels, _) = values.as_chunks::<C>();
    let mut resized = Vec::with_capacity(target[0] * target[1] * C);
    for row in places(height, target[0]) {
        let row = &pixels[row * width..][..width];
        for &column in &columns {
            resized.extend_from_slice(&row[column]);
        }
    }
    resized
}

fn triangle(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 { 1.0 - x } else { 0.0 }
}

// The terms in Pillow's order.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| {
        let turned = x * PI;
        if x == 0.0 { 1.0 } else { turned.sin() / turned }
    };
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}
