//! What a configuration may say, and how it is told what is wrong.

use super::*;

fn read(text: &str) -> Result<Settings> {
    let mut settings = Settings::default();
    settings.read_file(Path::new("pgkeep.toml"), text)?;
    Ok(settings)
}

fn problem(text: &str) -> String {
    let error = read(text).expect_err(text);
    assert_eq!(error.kind(), pgkeep_base::ErrorKind::Invalid);
    error.detail_text().expect("problems are told")
}

const CONTRACT: &str = r#"
state_dir = "/var/lib/pgkeep"
[encryption]
mode = "age"
recipients = ["age1x", "age1y"]
signers = []
[repository.zulu]
url = "file:///srv/backups"
[repository.alpha]
url = "s3://backups-dr/shop"
required = false
capacity = "2 TiB"
[cluster.shop]
connection = "host=/run/postgresql user=pgkeep dbname=postgres"
databases = ["shop"]
objectives = { rpo = "5 minutes", rto = "1 hour" }
[cluster.shop.retention]
[cluster.shop.schedule]
[cluster.shop.drill]
[cluster.shop.hooks]
[restore]
identity_file = "/etc/pgkeep/identity.txt"
"#;

#[test]
fn the_contracts_example_is_understood_with_its_lines() {
    let settings = read(CONTRACT).unwrap();
    assert_eq!(
        settings.names("repository").collect::<Vec<_>>(),
        ["zulu", "alpha"],
        "in order of appearance"
    );
    let rpo = settings.get(&["cluster", "shop", "objectives", "rpo"]).unwrap();
    assert_eq!(rpo.value.as_str(), Some("5 minutes"));
    assert_eq!(rpo.origin, Origin::File("pgkeep.toml".into(), 16));
}

#[test]
fn an_unknown_key_is_told_with_what_was_meant() {
    assert_eq!(
        problem("[cluster.shop]\nconection = \"\""),
        "pgkeep.toml:2: there is no key `cluster.shop.conection`; did you mean `cluster.shop.connection`?"
    );
    assert!(problem("[repositry.main]\nurl = \"x\"").contains("did you mean `repository`?"));
    assert!(
        !problem("[repositry.main]\nurl = \"x\"").contains('\n'),
        "one slip is one problem"
    );
    assert!(problem("identity_file = \"x\"").contains("did you mean `restore.identity_file`?"));
    assert!(problem("[cluster.shop.schedule]\nbackup = \"x\"").contains("no key `cluster.shop.schedule.backup`"));
    assert!(!problem("[cluster.shop]\nflux = 1").contains("did you mean"));
}

#[test]
fn all_problems_are_told_at_once() {
    let text = problem(
        "state_dir = 5\n[cluster.shop]\nobjectives = 3\n[encryption]\nmode = \"rot13\"\n[repository.A]\nurl = \"\"",
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "pgkeep.toml:1: `state_dir`: expected path, found 5");
    assert_eq!(
        lines[1],
        "pgkeep.toml:3: `cluster.shop.objectives` is a table, not a value"
    );
    assert_eq!(
        lines[2],
        "pgkeep.toml:5: `encryption.mode`: expected \"age\" or \"none\", found \"rot13\""
    );
    assert!(
        lines[3].starts_with("pgkeep.toml:6: \"A\" can't be the name of a repository"),
        "{text}"
    );
}

#[test]
fn broken_toml_is_told_with_its_line_but_without_its_text() {
    let error = read("[cluster.shop]\nconnection = \"password=geheim\n").unwrap_err();
    assert!(error.to_string().starts_with("pgkeep.toml:2"), "{error}");
    assert!(!format!("{error} {:?}", error.detail_text()).contains("geheim"));
}

#[test]
fn the_environment_overrides_the_file_and_can_stand_alone() {
    let mut settings = read(CONTRACT).unwrap();
    let variables = [
        ("PGKEEP_CLUSTER__SHOP__CONNECTION", "host=db"),
        ("PGKEEP_ENCRYPTION__RECIPIENTS", "age1z"),
        ("PGKEEP_REPOSITORY__THIRD__URL", "file:///x"),
        ("PGKEEP_CONFIG", "ignored"),
        ("PGKEEP_SERVICE_HOST", "10.0.0.1"),
        ("PGKEEP_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("HOME", "/root"),
    ];
    settings.read_environment(variables.into_iter()).unwrap();
    let connection = settings.get(&["cluster", "shop", "connection"]).unwrap();
    assert_eq!(connection.value.as_str(), Some("host=db"));
    assert_eq!(connection.origin.to_string(), "$PGKEEP_CLUSTER__SHOP__CONNECTION");
    assert_eq!(
        settings.names("repository").collect::<Vec<_>>(),
        ["zulu", "alpha", "third"]
    );
}

#[test]
fn a_variable_that_nearly_names_a_key_is_refused() {
    let mut settings = Settings::default();
    for (name, meant) in [
        ("PGKEEP_STATEDIR", "state_dir"),
        ("PGKEEP_CLUSTER__SHOP__CONECTION", "cluster.shop.connection"),
    ] {
        let error = settings.read_environment([(name, "x")].into_iter()).unwrap_err();
        assert!(
            error
                .detail_text()
                .unwrap()
                .contains(&format!("did you mean `{meant}`?")),
            "{error:?}"
        );
    }
    assert!(
        settings
            .read_environment([("PGKEEP_REPOSITORY__MAIN__RETRIES", "many")].into_iter())
            .is_err()
    );
}

#[test]
fn a_name_with_a_hyphen_can_be_reached_from_the_environment() {
    let mut settings = read("[cluster.shop-eu]\nconnection = \"\"").unwrap();
    settings
        .read_environment([("PGKEEP_CLUSTER__SHOP_EU__CONNECTION", "host=db")].into_iter())
        .unwrap();
    assert_eq!(
        settings
            .get(&["cluster", "shop-eu", "connection"])
            .unwrap()
            .value
            .as_str(),
        Some("host=db")
    );
}
