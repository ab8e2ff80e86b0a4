//! Downloads that can be interrupted, repeated and trusted.

use crate::Entry;
use leanburn_core::{Error, Result};
use sha2::{Digest, Sha256};
use std::{
    fmt::{self, Write as _},
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};
use ureq::{
    Agent, Body,
    config::ConfigBuilder,
    http::{Response, StatusCode, header},
    typestate::AgentScope,
};

/// How long a server may take for each step: the name, the connection, the headers, the next piece of the body.
const PATIENCE: Duration = Duration::from_mins(1);

/// Redirects followed before giving up.
const REDIRECTS: u32 = 5;

/// The most bytes taken of a file whose size neither the catalogue nor the server tells: 4 GiB.
const MOST: u64 = 4 << 30;

/// Bytes read at once.
const PIECE: usize = 1 << 16;

/// Downloads a file of the catalogue to its place in `folder`, and gives its path.
///
/// A file that is already there is checked and returned without a request. Otherwise the data goes to `FILE.part` next
/// to the target, which takes its final name only when it is whole and has the size and the SHA-256 of the catalogue.
/// What an interrupted download leaves is continued by the next call, for files with a checksum; without one nothing
/// would tell two versions spliced together, so these start over. A lock on `FILE.lock` keeps other downloads of the same
/// file away; the operating system releases it when the program dies, so the file may stay behind, but never blocks.
///
/// `progress` is told the bytes done and the size, when that is known, at the start and after every piece.
///
/// A server that is silent for 60 s is given up, and so is one that sends more than the size known from the catalogue
/// or announced by itself (4 GiB when neither says). An `https` address is not left for an `http` one. The
/// environment's proxy settings are respected.
///
/// # Errors
///
/// - [`Error::Download`] when the entry must be fetched by hand, another download of the file is under way, the server
///   cannot be reached, answers with another status than success, falls silent, breaks off or sends too much, or when the
///   data has another size or checksum than expected; in the last case the data is deleted.
/// - [`Error::Format`] when a file that was already there is not the expected one. It is never overwritten.
/// - [`Error::Exists`] when a file appears at the target in the meantime.
/// - [`Error::Io`] when the folder or the files cannot be written or read.
pub fn download(entry: &Entry, folder: &Path, progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<PathBuf> {
    fetch(&config(PATIENCE).build().new_agent(), entry, folder, progress)
}

/// The settings of all requests.
fn config(patience: Duration) -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        // The file as it is stored: sizes, checksums and ranges are those of its own bytes.
        .accept_encoding("identity")
        .http_status_as_error(false)
        .max_redirects(REDIRECTS)
        .timeout_resolve(Some(patience))
        .timeout_connect(Some(patience))
        .timeout_send_request(Some(patience))
        .timeout_recv_response(Some(patience))
        .timeout_per_read(Some(patience))
}

/// [`download`] by way of `agent`.
fn fetch(
    agent: &Agent,
    entry: &Entry,
    folder: &Path,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<PathBuf> {
    let target = folder.join(entry.file);
    if exists(&target)? {
        return accept(entry, target);
    }
    let url = entry
        .url
        .ok_or_else(|| failed(entry.name, format!("not to be downloaded by a program. {}", entry.note)))?;

    let parent = target.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let lock_path = target.with_added_extension("lock");
    let _lock = lock(url, &lock_path)?;
    // Another download may have ended between the first look and the lock.
    if exists(&target)? {
        return accept(entry, target);
    }

    let part = target.with_added_extension("part");
    transfer(agent, entry, url, &part, progress)?;
    if let Some(Mismatch { expected, found }) = mismatch(entry, &part)? {
        fs::remove_file(&part).map_err(Error::io(&part))?;
        return Err(failed(url, format!("expected {expected}, found {found}; the data is deleted")));
    }
    if exists(&target)? {
        return Err(Error::Exists { path: target });
    }
    fs::rename(&part, &target).map_err(Error::io(&target))?;
    // Only now: whoever still locks the removed file finds the target and writes nothing. Left behind it does no harm.
    let _ = fs::remove_file(&lock_path);
    Ok(target)
}

/// The path of a file that was already there, when it is the entry's.
fn accept(entry: &Entry, path: PathBuf) -> Result<PathBuf> {
    match mismatch(entry, &path)? {
        None => Ok(path),
        Some(Mismatch { expected, found }) => Err(Error::format(
            path,
            format!("file of the data set `{}`", entry.name),
            expected,
            format!("{found}; remove the file to download it again"),
        )),
    }
}

/// Takes the lock at `path`, which is released when the file is dropped.
fn lock(url: &str, path: &Path) -> Result<File> {
    let file = File::create(path).map_err(Error::io(path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(failed(url, format!("another download holds {}; wait until it ends", path.display())))
        }
        // On a file system without locks an unguarded download is better than none.
        Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(e)) => Err(Error::io(path)(e)),
    }
}

