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

/// Aim: each fault does what it says, to the server and to the client, and only as often as asked for.
#[test]
fn a_proxy_answers_wrongly_as_it_is_told() {
    let server = S3Server::shared();
    let (bucket, proxy) = (server.bucket("proxy"), S3Proxy::start(server, 1));
    let client = bucket.seen_by("writer").through(&proxy);
    let admin = bucket.through(&proxy);
    client.put("wo/plain", b"one");
    assert_eq!(admin.get("wo/plain"), b"one");
    assert_eq!(client.try_get("wo/plain"), Err(403), "the real server's policies count");

    for (fault, status, there) in [
        (S3Fault::Before(503), 503, false),
        (S3Fault::After(500), 500, true),
        (S3Fault::Before(403), 403, false),
        (S3Fault::After(412), 412, true),
    ] {
        let key = format!("wo/{fault:?}");
        proxy.rule(Rule::new(fault).on(Op::Put).like("wo/").times(1));
        assert_eq!(client.try_create(&key, b"body"), Err(status));
        assert_eq!(bucket.try_get(&key).is_ok(), there, "{fault:?}");
    }
    proxy.rule(Rule::new(S3Fault::ErrorIn200).times(1));
    assert_eq!(client.try_create("wo/lie", b"body"), Ok(()));
    assert_eq!(bucket.try_get("wo/lie"), Err(404));

    proxy.rule(Rule::new(S3Fault::FlipBody).times(1));
    proxy.rule(Rule::new(S3Fault::ShortBody).times(1));
    let flipped = admin.get("wo/plain");
    assert!(flipped.len() == 3 && flipped != b"one", "{flipped:?}");
    assert_eq!(admin.get("wo/plain"), b"o");
    assert_eq!(admin.get("wo/plain"), b"one");
    bucket.put("wo/other", b"another");
    assert_eq!(admin.get("wo/other"), b"another");
    proxy.rule(Rule::new(S3Fault::OtherBody).times(1));
    assert_eq!(admin.get("wo/plain"), b"ano");

    let whole = bucket.list("wo/");
    proxy.rule(Rule::new(S3Fault::MissingEntry).like("wo/other"));
    assert_eq!(admin.list("wo/").len(), whole.len() - 1);
    proxy.heal();
    proxy.rule(Rule::new(S3Fault::GhostEntry).like("wo/other"));
    assert!(admin.list("wo/").contains(&"wo/othe0".to_owned()));
    proxy.heal();
    assert_eq!(admin.list("wo/"), whole);
    assert_eq!(proxy.account().overwritten, Vec::<String>::new());
    client.put("wo/plain", b"two");
    admin.delete("wo/plain");
    let account = proxy.account();
    assert_eq!(
        (account.overwritten.len(), account.deleted.len()),
        (1, 1),
        "{account:?}"
    );
    assert_eq!(account.faults["After(500)"], 1);
    assert_eq!(proxy.faults(), 10, "{account:?}");
}

/// Aim: a connection that ends in the middle is an error for who waits for the answer.
#[test]
fn a_proxy_hangs_up() {
    let server = S3Server::shared();
    let (bucket, proxy) = (server.bucket("hangup"), S3Proxy::start(server, 1));
    for (fault, there) in [(S3Fault::HangupBefore, false), (S3Fault::HangupAfter, true)] {
        let key = format!("{fault:?}");
        proxy.rule(Rule::new(fault).on(Op::Put).times(1));
        let request = super::client::Request {
            method: "PUT",
            path: &format!("/{}/{key}", bucket.name()),
            body: b"body",
            ..Default::default()
        };
        assert!(super::client::send(proxy.port(), "admin", request).is_err());
        assert_eq!(bucket.try_get(&key).is_ok(), there, "{fault:?}");
    }
    proxy.rule(Rule::new(S3Fault::CutBody).times(1));
    let request = super::client::Request {
        method: "GET",
        path: &format!("/{}/HangupAfter", bucket.name()),
        ..Default::default()
    };
    assert!(super::client::send(proxy.port(), "admin", request).is_err());
    assert_eq!(bucket.through(&proxy).get("HangupAfter"), b"body");
}
