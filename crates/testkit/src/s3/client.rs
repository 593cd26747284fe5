//! The few S3 requests that tests make themselves, over plain HTTP/1.1 to loopback.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::sign;

/// An answer of the server.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// What to ask: method, path (unencoded), query (name and value, sorted by name), headers (names in lower case).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
}

/// Sends `request` to `127.0.0.1:port`, signed by `identity`.
pub(super) fn send(port: u16, identity: &str, request: Request<'_>) -> io::Result<Answer> {
    let host = format!("127.0.0.1:{port}");
    let path = sign::encode(request.path, false);
    let query: Vec<String> = request
        .query
        .iter()
        .map(|(name, value)| format!("{}={}", sign::encode(name, true), sign::encode(value, true)))
        .collect();
    let query = query.join("&");
    let headers = sign::headers(
        identity,
        request.method,
        (&host, &path, &query),
        request.headers,
        request.body,
    );
    let target = if query.is_empty() {
        path
    } else {
        format!("{path}?{query}")
    };
    let mut head = format!("{} {target} HTTP/1.1\r\n", request.method);
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("content-length: {}\r\nconnection: close\r\n\r\n", request.body.len());
    let mut stream = TcpStream::connect(&host)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(request.body)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer"))
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let split = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..split]).ok()?.to_ascii_lowercase();
    let body = &bytes[split + 4..];
    let status = head.split(' ').nth(1)?.parse().ok()?;
    // An interim answer announces the real one.
    if status == 100 {
        return parse(body);
    }
    let chunked = head
        .lines()
        .any(|line| line.starts_with("transfer-encoding:") && line.contains("chunked"));
    let body = if chunked { unchunk(body)? } else { body.to_vec() };
    let announced = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let complete = announced.is_none_or(|length: usize| length == body.len());
    complete.then_some(Answer { status, body })
}

fn unchunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        bytes = &bytes[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size + 2..)?;
    }
}
