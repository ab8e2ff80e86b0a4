use std::{collections::BTreeMap, path::Path};

use burn::tensor::{TensorData, backend::Backend};
use leanburn_core::{
    Error, Result,
    checkpoint::{self, Checkpoint},
    random::Generator,
};

use super::{Mask, MaskKind, Subnet, model::values};
use crate::llama::{Llama, Place};

/// The masks of a network's matrices, as a task has learned them: a bit an entry, so that those of many tasks can be kept
/// beside one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masks(BTreeMap<Place, Mask>);

impl Masks {
    /// Masks by their matrices.
    pub fn new(masks: impl IntoIterator<Item = (Place, Mask)>) -> Self {
        Self(masks.into_iter().collect())
    }

    /// The baseline of random masks: each entry is kept with the subnet's share as its probability.
    ///
    /// # Errors
    ///
    /// When the subnet does not fit the network, or has thresholds in the place of shares.
    pub fn random<B: Backend>(network: &Llama<B>, subnet: &Subnet, seed: u64) -> Result<Self> {
        let places = subnet.places(network.config().num_hidden_layers)?;
        let masks = (0..).zip(places).map(|(number, place)| {
            let keep = keep(subnet, place)?;
            let shape = network.projection(place).weight.dims();
            let mut generator = Generator::stream(seed, number);
            let draws: Vec<bool> = (0..shape[0] * shape[1]).map(|_| generator.chance(keep)).collect();
            Ok((place, Mask::new(shape, |entry| draws[entry])))
        });
        Ok(Self(masks.collect::<Result<_>>()?))
    }

    /// The baseline of magnitudes: of each matrix the smallest weights are removed.
    ///
    /// # Errors
    ///
    /// When the subnet does not fit the network, or has thresholds in the place of shares.
    pub fn smallest_weights<B: Backend>(network: &Llama<B>, subnet: &Subnet) -> Result<Self> {
        let places = subnet.places(network.config().num_hidden_layers)?;
        let masks = places.into_iter().map(|place| {
            let weight = network.projection(place).weight.val();
            let shape = weight.dims();
            Ok((place, Mask::largest(&values(weight), shape, keep(subnet, place)?)))
        });
        Ok(Self(masks.collect::<Result<_>>()?))
    }

    /// A matrix's mask.
    pub fn get(&self, place: Place) -> Option<&Mask> {
        self.0.get(&place)
    }

    /// All masks, by layers.
    pub fn iter(&self) -> impl Iterator<Item = (Place, &Mask)> {
        self.0.iter().map(|(place, mask)| (*place, mask))
    }

    /// The share of the masked matrices' entries that is kept.
    pub fn kept_ratio(&self) -> f64 {
        let kept: usize = self.0.values().map(Mask::kept).sum();
        kept as f64 / self.entries() as f64
    }

    /// The share of entries in which these and other masks of the same matrices differ.
    ///
    /// # Panics
    ///
    /// When they are of other matrices.
    pub fn flip_rate(&self, other: &Self) -> f64 {
        assert!(self.0.keys().eq(other.0.keys()), "masks of the same matrices");
        let pairs = self.0.values().zip(other.0.values());
        let differing: usize = pairs.map(|(a, b)| a.differing(b)).sum();
        differing as f64 / self.entries() as f64
    }

    fn entries(&self) -> usize {
        self.0.values().map(Mask::entries).sum()
    }

    /// The network with the masks multiplied into its weights: an ordinary one. Matrices without a mask are shared with the
    /// network that it is made of, so that a task takes no more memory than what it masks.
    ///
    /// # Errors
    ///
    /// When a mask has no matrix of its shape.
    pub fn apply<B: Backend>(&self, network: &Llama<B>) -> Result<Llama<B>> {
        self.check(network)?;
        Ok(self.0.iter().fold(network.clone(), |masked, (&place, mask)| {
            let weight = mask.apply(network.projection(place).weight.val());
            masked.with_weight(place, weight.detach())
        }))
    }

    fn check<B: Backend>(&self, network: &Llama<B>) -> Result<()> {
        let layers = network.config().num_hidden_layers;
        for (place, mask) in &self.0 {
            let location = format!("mask of `{}`", place.path());
            if place.layer >= layers {
                return Err(Error::data(location, format!("one of {layers} layers"), place.layer));
            }
            let shape = network.projection(*place).weight.dims();
            if mask.shape() != shape {
                return Err(Error::data(location, format!("shape {shape:?}"), format!("{:?}", mask.shape())));
            }
        }
        Ok(())
    }

    /// Writes the masks as safetensors: of each matrix `<name>.mask`, a bit an entry, and `<name>.shape`. Entries go row by row
    /// from the lowest bit of the first byte on, as `numpy.unpackbits(bits, bitorder="little")` reads them.
    ///
    /// # Errors
    ///
    /// When the file exists or cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let tensors = self.0.iter().flat_map(|(place, mask)| {
            let shape = mask.shape().map(|side| side as i64);
            let bits = mask.bits().to_vec();
            let length = bits.len();
            [
                (format!("{}.mask", place.path()), TensorData::new(bits, [length])),
                (format!("{}.shape", place.path()), TensorData::from(shape)),
            ]
        });
        checkpoint::save_tensors(tensors, path)
    }

    /// Masks that [`save`](Self::save) wrote, or the published program (`masks.pt`: a matrix of zeros and ones for each).
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or holds something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let mut masks = BTreeMap::new();
        let names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
        for name in names.iter().filter(|name| name.strip_suffix(".shape").is_none()) {
            let error = |expected: &str, found: &dyn std::fmt::Display| {
                Error::format(checkpoint.path(), format!("tensor `{name}`"), expected, found)
            };
            let place = Place::parse(name).ok_or_else(|| error("the mask of a matrix", &"another name"))?;
            let data = checkpoint.read(name)?;
            let mask = if let Some(matrix) = name.strip_suffix(".mask") {
                let shape: Vec<i64> = checkpoint.read(&format!("{matrix}.shape"))?.iter::<i64>().collect();
                let shape = <[i64; 2]>::try_from(shape).map(|shape| shape.map(|side| side.max(0) as usize));
                let bits: Vec<u8> = data.iter::<u8>().collect();
                let mask = shape.ok().and_then(|shape| Mask::from_bits(shape, bits));
                mask.ok_or_else(|| error("a bit for each entry of its shape", &"another number of bits"))?
            } else {
                let shape = <[usize; 2]>::try_from(data.shape.to_vec())
                    .map_err(|shape| error("a matrix", &format!("shape {shape:?}")))?;
                let values: Vec<f32> = data.iter::<f32>().collect();
                if let Some(other) = values.iter().find(|value| **value != 0.0 && **value != 1.0) {
                    return Err(error("zeros and ones", other));
                }
                Mask::new(shape, |entry| values[entry] == 1.0)
            };
            masks.insert(place, mask);
        }
        if masks.is_empty() {
            return Err(Error::format(checkpoint.path(), "file", "masks", "none"));
        }
        Ok(Self(masks))
    }
}

/// The share of a matrix that a subnet keeps.
fn keep(subnet: &Subnet, place: Place) -> Result<f64> {
    match subnet.kind {
        MaskKind::Local { .. } => Ok(subnet.kind.setting(place.matrix)),
        MaskKind::Global { .. } => {
            Err(Error::setting("subnet_type", "`local`, whose shares a baseline keeps", "`global`"))
        }
    }
}
