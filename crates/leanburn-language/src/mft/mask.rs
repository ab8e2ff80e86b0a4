use burn::tensor::{Bool, Tensor, TensorData, backend::Backend};
use rayon::prelude::*;

/// Which entries of a matrix are kept: a bit each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    shape: [usize; 2],
    /// From the lowest bit of the first byte on, row by row; 1 where an entry is kept.
    bits: Vec<u8>,
}

impl Mask {
    /// A mask without the entries whose amounts are smallest.
    ///
    /// [So many](removed_count) are removed. Among equal amounts those that come first are removed first, so that a mask is
    /// one function of the values; the published sort leaves it open.
    ///
    /// - values: of all entries, row by row
    /// - keep: the share that is kept, from 0 to 1
    ///
    /// # Panics
    ///
    /// When there are not as many values as the shape has entries.
    pub fn largest(values: &[f32], shape: [usize; 2], keep: f64) -> Self {
        assert_eq!(values.len(), shape[0] * shape[1], "values of shape {shape:?}");
        let removed = removed_count(values.len(), keep);
        let Some((threshold, last)) = cut(values, removed) else { return Self::new(shape, |_| true) };
        Self::new(shape, |place| {
            let key = key(values[place]);
            key > threshold || (key == threshold && place > last)
        })
    }

    /// A mask without the entries whose values are below a threshold.
    ///
    /// # Panics
    ///
    /// When there are not as many values as the shape has entries.
    pub fn above(values: &[f32], shape: [usize; 2], threshold: f64) -> Self {
        assert_eq!(values.len(), shape[0] * shape[1], "values of shape {shape:?}");
        // Compared as PyTorch does, in the values' own precision.
        let threshold = threshold as f32;
        Self::new(shape, |place| values[place] >= threshold || values[place].is_nan())
    }

    /// A mask by a rule for each entry, counted row by row.
    pub fn new(shape: [usize; 2], keeps: impl Fn(usize) -> bool + Sync) -> Self {
        let entries = shape[0] * shape[1];
        let byte = |start: usize| {
            let places = start..(start + 8).min(entries);
            places.fold(0, |byte, place| byte | (u8::from(keeps(place)) << (place - start)))
        };
        let bits = (0..entries.div_ceil(8)).into_par_iter().with_min_len(4096).map(|place| byte(8 * place));
        Self { shape, bits: bits.collect() }
    }

    /// The mask of its bits; `None` when they are not those of the shape.
    pub(super) fn from_bits(shape: [usize; 2], bits: Vec<u8>) -> Option<Self> {
        let entries = shape[0].checked_mul(shape[1])?;
        let spare = 8 * entries.div_ceil(8) - entries;
        let clean = bits.last().is_none_or(|last| spare == 0 || last >> (8 - spare) == 0);
        (bits.len() == entries.div_ceil(8) && clean).then_some(Self { shape, bits })
    }

