//! Labelled images: a folder for each class, MNIST's and CIFAR's files, or your own.

use std::{
    fs::{self, File},
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;
use leanburn_core::{
    Error, Result,
    pickle::{Pickle, Value},
    report::entries,
};

use crate::image::Image;

/// Images with classes: in files, or in memory.
#[derive(Debug, Clone)]
pub struct Images {
    sources: Vec<Source>,
    labels: Vec<usize>,
    classes: Vec<String>,
}

#[derive(Debug, Clone)]
enum Source {
    File(PathBuf),
    Memory(Image),
}

/// CIFAR-10's classes.
const CIFAR10: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Extensions of image files, in lower case.
const EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];

impl Images {
    /// Images in memory.
    ///
    /// - labels: one for each image, in `0..classes.len()`
    ///
    /// # Errors
    ///
    /// When there is no image, or labels do not fit.
    pub fn new(images: Vec<Image>, labels: Vec<usize>, classes: Vec<String>) -> Result<Self> {
        Self::of(images.into_iter().map(Source::Memory).collect(), labels, classes)
    }

    fn of(sources: Vec<Source>, labels: Vec<usize>, classes: Vec<String>) -> Result<Self> {
        if sources.is_empty() || labels.len() != sources.len() {
            let expected = "at least one image, and a label for each";
            let found = format!("{} images, {} labels", sources.len(), labels.len());
            return Err(Error::data("images", expected, found));
        }
        if let Some((place, label)) = labels.iter().enumerate().find(|(_, label)| **label >= classes.len()) {
            let expected = format!("below {}, the number of classes", classes.len());
            return Err(Error::data(format!("label of image {place}"), expected, label));
        }
        Ok(Self { sources, labels, classes })
    }

    /// A folder with a folder for each class, whose name is the class's (torchvision's `ImageFolder`). Classes are
    /// sorted by name; images may lie in folders below. Files that are no JPEG, PNG, WebP or BMP by their names are
    /// left out. Nothing is decoded here.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read, there is no class, or a class has no image.
    pub fn folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let classes: Vec<PathBuf> = entries(folder)?.into_iter().filter(|path| path.is_dir()).collect();
        if classes.is_empty() {
            return Err(Error::format(folder, "folder", "a folder for each class", "none"));
        }
        let (mut sources, mut labels, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for class in classes {
            let before = sources.len();
            collect(&class, &mut sources)?;
            if sources.len() == before {
                let expected = format!("images ({})", EXTENSIONS.join(", "));
                return Err(Error::format(&class, "folder of a class", expected, "none"));
            }
            labels.resize(sources.len(), names.len());
            names.push(class.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default());
        }
        Self::of(sources, labels, names)
    }

    /// MNIST, Fashion-MNIST or another set of IDX files, compressed or not: `train-images-idx3-ubyte` and its kin, in
    /// the folder or, as torchvision has them, in `raw` below it.
    ///
    /// - train: the training images, else the test images
    ///
    /// # Errors
    ///
    /// When a file is absent or not of the format.
    pub fn idx(folder: impl AsRef<Path>, train: bool) -> Result<Self> {
        let folder = folder.as_ref();
        let part = if train { "train" } else { "t10k" };
        let (path, sizes, pixels) = idx(folder, &format!("{part}-images-idx3-ubyte"), 3)?;
        let (labels_path, count, labels) = idx(folder, &format!("{part}-labels-idx1-ubyte"), 1)?;
        if count[0] != sizes[0] {
            return Err(Error::format(labels_path, "labels", sizes[0], count[0]));
        }
        let [height, width] = [sizes[1], sizes[2]];
        if height * width == 0 {
            return Err(Error::format(path, "header", "at least one pixel an image", "none"));
        }
        let images = pixels.chunks(height * width);
        let images = images.map(|pixels| Image::new([height, width], 1, pixels.to_vec()));
        let images = images.collect::<Result<Vec<_>>>()?;
        let highest = labels.iter().copied().max().unwrap_or(0);
        let classes = (0..=highest.max(9)).map(|class| class.to_string()).collect();
        Self::new(images, labels.into_iter().map(usize::from).collect(), classes)
    }

    /// CIFAR-10's binary files, `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`, or its Python files, which
    /// have the same names without `.bin`.
    ///
    /// - train: the training images, else the test images
    ///
    /// # Errors
    ///
    /// When a file is absent or not of the format.
    pub fn cifar10(folder: impl AsRef<Path>, train: bool) -> Result<Self> {
        let folder = folder.as_ref();
        let files: Vec<String> = if train {
            (1..=5).map(|batch| format!("data_batch_{batch}.bin")).collect()
        } else {
            vec!["test_batch.bin".to_owned()]
        };
        let classes = CIFAR10.iter().map(|class| (*class).to_owned()).collect();
        cifar(folder, &files, 1, classes)
    }

