//! What HAMi's limits are as claims: `nvidia.com/gpumem: 3000` and `nvidia.com/gpucores: 30` of a container become a claim
//! made of a template whose name says the same, so that all pods that ask for the same share one.
//!
//! Pure. A pod that asks for nothing of the sort, `nvidia.com/gpu` alone included, is left as it is; one that can't be served
//! as it is written must be refused, not made to ask for something else.

use serde_json::{Map, Value, json};

use super::super::DRIVER;

const COUNT: &str = "nvidia.com/gpu";
const MEMORY_MIB: &str = "nvidia.com/gpumem";
const MEMORY_PERCENTAGE: &str = "nvidia.com/gpumem-percentage";
const CORES: &str = "nvidia.com/gpucores";
/// What a container must have one of.
const SIZES: [&str; 3] = [MEMORY_MIB, MEMORY_PERCENTAGE, CORES];
/// The most GPUs of one container.
const MOST_GPUS: u64 = 16;
/// More than any GPU has.
const MOST_MIB: u64 = 1 << 24;

/// What becomes of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversion {
    /// As a JSON patch; empty if nothing changes.
    pub patch: Vec<Value>,
    /// Claim templates that the pod needs in its namespace: names and specifications.
    pub templates: Vec<(String, Value)>,
}

/// What becomes of `pod`. Containers that name no cores get `cores` percent of a GPU's time, or without it all.
///
/// # Errors
/// A sentence for the pod's author.
pub fn convert(pod: &Value, cores: Option<u64>) -> Result<Conversion, String> {
    let mut made = Conversion::default();
    let mut claims: Vec<Value> =
        pod.pointer("/spec/resourceClaims").and_then(Value::as_array).cloned().unwrap_or_default();
    for kind in ["containers", "initContainers"] {
        let containers = pod.pointer(&format!("/spec/{kind}")).and_then(Value::as_array);
        for (number, container) in containers.into_iter().flatten().enumerate() {
            let name = container["name"].as_str().unwrap_or_default();
            let Some(asked) =
                Asked::by(container, cores).map_err(|what| format!("container {name:?}: {what}"))?
            else {
                continue;
            };
            let claim = format!("vcuda-{}-{number}", if kind == "containers" { "gpu" } else { "init" });
            let template = asked.name();
            claims.push(json!({ "name": claim, "resourceClaimTemplateName": template }));
            made.patch.push(json!({
                "op": "replace",
                "path": format!("/spec/{kind}/{number}/resources"),
                "value": resources(&container["resources"], &claim),
            }));
            if !made.templates.iter().any(|(known, _)| *known == template) {
                made.templates.push((template, asked.template()));
            }
        }
    }
    if !made.patch.is_empty() {
        // Also where there is such a member already: then it is replaced.
        made.patch.push(json!({ "op": "add", "path": "/spec/resourceClaims", "value": claims }));
    }
    Ok(made)
}

/// What a container asks for.
struct Asked {
    count: u64,
    memory_mib: Option<u64>,
    cores: Option<u64>,
}

impl Asked {
    fn by(container: &Value, cores: Option<u64>) -> Result<Option<Asked>, String> {
        let Some(limits) = container.pointer("/resources/limits").and_then(Value::as_object) else {
            return Ok(None);
        };
        if !SIZES.iter().any(|size| limits.contains_key(*size)) {
            return Ok(None);
        }
        if limits.contains_key(MEMORY_PERCENTAGE) {
            return Err(format!(
                "{MEMORY_PERCENTAGE} can't become a claim, which asks for a number of bytes of whichever GPU has them; write \
                 {MEMORY_MIB}, in MiB"
            ));
        }
        let count = number(limits, COUNT, 1..=MOST_GPUS)?.unwrap_or(1);
        let memory_mib = number(limits, MEMORY_MIB, 0..=MOST_MIB)?.filter(|mib| *mib > 0);
        // 0 is "no limit" of HAMi's.
        let asked = number(limits, CORES, 0..=100)?.filter(|cores| *cores > 0);
        Ok(Some(Asked { count, memory_mib, cores: asked.or(cores) }))
    }

