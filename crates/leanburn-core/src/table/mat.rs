//! MATLAB's level 5 `.mat` files: what MATLAB and Octave write with `save('-v6')` and `save('-v7')`, and
//! `scipy.io.savemat`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    io::Read,
    path::Path,
};

use flate2::read::ZlibDecoder;

use super::{MAX_DIMENSIONS, MAX_EXACT, Table, column_major, elements, excerpt, in_file, integer, listed};
use crate::{Error, Result};

/// All compressed variables of a file may together take this much memory, as inflated bytes or as the values
/// made of them, whichever is more. A small file can declare, and inflate to, a thousand times its size.
pub const MAX_INFLATED: usize = 2 << 30;

/// The file's header: a text, the version and the mark of the byte order.
const HEADER: usize = 128;

/// Types of elements.
const MI_INT32: u32 = 5;
const MI_UINT32: u32 = 6;
const MI_MATRIX: u32 = 14;
const MI_COMPRESSED: u32 = 15;

/// The class of objects that have a name but no dimensions.
const MX_OPAQUE: u8 = 17;

/// The flag of an array that has an imaginary part.
const COMPLEX: u32 = 0x0800;

/// A real numeric or logical array.
#[derive(Debug, Clone, PartialEq)]
pub struct MatArray {
    /// The size of each dimension; MATLAB has at least two.
    pub shape: Vec<usize>,
    /// The elements, the last index fastest.
    pub values: Vec<f64>,
}

/// Reads all real numeric and logical arrays, by name. Other variables (complex, sparse, text, cells,
/// structures, objects) are skipped.
///
/// # Errors
///
/// When the file cannot be read, is not a level 5 file or is inconsistent, when an integer is beyond 2^53 and
/// so not exact in `f64`, or when its compressed variables exceed [`MAX_INFLATED`].
pub fn read(path: impl AsRef<Path>) -> Result<BTreeMap<String, MatArray>> {
    let path = path.as_ref();
    let mut arrays = BTreeMap::new();
    scan(path, &fs::read(path).map_err(Error::io(path))?, MAX_INFLATED, |variable| {
        if variable.content.is_ok() {
            arrays.insert(variable.name.to_owned(), variable.array()?);
        }
        Ok(())
    })?;
    Ok(arrays)
}

/// Reads the matrix `features`, of shape `[rows, columns]`, as a table, and the vector `labels`, of shape
/// `[rows, 1]` or `[1, rows]` and of integers, as its labels.
///
/// # Errors
///
/// As [`read`], and when a variable is missing or of another kind or shape, or when a cell is not finite.
pub fn read_table(path: impl AsRef<Path>, features: &str, labels: Option<&str>) -> Result<Table> {
    read_table_with(path.as_ref(), features, labels.map_or(Labels::None, Labels::Required))
}