/// Brings the file at `part` to its full size, beginning with what is there already.
fn transfer(
    agent: &Agent,
    entry: &Entry,
    url: &str,
    part: &Path,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<()> {
    let mut have = 0;
    if entry.sha256.is_some() && exists(part)? {
        if mismatch(entry, part)?.is_none() {
            return Ok(());
        }
        have = fs::metadata(part).map_err(Error::io(part))?.len();
    }
    let (response, start) = request(agent, url, have)?;
    let announced = response.body().content_length().map(|rest| start.saturating_add(rest));
    if let (Some(expected), Some(announced)) = (entry.bytes, announced)
        && expected != announced
    {
        return Err(failed(url, format!("expected {expected} bytes, the server announces {announced}")));
    }
    let size = entry.bytes.or(announced);
    let limit = size.unwrap_or(MOST);

    let file = if start == 0 { File::create(part) } else { OpenOptions::new().append(true).open(part) };
    let mut file = file.map_err(Error::io(part))?;
    let mut body = response.into_body().into_reader();
    let mut piece = vec![0; PIECE];
    let mut done = start;
    progress(done, size);
    loop {
        let read = body
            .read(&mut piece)
            .map_err(|e| failed(url, format!("{e}, after {done} bytes; try again to go on")))?;
        if read == 0 {
            break;
        }
        done += read as u64;
        if done > limit {
            drop(file);
            fs::remove_file(part).map_err(Error::io(part))?;
            return Err(failed(url, format!("more than the {limit} bytes that are to be expected")));
        }
        file.write_all(&piece[..read]).map_err(Error::io(part))?;
        progress(done, size);
    }
    // A body without an announced length just ends when the connection breaks.
    if let Some(size) = size
        && done < size
    {
        return Err(failed(url, format!("ended after {done} of {size} bytes; try again to go on")));
    }
    // The rename that follows must not reach the disk before the data does.
    file.sync_all().map_err(Error::io(part))
}

/// The answer with the file from byte `have` on, or from 0 when the server cannot do that, and which of the two.
fn request(agent: &Agent, url: &str, have: u64) -> Result<(Response<Body>, u64)> {
    let get = || {
        agent
            .get(url)
            .config()
            // What begins encrypted stays so.
            .https_only(url.starts_with("https://"))
            .build()
    };
    if have > 0 {
        let response =
            get().header(header::RANGE, format!("bytes={have}-")).call().map_err(|e| failed(url, e))?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(&response, have) => return Ok((response, have)),
            StatusCode::OK => return Ok((response, 0)),
            // Another range than asked for, or no such range: the file is no longer the same.
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {}
            status => return Err(failed(url, format!("HTTP status {status}"))),
        }
    }
    let response = get().call().map_err(|e| failed(url, e))?;
    match response.status() {
        StatusCode::OK => Ok((response, 0)),
        status => Err(failed(url, format!("HTTP status {status}"))),
    }
}

/// Whether the header says `Content-Range: bytes START-...`.
fn starts_at(response: &Response<Body>, start: u64) -> bool {
    response
        .headers()
        .get(header::CONTENT_RANGE)
        .and_then(|value| value.to_str().ok()?.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok())
        == Some(start)
}

/// What a file should be and is instead.
struct Mismatch {
    expected: String,
    found: String,
}

/// Where the file at `path` differs from the entry.
fn mismatch(entry: &Entry, path: &Path) -> Result<Option<Mismatch>> {
    let differs = |expected: &dyn fmt::Display, found: &dyn fmt::Display| {
        Ok(Some(Mismatch { expected: expected.to_string(), found: found.to_string() }))
    };
    let metadata = fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() {
        return differs(&"a file", &"something else");
    }
    let size = metadata.len();
    match entry.bytes {
        Some(bytes) if bytes != size => {
            return differs(&format_args!("{bytes} bytes"), &format_args!("{size} bytes"));
        }
        None if size == 0 => return differs(&"data", &"an empty file"),
        _ => {}
    }
    if let Some(expected) = entry.sha256 {
        let found = sha256(path)?;
        if !found.eq_ignore_ascii_case(expected) {
            return differs(&format_args!("SHA-256 {expected}"), &found);
        }
    }
    Ok(None)
}

/// The SHA-256 of a file in hexadecimal digits.
fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).map_err(Error::io(path))? {
            0 => break,
            read => hash.update(&piece[..read]),
        }
    }
    Ok(hash.finalize().iter().fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").expect("a string takes everything");
        digits
    }))
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(Error::io(path))
}

fn failed(url: &str, reason: impl fmt::Display) -> Error {
    Error::Download { url: url.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests;
