use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use burn::{
    data::dataloader::{DataLoader, DataLoaderIterator, Progress},
    tensor::backend::Backend,
};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    random::{Generator, streams},
};

/// Samples by number.
pub trait Dataset: Send + Sync + 'static {
    /// One sample.
    type Item: Send;

    /// How many samples there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What beside their number tells these samples from others: a run goes on with those alone that it began with.
    fn description(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Sample `index`, in `0..len`.
    ///
    /// - generator: for augmentation; it depends on the loader's seed, the epoch and `index` alone
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    fn get(&self, index: usize, generator: &mut Generator) -> Result<Self::Item>;
}

impl<D: Dataset> Dataset for Arc<D> {
    type Item = D::Item;

    fn len(&self) -> usize {
        (**self).len()
    }

    fn description(&self) -> serde_json::Value {
        (**self).description()
    }

    fn get(&self, index: usize, generator: &mut Generator) -> Result<D::Item> {
        (**self).get(index, generator)
    }
}

/// A batch.
#[derive(Debug, Clone)]
pub struct Batch<T> {
    /// How many samples it holds.
    pub items: usize,
    /// How much its gradients count among those of several batches that make a step.
    pub weight: f64,
    /// What the model's step takes.
    pub value: T,
}

/// In which order samples come: equal orders give equal batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    samples: usize,
    batch_size: usize,
    seed: Option<u64>,
    drop_last: bool,
    /// As [`Dataset::description`].
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    data: serde_json::Value,
}

/// Epochs of batches.
pub trait Batches<T>: Send + Sync {
    /// Batches of an epoch.
    fn batches(&self) -> usize;

    /// Samples of an epoch.
    fn samples(&self) -> usize;

    /// What a checkpoint compares, to resume in the same order.
    fn order(&self) -> serde_json::Value;

    /// The batches of an epoch, from batch `first` on.
    fn epoch(&self, epoch: usize, first: usize) -> Box<dyn Iterator<Item = Result<Batch<T>>> + Send>;
}

/// Makes a batch of samples.
type Collate<D, T> = Arc<dyn Fn(Vec<<D as Dataset>::Item>) -> Result<T> + Send + Sync>;

/// How much a batch counts.
type Weigh<T> = Arc<dyn Fn(&T) -> f64 + Send + Sync>;

/// Batches of a [`Dataset`], prepared by threads ahead of their use.
///
/// Which samples a batch holds, and the generator that each sample gets, depend on the seed, the epoch and the index
/// alone, so that a run can be resumed anywhere, on a machine with other cores.
pub struct Loader<D: Dataset, T> {
    dataset: Arc<D>,
    collate: Collate<D, T>,
    weigh: Option<Weigh<T>>,
    order: Order,
    workers: usize,
}

impl<D: Dataset, T> Loader<D, T> {
    /// A loader in the data set's own order, for evaluation. Of its samples the last batch holds what is left.
    ///
    /// - collate: makes a batch of samples
    ///
    /// # Errors
    ///
    /// When there is no sample, or the batch size is 0.
    pub fn new(
        dataset: D,
        batch_size: usize,
        collate: impl Fn(Vec<D::Item>) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Self> {
        let samples = dataset.len();
        if samples == 0 {
            return Err(Error::data("data set", "at least one sample", "none"));
        }
        if batch_size == 0 {
            return Err(Error::setting("batch_size", "at least 1", 0));
        }
        let data = dataset.description();
        let order = Order { samples, batch_size, seed: None, drop_last: false, data };
        let workers = thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { dataset: Arc::new(dataset), collate: Arc::new(collate), weigh: None, order, workers })
    }

    /// With another random order in each epoch.
    #[must_use]
    pub fn shuffled(mut self, seed: u64) -> Self {
        self.order.seed = Some(seed);
        self
    }

    /// Without the last batch where it is smaller than the others, unless there is no other.
    #[must_use]
    pub fn drop_last(mut self) -> Self {
        self.order.drop_last = true;
        self
    }

    /// With batches that count otherwise than by their samples among those that make a step together.
    ///
    /// - weigh: how much a batch counts, above 0
    #[must_use]
    pub fn weighted(mut self, weigh: impl Fn(&T) -> f64 + Send + Sync + 'static) -> Self {
        self.weigh = Some(Arc::new(weigh));
        self
    }

    /// With another number of threads than the machine has cores; they change no batch.
    #[must_use]
    pub fn with_workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }
}

