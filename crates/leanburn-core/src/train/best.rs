use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::{
    module::{AutodiffModule, Module},
    tensor::backend::{AutodiffBackend, Backend},
};

use super::{EpochReport, Hook};
use crate::{
    Error, Result,
    checkpoint::{self, Checkpoint},
};

const FILE: &str = "best.safetensors";

/// A hook that keeps the weights of the epoch in whose validation a metric was lowest, in `best.safetensors` of the run's
/// folder. It is the model's own weights that are kept, so that it is not for trainings with a moving average.
#[derive(Debug, Clone)]
pub struct BestEpoch {
    folder: PathBuf,
    metric: String,
    /// The lowest value so far.
    best: Option<f64>,
}

impl BestEpoch {
    /// - folder: the run's
    /// - metric: its name
    pub fn new(folder: impl Into<PathBuf>, metric: impl Into<String>) -> Self {
        Self { folder: folder.into(), metric: metric.into(), best: None }
    }

    /// A model with the weights that a training kept in its folder, and the epoch that they are of, counted from 1.
    ///
    /// # Errors
    ///
    /// When there are none, or they are another model's.
    pub fn load<B: Backend, M: Module<B>>(folder: &Path, model: M) -> Result<(M, usize)> {
        let file = folder.join(FILE);
        let checkpoint = Checkpoint::open(&file)?;
        let epoch = checkpoint.metadata("epoch").and_then(|epoch| epoch.parse().ok());
        let epoch = epoch.ok_or_else(|| Error::format(&file, "`epoch`", "a number", "none"))?;
        Ok((checkpoint.load_into(model, str::to_owned)?, epoch))
    }
}

impl<B: AutodiffBackend, M: AutodiffModule<B>> Hook<B, M> for BestEpoch {
    fn epoch_ended(&mut self, report: &EpochReport, model: &M) -> Result<()> {
        let of = |measured: &&super::Measured| measured.split == "valid" && measured.metric == self.metric;
        let Some(measured) = report.measured.iter().find(of) else {
            return Err(Error::data(
                "validation",
                format!("the metric `{}`", self.metric),
                "none of its name",
            ));
        };
        let found = measured.value;
        if self.best.is_some_and(|best| found.is_nan() || found >= best) {
            return Ok(());
        }
        // Under another name first, so that the file is the one before or the new one.
        let (file, new) = (self.folder.join(FILE), self.folder.join("best-new.safetensors"));
        if new.exists() {
            fs::remove_file(&new).map_err(Error::io(&new))?;
        }
        let epoch = ("epoch".to_owned(), report.epoch.to_string());
        checkpoint::save_with(model, &new, str::to_owned, [epoch])?;
        fs::rename(&new, &file).map_err(Error::io(&file))?;
        self.best = Some(found);
        Ok(())
    }

    fn state(&self) -> serde_json::Value {
        serde_json::to_value(self.best).expect("numbers are JSON")
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<()> {
        self.best = serde_json::from_value(state)
            .map_err(|error| Error::data("state of the best epoch", "a number, or none", error))?;
        Ok(())
    }
}
