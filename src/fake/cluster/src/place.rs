//! Where an object or a collection of objects is: the paths of the Kubernetes API.

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Group and version: `v1`, `resource.k8s.io/v1`.
    pub version: String,
    /// Such as `pods`.
    pub kind: String,
    /// Of what is in one; none for all namespaces, and for what is in none.
    pub namespace: Option<String>,
    /// Of one object.
    pub name: Option<String>,
}

impl Place {
    /// Reads a path without its query.
    pub fn parse(path: &str) -> Option<Place> {
        let mut parts = path.trim_matches('/').split('/');
        let version = match parts.next()? {
            "api" => parts.next()?.to_owned(),
            "apis" => format!("{}/{}", parts.next()?, parts.next()?),
            _ => return None,
        };
        let rest: Vec<&str> = parts.collect();
        let own = |text: &str| Some(text.to_owned());
        let (namespace, kind, name) = match rest[..] {
            ["namespaces", namespace, kind] => (own(namespace), kind, None),
            ["namespaces", namespace, kind, name] => (own(namespace), kind, own(name)),
            [kind] => (None, kind, None),
            [kind, name] => (None, kind, own(name)),
            _ => return None,
        };
        Some(Place { version, kind: kind.to_owned(), namespace, name })
    }

    /// Whether an object at `other` is among what is here.
    pub fn covers(&self, other: &Place) -> bool {
        (&self.version, &self.kind) == (&other.version, &other.kind)
            && self.namespace.as_ref().is_none_or(|namespace| other.namespace.as_ref() == Some(namespace))
            && self.name.as_ref().is_none_or(|name| other.name.as_ref() == Some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_objects_and_collections() {
        let parse = |path: &str| Place::parse(path).unwrap();
        let claim = parse("/apis/resource.k8s.io/v1/namespaces/team-a/resourceclaims/train");
        assert_eq!(claim.version, "resource.k8s.io/v1");
        assert_eq!((claim.kind.as_str(), claim.name.as_deref()), ("resourceclaims", Some("train")));
        assert!(parse("/apis/resource.k8s.io/v1/resourceclaims").covers(&claim));
        assert!(parse("/apis/resource.k8s.io/v1/namespaces/team-a/resourceclaims").covers(&claim));
        assert!(!parse("/apis/resource.k8s.io/v1/namespaces/team-b/resourceclaims").covers(&claim));
        assert!(!parse("/api/v1/pods").covers(&claim));
        assert_eq!(parse("/api/v1/nodes/n1").name.as_deref(), Some("n1"));
        for wrong in ["/", "/metrics", "/api", "/api/v1", "/apis/a/b"] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }
}
