//! Parameters under their published names.
//!
//! A [`Checkpoint`] is opened from safetensors (one file, or shards with their index), or, with the feature `pytorch`,
//! from `.pt`, `.pth` and `.bin` files. It is loaded into a module by the names under which the module's parameters are
//! published: Burn's path, with Burn's layout turned into PyTorch's (`gamma` is `weight`, linear weights are
//! `[out, in]`), and then a table of the module's own, the function `names`. The same function serves [`save`], so what
//! leanburn writes is what PyTorch's users read.
//!
//! Tensors are read one by one from a memory map, so the peak is the module and its largest tensor twice.

#[cfg(feature = "pytorch")]
mod pytorch;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io::Read,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    rc::Rc,
};

use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    tensor::{Bool, DType, Int, Shape, Tensor, TensorData, backend::Backend},
};
use burn_store::{
    Applier, ApplyError, BurnToPyTorchAdapter, ModuleAdapter, ModuleSnapshot, ModuleStore,
    PyTorchToBurnAdapter, SafetensorsStore, TensorSnapshot, TensorSnapshotError,
};
use safetensors::{Dtype, View};

use crate::{Error, Mismatch, Result, report};

/// Names under which training programs wrap a state dict, or a model inside another.
const WRAPPERS: [&str; 9] = [
    "state_dict",
    "model_state_dict",
    "model_state",
    "module",
    "model",
    "net",
    "network",
    "encoder",
    "backbone",
];

/// Names under which training programs keep the state dict beside an optimiser's.
const STATE_DICTS: [&str; 4] = ["state_dict.", "model_state.", "model_state_dict.", "model."];

/// PyTorch's counter of batch norm's updates, which no computation here reads.
const COUNTER: &str = "num_batches_tracked";

/// The tensors of a checkpoint, read when they are used.
#[derive(Clone)]
pub struct Checkpoint {
    path: PathBuf,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, TensorSnapshot>,
    keep_types: bool,
}