impl<D: Dataset, T: Send + 'static> Batches<T> for Loader<D, T> {
    fn batches(&self) -> usize {
        let Order { samples, batch_size, drop_last, .. } = self.order;
        if drop_last && samples >= batch_size { samples / batch_size } else { samples.div_ceil(batch_size) }
    }

    fn samples(&self) -> usize {
        (self.batches() * self.order.batch_size).min(self.order.samples)
    }

    fn order(&self) -> serde_json::Value {
        serde_json::to_value(&self.order).expect("numbers are JSON")
    }

    fn epoch(&self, epoch: usize, first: usize) -> Box<dyn Iterator<Item = Result<Batch<T>>> + Send> {
        let count = self.batches();
        let seed = self.order.seed.unwrap_or_default();
        let order: Vec<usize> = match self.order.seed {
            Some(seed) => {
                Generator::sample(seed, epoch, streams::ORDER as usize).permutation(self.order.samples)
            }
            None => (0..self.order.samples).collect(),
        };
        let work = Arc::new(Work {
            dataset: self.dataset.clone(),
            collate: self.collate.clone(),
            weigh: self.weigh.clone(),
            order,
            batch_size: self.order.batch_size,
            seed,
            epoch,
            next: AtomicUsize::new(first),
            count,
        });
        // Two batches a worker are ready or under way.
        let (sender, receiver) = sync_channel(self.workers);
        for _ in 0..self.workers.min(count.saturating_sub(first)) {
            let (work, sender) = (work.clone(), sender.clone());
            thread::spawn(move || work.run(&sender));
        }
        Box::new(Ordered { receiver, waiting: BTreeMap::new(), next: first, count })
    }
}

/// An epoch's batches, as the workers share them.
struct Work<D: Dataset, T> {
    dataset: Arc<D>,
    collate: Collate<D, T>,
    weigh: Option<Weigh<T>>,
    order: Vec<usize>,
    batch_size: usize,
    seed: u64,
    epoch: usize,
    next: AtomicUsize,
    count: usize,
}

impl<D: Dataset, T> Work<D, T> {
    /// Makes batches until none is left, or nobody wants one.
    fn run(&self, sender: &SyncSender<(usize, Result<Batch<T>>)>) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.count || sender.send((index, self.batch(index))).is_err() {
                return;
            }
        }
    }

    fn batch(&self, index: usize) -> Result<Batch<T>> {
        let first = index * self.batch_size;
        let samples = &self.order[first..(first + self.batch_size).min(self.order.len())];
        let items = samples
            .iter()
            .map(|&sample| self.dataset.get(sample, &mut Generator::sample(self.seed, self.epoch, sample)));
        let items = items.collect::<Result<Vec<_>>>()?;
        let count = items.len();
        let value = (self.collate)(items)?;
        let weight = self.weigh.as_ref().map_or(count as f64, |weigh| weigh(&value));
        Ok(Batch { items: count, weight, value })
    }
}

/// The workers' batches in their order.
struct Ordered<T> {
    receiver: Receiver<(usize, Result<Batch<T>>)>,
    waiting: BTreeMap<usize, Result<Batch<T>>>,
    next: usize,
    count: usize,
}

impl<T> Iterator for Ordered<T> {
    type Item = Result<Batch<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.count {
            return None;
        }
        let batch = loop {
            if let Some(batch) = self.waiting.remove(&self.next) {
                break batch;
            }
            match self.receiver.recv() {
                Ok((index, batch)) => self.waiting.insert(index, batch),
                // A worker's panic took its batch with it.
                Err(_) => {
                    break Err(Error::data(format!("batch {}", self.next), "its samples", "a panic"));
                }
            };
        };
        self.next += 1;
        Some(batch)
    }
}

/// [`Batches`] as Burn's own strategies take them, those for several devices for instance.
///
/// Each call of `iter` is the next epoch. Burn's loaders cannot fail, so a sample that cannot be read is a panic.
pub struct BurnLoader<T> {
    batches: Arc<dyn Batches<T>>,
    /// Samples from and to.
    range: (usize, usize),
    epoch: AtomicUsize,
}

impl<T> BurnLoader<T> {
    /// All batches.
    pub fn new(batches: Arc<dyn Batches<T>>) -> Self {
        let range = (0, batches.samples());
        Self { batches, range, epoch: AtomicUsize::new(0) }
    }

    fn with_range(&self, range: (usize, usize)) -> Self {
        let epoch = AtomicUsize::new(self.epoch.load(Ordering::Relaxed));
        Self { batches: self.batches.clone(), range, epoch }
    }
}

