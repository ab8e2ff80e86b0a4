//! A case: its manifest, its inputs and weights by the recipe, and the tensors that were expected.

use std::path::{Path, PathBuf};

use leanburn::{
    burn::{
        module::Module,
        tensor::{Int, Tensor, TensorData, backend::Backend},
    },
    core::{
        Error, Result,
        checkpoint::{self, Checkpoint},
    },
};
use leanburn_datasets::recipe;
use serde::{Deserialize, de::DeserializeOwned};

/// A manifest, as far as all kinds share it.
#[derive(Debug, Deserialize)]
struct Manifest {
    kind: String,
    config: serde_json::Value,
    seed: u64,
    parameters: Vec<Made>,
    inputs: Vec<Made>,
    expected: Vec<Expected>,
}

/// A tensor that the recipe makes.
#[derive(Debug, Deserialize)]
struct Made {
    name: String,
    shape: Vec<usize>,
    #[serde(default)]
    dtype: Element,
    lo: Option<f64>,
    hi: Option<f64>,
    value: Option<f64>,
}

/// An element type of the recipe.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Element {
    #[default]
    F32,
    I64,
}

/// A tensor that the reference gave.
#[derive(Debug, Deserialize)]
pub struct Expected {
    /// Its name.
    pub name: String,
    /// By how much a whole number may differ.
    #[serde(default)]
    pub max_off: u64,
    /// Relative tolerance.
    pub rtol: f64,
    /// Absolute tolerance.
    pub atol: f64,
    /// Which part of it is stored; all of it when absent.
    pub take: Option<String>,
    /// How it is compared, when not value by value.
    pub compare: Option<Comparison>,
    /// How many members may be in one of two index sets alone.
    #[serde(default)]
    pub max_differing: usize,
    /// The dimension of the positions, when some of them are compared.
    #[serde(default = "second")]
    pub time_axis: usize,
}

/// A comparison that is not value by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// At the positions of each sequence that are no padding.
    ValidPositions,
    /// As sets of indices.
    IndexSet,
}

fn second() -> usize {
    1
}

/// A case that a runner computes.
pub struct Case {
    path: PathBuf,
    text: String,
    manifest: Manifest,
    expected: Checkpoint,
}