impl Checkpoint {
    /// Opens a `.safetensors`, `.pt`, `.pth`, `.pth.tar`, `.pyth` or `.bin` file, an index of shards (`*.index.json`), or a
    /// Hugging Face folder that holds one of them.
    ///
    /// # Errors
    ///
    /// When a file is absent or is not of its format, or when a shard or a tensor of the index is missing.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = if path.is_dir() { file_of_folder(path)? } else { path.to_owned() };
        let tensors = match extension(&file) {
            "json" => open_shards(&file)?,
            _ => open_file(&file)?,
        };
        let metadata =
            if extension(&file) == "safetensors" { read_metadata(&file)? } else { BTreeMap::new() };
        Ok(Self { path: file, metadata, tensors, keep_types: false })
    }

    /// Tensors in memory.
    ///
    /// - path: where they come from, for errors
    pub fn from_tensors(
        path: impl Into<PathBuf>,
        tensors: impl IntoIterator<Item = (String, TensorData)>,
    ) -> Self {
        let tensors = tensors.into_iter().map(|(name, data)| {
            let parts = name.split('.').map(str::to_owned).collect();
            (name, TensorSnapshot::from_data(data, parts, vec![], Default::default()))
        });
        Self { path: path.into(), metadata: BTreeMap::new(), tensors: tensors.collect(), keep_types: false }
    }

    /// Where the tensors come from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What a safetensors file says beside its tensors, such as that of [`save_with`].
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// A tensor's shape.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| &tensor.shape[..])
    }

    /// Number of values of all tensors.
    pub fn elements(&self) -> usize {
        self.tensors.values().map(|tensor| tensor.shape.num_elements()).sum()
    }

    /// A tensor's values.
    ///
    /// # Errors
    ///
    /// When there is no such tensor, or it cannot be read.
    pub fn read(&self, name: &str) -> Result<TensorData> {
        let tensor = self.tensors.get(name).ok_or_else(|| {
            let names = self.names().collect::<Vec<_>>().join(", ");
            Error::format(&self.path, format!("tensor `{name}`"), format!("one of {names}"), "no such tensor")
        })?;
        let unreadable = |reason: String| {
            Error::format(&self.path, format!("tensor `{name}`"), "a readable tensor", reason)
        };
        // The readers panic on some sizes, such as none at all in a PyTorch file.
        std::panic::catch_unwind(AssertUnwindSafe(|| tensor.to_data()))
            .map_err(|_| unreadable(format!("shape {:?}", &tensor.shape[..])))?
            .map_err(|error| unreadable(error.to_string()))
    }

    /// The checkpoint without the tensors that `unwanted` names, so that they are not reported as unexpected: a
    /// classifier that a feature extractor has not, say.
    pub fn without(mut self, unwanted: impl Fn(&str) -> bool) -> Self {
        self.tensors.retain(|name, _| !unwanted(name));
        self
    }

    /// The state dict alone, without what wraps it: what is under `state_dict.`, `model_state.`, `model_state_dict.` or
    /// `model.` where there is such a part, and no `module.` of `DataParallel` anywhere in a name.
    pub fn state_dict(mut self) -> Self {
        let part = STATE_DICTS.into_iter().find(|part| self.names().any(|name| name.starts_with(part)));
        let part = part.unwrap_or("");
        self.tensors = std::mem::take(&mut self.tensors)
            .into_iter()
            .filter_map(|(name, tensor)| {
                let name = name.strip_prefix(part)?;
                let parts = name.split('.').filter(|part| *part != "module");
                Some((parts.collect::<Vec<_>>().join("."), tensor))
            })
            .collect();
        self
    }

    /// The same tensors under other names.
    ///
    /// - names: the new name of each
    ///
    /// # Errors
    ///
    /// When two tensors would have one name.
    pub fn renamed(mut self, names: impl Fn(&str) -> String) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (name, tensor) in std::mem::take(&mut self.tensors) {
            let renamed = names(&name);
            if tensors.insert(renamed.clone(), tensor).is_some() {
                return Err(Error::format(
                    &self.path,
                    format!("tensor `{renamed}`"),
                    "one of its name",
                    "two",
                ));
            }
        }
        self.tensors = tensors;
        Ok(self)
    }

    /// Keeps the file's element types; otherwise values are cast to the module's.
    pub fn keep_types(mut self) -> Self {
        self.keep_types = true;
        self
    }

    /// The module with its parameters read from this checkpoint. A wrapper around all of the module's names
    /// (`module.`, `state_dict.`, `model.` and the like) is stripped, with what else the file holds beside it.
    ///
    /// - names: the published name of a parameter, from its path in PyTorch's terms
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] with every missing, unexpected and mis-shaped name; then nothing is loaded.
    pub fn load_into<B: Backend, M: Module<B>>(
        &self,
        module: M,
        names: impl Fn(&str) -> String,
    ) -> Result<M> {
        let mut layouts = Layouts::default();
        module.visit(&mut layouts);
        let parameters = published(layouts.found, names);
        let prefix = self.wrapper(&parameters);
        let mut mismatch = Mismatch::default();
        let mut consumed = BTreeSet::new();
        let mut snapshots = Vec::new();
        for parameter in &parameters {
            let stored = format!("{prefix}{}", parameter.published);
            let Some(tensor) = self.tensors.get(&stored) else {
                mismatch.missing.push(stored);
                continue;
            };
            if tensor.shape != parameter.snapshot.shape {
                let reason =
                    format!("expected {:?}, found {:?}", &parameter.snapshot.shape[..], &tensor.shape[..]);
                mismatch.misshaped.push((stored.clone(), reason));
            }
            let dtype = if self.keep_types { tensor.dtype } else { parameter.snapshot.dtype };
            snapshots.push(renamed(tensor, &parameter.path, dtype));
            consumed.insert(stored);
        }
        mismatch.unexpected = self
            .tensors
            .keys()
            .filter(|name| name.starts_with(&prefix) && !consumed.contains(*name) && !name.ends_with(COUNTER))
            .cloned()
            .collect();
        if mismatch.is_empty() {
            let mut applier = Applier::new(snapshots, None, Some(Box::new(PyTorchToBurnAdapter)), true);
            let module = module.map(&mut applier);
            let result = applier.into_result();
            if result.errors.is_empty() && result.missing.is_empty() {
                return Ok(module);
            }
            mismatch.misshaped = result.errors.iter().map(unreadable).collect();
            mismatch.missing = result.missing.into_iter().map(|(path, _)| path).collect();
        }
        Err(Error::Checkpoint { path: self.path.clone(), mismatch: Box::new(mismatch) })
    }

    /// The wrapper, with its final dot, under which most of the parameters are found; empty when there is none.
    fn wrapper(&self, parameters: &[Parameter]) -> String {
        let found = |prefix: &str| {
            parameters
                .iter()
                .filter(|p| self.tensors.contains_key(&format!("{prefix}{}", p.published)))
                .count()
        };
        let mut best = (found(""), String::new());
        let prefixes: BTreeSet<&str> = parameters
            .iter()
            .flat_map(|p| self.names().filter_map(|name| name.strip_suffix(p.published.as_str())))
            .filter(|prefix| {
                prefix
                    .strip_suffix('.')
                    .is_some_and(|prefix| prefix.split('.').all(|part| WRAPPERS.contains(&part)))
            })
            .collect();
        for prefix in prefixes {
            let count = found(prefix);
            if count > best.0 {
                best = (count, prefix.to_owned());
            }
        }
        best.1
    }
}

