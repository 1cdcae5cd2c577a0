//! `vcuda share list`.

use super::Where;
use crate::size;
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;
use vcuda_core::share::Share as Cores;
use vcuda_shares::{Share, Users};

/// Arguments of `vcuda share list`.
#[derive(Args)]
pub struct List {
    /// Print JSON, with amounts in bytes and parts per million
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    places: Where,
}

impl List {
    /// Prints what there is.
    pub fn execute(&self) -> Result<ExitCode> {
        // Control files are written by whoever is in a container. Without it, we read all the same.
        let _ = vcuda_slices::truncation::survive();
        let store = self.places.store(Path::new(""))?;
        // Whoever may not do that is shown what there is.
        let _ = store.restore();
        let shares = store.list()?;
        if self.json {
            let all: Vec<Value> = shares.iter().map(as_json).collect();
            println!("{:#}", Value::from(all));
        } else {
            print!("{}", as_text(&shares));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn as_json(share: &Share) -> Value {
    let wanted = &share.wanted;
    let users = share.users();
    let mut value = json!({
        "name": share.name(),
        "cdi_device": share.cdi_id(),
        "gpu_uuid": wanted.gpu_uuid.to_string(),
        "idle_release_ms": wanted.idle_release.map(|span| span.as_millis() as u64),
        "labels": wanted.labels,
        "made_by": wanted.made_by,
        "control_file": share.control_file(),
        "limits_file": share.limits_file(),
        "cdi_file": share.cdi_file(),
        "programs": users.programs.len(),
        "containers": users.containers.len(),
    });
    match share.granted() {
        Ok((memory_bytes, cores)) => {
            value["memory_bytes"] = memory_bytes.into();
            value["cores_ppm"] = cores.map(Cores::ppm).into();
        }
        Err(error) => value["error"] = error.to_string().into(),
    }
    if let Ok(limits) = share.limits() {
        value["elastic"] = limits.elastic().first().is_some_and(|entry| entry.value).into();
        value["weight"] = limits.weights().first().map(|entry| entry.value.get()).into();
        value["priority"] = limits.priorities().first().map(|entry| entry.value.name()).into();
    }
    value
}

fn as_text(shares: &[Share]) -> String {
    if shares.is_empty() {
        return "There are no shares.\nMake one:  sudo vcuda share create half --gpu 0 --memory 12GiB --cores 50\n"
            .to_owned();
    }
    let longest = shares.iter().map(|share| share.name().len()).max().unwrap_or(0).max(4);
    let mut text = format!("{:longest$}  {:12}  {:>10}  {:>9}  USED BY\n", "NAME", "GPU", "MEMORY", "TIME");
    for share in shares {
        let gpu: String = share.wanted.gpu_uuid.to_string().chars().take(12).collect();
        let (memory, cores) = match share.granted() {
            Ok((memory, cores)) => (
                memory.map_or("no limit".to_owned(), size::text),
                cores.map_or("no limit".to_owned(), |cores| cores.to_string()),
            ),
            Err(_) => ("?".to_owned(), "?".to_owned()),
        };
        let users = users_text(&share.users()).unwrap_or_else(|| "nobody".to_owned());
        text.push_str(&format!("{:longest$}  {gpu:12}  {memory:>10}  {cores:>9}  {users}\n", share.name()));
    }
    text
}

/// `12.00 GiB and 50 % of the time`.
pub fn limits_text((memory_bytes, cores): (Option<u64>, Option<Cores>)) -> String {
    match (memory_bytes.map(size::text), cores) {
        (None, None) => "all".to_owned(),
        (Some(memory), None) => memory,
        (None, Some(cores)) => format!("{cores} of the time"),
        (Some(memory), Some(cores)) => format!("{memory} and {cores} of the time"),
    }
}

/// `1 container, 2 programs`; `None` for nobody.
pub fn users_text(users: &Users) -> Option<String> {
    let counted = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        _ => Some(format!("{count} {what}s")),
    };
    let both = [counted(users.containers.len(), "container"), counted(users.programs.len(), "program")];
    let text = both.into_iter().flatten().collect::<Vec<_>>().join(", ");
    (!text.is_empty()).then_some(text)
}
