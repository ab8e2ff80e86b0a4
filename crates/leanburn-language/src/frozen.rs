use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use burn::{
    module::{
        AutodiffModule, Content, Devices, EmptyRecord, Module, ModuleDisplay, ModuleDisplayDefault,
        ModuleMapper, ModuleVisitor, Param,
    },
    tensor::{
        Tensor,
        backend::{AutodiffBackend, Backend},
    },
};

use crate::llama::Place;

/// A module that training does not touch: neither its optimiser nor its checkpoints see it.
#[derive(Debug, Clone)]
pub(crate) struct Frozen<M>(M);

impl<M> Frozen<M> {
    pub(crate) fn new<B: Backend>(module: M) -> Self
    where
        M: Module<B>,
    {
        Self(module.no_grad())
    }

    pub(crate) fn get(&self) -> &M {
        &self.0
    }

    /// A copy that training changes.
    pub(crate) fn thawed<B: Backend>(&self) -> M
    where
        M: Module<B>,
    {
        struct Thaw;
        impl<B: Backend> ModuleMapper<B> for Thaw {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
                param.set_require_grad(true)
            }
        }
        self.0.clone().map(&mut Thaw)
    }
}

impl<B: Backend, M: Module<B>> Module<B> for Frozen<M> {
    type Record = EmptyRecord;

    fn collect_devices(&self, devices: Devices<B>) -> Devices<B> {
        self.0.collect_devices(devices)
    }

    fn fork(self, device: &B::Device) -> Self {
        Self(self.0.fork(device))
    }

    fn to_device(self, device: &B::Device) -> Self {
        Self(self.0.to_device(device))
    }

    fn visit<V: ModuleVisitor<B>>(&self, _visitor: &mut V) {}

    fn map<P: ModuleMapper<B>>(self, _mapper: &mut P) -> Self {
        self
    }

    fn load_record(self, _record: EmptyRecord) -> Self {
        self
    }

    fn into_record(self) -> EmptyRecord {
        EmptyRecord::new()
    }
}

impl<B: AutodiffBackend, M: AutodiffModule<B>> AutodiffModule<B> for Frozen<M> {
    type InnerModule = Frozen<M::InnerModule>;

    fn valid(&self) -> Self::InnerModule {
        Frozen(self.0.valid())
    }

    fn from_inner(module: Self::InnerModule) -> Self {
        Self(M::from_inner(module.0))
    }
}

impl<M> ModuleDisplayDefault for Frozen<M> {
    fn content(&self, content: Content) -> Option<Content> {
        content.set_top_level_type("Frozen").optional()
    }
}

impl<M> ModuleDisplay for Frozen<M> {}

/// Matrices computed from parameters, kept until the parameters change: whatever changes parameters maps the module, and
/// that empties the cache.
#[derive(Clone)]
pub(crate) struct MatrixCache<B: Backend>(Arc<Mutex<BTreeMap<Place, Tensor<B, 2>>>>);

impl<B: Backend> MatrixCache<B> {
    pub(crate) fn empty() -> Self {
        Self(Arc::default())
    }

    /// A matrix, computed if it is not there.
    pub(crate) fn get(&self, place: Place, compute: impl FnOnce() -> Tensor<B, 2>) -> Tensor<B, 2> {
        let mut matrices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        matrices.entry(place).or_insert_with(compute).clone()
    }

    /// A matrix, if it is there.
    pub(crate) fn find(&self, place: Place) -> Option<Tensor<B, 2>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&place).cloned()
    }
}

impl<B: Backend> std::fmt::Debug for MatrixCache<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MatrixCache")
    }
}

impl<B: Backend> Module<B> for MatrixCache<B> {
    type Record = EmptyRecord;

    fn collect_devices(&self, devices: Devices<B>) -> Devices<B> {
        devices
    }

    fn fork(self, _device: &B::Device) -> Self {
        Self::empty()
    }

    fn to_device(self, _device: &B::Device) -> Self {
        Self::empty()
    }

    fn visit<V: ModuleVisitor<B>>(&self, _visitor: &mut V) {}

    fn map<P: ModuleMapper<B>>(self, _mapper: &mut P) -> Self {
        Self::empty()
    }

    fn load_record(self, _record: EmptyRecord) -> Self {
        Self::empty()
    }

    fn into_record(self) -> EmptyRecord {
        EmptyRecord::new()
    }
}

impl<B: AutodiffBackend> AutodiffModule<B> for MatrixCache<B> {
    type InnerModule = MatrixCache<B::InnerBackend>;

    fn valid(&self) -> Self::InnerModule {
        let matrices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = matrices.iter().map(|(place, matrix)| (*place, matrix.clone().inner()));
        MatrixCache(Arc::new(Mutex::new(inner.collect())))
    }

    fn from_inner(_module: Self::InnerModule) -> Self {
        Self::empty()
    }
}

impl<B: Backend> ModuleDisplayDefault for MatrixCache<B> {
    fn content(&self, content: Content) -> Option<Content> {
        content.set_top_level_type("MatrixCache").optional()
    }
}

impl<B: Backend> ModuleDisplay for MatrixCache<B> {}
