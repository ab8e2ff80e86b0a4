use std::sync::Arc;

use burn::tensor::{Tensor, backend::Backend};
use leanburn_core::{Error, Result, random::Generator, train::Dataset};
use leanburn_vision::{
    train::Samples,
    transform::{Sample, stack},
};

use sha2::{Digest, Sha256};

use crate::{comparison, state::hexadecimal};

/// Training and test images.
#[derive(Debug)]
pub struct ImageSets<D> {
    /// What records say of them.
    pub description: comparison::DataSet,
    /// How training samples are changed at random, in words; `none` where they are not.
    pub augmentation: String,
    /// The training samples.
    pub train: Arc<D>,
    /// The test samples.
    pub test: Arc<D>,
}

impl ImageSets<Samples> {
    /// Samples of which some, drawn at random, are held out to test.
    ///
    /// - test: how many
    ///
    /// # Errors
    ///
    /// When none is left to train on, or none to test.
    pub fn held_out(name: &str, samples: Vec<(Sample, usize)>, test: usize, seed: u64) -> Result<Self> {
        let count = samples.len();
        if test == 0 || test >= count {
            return Err(Error::setting("test", format!("1 to {}", count.saturating_sub(1)), test));
        }
        let mut hash = Sha256::new();
        for (Sample { shape, values }, label) in &samples {
            hash.update(format!("{shape:?} {label}"));
            for value in values {
                hash.update(value.to_le_bytes());
            }
        }
        let order = Generator::new(seed).permutation(count);
        let mut taken: Vec<Option<(Sample, usize)>> = samples.into_iter().map(Some).collect();
        let mut part = |indices: &[usize]| {
            let (samples, labels) = indices.iter().filter_map(|&index| taken[index].take()).unzip();
            Samples::new(samples, labels)
        };
        let (test_set, train_set) = (part(&order[..test])?, part(&order[test..])?);
        let split = format!("{}/{test}, seed {seed}", count - test);
        let mut sets = Self::new(name, &split, "none", train_set, test_set)?;
        sets.description.hash = Some(hexadecimal(&hash.finalize()));
        Ok(sets)
    }
}

impl<D: Dataset<Item = (Sample, usize)>> ImageSets<D> {
    /// - name, split: what records say of them
    ///
    /// # Errors
    ///
    /// When there is no training or no test sample.
    pub fn new(name: &str, split: &str, augmentation: &str, train: D, test: D) -> Result<Self> {
        for (part, samples) in [("training samples", train.len()), ("test samples", test.len())] {
            if samples == 0 {
                return Err(Error::data(part, "at least one", "none"));
            }
        }
        let description =
            comparison::DataSet { name: Some(name.to_owned()), split: Some(split.to_owned()), hash: None };
        let augmentation = augmentation.to_owned();
        Ok(Self { description, augmentation, train: Arc::new(train), test: Arc::new(test) })
    }

    /// Channels, height and width.
    ///
    /// # Errors
    ///
    /// When the first training sample cannot be read.
    pub fn shape(&self) -> Result<[usize; 3]> {
        Ok(self.train.get(0, &mut Generator::new(0))?.0.shape)
    }

    /// The first `count` test images, fewer where there are not as many.
    ///
    /// - output: `[count, channels, height, width]`
    ///
    /// # Errors
    ///
    /// When a sample cannot be read.
    pub fn test_images<B: Backend>(&self, count: usize, device: &B::Device) -> Result<Tensor<B, 4>> {
        let count = count.min(self.test.len());
        let samples = (0..count).map(|index| Ok(self.test.get(index, &mut Generator::new(0))?.0));
        stack(&samples.collect::<Result<Vec<Sample>>>()?, device)
    }
}
