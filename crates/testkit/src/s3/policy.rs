//! Who may do what on a test server, in the words of S3's own policies.
//!
//! SeaweedFS's short form (`"actions": ["Write"]`) also allows deleting, so every identity but the administrator gets
//! a policy document instead.

use serde_json::{Value, json};

/// One `Allow` of a policy.
#[derive(Clone, Debug)]
pub struct Statement {
    actions: Vec<String>,
    resources: Vec<String>,
}

impl Statement {
    /// Allows S3 actions (`PutObject`) on `bucket/key` patterns, where `*` matches any text, slashes included.
    /// Actions on a bucket itself (`ListBucket`) need a pattern without a key.
    pub fn allow(actions: &[&str], resources: &[&str]) -> Statement {
        Statement {
            actions: actions.iter().map(|action| format!("s3:{action}")).collect(),
            resources: resources
                .iter()
                .map(|resource| format!("arn:aws:s3:::{resource}"))
                .collect(),
        }
    }
}

/// Someone with an access key: its name; the secret key is the name followed by `secret`.
#[derive(Clone, Debug)]
pub struct Identity {
    name: String,
    /// None for the administrator, who may do everything.
    statements: Option<Vec<Statement>>,
}

impl Identity {
    /// May do everything.
    pub fn admin(name: &str) -> Identity {
        Identity {
            name: name.to_owned(),
            statements: None,
        }
    }

    /// May do what the statements allow and nothing else.
    pub fn new(name: &str, statements: Vec<Statement>) -> Identity {
        Identity {
            name: name.to_owned(),
            statements: Some(statements),
        }
    }

    /// The four of [`super::S3Server::shared`]: `admin`; `writer`, who may create objects below `wo/` of any bucket
    /// and nothing else; `restorer`, who may read and list; `keeper`, who may read, list, delete, and create below
    /// `wo/`.
    pub fn usual() -> Vec<Identity> {
        let read = Statement::allow(&["GetObject", "ListBucket"], &["*", "*/*"]);
        let write = Statement::allow(&["PutObject"], &["*/wo/*"]);
        let delete = Statement::allow(&["DeleteObject"], &["*/*"]);
        vec![
            Identity::admin("admin"),
            Identity::new("writer", vec![write.clone()]),
            Identity::new("restorer", vec![read.clone()]),
            Identity::new("keeper", vec![read, write, delete]),
        ]
    }

    /// Its access key.
    pub fn access_key(&self) -> &str {
        &self.name
    }

    /// Its secret key.
    pub fn secret_key(&self) -> String {
        secret_key(&self.name)
    }
}

pub(crate) fn secret_key(name: &str) -> String {
    format!("{name}secret")
}

/// The file that `-s3.config` names.
pub(super) fn config(identities: &[Identity]) -> Value {
    let keys = |identity: &Identity| json!([{"accessKey": identity.name, "secretKey": identity.secret_key()}]);
    let listed = |identity: &Identity| match identity.statements {
        None => json!({"name": identity.name, "credentials": keys(identity), "actions": ["Admin"]}),
        Some(_) => json!({"name": identity.name, "credentials": keys(identity), "policyNames": [identity.name]}),
    };
    let policies = identities.iter().filter_map(|identity| {
        let statements: Vec<Value> = identity.statements.as_ref()?.iter().map(statement).collect();
        let document = json!({"Version": "2012-10-17", "Statement": statements});
        Some(json!({"name": identity.name, "content": document.to_string()}))
    });
    json!({
        "identities": identities.iter().map(listed).collect::<Vec<_>>(),
        "policies": policies.collect::<Vec<_>>(),
        "kms": {"default_provider": "local-kms", "providers": {"local-kms": {"type": "local", "enableOnDemandCreate": true}}},
    })
}

fn statement(statement: &Statement) -> Value {
    json!({"Effect": "Allow", "Action": statement.actions, "Resource": statement.resources})
}
