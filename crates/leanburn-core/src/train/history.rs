use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use burn::train::{
    logger::MetricLogger,
    metric::{
        MetricDefinition, MetricId, NumericEntry,
        store::{EpochSummary, MetricsUpdate, Split},
    },
};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A metric's mean over an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The epoch, counted from 1.
    pub epoch: usize,
    /// `train` or `valid`.
    pub split: String,
    /// The metric's name.
    pub metric: String,
    /// Its mean over the samples.
    pub value: f64,
    /// Over how many samples.
    pub count: usize,
}

/// The means of all numeric metrics over all epochs.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    names: HashMap<MetricId, String>,
    /// By epoch, split and name.
    sums: BTreeMap<(usize, String, String), (f64, usize)>,
    ended: Vec<(usize, String)>,
}

impl History {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All means, by epoch, split and name.
    pub fn measured(&self) -> Vec<Measured> {
        let state = self.state();
        let measured = state.sums.iter().map(|((epoch, split, metric), &(sum, count))| Measured {
            epoch: *epoch,
            split: split.clone(),
            metric: metric.clone(),
            value: sum / count as f64,
            count,
        });
        measured.collect()
    }

    /// A metric's means by epoch.
    ///
    /// - split: `train` or `valid`
    pub fn curve(&self, split: &str, metric: &str) -> Vec<(usize, f64)> {
        let all = self.measured().into_iter().filter(|m| m.split == split && m.metric == metric);
        all.map(|measured| (measured.epoch, measured.value)).collect()
    }

    /// Goes back to the end of an epoch of another run.
    pub(super) fn restore(&self, measured: Vec<Measured>) {
        let mut state = self.state();
        state.sums.clear();
        for Measured { epoch, split, metric, value, count } in measured {
            state.sums.insert((epoch, split, metric), (value * count as f64, count));
        }
    }

    /// Waits until all events of an epoch have arrived: burn-train computes metrics in a thread of its own.
    pub(super) fn wait(&self, epoch: usize, split: &Split) -> Result<()> {
        const PATIENCE: Duration = Duration::from_mins(5);
        let wanted = (epoch, split.to_string());
        let missing = |state: &mut State| !state.ended.contains(&wanted);
        let (_state, timeout) = self
            .0
            .ended
            .wait_timeout_while(self.state(), PATIENCE, missing)
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return Err(Error::data(
                format!("metrics of epoch {epoch}"),
                "their values",
                "none in 5 minutes",
            ));
        }
        Ok(())
    }
}

impl MetricLogger for History {
    fn log(&mut self, update: MetricsUpdate, epoch: usize, split: &Split) {
        let mut state = self.state();
        for update in update.entries_numeric {
            let Some(name) = state.names.get(&update.entry.metric_id).cloned() else { continue };
            let (value, count) = match update.numeric_entry {
                NumericEntry::Value(value) => (value, 1),
                NumericEntry::Aggregated { aggregated_value, count } => (aggregated_value, count),
            };
            // A metric that a batch does not measure would leave a mean that is no number.
            if count == 0 {
                continue;
            }
            let sum = state.sums.entry((epoch, split.to_string(), name)).or_default();
            *sum = (sum.0 + value * count as f64, sum.1 + count);
        }
    }

    fn read_numeric(
        &mut self,
        name: &str,
        epoch: usize,
        split: &Split,
    ) -> std::result::Result<Vec<NumericEntry>, String> {
        let key = (epoch, split.to_string(), name.to_owned());
        let entry = self
            .state()
            .sums
            .get(&key)
            .map(|&(sum, count)| NumericEntry::Aggregated { aggregated_value: sum / count as f64, count });
        Ok(entry.into_iter().collect())
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        self.state().names.insert(definition.metric_id, definition.name);
    }

    fn log_epoch_summary(&mut self, summary: EpochSummary) {
        self.state().ended.push((summary.epoch_number, summary.split.to_string()));
        self.0.ended.notify_all();
    }
}
