//! The best filters to remove, found by trying all: for tiny networks, as a bound for criteria.

use std::collections::BTreeMap;

use leanburn_core::{Error, Result, architecture::Graph};

use crate::{Kept, Ratios};

/// Of all ways to remove `floor(ratio * filters)` filters of each layer, the one with the smallest loss. Of equal ones it
/// is the first.
///
/// - skip: wildcards of layers that stay
/// - most: how many ways may be tried
/// - loss: of the network without the filters that go
///
/// # Errors
///
/// When ratios do not resolve, there are more ways than may be tried, or `loss` fails.
pub fn oracle(
    graph: &Graph,
    ratios: &Ratios,
    skip: &[String],
    most: usize,
    mut loss: impl FnMut(&Kept) -> Result<f64>,
) -> Result<Kept> {
    let resolved = ratios.resolve(graph, skip)?;
    let layers: Vec<(&str, usize, usize)> = graph
        .learnable()
        .zip(resolved)
        .map(|(layer, ratio)| {
            let count = layer.outputs().len();
            (layer.name(), count, (ratio * count as f64).floor() as usize)
        })
        .filter(|(.., goes)| *goes > 0)
        .collect();
    let ways = layers.iter().try_fold(1_usize, |ways, &(_, count, goes)| {
        ways.checked_mul(combinations(count, goes)?).filter(|ways| *ways <= most)
    });
    if ways.is_none() {
        let found = format!("more, of {} layers", layers.len());
        return Err(Error::setting("ratios", format!("at most {most} ways to remove filters"), found));
    }
    let mut current: Vec<Vec<usize>> = layers.iter().map(|&(.., goes)| (0..goes).collect()).collect();
    let mut best: Option<(f64, Kept)> = None;
    loop {
        let pruned: BTreeMap<String, Vec<usize>> =
            layers.iter().zip(&current).map(|(layer, goes)| (layer.0.to_owned(), goes.clone())).collect();
        let kept = Kept::without(graph, &pruned)?;
        let found = loss(&kept)?;
        if best.as_ref().is_none_or(|(least, _)| found < *least) {
            best = Some((found, kept));
        }
        // The next way: as a number whose digits are combinations.
        let next = layers.iter().zip(&mut current).any(|(&(_, count, goes), combination)| {
            let more = advance(combination, count);
            if !more {
                *combination = (0..goes).collect();
            }
            more
        });
        if !next {
            break;
        }
    }
    best.map(|(_, kept)| kept).ok_or_else(|| Error::data("loss", "a number below infinity", "none"))
}

/// The next combination of numbers below `count` in lexical order; whether there is one.
fn advance(combination: &mut [usize], count: usize) -> bool {
    let size = combination.len();
    let Some(place) = (0..size).rev().find(|&place| combination[place] < count - size + place) else {
        return false;
    };
    combination[place] += 1;
    for later in place + 1..size {
        combination[later] = combination[later - 1] + 1;
    }
    true
}

/// How many ways there are to choose `goes` of `count`; none where the number is too large.
fn combinations(count: usize, goes: usize) -> Option<usize> {
    (0..goes).try_fold(1_usize, |ways, place| Some(ways.checked_mul(count - place)? / (place + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use leanburn_vision::{Architecture, sequential::SequentialConfig};

    #[test]
    fn all_ways_are_tried_and_the_best_is_found() {
        let graph = SequentialConfig::mlp([1, 2, 2], &[5, 4, 3], true).graph([2, 2]).unwrap();
        let ratios = Ratios::patterns([("net.0", 0.5), ("net.2", 0.25)]);
        let mut tried = std::collections::BTreeSet::new();
        let loss = |kept: &Kept| {
            let layers = (kept.outputs("net.0")?.to_vec(), kept.outputs("net.2")?.to_vec());
            let distance = layers.0.iter().filter(|filter| ![0, 2, 3].contains(*filter)).count()
                + layers.1.iter().filter(|filter| **filter == 2).count();
            tried.insert(layers);
            Ok(distance as f64)
        };
        let best = oracle(&graph, &ratios, &[], 1000, loss).unwrap();
        assert_eq!(
            (best.outputs("net.0").unwrap(), best.outputs("net.2").unwrap()),
            (&[0, 2, 3][..], &[0, 1, 3][..])
        );
        assert_eq!(tried.len(), 10 * 4);
        let error = oracle(&graph, &ratios, &[], 39, |_| Ok(0.0)).unwrap_err().to_string();
        assert!(error.contains("39 ways"), "{error}");
        assert_eq!(combinations(52, 5), Some(2_598_960));
        assert_eq!(combinations(1000, 500), None);
    }
}
