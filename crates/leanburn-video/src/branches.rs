//! What networks that serve several frame counts have once for each of them: their branches.

use burn::{
    module::{Module, Param},
    nn::{LayerNorm, LayerNormConfig},
    tensor::{Tensor, backend::Backend, module::conv2d, ops::ConvOptions},
};
use leanburn_core::{
    Error, Result,
    nn::{BatchNorm, BatchNormConfig, Initial, scale_channels},
    random::Generator,
};
use serde::{Deserialize, Serialize};

use crate::volume::kernel_of;

/// The part of a path in a module that counts branches.
const BRANCHES: &str = ".branches.";
/// The name of a block's alteration.
const ALTERATION: &str = "adaconv";
/// How the names of published networks end, whatever their frame counts are.
const PUBLISHED_LABELS: [usize; 3] = [4, 8, 16];

/// The frame counts that a network is trained for, and what it has once for each of them.
///
/// A network for one frame count has one branch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Branches {
    /// Frames of a clip, ascending; SlowFast's are those of the fast pathway.
    pub counts: Vec<usize>,
    /// Whether each branch has norms of its own (FFN's specialised normalisation).
    pub private_norms: bool,
    /// What each branch does to the input of each block (FFN's weight alteration), if anything.
    pub alteration: Option<Alteration>,
}

/// A depthwise convolution before a block, one for each branch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alteration {
    /// Height and width of the kernel: 1, or 3 with zeros around the map.
    pub kernel: usize,
    /// Whether its output is added to its input, or takes its place.
    pub residual: bool,
    /// What its weights are drawn from.
    pub initial: AlterationInitial,
    /// The stages whose blocks have it, counted from 1; all of them when there is no list.
    pub stages: Option<Vec<usize>>,
}

impl Default for Alteration {
    /// The paper's: 1x1, residual, in every block, drawn from `N(0, 1e-3)`.
    fn default() -> Self {
        Self { kernel: 1, residual: true, initial: AlterationInitial::Small, stages: None }
    }
}

/// What the weights of an [`Alteration`] are drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlterationInitial {
    /// `N(0, 1e-3)`, as intended: training starts from the shared weights. Around 1 in the kernel's middle where there is
    /// no residual.
    Small,
    /// `N(0, sqrt(2 / channels))`: the published 2D and SlowFast code initialises all convolutions once more, these too.
    Kaiming,
}

impl Branches {
    /// One branch: an ordinary network.
    pub fn single(frames: usize) -> Self {
        Self { counts: vec![frames], private_norms: false, alteration: None }
    }

