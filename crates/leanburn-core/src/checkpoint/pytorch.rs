//! PyTorch's own files, checked before burn-store reads them: it takes zeros for what is missing, looks at no strides,
//! and allocates what is declared.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use burn::tensor::{DType, TensorData};
use burn_store::{TensorSnapshot, pytorch::PytorchReader};
use zip::{CompressionMethod, ZipArchive, result::ZipError};

use crate::{
    Error, Result,
    pickle::{Pickle, Value},
};

/// The tensors of a file that `torch.save` wrote.
pub(super) fn open(path: &Path) -> Result<BTreeMap<String, TensorSnapshot>> {
    let error = |found: String| Error::format(path, "file", "a state dict saved by torch.save", found);
    check(path)?;
    // The reader panics on some broken pickles; a user's file must not. It refuses files that hold pickled modules or
    // other objects beside the tensors, which are passed over here.
    let reader = std::panic::catch_unwind(|| PytorchReader::new(path));
    let tensors: BTreeMap<String, TensorSnapshot> = match reader {
        Ok(Ok(reader)) => reader.into_tensors().into_iter().collect(),
        Ok(Err(_)) | Err(_) => among_objects(path)?,
    };
    if tensors.is_empty() {
        return Err(error("no tensor".to_owned()));
    }
    Ok(tensors)
}

/// The tensors in the dictionaries of a file, whatever objects stand beside them.
fn among_objects(path: &Path) -> Result<BTreeMap<String, TensorSnapshot>> {
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let unreadable = |error: ZipError| Error::format(path, "archive", "a readable entry", error);
    let mut parts = Vec::new();
    let mut bytes = HashMap::new();
    if let Ok(mut archive) = ZipArchive::new(&mut file) {
        let name = archive.file_names().find(|name| *name == "data.pkl" || name.ends_with("/data.pkl"));
        let name = name.map(str::to_owned);
        let name = name.ok_or_else(|| Error::format(path, "archive", "an entry `data.pkl`", "none"))?;
        let mut read = |name: &str| -> Result<Vec<u8>> {
            let mut bytes = Vec::new();
            let mut entry = archive.by_name(name).map_err(unreadable)?;
            entry.read_to_end(&mut bytes).map_err(Error::io(path))?;
            Ok(bytes)
        };
        let folder = name.trim_end_matches("data.pkl");
        let pickle = read(&name)?;
        let pickle = Pickle::read(path, &mut &pickle[..], |_| true)?;
        named(pickle.root(), "", DEEPEST, &mut parts);
        for (_, Part { storage, .. }) in &parts {
            if !bytes.contains_key(storage.key) {
                bytes.insert(storage.key, read(&format!("{folder}data/{}", storage.key))?);
            }
        }
        return assembled(path, &parts, &bytes);
    }
    file.rewind().map_err(Error::io(path))?;
    for _ in 0..3 {
        Pickle::read(path, &mut file, |_| false)?;
    }
    let pickle = Pickle::read(path, &mut file, |_| true)?;
    let keys = Pickle::read(path, &mut file, |_| false)?;
    named(pickle.root(), "", DEEPEST, &mut parts);
    let sizes: HashMap<&str, u64> =
        storages(path, &pickle)?.into_iter().map(|storage| (storage.key, storage.bytes)).collect();
    for key in keys.root().items().into_iter().flatten() {
        let key = key.text().unwrap_or_default();
        let size = sizes.get(key).copied().unwrap_or(0);
        file.seek_relative(8).map_err(Error::io(path))?;
        let mut values = Vec::new();
        Read::take(&mut file, size).read_to_end(&mut values).map_err(Error::io(path))?;
        bytes.insert(key, values);
    }
    assembled(path, &parts, &bytes)
}

/// How many dictionaries may hold each other.
const DEEPEST: usize = 8;

/// The tensors of a dictionary and of those in it, by the names of their entries joined by dots.
fn named<'a>(value: Value<'a>, name: &str, depth: usize, parts: &mut Vec<(String, Part<'a>)>) {
    if depth == 0 {
        return;
    }
    let object = value.object();
    match object {
        Some(("torch._utils _rebuild_tensor_v2" | "torch._utils _rebuild_tensor", arguments, _)) => {
            parts.extend(Part::new(arguments).map(|part| (name.to_owned(), part)));
        }
        Some(("torch._utils _rebuild_parameter", arguments, _)) => {
            if let Some(tensor) = arguments.items().and_then(|mut items| items.next()) {
                named(tensor, name, depth - 1, parts);
            }
        }
        // The state of any other object, a module say, is its own affair.
        Some((class, ..)) if class != "collections OrderedDict" => {}
        _ => {
            for (key, value) in value.entries().into_iter().flatten() {
                if let Some(key) = key.text() {
                    let name = if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
                    named(value, &name, depth - 1, parts);
                }
            }
        }
    }
}

