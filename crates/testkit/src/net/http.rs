//! Messages of HTTP/1.1, as the servers and clients of our tests send them.
//!
//! Invariant: a message is whole or an error: a body that is shorter than announced is never taken for one.

use std::io::{self, BufRead, Read as _, Write};

/// The longest request or status line with its headers.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The longest body; the largest object of pgkeep's is a pack of some 32 MiB.
const BODY_BYTES_MAX: usize = 256 << 20;

/// A request or a response.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// The request line or the status line.
    pub(crate) first: String,
    /// In their order, with their names as they were written.
    pub(crate) headers: Vec<(String, String)>,
    /// Without any transfer encoding.
    pub(crate) body: Vec<u8>,
}

/// How long a message's body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BodyOf {
    /// What a request announces, nothing otherwise.
    Request,
    /// What a response announces; else all until the connection ends.
    Response,
    /// Nothing, whatever is announced: an answer to HEAD.
    Nothing,
}

impl Message {
    /// Reads the next message; `None` where the other side has closed instead of beginning one.
    pub(crate) fn read(from: &mut impl BufRead, body_of: BodyOf) -> io::Result<Option<Message>> {
        let Some(mut message) = Message::read_head(from)? else {
            return Ok(None);
        };
        if message.status() == Some(100) {
            // An interim answer announces the real one.
            return Message::read(from, body_of);
        }
        let bare = matches!(message.status(), Some(204 | 304)) || body_of == BodyOf::Nothing;
        let chunked = message
            .header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        let length: Option<usize> = message
            .header("content-length")
            .and_then(|length| length.trim().parse().ok());
        message.body = match length {
            _ if bare => Vec::new(),
            _ if chunked => read_chunks(from)?,
            Some(length) => read_exactly(from, length)?,
            None if body_of == BodyOf::Response => read_rest(from)?,
            None => Vec::new(),
        };
        if chunked {
            message.remove("transfer-encoding");
            message.set("content-length", &message.body.len().to_string());
        }
        Ok(Some(message))
    }

    fn read_head(from: &mut impl BufRead) -> io::Result<Option<Message>> {
        let mut lines = Vec::new();
        let mut bytes = 0;
        loop {
            let mut line = Vec::new();
            bytes += from.read_until(b'\n', &mut line)?;
            if line.is_empty() && lines.is_empty() {
                return Ok(None);
            }
            if !line.ends_with(b"\n") || bytes > HEAD_BYTES_MAX {
                return Err(invalid("the head of a message is cut or too long"));
            }
            let line = String::from_utf8(line).map_err(|_| invalid("a head is not UTF-8"))?;
            let line = line.trim_end_matches(['\r', '\n']).to_owned();
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let mut lines = lines.into_iter();
        let first = lines
            .next()
            .ok_or_else(|| invalid("a message begins with an empty line"))?;
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').ok_or_else(|| invalid("a header has no colon"))?;
            Ok((name.to_owned(), value.trim().to_owned()))
        });
        let headers = headers.collect::<io::Result<Vec<_>>>()?;
        Ok(Some(Message {
            first,
            headers,
            body: Vec::new(),
        }))
    }

    /// The value of a header; names are compared without case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Sets a header, in the place of any of that name.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.headers.retain(|(given, _)| !given.eq_ignore_ascii_case(name));
    }

    /// The status code of a response.
    pub(crate) fn status(&self) -> Option<u16> {
        let rest = self.first.strip_prefix("HTTP/1.")?;
        rest.split(' ').nth(1)?.parse().ok()
    }

    /// Method and target of a request.
    pub(crate) fn request(&self) -> Option<(&str, &str)> {
        let mut words = self.first.split(' ');
        Some((words.next()?, words.next()?))
    }

    /// The bytes of the message up to its body, as its headers are.
    pub(crate) fn head(&self) -> Vec<u8> {
        let mut head = self.first.clone() + "\r\n";
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        (head + "\r\n").into_bytes()
    }

    /// Writes head and body.
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&self.head())?;
        to.write_all(&self.body)?;
        to.flush()
    }
}

fn read_exactly(from: &mut impl BufRead, length: usize) -> io::Result<Vec<u8>> {
    if length > BODY_BYTES_MAX {
        return Err(invalid("a body is too long"));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(body)
}

fn read_rest(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    from.take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut body)?;
    if body.len() > BODY_BYTES_MAX {
        return Err(invalid("a body is too long"));
    }
    Ok(body)
}

fn read_chunks(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| invalid("a chunk has no size"))?;
        if size == 0 {
            // Trailers, of which nobody here makes any, and the empty line.
            let mut line = String::new();
            while from.read_line(&mut line)? > 2 {
                line.clear();
            }
            return Ok(body);
        }
        if body.len() + size > BODY_BYTES_MAX {
            return Err(invalid("a body is too long"));
        }
        body.extend(read_exactly(from, size)?);
        read_exactly(from, 2)?;
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, body_of: BodyOf) -> io::Result<Option<Message>> {
        Message::read(&mut text.as_bytes(), body_of)
    }

    #[test]
    fn bodies_are_whole_or_an_error() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody and more";
        let message = read(whole, BodyOf::Response).unwrap().unwrap();
        assert_eq!((message.status(), message.body.as_slice()), (Some(200), &b"body"[..]));
        assert!(read("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbod", BodyOf::Response).is_err());
        assert!(read("HTTP/1.1 200 OK\r\nContent-Le", BodyOf::Response).is_err());
        assert!(read("", BodyOf::Request).unwrap().is_none());
        let head = read(whole, BodyOf::Nothing).unwrap().unwrap();
        assert_eq!((head.body.len(), head.header("content-length")), (0, Some("4")));
    }

    #[test]
    fn chunks_are_put_together() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n";
        let message = read(text, BodyOf::Response).unwrap().unwrap();
        assert_eq!(message.body, b"abcde");
        assert_eq!(message.header("Content-Length"), Some("5"));
        assert_eq!(message.header("transfer-encoding"), None);
    }

    #[test]
    fn a_request_without_a_length_has_no_body() {
        let message = read("GET /a?b HTTP/1.1\r\nHost: x\r\n\r\nGET", BodyOf::Request)
            .unwrap()
            .unwrap();
        assert_eq!(message.request(), Some(("GET", "/a?b")));
        assert!(message.body.is_empty());
        assert_eq!(message.head(), b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n");
    }
}