    /// FFN's: private norms, and the default alteration.
    pub fn ffn(counts: &[usize]) -> Self {
        Self { counts: counts.to_vec(), private_norms: true, alteration: Some(Alteration::default()) }
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// When there is no frame count, they do not ascend from above 0, or the alteration's kernel is neither 1 nor 3.
    pub fn check(&self) -> Result<()> {
        if self.counts.is_empty() || self.counts[0] == 0 || !self.counts.is_sorted_by(|a, b| a < b) {
            let found = format!("{:?}", self.counts);
            return Err(Error::setting("branches.counts", "frame counts above 0, ascending", found));
        }
        match &self.alteration {
            Some(alteration) if !matches!(alteration.kernel, 1 | 3) => {
                Err(Error::setting("branches.alteration.kernel", "1 or 3", alteration.kernel))
            }
            _ => Ok(()),
        }
    }

    /// The branch that serves a number of frames: that of the nearest count, of equally near ones the larger.
    pub fn nearest(&self, frames: usize) -> usize {
        let distance = |branch: &usize| self.counts[*branch].abs_diff(frames);
        // The last of equal minima.
        (0..self.counts.len()).rev().min_by_key(distance).unwrap_or(0)
    }

    /// The largest frame count.
    pub fn highest(&self) -> usize {
        self.counts.last().copied().unwrap_or(0)
    }

    /// What each branch does to the input of the blocks of a stage, counted from 1.
    pub(crate) fn alteration_of(&self, stage: usize) -> Option<&Alteration> {
        let alteration = self.alteration.as_ref();
        alteration.filter(|alteration| alteration.stages.as_ref().is_none_or(|all| all.contains(&stage)))
    }

    /// How many norms stand where an ordinary network has one.
    pub(crate) fn norms(&self) -> usize {
        if self.private_norms { self.counts.len() } else { 1 }
    }

    /// Whether parameters bear the same names as an ordinary network's.
    pub(crate) fn has_plain_names(&self) -> bool {
        self.counts.len() == 1 || (!self.private_norms && self.alteration.is_none())
    }

    /// The number that ends the names of a branch's parameters. Published networks have three branches, and the numbers
    /// 4, 8 and 16 whatever they are for.
    fn label(&self, branch: usize) -> usize {
        if self.counts.len() == PUBLISHED_LABELS.len() {
            PUBLISHED_LABELS[branch]
        } else {
            self.counts[branch]
        }
    }

    /// A path in a module with the branch's number as published: `bn1.branches.0.weight` is `bn1_4.weight`.
    pub(crate) fn suffixed(&self, path: &str) -> String {
        let Some((layer, rest)) = path.split_once(BRANCHES) else { return path.to_owned() };
        let (branch, parameter) = rest.split_once('.').unwrap_or((rest, ""));
        let branch: usize = branch.parse().unwrap_or(0);
        let several = self.counts.len() > 1 && (self.private_norms || layer.ends_with(ALTERATION));
        if several {
            format!("{layer}_{}.{parameter}", self.label(branch))
        } else {
            format!("{layer}.{parameter}")
        }
    }

    /// A published name without its branch, with the branch: `bn1_4.weight` is branch 0's `bn1.weight`.
    pub(crate) fn split<'a>(&self, name: &'a str) -> (std::borrow::Cow<'a, str>, Option<usize>) {
        if self.counts.len() > 1 {
            for branch in 0..self.counts.len() {
                let suffix = format!("_{}", self.label(branch));
                let mut parts: Vec<&str> = name.split('.').collect();
                let stripped = parts.iter().enumerate().rev().find_map(|(place, part)| {
                    // The stem's `bn1_4` as much as the lists `bns_4.0`; never the parameter itself.
                    let is_layer = place + 1 < parts.len();
                    part.strip_suffix(&suffix).filter(|_| is_layer).map(|layer| (place, layer))
                });
                if let Some((place, layer)) = stripped {
                    parts[place] = layer;
                    return (parts.join(".").into(), Some(branch));
                }
            }
        }
        (name.into(), None)
    }
}

/// Whether a published name is that of an alteration.
pub(crate) fn is_alteration(name: &str) -> bool {
    name.split('.').any(|part| part == ALTERATION || part.starts_with("adaconv_"))
}

/// The batch norm of each branch, or one for all.
#[derive(Module, Debug)]
pub struct BatchNorms<B: Backend> {
    /// By branch.
    pub branches: Vec<BatchNorm<B>>,
}

impl<B: Backend> BatchNorms<B> {
    pub(crate) fn init(channels: usize, branches: &Branches, device: &B::Device) -> Self {
        let config = BatchNormConfig::new(channels);
        Self { branches: (0..branches.norms()).map(|_| config.init(device)).collect() }
    }

    /// The norm of a branch.
    pub fn of(&self, branch: usize) -> &BatchNorm<B> {
        &self.branches[branch.min(self.branches.len() - 1)]
    }

    /// - input: `[batch, channels, ...]`
    pub fn forward<const D: usize>(&self, input: Tensor<B, D>, branch: usize) -> Tensor<B, D> {
        self.of(branch).forward(input)
    }

    /// One branch alone.
    pub(crate) fn keep(&mut self, branch: usize) {
        self.branches = vec![self.of(branch).clone()];
    }

    pub(crate) fn freeze(&mut self, frozen: bool) {
        for norm in &mut self.branches {
            norm.frozen = frozen;
        }
    }

    /// Nothing of them changes in training: neither statistics, nor scales and offsets.
    fn fix(&mut self) {
        self.freeze(true);
        for norm in &mut self.branches {
            norm.gamma = norm.gamma.clone().set_require_grad(false);
            norm.beta = norm.beta.clone().set_require_grad(false);
        }
    }
}

