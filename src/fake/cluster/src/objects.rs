//! The objects and what became of them.

use serde_json::{Map, Value, json};

use crate::place::Place;

/// Objects, each at its place, and all changes since the beginning.
#[derive(Debug, Default)]
pub struct Objects {
    kept: Vec<(Place, Value)>,
    changes: Vec<Change>,
}

/// What happened to an object.
#[derive(Clone, Debug)]
pub struct Change {
    /// Counts from 1.
    pub version: u64,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub kind: &'static str,
    /// The object's.
    pub place: Place,
    /// As it was then.
    pub object: Value,
}

impl Objects {
    /// The newest change's.
    pub fn version(&self) -> u64 {
        self.changes.len() as u64
    }

    /// What happened after `version` to objects among `place` that `selector` is true of.
    pub fn changes_since(&self, version: u64, place: &Place, selector: &str) -> Vec<Change> {
        let new = self.changes.iter().filter(|change| change.version > version);
        new.filter(|change| place.covers(&change.place) && selects(selector, &change.object))
            .cloned()
            .collect()
    }

    /// The object at `place`.
    pub fn get(&self, place: &Place) -> Option<&Value> {
        self.kept.iter().find(|(at, _)| at == place).map(|(_, object)| object)
    }

    /// The objects among `place` that `selector` is true of.
    pub fn list(&self, place: &Place, selector: &str) -> Vec<Value> {
        let found = self.kept.iter().filter(|(at, object)| place.covers(at) && selects(selector, object));
        found.map(|(_, object)| object.clone()).collect()
    }

    /// Puts an object at `place`, in place of one that may be there, whose UID it keeps. As it is then.
    pub fn put(&mut self, place: &Place, mut object: Value) -> Value {
        let version = self.version() + 1;
        let before = self.kept.iter().position(|(at, _)| at == place);
        let known = |field: &str| before.map(|at| self.kept[at].1["metadata"][field].clone());
        let uid = known("uid").unwrap_or_else(|| json!(format!("00000000-0000-4000-8000-{version:012x}")));
        let metadata = metadata(&mut object);
        metadata.entry("uid").or_insert(uid);
        metadata.insert("resourceVersion".to_owned(), json!(version.to_string()));
        metadata.entry("creationTimestamp").or_insert(json!("2026-01-01T00:00:00Z"));
        if let Some(name) = &place.name {
            metadata.insert("name".to_owned(), json!(name));
        }
        if let Some(namespace) = &place.namespace {
            metadata.insert("namespace".to_owned(), json!(namespace));
        }
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        match before {
            Some(at) => self.kept[at].1 = object.clone(),
            None => self.kept.push((place.clone(), object.clone())),
        }
        self.changes.push(Change { version, kind, place: place.clone(), object: object.clone() });
        object
    }

    /// Deletes the objects among `place` that `selector` is true of; what they were.
    pub fn delete(&mut self, place: &Place, selector: &str) -> Vec<Value> {
        let is_meant = |(at, object): &(Place, Value)| place.covers(at) && selects(selector, object);
        let (gone, kept) = std::mem::take(&mut self.kept).into_iter().partition(is_meant);
        self.kept = kept;
        let gone: Vec<(Place, Value)> = gone;
        for (place, object) in &gone {
            let version = self.version() + 1;
            let mut object = object.clone();
            metadata(&mut object).insert("resourceVersion".to_owned(), json!(version.to_string()));
            self.changes.push(Change { version, kind: "DELETED", place: place.clone(), object });
        }
        gone.into_iter().map(|(_, object)| object).collect()
    }
}

/// An object's metadata; made if there is none.
pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"].as_object_mut().expect("it has just been made one")
}

/// Whether all of `a.b=x,c=y` are so.
fn selects(selector: &str, object: &Value) -> bool {
    selector.split(',').filter(|part| !part.is_empty()).all(|part| {
        let (path, wanted) = part.split_once('=').unwrap_or((part, ""));
        let found = path.split('.').fold(object, |object, field| &object[field]);
        found.as_str().unwrap_or_default() == wanted.trim_start_matches('=')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_kept_changed_and_deleted() {
        let mut objects = Objects::default();
        let at = |name: &str| Place::parse(&format!("/api/v1/nodes/{name}")).unwrap();
        let all = Place::parse("/api/v1/nodes").unwrap();
        let first = objects.put(&at("a"), json!({"spec": {"driver": "x"}}));
        objects.put(&at("b"), json!({"spec": {"driver": "y"}}));
        let second = objects.put(&at("a"), json!({"spec": {"driver": "x"}, "more": 1}));
        assert_eq!(first["metadata"]["uid"], second["metadata"]["uid"]);
        assert_eq!(
            (&first["metadata"]["resourceVersion"], &second["metadata"]["resourceVersion"]),
            (&json!("1"), &json!("3"))
        );
        assert_eq!(objects.list(&all, "spec.driver=x").len(), 1);
        assert_eq!(objects.list(&all, "spec.driver=x,metadata.name=b").len(), 0);
        assert_eq!(objects.delete(&all, "spec.driver=y").len(), 1);
        let kinds: Vec<&str> = objects.changes_since(1, &all, "").iter().map(|change| change.kind).collect();
        assert_eq!(kinds, ["ADDED", "MODIFIED", "DELETED"]);
        assert_eq!(objects.get(&at("a")), Some(&second));
        assert_eq!(objects.get(&at("b")), None);
    }
}
