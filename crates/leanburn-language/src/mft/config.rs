use std::path::Path;

use burn::tensor::{Tensor, backend::Backend};
use leanburn_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::llama::{Matrix, Place};

/// Which matrices are masked, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subnet {
    /// By what entries are removed.
    pub kind: MaskKind,
    /// The matrices of each layer.
    pub mode: SubnetMode,
    /// The decoder layers, counted from 0; all of them when there is no list, and of thresholds in any case.
    pub layers: Option<Vec<usize>>,
}

/// By what a mask removes entries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskKind {
    /// Of each matrix by itself, those whose scores' amounts are smallest.
    Local {
        /// The share of attention's entries that is kept (the published files call it `sparsity_attn`).
        keep_attention: f64,
        /// The share of the MLP's entries that is kept (`sparsity_mlp`).
        keep_mlp: f64,
    },
    /// Those whose scores are below a threshold.
    Global {
        /// Of attention's scores.
        threshold_attention: f64,
        /// Of the MLP's scores.
        threshold_mlp: f64,
    },
}

impl MaskKind {
    /// What decides about a matrix: the share that is kept, or the threshold.
    pub(super) fn setting(self, matrix: Matrix) -> f64 {
        let (attention, mlp) = match self {
            Self::Local { keep_attention, keep_mlp } => (keep_attention, keep_mlp),
            Self::Global { threshold_attention, threshold_mlp } => (threshold_attention, threshold_mlp),
        };
        if matrix.is_attention() { attention } else { mlp }
    }

    /// The gradient of scores, straight through the mask that they make.
    ///
    /// - `of_mask`: the gradient of the mask's entries
    pub fn gradient<B: Backend>(self, of_mask: Tensor<B, 2>, scores: Tensor<B, 2>) -> Tensor<B, 2> {
        match self {
            Self::Local { .. } => of_mask * scores.sign(),
            Self::Global { .. } => of_mask,
        }
    }
}

/// The value of a rank in a distribution of scores, from which a threshold is chosen: of rank `round(quantile * (n - 1))` of
/// `n` values, halves rounded to the even one, as the published helper has it.
///
/// # Panics
///
/// When there is no value, or the quantile is not from 0 to 1.
pub fn percentile(values: &[f32], quantile: f64) -> f32 {
    assert!((0.0..=1.0).contains(&quantile) && !values.is_empty(), "a quantile of some values");
    let rank = (quantile * (values.len() - 1) as f64).round_ties_even() as usize;
    let mut values = values.to_vec();
    *values.select_nth_unstable_by(rank, f32::total_cmp).1
}

/// Which matrices of a layer are masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubnetMode {
    /// Attention's four.
    #[serde(rename = "attn")]
    Attention,
    /// The MLP's three.
    Mlp,
    /// All seven.
    Both,
}

impl SubnetMode {
    /// The matrices.
    pub fn matrices(self) -> &'static [Matrix] {
        match self {
            Self::Attention => &Matrix::ATTENTION,
            Self::Mlp => &Matrix::MLP,
            Self::Both => &Matrix::ALL,
        }
    }
}

/// What the scores are drawn from at first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreInitial {
    /// `N(0, deviation)`. The published program draws so, with the model's `initializer_range`, 0.02.
    Normal(f64),
    /// Uniform within `1 / sqrt(inputs)`: what the published layer's own constructor draws.
    Kaiming,
}

impl Subnet {
    /// The published one: 90 % of attention and of the MLP kept, in some layers.
    pub fn new(layers: impl Into<Vec<usize>>) -> Self {
        Self {
            kind: MaskKind::Local { keep_attention: 0.9, keep_mlp: 0.9 },
            mode: SubnetMode::Both,
            layers: Some(layers.into()),
        }
    }

    /// LLaMA-2-7B's for mathematics: layers 4 to 7.
    pub fn math() -> Self {
        Self::new([4, 5, 6, 7])
    }

    /// LLaMA-2-7B's for coding: layers 20 to 23.
    pub fn coding() -> Self {
        Self::new([20, 21, 22, 23])
    }

    /// LLaMA-2-7B's for following instructions: layers 0 to 3.
    pub fn instruction_following() -> Self {
        Self::new([0, 1, 2, 3])
    }

    /// With another share kept, of attention and of the MLP alike.
    #[must_use]
    pub fn with_keep(self, keep: f64) -> Self {
        Self { kind: MaskKind::Local { keep_attention: keep, keep_mlp: keep }, ..self }
    }

    /// With other matrices.
    #[must_use]
    pub fn with_mode(self, mode: SubnetMode) -> Self {
        Self { mode, ..self }
    }

    /// The masked matrices of a network.
    ///
    /// - layers: of the network
    ///
    /// # Errors
    ///
    /// When a share is not from above 0 to 1, a threshold is no number, or a layer is not one of the network's or named twice.
    pub fn places(&self, layers: usize) -> Result<Vec<Place>> {
        match self.kind {
            MaskKind::Local { keep_attention, keep_mlp } => {
                for (field, keep) in [("sparsity_attn", keep_attention), ("sparsity_mlp", keep_mlp)] {
                    if !(keep > 0.0 && keep <= 1.0) {
                        let expected = "the share that is kept, from above 0 to 1";
                        return Err(Error::setting(field, expected, keep));
                    }
                }
            }
            MaskKind::Global { threshold_attention, threshold_mlp } => {
                for (field, threshold) in
                    [("threshold_attn", threshold_attention), ("threshold_mlp", threshold_mlp)]
                {
                    if !threshold.is_finite() {
                        return Err(Error::setting(field, "a finite number", threshold));
                    }
                }
            }
        }
        let mut masked = match (&self.layers, self.kind) {
            (Some(layers), MaskKind::Local { .. }) => layers.clone(),
            _ => (0..layers).collect(),
        };
        masked.sort_unstable();
        let distinct = masked.is_sorted_by(|a, b| a < b);
        if masked.is_empty() || !distinct || masked.last().is_some_and(|last| *last >= layers) {
            let expected = format!("layers from 0 to {}, each once", layers.saturating_sub(1));
            return Err(Error::setting("masked_layers", expected, format!("{masked:?}")));
        }
        let matrices = self.mode.matrices();
        Ok(masked
            .into_iter()
            .flat_map(|layer| matrices.iter().map(move |&matrix| Place { layer, matrix }))
            .collect())
    }

