use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Selection,
    regularised::{GregConfig, TppConfig},
    reinit::{Activation, Reinit},
    unstructured::WeightSelection,
};

/// How many epochs a small network is trained from scratch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScratchEpochs {
    /// Those of the base model.
    Base,
    /// Those of the base model and of the retraining together (Scratch-E): the base recipe, stretched.
    Equal,
    /// As many as cost what the pipeline costs (Scratch-B): the base recipe, stretched.
    Budget,
}

/// What removes filters or weights.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pruner {
    /// Filters, at once, by a selection: L1, random and so on.
    Filters(Selection),
    /// Single weights, at once. The network stays as large, with a mask that retraining keeps.
    Weights(WeightSelection),
    /// Of each `block` weights in a row, the `removed` smallest (N:M sparsity), whatever the ratios.
    Blocks {
        /// How many go.
        removed: usize,
        /// Of how many.
        block: usize,
        /// Wildcards of layers that stay.
        skip: Vec<String>,
    },
    /// Growing regularisation.
    Greg {
        /// Its settings.
        config: GregConfig,
        /// Of the filters that go.
        selection: Selection,
        /// The learning rate while the penalty grows; 0.001 as published.
        rate: f64,
    },
    /// Growing regularisation of single weights.
    GregWeights {
        /// Its settings.
        config: GregConfig,
        /// Of the weights that go.
        selection: WeightSelection,
        /// The learning rate while the penalty grows; 0.001 as published.
        rate: f64,
    },
    /// Trainability preserving pruning.
    Tpp {
        /// Its settings.
        config: TppConfig,
        /// Of the filters that go.
        selection: Selection,
        /// The learning rate while the penalty grows; 0.001 as published.
        rate: f64,
    },
    /// The filters whose removal leaves the smallest training loss, found by trying all: for tiny networks.
    Oracle {
        /// Wildcards of layers that stay.
        skip: Vec<String>,
        /// How many ways may be tried.
        most: usize,
    },
    /// The filters that another network has lost, whatever the ratios: outputs of the dense network's layers, by name.
    /// It is what [`Outcome::removed`](super::Outcome::removed) has.
    Inherited(BTreeMap<String, Vec<usize>>),
    /// Nothing: a small network with new weights is trained instead, whose widths follow from the ratios alone.
    Scratch(ScratchEpochs),
    /// Nothing: a large network with new weights is trained under the mask of the base model's weights, to compare with
    /// the pruning of single weights.
    SparseScratch(WeightSelection, ScratchEpochs),
}

/// A pruning method, as a comparison names it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// What tables call it.
    pub name: String,
    /// What removes filters or weights.
    pub pruner: Pruner,
    /// How the remaining weights are made anew, for which activation.
    #[serde(default)]
    pub reinit: Option<(Reinit, Activation)>,
    /// The activation through which the constants that filters leave behind are
    /// [absorbed](crate::surgery::absorbed); without it they are dropped with the filters.
    #[serde(default)]
    pub absorb: Option<Activation>,
    /// In how many rounds of pruning and retraining; each leaves the same part of what the round before has left.
    #[serde(default = "one")]
    pub rounds: usize,
    /// After each round, the remaining weights go back to what they were after as many epochs of the base model's
    /// training (Frankle et al., 2020); 0 is the initial weights, as of a lottery ticket.
    #[serde(default)]
    pub rewind: Option<usize>,
}

fn one() -> usize {
    1
}

impl Method {
    /// In one round, without reinitialisation.
    pub fn new(name: &str, pruner: Pruner) -> Self {
        Self { name: name.to_owned(), pruner, reinit: None, absorb: None, rounds: 1, rewind: None }
    }

    /// L1 pruning.
    pub fn l1() -> Self {
        Self::new("L1", Pruner::Filters(Selection::new().with_at_most(Some(0.995))))
    }

    /// L1 pruning and the recovery of isometry.
    ///
    /// - activation: the network's
    pub fn orth_p(activation: Activation) -> Self {
        Self { name: "L1 + OrthP".to_owned(), reinit: Some((Reinit::OrthP, activation)), ..Self::l1() }
    }

    /// With constants absorbed, see [`absorb`](Self::absorb).
    #[must_use]
    pub fn with_absorbed(mut self, activation: Activation) -> Self {
        self.absorb = Some(activation);
        self
    }

    /// With another number of rounds.
    #[must_use]
    pub fn with_rounds(mut self, rounds: usize) -> Self {
        self.rounds = rounds;
        self
    }

    /// With weights that go back, see [`rewind`](Self::rewind).
    #[must_use]
    pub fn with_rewind(mut self, epoch: usize) -> Self {
        self.rewind = Some(epoch);
        self
    }

    /// Wildcards of layers that stay.
    pub(super) fn skip(&self) -> &[String] {
        match &self.pruner {
            Pruner::Weights(selection)
            | Pruner::SparseScratch(selection, _)
            | Pruner::GregWeights { selection, .. } => &selection.skip,
            Pruner::Oracle { skip, .. } | Pruner::Blocks { skip, .. } => skip,
            Pruner::Filters(selection) | Pruner::Greg { selection, .. } | Pruner::Tpp { selection, .. } => {
                &selection.skip
            }
            Pruner::Inherited(_) | Pruner::Scratch(_) => &[],
        }
    }

    /// The part of a layer that is gone after a round: each round leaves the same part of what was there.
    ///
    /// - round: counted from 1
    /// - ratio: the part that is gone after the last one
    pub(super) fn until(&self, round: usize, ratio: f64) -> f64 {
        if round == self.rounds {
            return ratio;
        }
        1.0 - (1.0 - ratio).powf(round as f64 / self.rounds as f64)
    }

    /// By what it selects, in words.
    pub(super) fn criterion(&self) -> String {
        let pruner = match &self.pruner {
            Pruner::Weights(selection) | Pruner::GregWeights { selection, .. } => {
                format!("magnitude, {:?}", selection.scope)
            }
            Pruner::Oracle { .. } => "training loss of all ways".to_owned(),
            Pruner::Filters(selection) | Pruner::Greg { selection, .. } | Pruner::Tpp { selection, .. } => {
                format!("{:?}, {:?}", selection.criterion, selection.pick)
            }
            Pruner::Inherited(_) => "another network's".to_owned(),
            Pruner::Blocks { removed, block, .. } => format!("magnitude, {removed} of {block}"),
            Pruner::Scratch(_) | Pruner::SparseScratch(..) => "none".to_owned(),
        };
        match &self.reinit {
            Some((reinit, _)) => format!("{pruner}, then {reinit:?}"),
            None => pruner,
        }
    }
}
