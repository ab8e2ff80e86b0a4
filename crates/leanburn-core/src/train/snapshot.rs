use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use burn::{
    module::{AutodiffModule, Module, ModuleVisitor, Param, ParamId},
    optim::SimpleOptimizer,
    record::{BinBytesRecorder, FullPrecisionSettings, Recorder},
    tensor::{
        ElementConversion, Tensor,
        backend::{AutodiffBackend, Backend, DeviceOps},
    },
};
use serde::{Deserialize, Serialize};

use super::{
    history::Measured,
    parameters::{ParameterGroups, States, parameter_paths},
};
use crate::{
    Error, Result,
    checkpoint::{self, Checkpoint},
    report,
};

/// Where a run stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Position {
    /// Optimiser steps taken.
    pub(super) step: usize,
    /// The epoch under way, counted from 0.
    pub(super) epoch: usize,
    /// The batch that is next in it.
    pub(super) batch: usize,
    /// Whether nothing is left to do.
    pub(super) finished: bool,
    /// The loader's order.
    pub(super) order: serde_json::Value,
    /// What each hook keeps.
    pub(super) hooks: Vec<serde_json::Value>,
    /// The metrics of the epochs that ended.
    pub(super) measured: Vec<Measured>,
    /// The parameters' paths with the numbers under which the optimisers' states have them.
    parameters: Vec<(String, String)>,
}

impl Position {
    /// The start of a run.
    pub(super) fn start(order: serde_json::Value) -> Self {
        Self {
            step: 0,
            epoch: 0,
            batch: 0,
            finished: false,
            order,
            hooks: Vec::new(),
            measured: Vec::new(),
            parameters: Vec::new(),
        }
    }
}

const MODEL: &str = "model.safetensors";
const AVERAGE: &str = "average.safetensors";
const OPTIMIZER: &str = "optimizer.bin";
const POSITION: &str = "position.json";

/// The folder of a run's checkpoints: `step-00000120` and so on, each complete or not there.
#[derive(Debug, Clone)]
pub(super) struct Snapshots {
    folder: PathBuf,
    keep: usize,
}

impl Snapshots {
    pub(super) fn new(run: &Path, keep: usize) -> Self {
        Self { folder: run.join("checkpoints"), keep: keep.max(1) }
    }

    /// The newest one.
    pub(super) fn newest(&self) -> Result<Option<PathBuf>> {
        Ok(self.all()?.pop())
    }

    /// All of them, the oldest first.
    fn all(&self) -> Result<Vec<PathBuf>> {
        if !self.folder.exists() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for path in report::entries(&self.folder)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse::<u64>().ok()) {
                found.push((step, path));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// Writes a checkpoint, and then removes those that are too old.
    pub(super) fn save<B, M, S>(
        &self,
        position: &mut Position,
        model: &M,
        average: Option<&M::InnerModule>,
        optimizer: &ParameterGroups<S, M, B>,
    ) -> Result<()>
    where
        B: AutodiffBackend,
        M: AutodiffModule<B>,
        S: SimpleOptimizer<B::InnerBackend>,
    {
        check_finite::<B::InnerBackend, _>(position.step, &model.valid())?;
        fs::create_dir_all(&self.folder).map_err(Error::io(&self.folder))?;
        let target = self.folder.join(format!("step-{:08}", position.step));
        // Not under its name before it is complete.
        let temporary = tempfile::Builder::new()
            .prefix(".unfinished-")
            .tempdir_in(&self.folder)
            .map_err(Error::io(&self.folder))?;
        let file = |name: &str| temporary.path().join(name);
        checkpoint::save(model, file(MODEL), str::to_owned)?;
        if let Some(average) = average {
            checkpoint::save(average, file(AVERAGE), str::to_owned)?;
        }
        let recorder = BinBytesRecorder::<FullPrecisionSettings>::new();
        let states = Recorder::<B>::record(&recorder, optimizer.states(), ())
            .map_err(|error| Error::format(&target, OPTIMIZER, "states that can be written", error))?;
        report::write_new(&file(OPTIMIZER), |path| fs::write(path, &states).map_err(Error::io(path)))?;
        let parameters = parameter_paths::<B, M>(model).into_iter();
        position.parameters = parameters.map(|(path, id)| (path, id.serialize())).collect();
        report::write_json(file(POSITION), position)?;
        if target.exists() {
            // Of a run that was resumed from an older one.
            fs::remove_dir_all(&target).map_err(Error::io(&target))?;
        }
        fs::rename(temporary.path(), &target).map_err(Error::io(&target))?;
        let all = self.all()?;
        for old in all.iter().take(all.len().saturating_sub(self.keep)) {
            fs::remove_dir_all(old).map_err(Error::io(old))?;
        }
        Ok(())
    }

    /// Goes back to a checkpoint.
    pub(super) fn load<B, M, S>(
        path: &Path,
        model: M,
        average: Option<M::InnerModule>,
        optimizer: &mut ParameterGroups<S, M, B>,
        device: &B::Device,
    ) -> Result<(Position, M, Option<M::InnerModule>)>
    where
        B: AutodiffBackend,
        M: AutodiffModule<B>,
        S: SimpleOptimizer<B::InnerBackend>,
    {
        let position: Position = report::read_json(path.join(POSITION))?;
        let model = Checkpoint::open(path.join(MODEL))?.load_into(model, str::to_owned)?;
        let average = average
            .map(|average| Checkpoint::open(path.join(AVERAGE))?.load_into(average, str::to_owned))
            .transpose()?;

        let file = path.join(OPTIMIZER);
        let bytes = fs::read(&file).map_err(Error::io(&file))?;
        // States live on the device without gradients.
        let recorder = BinBytesRecorder::<FullPrecisionSettings>::new();
        let states: Vec<States<S, M, B>> = Recorder::<B>::load(&recorder, bytes, device.inner())
            .map_err(|error| Error::format(&file, "file", "states of this optimiser", error))?;
        // The new model's parameters have other numbers.
        let by_path: HashMap<String, ParamId> = parameter_paths::<B, M>(&model).into_iter().collect();
        let renumbered: HashMap<&str, ParamId> = position
            .parameters
            .iter()
            .filter_map(|(path, id)| Some((id.as_str(), *by_path.get(path)?)))
            .collect();
        let renumber = |states: States<S, M, B>| {
            let known = |id: ParamId| renumbered.get(id.serialize().as_str()).copied();
            states.into_iter().filter_map(|(id, state)| Some((known(id)?, state))).collect()
        };
        optimizer.restore(states.into_iter().map(renumber).collect());
        Ok((position, model, average))
    }
}

/// What has diverged is not saved over what has not.
pub(super) fn check_finite<B: Backend, M: Module<B>>(step: usize, model: &M) -> Result<()> {
    struct Sums<B: Backend>(Vec<Tensor<B, 1>>);
    impl<B: Backend> ModuleVisitor<B> for Sums<B> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            // Zero times a number that is not finite is not a number.
            self.0.push((param.val() * 0.0).sum());
        }
    }
    let mut sums = Sums(Vec::new());
    model.visit(&mut sums);
    if sums.0.is_empty() {
        return Ok(());
    }
    let sum: f64 = Tensor::cat(sums.0, 0).sum().into_scalar().elem();
    if sum == 0.0 {
        return Ok(());
    }
    let expected = "finite numbers; lower the learning rate, or clip the gradients";
    Err(Error::data(format!("parameters after step {step}"), expected, "others: training has diverged"))
}
