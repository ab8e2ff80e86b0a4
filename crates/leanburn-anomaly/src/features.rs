//! Features for detectors, from samples that are no tables.

use leanburn_core::{Result, table::Table};

/// Turns samples (images, clips, documents) into the feature rows that a detector is fitted on.
pub trait FeatureExtractor {
    /// One sample.
    type Sample;

    /// Number of features of a sample.
    fn width(&self) -> usize;

    /// How many samples are extracted together.
    fn batch_size(&self) -> usize;

    /// The features of one batch, [`width`](Self::width) numbers a sample, sample by sample.
    ///
    /// # Errors
    ///
    /// When a sample cannot be used.
    fn extract(&self, batch: &[Self::Sample]) -> Result<Vec<f32>>;

    /// The features of all samples, one row a sample.
    ///
    /// # Errors
    ///
    /// As [`extract`](Self::extract), and when there is no sample or a feature is not finite.
    fn table(&self, samples: &[Self::Sample]) -> Result<Table> {
        let mut values = Vec::with_capacity(samples.len() * self.width());
        for batch in samples.chunks(self.batch_size()) {
            values.extend(self.extract(batch)?.into_iter().map(f64::from));
        }
        Table::new(values, self.width())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lengths;

    impl FeatureExtractor for Lengths {
        type Sample = &'static str;

        fn width(&self) -> usize {
            2
        }

        fn batch_size(&self) -> usize {
            2
        }

        fn extract(&self, batch: &[&'static str]) -> Result<Vec<f32>> {
            assert!(batch.len() <= 2);
            Ok(batch.iter().flat_map(|text| [text.len() as f32, 1.0]).collect())
        }
    }

    #[test]
    fn rows_follow_the_samples() {
        let table = Lengths.table(&["a", "bb", "ccc"]).unwrap();
        assert_eq!(table.values(), [1.0, 1.0, 2.0, 1.0, 3.0, 1.0]);
        assert!(Lengths.table(&[]).is_err());
    }
}
