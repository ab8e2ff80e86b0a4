//! NumPy's legacy random numbers, for results of programs that drew from them.

use rand_mt::Mt;

/// `numpy.random.RandomState(seed).permutation(count)`.
pub(crate) fn permutation(seed: u32, count: usize) -> Vec<usize> {
    let mut generator = Mt::new(seed);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        // Draws are masked to the bits of `last`, and drawn again when they are larger.
        let mask = u32::MAX >> (last as u32).leading_zeros();
        let mut others = std::iter::repeat_with(|| (generator.next_u32() & mask) as usize);
        let other = others.find(|&other| other <= last).expect("draws do not end");
        order.swap(last, other);
    }
    order
}

#[cfg(test)]
mod tests {
    #[test]
    fn permutations_are_numpys() {
        assert_eq!(super::permutation(42, 10), [8, 1, 5, 0, 7, 2, 9, 4, 3, 6]);
        assert_eq!(super::permutation(0, 5), [2, 0, 1, 3, 4]);
    }
}