    fn name(&self) -> String {
        let memory = self.memory_mib.map_or("all".to_owned(), |mib| format!("{mib}mi"));
        let cores = self.cores.map_or("all".to_owned(), |cores| cores.to_string());
        format!("vcuda-{}-{memory}-{cores}", self.count)
    }

    /// The claim template's specification.
    fn template(&self) -> Value {
        let mut capacity = Map::new();
        if let Some(mib) = self.memory_mib {
            capacity.insert("memory".to_owned(), json!(format!("{mib}Mi")));
        }
        if let Some(cores) = self.cores {
            capacity.insert("cores".to_owned(), json!(cores.to_string()));
        }
        let mut exactly =
            json!({ "deviceClassName": DRIVER, "allocationMode": "ExactCount", "count": self.count });
        if !capacity.is_empty() {
            exactly["capacity"] = json!({ "requests": capacity });
        }
        let mut devices = json!({ "requests": [{ "name": "gpu", "exactly": exactly }] });
        if self.count > 1 {
            // Several shares of one GPU are of no use to a container.
            let attribute = format!("{DRIVER}/uuid");
            devices["constraints"] = json!([{ "requests": ["gpu"], "distinctAttribute": attribute }]);
        }
        json!({ "spec": { "devices": devices } })
    }
}

