//! Which slices kubelet has given to containers: its own record, by which it starts them again.
//!
//! Kubelet keeps the answer to each Allocate in the file `kubelet_internal_checkpoint` and uses it whenever it starts a
//! container of that pod, also after its own restart or the machine's, without asking again. So a share must be there for
//! as long as that file has its slices, and for no longer. The pod-resources API would not do: it leaves init containers
//! out. Its form is kubelet's own and was changed once, in 1.20; what can't be read in either form says nothing.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::Value;
use vcuda_core::device::Uuid;

use super::cut::{Slices, parse_device_id};

/// Name of the file, in the directory of device plugins.
pub const FILE: &str = "kubelet_internal_checkpoint";

/// The slices of each GPU that each container has. Several may have the same: init containers and those after them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held(HashMap<Uuid, Vec<Slices>>);

impl Held {
    /// Reads the file. `None` if there is none: kubelet has given nothing to anybody yet, or has not been here.
    ///
    /// # Errors
    /// What can't be read.
    pub fn read(path: &Path, resource: &str) -> anyhow::Result<Option<Held>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        Held::parse(&text, resource).with_context(|| path.display().to_string()).map(Some)
    }

    fn parse(text: &str, resource: &str) -> anyhow::Result<Held> {
        let file: Value = serde_json::from_str(text)?;
        let entries = match file.pointer("/Data/PodDeviceEntries") {
            Some(Value::Array(entries)) => entries.as_slice(),
            // What Go writes for none.
            Some(Value::Null) => &[],
            _ => bail!("has no Data.PodDeviceEntries"),
        };
        let mut held = Held::default();
        for entry in entries {
            let name = entry.get("ResourceName").and_then(Value::as_str);
            if name.context("an entry has no ResourceName")? != resource {
                continue;
            }
            let lists: Vec<&Value> = match entry.get("DeviceIDs") {
                // By memory node.
                Some(Value::Object(nodes)) => nodes.values().collect(),
                Some(list @ Value::Array(_)) => vec![list],
                Some(Value::Null) => Vec::new(),
                _ => bail!("an entry has no DeviceIDs"),
            };
            let mut slices: HashMap<Uuid, Slices> = HashMap::new();
            for id in lists.into_iter().filter_map(Value::as_array).flatten() {
                let id = id.as_str().context("DeviceIDs are not texts")?;
                // One of another cut, or of an older version of this agent, is no share of ours.
                if let Some((gpu, number)) = parse_device_id(id) {
                    slices.entry(gpu).or_default().add(number);
                }
            }
            for (gpu, slices) in slices {
                held.0.entry(gpu).or_default().push(slices);
            }
        }
        Ok(held)
    }

    /// Whether some container has exactly these.
    pub fn has(&self, gpu: Uuid, slices: Slices) -> bool {
        self.0.get(&gpu).is_some_and(|held| held.contains(&slices))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESOURCE: &str = "vcuda.dev/slice";

    fn slices(numbers: &[u32]) -> Slices {
        numbers.iter().copied().collect()
    }

    #[test]
    fn both_forms_of_the_record_are_read() {
        let gpu = Uuid::gpu([1; 16]);
        let newer = format!(
            r#"{{"Data":{{"PodDeviceEntries":[
                {{"PodUID":"a","ContainerName":"first","ResourceName":"{RESOURCE}","DeviceIDs":{{"0":["{gpu}::0"],"1":["{gpu}::5"]}},"AllocResp":"x"}},
                {{"PodUID":"a","ContainerName":"main","ResourceName":"{RESOURCE}","DeviceIDs":{{"-1":["{gpu}::0"]}},"AllocResp":"x"}},
                {{"PodUID":"b","ContainerName":"main","ResourceName":"nvidia.com/gpu","DeviceIDs":{{"-1":["{gpu}"]}},"AllocResp":""}}
               ],"RegisteredDevices":{{"{RESOURCE}":[]}}}},"Checksum":1}}"#
        );
        let held = Held::parse(&newer, RESOURCE).unwrap();
        assert!(held.has(gpu, slices(&[0, 5])) && held.has(gpu, slices(&[0])));
        assert!(!held.has(gpu, slices(&[5])) && !held.has(Uuid::gpu([2; 16]), slices(&[0])));
        let older = format!(
            r#"{{"Data":{{"PodDeviceEntries":[{{"PodUID":"a","ContainerName":"c","ResourceName":"{RESOURCE}",
                "DeviceIDs":["{gpu}::1","{gpu}::2"],"AllocResp":""}}],"RegisteredDevices":{{}}}},"Checksum":1}}"#
        );
        assert!(Held::parse(&older, RESOURCE).unwrap().has(gpu, slices(&[1, 2])));
        let none = r#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":null},"Checksum":1}"#;
        assert_eq!(Held::parse(none, RESOURCE).unwrap(), Held::default());
    }

    #[test]
    fn what_is_of_another_form_says_nothing() {
        for text in [
            "",
            "{",
            "{}",
            r#"{"Data":{}}"#,
            r#"{"Data":{"PodDeviceEntries":[{}]}}"#,
            r#"{"Data":{"PodDeviceEntries":[{"ResourceName":"vcuda.dev/slice"}]}}"#,
            r#"{"Data":{"PodDeviceEntries":[{"ResourceName":"vcuda.dev/slice","DeviceIDs":"x"}]}}"#,
            r#"{"Data":{"PodDeviceEntries":[{"ResourceName":"vcuda.dev/slice","DeviceIDs":[7]}]}}"#,
        ] {
            Held::parse(text, RESOURCE).expect_err(text);
        }
        assert_eq!(Held::read(Path::new("/nonexistent"), RESOURCE).unwrap(), None);
    }
}
