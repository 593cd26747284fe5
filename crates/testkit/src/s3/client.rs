//! The few S3 requests that tests make themselves, over plain HTTP/1.1 to loopback.

use std::io::{self, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::sign;
use crate::net::http::{BodyOf, Message};

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
    let body_of = if request.method == "HEAD" {
        BodyOf::Nothing
    } else {
        BodyOf::Response
    };
    let answer = Message::read(&mut BufReader::new(stream), body_of)?;
    let told = answer.and_then(|answer| Some((answer.status()?, answer.body)));
    let (status, body) = told.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer"))?;
    Ok(Answer { status, body })
}