impl<B: Backend, T: Send + 'static> DataLoader<B, T> for BurnLoader<T> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<T> + 'a> {
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed);
        let (from, to) = self.range;
        // Whole batches belong to the part in which they start.
        let size = self.batches.samples().div_ceil(self.batches.batches());
        let (first, last) = (from.div_ceil(size), to.div_ceil(size));
        let batches = self.batches.epoch(epoch, first).take(last - first);
        Box::new(BurnIterator { batches, done: 0, total: to - from })
    }

    fn num_items(&self) -> usize {
        self.range.1 - self.range.0
    }

    fn to_device(&self, _device: &B::Device) -> Arc<dyn DataLoader<B, T>> {
        Arc::new(self.with_range(self.range))
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<B, T>> {
        Arc::new(self.with_range((self.range.0 + start, self.range.0 + end)))
    }
}

struct BurnIterator<I> {
    batches: I,
    done: usize,
    total: usize,
}

impl<T, I: Iterator<Item = Result<Batch<T>>>> Iterator for BurnIterator<I> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let batch = self.batches.next()?.unwrap_or_else(|error| panic!("{error}"));
        self.done += batch.items;
        Some(batch.value)
    }
}

impl<T, I: Iterator<Item = Result<Batch<T>>>> DataLoaderIterator<T> for BurnIterator<I> {
    fn progress(&self) -> Progress {
        Progress::new(self.done, self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_flex::Flex;

    /// The numbers themselves, each with a draw; some cannot be read.
    struct Numbers(usize, Option<usize>);

    impl Dataset for Numbers {
        type Item = (usize, usize);

        fn len(&self) -> usize {
            self.0
        }

        fn get(&self, index: usize, generator: &mut Generator) -> Result<(usize, usize)> {
            match self.1 {
                Some(broken) if broken == index => Err(Error::data(format!("sample {index}"), "one", "none")),
                _ => Ok((index, generator.below(1000))),
            }
        }
    }

    type Pairs = Vec<(usize, usize)>;

    fn loader(workers: usize) -> Loader<Numbers, Pairs> {
        Loader::new(Numbers(23, None), 4, Ok).unwrap().shuffled(7).with_workers(workers)
    }

    fn epoch(batches: &dyn Batches<Pairs>, epoch: usize, first: usize) -> Vec<Pairs> {
        batches.epoch(epoch, first).map(|batch| batch.unwrap().value).collect()
    }

    #[test]
    fn order_and_draws_depend_on_seed_epoch_and_index_alone() {
        let one = epoch(&loader(1), 2, 0);
        assert_eq!(one.len(), 6);
        assert_eq!(one, epoch(&loader(5), 2, 0));
        // From the middle on.
        assert_eq!(one[4..], epoch(&loader(3), 2, 4));
        assert_ne!(one, epoch(&loader(1), 3, 0));
        let mut all: Vec<usize> = one.concat().iter().map(|(index, _)| *index).collect();
        all.sort_unstable();
        assert_eq!(all, (0..23).collect::<Vec<_>>());
        // The same sample is drawn for anew in each epoch.
        let draws = |epoch: &[Pairs]| epoch.concat().into_iter().collect::<BTreeMap<_, _>>();
        assert_ne!(draws(&one), draws(&epoch(&loader(1), 3, 0)));
    }

    #[test]
    fn the_last_batch_may_be_dropped() {
        let dropped = loader(2).drop_last();
        assert_eq!((dropped.batches(), dropped.samples()), (5, 20));
        assert_eq!(epoch(&dropped, 0, 0).concat().len(), 20);
        assert_eq!((loader(2).batches(), loader(2).samples()), (6, 23));
    }

    #[test]
    fn a_sample_that_cannot_be_read_is_an_error_in_its_place() {
        let broken = Loader::new(Numbers(23, Some(9)), 4, Ok).unwrap().with_workers(3);
        let batches: Vec<Result<Batch<Pairs>>> = broken.epoch(0, 0).collect();
        assert_eq!(
            batches.iter().map(Result::is_ok).collect::<Vec<_>>(),
            [true, true, false, true, true, true]
        );
        let error = batches.into_iter().find_map(Result::err).unwrap();
        assert!(error.to_string().contains("sample 9"), "{error}");
        assert!(Loader::new(Numbers(0, None), 4, Ok::<Pairs, Error>).is_err());
        assert!(Loader::new(Numbers(3, None), 0, Ok::<Pairs, Error>).is_err());
    }

    #[test]
    fn burns_strategies_take_the_same_batches() {
        let burn = BurnLoader::new(Arc::new(loader(2)));
        let burn: &dyn DataLoader<Flex, Pairs> = &burn;
        for number in 0..2 {
            assert_eq!(burn.iter().collect::<Vec<_>>(), epoch(&loader(1), number, 0));
        }
        let (front, back) = (burn.slice(0, 10), burn.slice(10, 23));
        let parts = [front.iter().collect::<Vec<_>>(), back.iter().collect()].concat();
        assert_eq!(parts, epoch(&loader(1), 2, 0));
    }
}
