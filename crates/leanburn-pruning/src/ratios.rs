//! How much of each layer goes.

use std::str::FromStr;

use globset::Glob;
use leanburn_core::{
    Error, Result,
    architecture::{Graph, Layer},
};
use serde::{Deserialize, Serialize};

/// The part of each layer's filters, or weights, that goes: from 0 to below 1. Layers whose channels must stay, such as
/// the classifier, keep them whatever is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ratios {
    /// The same of every layer.
    Uniform(f64),
    /// By name: shell wildcards (`*`, `?`, `[1-3]`); of several that match a layer the last one counts, and what none
    /// matches stays.
    Patterns(Vec<(String, f64)>),
    /// One for each convolution and linear layer, in the order in which they run.
    Layers(Vec<f64>),
    /// By number, in the order in which layers run: the first and the last of each range, and its ratio; of several that
    /// hold a layer the last one counts, and what none holds stays.
    Ranges(Vec<(usize, usize, f64)>),
    /// For residual networks: one for the stem, one for each stage, one for the classifier. Of a stage go the
    /// convolutions within its blocks alone.
    Stages(Vec<f64>),
}

impl Ratios {
    /// By name, see [`Ratios::Patterns`].
    pub fn patterns<'a>(patterns: impl IntoIterator<Item = (&'a str, f64)>) -> Self {
        Self::Patterns(patterns.into_iter().map(|(pattern, ratio)| (pattern.to_owned(), ratio)).collect())
    }

    /// The ratios that a pruned network has, layer by layer.
    ///
    /// # Errors
    ///
    /// When the networks have other layers, or a layer is wider in the pruned one.
    pub fn of(dense: &Graph, pruned: &Graph) -> Result<Self> {
        let layers = dense.learnable().map(|layer| {
            let (whole, left) = (layer.outputs().len(), pruned.layer(layer.name())?.outputs().len());
            let gone = whole.checked_sub(left).ok_or_else(|| {
                Error::data(format!("layer `{}`", layer.name()), format!("at most {whole} filters"), left)
            })?;
            // Half a filter less: what is meant must not be rounded up to one more.
            Ok(if gone == 0 { 0.0 } else { (gone as f64 - 0.5) / whole as f64 })
        });
        Ok(Self::Layers(layers.collect::<Result<_>>()?))
    }

    /// The ratio of each convolution and linear layer, in the order in which they run.
    ///
    /// - skip: wildcards of layers that stay
    ///
    /// # Errors
    ///
    /// When a ratio is outside `[0, 1)`, a wildcard is none or matches no layer, or there are not as many ratios as
    /// layers or stages.
    pub fn resolve(&self, graph: &Graph, skip: &[String]) -> Result<Vec<f64>> {
        let mut ratios = self.resolve_weights(graph, skip)?;
        for (ratio, layer) in ratios.iter_mut().zip(graph.learnable()) {
            if layer.outputs().iter().any(|&group| graph.is_fixed(group)) {
                *ratio = 0.0;
            }
        }
        Ok(ratios)
    }

    /// [`resolve`](Self::resolve) where single weights go: those of layers whose channels must stay, too.
    pub(crate) fn resolve_weights(&self, graph: &Graph, skip: &[String]) -> Result<Vec<f64>> {
        let names: Vec<&str> = graph.learnable().map(Layer::name).collect();
        let mut ratios = match self {
            Self::Uniform(ratio) => vec![check(*ratio)?; names.len()],
            Self::Patterns(patterns) => {
                let mut ratios = vec![0.0; names.len()];
                for (pattern, ratio) in patterns {
                    for index in matching(pattern, &names)? {
                        ratios[index] = check(*ratio)?;
                    }
                }
                ratios
            }
            Self::Layers(ratios) => {
                if ratios.len() != names.len() {
                    let expected = format!("one for each of {} layers", names.len());
                    return Err(Error::setting("ratios", expected, ratios.len()));
                }
                ratios.iter().map(|&ratio| check(ratio)).collect::<Result<_>>()?
            }
            Self::Ranges(ranges) => {
                let mut ratios = vec![0.0; names.len()];
                for &(first, last, ratio) in ranges {
                    let layers = ratios.get_mut(first..=last).ok_or_else(|| {
                        let expected = format!("ranges of the layers 0 to {}", names.len() - 1);
                        Error::setting("ratios", expected, format!("{first}-{last}"))
                    })?;
                    layers.fill(check(ratio)?);
                }
                ratios
            }
            Self::Stages(stages) => by_stage(stages, &names)?,
        };
        for pattern in skip {
            for index in matching(pattern, &names)? {
                ratios[index] = 0.0;
            }
        }
        Ok(ratios)
    }

    /// Every ratio times `factor`, and below 1.
    pub(crate) fn scaled(&self, factor: f64) -> Self {
        // As near to all as a ratio can be; what must stay in a layer is the selection's affair.
        let scaled = |ratio: &f64| (ratio * factor).clamp(0.0, 1.0 - f64::EPSILON);
        match self {
            Self::Uniform(ratio) => Self::Uniform(scaled(ratio)),
            Self::Patterns(patterns) => {
                Self::Patterns(patterns.iter().map(|(name, ratio)| (name.clone(), scaled(ratio))).collect())
            }
            Self::Layers(ratios) => Self::Layers(ratios.iter().map(scaled).collect()),
            Self::Ranges(ranges) => Self::Ranges(
                ranges.iter().map(|(first, last, ratio)| (*first, *last, scaled(ratio))).collect(),
            ),
            Self::Stages(ratios) => Self::Stages(ratios.iter().map(scaled).collect()),
        }
    }
}