/// The whole number that `limits` has of `name`, as a quantity.
fn number(
    limits: &Map<String, Value>,
    name: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Option<u64>, String> {
    let Some(value) = limits.get(name) else { return Ok(None) };
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let (digits, unit) = match text.strip_suffix('k') {
        Some(digits) => (digits, 1000),
        None => (text.as_str(), 1),
    };
    let found = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match found.filter(|number| range.contains(number)) {
        Some(number) => Ok(Some(number)),
        None => Err(format!(
            "{name}: {text} is not right; write a whole number from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

/// A container's resources with the claim, and without what it replaces.
fn resources(before: &Value, claim: &str) -> Value {
    let mut resources = before.clone();
    for kind in ["limits", "requests"] {
        let Some(amounts) = resources.get_mut(kind).and_then(Value::as_object_mut) else { continue };
        amounts.retain(|name, _| name != COUNT && !SIZES.contains(&name.as_str()));
        if amounts.is_empty()
            && let Some(all) = resources.as_object_mut()
        {
            all.remove(kind);
        }
    }
    let mut claims = resources["claims"].as_array().cloned().unwrap_or_default();
    claims.push(json!({ "name": claim }));
    resources["claims"] = Value::Array(claims);
    resources
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(limits: &Value) -> Value {
        json!({ "spec": { "containers": [{ "name": "main", "resources": { "limits": limits } }] } })
    }

    fn template(limits: &Value, cores: Option<u64>) -> (String, Value) {
        convert(&pod(limits), cores).unwrap().templates.remove(0)
    }

    #[test]
    fn sizes_become_a_claim() {
        let limits = json!({ "nvidia.com/gpu": 1, "nvidia.com/gpumem": "3000", "nvidia.com/gpucores": "30", "cpu": "2" });
        let made = convert(&pod(&limits), None).unwrap();
        assert_eq!(
            made.patch,
            [
                json!({ "op": "replace", "path": "/spec/containers/0/resources",
                    "value": { "limits": { "cpu": "2" }, "claims": [{ "name": "vcuda-gpu-0" }] } }),
                json!({ "op": "add", "path": "/spec/resourceClaims", "value": [
                    { "name": "vcuda-gpu-0", "resourceClaimTemplateName": "vcuda-1-3000mi-30" }] }),
            ]
        );
        let [(name, template)] = &made.templates[..] else { panic!("one template") };
        assert_eq!(name, "vcuda-1-3000mi-30");
        let exactly = &template["spec"]["devices"]["requests"][0]["exactly"];
        assert_eq!(exactly["capacity"]["requests"], json!({ "memory": "3000Mi", "cores": "30" }));
        assert!(template["spec"]["devices"].get("constraints").is_none());
    }

    #[test]
    fn what_is_left_open_is_all_or_what_the_administrator_says() {
        let memory = json!({ "nvidia.com/gpumem": "3k", "nvidia.com/gpucores": 0 });
        assert_eq!(template(&memory, None).0, "vcuda-1-3000mi-all");
        let (name, spec) = template(&memory, Some(25));
        assert_eq!(name, "vcuda-1-3000mi-25");
        assert_eq!(spec["spec"]["devices"]["requests"][0]["exactly"]["capacity"]["requests"]["cores"], "25");
        let (name, spec) = template(&json!({ "nvidia.com/gpu": "2", "nvidia.com/gpucores": "50" }), Some(25));
        assert_eq!(name, "vcuda-2-all-50");
        assert_eq!(
            spec["spec"]["devices"]["constraints"],
            json!([{ "requests": ["gpu"], "distinctAttribute": "gpu.vcuda.dev/uuid" }])
        );
    }

    #[test]
    fn other_pods_and_what_else_a_pod_has_are_left() {
        for limits in [json!({}), json!({ "nvidia.com/gpu": 1 }), json!({ "cpu": 1 })] {
            assert_eq!(convert(&pod(&limits), None), Ok(Conversion::default()));
        }
        assert_eq!(convert(&json!({}), None), Ok(Conversion::default()));
        let sized =
            json!({ "limits": { "nvidia.com/gpumem": 100 }, "requests": { "nvidia.com/gpumem": 100 } });
        let with_more = json!({ "spec": {
            "resourceClaims": [{ "name": "nic", "resourceClaimName": "n" }],
            "containers": [{ "name": "a" }, { "name": "b", "resources": sized }],
            "initContainers": [{ "name": "c", "resources": sized }],
        } });
        let made = convert(&with_more, None).unwrap();
        let paths: Vec<_> = made.patch.iter().map(|change| change["path"].as_str().unwrap()).collect();
        let expected =
            ["/spec/containers/1/resources", "/spec/initContainers/0/resources", "/spec/resourceClaims"];
        assert_eq!(paths, expected);
        assert_eq!(made.patch[0]["value"], json!({ "claims": [{ "name": "vcuda-gpu-1" }] }));
        let names: Vec<_> =
            made.patch[2]["value"].as_array().unwrap().iter().map(|claim| &claim["name"]).collect();
        assert_eq!(names, ["nic", "vcuda-gpu-1", "vcuda-init-0"]);
        assert_eq!(made.templates.len(), 1, "the same size, the same template");
    }

    #[test]
    fn what_can_not_be_is_told() {
        for (limits, words) in [
            (
                json!({ "nvidia.com/gpumem-percentage": 50 }),
                "container \"main\": nvidia.com/gpumem-percentage can't",
            ),
            (
                json!({ "nvidia.com/gpumem": "3Gi" }),
                "nvidia.com/gpumem: 3Gi is not right; write a whole number",
            ),
            (json!({ "nvidia.com/gpumem": -1 }), "-1 is not right"),
            (json!({ "nvidia.com/gpucores": 101 }), "from 0 to 100"),
            (json!({ "nvidia.com/gpucores": 1.5 }), "1.5 is not right"),
            (json!({ "nvidia.com/gpu": 0, "nvidia.com/gpumem": 1 }), "nvidia.com/gpu: 0 is not right"),
            (json!({ "nvidia.com/gpumem": {} }), "{} is not right"),
        ] {
            let what = convert(&pod(&limits), None).expect_err("converted");
            assert!(what.contains(words), "{what}");
        }
    }
}
