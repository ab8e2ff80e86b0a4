use burn::tensor::{Bool, Tensor, TensorData, backend::Backend};

/// Which sequence each token of a batch belongs to, and where it stands in it.
///
/// A token sees those of its own sequence up to itself. A row holds one sequence, behind padding or before it, or several
/// one behind the other (packing).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequences {
    /// By row and column, counted from 1; 0 of padding.
    numbers: Vec<Vec<usize>>,
}

impl Sequences {
    /// Rows of one sequence each, without padding.
    pub fn whole(rows: usize, length: usize) -> Self {
        Self { numbers: vec![vec![1; length]; rows] }
    }

    /// Rows of one sequence each, and padding behind it.
    ///
    /// - lengths: of the sequences, each at most `length`
    pub fn right_padded(lengths: &[usize], length: usize) -> Self {
        let row = |&filled: &usize| (0..length).map(|column| usize::from(column < filled)).collect();
        Self { numbers: lengths.iter().map(row).collect() }
    }

    /// Rows of one sequence each, and padding before it, as for generation.
    ///
    /// - lengths: of the sequences, each at most `length`
    pub fn left_padded(lengths: &[usize], length: usize) -> Self {
        let row =
            |&filled: &usize| (0..length).map(|column| usize::from(column + filled >= length)).collect();
        Self { numbers: lengths.iter().map(row).collect() }
    }

    /// Rows of several sequences, and padding behind them.
    ///
    /// - lengths: of the sequences of each row, together at most `length`
    pub fn packed(lengths: &[Vec<usize>], length: usize) -> Self {
        let row = |lengths: &Vec<usize>| {
            let numbers = (1..).zip(lengths);
            let mut row: Vec<usize> =
                numbers.flat_map(|(number, &count)| std::iter::repeat_n(number, count)).collect();
            row.resize(length, 0);
            row
        };
        Self { numbers: lengths.iter().map(row).collect() }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.numbers.len()
    }

    /// Columns.
    pub fn length(&self) -> usize {
        self.numbers.first().map_or(0, Vec::len)
    }

    /// The length of the longest sequence.
    pub(crate) fn longest(&self) -> usize {
        let of_row = |numbers: &Vec<usize>| {
            let sequences = numbers.chunk_by(|a, b| a == b).filter(|sequence| sequence[0] > 0);
            sequences.map(<[usize]>::len).max().unwrap_or(0)
        };
        self.numbers.iter().map(of_row).max().unwrap_or(0)
    }

    /// One more token at the end of each row.
    pub(crate) fn grow(&mut self) {
        for row in &mut self.numbers {
            row.push(1);
        }
    }

    /// The rows that are kept, in their order.
    pub(crate) fn keep(&mut self, rows: &[usize]) {
        self.numbers = rows.iter().map(|&row| self.numbers[row].clone()).collect();
    }

    /// Positions in their sequences of the columns from `first` on; padding stands at 0. One row where all are equal.
    pub(crate) fn positions(&self, first: usize) -> Vec<Vec<usize>> {
        let row = |numbers: &Vec<usize>| {
            let mut start = 0;
            let mut positions = Vec::with_capacity(numbers.len());
            for (column, &number) in numbers.iter().enumerate() {
                if column > 0 && number != numbers[column - 1] {
                    start = column;
                }
                positions.push(if number == 0 { 0 } else { column - start });
            }
            positions.split_off(first)
        };
        // Where padding stands behind, its positions do not matter.
        if self.numbers.iter().all(|numbers| is_plain(numbers)) {
            return vec![(first..self.length()).collect()];
        }
        let mut rows: Vec<_> = self.numbers.iter().map(row).collect();
        if rows.iter().all(|row| *row == rows[0]) {
            rows.truncate(1);
        }
        rows
    }

    /// What the columns from `first` on may not see: `true` at `[row, 1, column, key]`; `None` where it is no more than
    /// what comes after each.
    pub(crate) fn hidden<B: Backend>(&self, first: usize, device: &B::Device) -> Option<Tensor<B, 4, Bool>> {
        if self.numbers.iter().all(|numbers| is_plain(numbers)) {
            return None;
        }
        let (rows, length) = (self.rows(), self.length());
        let mut hidden = Vec::with_capacity(rows * (length - first) * length);
        for numbers in &self.numbers {
            for column in first..length {
                hidden.extend((0..length).map(|key| key > column || numbers[key] != numbers[column]));
            }
        }
        let shape = [rows, 1, length - first, length];
        Some(Tensor::from_data(TensorData::new(hidden, shape), device))
    }
}

/// Whether a row is one sequence from its start on: then nothing that counts sees what it should not.
fn is_plain(numbers: &[usize]) -> bool {
    let filled = numbers.iter().take_while(|number| **number == 1).count();
    numbers[filled..].iter().all(|number| *number == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_flex::Flex;

    #[test]
    fn positions_count_within_sequences() {
        assert_eq!(Sequences::whole(2, 3).positions(1), [[1, 2]]);
        assert_eq!(Sequences::right_padded(&[2, 3], 3).positions(0), [[0, 1, 2]]);
        assert_eq!(Sequences::left_padded(&[2, 3], 3).positions(0), [[0, 0, 1], [0, 1, 2]]);
        assert_eq!(Sequences::packed(&[vec![2, 3]], 6).positions(0), [[0, 1, 0, 1, 2, 0]]);
        assert_eq!(Sequences::packed(&[vec![2, 3]], 6).longest(), 3);
        assert_eq!(Sequences::left_padded(&[2, 4], 5).longest(), 4);
    }

    #[test]
    fn tokens_see_their_own_sequence_alone() {
        let device = Default::default();
        let seen = |sequences: Sequences, first: usize| {
            let hidden = sequences.hidden::<Flex>(first, &device)?;
            Some(hidden.bool_not().int().into_data().iter::<i64>().collect::<Vec<_>>())
        };
        assert_eq!(seen(Sequences::right_padded(&[2, 3], 3), 0), None);
        assert_eq!(seen(Sequences::left_padded(&[2], 3), 1).unwrap(), [0, 1, 0, 0, 1, 1]);
        let packed = seen(Sequences::packed(&[vec![1, 2]], 3), 0).unwrap();
        assert_eq!(packed, [1, 0, 0, 0, 1, 0, 0, 1, 1]);
    }
}
