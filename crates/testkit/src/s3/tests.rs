//! Claims about the S3 server: what pgkeep's tests of roles and commit points rely on.

use super::*;

#[test]
fn policies_are_enforced() {
    let bucket = S3Server::shared().bucket("roles");
    let (writer, restorer, keeper) = (
        bucket.seen_by("writer"),
        bucket.seen_by("restorer"),
        bucket.seen_by("keeper"),
    );
    writer.put("wo/a", b"one");
    assert_eq!(writer.try_get("wo/a"), Err(403));
    assert_eq!(writer.try_list(""), Err(403));
    assert_eq!(writer.try_delete("wo/a"), Err(403));
    assert_eq!(writer.try_put("elsewhere", b"x"), Err(403));
    assert_eq!(restorer.get("wo/a"), b"one");
    assert_eq!(restorer.list(""), ["wo/a"]);
    assert_eq!(restorer.try_get("wo/b"), Err(404));
    assert_eq!(restorer.try_put("wo/b", b"x"), Err(403));
    assert_eq!(restorer.try_delete("wo/a"), Err(403));
    keeper.delete("wo/a");
    assert_eq!(keeper.try_get("wo/a"), Err(404));
    assert_eq!(bucket.seen_by("nobody").try_get("wo/a"), Err(403));
}

#[test]
fn an_object_is_created_once() {
    let bucket = S3Server::shared().bucket("once");
    assert_eq!(bucket.seen_by("writer").try_create("wo/a", b"one"), Ok(()));
    assert_eq!(bucket.seen_by("writer").try_create("wo/a", b"two"), Err(412));
    assert_eq!(bucket.get("wo/a"), b"one");
}

#[test]
fn names_and_long_listings_come_back_as_they_were() {
    let bucket = S3Server::shared().bucket("names");
    let mut names: Vec<String> = (0..1005).map(|number| format!("many/{number:04}")).collect();
    names.push("odd/a b+c=&d%20é".to_owned());
    for name in &names {
        bucket.put(name, name.as_bytes());
    }
    assert_eq!(bucket.list(""), names);
    assert_eq!(bucket.list("odd/"), names[1005..]);
    assert_eq!(bucket.get(&names[1005]), names[1005].as_bytes());
}

/// Aim: an outage and a stall look like ones. Method: a server of one's own, killed and started again.
#[test]
fn an_outage_loses_nothing_that_was_acknowledged() {
    let mut server = S3Server::start(&[Identity::admin("admin")]);
    let bucket = server.bucket("outage");
    bucket.put("a", b"one");
    server.kill9();
    assert!(std::net::TcpStream::connect(server.endpoint().trim_start_matches("http://")).is_err());
    server.start_again();
    assert_eq!(bucket.get("a"), b"one");
    server.stall();
    server.resume();
    assert_eq!(bucket.get("a"), b"one");
}

#[test]
fn https_answers_with_the_certificate_in_ca_file() {
    let server = S3Server::shared();
    let address = server.https_endpoint().replace("https://", "");
    let said = crate::Run::new("/usr/bin/openssl")
        .args([
            "s_client",
            "-verify_return_error",
            "-brief",
            "-connect",
            &address,
            "-CAfile",
        ])
        .arg(server.ca_file())
        .run()
        .ok();
    assert!(said.stderr.contains("Verification: OK"), "{said}");
}
