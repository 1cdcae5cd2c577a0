//! Limits as users write them: a machine made of variables and files, and what becomes of it. What the rooms below
//! share, none of the cases themselves.

mod amounts;
mod compute;
mod devices;
mod files;
mod hami;
mod properties;
mod shares;
mod sharing;
mod variables;

use super::*;
use crate::device::Uuid;
use std::collections::HashMap;

const GIB: u64 = 1 << 30;

/// A machine's variables and files, for [`Limits::load`].
#[derive(Default)]
struct World {
    variables: HashMap<String, String>,
    files: HashMap<PathBuf, Vec<u8>>,
}

impl World {
    fn variables(pairs: &[(&str, &str)]) -> World {
        let variables = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        World { variables, files: HashMap::new() }
    }

    fn file(mut self, path: &str, text: &str) -> World {
        self.files.insert(path.into(), text.as_bytes().to_vec());
        self
    }

    fn load(&self) -> Result<Limits, LimitsError> {
        let list = |directory: &Path| {
            let below = self.files.keys().filter(|path| path.parent() == Some(directory));
            let names: Vec<_> = below.filter_map(|path| Some(path.file_name()?.to_owned())).collect();
            Ok((!names.is_empty()).then_some(names))
        };
        let read = |path: &Path| Ok(self.files.get(path).cloned());
        Limits::load(&|name| self.variables.get(name).cloned(), &read, &list)
    }

    fn bytes(&self) -> Vec<Option<u64>> {
        bytes(&self.load().unwrap(), &gpus())
    }

    /// Parts per million of each GPU's time.
    fn shares(&self) -> Vec<Option<u32>> {
        let resolved = self.load().unwrap().resolve(&gpus()).unwrap();
        resolved.iter().map(|limits| limits.share.map(Share::ppm)).collect()
    }

    /// Of each GPU: whether it is elastic, its weight, whether its priority is high.
    fn sharing(&self) -> Vec<Option<(bool, u32, bool)>> {
        let resolved = self.load().unwrap().resolve(&gpus()).unwrap();
        let parts =
            |sharing: Sharing| (sharing.elastic, sharing.weight.get(), sharing.priority == Priority::High);
        resolved.iter().map(|limits| limits.sharing.map(parts)).collect()
    }

    fn mistake(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

fn gpus() -> Vec<Gpu> {
    let gpu = |index: u32, first: u8, gib: u64| {
        let mut uuid = [index as u8; 16];
        uuid[0] = first;
        Gpu { index, uuid: Uuid::gpu(uuid), physical_bytes: gib * GIB }
    };
    vec![gpu(0, 0xaa, 16), gpu(1, 0xab, 80), gpu(2, 0xcd, 144)]
}

fn uuid(index: usize) -> String {
    gpus()[index].uuid.to_string()
}

fn memory(text: &str) -> Limits {
    let overrides = Overrides { memory: Some(("--memory", text)), ..Overrides::default() };
    Limits::from_overrides(&overrides, &|_| None).unwrap()
}

fn bytes(limits: &Limits, gpus: &[Gpu]) -> Vec<Option<u64>> {
    limits.resolve(gpus).unwrap().iter().map(|limits| limits.memory_bytes).collect()
}

fn file_mistake(text: &str) -> String {
    World::default().file(SYSTEM_FILE, text).mistake()
}
