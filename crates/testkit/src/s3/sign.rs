//! AWS Signature Version 4 for one request with its body in memory.

use aws_lc_rs::{digest, hmac};

use super::policy::secret_key;

/// Headers that sign a request: name and value, `host` included.
///
/// `query` must be encoded and sorted; `path` encoded; `extra` headers have lower-case names.
pub(super) fn headers(
    identity: &str,
    method: &str,
    (host, path, query): (&str, &str, &str),
    extra: &[(&str, &str)],
    body: &[u8],
) -> Vec<(String, String)> {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let body_hash = hex(digest::digest(&digest::SHA256, body).as_ref());
    let mut headers: Vec<(String, String)> = extra
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    for (name, value) in [
        ("host", host),
        ("x-amz-content-sha256", &body_hash),
        ("x-amz-date", &now),
    ] {
        headers.push((name.to_owned(), value.to_owned()));
    }
    headers.sort();
    let names = headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect::<Vec<_>>()
        .join(";");
    let listed: String = headers
        .iter()
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect();
    let request = format!("{method}\n{path}\n{query}\n{listed}\n{names}\n{body_hash}");
    let scope = format!("{}/us-east-1/s3/aws4_request", &now[..8]);
    let request_hash = hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
    let to_sign = format!("AWS4-HMAC-SHA256\n{now}\n{scope}\n{request_hash}");
    let mut key = format!("AWS4{}", secret_key(identity)).into_bytes();
    for part in scope.split('/') {
        key = hmac_sha256(&key, part);
    }
    let signature = hex(&hmac_sha256(&key, &to_sign));
    let authorization =
        format!("AWS4-HMAC-SHA256 Credential={identity}/{scope}, SignedHeaders={names}, Signature={signature}");
    headers.push(("authorization".to_owned(), authorization));
    headers
}

/// Percent-encodes all but unreserved characters, and slashes only where `slashes` says so.
pub(super) fn encode(text: &str, slashes: bool) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            b'/' if !slashes => "/".to_owned(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn hmac_sha256(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
        .as_ref()
        .to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