impl Case {
    /// Opens `CASE.json` and the tensors beside it.
    ///
    /// # Errors
    ///
    /// When either is absent or broken.
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let manifest =
            serde_json::from_str(&text).map_err(|error| Error::format(path, "file", "a manifest", error))?;
        let expected = Checkpoint::open(path.with_extension("safetensors"))?;
        Ok(Self { path: path.to_owned(), text, manifest, expected })
    }

    /// Which runner computes it.
    pub fn kind(&self) -> &str {
        &self.manifest.kind
    }

    /// The file below the folder of data sets that the case needs, if it needs one.
    pub fn dataset(&self) -> Option<&str> {
        self.manifest.config.get("dataset")?.as_str()
    }

    /// What is expected.
    pub fn expected(&self) -> &[Expected] {
        &self.manifest.expected
    }

    /// The reference's tensor `name`.
    ///
    /// # Errors
    ///
    /// When it is not stored.
    pub fn reference(&self, name: &str) -> Result<TensorData> {
        self.expected.read(name)
    }

    /// The kind's own settings.
    ///
    /// # Errors
    ///
    /// When they are not those of the kind.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T> {
        #[derive(Deserialize)]
        struct Settings<T> {
            config: T,
        }
        // From the text, which has an order that a JSON value forgets.
        serde_json::from_str(&self.text)
            .map(|settings: Settings<T>| settings.config)
            .map_err(|error| self.error("config", "the settings of its kind", &error.to_string()))
    }

    /// Whether a position of a sequence is no padding.
    ///
    /// # Errors
    ///
    /// When the settings do not say.
    pub fn valid_positions(&self) -> Result<impl Fn(usize, usize) -> bool + use<>> {
        #[derive(Deserialize)]
        struct Settings {
            lengths: Vec<usize>,
            padding_side: String,
        }
        let Settings { lengths, padding_side } = self.config()?;
        match padding_side.as_str() {
            "right" => {
                Ok(move |row: usize, position| lengths.get(row).is_some_and(|length| position < *length))
            }
            other => Err(self.error("config, padding_side", "`right`", &format!("`{other}`"))),
        }
    }

    /// The values of input `name`.
    ///
    /// # Errors
    ///
    /// When there is no such input.
    pub fn input(&self, name: &str) -> Result<TensorData> {
        let made = self.find("input", &self.manifest.inputs, name)?;
        self.make(made, &format!("input:{name}"))
    }

    /// The values of parameter `name`.
    ///
    /// # Errors
    ///
    /// When there is no such parameter.
    pub fn parameter(&self, name: &str) -> Result<TensorData> {
        let made = self.find("parameter", &self.manifest.parameters, name)?;
        self.make(made, &made.name)
    }

    /// All parameters.
    ///
    /// # Errors
    ///
    /// When the manifest does not say how one is made.
    pub fn parameters(&self) -> Result<Vec<(String, TensorData)>> {
        let parameters = self.manifest.parameters.iter();
        parameters.map(|made| Ok((made.name.clone(), self.make(made, &made.name)?))).collect()
    }

    /// Input `name` as a tensor.
    ///
    /// # Errors
    ///
    /// When there is no such input.
    pub fn tensor<B: Backend, const D: usize>(&self, name: &str, device: &B::Device) -> Result<Tensor<B, D>> {
        Ok(Tensor::from_data(self.input(name)?, device))
    }

    /// Input `name` as a tensor of whole numbers.
    ///
    /// # Errors
    ///
    /// When there is no such input.
    pub fn ints<B: Backend>(&self, name: &str, device: &B::Device) -> Result<Tensor<B, 1, Int>> {
        Ok(Tensor::from_data(self.input(name)?, device))
    }

    /// `module` with the case's parameters, which are written to a file and loaded as any published checkpoint is.
    ///
    /// # Errors
    ///
    /// When they do not fit.
    pub fn load<B: Backend, M: Module<B>>(&self, module: M, names: impl Fn(&str) -> String) -> Result<M> {
        self.load_with(module, names, None)
    }

    /// [`load`](Self::load) with parameters that are not made by the recipe.
    ///
    /// # Errors
    ///
    /// When they do not fit.
    pub fn load_with<B: Backend, M: Module<B>>(
        &self,
        module: M,
        names: impl Fn(&str) -> String,
        others: impl IntoIterator<Item = (String, TensorData)>,
    ) -> Result<M> {
        let folder = tempfile::tempdir().map_err(Error::io("temporary folder"))?;
        let file = folder.path().join("parameters.safetensors");
        checkpoint::save_tensors(self.parameters()?.into_iter().chain(others), &file)?;
        Checkpoint::open(&file)?.load_into(module, names)
    }

    /// What is made of a folder with the case's parameters in `model.safetensors`.
    ///
    /// - json: the contents of its `config.json`
    ///
    /// # Errors
    ///
    /// When the folder cannot be written, or what is made of it fails.
    pub fn with_folder<T>(
        &self,
        json: &serde_json::Value,
        make: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<T> {
        let folder = tempfile::tempdir().map_err(Error::io("temporary folder"))?;
        let file = folder.path().join("config.json");
        std::fs::write(&file, json.to_string()).map_err(Error::io(&file))?;
        checkpoint::save_tensors(self.parameters()?, folder.path().join("model.safetensors"))?;
        make(folder.path())
    }

    fn find<'a>(&self, what: &str, all: &'a [Made], name: &str) -> Result<&'a Made> {
        let found = all.iter().find(|made| made.name == name);
        found.ok_or_else(|| self.error(&format!("{what} `{name}`"), "one in the manifest", "none"))
    }

    fn make(&self, made: &Made, name: &str) -> Result<TensorData> {
        let count = made.shape.iter().product();
        let seed = self.manifest.seed;
        let shape = made.shape.clone();
        Ok(match (made.dtype, made.value, made.lo, made.hi) {
            (Element::F32, Some(value), ..) => TensorData::new(vec![value as f32; count], shape),
            (Element::I64, Some(value), ..) => TensorData::new(vec![value as i64; count], shape),
            (Element::F32, None, Some(lo), Some(hi)) => {
                TensorData::new(recipe::real(name, count, lo, hi, seed), shape)
            }
            (Element::I64, None, Some(lo), Some(hi)) => {
                TensorData::new(recipe::integer(name, count, lo as i64, hi as i64, seed), shape)
            }
            _ => return Err(self.error(&format!("`{name}`"), "`lo` and `hi`, or `value`", "neither")),
        })
    }

    fn error(&self, location: &str, expected: &str, found: &str) -> Error {
        Error::format(&self.path, location, expected, found)
    }
}
