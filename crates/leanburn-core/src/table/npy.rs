//! Arrays of numbers in `.npy` files.
//!
//! `npyz` and `ndarray-npy` allocate declared lengths, up to 4 GiB for the header alone, before they look at
//! the file, and parse the header with a recursive grammar for all Python literals. An array of numbers needs
//! neither.

use std::{fs, path::Path};

use burn::tensor::{BoolStore, DType, TensorData};

use super::{MAX_DIMENSIONS, column_major, elements, excerpt};
use crate::{Error, Result};

const MAGIC: &[u8] = b"\x93NUMPY";

/// Reads an array of any shape: versions 1 to 3 of the format, `f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 b1`, either
/// byte order, C or Fortran order. The elements keep their type and come in C order.
///
/// # Errors
///
/// When the file cannot be read, is not an `.npy` file, holds anything but plain numbers, or is longer or
/// shorter than its header declares. Memory stays within a small multiple of the file's size, whatever the
/// header says.
pub fn read(path: impl AsRef<Path>) -> Result<TensorData> {
    let path = path.as_ref();
    parse(path, &fs::read(path).map_err(Error::io(path))?)
}

fn parse(path: &Path, file: &[u8]) -> Result<TensorData> {
    let Some((&[major, minor], rest)) = file.strip_prefix(MAGIC).and_then(<[u8]>::split_first_chunk) else {
        return Err(Error::format(path, "byte 0", "the mark of an .npy file", excerpt(file)));
    };
    let length = match (major, minor) {
        (1, 0) => rest.first_chunk().map(|&n| (2, usize::from(u16::from_le_bytes(n)))),
        (2 | 3, 0) => rest.first_chunk().map(|&n| (4, u32::from_le_bytes(n) as usize)),
        _ => {
            let found = format!("version {major}.{minor}");
            return Err(Error::format(path, "byte 6", "version 1.0, 2.0 or 3.0 of the format", found));
        }
    };
    let header_and_data = length.and_then(|(width, n)| rest[width..].split_at_checked(n));
    let Some((header, data)) = header_and_data else {
        let found = format!("a file of {} bytes", file.len());
        return Err(Error::format(path, "byte 8", "a whole header", found));
    };
    let start = file.len() - data.len();

    let Header { dtype, big_endian, fortran_order, shape } =
        Literal { path, text: header, start: start - header.len(), at: 0 }.header()?;
    let size = dtype.size();
    let count = elements(&shape).filter(|n| n.checked_mul(size) == Some(data.len())).ok_or_else(|| {
        let expected = format!("the {size}-byte numbers of an array of shape {shape:?} and nothing else");
        Error::format(path, format!("byte {start}"), expected, format!("{} bytes", data.len()))
    })?;
    if dtype.is_bool()
        && let Some(i) = data.iter().position(|&byte| byte > 1)
    {
        return Err(Error::format(path, format!("byte {}", start + i), "a boolean, 0 or 1", data[i]));
    }

    let mut bytes = Vec::with_capacity(data.len());
    if fortran_order {
        for i in column_major(&shape, count) {
            bytes.extend_from_slice(&data[i * size..][..size]);
        }
    } else {
        bytes.extend_from_slice(data);
    }
    if big_endian != cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    Ok(TensorData::from_bytes_vec(bytes, shape, dtype))
}

/// What the header says of the data.
struct Header {
    dtype: DType,
    big_endian: bool,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// The header's text, read from the left: a Python dictionary such as
/// `{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }`.
struct Literal<'a> {
    path: &'a Path,
    text: &'a [u8],
    /// Where the text begins in the file.
    start: usize,
    at: usize,
}