/// The variable that holds the labels.
#[derive(Debug, Clone, Copy)]
pub(super) enum Labels<'a> {
    None,
    IfPresent(&'a str),
    Required(&'a str),
}

pub(super) fn read_table_with(path: &Path, features: &str, labels: Labels) -> Result<Table> {
    table(path, &fs::read(path).map_err(Error::io(path))?, features, labels)
}

fn table(path: &Path, file: &[u8], features: &str, labels: Labels) -> Result<Table> {
    let label_name = match labels {
        Labels::None => None,
        Labels::IfPresent(name) | Labels::Required(name) => Some(name),
    };
    let (mut names, mut x, mut y) = (Vec::new(), None, None);
    scan(path, file, MAX_INFLATED, |variable| {
        if variable.name == features {
            x = Some(variable.array()?);
        }
        if Some(variable.name) == label_name {
            y = match (variable.array(), labels) {
                // A file's own `y` may be text or cells: such a table has no labels.
                (Err(_), Labels::IfPresent(_)) => None,
                (array, _) => Some(array?),
            };
        }
        names.push(variable.name.to_owned());
        Ok(())
    })?;
    let missing =
        |name: &str| Error::format(path, "variables", format!("a variable `{name}`"), listed(&names));

    let MatArray { shape, values } = x.ok_or_else(|| missing(features))?;
    let part = format!("variable `{features}`");
    let [_, columns] = shape[..] else {
        return Err(Error::format(path, part, "two dimensions", format!("shape {shape:?}")));
    };
    let table = Table::new(values, columns).map_err(in_file(path, &part))?;

    let MatArray { shape, values } = match (y, labels) {
        (Some(y), _) => y,
        (None, Labels::Required(name)) => return Err(missing(name)),
        (None, _) => return Ok(table),
    };
    let part = format!("variable `{}`", label_name.unwrap_or_default());
    let classes = || {
        if !matches!(shape[..], [_, 1] | [1, _]) {
            return Err(Error::format(path, &*part, "a vector of labels", format!("shape {shape:?}")));
        }
        let classes = values.iter().enumerate().map(|(i, &value)| {
            integer(value)
                .ok_or_else(|| Error::format(path, format!("{part}, row {i}"), "an integer label", value))
        });
        classes.collect::<Result<Vec<i64>>>()
    };
    match (classes(), labels) {
        (Err(_), Labels::IfPresent(_)) => Ok(table),
        (classes, _) => table.with_labels(classes?).map_err(in_file(path, &part)),
    }
}

/// Shows each variable of the file to `visit`.
fn scan(
    path: &Path,
    file: &[u8],
    max_inflated: usize,
    mut visit: impl FnMut(Variable) -> Result<()>,
) -> Result<()> {
    let big_endian = is_big_endian(path, file)?;
    let mut top = Cursor { path, bytes: file, at: HEADER, big_endian, inflated_from: None, variable: "" };
    let mut budget = max_inflated;
    let mut seen = BTreeSet::new();
    while top.at < file.len() {
        let start = top.at;
        let (mut kind, mut body) = top.element()?;
        let inflated;
        if kind == MI_COMPRESSED {
            inflated = body.inflate(budget)?;
            (kind, body) = Cursor { bytes: &inflated, at: 0, inflated_from: Some(start), ..top }.element()?;
        } else {
            inflated = Vec::new();
        }
        if kind != MI_MATRIX {
            return Err(body.error("a variable, element type 14", format!("element type {kind}")));
        }
        let variable = body.variable()?;
        if !inflated.is_empty() {
            let values =
                variable.content.as_ref().map_or(0, |numbers| numbers.count.saturating_mul(size_of::<f64>()));
            budget = budget
                .checked_sub(inflated.len().max(values))
                .ok_or_else(|| body.error(format!("at most {max_inflated} inflated bytes"), "more"))?;
        }
        // Data of MATLAB's own follow the variables of some files, as an array without a name.
        if variable.name.is_empty() {
            continue;
        }
        if !seen.insert(variable.name.to_owned()) {
            return Err(variable.place.error("each variable once", "a second one of this name"));
        }
        visit(variable)?;
    }
    Ok(())
}

/// Checks the file's header.
fn is_big_endian(path: &Path, file: &[u8]) -> Result<bool> {
    /// Level 4 files begin with a number below this, not with a text.
    const LEVEL_4: u32 = 5000;
    /// Version 7.3 is HDF5 behind a block of this size.
    const BLOCK: usize = 512;
    const HDF5: &[u8] = b"\x89HDF\r\n\x1a\n";
    let error = |byte, found| {
        let expected = "a level 5 MAT-file; load this one in MATLAB or Octave and save it with save('-v7')";
        Err(Error::format(path, format!("byte {byte}"), expected, found))
    };
    if file.starts_with(HDF5)
        || file.starts_with(b"MATLAB 7.3")
        || file.get(BLOCK..).is_some_and(|rest| rest.starts_with(HDF5))
    {
        return error(0, "version 7.3, which is HDF5".to_owned());
    }
    if let Some(&first) = file.first_chunk()
        && (u32::from_le_bytes(first) < LEVEL_4 || u32::from_be_bytes(first) < LEVEL_4)
    {
        return error(0, "level 4".to_owned());
    }
    let Some(&[v0, v1, mark @ ..]) = file.first_chunk::<HEADER>().and_then(|header| header.last_chunk::<4>())
    else {
        return error(0, format!("a file of {} bytes", file.len()));
    };
    match (&mark, [v0, v1]) {
        (b"IM", [0, 1]) => Ok(false),
        (b"MI", [1, 0]) => Ok(true),
        _ => {
            error(HEADER - 4, format!("version and byte order {}", excerpt([&[v0, v1], &mark[..]].concat())))
        }
    }
}

/// A variable of the file.
struct Variable<'a> {
    name: &'a str,
    place: Cursor<'a>,
    /// The numbers, or what the variable is instead.
    content: Result<Numbers<'a>, &'static str>,
}