/// Tensors of the bytes of their storages, which were checked to hold them.
fn assembled(
    path: &Path,
    parts: &[(String, Part)],
    bytes: &HashMap<&str, Vec<u8>>,
) -> Result<BTreeMap<String, TensorSnapshot>> {
    let mut tensors = BTreeMap::new();
    for (name, Part { offset, shape, storage, .. }) in parts {
        // Counters and flags of other types are no weights.
        let Some(dtype) = storage.dtype() else { continue };
        let shape: Vec<usize> = shape.iter().map(|&size| size as usize).collect();
        let size = dtype.size();
        let (start, count) = (*offset as usize * size, shape.iter().product::<usize>() * size);
        let all = bytes.get(storage.key).map_or(&[][..], Vec::as_slice);
        let own = all
            .get(start..start + count)
            .ok_or_else(|| storage.error(path, &format!("{} bytes", all.len())))?;
        let data = TensorData::from_bytes_vec(own.to_vec(), shape, dtype);
        let place = name.split('.').map(str::to_owned).collect();
        tensors.insert(name.clone(), TensorSnapshot::from_data(data, place, vec![], Default::default()));
    }
    Ok(tensors)
}

/// Checks that every tensor of the file lies, without gaps, in a storage that is there in its whole length.
fn check(path: &Path) -> Result<()> {
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let length = file.seek(SeekFrom::End(0)).map_err(Error::io(path))?;
    file.rewind().map_err(Error::io(path))?;
    if let Ok(mut archive) = ZipArchive::new(&mut file) {
        return check_zip(path, &mut archive, length);
    }
    file.rewind().map_err(Error::io(path))?;
    let mut start = [0; 2];
    if file.read(&mut start).map_err(Error::io(path))? == 2 && &start == b"PK" {
        return Err(Error::format(
            path,
            "archive",
            "a whole one, of torch.save",
            "its beginning alone: it was cut off",
        ));
    }
    file.rewind().map_err(Error::io(path))?;
    check_legacy(path, &mut file, length)
}

/// The format since PyTorch 1.6: an archive of the pickle and a file for each storage.
fn check_zip(path: &Path, archive: &mut ZipArchive<impl Read + Seek>, length: u64) -> Result<()> {
    let unreadable = |error: ZipError| Error::format(path, "archive", "a readable entry", error);
    let mut sizes = HashMap::new();
    let mut pickle = None;
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(unreadable)?;
        let name = entry.name().to_owned();
        if entry.compression() != CompressionMethod::Stored || entry.size() > length {
            let expected = "entries stored as they are, as torch.save does";
            return Err(Error::format(path, format!("entry `{name}`"), expected, "another"));
        }
        if name == "data.pkl" || name.ends_with("/data.pkl") {
            pickle = Some(index);
        } else if let Some((folder, key)) = name.rsplit_once('/')
            && (folder == "data" || folder.ends_with("/data"))
        {
            sizes.insert(key.to_owned(), entry.size());
        }
    }
    let pickle = pickle.ok_or_else(|| Error::format(path, "archive", "an entry `data.pkl`", "none"))?;
    let entry = archive.by_index(pickle).map_err(unreadable)?;
    let pickle = Pickle::read(path, &mut BufReader::new(entry), |_| true)?;
    for storage in storages(path, &pickle)? {
        if sizes.get(storage.key) != Some(&storage.bytes) {
            let found = sizes.get(storage.key).map_or("none".to_owned(), |size| format!("{size} bytes"));
            return Err(storage.error(path, &found));
        }
    }
    check_tensors(path, &pickle)
}

/// The format before: pickles of a magic number, a version, the system, the state dict and the storages' keys, then
/// each storage behind the number of its elements.
fn check_legacy(path: &Path, file: &mut BufReader<File>, length: u64) -> Result<()> {
    for _ in 0..3 {
        Pickle::read(path, file, |_| false)?;
    }
    let pickle = Pickle::read(path, file, |_| true)?;
    let keys = Pickle::read(path, file, |_| false)?;
    let storages: HashMap<&str, Storage> =
        storages(path, &pickle)?.into_iter().map(|storage| (storage.key, storage)).collect();
    let mut at = file.stream_position().map_err(Error::io(path))?;
    for key in keys.root().items().into_iter().flatten() {
        let key = key.text().unwrap_or_default();
        let storage = storages.get(key).ok_or_else(|| {
            Error::format(path, format!("storage `{key}`"), "one that the state dict names", "another")
        })?;
        at = at.saturating_add(8).saturating_add(storage.bytes);
        if at > length {
            return Err(storage.error(path, &format!("a file of {length} bytes")));
        }
        let mut count = [0; 8];
        file.read_exact(&mut count).map_err(Error::io(path))?;
        if u64::from_le_bytes(count) != storage.count {
            return Err(storage.error(path, &format!("{} elements", u64::from_le_bytes(count))));
        }
        file.seek(SeekFrom::Start(at)).map_err(Error::io(path))?;
    }
    check_tensors(path, &pickle)
}

