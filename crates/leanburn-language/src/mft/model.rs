use burn::{
    module::{Module, Param},
    optim::GradientsParams,
    tensor::{
        DType, Tensor,
        backend::{AutodiffBackend, Backend},
    },
};
use leanburn_core::{
    Error, Result,
    checkpoint::{self, Checkpoint},
    nn::contiguous,
    random::Generator,
};

use serde_json::Value;

use super::{Mask, MaskKind, Masks, ScoreInitial, Subnet};
use crate::{
    causal::{CausalLm, Trainable},
    folder::ModelFolder,
    frozen::{Frozen, MatrixCache},
    llama::{Llama, Place},
};

/// Under what name a file of scores says of what subnet they are.
const SUBNET: &str = "subnet";

/// A network whose weights are frozen, and some of whose matrices are masked by scores that learn.
///
/// The masks of a step are computed once, when a matrix is first used after its scores have changed.
#[derive(Module, Debug)]
pub struct MaskedLlama<B: Backend> {
    /// Of each masked matrix.
    pub scores: Vec<Param<Tensor<B, 2>>>,
    base: Frozen<Llama<B>>,
    /// The masked weights.
    masked: MatrixCache<B>,
    #[module(skip)]
    places: Vec<Place>,
    #[module(skip)]
    subnet: Subnet,
}

impl<B: Backend> MaskedLlama<B> {
    /// Masks on a network, with new scores.
    ///
    /// # Errors
    ///
    /// When the subnet does not fit the network, or the scores' deviation is not positive.
    pub fn new(
        base: Llama<B>,
        subnet: Subnet,
        initial: ScoreInitial,
        generator: &mut Generator,
    ) -> Result<Self> {
        let device = base.device();
        if let ScoreInitial::Normal(deviation) = initial
            && !(deviation.is_finite() && deviation > 0.0)
        {
            return Err(Error::setting("deviation of the scores", "a positive number", deviation));
        }
        Self::with_scores(base, subnet, |_, shape| {
            Ok(match initial {
                ScoreInitial::Normal(deviation) => generator.normal::<B, 2>(shape, &device) * deviation,
                ScoreInitial::Kaiming => {
                    let bound = 1.0 / (shape[1] as f32).sqrt();
                    generator.uniform(shape, -bound, bound, &device)
                }
            })
        })
    }

    fn with_scores(
        base: Llama<B>,
        subnet: Subnet,
        mut scores: impl FnMut(Place, [usize; 2]) -> Result<Tensor<B, 2>>,
    ) -> Result<Self> {
        let places = subnet.places(base.config().num_hidden_layers)?;
        let scores = places
            .iter()
            .map(|&place| Ok(Param::from_tensor(scores(place, base.projection(place).weight.dims())?)))
            .collect::<Result<_>>()?;
        Ok(Self { scores, base: Frozen::new(base), masked: MatrixCache::empty(), places, subnet })
    }

    /// A masked network that the published program saved: weights and `.scores` in one checkpoint, and the subnet in its
    /// `config.json`.
    ///
    /// - dtype: of the weights; scores are float32
    ///
    /// # Errors
    ///
    /// When the folder's configuration has no subnet, or the checkpoint is not that of it.
    pub fn load(folder: &ModelFolder, dtype: DType, device: &B::Device) -> Result<Self> {
        let file = folder.path().join("config.json");
        let subnet = Subnet::from_json(folder.json(), &file)?.ok_or_else(|| {
            Error::format(&file, "`subnet_mode`", "that of a masked model", "none; this is a plain one")
        })?;
        let checkpoint = crate::llama::published(folder.config(), folder.checkpoint()?)?;
        let is_score = |name: &str| name.ends_with(".scores");
        let base = Llama::load(folder.config(), checkpoint.clone().without(is_score), dtype, device)?;
        Self::from_scores(base, subnet, &checkpoint.without(|name| !is_score(name)))
    }

    /// Masks on a network, with the scores of a checkpoint: `<matrix>.scores` for each masked matrix, or a checkpoint of a
    /// [training](crate::train::FineTuning) of such masks.
    ///
    /// # Errors
    ///
    /// When the subnet does not fit the network, or the checkpoint's scores are not those of the subnet.
    pub fn from_scores(base: Llama<B>, subnet: Subnet, checkpoint: &Checkpoint) -> Result<Self> {
        let device = base.device();
        let network = Self::with_scores(base, subnet, |_, shape| Ok(Tensor::zeros(shape, &device)))?;
        let places = network.places.clone();
        let of_training = |name: &str| published_name(&places, name.strip_prefix("network.").unwrap_or(name));
        let checkpoint = checkpoint.clone().renamed(of_training)?;
        checkpoint.load_into(network, |path| published_name(&places, path))
    }