/// A module's parameters under their published names, in PyTorch's layout, in the module's order.
///
/// - names: as in [`Checkpoint::load_into`]
///
/// # Errors
///
/// When one cannot be read from its device.
pub fn tensors<B: Backend, M: Module<B>>(
    module: &M,
    names: impl Fn(&str) -> String,
) -> Result<Vec<(String, TensorData)>> {
    parameters(module, names)
        .into_iter()
        .map(|parameter| {
            let data = parameter.snapshot.to_data().map_err(|error| {
                Error::data(format!("parameter `{}`", parameter.published), "a readable tensor", error)
            })?;
            Ok((parameter.published, data))
        })
        .collect()
}

/// Writes a module's parameters as safetensors under their published names.
///
/// - names: as in [`Checkpoint::load_into`]
///
/// # Errors
///
/// When the file exists, cannot be written, or a parameter's type has no place in the format. The file appears
/// complete or not at all.
pub fn save<B: Backend, M: Module<B>>(
    module: &M,
    path: impl AsRef<Path>,
    names: impl Fn(&str) -> String,
) -> Result<()> {
    save_with(module, path, names, [])
}

/// Writes a module's parameters as [`save`] does, with something beside them that [`Checkpoint::metadata`] reads.
///
/// - metadata: texts by their keys
///
/// # Errors
///
/// As [`save`].
pub fn save_with<B: Backend, M: Module<B>>(
    module: &M,
    path: impl AsRef<Path>,
    names: impl Fn(&str) -> String,
    metadata: impl IntoIterator<Item = (String, String)>,
) -> Result<()> {
    let tensors = parameters(module, names)
        .into_iter()
        .map(|parameter| Ok((parameter.published, Stored::new(&parameter.snapshot)?)))
        .collect::<Result<Vec<_>>>()?;
    write(tensors, path.as_ref(), metadata)
}

/// Writes a module's parameters into a folder as Hugging Face does: `model.safetensors`, or shards with their index.
///
/// - names: as in [`Checkpoint::load_into`]
/// - dtype: what they are cast to; their own type when absent
/// - `shard_bytes`: what a file holds at most, but for a tensor that is larger
///
/// # Errors
///
/// As [`save`].
pub fn save_shards<B: Backend, M: Module<B>>(
    module: &M,
    folder: impl AsRef<Path>,
    names: impl Fn(&str) -> String,
    dtype: Option<DType>,
    shard_bytes: usize,
) -> Result<()> {
    let folder = folder.as_ref();
    let mut shards: Vec<Vec<(String, Stored)>> = Vec::new();
    let (mut size, mut total) = (0_usize, 0_usize);
    for parameter in parameters(module, names) {
        let dtype = dtype.unwrap_or(parameter.snapshot.dtype);
        let stored = Stored::new(&renamed(&parameter.snapshot, &parameter.path, dtype))?;
        total += stored.length;
        size += stored.length;
        match shards.last_mut() {
            Some(shard) if size <= shard_bytes => shard.push((parameter.published, stored)),
            _ => {
                size = stored.length;
                shards.push(vec![(parameter.published, stored)]);
            }
        }
    }
    if shards.len() == 1 {
        return write(shards.remove(0), &folder.join("model.safetensors"), []);
    }
    let count = shards.len();
    let mut weight_map = BTreeMap::new();
    for (shard, tensors) in shards.into_iter().enumerate() {
        let file = format!("model-{:05}-of-{count:05}.safetensors", shard + 1);
        weight_map.extend(tensors.iter().map(|(name, _)| (name.clone(), file.clone())));
        write(tensors, &folder.join(file), [])?;
    }
    let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    report::write_json(folder.join("model.safetensors.index.json"), &index)
}

