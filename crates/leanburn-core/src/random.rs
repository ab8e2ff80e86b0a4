//! Random draws on the host, from explicit seeds.
//!
//! Burn's `B::seed` is global to the process and its parameters are lazy, so that clones of an untouched module draw
//! different weights. Everything random in leanburn is drawn here instead: the same seed gives the same values on every
//! device, on every platform, and whatever the number of threads.

use burn::tensor::{Tensor, TensorData, backend::Backend};
use rand::{Rng, RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// Streams of a seed that training draws from; those below are a method's own, such as one for each projection.
pub mod streams {
    /// Initial weights.
    pub const INITIAL_WEIGHTS: u64 = 1 << 32;
    /// The order of samples.
    pub const ORDER: u64 = INITIAL_WEIGHTS + 1;
    /// Dropout and other noise of training steps.
    pub const DROPOUT: u64 = INITIAL_WEIGHTS + 2;
}

/// A seeded generator (`ChaCha8`).
#[derive(Debug, Clone)]
pub struct Generator(ChaCha8Rng);

impl Generator {
    /// The generator of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Stream `stream` of `seed`: streams of one seed are independent, and each can be drawn without the others.
    pub fn stream(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    /// The generator of sample `index` in epoch `epoch`, whatever was drawn before.
    pub fn sample(seed: u64, epoch: usize, index: usize) -> Self {
        // An odd factor keeps the epochs of one seed apart, and those of neighbouring seeds.
        let epoch = (epoch as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self::stream(seed ^ epoch, index as u64)
    }

    /// The generator as `rand`'s crates take it.
    pub fn rng(&mut self) -> &mut impl Rng {
        &mut self.0
    }

    /// A whole number in `0..bound`.
    ///
    /// # Panics
    ///
    /// When `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // Drawn as u64: a usize would take other draws on a 32-bit machine.
        self.0.random_range(0..bound as u64) as usize
    }

    /// Whether something of this probability happens.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.0.random::<f64>() < probability
    }

    /// A number from `low` to below `high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.0.random::<f64>()
    }

    /// How many times something of this probability does not happen before it does.
    pub fn gap(&mut self, probability: f64) -> usize {
        // By the inverse of the geometric distribution; the draw is from above 0 to 1.
        let draw = 1.0 - self.0.random::<f64>();
        if probability >= 1.0 { 0 } else { (draw.ln() / (-probability).ln_1p()) as usize }
    }

    /// The numbers `0..count` in random order.
    pub fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        order.shuffle(&mut self.0);
        order
    }

    /// A tensor of draws from `U(low, high)`, of `device`'s default float type.
    pub fn uniform<B: Backend, const D: usize>(
        &mut self,
        shape: [usize; D],
        low: f32,
        high: f32,
        device: &B::Device,
    ) -> Tensor<B, D> {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| low + (high - low) * self.0.random::<f32>()).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// Draws from `N(0, 1)`.
    pub fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.0.sample(StandardNormal)).collect()
    }

    /// A tensor of draws from `N(0, 1)`, of `device`'s default float type.
    pub fn normal<B: Backend, const D: usize>(
        &mut self,
        shape: [usize; D],
        device: &B::Device,
    ) -> Tensor<B, D> {
        let values = self.normals(shape.iter().product());
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_flex::Flex;

    #[test]
    fn the_same_seed_gives_the_same_draws() {
        let device = Default::default();
        let draw = || Generator::stream(7, 3).normal::<Flex, 2>([4, 5], &device).into_data();
        assert_eq!(draw(), draw());
        let other = Generator::stream(7, 4).normal::<Flex, 2>([4, 5], &device).into_data();
        assert_ne!(draw(), other);
    }

    #[test]
    fn draws_have_the_stated_distribution() {
        let device = Default::default();
        let normal = Generator::new(1).normal::<Flex, 1>([40_000], &device);
        assert!(normal.clone().mean().into_scalar().abs() < 0.02);
        assert!((normal.var(0).into_scalar() - 1.0).abs() < 0.03);
        let uniform = Generator::new(1).uniform::<Flex, 1>([40_000], -2.0, 4.0, &device);
        assert!((uniform.clone().mean().into_scalar() - 1.0).abs() < 0.05);
        assert!(uniform.clone().min().into_scalar() >= -2.0 && uniform.max().into_scalar() <= 4.0);
    }

    /// What files hold a seed for must not change with a dependency: a failure here is a change of format.
    #[test]
    fn draws_are_those_of_the_first_release() {
        let device = Default::default();
        let mut generator = Generator::stream(7, 3);
        assert_eq!([10, 1000, 1 << 20].map(|bound| generator.below(bound)), [1, 92, 1_026_561]);
        assert_eq!(generator.permutation(8), [2, 6, 0, 5, 7, 1, 3, 4]);
        let uniform = generator.uniform::<Flex, 1>([3], -1.0, 1.0, &device).into_data();
        assert_eq!(uniform.to_vec::<f32>().unwrap(), [-0.613_417_74, -0.297_567_25, -0.830_925_1]);
        let normal = generator.normal::<Flex, 1>([4], &device).into_data();
        // Logarithms differ by a rounding from platform to platform.
        let expected = [-0.277_061_85, 0.851_936_16, 0.389_739_6, 0.420_193];
        for (found, expected) in normal.to_vec::<f32>().unwrap().iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6_f32, "{found} instead of {expected}");
        }
    }

    #[test]
    fn gaps_have_the_probability() {
        let mut generator = Generator::new(2);
        let passed: usize = (0..20_000).map(|_| generator.gap(0.2)).sum();
        assert!((passed as f64 / 20_000.0 - 4.0).abs() < 0.15, "{passed}");
        assert_eq!((generator.gap(1.0), generator.gap(0.0)), (0, usize::MAX));
        let hits = (0..20_000).filter(|_| generator.chance(0.2)).count();
        assert!((hits as f64 / 20_000.0 - 0.2).abs() < 0.01, "{hits}");
    }

    #[test]
    fn a_permutation_holds_every_number_once() {
        let mut order = Generator::new(5).permutation(100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
