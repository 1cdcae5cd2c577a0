//! Who uses a claim: the pod that it is reserved for, and the containers in it, as labels of the shares.
//!
//! For metrics only: what can't be found out is left out, and is no reason to refuse anything.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;

use super::allocation::Part;
use super::configuration::covers;
use super::prepare::Labels;

/// The pod that a claim is reserved for, by name and UID; none if it is reserved for several or for something else.
pub fn pod_of(claim: &ResourceClaim) -> Option<(&str, &str)> {
    let consumers = claim.status.as_ref()?.reserved_for.as_deref()?;
    match consumers {
        [one] if one.resource == "pods" => Some((&one.name, &one.uid)),
        _ => None,
    }
}

/// The labels of a part's share: its pod, and the containers of it that use the part. `pod` is what the server knows of
/// the pod that the claim is reserved for.
pub fn labels(claim: &ResourceClaim, pod: Option<&Pod>, part: &Part) -> Labels {
    let mut labels = Labels::new();
    let Some((name, uid)) = pod_of(claim) else { return labels };
    labels.insert("pod".to_owned(), name.to_owned());
    labels.insert("pod_uid".to_owned(), uid.to_owned());
    let containers = pod.map(|pod| containers(pod, claim, &part.request)).unwrap_or_default();
    if !containers.is_empty() {
        labels.insert("container".to_owned(), Vec::from_iter(containers).join(","));
    }
    labels
}

/// The containers of `pod` that use `request` of `claim`.
fn containers(pod: &Pod, claim: &ResourceClaim, request: &str) -> BTreeSet<String> {
    let (Some(spec), Some(claim_name)) = (&pod.spec, &claim.metadata.name) else { return BTreeSet::new() };
    let named = spec.resource_claims.iter().flatten();
    let by_name =
        named.filter(|entry| entry.resource_claim_name.as_ref() == Some(claim_name)).map(|entry| &entry.name);
    let made = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    let from_template =
        made.filter(|entry| entry.resource_claim_name.as_ref() == Some(claim_name)).map(|entry| &entry.name);
    let ours: BTreeSet<&String> = by_name.chain(from_template).collect();

    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let users = all.filter(|container| {
        let claims = container.resources.iter().flat_map(|resources| resources.claims.iter().flatten());
        claims.into_iter().any(|used| {
            let is_request = used.request.as_ref().is_none_or(|meant| covers(meant, request));
            ours.contains(&used.name) && is_request
        })
    });
    let mut users: BTreeSet<String> = users.map(|container| container.name.clone()).collect();
    // What was asked for as a plain number in a container's limits.
    let extended = pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
    if let Some(extended) = extended.filter(|extended| extended.resource_claim_name == *claim_name) {
        let mappings =
            extended.request_mappings.iter().filter(|mapping| covers(&mapping.request_name, request));
        users.extend(mappings.map(|mapping| mapping.container_name.clone()));
    }
    users
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::allocation::parts;
    use crate::kubernetes::example::{claim, inventory, result};
    use serde_json::{Value, json};

    fn labels_of(pod: Value) -> Vec<Labels> {
        let claim =
            claim("train", "u", &[result("big", 0, "1Gi", "5"), result("small/first", 1, "1Gi", "5")], &[]);
        let pod: Pod = serde_json::from_value(pod).unwrap();
        parts(&claim, "n1", &inventory())
            .unwrap()
            .iter()
            .map(|part| labels(&claim, Some(&pod), part))
            .collect()
    }

    fn container(labels: &Labels) -> Option<&str> {
        labels.get("container").map(String::as_str)
    }

    #[test]
    fn containers_are_told_by_what_they_use() {
        let found = labels_of(json!({
            "metadata": {"name": "train-pod"},
            "spec": {
                "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}, {"name": "other", "resourceClaimName": "x"}],
                "containers": [
                    {"name": "main", "resources": {"claims": [{"name": "gpu", "request": "big"}]}},
                    {"name": "side", "resources": {"claims": [{"name": "gpu", "request": "small"}]}},
                    {"name": "log", "resources": {"claims": [{"name": "other"}]}},
                    {"name": "plain"},
                ],
                "initContainers": [{"name": "warm", "resources": {"claims": [{"name": "gpu"}]}}],
            },
            "status": {"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "train"}]},
        }));
        assert_eq!(found[0]["pod"], "train-pod");
        assert_eq!(found[0]["pod_uid"], "u-pod");
        assert_eq!(container(&found[0]), Some("main,warm"));
        assert_eq!(container(&found[1]), Some("side,warm"));
    }

    #[test]
    fn a_number_in_a_containers_limits_is_a_claim_as_well() {
        let found = labels_of(json!({
            "metadata": {"name": "train-pod"},
            "spec": {"containers": [{"name": "main"}]},
            "status": {"extendedResourceClaimStatus": {
                "resourceClaimName": "train",
                "requestMappings": [{"containerName": "main", "requestName": "big", "resourceName": "vcuda.dev/vgpu"}],
            }},
        }));
        assert_eq!((container(&found[0]), container(&found[1])), (Some("main"), None));
    }

    #[test]
    fn several_pods_are_no_label() {
        let mut shared = claim("train", "u", &[result("big", 0, "1Gi", "5")], &[]);
        let part = &parts(&shared, "n1", &inventory()).unwrap()[0];
        assert_eq!(labels(&shared, None, part)["pod"], "train-pod");
        let consumers = shared.status.as_mut().unwrap().reserved_for.as_mut().unwrap();
        consumers.push(consumers[0].clone());
        assert!(labels(&shared, None, part).is_empty());
        shared.status.as_mut().unwrap().reserved_for = None;
        assert!(labels(&shared, None, part).is_empty());
    }
}