    /// CIFAR-100's binary files, `train.bin` and `test.bin`, or its Python files, `train` and `test`, with their fine
    /// classes.
    ///
    /// - train: the training images, else the test images
    ///
    /// # Errors
    ///
    /// When a file is absent or not of the format.
    pub fn cifar100(folder: impl AsRef<Path>, train: bool) -> Result<Self> {
        let folder = folder.as_ref();
        let names = folder.join("fine_label_names.txt");
        let classes = match fs::read_to_string(&names) {
            Ok(text) => {
                text.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
            }
            Err(_) => (0..100).map(|class| class.to_string()).collect(),
        };
        let file = if train { "train.bin" } else { "test.bin" };
        cifar(folder, &[file.to_owned()], 2, classes)
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Whether there is none; there is always one.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The class of each image, in `0..classes().len()`.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// The classes' names.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Image `index`, decoded if it lies in a file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is not whole.
    ///
    /// # Panics
    ///
    /// When there are not as many images.
    pub fn image(&self, index: usize) -> Result<Image> {
        match &self.sources[index] {
            Source::File(path) => Image::open(path),
            Source::Memory(image) => Ok(image.clone()),
        }
    }

    /// Some of the images, with all classes.
    ///
    /// # Errors
    ///
    /// When there is none, or an index is too large.
    pub fn subset(&self, indices: &[usize]) -> Result<Self> {
        if let Some(index) = indices.iter().find(|index| **index >= self.len()) {
            return Err(Error::data("subset", format!("indices below {}", self.len()), index));
        }
        let sources = indices.iter().map(|&index| self.sources[index].clone()).collect();
        let labels = indices.iter().map(|&index| self.labels[index]).collect();
        Self::of(sources, labels, self.classes.clone())
    }
}

/// The images of a folder and those below it, in the order of their names.
fn collect(folder: &Path, sources: &mut Vec<Source>) -> Result<()> {
    for path in entries(folder)? {
        if path.is_dir() {
            collect(&path, sources)?;
        } else if path
            .extension()
            .is_some_and(|extension| EXTENSIONS.contains(&&*extension.to_string_lossy().to_lowercase()))
        {
            sources.push(Source::File(path));
        }
    }
    Ok(())
}

/// Reads all of a file, at most `limit` bytes of it, and one more that tells of others.
fn read(path: &Path, compressed: bool, limit: u64) -> Result<Vec<u8>> {
    let file = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let mut bytes = Vec::new();
    let read = if compressed {
        GzDecoder::new(file).take(limit + 1).read_to_end(&mut bytes)
    } else {
        file.take(limit + 1).read_to_end(&mut bytes)
    };
    read.map_err(Error::io(path))?;
    Ok(bytes)
}

/// The largest IDX file that is read: EMNIST's largest has 550 MB.
const IDX_LIMIT: u64 = 1 << 30;

/// An IDX file of bytes: its path, its sizes along `dims` dimensions, and its values.
fn idx(folder: &Path, name: &str, dims: usize) -> Result<(PathBuf, Vec<usize>, Vec<u8>)> {
    let places = [folder.to_owned(), folder.join("raw")];
    let candidates =
        places.iter().flat_map(|place| [(place.join(name), false), (place.join(format!("{name}.gz")), true)]);
    let (path, compressed) = candidates.into_iter().find(|(path, _)| path.is_file()).ok_or_else(|| {
        Error::format(folder, "folder", format!("`{name}` or `{name}.gz`, there or in `raw`"), "neither")
    })?;
    let bytes = read(&path, compressed, IDX_LIMIT)?;
    let header = 4 + 4 * dims;
    let magic = [0, 0, 8, dims as u8];
    if bytes.len() < header || bytes[..4] != magic {
        let found = format!("{:?}", &bytes[..bytes.len().min(4)]);
        return Err(Error::format(path, "header", format!("the numbers {magic:?} of an IDX file"), found));
    }
    let size = |dim: usize| {
        let at = 4 + 4 * dim;
        u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
    };
    let sizes: Vec<usize> = (0..dims).map(size).collect();
    let count = sizes.iter().try_fold(1_usize, |count, &size| count.checked_mul(size));
    if count != Some(bytes.len() - header) {
        let expected = format!("the values of {sizes:?}");
        return Err(Error::format(path, "file", expected, format!("{} bytes of them", bytes.len() - header)));
    }
    Ok((path, sizes, bytes[header..].to_vec()))
}

/// CIFAR's binary files: records of labels, of which the last counts, then 32x32 values of each colour.
fn cifar(folder: &Path, files: &[String], labels: usize, classes: Vec<String>) -> Result<Images> {
    const PLANE: usize = 32 * 32;
    /// CIFAR-100's training file has 154 MB.
    const LIMIT: u64 = 1 << 28;
    let record = labels + 3 * PLANE;
    let (mut images, mut targets) = (Vec::new(), Vec::new());
    for file in files {
        let path = folder.join(file);
        let unpacked = folder.join(file.trim_end_matches(".bin"));
        let bytes = if !path.exists() && unpacked.is_file() {
            pickled(&unpacked, labels)?
        } else {
            read(&path, false, LIMIT)?
        };
        if bytes.is_empty() || bytes.len() % record != 0 {
            let expected = format!("records of {record} bytes");
            return Err(Error::format(path, "file", expected, format!("{} bytes", bytes.len())));
        }
        for (place, record) in bytes.chunks(record).enumerate() {
            let label = usize::from(record[labels - 1]);
            if label >= classes.len() {
                let location = format!("label of record {place}");
                return Err(Error::format(path, location, format!("below {}", classes.len()), label));
            }
            let planes = &record[labels..];
            let values = (0..3 * PLANE).map(|index| planes[index % 3 * PLANE + index / 3]).collect();
            images.push(Image::new([32, 32], 3, values)?);
            targets.push(label);
        }
    }
    Images::new(images, targets, classes)
}

/// The records of a binary file from one of Python's: a dictionary with an array `data` and a list of labels.
///
/// - labels: of a record; the last one is the class, and the others are not in use
fn pickled(path: &Path, labels: usize) -> Result<Vec<u8>> {
    const ALLOWED: [&str; 4] = [
        "numpy.core.multiarray _reconstruct",
        "numpy._core.multiarray _reconstruct",
        "numpy ndarray",
        "numpy dtype",
    ];
    const RECORD: usize = 3 * 32 * 32;
    let file = File::open(path).map_err(Error::io(path))?;
    let pickle = Pickle::read(path, &mut BufReader::new(file), |name| ALLOWED.contains(&name))?;
    let name = if labels == 1 { "labels" } else { "fine_labels" };
    let read = || {
        let (_, _, state) = pickle.root().get("data")?.object()?;
        let state: Vec<Value> = state?.items()?.collect();
        let &[_, shape, dtype, is_fortran, bytes] = &state[..] else { return None };
        let (_, arguments, _) = dtype.object()?;
        let is_bytes = arguments.items()?.next()?.text()? == "u1" && is_fortran.boolean() == Some(false);
        let shape: Vec<usize> = shape.items()?.map(Value::size).collect::<Option<_>>()?;
        let classes: Vec<u8> = pickle
            .root()
            .get(name)?
            .items()?
            .map(|label| u8::try_from(label.integer()?).ok())
            .collect::<Option<_>>()?;
        let bytes = bytes.bytes()?;
        let fits = shape == [classes.len(), RECORD] && bytes.len() == classes.len() * RECORD;
        (is_bytes && fits).then_some((classes, bytes))
    };
    let (classes, bytes) = read().ok_or_else(|| {
        let expected =
            format!("a dictionary with `data`, bytes [images, {RECORD}], and `{name}`, one an image");
        Error::format(path, "pickle", expected, "another")
    })?;
    let mut records = Vec::with_capacity(classes.len() * (labels + RECORD));
    for (class, pixels) in classes.iter().zip(bytes.chunks(RECORD)) {
        records.extend(std::iter::repeat_n(0, labels - 1));
        records.push(*class);
        records.extend(pixels);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn folders_are_classes() {
        let folder = tempfile::tempdir().unwrap();
        let save = |name: &str, value: u8| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            image::RgbImage::from_pixel(4, 3, image::Rgb([value; 3])).save(path).unwrap();
        };
        save("dog/b.png", 1);
        save("cat/x/a.bmp", 2);
        save("cat/c.PNG", 3);
        fs::write(folder.path().join("cat/notes.txt"), "no image").unwrap();
        fs::write(folder.path().join("README"), "no class").unwrap();
        let images = Images::folder(folder.path()).unwrap();
        assert_eq!(images.classes(), ["cat", "dog"]);
        assert_eq!(images.labels(), [0, 0, 1]);
        assert_eq!(images.image(2).unwrap().values()[0], 1);
        assert_eq!(images.subset(&[2]).unwrap().labels(), [1]);
        assert!(images.subset(&[3]).is_err() && images.subset(&[]).is_err());
        fs::create_dir(folder.path().join("empty")).unwrap();
        assert!(Images::folder(folder.path()).unwrap_err().to_string().contains("empty"));
        assert!(Images::folder(folder.path().join("cat/x")).unwrap_err().to_string().contains("class"));
    }

    #[test]
    fn idx_files_are_read_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let images: Vec<u8> =
            [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3][..], &[1, 2, 3, 4, 5, 6]].concat();
        let labels = [0, 0, 8, 1, 0, 0, 0, 2, 7, 0];
        let raw = folder.path().join("raw");
        fs::create_dir(&raw).unwrap();
        let file = File::create(raw.join("t10k-images-idx3-ubyte.gz")).unwrap();
        let mut writer = flate2::write::GzEncoder::new(file, Default::default());
        writer.write_all(&images).unwrap();
        writer.finish().unwrap();
        fs::write(raw.join("t10k-labels-idx1-ubyte"), labels).unwrap();
        let set = Images::idx(folder.path(), false).unwrap();
        assert_eq!((set.len(), set.labels()), (2, &[7, 0][..]));
        assert_eq!(set.image(1).unwrap(), Image::new([1, 3], 1, vec![4, 5, 6]).unwrap());
        assert!(Images::idx(folder.path(), true).unwrap_err().to_string().contains("train-images"));
        fs::write(raw.join("t10k-labels-idx1-ubyte"), &labels[..9]).unwrap();
        assert!(Images::idx(folder.path(), false).unwrap_err().to_string().contains("1 bytes"));
        fs::write(raw.join("t10k-labels-idx1-ubyte"), b"\x1f\x8b").unwrap();
        assert!(Images::idx(folder.path(), false).unwrap_err().to_string().contains("header"));
    }

    #[test]
    fn cifar_files_are_read_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = vec![3, 99];
        record.extend([[10_u8; 1024], [20; 1024], [30; 1024]].concat());
        fs::write(folder.path().join("test.bin"), &record).unwrap();
        let set = Images::cifar100(folder.path(), false).unwrap();
        assert_eq!((set.labels(), set.classes().len()), (&[99][..], 100));
        assert_eq!(set.image(0).unwrap().values()[..6], [10, 20, 30, 10, 20, 30]);
        fs::write(folder.path().join("test_batch.bin"), &record[1..]).unwrap();
        let error = Images::cifar10(folder.path(), false).unwrap_err().to_string();
        assert!(error.contains("record 0") && error.contains("99"), "{error}");
        fs::write(folder.path().join("test_batch.bin"), &record).unwrap();
        assert!(Images::cifar10(folder.path(), false).unwrap_err().to_string().contains("3073"));
        assert!(Images::cifar10(folder.path(), true).is_err());
    }

    /// A batch as Python 2 pickled it: `{'data': array([1, 3072], uint8), 'labels': [7]}`.
    fn batch(label: u8, name: &str) -> Vec<u8> {
        let mut bytes = b"\x80\x02}(U\x04data".to_vec();
        bytes.extend(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R");
        bytes.extend(b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R");
        bytes.extend(b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00");
        bytes.extend([[10_u8; 1024], [20; 1024], [30; 1024]].concat());
        bytes.extend(b"tbU");
        bytes.push(name.len() as u8);
        bytes.extend(name.as_bytes());
        bytes.extend([b']', b'K', label, b'a', b'u', b'.']);
        bytes
    }

    #[test]
    fn pythons_cifar_files_are_read_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("test_batch"), batch(7, "labels")).unwrap();
        let set = Images::cifar10(folder.path(), false).unwrap();
        assert_eq!(set.labels(), [7]);
        assert_eq!(set.image(0).unwrap().values()[..6], [10, 20, 30, 10, 20, 30]);
        fs::write(folder.path().join("test"), batch(99, "fine_labels")).unwrap();
        assert_eq!(Images::cifar100(folder.path(), false).unwrap().labels(), [99]);
        fs::write(folder.path().join("test"), batch(99, "labels")).unwrap();
        let error = Images::cifar100(folder.path(), false).unwrap_err().to_string();
        assert!(error.contains("fine_labels"), "{error}");
        fs::write(folder.path().join("test_batch"), batch(10, "labels")).unwrap();
        assert!(Images::cifar10(folder.path(), false).unwrap_err().to_string().contains("below 10"));
        fs::write(folder.path().join("test_batch"), &batch(7, "labels")[..900]).unwrap();
        assert!(Images::cifar10(folder.path(), false).unwrap_err().to_string().contains("bytes"));
    }
}
