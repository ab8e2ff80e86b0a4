//! Downloads from servers on the loopback interface that behave in all the ways servers do.

use super::*;
use std::{
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc::{self, Receiver},
    thread,
};
use tempfile::TempDir;

/// Answers connection after connection with `answer(request's head, stream)` and then closes it. Gives the address and
/// the heads as they come.
fn serve(mut answer: impl FnMut(&str, &mut TcpStream) + Send + 'static) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/file", listener.local_addr().unwrap());
    let (heads, seen) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let head: String = BufReader::new(&stream)
                .lines()
                .map(Result::unwrap)
                .take_while(|line| !line.is_empty())
                .fold(String::new(), |head, line| head + &line + "\n");
            // Nobody listens to the heads once the test has what it wants.
            let _ = heads.send(head.clone());
            answer(&head, &mut stream);
        }
    });
    (address, seen)
}

/// Sends an answer; the client may hang up before its end.
fn send(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n");
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

/// Sends all of `data`.
fn send_whole(stream: &mut TcpStream, data: &[u8]) {
    send(stream, "200 OK", &format!("Content-Length: {}\r\n", data.len()), data);
}

/// Sends `data`, or the part that the request asks for.
fn send_asked(head: &str, stream: &mut TcpStream, data: &[u8]) {
    match range(head) {
        None => send_whole(stream, data),
        Some(start) if start < data.len() => {
            let (end, total) = (data.len() - 1, data.len());
            let headers = format!(
                "Content-Length: {}\r\nContent-Range: bytes {start}-{end}/{total}\r\n",
                total - start
            );
            send(stream, "206 Partial Content", &headers, &data[start..]);
        }
        Some(_) => send(stream, "416 Range Not Satisfiable", "Content-Length: 0\r\n", &[]),
    }
}

/// The first byte that a request asks for.
fn range(head: &str) -> Option<usize> {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("range:"))?;
    line.rsplit_once('=').unwrap().1.trim_end_matches('-').parse().ok()
}

/// More than the pieces and buffers on the way hold.
fn data() -> Vec<u8> {
    crate::recipe::integer("file", 400_000, 0, 256, 0).into_iter().map(|byte| byte as u8).collect()
}

/// The entry of a file with the contents `data`.
fn entry(url: String, data: &[u8]) -> Entry {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, data).unwrap();
    Entry {
        name: "test",
        description: "",
        url: Some(url.leak()),
        licence: "",
        citation: "",
        bytes: Some(data.len() as u64),
        sha256: Some(sha256(&path).unwrap().leak()),
        file: "set/file.bin",
        note: "by hand",
    }
}

/// Patient enough for a busy machine; without a proxy, since requests stay on this one.
fn get(entry: &Entry, folder: &TempDir) -> Result<PathBuf> {
    get_with_patience(entry, folder, PATIENCE)
}

fn get_with_patience(entry: &Entry, folder: &TempDir, patience: Duration) -> Result<PathBuf> {
    let agent = config(patience).proxy(None).build().new_agent();
    fetch(&agent, entry, folder.path(), &mut |_, _| ())
}

/// The target's folder, with `part` of a file left by an earlier download.
fn folder_with_part(part: &[u8]) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("set")).unwrap();
    fs::write(folder.path().join("set/file.bin.part"), part).unwrap();
    folder
}

