//! The temporal shift (TSM: Lin, Gan and Han, 2019).

use burn::tensor::{Tensor, backend::Backend};

/// Moves part of the channels along time: of each video, channels `0..fold` of a frame become those of the frame after
/// it, channels `fold..2 fold` those of the frame before it, with zeros at the ends. The others stay.
///
/// - x: `[videos * frames, channels, height, width]`, the frames of a video one behind the other
/// - frames: of each video
/// - fold: channels that go in each direction
///
/// # Panics
///
/// When the first dimension is no multiple of `frames`, or `2 fold` is more than the channels.
pub fn temporal_shift<B: Backend>(x: Tensor<B, 4>, frames: usize, fold: usize) -> Tensor<B, 4> {
    let [count, channels, height, width] = x.dims();
    assert!(count.is_multiple_of(frames), "{count} frames are no multiple of {frames}");
    if fold == 0 {
        return x;
    }
    let area = height * width;
    let (device, dtype) = (x.device(), x.dtype());
    // A frame's channels lie side by side, so that all copies are long ones.
    let clips = x.reshape([count / frames, frames, channels * area]);
    let part = |from: usize, to: usize| clips.clone().narrow(2, from * area, (to - from) * area);
    let zeros = Tensor::zeros([count / frames, 1, fold * area], (&device, dtype));
    let (ahead, behind) = (part(0, fold), part(fold, 2 * fold));
    let mut parts = if frames == 1 {
        vec![zeros.clone(), zeros]
    } else {
        vec![
            Tensor::cat(vec![ahead.narrow(1, 1, frames - 1), zeros.clone()], 1),
            Tensor::cat(vec![zeros, behind.narrow(1, 0, frames - 1)], 1),
        ]
    };
    if 2 * fold < channels {
        parts.push(part(2 * fold, channels));
    }
    Tensor::cat(parts, 2).reshape([count, channels, height, width])
}

/// The maximum over three neighbouring frames at every second one (TSM's temporal pooling).
///
/// - x: `[videos * frames, channels, height, width]`
/// - output: `[videos * ceil(frames / 2), channels, height, width]`
///
/// # Panics
///
/// When the first dimension is no multiple of `frames`.
pub fn temporal_max_pool<B: Backend>(x: Tensor<B, 4>, frames: usize) -> Tensor<B, 4> {
    let [count, channels, height, width] = x.dims();
    assert!(count.is_multiple_of(frames), "{count} frames are no multiple of {frames}");
    let clips = x.reshape([count / frames, frames, channels * height * width]);
    let kept = frames.div_ceil(2);
    let pooled = (0..kept).map(|place| {
        let first = (2 * place).saturating_sub(1);
        let last = (2 * place + 1).min(frames - 1);
        clips.clone().narrow(1, first, last + 1 - first).max_dim(1)
    });
    Tensor::cat(pooled.collect(), 1).reshape([count / frames * kept, channels, height, width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Autodiff;
    use burn_flex::Flex;
    use leanburn_core::random::Generator;

    /// `<Sx, y> = <x, S'y>`, where the gradient of `<Sx, y>` is `S'y`.
    #[test]
    fn the_gradient_is_the_adjoint() {
        let device = Default::default();
        let mut generator = Generator::new(1);
        let x: Tensor<Autodiff<Flex>, 4> = generator.normal([6, 9, 2, 3], &device);
        let x = x.require_grad();
        let y: Tensor<Autodiff<Flex>, 4> = generator.normal([6, 9, 2, 3], &device);
        let product = (temporal_shift(x.clone(), 3, 2) * y).sum();
        let gradients = product.backward();
        let adjoint = x.grad(&gradients).unwrap();
        let other = (x.inner() * adjoint).sum().into_scalar();
        assert!((product.inner().into_scalar() - other).abs() < 1e-4);
    }

    #[test]
    fn one_frame_loses_what_is_shifted_and_nothing_else_changes() {
        let device = Default::default();
        let x: Tensor<Flex, 4> = Generator::new(2).normal([2, 5, 2, 2], &device);
        let shifted = temporal_shift(x.clone(), 1, 2);
        assert_eq!(shifted.clone().narrow(1, 0, 4).abs().max().into_scalar(), 0.0);
        assert_eq!(shifted.narrow(1, 4, 1).into_data(), x.clone().narrow(1, 4, 1).into_data());
        let still = temporal_shift(x.clone(), 2, 2).narrow(1, 4, 1);
        assert_eq!(still.into_data(), x.clone().narrow(1, 4, 1).into_data());
        assert_eq!(temporal_shift(x.clone(), 2, 0).into_data(), x.into_data());
    }
}
