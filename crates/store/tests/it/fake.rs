//! An HTTP server on loopback that answers as it is told: canned replies in order, the last one for ever.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What to do with one request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Answer with these bytes, then close the connection.
    Bytes(Vec<u8>),
    /// Answer with these bytes, then say nothing more and keep the connection.
    Stall(Vec<u8>),
    /// Close the connection without an answer.
    Hangup,
}

impl Reply {
    /// A whole answer with a right `Content-Length`.
    pub(crate) fn http(status: u16, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut text = format!(
            "HTTP/1.1 {status} Said\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        Reply::Bytes(format!("{text}\r\n{body}").into_bytes())
    }

    /// An S3 error document.
    pub(crate) fn error(status: u16, code: &str) -> Reply {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>said the fake</Message></Error>");
        Reply::http(status, &[("Content-Type", "application/xml")], &body)
    }

    /// The answer to a PUT that was stored.
    pub(crate) fn stored() -> Reply {
        Reply::http(200, &[("ETag", "\"abc\"")], "")
    }

    /// The answer to a GET that found these bytes.
    pub(crate) fn found(body: &str) -> Reply {
        Reply::http(200, &FOUND, body)
    }
}

pub(crate) const FOUND: [(&str, &str); 2] = [("ETag", "\"abc\""), ("Last-Modified", "Tue, 01 Sep 2026 10:00:00 GMT")];

/// The server; requests that came so far, each as its request line and headers.
pub(crate) struct Fake {
    pub(crate) endpoint: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    pub(crate) async fn start(replies: impl IntoIterator<Item = Reply>) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let replies = Arc::new(Mutex::new(replies.into_iter().collect::<VecDeque<Reply>>()));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&replies), Arc::clone(&log)));
            }
        });
        Fake { endpoint, seen }
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no test panics holding it").clone()
    }
}

async fn answer(mut stream: TcpStream, replies: Arc<Mutex<VecDeque<Reply>>>, seen: Arc<Mutex<Vec<String>>>) {
    let Some(head) = read_head(&mut stream).await else {
        return;
    };
    let reply = {
        let mut replies = replies.lock().expect("no panic");
        seen.lock().expect("no panic").push(head.clone());
        match replies.len() {
            1 => replies[0].clone(),
            _ => replies.pop_front().expect("a fake has replies"),
        }
    };
    // A server that stalls does not read the body either.
    match reply {
        Reply::Stall(bytes) => {
            let _ = stream.write_all(&bytes).await;
            std::future::pending::<()>().await;
        }
        Reply::Bytes(bytes) => {
            read_body(&mut stream, &head).await;
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Reply::Hangup => read_body(&mut stream, &head).await,
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

async fn read_body(stream: &mut TcpStream, head: &str) {
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    let _ = stream.read_exact(&mut body).await;
}
