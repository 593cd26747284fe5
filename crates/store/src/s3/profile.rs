//! The shared files of Amazon's tools: `~/.aws/credentials` and `~/.aws/config`.
//!
//! Only what names keys, a region or an endpoint is understood; profiles that need a program, a role or a login are
//! refused by name instead of being half understood.

use std::collections::HashMap;
use std::path::Path;

use pgkeep_base::{Error, Result, ResultExt};

/// One profile: its keys and values from either file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Profile(HashMap<String, String>);

/// Settings of a profile that stand for credentials which pgkeep can't fetch.
const FOREIGN: [&str; 4] = ["credential_process", "role_arn", "sso_session", "sso_start_url"];

impl Profile {
    /// Reads a profile from both files; `None` if neither has it. Missing files are empty ones.
    pub(super) fn read(name: &str, credentials: Option<&Path>, config: Option<&Path>) -> Result<Option<Profile>> {
        let in_config = if name == "default" {
            "default".to_owned()
        } else {
            format!("profile {name}")
        };
        let mut found = section(config, &in_config)?;
        if let Some(keys) = section(credentials, name)? {
            found.get_or_insert_default().extend(keys);
        }
        Ok(found.map(Profile))
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn has_keys(&self) -> bool {
        self.get("aws_access_key_id").is_some()
    }

    /// The setting that makes this profile one that we can't use.
    pub(super) fn foreign(&self) -> Option<&'static str> {
        FOREIGN.into_iter().find(|key| self.get(key).is_some())
    }
}

fn section(file: Option<&Path>, name: &str) -> Result<Option<HashMap<String, String>>> {
    let Some(file) = file else { return Ok(None) };
    let text = match std::fs::read(file) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| Error::invalid("it is not UTF-8")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error.into()),
    };
    Ok(parse_section(
        &text.during(|| format!("read {}", file.display()))?,
        name,
    ))
}

fn parse_section(text: &str, name: &str) -> Option<HashMap<String, String>> {
    let mut found: Option<HashMap<String, String>> = None;
    let mut inside = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(header) = trimmed.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            let words: Vec<&str> = header.0.split_whitespace().collect();
            inside = words.join(" ") == name;
            if inside {
                found.get_or_insert_default();
            }
            continue;
        }
        // An indented line belongs to a nested setting, of which we know none.
        let nested = line.starts_with([' ', '\t']);
        if let (true, false, Some((key, value))) = (inside, nested, trimmed.split_once('='))
            && let Some(found) = &mut found
        {
            found.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_the_sum_of_both_files() {
        let folder = tempfile::tempdir().unwrap();
        let (credentials, config) = (folder.path().join("credentials"), folder.path().join("config"));
        std::fs::write(
            &credentials,
            "# keys\n[default]\naws_access_key_id=A\n\n[ work ]\naws_access_key_id = W\naws_secret_access_key = s=/+\n",
        )
        .unwrap();
        std::fs::write(
            &config,
            "[profile work]\nregion = eu-central-1\ns3 =\n  region = nested\n[profile sso]\nsso_session = x\n",
        )
        .unwrap();
        let read = |name| Profile::read(name, Some(&credentials), Some(&config)).unwrap();
        let work = read("work").unwrap();
        assert_eq!(work.get("aws_access_key_id"), Some("W"));
        assert_eq!(work.get("aws_secret_access_key"), Some("s=/+"));
        assert_eq!(work.get("region"), Some("eu-central-1"));
        assert_eq!(read("sso").unwrap().foreign(), Some("sso_session"));
        assert!(read("default").unwrap().has_keys());
        assert_eq!(read("absent"), None);
        assert_eq!(Profile::read("x", Some(&folder.path().join("no")), None).unwrap(), None);
    }
}