/// The names in the target's folder, in order.
fn files(folder: &TempDir) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder.path().join("set"))
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn reason(result: Result<PathBuf>) -> String {
    match result.unwrap_err() {
        Error::Download { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

#[test]
fn digest_of_a_known_text() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("abc");
    fs::write(&path, "abc").unwrap();
    assert_eq!(sha256(&path).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

#[test]
fn whole_file_once() {
    let data = data();
    let (url, seen) = serve({
        let data = data.clone();
        move |head, stream| send_asked(head, stream, &data)
    });
    let (entry, folder) = (entry(url, &data), TempDir::new().unwrap());
    let agent = config(PATIENCE).proxy(None).build().new_agent();
    let mut steps = Vec::new();
    let path = fetch(&agent, &entry, folder.path(), &mut |done, size| steps.push((done, size))).unwrap();

    assert_eq!(path, folder.path().join("set/file.bin"));
    assert!(fs::read(&path).unwrap() == data);
    assert_eq!(files(&folder), ["file.bin"]);
    let size = data.len() as u64;
    assert_eq!((steps[0], steps[steps.len() - 1]), ((0, Some(size)), (size, Some(size))));
    assert!(steps.is_sorted());

    assert_eq!(get(&entry, &folder).unwrap(), path);
    let heads: Vec<String> = seen.try_iter().collect();
    assert_eq!(heads.len(), 1, "what is there is not requested again");
    assert!(heads[0].to_ascii_lowercase().contains("accept-encoding: identity"));
}

#[test]
fn broken_connection_then_resumed() {
    let data = data();
    let (url, seen) = serve({
        let (data, mut first) = (data.clone(), true);
        move |head, stream| {
            if std::mem::take(&mut first) {
                let headers = format!("Content-Length: {}\r\n", data.len());
                send(stream, "200 OK", &headers, &data[..data.len() / 2]);
            } else {
                send_asked(head, stream, &data);
            }
        }
    });
    let (entry, folder) = (entry(url, &data), TempDir::new().unwrap());
    assert!(reason(get(&entry, &folder)).contains("try again"));
    let half = data.len() / 2;
    assert!(fs::read(folder.path().join("set/file.bin.part")).unwrap() == data[..half]);

    assert!(fs::read(get(&entry, &folder).unwrap()).unwrap() == data);
    assert_eq!(seen.try_iter().map(|head| range(&head)).collect::<Vec<_>>(), [None, Some(half)]);
    assert_eq!(files(&folder), ["file.bin"]);
}

#[test]
fn without_checksum_starts_over() {
    let data = data();
    let (url, seen) = serve({
        let data = data.clone();
        move |head, stream| send_asked(head, stream, &data)
    });
    let entry = Entry { bytes: None, sha256: None, ..entry(url, &data) };
    let folder = folder_with_part(b"of another version");
    assert!(fs::read(get(&entry, &folder).unwrap()).unwrap() == data);
    assert_eq!(seen.try_iter().map(|head| range(&head)).collect::<Vec<_>>(), [None]);
}

#[test]
fn server_that_ignores_ranges() {
    let data = data();
    let (url, _seen) = serve({
        let data = data.clone();
        move |_, stream| send_whole(stream, &data)
    });
    let folder = folder_with_part(&data[..1000]);
    assert!(fs::read(get(&entry(url, &data), &folder).unwrap()).unwrap() == data);
}

#[test]
fn part_longer_than_the_file() {
    let data = data();
    let (url, seen) = serve({
        let data = data.clone();
        move |head, stream| send_asked(head, stream, &data)
    });
    let folder = folder_with_part(&vec![0; 500_000]);
    assert!(fs::read(get(&entry(url, &data), &folder).unwrap()).unwrap() == data);
    assert_eq!(seen.try_iter().map(|head| range(&head)).collect::<Vec<_>>(), [Some(500_000), None]);
}

#[test]
fn wrong_content_range() {
    for headers in ["Content-Range: bytes 0-9/400000\r\n", "Content-Range: lines 1000-\r\n", ""] {
        let data = data();
        let (url, _seen) = serve({
            let data = data.clone();
            move |head, stream| match range(head) {
                Some(_) => {
                    send(
                        stream,
                        "206 Partial Content",
                        &format!("Content-Length: 10\r\n{headers}"),
                        &[0; 10],
                    );
                }
                None => send_whole(stream, &data),
            }
        });
        let folder = folder_with_part(&data[..1000]);
        assert!(fs::read(get(&entry(url, &data), &folder).unwrap()).unwrap() == data);
    }
}

#[test]
fn complete_part_needs_no_request() {
    let data = data();
    let (url, seen) = serve(|_, _| ());
    let folder = folder_with_part(&data);
    assert!(fs::read(get(&entry(url, &data), &folder).unwrap()).unwrap() == data);
    assert_eq!(seen.try_iter().count(), 0);
}

#[test]
fn wrong_checksum() {
    let data = data();
    let (url, _seen) = serve({
        let mut data = data.clone();
        data[12345] ^= 1;
        move |head, stream| send_asked(head, stream, &data)
    });
    let entry = entry(url, &data);
    // Whole, and as the rest of a good beginning.
    for part in [0, 1000] {
        let folder = folder_with_part(&data[..part]);
        let reason = reason(get(&entry, &folder));
        assert!(reason.contains(&format!("expected SHA-256 {}, found ", entry.sha256.unwrap())), "{reason}");
        assert_eq!(files(&folder), ["file.bin.lock"]);
    }
}

#[test]
fn wrong_size() {
    let data = data();
    let (url, _seen) = serve({
        let data = data.clone();
        move |_, stream| send_whole(stream, &data[1..])
    });
    let reason = reason(get(&entry(url, &data), &TempDir::new().unwrap()));
    assert_eq!(reason, "expected 400000 bytes, the server announces 399999");
}

#[test]
fn unannounced_end() {
    let data = data();
    let (url, _seen) = serve({
        let data = data.clone();
        move |_, stream| send(stream, "200 OK", "", &data[..100])
    });
    let folder = TempDir::new().unwrap();
    assert_eq!(
        reason(get(&entry(url, &data), &folder)),
        "ended after 100 of 400000 bytes; try again to go on"
    );
    assert_eq!(files(&folder), ["file.bin.lock", "file.bin.part"]);
}

#[test]
fn named_status() {
    let data = data();
    for (status, part) in [("404 Not Found", 0), ("503 Service Unavailable", 1000)] {
        let (url, _seen) = serve(move |_, stream| send(stream, status, "Content-Length: 4\r\n", b"oops"));
        let folder = folder_with_part(&data[..part]);
        assert_eq!(reason(get(&entry(url, &data), &folder)), format!("HTTP status {status}"));
        assert_eq!(fs::read(folder.path().join("set/file.bin.part")).unwrap(), data[..part]);
    }
}

#[test]
fn endless_body() {
    let data = data();
    let (url, _seen) = serve(|_, stream| {
        send(stream, "200 OK", "", &[]);
        while stream.write_all(&[0; 10_000]).is_ok() {}
    });
    let folder = TempDir::new().unwrap();
    assert_eq!(
        reason(get(&entry(url, &data), &folder)),
        "more than the 400000 bytes that are to be expected"
    );
    assert_eq!(files(&folder), ["file.bin.lock"]);
}

#[test]
fn silent_server() {
    let data = data();
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\nabc"] {
        let (url, _seen) = serve(move |_, stream| {
            stream.write_all(answer.as_bytes()).unwrap();
            // Until the client hangs up.
            let _ = stream.read(&mut [0]);
        });
        let reason = reason(get_with_patience(
            &entry(url, &data),
            &TempDir::new().unwrap(),
            Duration::from_millis(300),
        ));
        assert!(reason.contains("timeout"), "{reason}");
    }
}

#[test]
fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    drop(listener);
    assert!(!reason(get(&entry(url, &data()), &TempDir::new().unwrap())).is_empty());
}

#[test]
fn redirects_keep_the_range() {
    let data = data();
    let (target, seen) = serve({
        let data = data.clone();
        move |head, stream| send_asked(head, stream, &data)
    });
    let (url, _seen) = serve(move |_, stream| {
        send(stream, "302 Found", &format!("Location: {target}\r\nContent-Length: 0\r\n"), &[]);
    });
    let folder = folder_with_part(&data[..1000]);
    assert!(fs::read(get(&entry(url, &data), &folder).unwrap()).unwrap() == data);
    assert_eq!(range(&seen.recv().unwrap()), Some(1000));
}

#[test]
fn endless_redirects() {
    let (url, seen) = serve(|_, stream| {
        send(stream, "302 Found", "Location: /file\r\nContent-Length: 0\r\n", &[]);
    });
    assert!(reason(get(&entry(url, &data()), &TempDir::new().unwrap())).contains("redirects"));
    assert!(seen.try_iter().count() <= 1 + REDIRECTS as usize);
}

#[test]
fn one_download_at_a_time() {
    let data = data();
    let (url, seen) = serve({
        let data = data.clone();
        move |head, stream| send_asked(head, stream, &data)
    });
    let (entry, folder) = (entry(url, &data), TempDir::new().unwrap());
    let agent = config(PATIENCE).proxy(None).build().new_agent();
    let mut refusals = 0;
    let path = fetch(&agent, &entry, folder.path(), &mut |_, _| {
        assert!(reason(get(&entry, &folder)).contains("another download"));
        refusals += 1;
    });
    assert!(fs::read(path.unwrap()).unwrap() == data);
    assert!(refusals > 1);
    assert_eq!(seen.try_iter().count(), 1);
}

#[test]
fn stale_lock_does_not_block() {
    let data = data();
    let (url, _seen) = serve({
        let data = data.clone();
        move |head, stream| send_asked(head, stream, &data)
    });
    let folder = folder_with_part(&[]);
    fs::write(folder.path().join("set/file.bin.lock"), "").unwrap();
    get(&entry(url, &data), &folder).unwrap();
    assert_eq!(files(&folder), ["file.bin"]);
}

#[test]
fn wrong_file_there_is_kept() {
    let (url, seen) = serve(|_, _| ());
    let (entry, folder) = (entry(url, &data()), folder_with_part(&[]));
    let path = folder.path().join("set/file.bin");
    for wrong in [vec![], b"mine".to_vec(), vec![0; 400_000]] {
        fs::write(&path, &wrong).unwrap();
        assert!(matches!(get(&entry, &folder), Err(Error::Format { .. })));
        assert!(fs::read(&path).unwrap() == wrong);
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(get(&entry, &folder), Err(Error::Format { .. })));
    assert_eq!(seen.try_iter().count(), 0);
}

#[test]
fn file_that_appears_meanwhile_is_kept() {
    let data = data();
    let (url, _seen) = serve({
        let data = data.clone();
        move |head, stream| send_asked(head, stream, &data)
    });
    let (entry, folder) = (entry(url, &data), TempDir::new().unwrap());
    let path = folder.path().join("set/file.bin");
    let agent = config(PATIENCE).proxy(None).build().new_agent();
    let result = fetch(&agent, &entry, folder.path(), &mut |_, _| fs::write(&path, "mine").unwrap());
    assert!(matches!(result, Err(Error::Exists { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

#[test]
fn by_hand() {
    let folder = TempDir::new().unwrap();
    let entry = Entry { url: None, bytes: None, sha256: None, ..entry(String::new(), b"x") };
    assert!(reason(get(&entry, &folder)).contains("by hand"));
    fs::create_dir(folder.path().join("set")).unwrap();
    fs::write(folder.path().join("set/file.bin"), "").unwrap();
    assert!(matches!(get(&entry, &folder), Err(Error::Format { .. })));
    fs::write(folder.path().join("set/file.bin"), "found").unwrap();
    assert!(get(&entry, &folder).is_ok());
}
