//! Python pickles, read as data: nothing in them is ever called, and classes that nobody asked for are refused.

use std::{
    collections::HashMap,
    io::{BufRead, Read},
    path::Path,
};

use crate::{Error, Result};

/// Most values of one pickle. Each takes 32 bytes of memory and can take one byte of the file.
const MAX_VALUES: usize = 1 << 24;

/// The values of one pickle.
///
/// They lie in one list and refer to each other by their place in it, so that values that share or even contain
/// each other cost nothing to hold and nothing to drop.
#[derive(Debug)]
pub struct Pickle {
    nodes: Vec<Node>,
    root: usize,
}

#[derive(Debug)]
enum Node {
    Bool(bool),
    Int(i128),
    /// `bytes`, and the strings of Python 2.
    Bytes(Box<[u8]>),
    Text(Box<str>),
    Tuple(Vec<usize>),
    List(Vec<usize>),
    Dict(Vec<(usize, usize)>),
    /// A class or a function: its module and its name, separated by a blank.
    Global(Box<str>),
    Object(Box<Object>),
    Persistent(usize),
    /// What nobody asks for: nothing, and numbers with a fraction.
    Opaque,
}

/// What the pickle would have made by calling `class` with `arguments`.
#[derive(Debug)]
struct Object {
    class: usize,
    arguments: usize,
    state: Option<usize>,
    entries: Vec<(usize, usize)>,
}

impl Pickle {
    /// Reads one pickle of protocol 2 or 3, and leaves `input` behind its end.
    ///
    /// - path: the file, for errors
    /// - allowed: whether a class or function, as `module name`, may be in it
    ///
    /// # Errors
    ///
    /// When the pickle is cut, broken, of another protocol, or names what is not allowed. Memory stays within a
    /// multiple of what was read, whatever lengths are declared.
    pub fn read(path: &Path, input: &mut impl BufRead, allowed: impl Fn(&str) -> bool) -> Result<Self> {
        let mut machine = Machine { path, input, at: 0, nodes: vec![], stack: vec![], marks: vec![] };
        let root = machine.run(allowed)?;
        Ok(Self { nodes: machine.nodes, root })
    }

    /// The value that was pickled.
    pub fn root(&self) -> Value<'_> {
        self.value(self.root)
    }

    /// Every value there is, whatever it is part of.
    pub fn values(&self) -> impl Iterator<Item = Value<'_>> {
        (0..self.nodes.len()).map(|node| self.value(node))
    }

    fn value(&self, node: usize) -> Value<'_> {
        Value { pickle: self, node: &self.nodes[node] }
    }
}

/// One value of a [`Pickle`]. Its functions give nothing where it is of another type.
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    pickle: &'a Pickle,
    node: &'a Node,
}

impl<'a> Value<'a> {
    /// The truth value.
    pub fn boolean(self) -> Option<bool> {
        if let Node::Bool(value) = self.node { Some(*value) } else { None }
    }

    /// The whole number, when 64 bits hold it.
    pub fn integer(self) -> Option<i64> {
        if let Node::Int(value) = self.node { i64::try_from(*value).ok() } else { None }
    }

    /// The whole number as a size.
    pub fn size(self) -> Option<usize> {
        usize::try_from(self.integer()?).ok()
    }

    /// The bytes of `bytes` or of a text.
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self.node {
            Node::Bytes(bytes) => Some(bytes),
            Node::Text(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    /// The text.
    pub fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// The items of a tuple or a list.
    pub fn items(self) -> Option<impl ExactSizeIterator<Item = Self>> {
        let (Node::Tuple(items) | Node::List(items)) = self.node else { return None };
        let pickle = self.pickle;
        Some(items.iter().map(move |&node| pickle.value(node)))
    }

    /// The entries of a dictionary, or of an object that was filled like one.
    pub fn entries(self) -> Option<impl ExactSizeIterator<Item = (Self, Self)>> {
        let entries = match self.node {
            Node::Dict(entries) => entries,
            Node::Object(object) => &object.entries,
            _ => return None,
        };
        let pickle = self.pickle;
        Some(entries.iter().map(move |&(key, value)| (pickle.value(key), pickle.value(value))))
    }

    /// The value of a dictionary's entry `key`.
    pub fn get(self, key: &str) -> Option<Self> {
        // The last one counts, as in Python.
        self.entries()?.filter(|(name, _)| name.text() == Some(key)).last().map(|(_, value)| value)
    }

    /// The class or function itself, as `module name`.
    pub fn global(self) -> Option<&'a str> {
        if let Node::Global(name) = self.node { Some(name) } else { None }
    }

    /// Of an object: its class as `module name`, the arguments it would have been made of, and the state it would
    /// have been given.
    pub fn object(self) -> Option<(&'a str, Self, Option<Self>)> {
        let Node::Object(object) = self.node else { return None };
        let class = self.pickle.value(object.class).global()?;
        let state = object.state.map(|state| self.pickle.value(state));
        Some((class, self.pickle.value(object.arguments), state))
    }

    /// What a reference to something outside the pickle says of it.
    pub fn persistent(self) -> Option<Self> {
        if let Node::Persistent(of) = self.node { Some(self.pickle.value(*of)) } else { None }
    }
}

struct Machine<'a, R> {
    path: &'a Path,
    input: &'a mut R,
    at: u64,
    nodes: Vec<Node>,
    stack: Vec<usize>,
    marks: Vec<usize>,
}