impl FromStr for Ratios {
    type Err = Error;

    /// `0.5` for every layer; `conv1=0.5,layer*.conv1=0.7` by name; `[0-3:0.5,5:0.7]` by number, in the order in which
    /// layers run, both ends included.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            let expected = "`0.5`, `layer=0.5,layer=0.7` or `[0-3:0.5,5:0.7]`";
            Error::setting("ratios", expected, format!("`{text}`"))
        };
        let number = |text: &str| text.trim().parse::<f64>().map_err(|_| bad());
        let text = text.trim();
        if let Some(ranges) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let range = |part: &str| {
                let (layers, ratio) = part.split_once(':').ok_or_else(bad)?;
                let (first, last) = layers.split_once('-').unwrap_or((layers, layers));
                let index = |text: &str| text.trim().parse::<usize>().map_err(|_| bad());
                Ok((index(first)?, index(last)?, number(ratio)?))
            };
            return Ok(Self::Ranges(ranges.split(',').map(range).collect::<Result<_>>()?));
        }
        if !text.contains('=') {
            return number(text).map(Self::Uniform);
        }
        let pair = |part: &str| {
            let (name, ratio) = part.split_once('=').ok_or_else(bad)?;
            Ok((name.trim().to_owned(), number(ratio)?))
        };
        Ok(Self::Patterns(text.split(',').map(pair).collect::<Result<_>>()?))
    }
}

fn check(ratio: f64) -> Result<f64> {
    if (0.0..1.0).contains(&ratio) {
        return Ok(ratio);
    }
    Err(Error::setting("ratio", "from 0 to below 1", ratio))
}

/// The numbers of the names that a wildcard matches.
fn matching(pattern: &str, names: &[&str]) -> Result<Vec<usize>> {
    let glob = Glob::new(pattern)
        .map_err(|error| Error::setting("pattern", "a shell wildcard", format!("`{pattern}`: {error}")))?
        .compile_matcher();
    let found: Vec<usize> = (0..names.len()).filter(|&index| glob.is_match(names[index])).collect();
    if found.is_empty() {
        let expected = format!("to match one of {}", names.join(", "));
        return Err(Error::setting(format!("pattern `{pattern}`"), expected, "no match"));
    }
    Ok(found)
}

