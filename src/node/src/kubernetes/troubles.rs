//! What the cluster's people are told of GPUs in trouble: events of the node, each once.
//!
//! Owns what was told already. A GPU that is well again is told anew when it is not any more.

use std::collections::BTreeMap;

use super::inventory::Inventory;

/// What was told, by device; what is said of all of them under an empty name.
#[derive(Debug, Default)]
pub struct Troubles(BTreeMap<String, String>);

impl Troubles {
    /// What is to be told of `inventory`.
    pub fn news(&mut self, inventory: &Inventory) -> Vec<String> {
        let known: BTreeMap<String, String> = match &inventory.trouble {
            Some(trouble) => [(String::new(), format!("no GPU is given to pods: {trouble}"))].into(),
            None => inventory.gpus.iter().filter_map(one).collect(),
        };
        let is_new = |(device, trouble): &(&String, &String)| self.0.get(*device) != Some(*trouble);
        let news = known.iter().filter(is_new).map(|(_, trouble)| trouble.clone()).collect();
        self.0 = known;
        news
    }
}

fn one(gpu: &super::inventory::Gpu) -> Option<(String, String)> {
    let trouble = gpu.trouble.as_ref()?;
    Some((gpu.device_name(), format!("{} is not given to pods: {trouble}", gpu.uuid)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::example;

    #[test]
    fn each_trouble_is_told_once_until_it_was_over() {
        let mut troubles = Troubles::default();
        let well = example::inventory();
        let mut ill = well.clone();
        ill.gpus[1].trouble = Some("XID 79".to_owned());
        assert!(troubles.news(&well).is_empty());
        let told = ["GPU-02020202-0202-0202-0202-020202020202 is not given to pods: XID 79"];
        assert_eq!(troubles.news(&ill), told);
        assert!(troubles.news(&ill).is_empty());
        assert!(troubles.news(&well).is_empty());
        assert_eq!(troubles.news(&ill), told);
        let all = Inventory { trouble: Some("no library".to_owned()), ..ill.clone() };
        assert_eq!(troubles.news(&all), ["no GPU is given to pods: no library"]);
    }
}