/// The numbers as the file stores them, the first index fastest.
struct Numbers<'a> {
    shape: Vec<usize>,
    count: usize,
    /// The type of the stored numbers, which may be smaller than the array's class.
    kind: u32,
    width: usize,
    data: Cursor<'a>,
}

impl Variable<'_> {
    fn array(&self) -> Result<MatArray> {
        let &Numbers { ref shape, count, kind, width, data } = self
            .content
            .as_ref()
            .map_err(|what| self.place.error("a real numeric or logical array, not sparse", what))?;
        let mut values = Vec::with_capacity(count);
        for i in column_major(shape, count) {
            let number = Cursor { at: data.at + i * width, ..data };
            let value = widen(kind, number.bits(width))
                .ok_or_else(|| number.error("an integer of at most 2^53", "a larger one"))?;
            values.push(value);
        }
        Ok(MatArray { shape: shape.clone(), values })
    }
}

/// The size of a number of an element type.
fn width(kind: u32) -> Option<usize> {
    match kind {
        1 | 2 => Some(1),
        3 | 4 => Some(2),
        5..=7 => Some(4),
        9 | 12 | 13 => Some(8),
        _ => None,
    }
}

/// The number of an element type that the low bits of `bits` stand for, if `f64` holds it exactly.
fn widen(kind: u32, bits: u64) -> Option<f64> {
    match kind {
        1 => Some(f64::from(bits as i8)),
        2 => Some(f64::from(bits as u8)),
        3 => Some(f64::from(bits as i16)),
        4 => Some(f64::from(bits as u16)),
        5 => Some(f64::from(bits as i32)),
        6 => Some(f64::from(bits as u32)),
        7 => Some(f64::from(f32::from_bits(bits as u32))),
        9 => Some(f64::from_bits(bits)),
        12 => Some(bits as i64).filter(|value| value.unsigned_abs() <= MAX_EXACT).map(|value| value as f64),
        13 => Some(bits).filter(|&value| value <= MAX_EXACT).map(|value| value as f64),
        _ => None,
    }
}