/// All norms of a network as they are, but the first, which learns (TSN's partial batch norm).
pub(crate) fn learn_first<'a, B: Backend>(norms: impl Iterator<Item = &'a mut BatchNorms<B>>) {
    for (place, norms) in norms.enumerate() {
        if place == 0 {
            norms.freeze(false);
        } else {
            norms.fix();
        }
    }
}

/// The layer norm of each branch, or one for all.
#[derive(Module, Debug)]
pub struct LayerNorms<B: Backend> {
    /// By branch.
    pub branches: Vec<LayerNorm<B>>,
}

impl<B: Backend> LayerNorms<B> {
    pub(crate) fn init(channels: usize, epsilon: f64, branches: &Branches, device: &B::Device) -> Self {
        let config = LayerNormConfig::new(channels).with_epsilon(epsilon);
        Self { branches: (0..branches.norms()).map(|_| config.init(device)).collect() }
    }

    /// One branch alone.
    pub(crate) fn keep(&mut self, branch: usize) {
        let branch = branch.min(self.branches.len() - 1);
        self.branches = vec![self.branches.swap_remove(branch)];
    }

    /// - input: `[..., channels]`
    pub fn forward<const D: usize>(&self, input: Tensor<B, D>, branch: usize) -> Tensor<B, D> {
        self.branches[branch.min(self.branches.len() - 1)].forward(input)
    }
}

/// A branch's depthwise weights in a rank of their own: `[channels, 1, 1, 1]` of 2D networks, `[channels, 1, 1, 1, 1]` of
/// 3D ones.
#[derive(Module, Debug)]
pub struct Altered<B: Backend, const D: usize> {
    /// One kernel a channel.
    pub weight: Param<Tensor<B, D>>,
}

/// The alteration of each branch: `a(x) = x + w * x`, depthwise.
#[derive(Module, Debug)]
pub struct Alter<B: Backend, const D: usize> {
    /// By branch.
    pub branches: Vec<Altered<B, D>>,
    residual: bool,
}

impl<B: Backend, const D: usize> Alter<B, D> {
    /// The alteration of a block of a stage, if it has one.
    ///
    /// - stage: counted from 1
    pub(crate) fn init(
        channels: usize,
        stage: usize,
        branches: &Branches,
        generator: &mut Generator,
        device: &B::Device,
    ) -> Option<Self> {
        let alteration = branches.alteration_of(stage)?;
        let kernel = alteration.kernel;
        let mut altered = || {
            let shape = [channels, 1, kernel, kernel];
            let mut weight: Tensor<B, 4> = match alteration.initial {
                AlterationInitial::Small => generator.normal(shape, device) * 1e-3,
                AlterationInitial::Kaiming => Initial::KaimingFanOut.weight(shape, generator, device),
            };
            if !alteration.residual {
                let middle = kernel / 2;
                let one = Tensor::ones([channels, 1, 1, 1], device);
                let place = [0..channels, 0..1, middle..middle + 1, middle..middle + 1];
                weight = weight.clone().slice_assign(place.clone(), weight.slice(place) + one);
            }
            // The time's side of a 3D kernel is 1.
            let mut rank = [1; D];
            rank[0] = channels;
            rank[D - 2..].copy_from_slice(&[kernel, kernel]);
            Altered { weight: Param::from_tensor(weight.reshape(rank)) }
        };
        let branches = branches.counts.iter().map(|_| altered()).collect();
        Some(Self { branches, residual: alteration.residual })
    }

    /// - x: `[batch * frames, channels, height, width]`
    pub fn forward(&self, x: Tensor<B, 4>, branch: usize) -> Tensor<B, 4> {
        let weight = self.branches[branch].weight.val();
        let dims = weight.dims();
        let (channels, kernel) = (dims[0], dims[D - 1]);
        if kernel == 1 {
            let scale = weight.reshape([channels]);
            return scale_channels(x, if self.residual { scale + 1.0 } else { scale });
        }
        let options = ConvOptions::new([1, 1], [kernel / 2; 2], [1, 1], channels);
        let altered = conv2d(x.clone(), kernel_of(weight, [channels, 1, kernel, kernel]), None, options);
        if self.residual { x + altered } else { altered }
    }

