use burn::tensor::{Tensor, TensorData, backend::Backend};

use super::config::{LlamaConfig, RopeScaling};

/// Inverse frequencies of the rotary embedding (Su et al., 2021): `head_dim / 2` of them.
///
/// - length: of the sequence, on which the dynamic scaling depends
pub fn inverse_frequencies(config: &LlamaConfig, length: usize) -> Vec<f32> {
    let width = config.head_dim();
    let plain = |theta: f64| (0..width / 2).map(move |place| theta.powf(-2.0 * place as f64 / width as f64));
    let inverse = plain(config.rope_theta);
    let scaled: Vec<f64> = match config.rope_scaling {
        None => inverse.collect(),
        Some(RopeScaling::Linear { factor }) => inverse.map(|inverse| inverse / factor).collect(),
        Some(RopeScaling::Dynamic { factor }) => {
            let longest = config.max_position_embeddings;
            let stretched = factor * length.max(longest) as f64 / longest as f64 - (factor - 1.0);
            let power = width as f64 / (width as f64 - 2.0);
            plain(config.rope_theta * stretched.powf(power)).collect()
        }
        Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        }) => {
            let original = original_max_position_embeddings as f64;
            let scaled = inverse.map(|inverse| {
                let wave = std::f64::consts::TAU / inverse;
                if wave < original / high_freq_factor {
                    inverse
                } else if wave > original / low_freq_factor {
                    inverse / factor
                } else {
                    let kept = (original / wave - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - kept) * inverse / factor + kept * inverse
                }
            });
            scaled.collect()
        }
    };
    scaled.into_iter().map(|inverse| inverse as f32).collect()
}

/// The cosines and sines by which queries and keys are turned, laid out as these are: to multiply rows that lie side by side is
/// many times faster than to repeat values along dimensions in the middle.
#[derive(Debug, Clone)]
pub(crate) struct Rotary<B: Backend> {
    /// `[1, length * heads * head_dim]`, or with a row for each of the batch; the heads are those of the queries and of the keys.
    cosines: Tensor<B, 2>,
    /// The first half of each head has the other sign.
    sines: Tensor<B, 2>,
}

impl<B: Backend> Rotary<B> {
    /// - positions: of each row, or one row for all
    /// - length: of the whole sequences
    pub(crate) fn new(
        config: &LlamaConfig,
        positions: &[Vec<usize>],
        length: usize,
        device: &B::Device,
    ) -> Self {
        let inverse = inverse_frequencies(config, length);
        let heads = config.num_attention_heads + config.key_value_heads();
        let shape = [positions.len(), positions[0].len() * heads * 2 * inverse.len()];
        let table = |of_angle: fn(f32) -> [f32; 2]| -> Tensor<B, 2> {
            let mut values = Vec::with_capacity(shape.iter().product());
            for &position in positions.iter().flatten() {
                let pairs = inverse.iter().map(|inverse| of_angle(position as f32 * inverse));
                let (low, high): (Vec<f32>, Vec<f32>) = pairs.map(|[low, high]| (low, high)).unzip();
                let head = [low, high].concat();
                (0..heads).for_each(|_| values.extend_from_slice(&head));
            }
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        Self { cosines: table(|angle| [angle.cos(); 2]), sines: table(|angle| [-angle.sin(), angle.sin()]) }
    }

    /// Turns heads by their positions, each as two halves.
    ///
    /// - x: `[batch, length, heads, head_dim]`, the heads of the queries and of the keys
    pub(crate) fn rotate(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [batch, length, heads, width] = x.dims();
        let (half, dtype) = (width / 2, x.dtype());
        let swapped = Tensor::cat(vec![x.clone().narrow(3, half, half), x.clone().narrow(3, 0, half)], 3);
        let rows = |x: Tensor<B, 4>| x.reshape([batch, length * heads * width]);
        let turned =
            rows(x) * self.cosines.clone().cast(dtype) + rows(swapped) * self.sines.clone().cast(dtype);
        turned.reshape([batch, length, heads, width])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_flex::Flex;
    use leanburn_core::random::Generator;

    fn config() -> LlamaConfig {
        LlamaConfig { max_position_embeddings: 32, ..LlamaConfig::new(32, 16, 24, 2, 2) }
    }

    #[test]
    fn scalings_are_the_published_ones() {
        let plain = inverse_frequencies(&config(), 64);
        assert_eq!(plain[0], 1.0);
        let linear = config().with_rope_scaling(Some(RopeScaling::Linear { factor: 4.0 }));
        let scaled = inverse_frequencies(&linear, 64);
        assert!(plain.iter().zip(&scaled).all(|(plain, scaled)| (plain / 4.0 - scaled).abs() < 1e-9));
        let dynamic = config().with_rope_scaling(Some(RopeScaling::Dynamic { factor: 2.0 }));
        assert_eq!(inverse_frequencies(&dynamic, 32), plain);
        // At twice the length the base is multiplied by (2 * 2 - 1)^(8 / 6).
        let base = 10_000.0 * 3.0_f64.powf(8.0 / 6.0);
        let expected = base.powf(-0.25) as f32;
        assert!((inverse_frequencies(&dynamic, 64)[1] / expected - 1.0).abs() < 1e-6);
    }

    #[test]
    fn products_depend_on_the_distance_alone() {
        let device = Default::default();
        let mut generator = Generator::new(1);
        // Two query heads and two key heads.
        let [query, key] = [(); 2].map(|()| generator.normal::<Flex, 4>([1, 1, 4, 8], &device));
        let product = |at: usize, other: usize| {
            let turned = |x: &Tensor<Flex, 4>, position: usize| {
                Rotary::new(&config(), &[vec![position]], 16, &device).rotate(x.clone())
            };
            (turned(&query, at) * turned(&key, other)).sum().into_scalar()
        };
        assert!((product(7, 3) - product(11, 7)).abs() < 1e-4);
        assert!((product(7, 3) - product(7, 4)).abs() > 1e-3);
    }
}