/// Bytes of the file or of an inflated variable, read from the left.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
    /// Where the bytes lie compressed in the file.
    inflated_from: Option<usize>,
    /// The name of the variable, once it is known.
    variable: &'a str,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// The next `width` bytes, at most 8, as the low bits of a number.
    fn bits(&self, width: usize) -> u64 {
        let mut bits = [0; 8];
        bits[..width].copy_from_slice(&self.rest()[..width]);
        if self.big_endian {
            bits[..width].reverse();
        }
        u64::from_le_bytes(bits)
    }

    /// Reads a data element: its type and a cursor on its data.
    fn element(&mut self) -> Result<(u32, Self)> {
        const TAG: usize = 8;
        let Some(available) = self.rest().len().checked_sub(TAG) else {
            return Err(self.error("the 8 bytes of an element's tag", format!("{} bytes", self.rest().len())));
        };
        let word = self.bits(4) as u32;
        let size_at = Self { at: self.at + 4, ..*self };
        // Up to four bytes of data are stored in the tag, their number in the upper half of the type.
        let (kind, start, size, room) = match word >> 16 {
            0 => (word, self.at + TAG, size_at.bits(4) as usize, available),
            size => (word & 0xffff, self.at + 4, size as usize, 4),
        };
        if size > room {
            return Err(self.error(format!("an element of at most {room} bytes"), format!("{size} bytes")));
        }
        let end = start + size;
        // Elements are padded to 8 bytes, though not compressed ones, and not always the last.
        let padding =
            if kind == MI_COMPRESSED { 0 } else { (end - self.at).next_multiple_of(8) - (end - self.at) };
        let data = Self { bytes: &self.bytes[..end], at: start, ..*self };
        self.at = (end + padding).min(self.bytes.len());
        Ok((kind, data))
    }

    /// The inflated bytes of a compressed element: one whole variable.
    fn inflate(&self, budget: usize) -> Result<Vec<u8>> {
        let error = |found: std::io::Error| self.error("a whole zlib stream", found);
        let mut stream = ZlibDecoder::new(self.rest());
        let mut bytes = vec![0; 8];
        stream.read_exact(&mut bytes).map_err(error)?;
        let size = Cursor { bytes: &bytes, at: 4, ..*self }.bits(4) as usize;
        let whole = size.saturating_add(bytes.len());
        if whole > budget {
            return Err(self.error(
                format!("at most {budget} more inflated bytes"),
                format!("a variable that declares {whole}"),
            ));
        }
        // The limit leaves room to see that there is more than the padding.
        stream.take(size as u64 + 8).read_to_end(&mut bytes).map_err(error)?;
        if !(whole..=whole.next_multiple_of(8)).contains(&bytes.len()) {
            return Err(self.error(
                format!("{whole} inflated bytes, as the variable declares"),
                if bytes.len() < whole { format!("{} bytes", bytes.len()) } else { "more".to_owned() },
            ));
        }
        Ok(bytes)
    }

    /// Reads the variable in the data of a matrix element.
    fn variable(&mut self) -> Result<Variable<'a>> {
        let place = *self;
        let (kind, flags) = self.element()?;
        if kind != MI_UINT32 || flags.rest().len() != 8 {
            return Err(flags.error("an array's flags", format!("element type {kind}")));
        }
        let flags = flags.bits(4) as u32;
        let class = flags as u8;
        let what = match class {
            1 => "a cell array",
            2 => "a structure",
            4 => "text",
            5 => "a sparse matrix",
            6..=15 if flags & COMPLEX != 0 => "a complex array",
            6..=15 => "numbers",
            16 => "a function",
            3 | MX_OPAQUE => "an object",
            _ => return Err(place.error("an array class from 1 to 17", class)),
        };

        let shape = if class == MX_OPAQUE { Vec::new() } else { self.shape()? };
        let (_, name) = self.element()?;
        self.variable = std::str::from_utf8(name.rest())
            .map_err(|_| name.error("a variable's name", excerpt(name.rest())))?;
        let place = Cursor { variable: self.variable, ..place };
        let content = if what == "numbers" { Ok(self.numbers(shape)?) } else { Err(what) };
        Ok(Variable { name: self.variable, place, content })
    }

    fn shape(&mut self) -> Result<Vec<usize>> {
        let (kind, sizes) = self.element()?;
        let length = sizes.rest().len();
        // Dimensions are signed, but some writers disagree.
        if !matches!(kind, MI_INT32 | MI_UINT32) || length % 4 != 0 || length > 4 * MAX_DIMENSIONS {
            let found = format!("element type {kind} of {length} bytes");
            return Err(sizes.error(format!("an array's dimensions, at most {MAX_DIMENSIONS}"), found));
        }
        (sizes.at..sizes.bytes.len())
            .step_by(4)
            .map(|at| {
                let size = Self { at, ..sizes };
                let n = size.bits(4) as i32;
                usize::try_from(n).map_err(|_| size.error("a dimension of at least 0", n))
            })
            .collect()
    }

    fn numbers(&mut self, shape: Vec<usize>) -> Result<Numbers<'a>> {
        let (kind, data) = self.element()?;
        let width = width(kind).ok_or_else(|| data.error("numbers", format!("element type {kind}")))?;
        let stored = data.rest().len();
        let count = elements(&shape).filter(|n| n.checked_mul(width) == Some(stored)).ok_or_else(|| {
            let expected = format!("the {width}-byte numbers of an array of shape {shape:?}");
            data.error(expected, format!("{stored} bytes"))
        })?;
        if !self.rest().is_empty() {
            return Err(self.error("the end of the variable", format!("{} more bytes", self.rest().len())));
        }
        Ok(Numbers { shape, count, kind, width, data })
    }

    fn error(&self, expected: impl fmt::Display, found: impl fmt::Display) -> Error {
        let mut location = match self.inflated_from {
            None => format!("byte {}", self.at),
            Some(from) => format!("byte {} of the variable compressed at byte {from}", self.at),
        };
        if !self.variable.is_empty() {
            location = format!("variable {}, {location}", excerpt(self.variable));
        }
        Error::format(self.path, location, expected, found)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::ZlibEncoder};
    use proptest::prelude::*;

    use super::*;
    use crate::table::tests::damaged;

    const DOUBLE: u32 = 6;
    const UINT8: u32 = 9;
    const LOGICAL: u32 = 0x0200;

    /// A writer of either byte order.
    #[derive(Clone, Copy)]
    struct Writer {
        big_endian: bool,
    }

    const LITTLE: Writer = Writer { big_endian: false };
    const BIG: Writer = Writer { big_endian: true };

    impl Writer {
        /// The low bytes of `bits`.
        fn bits(self, bits: u64, width: usize) -> Vec<u8> {
            let mut bytes = bits.to_le_bytes()[..width].to_vec();
            if self.big_endian {
                bytes.reverse();
            }
            bytes
        }

        fn words(self, words: &[u32]) -> Vec<u8> {
            words.iter().flat_map(|&word| self.bits(u64::from(word), 4)).collect()
        }

        /// A data element, a small one where it fits.
        fn element(self, kind: u32, data: &[u8]) -> Vec<u8> {
            let size = data.len() as u32;
            let tag = if (1..=4).contains(&size) {
                self.words(&[size << 16 | kind])
            } else {
                self.words(&[kind, size])
            };
            let mut bytes = [&tag, data].concat();
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes
        }

        fn variable(self, class: u32, shape: &[u32], name: &str, kind: u32, data: &[u8]) -> Vec<u8> {
            let parts = [
                self.element(MI_UINT32, &self.words(&[class, 0])),
                self.element(MI_INT32, &self.words(shape)),
                self.element(1, name.as_bytes()),
                self.element(kind, data),
            ];
            let body = parts.concat();
            [self.words(&[MI_MATRIX, body.len() as u32]), body].concat()
        }

        fn doubles(self, shape: &[u32], name: &str, values: &[f64]) -> Vec<u8> {
            let data: Vec<u8> = values.iter().flat_map(|value| self.bits(value.to_bits(), 8)).collect();
            self.variable(DOUBLE, shape, name, 9, &data)
        }

        fn compressed(self, variable: &[u8]) -> Vec<u8> {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(variable).unwrap();
            let data = encoder.finish().unwrap();
            [self.words(&[MI_COMPRESSED, data.len() as u32]), data].concat()
        }

        fn file(self, variables: &[Vec<u8>]) -> Vec<u8> {
            let mut header = b"MATLAB 5.0 MAT-file".to_vec();
            header.resize(HEADER - 4, b' ');
            header.extend(self.bits(0x0100, 2));
            header.extend(self.bits(0x4d49, 2));
            [header, variables.concat()].concat()
        }
    }

    fn arrays_within(file: &[u8], max_inflated: usize) -> Result<BTreeMap<String, MatArray>> {
        let mut arrays = BTreeMap::new();
        scan(Path::new("a.mat"), file, max_inflated, |variable| {
            if variable.content.is_ok() {
                arrays.insert(variable.name.to_owned(), variable.array()?);
            }
            Ok(())
        })?;
        Ok(arrays)
    }

    fn arrays(file: &[u8]) -> Result<BTreeMap<String, MatArray>> {
        arrays_within(file, 1 << 20)
    }

    fn table_of(variables: &[Vec<u8>], labels: Labels) -> Result<Table> {
        table(Path::new("a.mat"), &LITTLE.file(variables), "X", labels)
    }

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn reads_every_element_type_in_both_orders() {
        let cases: [(u32, u64, usize, f64); 13] = [
            (1, 0xfe, 1, -2.0),
            (2, 0xfe, 1, 254.0),
            (3, 0xfffe, 2, -2.0),
            (4, 0xfffe, 2, 65534.0),
            (5, 0xffff_fffe, 4, -2.0),
            (6, 0xffff_fffe, 4, 4_294_967_294.0),
            (7, u64::from(1.5_f32.to_bits()), 4, 1.5),
            (9, 1.5_f64.to_bits(), 8, 1.5),
            (9, f64::NEG_INFINITY.to_bits(), 8, f64::NEG_INFINITY),
            (12, -2_i64 as u64, 8, -2.0),
            (12, -(1_i64 << 53) as u64, 8, -9_007_199_254_740_992.0),
            (13, 7, 8, 7.0),
            (13, 1 << 53, 8, 9_007_199_254_740_992.0),
        ];
        for writer in [LITTLE, BIG] {
            for (kind, bits, width, value) in cases {
                let variable = writer.variable(DOUBLE, &[1, 1], "a", kind, &writer.bits(bits, width));
                for variable in [writer.compressed(&variable), variable] {
                    let array = &arrays(&writer.file(&[variable])).unwrap()["a"];
                    assert_eq!(array, &MatArray { shape: vec![1, 1], values: vec![value] });
                }
            }
        }
        for (kind, bits) in [(12, (1 << 53) + 1), (12, i64::MIN as u64), (13, (1 << 53) + 1)] {
            let file = LITTLE.file(&[LITTLE.variable(14, &[1, 1], "big", kind, &LITTLE.bits(bits, 8))]);
            let error = message(arrays(&file));
            assert_eq!(
                error,
                "a.mat: variable \"big\", byte 184: expected an integer of at most 2^53, found a larger one"
            );
        }
    }

    #[test]
    fn reads_any_shape_in_row_major_order() {
        let file = LITTLE.file(&[
            LITTLE.doubles(&[2, 3], "a", &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]),
            LITTLE.compressed(&LITTLE.doubles(&[2, 1, 2], "cube", &[1.0, 3.0, 2.0, 4.0])),
            LITTLE.doubles(&[0, 3], "none", &[]),
            LITTLE.variable(UINT8 | LOGICAL, &[1, 2], "flags", 2, &[1, 0]),
        ]);
        let arrays = arrays(&file).unwrap();
        assert_eq!(arrays["a"].values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(arrays["cube"], MatArray { shape: vec![2, 1, 2], values: vec![1.0, 2.0, 3.0, 4.0] });
        assert_eq!(arrays["none"], MatArray { shape: vec![0, 3], values: vec![] });
        assert_eq!(arrays["flags"].values, [1.0, 0.0]);
    }

    #[test]
    fn skips_other_variables_unless_asked_for() {
        let x = LITTLE.doubles(&[1, 1], "X", &[1.0]);
        let opaque_parts =
            [LITTLE.element(MI_UINT32, &LITTLE.words(&[17, 0])), LITTLE.element(1, b"X")].concat();
        let opaque = [LITTLE.words(&[MI_MATRIX, opaque_parts.len() as u32]), opaque_parts].concat();
        let unnamed = LITTLE.variable(UINT8, &[1, 1], "", 2, &[0]);
        assert_eq!(arrays(&LITTLE.file(&[unnamed.clone(), x, unnamed])).unwrap().len(), 1);
        for (other, what) in [
            (LITTLE.variable(1, &[1, 1], "X", MI_MATRIX, &[]), "a cell array"),
            (LITTLE.variable(2, &[1, 1], "X", MI_MATRIX, &[]), "a structure"),
            (LITTLE.variable(3, &[1, 1], "X", MI_MATRIX, &[]), "an object"),
            (LITTLE.variable(4, &[1, 1], "X", 4, &[65, 0]), "text"),
            (LITTLE.variable(5, &[1, 1], "X", 5, &[]), "a sparse matrix"),
            (LITTLE.variable(DOUBLE | COMPLEX, &[1, 1], "X", 2, &[1]), "a complex array"),
            (LITTLE.variable(16, &[1, 1], "X", MI_MATRIX, &[]), "a function"),
            (opaque, "an object"),
        ] {
            assert!(arrays(&LITTLE.file(std::slice::from_ref(&other))).unwrap().is_empty());
            let error = message(table_of(&[other], Labels::None));
            assert!(
                error
                    .contains(&format!("expected a real numeric or logical array, not sparse, found {what}")),
                "{error}"
            );
        }
    }

    #[test]
    fn makes_tables() {
        let x = LITTLE.doubles(&[2, 2], "X", &[1.0, 3.0, 2.0, 4.0]);
        let column = LITTLE.compressed(&LITTLE.variable(DOUBLE, &[2, 1], "y", 2, &[0, 1]));
        let row = LITTLE.doubles(&[1, 2], "y", &[0.0, 1.0]);
        let expected = Table::new(vec![1.0, 2.0, 3.0, 4.0], 2).unwrap();
        let labelled = expected.clone().with_labels(vec![0, 1]).unwrap();
        for y in [row, column] {
            let variables = [x.clone(), y];
            assert_eq!(table_of(&variables, Labels::None).unwrap(), expected);
            assert_eq!(table_of(&variables, Labels::IfPresent("y")).unwrap(), labelled);
            assert_eq!(table_of(&variables, Labels::Required("y")).unwrap(), labelled);
            assert_eq!(table_of(&variables, Labels::IfPresent("z")).unwrap(), expected);
            // A matrix that was not asked for as labels, and cannot be some.
            let shares = [x.clone(), LITTLE.doubles(&[2, 1], "y", &[0.5, 0.2])];
            assert_eq!(table_of(&shares, Labels::IfPresent("y")).unwrap(), expected);
            let error = message(table_of(&variables, Labels::Required("z")));
            assert!(error.contains("expected a variable `z`, found \"X\", \"y\""), "{error}");
        }
        for (x, y, expected) in [
            (LITTLE.doubles(&[1, 1, 1], "X", &[1.0]), None, "variable `X`: expected two dimensions"),
            (LITTLE.doubles(&[0, 1], "X", &[]), None, "variable `X`: table: expected at least one row"),
            (LITTLE.doubles(&[1, 2], "X", &[1.0, f64::NAN]), None, "variable `X`: row 0, column 1"),
            (LITTLE.doubles(&[1, 1], "Z", &[1.0]), None, "expected a variable `X`, found \"Z\""),
            (x.clone(), Some(LITTLE.doubles(&[2, 2], "y", &[0.0; 4])), "`y`: expected a vector of labels"),
            (x.clone(), Some(LITTLE.doubles(&[3, 1], "y", &[0.0; 3])), "2 labels, one a row, found 3"),
            (
                x.clone(),
                Some(LITTLE.doubles(&[2, 1], "y", &[0.0, 0.5])),
                "row 1: expected an integer label, found 0.5",
            ),
        ] {
            let variables: Vec<_> = [x].into_iter().chain(y).collect();
            let error = message(table_of(&variables, Labels::Required("y")));
            assert!(error.starts_with("a.mat: ") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn refuses_other_formats() {
        let mut version = LITTLE.file(&[]);
        version[HEADER - 4] = 7;
        let hdf5 = b"\x89HDF\r\n\x1a\n";
        for (file, expected) in [
            (b"".to_vec(), "a file of 0 bytes"),
            (b"MATLAB 5.0".to_vec(), "a file of 10 bytes"),
            (version, "version and byte order"),
            (vec![b'x'; HEADER], "version and byte order"),
            (hdf5.to_vec(), "version 7.3, which is HDF5"),
            (b"MATLAB 7.3 MAT-file".to_vec(), "version 7.3"),
            ([&[b' '; 512][..], hdf5].concat(), "version 7.3"),
            ([0_u32, 1, 1, 0, 2].map(u32::to_le_bytes).concat(), "level 4"),
            ([1000_u32, 1, 1, 0, 2].map(u32::to_be_bytes).concat(), "level 4"),
        ] {
            let error = message(arrays(&file));
            assert!(error.contains("save('-v7')") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn refuses_inconsistent_files() {
        let x = LITTLE.doubles(&[2, 1], "X", &[1.0, 2.0]);
        let with = |at: usize, word: u32| {
            let mut x = x.clone();
            x[at..at + 4].copy_from_slice(&word.to_le_bytes());
            x
        };
        let overlong = [x.clone(), vec![0; 16]].concat();
        let declared = |size: u32, zeros: usize| {
            LITTLE.compressed(&[LITTLE.words(&[MI_MATRIX, size]), vec![0; zeros]].concat())
        };
        let mut broken = LITTLE.compressed(&x);
        *broken.last_mut().unwrap() ^= 1;
        for (variable, expected) in [
            (vec![0; 4], "byte 128: expected the 8 bytes of an element's tag, found 4 bytes"),
            (with(0, 9), "byte 136: expected a variable, element type 14, found element type 9"),
            (with(4, u32::MAX), "byte 128: expected an element of at most 64 bytes, found 4294967295 bytes"),
            (with(0, 5 << 16 | MI_MATRIX), "an element of at most 4 bytes, found 5 bytes"),
            (with(8, 9), "byte 144: expected an array's flags, found element type 9"),
            (with(12, 4), "an array's flags"),
            (with(16, 18), "an array class from 1 to 17, found 18"),
            (with(24, 9), "an array's dimensions"),
            (
                LITTLE.variable(DOUBLE, &[1; MAX_DIMENSIONS + 1], "X", 2, &[1]),
                "an array's dimensions, at most 64, found element type 5 of 260 bytes",
            ),
            (with(32, u32::MAX), "a dimension of at least 0, found -1"),
            (
                with(32, 1 << 30),
                "variable \"X\", byte 184: expected the 8-byte numbers of an array of shape [1073741824, 1]",
            ),
            (with(48, 8), "expected numbers, found element type 8"),
            (with(52, 8), "found 8 bytes"),
            (LITTLE.variable(DOUBLE, &[1, 1], "\u{e9}x", 2, &[0, 0]), "variable \"\u{e9}x\""),
            ([x.clone(), x.clone()].concat(), "expected each variable once"),
            (overlong.clone(), "byte 208: expected a variable"),
            (
                LITTLE.compressed(&overlong),
                "expected 72 inflated bytes, as the variable declares, found more",
            ),
            (
                LITTLE.compressed(&x[..64]),
                "expected 72 inflated bytes, as the variable declares, found 64 bytes",
            ),
            (LITTLE.compressed(&x[..4]), "a whole zlib stream"),
            (LITTLE.compressed(&LITTLE.compressed(&x)), "element type 15"),
            (declared(u32::MAX, 0), "a variable that declares 4294967303"),
            (
                declared(1 << 19, 1 << 10),
                "expected 524296 inflated bytes, as the variable declares, found 1032 bytes",
            ),
            (declared(64, 1 << 20), "found more"),
            (broken.clone(), "a whole zlib stream"),
            (broken[..broken.len() - 9].to_vec(), "an element of at most"),
        ] {
            let error = message(arrays(&LITTLE.file(&[variable])));
            assert!(error.starts_with("a.mat: ") && error.contains(expected), "{expected}: {error}");
        }
        assert!(arrays(&LITTLE.file(&[with(24, MI_UINT32)])).is_ok());
    }

    #[test]
    fn bounds_what_compressed_variables_take() {
        let bytes = |name: &str| LITTLE.compressed(&LITTLE.variable(UINT8, &[1, 1000], name, 2, &[0; 1000]));
        let file = LITTLE.file(&[bytes("a"), bytes("b")]);
        assert_eq!(arrays_within(&file, 16_000).unwrap().len(), 2);
        // The values take eight times the room of the bytes.
        let error = message(arrays_within(&file, 15_999));
        assert!(
            error.contains("variable \"b\"") && error.contains("at most 15999 inflated bytes"),
            "{error}"
        );
        assert!(message(arrays_within(&file, 1_000)).contains("at most 1000 more inflated bytes"));
    }

    /// An element type with its width, a shape, and small values in row-major order.
    fn array() -> impl Strategy<Value = ((u32, usize), Vec<usize>, Vec<u8>)> {
        let kind =
            prop::sample::select(vec![(1, 1), (2, 1), (3, 2), (4, 2), (5, 4), (6, 4), (12, 8), (13, 8)]);
        (kind, prop::collection::vec(0_usize..4, 2..5)).prop_flat_map(|(kind, shape)| {
            let count = shape.iter().product::<usize>();
            (Just(kind), Just(shape), prop::collection::vec(0_u8..128, count))
        })
    }

    fn variables(writer: Writer) -> [Vec<u8>; 2] {
        [writer.doubles(&[2, 2], "X", &[1.0; 4]), writer.variable(UINT8, &[2, 1], "y", 2, &[0, 1])]
    }

    proptest! {
        #[test]
        fn round_trips(
            ((kind, width), shape, values) in array(),
            big_endian in any::<bool>(),
            compress in any::<bool>(),
        ) {
            let writer = Writer { big_endian };
            let mut columns = vec![0; values.len()];
            for (place, mut i) in (0..values.len()).map(|i| (i, i)) {
                let mut stride = values.len();
                let mut at = 0;
                for n in shape.iter().rev() {
                    stride /= n;
                    at += i % n * stride;
                    i /= n;
                }
                columns[at] = values[place];
            }
            let bits = |&value: &u8| writer.bits(u64::from(value), width);
            let data: Vec<u8> = columns.iter().flat_map(bits).collect();
            let dims: Vec<u32> = shape.iter().map(|&n| n as u32).collect();
            let variable = writer.variable(DOUBLE, &dims, "name", kind, &data);
            let variable = if compress { writer.compressed(&variable) } else { variable };
            let array = &arrays(&writer.file(&[variable])).unwrap()["name"];
            prop_assert_eq!(&array.shape, &shape);
            prop_assert_eq!(&array.values, &values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>());
        }

        #[test]
        fn survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), header in any::<bool>()) {
            let _ = arrays(&if header { LITTLE.file(&[bytes]) } else { bytes });
        }

        #[test]
        fn survives_damage(file in damaged(vec![
            LITTLE.file(&variables(LITTLE)),
            BIG.file(&variables(BIG).map(|variable| BIG.compressed(&variable))),
        ])) {
            if let Ok(arrays) = arrays(&file) {
                prop_assert!(arrays.values().map(|array| array.values.len()).sum::<usize>() <= file.len());
            }
            let _ = table(Path::new("a.mat"), &file, "X", Labels::IfPresent("y"));
        }

        #[test]
        fn survives_damage_that_is_compressed(
            variable in damaged(variables(LITTLE).to_vec()),
        ) {
            let limit = 1000;
            if let Ok(arrays) = arrays_within(&LITTLE.file(&[LITTLE.compressed(&variable)]), limit) {
                prop_assert!(arrays.values().all(|array| array.values.len() * 8 <= limit));
            }
        }
    }
}
