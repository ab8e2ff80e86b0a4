use burn::{
    module::{AutodiffModule, Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{Tensor, backend::AutodiffBackend},
};
use leanburn_core::{Error, Result, train::Hook};
use leanburn_vision::{Architecture, train::Supervised};

use super::{GregConfig, Growth, Phase, check_growth};
use crate::{
    Ratios, State,
    unstructured::{MaskHook, WeightMasks, WeightSelection},
};

/// Growing regularisation of single weights: the same penalty in all layers, which ends at its limit.
pub struct WeightGreg<A, B: AutodiffBackend> {
    config: GregConfig,
    architecture: A,
    size: [usize; 2],
    ratios: Ratios,
    selection: WeightSelection,
    /// The weights that stay, or that would.
    masks: WeightMasks,
    /// The same on the device, where they have been needed.
    on_device: Option<MaskHook<B::InnerBackend>>,
    picking: usize,
    growing: usize,
    phase: Phase,
    done: bool,
}

impl GregConfig {
    /// The method on the single weights of a network. Ratios of magnitudes do not end it, and gaps give no ratio.
    ///
    /// - size: height and width of the input
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, or weights cannot be selected.
    pub fn init_weights<A: Architecture, B: AutodiffBackend>(
        &self,
        architecture: &A,
        network: &A::Network<B>,
        size: [usize; 2],
        ratios: &Ratios,
        selection: &WeightSelection,
    ) -> Result<WeightGreg<A, B>> {
        check_growth(self.update_every, self.granularity)?;
        if self.by_gap {
            return Err(Error::setting("by_gap", "false for single weights", true));
        }
        let state = State::of::<A, B>(architecture, network)?;
        let masks = selection.select(&architecture.graph(size)?, &state, ratios)?;
        Ok(WeightGreg {
            config: self.clone(),
            architecture: architecture.clone(),
            size,
            ratios: ratios.clone(),
            selection: selection.clone(),
            masks,
            on_device: None,
            picking: 0,
            growing: 0,
            phase: Phase::Grow,
            done: false,
        })
    }
}

impl<A: Architecture, B: AutodiffBackend> WeightGreg<A, B> {
    /// The penalties of the weights that go, and of those that stay.
    pub fn penalties(&self) -> (f64, f64) {
        self.config.penalties(self.picking, self.growing)
    }

    /// Which weights stay, by what is known now.
    pub fn masks(&self) -> &WeightMasks {
        &self.masks
    }

    fn update(&mut self, step: usize, network: &A::Network<B>) -> Result<()> {
        if let Growth::Two { pick, pick_limit, .. } = self.config.growth
            && pick * (self.picking as f64) < pick_limit
        {
            self.picking += 1;
            if pick * self.picking as f64 >= pick_limit {
                let state = State::of::<A, B>(&self.architecture, network)?;
                let graph = self.architecture.graph(self.size)?;
                self.masks = self.selection.select(&graph, &state, &self.ratios)?;
                self.on_device = None;
            }
            return Ok(());
        }
        self.growing += 1;
        if self.penalties().0 > self.config.limit || self.config.growth == Growth::Fixed {
            self.phase = Phase::Stabilise(step);
        }
        Ok(())
    }
}

impl<A, B> Hook<B, Supervised<B, A::Network<B>>> for WeightGreg<A, B>
where
    A: Architecture,
    B: AutodiffBackend,
    A::Network<B>: AutodiffModule<B, InnerModule = A::Network<B::InnerBackend>>,
{
    fn gradients(
        &mut self,
        step: usize,
        model: &Supervised<B, A::Network<B>>,
        gradients: GradientsParams,
    ) -> Result<GradientsParams> {
        struct Pull<'a, B: AutodiffBackend> {
            masks: &'a MaskHook<B::InnerBackend>,
            penalties: (f64, f64),
            gradients: GradientsParams,
        }
        impl<B: AutodiffBackend> ModuleVisitor<B> for Pull<'_, B> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
                let Some(stays) = self.masks.mask::<D>(param.id) else { return };
                let Some(gradient) = self.gradients.remove::<B::InnerBackend, D>(param.id) else { return };
                let (go, stay) = self.penalties;
                let lambda = stays * (stay - go) + go;
                self.gradients.register(param.id, gradient + param.val().inner() * lambda);
            }
        }
        if self.phase == Phase::Grow && step.is_multiple_of(self.config.update_every) {
            self.update(step, &model.network)?;
        }
        self.done = self.phase.is_over(step, self.config.stabilise);
        let penalties = self.penalties();
        let masks = match self.on_device.take() {
            Some(masks) => masks,
            None => self.masks.hook::<A, B>(&self.architecture, &model.network)?,
        };
        let masks = self.on_device.insert(masks);
        let mut pull = Pull::<B> { masks, penalties, gradients };
        model.network.visit(&mut pull);
        Ok(pull.gradients)
    }

    fn finished(&self) -> bool {
        self.done
    }

    fn state(&self) -> serde_json::Value {
        let state = (&self.masks, self.picking, self.growing, self.phase, self.done);
        serde_json::to_value(state).expect("numbers are JSON")
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<()> {
        let restored = serde_json::from_value(state);
        let masks: WeightMasks;
        (masks, self.picking, self.growing, self.phase, self.done) =
            restored.map_err(|error| Error::data("state of GReg", "what it saved", error))?;
        // They are brought to the device at the next step, which has the network.
        self.on_device = None;
        self.masks = masks;
        Ok(())
    }
}
