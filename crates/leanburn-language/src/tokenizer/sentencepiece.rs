//! SentencePiece's byte-pair encoding (Kudo and Richardson, 2018), and the same in llama2.c's files.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap},
    path::Path,
};

use leanburn_core::{Error, Result};

/// How spaces are written in pieces.
const SPACE: char = '\u{2581}';

/// What a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte(u8),
}

#[derive(Debug, Clone)]
struct Piece {
    text: String,
    score: f32,
    kind: Kind,
}

/// A vocabulary with the scores by which pieces are merged.
#[derive(Debug, Clone)]
pub(super) struct SentencePiece {
    pieces: Vec<Piece>,
    /// Of pieces that texts are made of.
    ids: HashMap<String, u32>,
    /// Of all others.
    reserved: HashMap<String, u32>,
    bytes: Box<[Option<u32>; 256]>,
    unknown: u32,
    /// Whether a space stands before each text.
    pub(super) dummy_prefix: bool,
}

impl SentencePiece {
    /// A SentencePiece model (`tokenizer.model`).
    pub(super) fn from_model(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let broken = |at: &str| Error::format(path, at, "a SentencePiece model", "something else");
        let (mut pieces, mut dummy_prefix, mut model_type) = (Vec::new(), true, 1);
        for field in fields(&bytes) {
            let (number, value) = field.ok_or_else(|| broken("file"))?;
            match (number, value) {
                (1, Value::Bytes(piece)) => {
                    pieces.push(read_piece(piece).ok_or_else(|| broken(&format!("piece {}", pieces.len())))?);
                }
                (2, Value::Bytes(trainer)) => {
                    for field in fields(trainer) {
                        if let (3, Value::Number(number)) = field.ok_or_else(|| broken("trainer"))? {
                            model_type = number;
                        }
                    }
                }
                (3, Value::Bytes(normalizer)) => {
                    for field in fields(normalizer) {
                        match field.ok_or_else(|| broken("normalizer"))? {
                            (1, Value::Bytes(name)) if name != b"identity" => {
                                let found = String::from_utf8_lossy(name);
                                return Err(Error::format(path, "normalizer", "`identity`", found));
                            }
                            (3, Value::Number(number)) => dummy_prefix = number != 0,
                            (4, Value::Number(number)) if number != 0 => {
                                let expected = "one that keeps all spaces, as LLaMA's";
                                return Err(Error::format(
                                    path,
                                    "normalizer",
                                    expected,
                                    "one that removes some",
                                ));
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if model_type != 2 {
            return Err(Error::format(path, "model type", "2, byte-pair encoding", model_type));
        }
        Self::new(pieces, dummy_prefix, path)
    }

    /// A vocabulary of llama2.c: the longest length, and of each token its score, its length and its bytes.
    ///
    /// Tokens 0 to 2 are `<unk>`, `<s>` and `</s>`, and the next 256 the bytes.
    pub(super) fn from_llama2c(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let mut rest = bytes.get(4..).unwrap_or_default();
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let broken = || {
                let location = format!("token {}", pieces.len());
                Error::format(path, location, "its score, its length and its text", "the end, or other bytes")
            };
            let (head, tail) = rest.split_first_chunk::<8>().ok_or_else(broken)?;
            let [a, b, c, d, length @ ..] = *head;
            let length = u32::from_le_bytes(length) as usize;
            let text = tail.get(..length).ok_or_else(broken)?;
            let text = std::str::from_utf8(text).map_err(|_| broken())?;
            let (text, kind) = match pieces.len() {
                0 => ("<unk>".to_owned(), Kind::Unknown),
                1 => ("<s>".to_owned(), Kind::Control),
                2 => ("</s>".to_owned(), Kind::Control),
                id @ 3..259 => (format!("<0x{:02X}>", id - 3), Kind::Byte((id - 3) as u8)),
                _ => (text.replace(' ', &SPACE.to_string()), Kind::Normal),
            };
            pieces.push(Piece { text, score: f32::from_le_bytes([a, b, c, d]), kind });
            rest = &tail[length..];
        }
        Self::new(pieces, true, path)
    }

    fn new(pieces: Vec<Piece>, dummy_prefix: bool, path: &Path) -> Result<Self> {
        let (mut ids, mut reserved) = (HashMap::new(), HashMap::new());
        let mut bytes = Box::new([None; 256]);
        let mut unknown = None;
        for (id, piece) in (0..).zip(&pieces) {
            match piece.kind {
                Kind::Normal | Kind::UserDefined | Kind::Unused => ids.insert(piece.text.clone(), id),
                Kind::Unknown | Kind::Control | Kind::Byte(_) => reserved.insert(piece.text.clone(), id),
            };
            match piece.kind {
                Kind::Byte(byte) => bytes[usize::from(byte)] = Some(id),
                Kind::Unknown => unknown = Some(id),
                _ => {}
            }
        }
        let unknown =
            unknown.ok_or_else(|| Error::format(path, "pieces", "one for what is unknown", "none"))?;
        Ok(Self { pieces, ids, reserved, bytes, unknown, dummy_prefix })
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).or(self.reserved.get(token)).copied()
    }

    pub(super) fn token(&self, id: u32) -> Option<&str> {
        self.pieces.get(id as usize).map(|piece| &piece.text[..])
    }

    /// Whether a token stands for no text.
    pub(super) fn is_control(&self, id: u32) -> bool {
        let kind = self.pieces.get(id as usize).map(|piece| piece.kind);
        matches!(kind, Some(Kind::Control | Kind::Unknown))
    }

    /// The tokens of a text.
    ///
    /// - prefix: whether a space is put before it
    pub(super) fn encode(&self, text: &str, prefix: bool) -> Vec<u32> {
        let spaced: String = text.chars().map(|c| if c == ' ' { SPACE } else { c }).collect();
        let text = if prefix { format!("{SPACE}{spaced}") } else { spaced };
        let mut symbols = self.symbols(&text);
        let mut heap = BinaryHeap::new();
        let propose = |heap: &mut BinaryHeap<Pair>, symbols: &[Symbol], left: usize| {
            let Some(right) = symbols[left].next else { return };
            if symbols[left].whole || symbols[right].whole {
                return;
            }
            let end = symbols[right].end;
            if let Some(&id) = self.ids.get(&text[symbols[left].start..end]) {
                let score = self.pieces[id as usize].score;
                heap.push(Pair { score, left, right, end });
            }
        };
        for left in 0..symbols.len() {
            propose(&mut heap, &symbols, left);
        }
        while let Some(Pair { left, right, end, .. }) = heap.pop() {
            // One of the two was merged with another since.
            let current = symbols[left].next == Some(right) && symbols[right].end == end;
            if symbols[left].gone || symbols[right].gone || !current {
                continue;
            }
            symbols[right].gone = true;
            symbols[left].end = end;
            symbols[left].next = symbols[right].next;
            if let Some(next) = symbols[left].next {
                symbols[next].previous = Some(left);
            }
            propose(&mut heap, &symbols, left);
            if let Some(previous) = symbols[left].previous {
                propose(&mut heap, &symbols, previous);
            }
        }
        let kept = symbols.iter().filter(|symbol| !symbol.gone);
        kept.flat_map(|symbol| self.tokens(&text[symbol.start..symbol.end])).collect()
    }

    /// Characters, and pieces that users defined, which stay whole.
    fn symbols(&self, text: &str) -> Vec<Symbol> {
        let defined: Vec<&str> = self
            .pieces
            .iter()
            .filter(|piece| piece.kind == Kind::UserDefined)
            .map(|piece| &piece.text[..])
            .collect();
        let mut symbols: Vec<Symbol> = Vec::new();
        let mut start = 0;
        while let Some(first) = text[start..].chars().next() {
            let longest = defined
                .iter()
                .filter(|piece| text[start..].starts_with(**piece))
                .map(|piece| piece.len())
                .max();
            let end = start + longest.unwrap_or(first.len_utf8());
            let place = symbols.len();
            if let Some(last) = symbols.last_mut() {
                last.next = Some(place);
            }
            let previous = place.checked_sub(1);
            symbols.push(Symbol { start, end, previous, next: None, gone: false, whole: longest.is_some() });
            start = end;
        }
        symbols
    }

    /// The token of a symbol, or those of its bytes.
    fn tokens(&self, symbol: &str) -> Vec<u32> {
        if let Some(&id) = self.ids.get(symbol) {
            return vec![id];
        }
        let bytes: Option<Vec<u32>> = symbol.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
        bytes.unwrap_or_else(|| vec![self.unknown])
    }

    /// The bytes that a token stands for, with spaces as spaces.
    pub(super) fn bytes(&self, id: u32) -> Vec<u8> {
        match self.pieces.get(id as usize) {
            Some(Piece { kind: Kind::Byte(byte), .. }) => vec![*byte],
            Some(piece) => piece.text.replace(SPACE, " ").into_bytes(),
            None => Vec::new(),
        }
    }
}

/// A part of a text on its way to a token.
#[derive(Debug)]
struct Symbol {
    start: usize,
    end: usize,
    previous: Option<usize>,
    next: Option<usize>,
    gone: bool,
    whole: bool,
}

/// Two symbols that may become one.
#[derive(Debug, PartialEq)]
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    end: usize,
}

impl Eq for Pair {}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A value of a protocol buffer.
enum Value<'a> {
    Number(u64),
    Fixed([u8; 4]),
    Bytes(&'a [u8]),
}

/// The fields of a protocol buffer; `None` where it is broken, and then nothing more.
fn fields(bytes: &[u8]) -> impl Iterator<Item = Option<(u64, Value<'_>)>> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest.filter(|rest| !rest.is_empty())?;
        let field = read_field(bytes);
        rest = field.as_ref().map(|(_, _, rest)| *rest);
        Some(field.map(|(number, value, _)| (number, value)))
    })
}

fn read_field(bytes: &[u8]) -> Option<(u64, Value<'_>, &[u8])> {
    let (key, rest) = read_number(bytes)?;
    let (value, rest) = match key & 7 {
        0 => {
            let (number, rest) = read_number(rest)?;
            (Value::Number(number), rest)
        }
        1 => (Value::Bytes(rest.get(..8)?), &rest[8..]),
        2 => {
            let (length, rest) = read_number(rest)?;
            let length = usize::try_from(length).ok()?;
            (Value::Bytes(rest.get(..length)?), &rest[length..])
        }
        5 => {
            let (fixed, rest) = rest.split_first_chunk::<4>()?;
            (Value::Fixed(*fixed), rest)
        }
        _ => return None,
    };
    Some((key >> 3, value, rest))
}

fn read_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (place, byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[place + 1..]));
        }
    }
    None
}

fn read_piece(bytes: &[u8]) -> Option<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    for field in fields(bytes) {
        match field? {
            (1, Value::Bytes(text)) => piece.text = String::from_utf8(text.to_vec()).ok()?,
            (2, Value::Fixed(score)) => piece.score = f32::from_le_bytes(score),
            (3, Value::Number(kind)) => {
                piece.kind = match kind {
                    1 => Kind::Normal,
                    2 => Kind::Unknown,
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    5 => Kind::Unused,
                    6 => Kind::Byte(0),
                    _ => return None,
                }
            }
            _ => {}
        }
    }
    if piece.kind == Kind::Byte(0) {
        let byte = piece.text.strip_prefix("<0x")?.strip_suffix('>')?;
        piece.kind = Kind::Byte(u8::from_str_radix(byte, 16).ok()?);
    }
    Some(piece)
}
