//! Claims about connection parameters: what a string, the environment and files add up to, without a server.

use super::*;

fn environment(pairs: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
    move |name| {
        pairs
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned())
    }
}

fn resolve(text: &str, pairs: &'static [(&'static str, &'static str)]) -> Result<Params> {
    Params::resolve(text, &environment(pairs))
}

fn addresses(params: &Params) -> Vec<Address> {
    params.targets.iter().map(|target| target.address.clone()).collect()
}

#[test]
fn the_string_outranks_the_environment_and_the_environment_the_defaults() {
    let params = resolve(
        "user=a",
        &[
            ("PGUSER", "b"),
            ("PGDATABASE", "shop"),
            ("PGPORT", "5433"),
            ("HOME", "/x"),
        ],
    )
    .unwrap();
    assert_eq!((params.user.as_str(), params.database.as_str()), ("a", "shop"));
    assert!(params.targets.iter().all(|target| target.port == 5433));
    assert_eq!(params.application_name, "pgkeep");
    assert_eq!(params.timeout, Duration::from_secs(10));
}

#[test]
fn without_a_host_the_default_sockets_are_tried() {
    let params = resolve("user=a", &[("HOME", "/x")]).unwrap();
    assert_eq!(params.database, "a", "the database is named like the user");
    assert_eq!(
        addresses(&params),
        [
            Address::Unix("/var/run/postgresql".into()),
            Address::Unix("/tmp".into())
        ]
    );
}

#[test]
fn hosts_addresses_and_ports_go_together() {
    let params = resolve("host=a,/s,b hostaddr=,,10.0.0.1 port=1,2,3 user=u", &[("HOME", "/x")]).unwrap();
    assert_eq!(
        addresses(&params),
        [
            Address::Tcp {
                host: "a".into(),
                address: None
            },
            Address::Unix("/s".into()),
            Address::Tcp {
                host: "b".into(),
                address: Some("10.0.0.1".parse().unwrap())
            },
        ]
    );
    assert_eq!(params.targets.iter().map(|t| t.port).collect::<Vec<_>>(), [1, 2, 3]);
    for bad in [
        "host=a,b port=1,2,3",
        "host=a,b hostaddr=::1",
        "port=0",
        "port=x",
        "hostaddr=db",
    ] {
        assert!(resolve(&format!("user=u {bad}"), &[("HOME", "/x")]).is_err(), "{bad}");
    }
}

#[test]
fn unknown_and_unkeepable_options_are_refused() {
    let kind = |text: &str| {
        resolve(text, &[("HOME", "/x"), ("USER", "u")])
            .err()
            .map(|error| error.kind())
    };
    use pgkeep_base::ErrorKind::{Invalid, Unsupported};
    assert_eq!(kind("user=u hots=a"), Some(Invalid));
    assert_eq!(kind("user=u sslmode=often"), Some(Invalid));
    assert_eq!(kind("user=u requirepeer=postgres"), Some(Unsupported));
    assert_eq!(kind("user=u gssencmode=require"), Some(Unsupported));
    assert_eq!(kind("user=u gssencmode=prefer keepalives=1 client_encoding=auto"), None);
}

#[test]
fn a_service_fills_in_what_the_string_leaves_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("services");
    std::fs::write(&file, "[main]\nhost=/from-service\nuser=service\n").unwrap();
    let name = file.display().to_string();
    let environment = move |key: &str| match key {
        "PGSERVICEFILE" => Some(name.clone()),
        "PGHOST" => Some("/from-environment".to_owned()),
        "HOME" => Some("/x".to_owned()),
        _ => None,
    };
    let params = Params::resolve("service=main user=string", &environment).unwrap();
    assert_eq!(params.user, "string");
    assert_eq!(addresses(&params), [Address::Unix("/from-service".into())]);
    assert!(Params::resolve("service=other", &environment).is_err());
}

#[test]
fn the_password_file_knows_default_sockets_as_localhost() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pass");
    std::fs::write(&file, "localhost:5432:*:u:one\n/run/x:*:*:u:two\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let name = file.display().to_string();
    let environment = move |key: &str| (key == "PGPASSFILE").then(|| name.clone());
    let passwords = |text: &str| -> Vec<Option<String>> {
        let params = Params::resolve(text, &environment).unwrap();
        params.targets.into_iter().map(|target| target.password).collect()
    };
    assert_eq!(passwords("user=u"), [Some("one".to_owned()), Some("one".to_owned())]);
    assert_eq!(passwords("user=u host=/run/x"), [Some("two".to_owned())]);
    assert_eq!(passwords("user=u host=db"), [None]);
    assert_eq!(passwords("user=u host=db password=p"), [Some("p".to_owned())]);
}

#[test]
fn a_root_certificate_makes_require_verify() {
    let mode = |text: &str| resolve(text, &[("HOME", "/x")]).unwrap().tls.effective();
    assert_eq!(mode("user=u"), tls::Mode::Prefer);
    assert_eq!(mode("user=u sslmode=require"), tls::Mode::Require);
    assert_eq!(mode("user=u sslmode=require sslrootcert=/r"), tls::Mode::VerifyCa);
    assert_eq!(mode("user=u sslrootcert=system"), tls::Mode::VerifyFull);
}