    /// The subnet in the contents of a published `config.json`; `None` of a plain model's.
    ///
    /// - path: the file, for errors
    ///
    /// # Errors
    ///
    /// When a key is missing or of another type.
    pub fn from_json(json: &Map<String, Value>, path: &Path) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Published {
            subnet_type: Option<String>,
            subnet_mode: Option<SubnetMode>,
            sparsity_attn: Option<f64>,
            sparsity_mlp: Option<f64>,
            threshold_attn: Option<f64>,
            threshold_mlp: Option<f64>,
            masked_layers: Option<Vec<usize>>,
        }
        let published: Published = serde_json::from_value(Value::Object(json.clone()))
            .map_err(|error| Error::format(path, "file", "the keys of a masked model", error))?;
        let missing = |key: &str| Error::format(path, format!("`{key}`"), "a number", "none");
        let Some(mode) = published.subnet_mode else { return Ok(None) };
        // A ratio that the mode does not use may be absent.
        let number = |value: Option<f64>, key: &str, used: bool, otherwise: f64| {
            value.or((!used).then_some(otherwise)).ok_or_else(|| missing(key))
        };
        let (attention, mlp) = (mode != SubnetMode::Mlp, mode != SubnetMode::Attention);
        match published.subnet_type.as_deref() {
            Some("local") => Ok(Some(Self {
                kind: MaskKind::Local {
                    keep_attention: number(published.sparsity_attn, "sparsity_attn", attention, 1.0)?,
                    keep_mlp: number(published.sparsity_mlp, "sparsity_mlp", mlp, 1.0)?,
                },
                mode,
                layers: published.masked_layers,
            })),
            // A threshold holds in all layers, whatever the list says.
            Some("global") => Ok(Some(Self {
                kind: MaskKind::Global {
                    threshold_attention: number(published.threshold_attn, "threshold_attn", attention, 0.0)?,
                    threshold_mlp: number(published.threshold_mlp, "threshold_mlp", mlp, 0.0)?,
                },
                mode,
                layers: None,
            })),
            other => {
                let found = format!("`{}`", other.unwrap_or("null"));
                Err(Error::format(path, "`subnet_type`", "`local` or `global`", found))
            }
        }
    }

    /// The keys that a published `config.json` has for it.
    pub fn to_json(&self) -> Map<String, Value> {
        let (kind, keep, threshold) = match self.kind {
            MaskKind::Local { keep_attention, keep_mlp } => {
                ("local", [json!(keep_attention), json!(keep_mlp)], [Value::Null, Value::Null])
            }
            MaskKind::Global { threshold_attention, threshold_mlp } => {
                ("global", [Value::Null, Value::Null], [json!(threshold_attention), json!(threshold_mlp)])
            }
        };
        let ([keep_attention, keep_mlp], [threshold_attention, threshold_mlp]) = (keep, threshold);
        let layers = self.layers.as_ref().filter(|_| kind == "local");
        let values = [
            ("subnet_type", json!(kind)),
            ("subnet_mode", json!(self.mode)),
            ("sparsity_attn", keep_attention),
            ("sparsity_mlp", keep_mlp),
            ("threshold_attn", threshold_attention),
            ("threshold_mlp", threshold_mlp),
            ("masked_layers", json!(layers)),
        ];
        values.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_keys_are_read_and_written() {
        for subnet in [
            Subnet::math(),
            Subnet::coding().with_mode(SubnetMode::Attention).with_keep(0.8),
            Subnet {
                kind: MaskKind::Global { threshold_attention: -0.01, threshold_mlp: 0.02 },
                mode: SubnetMode::Mlp,
                layers: None,
            },
        ] {
            let json = subnet.to_json();
            assert_eq!(Subnet::from_json(&json, Path::new("config.json")).unwrap(), Some(subnet));
        }
        let mut plain = Subnet::math().to_json();
        plain.values_mut().for_each(|value| *value = Value::Null);
        assert_eq!(Subnet::from_json(&plain, Path::new("config.json")).unwrap(), None);
        let mut half = Subnet::math().to_json();
        half.insert("sparsity_mlp".to_owned(), Value::Null);
        let error = Subnet::from_json(&half, Path::new("config.json")).unwrap_err();
        assert!(error.to_string().contains("sparsity_mlp"));
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(Subnet::new([1, 0]).places(2).unwrap().len(), 14);
        let all = Subnet { layers: None, ..Subnet::math() }.with_mode(SubnetMode::Mlp);
        assert_eq!(all.places(3).unwrap().len(), 9);
        for (subnet, field) in [
            (Subnet::math(), "masked_layers"),
            (Subnet::new([1, 1]), "masked_layers"),
            (Subnet::new([]), "masked_layers"),
            (Subnet::new([1]).with_keep(1.1), "sparsity_attn"),
            (Subnet::new([1]).with_keep(0.0), "sparsity_attn"),
            (Subnet::new([1]).with_keep(f64::NAN), "sparsity_attn"),
        ] {
            assert!(subnet.places(4).unwrap_err().to_string().contains(field));
        }
    }
}
