//! Numbers from a name and a seed, the same in every language: the reference values that methods are checked against are
//! stored without their inputs, which this recipe makes again.
//!
//! A value is `lo + (hi - lo) u`, computed in `f64`, where `u` in [0, 1) is the top 24 bits of `SplitMix64` (Steele, Lea
//! and Flood, 2014), started from the FNV-1a hash of the name and from the seed. Tensors are filled row by row.
//!
//! ```
//! use leanburn_datasets::recipe;
//!
//! let weights = recipe::real("layer.weight", 2 * 3, -0.5, 0.5, 7);
//! assert_eq!(weights[0], -0.437_163_4);
//! ```

/// The step of `SplitMix64`, 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The 64-bit FNV-1a hash of a text's UTF-8 bytes.
pub fn fnv1a64(text: &str) -> u64 {
    text.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// `count` numbers in [`lo`, `hi`), each rounded once to `f32`, which can give `hi` itself.
pub fn real(name: &str, count: usize, lo: f64, hi: f64, seed: u64) -> Vec<f32> {
    unit(name, seed).take(count).map(|u| (lo + (hi - lo) * u) as f32).collect()
}

/// `count` whole numbers in [`lo`, `hi`).
pub fn integer(name: &str, count: usize, lo: i64, hi: i64, seed: u64) -> Vec<i64> {
    // In 128 bits, where no range overflows.
    let range = (i128::from(hi) - i128::from(lo)) as f64;
    unit(name, seed).take(count).map(|u| (lo as f64 + (u * range).floor()) as i64).collect()
}

/// Endless numbers in [0, 1), each a multiple of 2^-24.
fn unit(name: &str, seed: u64) -> impl Iterator<Item = f64> {
    let mut state = fnv1a64(name) ^ seed.wrapping_mul(GOLDEN);
    std::iter::repeat_with(move || {
        state = state.wrapping_add(GOLDEN);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f64 / f64::from(1 << 24)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        assert_eq!(fnv1a64("layer.weight"), 11_146_089_747_359_317_864);
        assert_eq!(
            real("layer.weight", 6, -0.5, 0.5, 7),
            [
                -0.437_163_412_570_953_37_f64,
                -0.160_083_532_333_374_02,
                0.348_077_893_257_141_1,
                0.499_474_704_265_594_5,
                -0.150_493_323_802_948,
                0.425_760_805_606_842_04,
            ]
            .map(|value| value as f32)
        );
        assert_eq!(integer("labels", 6, 0, 10, 7), [4, 9, 3, 8, 2, 7]);
    }

    #[test]
    fn huge_seeds_and_ranges() {
        let values = integer("x", 100, i64::MIN, i64::MAX, u64::MAX);
        assert!(values.iter().any(|&v| v < 0) && values.iter().any(|&v| v > 0));
        assert!(real("x", 0, 0.0, 1.0, u64::MAX).is_empty());
    }
}
