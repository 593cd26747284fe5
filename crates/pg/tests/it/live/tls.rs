//! TLS: what each `sslmode` accepts and refuses.
//!
//! Method: a certificate authority and certificates made by `openssl` for the run; a server that speaks TLS on loopback.

use std::path::Path;
use std::process::Command;

use pgkeep_base::ErrorKind;
use pgkeep_pg::connect::Connection;

use super::rig::{Rig, Room, newest, no_environment};

fn openssl(dir: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(dir)
        .output()
        .expect("install the package openssl to run this test");
    assert!(
        output.status.success(),
        "openssl {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// `<name>.crt` and `<name>.key`, signed by `<issuer>`, or by itself.
fn certificate(dir: &Path, name: &str, subject: &str, issuer: Option<&str>) {
    let key = format!("-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key");
    match issuer {
        None => openssl(
            dir,
            &format!("req -x509 -days 2 {key} -subj /CN={subject} -out {name}.crt"),
        ),
        Some(issuer) => {
            std::fs::write(dir.join("extensions"), format!("subjectAltName=DNS:{subject}\n")).unwrap();
            openssl(dir, &format!("req -new {key} -subj /CN={subject} -out {name}.csr"));
            openssl(
                dir,
                &format!(
                    "x509 -req -days 2 -in {name}.csr -CA {issuer}.crt -CAkey {issuer}.key -CAcreateserial \
                     -extfile extensions -out {name}.crt"
                ),
            );
        }
    }
}

struct Tls {
    rig: Rig,
    room: Room,
}

impl Tls {
    /// A server whose certificate, signed by `ca`, names localhost; a client's, signed by the same.
    async fn start() -> Tls {
        let room = Room::new();
        let certificates = room.directory("certificates");
        certificate(&certificates, "ca", "test", None);
        certificate(&certificates, "stranger", "test", None);
        certificate(&certificates, "server", "localhost", Some("ca"));
        certificate(&certificates, "client", "certified", Some("ca"));
        room.account.own(&certificates.join("server.key")).unwrap();
        let file = |name: &str| certificates.join(name).display().to_string();
        let rig = Rig::start(
            newest(),
            &[
                ("listen_addresses", "localhost"),
                ("ssl", "on"),
                ("ssl_cert_file", &file("server.crt")),
                ("ssl_key_file", &file("server.key")),
                ("ssl_ca_file", &file("ca.crt")),
            ],
        )
        .await;
        rig.run("CREATE ROLE certified LOGIN; CREATE ROLE plain LOGIN").await;
        rig.set_hba(
            "local all all trust\nhostssl all certified all cert\nhostnossl all plain all trust\n\
             hostssl all postgres all trust\n",
        )
        .await;
        Tls { rig, room }
    }

    async fn open(&self, options: &str) -> Result<bool, pgkeep_base::Error> {
        let certificates = self.room.path("certificates").display().to_string();
        let conninfo =
            format!("port={} dbname=postgres {options}", self.rig.server.port()).replace("DIR", &certificates);
        let conn = Connection::open(&conninfo, &no_environment).await?;
        let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        Ok(conn.text_rows(sql).await?[0][0].as_deref() == Some("t"))
    }
}

#[tokio::test]
async fn every_sslmode_does_what_libpqs_does() {
    let tls = Tls::start().await;
    let by_name = "host=localhost user=postgres";
    let by_address = "host=127.0.0.1 user=postgres";
    for (options, encrypted) in [
        (format!("{by_name} sslmode=require"), true),
        (format!("{by_name} sslmode=prefer"), true),
        (format!("{by_name} sslmode=verify-full sslrootcert=DIR/ca.crt"), true),
        (
            format!("{by_name} sslmode=verify-full sslrootcert=DIR/server.crt"),
            true,
        ),
        (format!("{by_address} sslmode=verify-ca sslrootcert=DIR/ca.crt"), true),
        (format!("{by_address} sslmode=require sslnegotiation=direct"), true),
        (
            "host=localhost hostaddr=127.0.0.1 user=postgres sslmode=verify-full sslrootcert=DIR/ca.crt".into(),
            true,
        ),
        (
            "host=localhost user=certified sslcert=DIR/client.crt sslkey=DIR/client.key sslmode=require".into(),
            true,
        ),
        ("host=localhost user=plain sslmode=prefer".into(), false),
        (
            format!(
                "host={} user=postgres sslmode=require",
                tls.rig.server.socket_dir().display()
            ),
            false,
        ),
    ] {
        let found = tls.open(&options).await;
        assert_eq!(
            found.unwrap_or_else(|error| panic!("{options}: {error:?}")),
            encrypted,
            "{options}"
        );
    }
}

#[tokio::test]
async fn what_can_not_be_verified_is_not_trusted() {
    let tls = Tls::start().await;
    for (options, kind, words) in [
        (
            "host=localhost sslmode=verify-ca sslrootcert=DIR/stranger.crt",
            ErrorKind::Denied,
            "invalid peer certificate",
        ),
        (
            "host=localhost sslmode=require sslrootcert=DIR/stranger.crt",
            ErrorKind::Denied,
            "invalid peer certificate",
        ),
        (
            "host=127.0.0.1 sslmode=verify-full sslrootcert=DIR/ca.crt",
            ErrorKind::Denied,
            "not valid for name",
        ),
        (
            "host=127.0.0.1 sslmode=verify-full sslrootcert=DIR/server.crt",
            ErrorKind::Denied,
            "not valid for name",
        ),
        (
            "host=localhost sslrootcert=system",
            ErrorKind::Denied,
            "invalid peer certificate",
        ),
        ("host=localhost sslmode=verify-full", ErrorKind::Invalid, "root"),
        (
            "host=localhost sslmode=require sslrootcert=DIR/absent",
            ErrorKind::Invalid,
            "absent",
        ),
        ("host=localhost sslmode=disable", ErrorKind::Denied, "no encryption"),
    ] {
        let error = tls.open(&format!("{options} user=postgres")).await.expect_err(options);
        assert_eq!(error.kind(), kind, "{options}: {error:?}");
        let said = error.detail_text().unwrap();
        assert!(said.contains(words), "{options}: {said}");
    }
    let error = tls
        .open("host=localhost user=certified sslmode=require")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_it_is_required() {
    let rig = Rig::start(newest(), &[("listen_addresses", "localhost")]).await;
    let conninfo = format!("host=localhost user=postgres port={}", rig.server.port());
    let error = Connection::open(&format!("{conninfo} sslmode=require"), &no_environment)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(
        error.detail_text().unwrap().contains("server does not support TLS"),
        "{error:?}"
    );
    Connection::open(&conninfo, &no_environment).await.unwrap();
}