/// Where values of tensors lie.
struct Storage<'a> {
    class: &'a str,
    key: &'a str,
    count: u64,
    bytes: u64,
}

impl<'a> Storage<'a> {
    /// Of `("storage", class, key, location, count, ...)`.
    fn new(value: Value<'a>) -> Option<Self> {
        let fields: Vec<Value> = value.items()?.collect();
        let &[kind, class, key, _, count, ..] = &fields[..] else { return None };
        let size = match class.global()? {
            "torch DoubleStorage" | "torch LongStorage" | "torch ComplexFloatStorage" => 8,
            "torch FloatStorage" | "torch IntStorage" => 4,
            "torch HalfStorage" | "torch BFloat16Storage" | "torch ShortStorage" => 2,
            "torch ComplexDoubleStorage" => 16,
            _ => 1,
        };
        let count = u64::try_from(count.integer()?).ok()?;
        let class = class.global()?;
        let storage = Self { class, key: key.text()?, count, bytes: count.checked_mul(size)? };
        (kind.text() == Some("storage")).then_some(storage)
    }

    /// The type of its elements, if weights have it.
    fn dtype(&self) -> Option<DType> {
        Some(match self.class {
            "torch DoubleStorage" => DType::F64,
            "torch FloatStorage" => DType::F32,
            "torch HalfStorage" => DType::F16,
            "torch BFloat16Storage" => DType::BF16,
            "torch LongStorage" => DType::I64,
            "torch IntStorage" => DType::I32,
            _ => return None,
        })
    }

    fn error(&self, path: &Path, found: &str) -> Error {
        let expected = format!("{} elements in {} bytes", self.count, self.bytes);
        Error::format(path, format!("storage `{}`", self.key), expected, found)
    }
}

/// The storages that a state dict refers to.
fn storages<'a>(path: &Path, pickle: &'a Pickle) -> Result<Vec<Storage<'a>>> {
    // Pickled modules are referred to likewise, with their source code, in the format before 1.6.
    let is_module = |value: &Value| {
        let kind = value.items().and_then(|mut fields| fields.next()?.text());
        kind == Some("module")
    };
    let references = pickle.values().filter_map(Value::persistent).filter(|value| !is_module(value));
    references
        .map(|value| {
            Storage::new(value).ok_or_else(|| {
                Error::format(path, "pickle", "the type, key and length of a storage", "others")
            })
        })
        .collect()
}

/// Checks the parts of their storages that tensors take.
fn check_tensors(path: &Path, pickle: &Pickle) -> Result<()> {
    for (class, arguments, _) in pickle.values().filter_map(Value::object) {
        if !matches!(class, "torch._utils _rebuild_tensor_v2" | "torch._utils _rebuild_tensor") {
            continue;
        }
        let tensor = Part::new(arguments).ok_or_else(|| {
            Error::format(path, "pickle", "the storage, offset and shape of a tensor", "others")
        })?;
        let Part { offset, shape, strides, storage } = &tensor;
        let location = || format!("a tensor in storage `{}`, of shape {shape:?}", storage.key);
        let count = shape.iter().try_fold(1_u64, |count, &size| count.checked_mul(size));
        if count.and_then(|count| count.checked_add(*offset)).is_none_or(|end| end > storage.count) {
            let expected = format!("a part of its {} elements", storage.count);
            return Err(Error::format(path, location(), expected, format!("the offset {offset}")));
        }
        let mut contiguous = 1;
        for (&size, &stride) in shape.iter().zip(strides).rev() {
            if size > 1 && stride != contiguous {
                let expected = "its values in order; save it after `.contiguous()`";
                return Err(Error::format(path, location(), expected, format!("strides {strides:?}")));
            }
            contiguous *= size;
        }
    }
    Ok(())
}

/// A tensor's part of a storage, in elements.
struct Part<'a> {
    storage: Storage<'a>,
    offset: u64,
    shape: Vec<u64>,
    strides: Vec<u64>,
}

impl<'a> Part<'a> {
    /// Of `(storage, offset, shape, strides, ...)`.
    fn new(arguments: Value<'a>) -> Option<Self> {
        let arguments: Vec<Value> = arguments.items()?.collect();
        let &[storage, offset, shape, strides, ..] = &arguments[..] else { return None };
        let size = |value: Value| u64::try_from(value.integer()?).ok();
        let sizes = |value: Value| value.items()?.map(size).collect::<Option<Vec<u64>>>();
        let part = Self {
            storage: Storage::new(storage.persistent()?)?,
            offset: size(offset)?,
            shape: sizes(shape)?,
            strides: sizes(strides)?,
        };
        (part.shape.len() == part.strides.len()).then_some(part)
    }
}