/// What is written at the place of a layer: stage and, within a block, its convolution.
fn by_stage(stages: &[f64], names: &[&str]) -> Result<Vec<f64>> {
    let stage_of = |name: &str| -> Option<usize> {
        let (stage, _) = name.strip_prefix("layer")?.split_once('.')?;
        stage.parse().ok()
    };
    let last = names.iter().filter_map(|name| stage_of(name)).max();
    let last = last.ok_or_else(|| Error::setting("ratios by stage", "a residual network", "another"))?;
    if stages.len() != last + 2 {
        let expected = format!("one for the stem, {last} stages and the classifier");
        return Err(Error::setting("ratios by stage", expected, stages.len()));
    }
    if stages[0] != 0.0 || stages[last + 1] != 0.0 {
        return Err(Error::setting("ratios by stage", "0 for the stem and the classifier", "others"));
    }
    // A block's last convolution is the one whose number no other of the block exceeds.
    let is_inner = |name: &str| {
        let Some((block, conv)) = name.rsplit_once(".conv") else { return false };
        let next = conv.parse::<usize>().map(|conv| format!("{block}.conv{}", conv + 1));
        next.is_ok_and(|next| names.contains(&next.as_str()))
    };
    names
        .iter()
        .map(|name| match stage_of(name) {
            Some(stage) if is_inner(name) => check(stages[stage]),
            _ => Ok(0.0),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use leanburn_vision::{Architecture, resnet::ResNetConfig, sequential::SequentialConfig};

    fn lenet() -> Graph {
        SequentialConfig::lenet5(1, 10).graph([32, 32]).unwrap()
    }

    #[test]
    fn texts_are_ratios() {
        let graph = SequentialConfig::lenet5(1, 10).graph([32, 32]).unwrap();
        let resolved = |text: &str| text.parse::<Ratios>().unwrap().resolve(&graph, &[]);
        assert_eq!(resolved("0.5").unwrap(), [0.5, 0.5, 0.5, 0.5, 0.0]);
        assert_eq!(resolved("conv*=0.5,conv2=0.25").unwrap(), [0.5, 0.25, 0.5, 0.0, 0.0]);
        assert_eq!(resolved("[1-3:0.5,2:0.25]").unwrap(), [0.0, 0.5, 0.25, 0.5, 0.0]);
        assert!(resolved("[1-9:0.5]").unwrap_err().to_string().contains("0 to 4"));
        assert!(resolved("[3-1:0.5]").is_err() && resolved("[1:1.5]").is_err());
        for text in ["", "x", "conv1=", "conv1=0.5,0.5", "[1]", "[a:0.5]", "[1:0.5"] {
            assert!(text.parse::<Ratios>().is_err(), "{text}");
        }
        let smaller = SequentialConfig::lenet5(1, 10);
        let kept = crate::Kept::without(&graph, &[("conv2".to_owned(), vec![1, 2, 3])].into()).unwrap();
        let smaller = crate::Prunable::pruned(&smaller, &kept).unwrap().graph([32, 32]).unwrap();
        let ratios = Ratios::of(&graph, &smaller).unwrap().resolve(&graph, &[]).unwrap();
        assert_eq!(
            ratios
                .iter()
                .zip([6.0, 16.0, 120.0, 84.0, 10.0])
                .map(|(r, n)| (r * n).ceil())
                .collect::<Vec<_>>(),
            [0.0, 3.0, 0.0, 0.0, 0.0]
        );
        assert!(Ratios::of(&smaller, &graph).is_err());
    }

    #[test]
    fn later_patterns_override_earlier_ones() {
        let ratios = Ratios::patterns([("*", 0.5), ("conv[2-3]", 0.2), ("conv3", 0.7)]);
        assert_eq!(ratios.resolve(&lenet(), &[]).unwrap(), [0.5, 0.2, 0.7, 0.5, 0.0]);
        let skip = ["conv1".to_owned(), "fc?".to_owned()];
        assert_eq!(ratios.resolve(&lenet(), &skip).unwrap(), [0.0, 0.2, 0.7, 0.0, 0.0]);
        assert_eq!(Ratios::Uniform(0.3).resolve(&lenet(), &[]).unwrap(), [0.3, 0.3, 0.3, 0.3, 0.0]);
    }

    #[test]
    fn stages_are_the_convolutions_within_blocks() {
        let graph = ResNetConfig::torchvision(&[1, 1], true, 10).graph([32, 32]).unwrap();
        let ratios = Ratios::Stages(vec![0.0, 0.5, 0.25, 0.0]).resolve(&graph, &[]).unwrap();
        // conv1, then conv1 to conv3 and the projection of each block, then fc.
        assert_eq!(ratios, [0.0, 0.5, 0.5, 0.0, 0.0, 0.25, 0.25, 0.0, 0.0, 0.0]);
        assert!(Ratios::Stages(vec![0.0, 0.5, 0.0]).resolve(&graph, &[]).is_err());
        assert!(Ratios::Stages(vec![0.0, 0.5, 0.5, 0.1]).resolve(&graph, &[]).is_err());
        assert!(Ratios::Stages(vec![0.0; 4]).resolve(&lenet(), &[]).is_err());
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let refused = |ratios: Ratios, words: &str| {
            let error = ratios.resolve(&lenet(), &[]).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        refused(Ratios::Uniform(1.0), "ratio");
        refused(Ratios::Uniform(-0.1), "ratio");
        refused(Ratios::Uniform(f64::NAN), "ratio");
        refused(Ratios::patterns([("conv9", 0.5)]), "conv9");
        refused(Ratios::patterns([("conv[", 0.5)]), "conv[");
        refused(Ratios::Layers(vec![0.5]), "5 layers");
        assert!(Ratios::Uniform(0.5).resolve(&lenet(), &["other".to_owned()]).is_err());
    }
}