    /// Writes the scores as safetensors, under their published names, with the subnet beside them.
    ///
    /// # Errors
    ///
    /// When the file exists or cannot be written.
    pub fn save_scores(&self, path: impl AsRef<std::path::Path>) -> Result<()> {
        let subnet = Value::Object(self.subnet.to_json()).to_string();
        let metadata = [(SUBNET.to_owned(), subnet)];
        checkpoint::save_with(self, path, |path| self.published_name(path), metadata)
    }

    /// The subnet that a file of scores was written with; `None` of other files.
    ///
    /// # Errors
    ///
    /// When it is not one.
    pub fn subnet_of(checkpoint: &Checkpoint) -> Result<Option<Subnet>> {
        let Some(text) = checkpoint.metadata(SUBNET) else { return Ok(None) };
        let json = serde_json::from_str(text)
            .map_err(|error| Error::format(checkpoint.path(), "`subnet`", "a JSON object", error))?;
        Subnet::from_json(&json, checkpoint.path())
    }

    /// The name that the published program gives to a parameter.
    pub fn published_name(&self, path: &str) -> String {
        published_name(&self.places, path)
    }

    /// What is masked.
    pub fn subnet(&self) -> &Subnet {
        &self.subnet
    }

    /// The masked matrices, in the order of their scores.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The masks as they are now.
    pub fn masks(&self) -> Masks {
        let numbered = self.places.iter().enumerate();
        Masks::new(numbered.map(|(number, &place)| (place, self.mask(number))))
    }

    /// The network with the masks multiplied into its weights: an ordinary one.
    pub fn merged(&self) -> Llama<B> {
        let masked = |network: Llama<B>, &place: &Place| {
            network.with_weight(place, self.masked_weight(place).detach())
        };
        self.places.iter().fold(self.base.thawed(), masked)
    }

    fn mask(&self, number: usize) -> Mask {
        let scores = self.scores[number].val();
        let shape = scores.dims();
        let setting = self.subnet.kind.setting(self.places[number].matrix);
        match self.subnet.kind {
            MaskKind::Local { .. } => Mask::largest(&values(scores), shape, setting),
            MaskKind::Global { .. } => Mask::above(&values(scores), shape, setting),
        }
    }

    /// A masked matrix's weights, of which training takes the gradient.
    fn masked_weight(&self, place: Place) -> Tensor<B, 2> {
        self.masked.get(place, || {
            let number = self.places.iter().position(|other| *other == place).expect("it is masked");
            let weight = self.base.get().projection(place).weight.val();
            let masked = self.mask(number).apply(weight).detach();
            if B::ad_enabled(&masked.device()) { masked.require_grad() } else { masked }
        })
    }
}

fn published_name(places: &[Place], path: &str) -> String {
    let number = path.strip_prefix("scores.").and_then(|number| number.parse::<usize>().ok());
    let place = number.and_then(|number| places.get(number));
    place.map_or_else(|| path.to_owned(), |place| format!("{}.scores", place.path()))
}

/// A matrix's values on the host, row by row.
pub(super) fn values<B: Backend>(matrix: Tensor<B, 2>) -> Vec<f32> {
    let data = matrix.into_data().convert::<f32>();
    data.into_vec().expect("it was converted")
}

impl<B: Backend> CausalLm<B> for MaskedLlama<B> {
    fn llama(&self) -> &Llama<B> {
        self.base.get()
    }

    fn trained_from(&self) -> Option<usize> {
        self.places.iter().map(|place| place.layer).min()
    }

    fn prepare(&self) {
        for place in &self.places {
            self.masked_weight(*place);
        }
    }

    fn project(&self, place: Place, x: Tensor<B, 3>, _noise: Option<u64>) -> Tensor<B, 3> {
        let projection = self.llama().projection(place);
        if self.places.contains(&place) {
            projection.forward_with(self.masked_weight(place), x)
        } else {
            projection.forward(x)
        }
    }
}

impl<B: AutodiffBackend> Trainable<B> for MaskedLlama<B> {
    /// Straight through the masks: the gradient of a masked matrix's weights, times the weights, and where the scores'
    /// amounts decide, times the scores' signs.
    fn gradients(&self, gradients: &mut B::Gradients) -> GradientsParams {
        let mut of_scores = GradientsParams::new();
        for (&place, scores) in self.places.iter().zip(&self.scores) {
            let gradient = self.masked.find(place).and_then(|masked| masked.grad_remove(gradients));
            let Some(gradient) = gradient else { continue };
            let weight = self.base.get().projection(place).weight.val().inner();
            let dtype = scores.dtype();
            let of_mask = contiguous(gradient).cast(dtype) * weight.cast(dtype);
            let gradient = self.subnet.kind.gradient(of_mask, scores.val().inner());
            of_scores.register::<B::InnerBackend, 2>(scores.id, gradient);
        }
        of_scores
    }
}
