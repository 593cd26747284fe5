//! A store in memory, of which single objects can be other than they were.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use pgkeep_base::{Error, Result};
use pgkeep_store::{Created, ObjectMeta, ObjectName, Payload, Store};

/// Objects by name.
pub type Objects = BTreeMap<ObjectName, Bytes>;
/// What is other than in the objects: `None` where one is gone.
pub type Overlay = BTreeMap<ObjectName, Option<Bytes>>;

/// Objects with an overlay. Nothing is ever written.
#[derive(Debug)]
pub struct MemoryStore {
    url: String,
    objects: Arc<Objects>,
    overlay: Overlay,
}

impl MemoryStore {
    pub fn new(name: &str, objects: &Arc<Objects>, overlay: Overlay) -> MemoryStore {
        MemoryStore {
            url: format!("memory:{name}"),
            objects: Arc::clone(objects),
            overlay,
        }
    }

    fn get(&self, name: &ObjectName) -> Result<Bytes> {
        let found = match self.overlay.get(name) {
            Some(other) => other.clone(),
            None => self.objects.get(name).cloned(),
        };
        found.ok_or_else(|| Error::not_found(format!("there is no {name}")))
    }

    fn names(&self) -> Vec<(ObjectName, u64)> {
        let mut all: BTreeMap<&ObjectName, &Bytes> = self.objects.iter().collect();
        for (name, other) in &self.overlay {
            match other {
                Some(bytes) => all.insert(name, bytes),
                None => all.remove(name),
            };
        }
        all.into_iter()
            .map(|(name, bytes)| (name.clone(), bytes.len() as u64))
            .collect()
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn url(&self) -> &str {
        &self.url
    }

    fn requests_wanted(&self) -> usize {
        1
    }

    async fn create(&self, name: &ObjectName, _: Payload) -> Result<Created> {
        Err(Error::denied(format!("{name} is not to be written")))
    }

    async fn read(&self, name: &ObjectName, bytes_max: u64) -> Result<Bytes> {
        let bytes = self.get(name)?;
        match bytes.len() as u64 > bytes_max {
            true => Err(Error::corrupt(format!("{name} is longer than {bytes_max} bytes"))),
            false => Ok(bytes),
        }
    }

    async fn read_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes> {
        let bytes = self.get(name)?;
        match range.end > bytes.len() as u64 {
            true => Err(Error::corrupt(format!("{name} ends before {}", range.end))),
            false => Ok(bytes.slice(range.start as usize..range.end as usize)),
        }
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectMeta> {
        let bytes = self.get(name)?.len() as u64;
        Ok(meta(name.clone(), bytes))
    }

    async fn exists(&self, name: &ObjectName) -> Result<bool> {
        Ok(self.get(name).is_ok())
    }

    fn list<'a>(&'a self, prefix: &str, after: Option<&ObjectName>) -> BoxStream<'a, Result<ObjectMeta>> {
        let below = |name: &ObjectName| prefix.is_empty() || name.is_below(prefix);
        let wanted = |name: &ObjectName| below(name) && after.is_none_or(|after| name > after);
        let found: Vec<_> = self.names().into_iter().filter(|(name, _)| wanted(name)).collect();
        stream::iter(found.into_iter().map(|(name, bytes)| Ok(meta(name, bytes)))).boxed()
    }

    async fn list_directories(&self, prefix: &str) -> Result<Vec<String>> {
        let start = if prefix.is_empty() {
            String::new()
        } else {
            format!("{prefix}/")
        };
        let mut found: Vec<String> = Vec::new();
        for (name, _) in self.names() {
            let directory = name.as_str().strip_prefix(&start).and_then(|rest| rest.split_once('/'));
            found.extend(directory.map(|(directory, _)| directory.to_owned()));
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    async fn delete(&self, name: &ObjectName) -> Result<()> {
        Err(Error::denied(format!("{name} is not to be removed")))
    }
}

fn meta(name: ObjectName, bytes: u64) -> ObjectMeta {
    ObjectMeta {
        name,
        bytes,
        modified: None,
    }
}