    pub(super) fn bits(&self) -> &[u8] {
        &self.bits
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// How many entries there are.
    pub fn entries(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Whether an entry is kept, counted row by row.
    pub fn keeps(&self, place: usize) -> bool {
        self.bits[place / 8] >> (place % 8) & 1 == 1
    }

    /// How many entries are kept.
    pub fn kept(&self) -> usize {
        self.bits.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// In how many entries two masks of one shape differ.
    ///
    /// # Panics
    ///
    /// When their shapes differ.
    pub fn differing(&self, other: &Self) -> usize {
        assert_eq!(self.shape, other.shape, "masks of one matrix");
        let pairs = self.bits.iter().zip(&other.bits);
        pairs.map(|(a, b)| (a ^ b).count_ones() as usize).sum()
    }

    /// A matrix with zeros where the mask keeps nothing.
    ///
    /// # Panics
    ///
    /// When its shape is another.
    pub fn apply<B: Backend>(&self, matrix: Tensor<B, 2>) -> Tensor<B, 2> {
        assert_eq!(matrix.dims(), self.shape, "the matrix of the mask");
        let removed: Vec<bool> = (0..self.entries())
            .into_par_iter()
            .with_min_len(1 << 16)
            .map(|place| !self.keeps(place))
            .collect();
        let removed: Tensor<B, 2, Bool> =
            Tensor::from_data(TensorData::new(removed, self.shape), &matrix.device());
        matrix.mask_fill(removed, 0.0)
    }
}

/// How many of a matrix's entries a keep ratio removes: `trunc((1 - keep) * entries)`, in float64.
pub fn removed_count(entries: usize, keep: f64) -> usize {
    (((1.0 - keep) * entries as f64) as usize).min(entries)
}

/// The amount of a value as a number that is larger for larger amounts.
fn key(value: f32) -> u32 {
    value.abs().to_bits()
}

/// The key up to which entries are removed, and the last place at which one of just that key is; `None` when none is. Found
/// by counting keys, first by their upper halves and then, of one of these, by their lower halves, since a sort would cost
/// several times as much.
fn cut(values: &[f32], removed: usize) -> Option<(u32, usize)> {
    if removed == 0 {
        return None;
    }
    let counts = |bin: &(dyn Fn(u32) -> Option<u16> + Sync)| -> Vec<usize> {
        let chunks = values.par_chunks(1 << 18).map(|chunk| {
            let mut counts = vec![0_usize; 1 << 16];
            for &value in chunk {
                if let Some(bin) = bin(key(value)) {
                    counts[usize::from(bin)] += 1;
                }
            }
            counts
        });
        let sum = |mut a: Vec<usize>, b: Vec<usize>| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            a
        };
        chunks.reduce(|| vec![0; 1 << 16], sum)
    };
    // The bin in which the last of `wanted` entries lies, and how many of its own are wanted.
    let locate = |counts: &[usize], wanted: usize| {
        let mut before = 0;
        let bin = counts.iter().position(|count| {
            before += count;
            before >= wanted
        });
        let bin = bin.expect("no more are wanted than there are");
        (bin as u16, wanted - (before - counts[usize::from(bin as u16)]))
    };
    let (upper, wanted) = locate(&counts(&|key| Some((key >> 16) as u16)), removed);
    let lower_half = |key: u32| ((key >> 16) as u16 == upper).then_some(key as u16);
    let (lower, wanted) = locate(&counts(&lower_half), wanted);
    let threshold = u32::from(upper) << 16 | u32::from(lower);
    let mut equal = values.iter().enumerate().filter(|(_, value)| key(**value) == threshold);
    let (last, _) = equal.nth(wanted - 1).expect("so many are equal");
    Some((threshold, last))
}

#[cfg(test)]
mod tests {
    use burn_flex::Flex;
    use leanburn_core::random::Generator;
    use proptest::prelude::*;

    use super::*;

    fn sorted(values: &[f32], keep: f64) -> Vec<bool> {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs()));
        let mut keeps = vec![true; values.len()];
        for &place in &order[..removed_count(values.len(), keep)] {
            keeps[place] = false;
        }
        keeps
    }

    proptest! {
        #[test]
        fn counting_gives_what_a_stable_sort_gives(
            values in proptest::collection::vec(prop_oneof![-1e3_f32..1e3, Just(0.0), Just(-0.0), Just(0.5)], 1..300),
            keep in 0.0_f64..=1.0,
        ) {
            let mask = Mask::largest(&values, [1, values.len()], keep);
            let found: Vec<bool> = (0..values.len()).map(|place| mask.keeps(place)).collect();
            prop_assert_eq!(found, sorted(&values, keep));
        }
    }

    #[test]
    fn large_matrices_are_cut_exactly() {
        let values = Generator::new(1).normals(700_001);
        let mask = Mask::largest(&values, [1, 700_001], 0.9);
        assert_eq!(mask.kept(), 700_001 - removed_count(700_001, 0.9));
        let expected = sorted(&values, 0.9);
        assert!((0..values.len()).all(|place| mask.keeps(place) == expected[place]));
    }

    #[test]
    fn counts_are_truncated_as_published() {
        assert_eq!([100, 1000, 10].map(|entries| removed_count(entries, 0.9)), [9, 99, 0]);
        assert_eq!((removed_count(7, 1.0), removed_count(7, 0.0)), (0, 7));
        let all = Mask::largest(&[0.0, 1.0, 0.0], [1, 3], 1.0);
        assert_eq!(all.kept(), 3);
        assert_eq!(Mask::largest(&[0.0, 1.0, 0.0], [1, 3], 0.0).kept(), 0);
    }

    #[test]
    fn masks_are_applied() {
        let mask = Mask::above(&[0.1, -2.0, 0.3, 0.3, 5.0, f32::NAN], [2, 3], 0.3);
        let matrix = Tensor::<Flex, 2>::ones([2, 3], &Default::default());
        let masked: Vec<f32> = mask.apply(matrix).into_data().iter().collect();
        assert_eq!(masked, [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(mask.differing(&Mask::new([2, 3], |_| true)), 2);
        assert!(Mask::from_bits([2, 3], vec![0b0011_1100]).is_some());
        assert!(Mask::from_bits([2, 3], vec![0b0111_1100]).is_none());
        assert!(Mask::from_bits([2, 5], vec![0]).is_none());
    }
}