impl<R: BufRead> Machine<'_, R> {
    fn run(&mut self, allowed: impl Fn(&str) -> bool) -> Result<usize> {
        let mut memo = HashMap::new();
        loop {
            let start = self.at;
            let [opcode] = self.array()?;
            if let Some(node) = self.value(opcode, start, &allowed)? {
                self.push(node)?;
                continue;
            }
            match opcode {
                0x80 => match self.array()? {
                    [2 | 3] => {}
                    [protocol] => return Err(self.error(start, "protocol 2 or 3", protocol)),
                },
                b'.' => return self.pop(start),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => _ = self.pop(start)?,
                0x85..=0x87 => {
                    let length = usize::from(opcode - 0x84);
                    let items = self.pop_many(start, length)?;
                    self.push(Node::Tuple(items))?;
                }
                b't' => {
                    let items = self.pop_to_mark(start)?;
                    self.push(Node::Tuple(items))?;
                }
                b'a' | b'e' => {
                    let items =
                        if opcode == b'a' { vec![self.pop(start)?] } else { self.pop_to_mark(start)? };
                    let list = self.top(start)?;
                    let Node::List(list) = &mut self.nodes[list] else {
                        return Err(self.error(start, "a list to append to", "another value"));
                    };
                    list.extend(items);
                }
                b's' | b'u' => {
                    let items =
                        if opcode == b's' { self.pop_many(start, 2)? } else { self.pop_to_mark(start)? };
                    let (pairs, rest) = items.as_chunks::<2>();
                    let pairs = pairs.iter().map(|&[key, value]| (key, value));
                    let dict = self.top(start)?;
                    match &mut self.nodes[dict] {
                        Node::Dict(entries) if rest.is_empty() => entries.extend(pairs),
                        Node::Object(object) if rest.is_empty() => object.entries.extend(pairs),
                        _ => return Err(self.error(start, "pairs for a dictionary", "another value")),
                    }
                }
                // A class called with arguments: REDUCE and NEWOBJ.
                b'R' | 0x81 => {
                    let arguments = self.pop(start)?;
                    let class = self.pop(start)?;
                    // PyTorch's older files refer to the classes of modules as things outside.
                    if !matches!(self.nodes[class], Node::Global(_) | Node::Persistent(_)) {
                        return Err(self.error(start, "a class to make an object of", "another value"));
                    }
                    let object = Object { class, arguments, state: None, entries: vec![] };
                    self.push(Node::Object(object.into()))?;
                }
                b'b' => {
                    let state = self.pop(start)?;
                    let object = self.top(start)?;
                    let Node::Object(object) = &mut self.nodes[object] else {
                        return Err(self.error(start, "an object to give a state to", "another value"));
                    };
                    object.state = Some(state);
                }
                b'Q' => {
                    let of = self.pop(start)?;
                    self.push(Node::Persistent(of))?;
                }
                b'q' | b'r' => {
                    let key = self.memo_key(opcode == b'q')?;
                    let value = self.top(start)?;
                    memo.insert(key, value);
                }
                b'h' | b'j' => {
                    let key = self.memo_key(opcode == b'h')?;
                    let value = memo.get(&key);
                    let value = *value.ok_or_else(|| self.error(start, "a value remembered before", key))?;
                    self.stack.push(value);
                }
                _ => return Err(self.error(start, "an instruction of protocol 2", format!("{opcode:#04x}"))),
            }
        }
    }

    /// The value of an instruction that needs no others, if it is one.
    fn value(&mut self, opcode: u8, start: u64, allowed: impl Fn(&str) -> bool) -> Result<Option<Node>> {
        Ok(Some(match opcode {
            b'N' => Node::Opaque,
            0x88 => Node::Bool(true),
            0x89 => Node::Bool(false),
            b'K' => Node::Int(self.short_length()?.into()),
            b'M' => Node::Int(u16::from_le_bytes(self.array()?).into()),
            b'J' => Node::Int(i32::from_le_bytes(self.array()?).into()),
            0x8a => {
                let length = self.short_length()?;
                let digits = self.bytes(length)?;
                let negative = digits.last().is_some_and(|byte| byte >> 7 == 1);
                let mut whole = [if negative { 0xff } else { 0 }; 16];
                let Some(place) = whole.get_mut(..digits.len()) else {
                    return Err(self.error(start, "a number of at most 16 bytes", digits.len()));
                };
                place.copy_from_slice(&digits);
                Node::Int(i128::from_le_bytes(whole))
            }
            b'G' => {
                let _: [u8; 8] = self.array()?;
                Node::Opaque
            }
            b'U' | b'C' => {
                let length = self.short_length()?;
                Node::Bytes(self.bytes(length)?.into())
            }
            b'T' | b'B' => {
                let length = self.long_length()?;
                Node::Bytes(self.bytes(length)?.into())
            }
            b'X' => {
                let length = self.long_length()?;
                let text = String::from_utf8(self.bytes(length)?);
                Node::Text(text.map_err(|error| self.error(start, "a text in UTF-8", error))?.into())
            }
            b'c' => {
                let name = format!("{} {}", self.line()?, self.line()?);
                if !allowed(&name) {
                    return Err(self.error(start, "classes of this format alone", format!("`{name}`")));
                }
                Node::Global(name.into())
            }
            b')' => Node::Tuple(vec![]),
            b']' => Node::List(vec![]),
            b'}' => Node::Dict(vec![]),
            _ => return Ok(None),
        }))
    }

    fn error(&self, at: u64, expected: &str, found: impl std::fmt::Display) -> Error {
        Error::format(self.path, format!("pickle, byte {at}"), expected, found)
    }

    fn push(&mut self, node: Node) -> Result<()> {
        if self.nodes.len() == MAX_VALUES {
            return Err(self.error(self.at, &format!("at most {MAX_VALUES} values"), "more"));
        }
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
        Ok(())
    }

    /// The place on the stack above which values may be taken: those below a mark wait for it.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self, start: u64) -> Result<usize> {
        let value = self.stack[self.floor()..].last();
        value.copied().ok_or_else(|| self.error(start, "a value", "none"))
    }

    fn pop(&mut self, start: u64) -> Result<usize> {
        let value = self.top(start)?;
        self.stack.pop();
        Ok(value)
    }

    fn pop_many(&mut self, start: u64, count: usize) -> Result<Vec<usize>> {
        let there = self.stack.len() - self.floor();
        if there < count {
            return Err(self.error(start, &format!("{count} values"), there));
        }
        Ok(self.stack.split_off(self.stack.len() - count))
    }

    fn pop_to_mark(&mut self, start: u64) -> Result<Vec<usize>> {
        let mark = self.marks.pop().ok_or_else(|| self.error(start, "a mark before", "none"))?;
        Ok(self.stack.split_off(mark))
    }

    fn short_length(&mut self) -> Result<u64> {
        let [length] = self.array()?;
        Ok(length.into())
    }

    fn long_length(&mut self) -> Result<u64> {
        Ok(u32::from_le_bytes(self.array()?).into())
    }

    fn memo_key(&mut self, short: bool) -> Result<u64> {
        if short { self.short_length() } else { self.long_length() }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.bytes(N as u64)?;
        Ok(bytes.try_into().expect("as many bytes as were asked for"))
    }

    fn bytes(&mut self, length: u64) -> Result<Vec<u8>> {
        // Grows with what is there, not with what is declared.
        let mut bytes = Vec::new();
        Read::take(&mut *self.input, length).read_to_end(&mut bytes).map_err(Error::io(self.path))?;
        if (bytes.len() as u64) < length {
            return Err(self.error(
                self.at,
                &format!("{length} bytes"),
                format!("{}, then the end", bytes.len()),
            ));
        }
        self.at += length;
        Ok(bytes)
    }

    fn line(&mut self) -> Result<String> {
        /// Far above the length of any module's name.
        const LONGEST: u64 = 1024;
        let mut line = Vec::new();
        Read::take(&mut *self.input, LONGEST).read_until(b'\n', &mut line).map_err(Error::io(self.path))?;
        let start = self.at;
        self.at += line.len() as u64;
        if line.pop() != Some(b'\n') {
            return Err(self.error(start, "a name and the end of its line", "none"));
        }
        String::from_utf8(line).map_err(|error| self.error(start, "a name in UTF-8", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::damaged;
    use proptest::prelude::*;

    fn read(mut bytes: &[u8]) -> Result<Pickle> {
        Pickle::read(Path::new("a.pkl"), &mut bytes, |name| name == "collections OrderedDict")
    }

    fn message(bytes: &[u8]) -> String {
        read(bytes).unwrap_err().to_string()
    }

    /// `{'a': (1, -2, 300), b'list': [True, None, 2.5, 'ä'], 'big': 2**70, 'self': the dict itself}` of an
    /// `OrderedDict` with a state.
    fn sample() -> Vec<u8> {
        let mut bytes = b"\x80\x02ccollections\nOrderedDict\n)Rq\x00(".to_vec();
        bytes.extend(b"X\x01\x00\x00\x00aK\x01J\xfe\xff\xff\xffM\x2c\x01\x87");
        bytes.extend(b"U\x04list](\x88NG\x40\x04\0\0\0\0\0\0X\x02\x00\x00\x00\xc3\xa4e");
        bytes.extend(b"X\x03\x00\x00\x00big\x8a\x09\0\0\0\0\0\0\0\0\x40");
        bytes.extend(b"X\x04\x00\x00\x00selfh\x00u}X\x01\x00\x00\x00kK\x07sb.");
        bytes
    }

    #[test]
    fn reads_what_python_wrote() {
        let pickle = read(&sample()).unwrap();
        let root = pickle.root();
        let (class, arguments, state) = root.object().unwrap();
        assert_eq!(class, "collections OrderedDict");
        assert_eq!(arguments.items().unwrap().len(), 0);
        assert_eq!(state.unwrap().get("k").unwrap().integer(), Some(7));
        let numbers = root.get("a").unwrap().items().unwrap();
        assert_eq!(numbers.map(|n| n.integer().unwrap()).collect::<Vec<_>>(), [1, -2, 300]);
        let list: Vec<Value> = root.get("list").unwrap().items().unwrap().collect();
        assert_eq!((list[0].boolean(), list[3].text()), (Some(true), Some("ä")));
        assert!(list[1].integer().is_none() && list[2].bytes().is_none());
        // Beyond 64 bits, and a value that holds itself.
        assert_eq!(root.get("big").unwrap().integer(), None);
        assert_eq!(root.get("self").unwrap().get("a").unwrap().items().unwrap().len(), 3);
        assert!(root.get("none").is_none());
    }

    #[test]
    fn stops_where_the_pickle_ends() {
        let mut input = &b"\x80\x02K\x01.rest"[..];
        Pickle::read(Path::new("a.pkl"), &mut input, |_| false).unwrap();
        assert_eq!(input, b"rest");
    }

    #[test]
    fn refuses_what_is_not_expected() {
        assert!(message(b"\x80\x02cos\nsystem\n(U\x02lstR.").contains("`os system`"));
        for (bytes, expected) in [
            (&b""[..], "byte 0: expected 1 bytes"),
            (b"\x80\x05", "protocol 2 or 3, found 5"),
            (b"\x80\x02.", "a value, found none"),
            (b"K\x01K\x02R.", "a class"),
            (b"K\x01(.", "a value"),
            (b"t.", "a mark"),
            (b"N\x86.", "2 values, found 1"),
            (b"NNa.", "a list"),
            (b"}Ns.", "a value, found none"),
            (b"}(Nu.", "pairs"),
            (b"h\x05.", "remembered before, found 5"),
            (b"T\xff\xff\xff\xffabc", "4294967295 bytes, found 3"),
            (b"X\x01\x00\x00\x00\xff.", "UTF-8"),
            (b"\x8a\x11", "17 bytes"),
            (b"\x8a\x11aaaaaaaaaaaaaaaaa", "at most 16 bytes, found 17"),
            (b"\x80\x02cos", "a name"),
            (b"\x95", "0x95"),
        ] {
            let error = message(bytes);
            assert!(error.starts_with("a.pkl: pickle, byte ") && error.contains(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn survives_damage(bytes in damaged(vec![sample()])) {
            if let Ok(pickle) = read(&bytes) {
                prop_assert!(pickle.values().count() <= bytes.len());
            }
        }
    }
}