impl Literal<'_> {
    fn header(mut self) -> Result<Header> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.expect("{")?;
        while !self.eat("}") {
            let key = self.one_of(&["'descr'", "'fortran_order'", "'shape'"])?;
            self.expect(":")?;
            // A key that comes twice is an error, as the header then says two things.
            let repeated = match key {
                0 => descr.replace(self.dtype()?).is_some(),
                1 => fortran_order.replace(self.one_of(&["False", "True"])? == 1).is_some(),
                _ => shape.replace(self.shape()?).is_some(),
            };
            if repeated {
                return Err(self.error("each key once"));
            }
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        self.skip_blanks();
        if self.at < self.text.len() {
            return Err(self.error("the end of the header"));
        }
        match (descr, fortran_order, shape) {
            (Some((dtype, big_endian)), Some(fortran_order), Some(shape)) => {
                Ok(Header { dtype, big_endian, fortran_order, shape })
            }
            _ => Err(self.error("a header with 'descr', 'fortran_order' and 'shape'")),
        }
    }

    /// The type of the elements and whether they are big endian.
    fn dtype(&mut self) -> Result<(DType, bool)> {
        const TYPES: [(&[u8; 2], DType); 12] = [
            (b"f2", DType::F16),
            (b"f4", DType::F32),
            (b"f8", DType::F64),
            (b"i1", DType::I8),
            (b"i2", DType::I16),
            (b"i4", DType::I32),
            (b"i8", DType::I64),
            (b"u1", DType::U8),
            (b"u2", DType::U16),
            (b"u4", DType::U32),
            (b"u8", DType::U64),
            (b"b1", DType::Bool(BoolStore::Native)),
        ];
        self.skip_blanks();
        if let Some(&[quote @ (b'\'' | b'"'), order, kind, width, end]) = self.text[self.at..].first_chunk()
            && end == quote
            && let Some((_, dtype)) = TYPES.iter().find(|(name, _)| **name == [kind, width])
            && (matches!(order, b'<' | b'>') || (order == b'|' && dtype.size() == 1))
        {
            self.at += 5;
            return Ok((*dtype, order == b'>'));
        }
        Err(self.error(
            "plain numbers of type f2, f4, f8, i1, i2, i4, i8, u1, u2, u4, u8 or b1; save an array of numbers \
             with allow_pickle=False",
        ))
    }

    /// A tuple of sizes: `()`, `(2,)`, `(2, 3)`.
    fn shape(&mut self) -> Result<Vec<usize>> {
        let mut shape = Vec::new();
        self.expect("(")?;
        while !self.eat(")") {
            self.skip_blanks();
            let digits = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let size = std::str::from_utf8(&self.text[self.at..][..digits]).ok().and_then(|n| n.parse().ok());
            let Some(size) = size.filter(|_| shape.len() < MAX_DIMENSIONS) else {
                return Err(self.error(format!("a tuple of at most {MAX_DIMENSIONS} sizes")));
            };
            self.at += digits;
            shape.push(size);
            // One size is a tuple only with its comma.
            if !self.eat(",") {
                self.expect(if shape.len() > 1 { ")" } else { "," })?;
                break;
            }
        }
        Ok(shape)
    }

    /// Which of `tokens` comes next; a quoted one may have either quote.
    fn one_of(&mut self, tokens: &[&str]) -> Result<usize> {
        tokens
            .iter()
            .position(|token| self.eat(token) || self.eat(&token.replace('\'', "\"")))
            .ok_or_else(|| self.error(tokens.join(" or ")))
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        if self.eat(token) { Ok(()) } else { Err(self.error(format!("`{token}`"))) }
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip_blanks();
        let found = self.text[self.at..].starts_with(token.as_bytes());
        if found {
            self.at += token.len();
        }
        found
    }

    fn skip_blanks(&mut self) {
        self.at += self.text[self.at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    }

    fn error(&self, expected: impl std::fmt::Display) -> Error {
        let location = format!("header, byte {}", self.start + self.at);
        Error::format(self.path, location, expected, excerpt(&self.text[self.at..]))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use burn::tensor::f16;
    use proptest::prelude::*;

    use super::*;
    use crate::table::tests::{damaged, parts};

    /// A file of version 1.0 with this header and data.
    fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
        let length = (header.len() as u16).to_le_bytes();
        [MAGIC, &[1, 0], &length, header.as_bytes(), data].concat()
    }

    /// A file of an array, as `NumPy` writes it.
    pub(crate) fn file(descr: &str, fortran_order: bool, shape: &[usize], data: &[u8]) -> Vec<u8> {
        let fortran_order = if fortran_order { "True" } else { "False" };
        let shape = shape.iter().fold(String::new(), |text, n| format!("{text}{n}, "));
        let header =
            format!("{{'descr': '{descr}', 'fortran_order': {fortran_order}, 'shape': ({shape}), }}  \n");
        with_header(&header, data)
    }

    fn read(file: &[u8]) -> Result<TensorData> {
        parse(Path::new("a.npy"), file)
    }

    #[test]
    fn reads_every_type_in_both_orders() {
        macro_rules! check {
            ($($type:ty: $name:literal $values:expr;)*) => {$(
                let values: [$type; 2] = $values;
                let expected = TensorData::from(values);
                let little = values.map(<$type>::to_le_bytes).concat();
                let big = values.map(<$type>::to_be_bytes).concat();
                assert_eq!(read(&file(concat!("<", $name), false, &[2], &little)).unwrap(), expected);
                assert_eq!(read(&file(concat!(">", $name), false, &[2], &big)).unwrap(), expected);
            )*};
        }
        check! {
            f16: "f2" [f16::from_f32(1.5), f16::from_f32(-2.0)];
            f32: "f4" [1.5, f32::MIN];
            f64: "f8" [1.5, f64::MAX];
            i8: "i1" [1, i8::MIN];
            i16: "i2" [1, i16::MIN];
            i32: "i4" [1, i32::MIN];
            i64: "i8" [1, i64::MIN];
            u8: "u1" [1, u8::MAX];
            u16: "u2" [1, u16::MAX];
            u32: "u4" [1, u32::MAX];
            u64: "u8" [1, u64::MAX];
        }
        assert_eq!(read(&file("|b1", false, &[2], &[1, 0])).unwrap(), TensorData::from([true, false]));
        assert_eq!(read(&file("|i1", false, &[2], &[1, 255])).unwrap(), TensorData::from([1_i8, -1]));
    }

    #[test]
    fn reads_every_version_and_shape() {
        let first = file("<u2", false, &[2, 1], &[1, 0, 2, 0]);
        let expected = TensorData::from([[1_u16], [2]]);
        assert_eq!(read(&first).unwrap(), expected);
        for version in [2, 3] {
            let later = [MAGIC, &[version, 0], &first[8..10], &[0, 0], &first[10..]].concat();
            assert_eq!(read(&later).unwrap(), expected);
        }
        assert!(read(&file("|u1", false, &[], &[7])).unwrap().shape.is_empty());
        assert_eq!(read(&file("<f8", true, &[0, 3], &[])).unwrap().shape[..], [0, 3]);
        let fortran = read(&file("|u1", true, &[2, 3], &[1, 4, 2, 5, 3, 6])).unwrap();
        assert_eq!(fortran, TensorData::from([[1_u8, 2, 3], [4, 5, 6]]));
        let other = with_header(r#"{"shape":(1,),"descr":"|u1" , "fortran_order" :False}"#, &[3]);
        assert_eq!(read(&other).unwrap(), TensorData::from([3_u8]));
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        let u1 = |shape: &str| {
            with_header(&format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}"), b"")
        };
        let descr = |descr: &str| {
            with_header(&format!("{{'descr': {descr}, 'fortran_order': False, 'shape': ()}}"), b"")
        };
        let good = file("<f8", false, &[1], &[0; 8]);
        for (file, expected) in [
            (b"".to_vec(), "the mark of an .npy file"),
            (b"PK\x03\x04 npz".to_vec(), "the mark of an .npy file"),
            (MAGIC.to_vec(), "the mark of an .npy file"),
            ([MAGIC, &[4, 0, 0, 0]].concat(), "found version 4.0"),
            ([MAGIC, &[1, 0, 1]].concat(), "a whole header"),
            ([MAGIC, &[2, 0, 255, 255, 255, 255]].concat(), "a whole header"),
            (good[..good.len() - 1].to_vec(), "array of shape [1] and nothing else, found 7 bytes"),
            ([&good[..], &[0]].concat(), "nothing else, found 9 bytes"),
            (file("|b1", false, &[2], &[1, 2]), "a boolean, 0 or 1, found 2"),
            (descr("'|O'"), "allow_pickle=False"),
            (descr("'<U3'"), "allow_pickle=False"),
            (descr("'<c8'"), "allow_pickle=False"),
            (descr("'|f8'"), "allow_pickle=False"),
            (descr("'<f8"), "allow_pickle=False"),
            (descr("'<f8\""), "allow_pickle=False"),
            (descr("[('a', '<f4')]"), "allow_pickle=False"),
            (u1("(1"), "`,`"),
            (u1("(1)"), "`,`"),
            (u1("1,"), "`(`"),
            (u1("(,)"), "sizes"),
            (u1("(-1,)"), "sizes"),
            (u1("(99999999999999999999,)"), "sizes"),
            (u1("(9223372036854775807, 9223372036854775807)"), "nothing else"),
            (u1("(0, 9223372036854775807, 9223372036854775807)"), "nothing else"),
            (u1(&format!("({})", "1,".repeat(65))), "sizes"),
            (u1("(1,), 'shape': (1,)"), "each key once"),
            (u1("(1,), 'more': 1"), "'shape'"),
            (u1("(1,)} 1, {"), "the end of the header"),
            (with_header("{}", b""), "a header with 'descr', 'fortran_order' and 'shape'"),
            (with_header("", b""), "`{`"),
            (with_header("{'fortran_order': 0}", b""), "False or True"),
        ] {
            let error = read(&file).unwrap_err().to_string();
            assert!(error.starts_with("a.npy: ") && error.contains(expected), "{error}");
        }
    }

    /// A type, an order, a shape and the elements' little-endian bytes.
    fn array() -> impl Strategy<Value = (&'static str, DType, Vec<usize>, Vec<u8>)> {
        let kind = prop::sample::select(vec![
            ("f2", DType::F16),
            ("f4", DType::F32),
            ("f8", DType::F64),
            ("i1", DType::I8),
            ("i4", DType::I32),
            ("u2", DType::U16),
            ("u8", DType::U64),
        ]);
        (kind, prop::collection::vec(0_usize..4, 0..4)).prop_flat_map(|((name, dtype), shape)| {
            let bytes = shape.iter().product::<usize>() * dtype.size();
            (Just(name), Just(dtype), Just(shape), prop::collection::vec(any::<u8>(), bytes))
        })
    }

    /// The elements in the order in which the first index is fastest.
    fn first_index_fastest(shape: &[usize], elements: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let Some((_, inner)) = shape.split_first() else { return elements };
        let parts = elements.chunks(inner.iter().product::<usize>().max(1));
        let parts: Vec<_> = parts.map(|part| first_index_fastest(inner, part.to_vec())).collect();
        (0..parts.first().map_or(0, Vec::len))
            .flat_map(|i| parts.iter().map(move |part| part[i].clone()))
            .collect()
    }

    proptest! {
        #[test]
        fn round_trips(
            (name, dtype, shape, bytes) in array(),
            big in any::<bool>(),
            fortran in any::<bool>(),
        ) {
            let mut elements: Vec<_> = bytes.chunks(dtype.size()).map(<[u8]>::to_vec).collect();
            if fortran {
                elements = first_index_fastest(&shape, elements);
            }
            if big {
                for element in &mut elements {
                    element.reverse();
                }
            }
            let descr = format!("{}{name}", if big { '>' } else { '<' });
            let data = read(&file(&descr, fortran, &shape, &elements.concat())).unwrap();
            prop_assert_eq!(data.dtype, dtype);
            prop_assert_eq!(&data.shape[..], &shape[..]);
            prop_assert_eq!(data.as_bytes(), bytes);
        }

        #[test]
        fn survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), mark in any::<bool>()) {
            let _ = read(&[if mark { b"\x93NUMPY\x01\0" } else { &b""[..] }, &bytes].concat());
        }

        #[test]
        fn survives_any_header(
            start in parts(&["{", "}", "(", ")", ",", ":", "'", "\"", "0", "9", " "], 9),
            keys in parts(
                &["'descr'", "'shape'", "'fortran_order'", ": ", "'<f8'", "True", "(2,", "(3, 1)", ", ", "}", ")"],
                14,
            ),
        ) {
            let _ = read(&with_header(&(start + &keys), &[]));
        }

        #[test]
        fn survives_damage(file in damaged(vec![
            file("<f8", true, &[3, 2], &[1; 48]),
            file(">i2", false, &[2, 2, 2], &[1; 16]),
            file("|b1", false, &[4], &[1; 4]),
        ])) {
            if let Ok(data) = read(&file) {
                prop_assert!(data.as_bytes().len() <= file.len());
            }
        }
    }
}