/// Writes named tensors as safetensors.
///
/// # Errors
///
/// As [`save`].
pub fn save_tensors(
    tensors: impl IntoIterator<Item = (String, TensorData)>,
    path: impl AsRef<Path>,
) -> Result<()> {
    let path = path.as_ref();
    let tensors = Checkpoint::from_tensors(path, tensors).tensors;
    let stored = tensors.into_iter().map(|(name, tensor)| Ok((name, Stored::new(&tensor)?)));
    write(stored.collect::<Result<Vec<_>>>()?, path, [])
}

fn write(
    tensors: Vec<(String, Stored)>,
    path: &Path,
    metadata: impl IntoIterator<Item = (String, String)>,
) -> Result<()> {
    report::write_new(path, |temporary| {
        let format = ("format".to_owned(), "pt".to_owned());
        let metadata = metadata.into_iter().chain([format]).collect();
        safetensors::serialize_to_file(tensors, Some(metadata), temporary).map_err(|error| match error {
            safetensors::SafeTensorError::IoError(source) => Error::Io { path: path.to_owned(), source },
            other => Error::format(path, "header", "tensors that safetensors can hold", other),
        })
    })
}

/// A parameter of a module.
struct Parameter {
    /// Its path in the module.
    path: String,
    /// Its name in a published checkpoint.
    published: String,
    /// Its value and shape as PyTorch lays it out.
    snapshot: TensorSnapshot,
}

fn parameters<B: Backend, M: Module<B>>(module: &M, names: impl Fn(&str) -> String) -> Vec<Parameter> {
    published(module.collect(None, None, true), names)
}

fn published(own: Vec<TensorSnapshot>, names: impl Fn(&str) -> String) -> Vec<Parameter> {
    own.into_iter()
        .map(|own| {
            let snapshot = BurnToPyTorchAdapter.adapt(&own);
            Parameter { path: own.full_path(), published: names(&snapshot.full_path()), snapshot }
        })
        .collect()
}

/// Collects parameters as burn-store's collector does, but without their values: a module that waits for a checkpoint
/// need not have any yet, and those of a device's memory would be taken twice.
#[derive(Default)]
struct Layouts {
    path: Vec<String>,
    containers: Vec<String>,
    found: Vec<TensorSnapshot>,
}

impl Layouts {
    fn add(&mut self, dtype: DType, shape: Shape, id: ParamId) {
        let none = || Err(TensorSnapshotError::DataError("a layout has no values".to_owned()));
        let (path, containers) = (self.path.clone(), self.containers.clone());
        self.found.push(TensorSnapshot::from_closure(Rc::new(none), dtype, shape, path, containers, id));
    }
}

impl<B: Backend> ModuleVisitor<B> for Layouts {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.containers.push(container.to_owned());
        if !is_variant(container) {
            self.path.push(name.to_owned());
        }
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.containers.pop();
        if !is_variant(container) {
            self.path.pop();
        }
    }

    // A clone of a parameter that is not there yet is made for its type, and given back at once.
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.add(param.clone().val().dtype(), param.lazy_shape(), param.id);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<B, D, Int>>) {
        self.add(param.clone().val().dtype(), param.lazy_shape(), param.id);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<B, D, Bool>>) {
        self.add(param.clone().val().dtype(), param.lazy_shape(), param.id);
    }
}

/// Whether a part of a module is an enum's variant, which Burn enters as a module: its name is no part of a path.
pub(crate) fn is_variant(container: &str) -> bool {
    container.starts_with("Enum:")
}

/// `tensor` under the path `path`, cast to `dtype` when read.
fn renamed(tensor: &TensorSnapshot, path: &str, dtype: DType) -> TensorSnapshot {
    let read = tensor.clone_data_fn();
    TensorSnapshot::from_closure(
        Rc::new(move || Ok(read()?.convert_dtype(dtype))),
        dtype,
        tensor.shape.clone(),
        path.split('.').map(str::to_owned).collect(),
        vec![],
        tensor.tensor_id.unwrap_or_default(),
    )
}

