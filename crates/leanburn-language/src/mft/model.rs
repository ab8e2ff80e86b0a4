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
    random::Generator,
};

use super::{Mask, MaskKind, Masks, ScoreInitial, Subnet};
use crate::{
    causal::{CausalLm, Trainable},
    folder::ModelFolder,
    frozen::{Frozen, MatrixCache},
    llama::{Llama, Place},
};

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
    /// When the subnet does not fit the network.
    pub fn new(
        base: Llama<B>,
        subnet: Subnet,
        initial: ScoreInitial,
        generator: &mut Generator,
    ) -> Result<Self> {
        let device = base.device();
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

    /// Masks on a network, with the scores of a checkpoint: `<matrix>.scores` for each masked matrix.
    ///
    /// # Errors
    ///
    /// When the subnet does not fit the network, or the checkpoint's scores are not those of the subnet.
    pub fn from_scores(base: Llama<B>, subnet: Subnet, checkpoint: &Checkpoint) -> Result<Self> {
        let device = base.device();
        let network = Self::with_scores(base, subnet, |_, shape| Ok(Tensor::zeros(shape, &device)))?;
        let places = network.places.clone();
        checkpoint.load_into(network, |path| published_name(&places, path))
    }

    /// Writes the scores as safetensors, under their published names.
    ///
    /// # Errors
    ///
    /// When the file exists or cannot be written.
    pub fn save_scores(&self, path: impl AsRef<std::path::Path>) -> Result<()> {
        checkpoint::save(self, path, |path| self.published_name(path))
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
        self.places.iter().fold(self.base.get().clone(), masked)
    }

    fn mask(&self, number: usize) -> Mask {
        let scores = self.scores[number].val();
        let shape = scores.dims();
        let is_attention = self.places[number].matrix.is_attention();
        match self.subnet.kind {
            MaskKind::Local { keep_attention, keep_mlp } => {
                Mask::largest(&values(scores), shape, if is_attention { keep_attention } else { keep_mlp })
            }
            MaskKind::Global { threshold_attention, threshold_mlp } => {
                let threshold = if is_attention { threshold_attention } else { threshold_mlp };
                Mask::above(&values(scores), shape, threshold)
            }
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
            let of_mask = (gradient * weight).cast(scores.dtype());
            let gradient = self.subnet.kind.gradient(of_mask, scores.val().inner());
            of_scores.register::<B::InnerBackend, 2>(scores.id, gradient);
        }
        of_scores
    }
}
