//! Features for detectors, from samples that are no tables.

use leanburn_core::{Error, Result, table::Table};

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
    /// As [`extract`](Self::extract), and when there is no sample, a feature is not finite, or `extract` gives another
    /// number of features than [`width`](Self::width) says.
    fn table(&self, samples: &[Self::Sample]) -> Result<Table> {
        let mut values = Vec::with_capacity(samples.len() * self.width());
        for batch in samples.chunks(self.batch_size()) {
            let features = self.extract(batch)?;
            if features.len() != batch.len() * self.width() {
                return Err(Error::data(
                    format!("features of {} samples", batch.len()),
                    format!("{} a sample", self.width()),
                    format!("{} in all", features.len()),
                ));
            }
            values.extend(features.into_iter().map(f64::from));
        }
        Table::new(values, self.width())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The length of a text, and 1; but of an empty text nothing.
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
            let texts = batch.iter().filter(|text| !text.is_empty());
            Ok(texts.flat_map(|text| [text.len() as f32, 1.0]).collect())
        }
    }

    #[test]
    fn rows_follow_the_samples() {
        let table = Lengths.table(&["a", "bb", "ccc"]).unwrap();
        assert_eq!(table.values(), [1.0, 1.0, 2.0, 1.0, 3.0, 1.0]);
        assert!(Lengths.table(&[]).is_err());
        let error = Lengths.table(&["a", "bb", "", "ccc"]).unwrap_err().to_string();
        assert_eq!(error, "features of 2 samples: expected 2 a sample, found 2 in all");
    }
}