fn unreadable(error: &ApplyError) -> (String, String) {
    match error {
        ApplyError::ShapeMismatch { path, .. }
        | ApplyError::DTypeMismatch { path, .. }
        | ApplyError::AdapterError { path, .. }
        | ApplyError::LoadError { path, .. } => (path.clone(), error.to_string()),
    }
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or("")
}

/// The checkpoint of a Hugging Face folder.
fn file_of_folder(folder: &Path) -> Result<PathBuf> {
    const FILES: [&str; 4] = [
        "model.safetensors.index.json",
        "model.safetensors",
        "pytorch_model.bin.index.json",
        "pytorch_model.bin",
    ];
    FILES.iter().map(|file| folder.join(file)).find(|file| file.is_file()).ok_or_else(|| {
        Error::format(folder, "folder", format!("one of {}", FILES.join(", ")), "none of them")
    })
}

fn open_file(path: &Path) -> Result<BTreeMap<String, TensorSnapshot>> {
    // Opened first for the system's own reason; the readers below wrap it in theirs.
    std::fs::File::open(path).map_err(Error::io(path))?;
    match extension(path) {
        "safetensors" => {
            let mut store = SafetensorsStore::from_file(path);
            let tensors = store
                .get_all_snapshots()
                .map_err(|error| Error::format(path, "header", "a safetensors file", error))?;
            Ok(tensors.clone())
        }
        #[cfg(feature = "pytorch")]
        // `.pth.tar` is no archive: the video code calls its files so, and `.pyth`.
        "pt" | "pth" | "bin" | "tar" | "pyth" => pytorch::open(path),
        #[cfg(not(feature = "pytorch"))]
        "pt" | "pth" | "bin" | "tar" | "pyth" => Err(Error::format(
            path,
            "file name",
            "the extension safetensors",
            "a PyTorch file; enable the feature `pytorch`",
        )),
        other => Err(Error::format(
            path,
            "file name",
            "the extension safetensors, pt, pth, pth.tar, pyth, bin or index.json",
            format!("`{other}`"),
        )),
    }
}

/// What stands beside the tensors in the header of a safetensors file, which was opened before.
fn read_metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Header {
        #[serde(default, rename = "__metadata__")]
        metadata: BTreeMap<String, String>,
    }
    let mut file = std::fs::File::open(path).map_err(Error::io(path))?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(Error::io(path))?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length)).read_to_end(&mut header).map_err(Error::io(path))?;
    let header: Header = serde_json::from_slice(&header)
        .map_err(|error| Error::format(path, "header", "that of a safetensors file", error))?;
    Ok(header.metadata)
}

/// All tensors of the shards that an index lists.
fn open_shards(index: &Path) -> Result<BTreeMap<String, TensorSnapshot>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(index).map_err(Error::io(index))?;
    let Index { weight_map } = serde_json::from_str(&text)
        .map_err(|error| Error::format(index, "file", "an index with a `weight_map`", error))?;
    let folder = index.parent().unwrap_or(Path::new(""));
    let mut shards = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    for (name, file) in weight_map {
        // A shard lies beside its index; a path that leads elsewhere is not a Hugging Face index.
        if Path::new(&file).components().count() != 1 || file == ".." {
            return Err(Error::format(index, format!("`{name}`"), "a file name", format!("`{file}`")));
        }
        let path = folder.join(&file);
        if !shards.contains_key(&file) {
            shards.insert(file.clone(), open_file(&path)?);
        }
        let tensor = shards[&file].get(&name).ok_or_else(|| {
            Error::format(&path, format!("tensor `{name}`"), "it, by the index", "no such tensor")
        })?;
        tensors.insert(name, tensor.clone());
    }
    Ok(tensors)
}

/// A tensor on its way into a safetensors file.
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    length: usize,
    snapshot: TensorSnapshot,
}

