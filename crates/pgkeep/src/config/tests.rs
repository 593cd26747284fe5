//! From files and environments to the configuration in force.

use std::fs;

use pgkeep_base::ErrorKind;

use super::*;

fn load_text(text: &str, environment: &Environment) -> Result<Config> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pgkeep.toml");
    fs::write(&path, text).unwrap();
    load(Some(&path), environment, Path::new("/srv/here"))
}

const SMALL: &str = "[repository.main]\nurl = \"file:///srv/backups\"\n[cluster.shop]\n";

#[test]
fn files_of_keys_are_looked_for_beside_the_configuration() {
    let config = load_text(SMALL, &Environment::default()).unwrap();
    let beside = config.file.as_deref().and_then(Path::parent).unwrap();
    assert_eq!(config.repository_file, beside.join("repository.toml"));
    assert_eq!(config.signing_key_file, beside.join("signing.key"));
    assert_eq!(config.state_dir, Path::new("/var/lib/pgkeep"));
    assert_eq!(config.clusters[0].archive_timeout, Duration::from_secs(60));
    assert!(
        config.repositories[0].required,
        "the first repository is required by default"
    );
}

#[test]
fn relative_paths_belong_to_the_file_or_to_the_working_directory() {
    let environment = Environment::from([("PGKEEP_STATE_DIR", "state"), ("PGKEEP_IDENTITY_FILE", "id.txt")]);
    let text = format!("signing_key_file = \"keys/s\"\n{SMALL}\n[restore]\nidentity_file = \"other.txt\"");
    let config = load_text(&text, &environment).unwrap();
    assert_eq!(
        config.signing_key_file,
        config.file.as_deref().unwrap().with_file_name("keys/s")
    );
    assert_eq!(config.state_dir, Path::new("/srv/here/state"));
    assert_eq!(
        config.identity_file.as_deref(),
        Some(Path::new("/srv/here/id.txt")),
        "the short variable wins"
    );
}

#[test]
fn a_container_needs_no_file() {
    let environment = Environment::from([
        ("PGKEEP_REPOSITORY__MAIN__URL", "s3://b/p"),
        ("PGKEEP_REPOSITORY__MAIN__ALLOW_HTTP", "true"),
        ("PGKEEP_CLUSTER__SHOP__CONNECTION", "host=db"),
    ]);
    let config = load(None, &environment, Path::new("/")).unwrap();
    assert!(config.repositories[0].store.allow_http);
    assert_eq!(config.clusters[0].connection, "host=db");
    assert_eq!(config.repository_file, Path::new("/etc/pgkeep/repository.toml"));
}

#[test]
fn without_any_configuration_the_places_and_init_are_named() {
    let error = load(None, &Environment::from([("HOME", "/h")]), Path::new("/w")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let detail = error.detail_text().unwrap();
    assert_eq!(
        detail,
        "looked for /w/pgkeep.toml, /h/.config/pgkeep/pgkeep.toml, /etc/pgkeep/pgkeep.toml"
    );
    assert!(error.hint_text().unwrap().contains("pgkeep init"));
}

#[test]
fn a_named_file_that_is_missing_is_an_error_even_where_another_would_be_found() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("pgkeep.toml"), SMALL).unwrap();
    let found = find_file(None, &Environment::default(), directory.path()).unwrap();
    assert_eq!(found, Some(directory.path().join("pgkeep.toml")));
    let other = Path::new("other.toml");
    let error = find_file(Some(other), &Environment::default(), directory.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let environment = Environment::from([("PGKEEP_CONFIG", "gone.toml")]);
    assert!(find_file(None, &environment, directory.path()).is_err());
}

#[test]
fn a_repository_needs_a_url_and_one_must_be_required() {
    let error = load_text("[repository.main]\nregion = \"eu\"", &Environment::default()).unwrap_err();
    assert!(error.to_string().contains("has no `url`"), "{error}");
    let none = "[repository.a]\nurl = \"file:///a\"\nrequired = false\n[repository.b]\nurl = \"file:///b\"";
    assert!(load_text(none, &Environment::default()).is_err());
}

/// Aim: a key that the store room adds can't be forgotten here, and no key is listed that nothing reads.
/// Method: the names of the store's structure, as it serialises itself, against the table.
#[test]
fn the_table_has_exactly_the_stores_keys_and_defaults() {
    let store = serde_json::to_value(StoreConfig::default()).unwrap();
    let store = store.as_object().unwrap();
    let prefix = "repository.NAME.";
    let ours = keys::KEYS
        .iter()
        .filter_map(|key| key.path.strip_prefix(prefix))
        .filter(|key| !matches!(*key, "required" | "capacity"));
    let (mut ours, mut theirs): (Vec<_>, Vec<_>) = (ours.collect(), store.keys().map(String::as_str).collect());
    ours.sort_unstable();
    theirs.sort_unstable();
    assert_eq!(ours, theirs);
    for (name, value) in store {
        let key = keys::KEYS
            .iter()
            .find(|key| key.path.strip_prefix(prefix) == Some(name))
            .unwrap();
        if let Some(default) = key.literal_default() {
            assert_eq!(default, value.to_string(), "{name}");
        }
    }
}