    /// One branch alone.
    pub(crate) fn into_branch(mut self, branch: usize) -> Self {
        self.branches = vec![self.branches.swap_remove(branch)];
        self
    }

    /// What a branch multiplies each channel by, if it only does that.
    pub(crate) fn scale(&self, branch: usize) -> Option<Tensor<B, 1>> {
        let weight = self.branches[branch].weight.val();
        let dims = weight.dims();
        (dims[D - 1] == 1).then(|| {
            let scale = weight.reshape([dims[0]]);
            if self.residual { scale + 1.0 } else { scale }
        })
    }
}

#[cfg(test)]
mod tests {
    use burn_flex::Flex;

    use super::*;

    #[test]
    fn the_nearest_branch_serves_any_count() {
        let branches = Branches::ffn(&[4, 8, 16]);
        let served: Vec<usize> =
            [1, 5, 6, 8, 11, 12, 16, 40].map(|frames| branches.counts[branches.nearest(frames)]).to_vec();
        assert_eq!(served, [4, 4, 8, 8, 8, 16, 16, 16]);
        assert_eq!(Branches::single(8).nearest(64), 0);
    }

    #[test]
    fn names_are_the_published_ones() {
        let branches = Branches::ffn(&[16, 32, 64]);
        assert_eq!(branches.suffixed("layer1.0.bn1.branches.2.weight"), "layer1.0.bn1_16.weight");
        assert_eq!(branches.split("layer1.0.bn1_16.weight"), ("layer1.0.bn1.weight".into(), Some(2)));
        assert_eq!(branches.split("layer1.0.bns_4.0.weight"), ("layer1.0.bns.0.weight".into(), Some(0)));
        assert_eq!(branches.split("layer1.0.conv1.weight"), ("layer1.0.conv1.weight".into(), None));
        assert_eq!(Branches::ffn(&[2, 6]).suffixed("bn1.branches.1.bias"), "bn1_6.bias");
        assert_eq!(Branches::single(8).suffixed("bn1.branches.0.bias"), "bn1.bias");
        let shared = Branches { private_norms: false, ..Branches::ffn(&[4, 8, 16]) };
        assert_eq!(shared.suffixed("bn1.branches.0.bias"), "bn1.bias");
        assert_eq!(shared.suffixed("adaconv.branches.0.weight"), "adaconv_4.weight");
    }

    #[test]
    fn alterations_are_drawn_as_intended_or_as_published() {
        let (channels, device) = (8192, Default::default());
        let deviation = |initial: AlterationInitial, kernel: usize| {
            let alteration = Alteration { kernel, initial, ..Default::default() };
            let branches = Branches { alteration: Some(alteration), ..Branches::ffn(&[2, 4]) };
            let drawn = Alter::<Flex, 4>::init(channels, 1, &branches, &mut Generator::new(1), &device);
            let weight = drawn.unwrap().branches[1].weight.val();
            assert_eq!(weight.dims(), [channels, 1, kernel, kernel]);
            f64::from(weight.powi_scalar(2).mean().sqrt().into_scalar())
        };
        for kernel in [1, 3] {
            let published = (2.0 / (channels * kernel * kernel) as f64).sqrt();
            assert!((deviation(AlterationInitial::Small, kernel) / 1e-3 - 1.0).abs() < 0.05);
            assert!((deviation(AlterationInitial::Kaiming, kernel) / published - 1.0).abs() < 0.05);
        }
    }

    #[test]
    fn settings_are_checked() {
        for counts in [vec![], vec![0, 4], vec![8, 4], vec![4, 4]] {
            let error = Branches { counts, ..Branches::single(1) }.check().unwrap_err();
            assert!(error.to_string().contains("branches.counts"));
        }
        let alteration = Alteration { kernel: 2, ..Default::default() };
        let branches = Branches { alteration: Some(alteration), ..Branches::ffn(&[2, 4]) };
        assert!(branches.check().unwrap_err().to_string().contains("kernel"));
    }
}