impl Stored {
    fn new(snapshot: &TensorSnapshot) -> Result<Self> {
        let dtype = match snapshot.dtype {
            DType::F64 => Dtype::F64,
            DType::F32 | DType::Flex32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            DType::I64 => Dtype::I64,
            DType::I32 => Dtype::I32,
            DType::I16 => Dtype::I16,
            DType::I8 => Dtype::I8,
            DType::U64 => Dtype::U64,
            DType::U32 => Dtype::U32,
            DType::U16 => Dtype::U16,
            DType::U8 => Dtype::U8,
            other @ (DType::Bool(_) | DType::QFloat(_)) => {
                return Err(Error::data(
                    format!("tensor `{}`", snapshot.full_path()),
                    "a number type",
                    format!("{other:?}"),
                ));
            }
        };
        Ok(Self {
            dtype,
            shape: snapshot.shape.to_vec(),
            length: snapshot.data_len(),
            snapshot: snapshot.clone(),
        })
    }
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let data = self.snapshot.to_data().expect("a module's own tensor can be read");
        Cow::Owned(data.as_bytes().to_vec())
    }

    fn data_len(&self) -> usize {
        self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        nn::{BatchNorm, BatchNormConfig, linear},
        random::Generator,
    };
    use burn::nn::Linear;
    use burn_flex::Flex;

    #[derive(Module, Debug)]
    struct Model<B: Backend> {
        fc: Linear<B>,
        norms: Vec<BatchNorm<B>>,
    }

    fn model(seed: u64) -> Model<Flex> {
        let device = Default::default();
        Model {
            fc: linear(3, 2, &mut Generator::new(seed), &device),
            norms: vec![BatchNormConfig::new(2).init(&device)],
        }
    }

    fn published(path: &str) -> String {
        path.replace("norms.0", "bn")
    }

    /// The state dict of `fixtures/README.md`.
    fn expected() -> Vec<(String, TensorData)> {
        [
            ("fc.weight", TensorData::from([[0.0_f32, 0.25, 0.5], [0.75, 1.0, 1.25]])),
            ("fc.bias", TensorData::from([0.5_f32, -0.25])),
            ("bn.weight", TensorData::from([1.5_f32, 2.0])),
            ("bn.bias", TensorData::from([0.125_f32, -1.0])),
            ("bn.running_mean", TensorData::from([0.75_f32, -0.5])),
            ("bn.running_var", TensorData::from([2.0_f32, 3.0])),
        ]
        .map(|(name, data)| (name.to_owned(), data))
        .to_vec()
    }

    fn load(path: &Path) -> Result<Model<Flex>> {
        Checkpoint::open(path)?.load_into(model(1), published)
    }

    #[cfg(feature = "pytorch")]
    #[test]
    fn pytorch_files_are_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        for file in ["plain.pt", "wrapped.pth", "legacy_bf16.bin", "module.pth", "legacy_module.pth"] {
            let model = load(&folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(tensors(&model, published).unwrap(), expected(), "{file}");
        }
        let renamed = tempfile::tempdir().unwrap();
        for name in ["best.pth.tar", "last.pyth"] {
            std::fs::copy(folder.join("wrapped.pth"), renamed.path().join(name)).unwrap();
            load(&renamed.path().join(name)).unwrap();
        }
        let kept = Checkpoint::open(folder.join("legacy_bf16.bin")).unwrap().keep_types();
        let model = kept.load_into(model(1), published).unwrap();
        assert_eq!(model.fc.weight.val().dtype(), DType::BF16);
    }

    #[cfg(feature = "pytorch")]
    #[test]
    fn a_broken_pytorch_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/plain.pt");
        let bytes = std::fs::read(whole).unwrap();
        for (name, bytes) in
            [("short.pt", &bytes[..bytes.len() / 2]), ("empty.bin", &[]), ("text.pth", b"hello")]
        {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            assert!(load(&path).unwrap_err().to_string().contains(name));
        }
    }

    #[cfg(feature = "pytorch")]
    #[test]
    fn a_pytorch_file_whose_storages_are_short_is_an_error() {
        use std::io::{Read, Write};

        let folder = tempfile::tempdir().unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let message = |name: &str, bytes: Vec<u8>| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            load(&path).unwrap_err().to_string()
        };
        let replaced = |bytes: &[u8], from: &[u8], to: &[u8]| {
            let at = bytes.windows(from.len()).position(|window| window == from).expect("it is there");
            [&bytes[..at], to, &bytes[at + from.len()..]].concat()
        };
        let legacy = std::fs::read(fixtures.join("legacy_bf16.bin")).unwrap();
        let error = message("cut.bin", legacy[..legacy.len() - 3].to_vec());
        assert!(error.contains("storage") && error.contains("elements"), "{error}");
        // `fc.weight`: shape (2, 3), strides (3, 1), in a storage of 6.
        let legacy = message("strides.bin", replaced(&legacy, b"K\x03K\x01\x86", b"K\x01K\x02\x86"));
        assert!(legacy.contains("strides [1, 2]") && legacy.contains("contiguous"), "{legacy}");

        let archive = |from: &[u8], to: &[u8]| {
            let file = std::fs::File::open(fixtures.join("plain.pt")).unwrap();
            let mut archive = zip::ZipArchive::new(file).unwrap();
            let mut changed = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
            for index in 0..archive.len() {
                let mut entry = archive.by_index(index).unwrap();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                if entry.name().ends_with("data.pkl") {
                    bytes = replaced(&bytes, from, to);
                }
                let stored = zip::write::SimpleFileOptions::default()
                    .compression_method(zip::CompressionMethod::Stored);
                changed.start_file(entry.name(), stored).unwrap();
                changed.write_all(&bytes).unwrap();
            }
            changed.finish().unwrap().into_inner()
        };
        let error = message("numbers.pt", archive(b"cpuq\x07K\x06t", b"cpuq\x07K\x09t"));
        assert!(error.contains("9 elements in 36 bytes, found 24 bytes"), "{error}");
        let error = message("missing.pt", archive(b"X\x01\x00\x00\x003", b"X\x01\x00\x00\x008"));
        assert!(error.contains("storage `8`") && error.contains("found none"), "{error}");
        let error = message("shape.pt", archive(b"K\x02K\x03\x86", b"K\x02K\x04\x86"));
        assert!(error.contains("a part of its 6 elements"), "{error}");
    }

    #[test]
    fn saving_and_loading_keep_the_values() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let saved = model(2);
        save(&saved, &path, published).unwrap();
        let names: Vec<String> = Checkpoint::open(&path).unwrap().names().map(str::to_owned).collect();
        let own = ["bn.bias", "bn.running_mean", "bn.running_var", "bn.weight", "fc.bias", "fc.weight"];
        assert_eq!(names, own);
        // The layout of PyTorch.
        assert_eq!(Checkpoint::open(&path).unwrap().shape("fc.weight"), Some(&[2, 3][..]));
        let loaded = load(&path).unwrap();
        assert_eq!(tensors(&loaded, published).unwrap(), tensors(&saved, published).unwrap());
        assert!(matches!(save(&saved, &path, published), Err(Error::Exists { .. })));
        // A folder is opened by the names that Hugging Face gives.
        assert!(load(folder.path()).is_ok());
    }

    #[test]
    fn shards_are_merged() {
        let folder = tempfile::tempdir().unwrap();
        let mut weight_map = BTreeMap::new();
        for (shard, part) in expected().chunks(4).enumerate() {
            let file = format!("model-{shard}.safetensors");
            for (name, _) in part {
                weight_map.insert(name.clone(), file.clone());
            }
            save_tensors(part.to_vec(), folder.path().join(file)).unwrap();
        }
        let index = folder.path().join("model.safetensors.index.json");
        report::write_json(&index, &serde_json::json!({ "weight_map": weight_map })).unwrap();
        assert_eq!(tensors(&load(folder.path()).unwrap(), published).unwrap(), expected());

        std::fs::remove_file(folder.path().join("model-1.safetensors")).unwrap();
        assert!(load(&index).unwrap_err().to_string().contains("model-1.safetensors"));
        let outside = folder.path().join("outside.index.json");
        report::write_json(&outside, &serde_json::json!({ "weight_map": { "fc.bias": "../x.safetensors" } }))
            .unwrap();
        assert!(load(&outside).unwrap_err().to_string().contains("a file name"));
    }

    #[test]
    fn shards_are_written_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        save_shards(&model(2), &folder, published, None, 30).unwrap();
        let shard = |number| folder.path().join(format!("model-0000{number}-of-00003.safetensors"));
        let index = folder.path().join("model.safetensors.index.json");
        assert_eq!(report::entries(&folder).unwrap(), [shard(1), shard(2), shard(3), index]);
        let loaded = load(folder.path()).unwrap();
        assert_eq!(tensors(&loaded, published).unwrap(), tensors(&model(2), published).unwrap());
        assert!(matches!(save_shards(&model(2), &folder, published, None, 30), Err(Error::Exists { .. })));

        let folder = tempfile::tempdir().unwrap();
        save_shards(&model(2), &folder, published, Some(DType::BF16), 1 << 30).unwrap();
        let checkpoint = Checkpoint::open(folder.path().join("model.safetensors")).unwrap();
        assert_eq!(checkpoint.read("fc.weight").unwrap().dtype, DType::BF16);
    }

    #[test]
    fn half_precision_is_cast() {
        let folder = tempfile::tempdir().unwrap();
        for dtype in [DType::F16, DType::BF16, DType::F64] {
            let path = folder.path().join(format!("{dtype:?}.safetensors"));
            let cast = expected().into_iter().map(|(name, data)| (name, data.convert_dtype(dtype)));
            save_tensors(cast, &path).unwrap();
            assert_eq!(tensors(&load(&path).unwrap(), published).unwrap(), expected(), "{dtype:?}");
        }
    }

    #[test]
    fn every_name_that_does_not_fit_is_reported_and_nothing_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.safetensors");
        let mut other = expected();
        other.remove(1);
        other[0].1 = TensorData::from([[1.0_f32, 2.0]]);
        other.push(("head.weight".to_owned(), TensorData::from([1.0_f32])));
        other.push(("bn.num_batches_tracked".to_owned(), TensorData::from([7_i64])));
        save_tensors(other, &path).unwrap();
        let Error::Checkpoint { mismatch, .. } = load(&path).unwrap_err() else { panic!("another error") };
        assert_eq!(mismatch.missing, ["fc.bias"]);
        assert_eq!(mismatch.unexpected, ["head.weight"]);
        assert_eq!(mismatch.misshaped[0].0, "fc.weight");
        assert!(mismatch.misshaped[0].1.contains("[2, 3]"), "{}", mismatch.misshaped[0].1);
    }

    #[test]
    fn wrappers_are_stripped_and_only_they() {
        let folder = tempfile::tempdir().unwrap();
        let write = |prefix: &str| {
            let path = folder.path().join(format!("{}.safetensors", prefix.replace('.', "-")));
            let wrapped = expected().into_iter().map(|(name, data)| (format!("{prefix}.{name}"), data));
            let beside = ("optimizer.step".to_owned(), TensorData::from([1_i64]));
            save_tensors(wrapped.chain([beside]), &path).unwrap();
            path
        };
        assert!(load(&write("module")).is_ok());
        assert!(load(&write("state_dict.module")).is_ok());
        assert!(load(&write("teacher")).is_err());
    }

    #[test]
    fn a_state_dict_is_found_in_what_wraps_it() {
        let names = |names: &[&str]| {
            let tensors = names.iter().map(|name| ((*name).to_owned(), TensorData::from([1.0_f32])));
            let checkpoint = Checkpoint::from_tensors("memory", tensors).state_dict();
            checkpoint.names().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(names(&["fc.bias", "fc.weight"]), ["fc.bias", "fc.weight"]);
        assert_eq!(names(&["model.fc.bias", "state_dict.module.fc.bias"]), ["fc.bias"]);
        assert_eq!(names(&["features.module.0.bias"]), ["features.0.bias"]);
    }

    #[test]
    fn what_stands_beside_the_tensors_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let metadata = [("branches".to_owned(), "4, 8".to_owned())];
        save_with(&model(2), &path, published, metadata).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.metadata("branches"), Some("4, 8"));
        assert_eq!((checkpoint.metadata("format"), checkpoint.metadata("else")), (Some("pt"), None));
        assert!(checkpoint.load_into(model(1), published).is_ok());
    }

    #[test]
    fn unwanted_tensors_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("more.safetensors");
        let head = ("head.weight".to_owned(), TensorData::from([1.0_f32]));
        save_tensors(expected().into_iter().chain([head]), &path).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap().without(|name| name.starts_with("head."));
        assert!(checkpoint.load_into(model(1), published).is_ok());
    }

    #[test]
    fn other_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        assert!(load(&path).unwrap_err().to_string().contains("model.safetensors"));
        assert!(load(folder.path()).unwrap_err().to_string().contains("none of them"));
        std::fs::write(&path, b"\xff\xff\xff\xff\xff\xff\xff\x7f{}").unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("safetensors file"));
        let other = folder.path().join("model.onnx");
        std::fs::write(&other, b"").unwrap();
        assert!(load(&other).unwrap_err().to_string().contains("onnx"));
    }
}
